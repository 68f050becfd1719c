"""The trainable parts of the agent, one object each: inputs, losses, optimizer and pieces.

Precision follows one rule. Differentiated passes run in the configured precision. The rest (tokens and
reconstructions of the cache, acting, rollouts) runs in float32, or in TF32 if a GPU is set to it. The exception is
the CUDA-graph engine: with bf16 and fp16 its world model and decoder run in bfloat16.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from iris_fast.agent import Agent
from iris_fast.config.schema import ActorCriticPartConfig, Config, PartConfig
from iris_fast.imagination.engine import ImaginationEngine, ImaginationStart, Rollout
from iris_fast.kernels import lambda_returns
from iris_fast.models.actor_critic import ActorCritic
from iris_fast.models.perceptual import WholeBatch
from iris_fast.models.versioned import Versioned
from iris_fast.randomness import derive_seed, numpy_generator
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore, Segments, on_device

from .device import autocast, cast_once
from .distributed import ALONE, Group
from .measures import (
    Sums,
    Totals,
    actor_critic_metrics,
    add_sums,
    measure_imagined,
    measure_moving,
    measure_predictions,
    measure_tokens,
    tokenizer_metrics,
    world_model_metrics,
)

Losses = dict[str, Tensor]
Inputs = TypeVar("Inputs")
BACKGROUND_FRAMES = 256  # their median is the tokenizer's optional background


class Part(ABC, Generic[Inputs]):
    """One part of the agent, with everything a trainer needs.

    `inputs` gathers a batch on the host and the device, in the form of `GraphedCall`. `losses` depends on that batch
    alone and reads no number back to the host, so it can be captured. Where several processes train, both are of this
    process's rows, and the mean of the losses over processes is the loss of the batch.
    """

    name: str  # the agent's attribute, and `training.NAME` in the configuration

    def __init__(
        self, module: Versioned, config: PartConfig, precision: str, pieces: int = 1, group: Group = ALONE
    ):
        """`pieces`: number of equal pieces of a batch; `precision`: of the differentiated passes."""
        self.module = module
        self.group = group
        self.config = config
        self.precision = precision
        self.pieces = pieces

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that gradient steps change."""
        return self.module.trained_parameters()

    def optimizer(self, captured: bool) -> torch.optim.Optimizer:
        """A new optimizer of the parameters; `captured`: whether a CUDA graph may capture its step."""
        return adam(self.parameters, self.config.learning_rate or 0.0, captured)

    @abstractmethod
    def inputs(self, seed: int, batch: int | None = None) -> Inputs:
        """A batch drawn from `seed`: this process's rows of the configured number, or all rows of `batch` samples."""

    def training_inputs(self, seed: int, epoch: int, step: int) -> Inputs:
        """`inputs` for a step of the run; it may change the part before the gradient is computed."""
        return self.inputs(seed)

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph may capture the losses and their gradient."""
        return True

    def _segments(
        self, store: EpisodeStore, seed: int, batch: int | None, length: int, from_start: bool
    ) -> tuple[Segments, Segments]:
        """The segments of a batch, and those of this process's rows, which are rows of every piece."""
        count = self.config.batch_num_samples if batch is None else batch
        whole = store.sample(numpy_generator(seed, "segments"), count, length, from_start=from_start)
        if batch is not None or self.group.size == 1:
            return whole, whole
        rows = np.arange(count).reshape(self.pieces, -1)
        own = rows[:, self.group.rows(rows.shape[1])].reshape(-1)
        return whole, Segments(whole.slots[own], whole.mask[own])

    def losses(self, inputs: Inputs, sums: Sums | None = None) -> Iterator[Losses]:
        """The losses of a batch, piece by piece, so that each piece reuses the memory of the last.

        What the batch says besides is added to `sums`, if they are given.
        """
        device = self.parameters[0].device
        with cast_once(self.precision, device):
            for piece in self._split(inputs):
                with autocast(self.precision, device):
                    losses = self._losses(piece, sums)
                yield losses

    def _split(self, inputs: Inputs) -> list[Inputs]:
        return [inputs]

    @abstractmethod
    def _losses(self, piece: Inputs, sums: Sums | None) -> Losses:
        """The losses; their sum is minimised."""

    def metrics(self, totals: Totals, prefix: str) -> dict[str, float]:
        """The metrics of the sums of `losses` over an epoch's batches, under `prefix`."""
        return {f"{prefix}/{name}": value for name, value in self._metrics(totals).items()} if totals else {}

    def _metrics(self, totals: Totals) -> dict[str, float]:
        return {}


class TokenizerPart(Part[dict[str, Tensor]]):
    """Single frames `(batch, 3, size, size)` in [0, 1], and by how much they differ from the frames before them.

    With `foreground` or `objects` and several processes, also each piece's `backgrounds` `(pieces, 3, size, size)`;
    these losses then have a collective of their own, because their weights add up to one over the whole piece.
    """

    name = "tokenizer"

    def __init__(
        self,
        agent: Agent,
        config: Config,
        cache: FrameCache,
        precision: str | None = None,
        group: Group = ALONE,
    ):
        part = config.training.tokenizer
        super().__init__(agent.tokenizer, part, precision or config.common.precision, part.pieces or 1, group)
        self.tokenizer = agent.tokenizer
        self.store = cache.store
        self.last_restarting_epoch = config.training.world_model.start_after_epochs

    def inputs(self, seed: int, batch: int | None = None) -> dict[str, Tensor]:
        whole, own = self._segments(self.store, seed, batch, 1, from_start=True)
        frames, change = self.store.gather_with_change(own.slots[:, 0])
        inputs = {"frames": frames, "change": change}
        if own is not whole and not self.capturable:
            frames = self.store.gather_frames(whole.slots[:, 0])
            inputs["backgrounds"] = frames.unflatten(0, (self.pieces, -1)).median(dim=1).values * 2 - 1
        return inputs

    @property
    def capturable(self) -> bool:
        """Not with a collective within the losses."""
        return self.group.size == 1 or self.tokenizer.config.perceptual not in ("foreground", "objects")

    def training_inputs(self, seed: int, epoch: int, step: int) -> dict[str, Tensor]:
        """A batch; sets the background at the first one, and restarts unused codes on schedule.

        Codes are not restarted once the world model trains: it would have to relearn their meaning.
        """
        inputs, config = self.inputs(seed), self.tokenizer.config
        if config.background and not self.tokenizer.has_background:
            self.tokenizer.set_background(self.inputs(seed, BACKGROUND_FRAMES)["frames"])
        every = config.restart_codes_every
        if every and epoch <= self.last_restarting_epoch and step % every == 0:
            # Each process looks at all frames of the batch: to gather their latents would take longer.
            whole = inputs if self.group.size == 1 else self.inputs(seed, self.config.batch_num_samples)
            self.tokenizer.restart_unused_codes(whole["frames"])
        return inputs

    def _split(self, inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        by_piece = (inputs[name].chunk(self.pieces) for name in ("frames", "change"))
        pieces = [{"frames": frames, "change": change} for frames, change in zip(*by_piece, strict=True)]
        for piece, background in zip(pieces, inputs.get("backgrounds", ()), strict=False):
            piece["background"] = background
        return pieces

    def _losses(self, piece: dict[str, Tensor], sums: Sums | None) -> Losses:
        background = piece.get("background")
        whole = None if background is None else WholeBatch(background, self.group.mean)
        found = self.tokenizer.reconstruction(piece["frames"])
        if sums is not None:
            add_sums(sums, measure_tokens(found.encoding.tokens, self.tokenizer.config.vocab_size))
            add_sums(sums, measure_moving(found.error, piece["change"]))
        return self.tokenizer.losses_of(found, whole)

    def _metrics(self, totals: Totals) -> dict[str, float]:
        return tokenizer_metrics(totals)


class WorldModelPart(Part[dict[str, Tensor]]):
    """Segments of `common.sequence_length` frames, from start: the arguments of `WorldModel.losses`."""

    name = "world_model"

    def __init__(
        self,
        agent: Agent,
        config: Config,
        cache: FrameCache,
        precision: str | None = None,
        group: Group = ALONE,
    ):
        part = config.training.world_model
        super().__init__(agent.world_model, part, precision or config.common.precision, group=group)
        self.world_model = agent.world_model
        self.cache = cache
        self.length = config.common.sequence_length or 1
        self.weight_decay = part.weight_decay

    def optimizer(self, captured: bool) -> torch.optim.Optimizer:
        """AdamW with weight decay on the weights of Linear layers only."""
        return adamw(self.module, self.config.learning_rate or 0.0, self.weight_decay, captured)

    def inputs(self, seed: int, batch: int | None = None) -> dict[str, Tensor]:
        whole, own = self._segments(self.cache.store, seed, batch, self.length, from_start=True)
        data = self.cache.store.batch(own)
        inputs = {
            "tokens": self.cache.tokens(own.slots),
            "actions": data.actions,
            "rewards": data.rewards,
            "ends": data.ends,
            "mask_padding": data.mask_padding,
        }
        if own is not whole:  # segments of this process may hold more or fewer steps than those of another
            steps = whole.mask.sum()
            tokens = (
                steps * self.world_model.frame_tokens - whole.mask[:, 0].sum()
            )  # without each first token
            counts = np.array([tokens, steps], np.float32) / self.group.size
            inputs["counts"] = on_device(counts, self.cache.store.model_device)
        return inputs

    def _losses(self, piece: dict[str, Tensor], sums: Sums | None) -> Losses:
        piece = dict(piece)
        counts = piece.pop("counts", None)
        predictions = self.world_model.predictions(**piece)
        if sums is not None:
            add_sums(sums, measure_predictions(predictions, self.world_model.frame_tokens))
        return self.world_model.losses_of(predictions, counts)

    def _metrics(self, totals: Totals) -> dict[str, float]:
        return world_model_metrics(totals)


class ActorCriticPart(Part[Rollout]):
    """Trajectories of `imagine_horizon` steps, imagined with every model in evaluation mode."""

    name = "actor_critic"

    def __init__(
        self,
        agent: Agent,
        config: Config,
        cache: FrameCache,
        engine: ImaginationEngine,
        precision: str | None = None,
        group: Group = ALONE,
    ):
        part = config.training.actor_critic
        super().__init__(agent.actor_critic, part, precision or config.common.precision, group=group)
        self.agent = agent
        self.cache = cache
        self.engine = engine
        self.own = part
        agent.actor_critic.sequence_in_one_call = config.common.cudnn != "none"

    def start(self, seed: int, batch: int | None = None) -> ImaginationStart:
        """The start of a batch of trajectories; the rows here address their draws as in the whole batch."""
        whole, own = self._segments(self.cache.store, seed, batch, self.own.burn_in + 1, from_start=False)
        first_row = 0 if own is whole else self.group.rank * len(own.slots)
        return start_at(self.cache, own, first_row)

    def inputs(self, seed: int, batch: int | None = None) -> Rollout:
        self.agent.eval()
        horizon = self.own.imagine_horizon
        assert horizon is not None  # filled by resolve()
        return self.engine.imagine(self.start(seed, batch), horizon, derive_seed(seed, "imagination"))

    def _losses(self, piece: Rollout, sums: Sums | None) -> Losses:
        return actor_critic_losses(self.agent.actor_critic, piece, self.own, sums)

    def _metrics(self, totals: Totals) -> dict[str, float]:
        return actor_critic_metrics(totals, self.agent.num_actions)


def make_parts(
    agent: Agent,
    config: Config,
    cache: FrameCache,
    engine: ImaginationEngine,
    precision: str | None = None,
    group: Group = ALONE,
) -> dict[str, Part[Any]]:
    """The three parts of a resolved `config` on the data of `cache`; `precision` overrides the configured one."""
    return {
        "tokenizer": TokenizerPart(agent, config, cache, precision, group),
        "world_model": WorldModelPart(agent, config, cache, precision, group),
        "actor_critic": ActorCriticPart(agent, config, cache, engine, precision, group),
    }


def imagination_start(cache: FrameCache, batch: int, burn_in: int, seed: int) -> ImaginationStart:
    """`batch` segments of `burn_in` + 1 frames, to end: all but the last frame burn in, and the rollout starts at the
    last."""
    generator = numpy_generator(seed, "segments")
    return start_at(cache, cache.store.sample(generator, batch, burn_in + 1, from_start=False))


def start_at(cache: FrameCache, segments: Segments, first_row: int = 0) -> ImaginationStart:
    """The start of a rollout at the end of each segment; `first_row`: as in `ImaginationStart`."""
    mask = cache.store.batch(segments).mask_padding
    first_tokens = cache.tokens(segments.slots[:, -1])
    seen = cache.reconstructions(segments.slots[:, :-1])
    return ImaginationStart(seen, mask[:, :-1], first_tokens, first_row)


def actor_critic_losses(
    actor_critic: ActorCritic,
    rollout: Rollout,
    config: ActorCriticPartConfig = ActorCriticPartConfig(),  # noqa: B008
    sums: Sums | None = None,
) -> Losses:
    """Policy, value and entropy losses (docs/iris.md, part 6); their sum is minimised. The last step has no term.

    One batched pass recomputes the policy on the rollout's frames with a gradient: convolutions over all
    frames at once, the LSTM over the sequence. The gradient equals that of the step-by-step loop.
    """
    output = actor_critic(rollout.observations, rollout.start_state)
    values = output.values
    returns = lambda_returns(rollout.rewards, values.detach(), rollout.ends, config.gamma, config.lambda_)[
        :, :-1
    ]
    log_probabilities = output.logits_actions[:, :-1].log_softmax(dim=2)
    of_actions = log_probabilities.gather(2, rollout.actions[:, :-1, None]).squeeze(2)
    values = values[:, :-1]
    entropies = -(log_probabilities.exp() * log_probabilities).sum(dim=2)
    if sums is not None:
        add_sums(sums, measure_imagined(rollout.rewards, rollout.ends, returns, values, entropies))
    return {
        "loss_actions": -(of_actions * (returns - values.detach())).mean(),
        "loss_values": (values - returns).square().mean(),
        "loss_entropy": -config.entropy_weight * entropies.mean(),
    }


def weight_decay_groups(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters with weight decay (weights of Linear layers only) and those without."""
    decayed: list[nn.Parameter] = [m.weight for m in module.modules() if isinstance(m, nn.Linear)]  # type: ignore[misc]
    identities = {id(parameter) for parameter in decayed}
    return decayed, [p for p in module.parameters() if id(p) not in identities]


def adam(
    parameters: list[nn.Parameter], learning_rate: float, captured: bool = True
) -> torch.optim.Optimizer:
    """Adam; `captured`: whether a CUDA graph may capture its step; if so, it counts its steps on the GPU."""
    capturable = captured and parameters[0].is_cuda
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True, capturable=capturable)


def adamw(
    module: nn.Module, learning_rate: float, weight_decay: float, captured: bool = True
) -> torch.optim.Optimizer:
    """AdamW with weight decay on the weights of Linear layers only; `captured` as in `adam`."""
    decayed, others = weight_decay_groups(module)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    capturable = captured and decayed[0].is_cuda
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True, capturable=capturable)
