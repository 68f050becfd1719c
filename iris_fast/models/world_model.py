"""The world model: a Transformer over 16 frame tokens and one action token a step (docs/iris.md, part 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transformer import KVCache, Transformer, TransformerConfig
from .versioned import Versioned

REWARD_CLASSES = 3  # sign of the reward: -1, 0, +1
END_CLASSES = 2
IGNORED = -100  # the label that cross-entropy ignores


@dataclass
class WorldModelOutput:
    """Logits of a whole segment, `(batch, time, …)`; observations `(batch, time * 16, vocab_size)`."""

    features: Tensor
    logits_observations: Tensor
    logits_rewards: Tensor
    logits_ends: Tensor


class Prediction(NamedTuple):
    """Log-probabilities `(rows, classes)` of a batch of segments, and the labels `(rows,)`, IGNORED where padded.

    `segments`: their number, each of equally many rows in order.
    """

    log_probabilities: Tensor
    labels: Tensor
    segments: int

    def loss(self, count: Tensor | None = None) -> Tensor:
        """The mean cross-entropy of the labels; with `count`, their sum divided by it."""
        log_probabilities, labels, _ = self
        if count is None:
            return F.nll_loss(log_probabilities, labels, ignore_index=IGNORED)
        return F.nll_loss(log_probabilities, labels, ignore_index=IGNORED, reduction="sum") / count


class Embedder(nn.Module):
    """Separate tables: 0 for actions, 1 for frame tokens (the order of published checkpoints)."""

    def __init__(self, vocab_size: int, num_actions: int, embed_dim: int):
        super().__init__()
        self.embedding_tables = nn.ModuleList(
            [nn.Embedding(num_actions, embed_dim), nn.Embedding(vocab_size, embed_dim)]
        )

    @property
    def num_actions(self) -> int:
        return len(self.embedding_tables[0].weight)  # type: ignore[arg-type]

    def actions(self, actions: Tensor) -> Tensor:
        return self.embedding_tables[0](actions)

    def tokens(self, tokens: Tensor) -> Tensor:
        return self.embedding_tables[1](tokens)


class Head(nn.Module):
    """Linear, ReLU, Linear."""

    def __init__(self, embed_dim: int, classes: int):
        super().__init__()
        self.head_module = nn.Sequential(
            nn.Linear(embed_dim, embed_dim), nn.ReLU(), nn.Linear(embed_dim, classes)
        )

    def forward(self, features: Tensor) -> Tensor:
        return self.head_module(features).float()


class WorldModel(Versioned):
    """Predicts next frame tokens, reward class and end of a sequence of (frame tokens, action) blocks."""

    def __init__(self, config: TransformerConfig, vocab_size: int, num_actions: int):
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.pos_emb = nn.Embedding(config.max_tokens, config.embed_dim)
        self.embedder = Embedder(vocab_size, num_actions, config.embed_dim)
        self.head_observations = Head(config.embed_dim, vocab_size)
        self.head_rewards = Head(config.embed_dim, REWARD_CLASSES)
        self.head_ends = Head(config.embed_dim, END_CLASSES)
        self.apply(initialise)

    @property
    def num_actions(self) -> int:
        return self.embedder.num_actions

    @property
    def frame_tokens(self) -> int:
        """Tokens of one frame: a block less its action token."""
        return self.config.tokens_per_block - 1

    def new_cache(self, batch: int) -> KVCache:
        """An empty cache for `batch` sequences, in the dtype and on the device of the weights."""
        weight = self.pos_emb.weight
        return KVCache(self.config, batch, weight.device, weight.dtype)

    def step(self, embeddings: Tensor, cache: KVCache) -> Tensor:
        """Features `(batch, new, embed_dim)` of new tokens' embeddings (without position); extends the cache."""
        position = self.pos_emb.weight[cache.length : cache.length + embeddings.shape[1]]
        return self.transformer(embeddings + position, cache)

    def forward(self, tokens: Tensor, actions: Tensor) -> WorldModelOutput:
        """All predictions for `tokens` `(batch, time, 16)` and `actions` `(batch, time)`, time <= max_blocks."""
        time = tokens.shape[1]
        embedded = torch.cat(
            [self.embedder.tokens(tokens), self.embedder.actions(actions).unsqueeze(2)], dim=2
        ).flatten(1, 2)  # (batch, time * 17, embed_dim)
        features = self.transformer(embedded + self.pos_emb.weight[: time * self.config.tokens_per_block])
        blocks = features.unflatten(1, (time, self.config.tokens_per_block))
        at_action = blocks[:, :, -1]
        # The last frame token predicts nothing: the action follows it, and the policy chooses that.
        predicting = torch.cat([blocks[:, :, :-2], at_action.unsqueeze(2)], dim=2)
        return WorldModelOutput(
            features,
            self.head_observations(predicting.flatten(1, 2)),
            self.head_rewards(at_action),
            self.head_ends(at_action),
        )

    def predictions(
        self, tokens: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor, mask_padding: Tensor
    ) -> dict[str, Prediction]:
        """What is predicted of a batch of segments, and what came: `obs`, `rewards` and `ends`.

        `tokens` `(batch, time, 16)` int64; `actions`, `rewards`, `ends`, `mask_padding` `(batch, time)`. Rows of
        `obs` begin with the second token of each segment: the first is not predicted.
        """
        output = self(tokens, actions)
        padded = ~mask_padding
        # Prediction i is of flat frame token i + 1; the prediction at the last action has no target.
        token_labels = tokens.masked_fill(padded.unsqueeze(2), IGNORED).flatten(1)[:, 1:]
        reward_labels = (rewards.sign() + 1).long().masked_fill(padded, IGNORED)
        end_labels = ends.long().masked_fill(padded, IGNORED)
        return {
            "obs": _prediction(output.logits_observations[:, :-1], token_labels),
            "rewards": _prediction(output.logits_rewards, reward_labels),
            "ends": _prediction(output.logits_ends, end_labels),
        }

    def losses(
        self,
        tokens: Tensor,
        actions: Tensor,
        rewards: Tensor,
        ends: Tensor,
        mask_padding: Tensor,
        counts: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The three cross-entropies of a batch of segments, padded steps ignored; their sum is minimised.

        The arguments of `predictions`, and `counts` as in `losses_of`.
        """
        return self.losses_of(self.predictions(tokens, actions, rewards, ends, mask_padding), counts)

    @staticmethod
    def losses_of(predictions: dict[str, Prediction], counts: Tensor | None = None) -> dict[str, Tensor]:
        """The losses of `predictions`.

        `counts` `(2,)` float32: what to divide the sums over predicted tokens, and over steps, by, instead of their
        numbers.
        """
        of_tokens, of_steps = (None, None) if counts is None else counts.unbind()
        return {
            f"loss_{name}": prediction.loss(of_tokens if name == "obs" else of_steps)
            for name, prediction in predictions.items()
        }


def _prediction(logits: Tensor, labels: Tensor) -> Prediction:
    return Prediction(logits.flatten(0, 1).log_softmax(dim=1), labels.flatten(), len(labels))


def initialise(module: nn.Module) -> None:
    """Linear and Embedding weights N(0, 0.02^2), biases 0, LayerNorm 1 and 0."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, mean=0.0, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
