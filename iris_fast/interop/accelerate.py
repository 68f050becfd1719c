"""Our operations inside an agent of the public implementation: `accelerate(agent)`.

The agent keeps its parameters, optimizers, checkpoints and methods. Three things are replaced: the tokenizer's lookup
(by `vq_lookup`), attention with and without a key-value cache (by `cached_attention` and PyTorch's fused attention),
and imagination (by the fastest engine on the agent's device: C++ on a CPU, CUDA graphs on a GPU). The engine follows
the parameters as they are trained. The modules get classes derived from their own, so copies and pickles of the agent
or of one part are accelerated too, each with its own weights.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_fast.agent import PARTS
from iris_fast.errors import UserError
from iris_fast.imagination.engine import EngineName
from iris_fast.kernels import cached_attention, vq_lookup
from iris_fast.models.frames import check_frames
from iris_fast.models.transformer import TransformerConfig, attention_mask

from .following_engine import FollowingEngine, sharing_agent


def accelerate(agent: Any, engine: EngineName = "auto", precision: str = "float32") -> Any:
    """Makes an agent of the public implementation (its `Agent`) use our operations; returns it.

    Results stay the same up to float32 rounding. Samples come from our generator, seeded from PyTorch's default one:
    the distributions are the same, the draws are different. Afterwards the agent may be trained, loaded, moved to
    another device, copied and pickled, and its parameters and parts may be replaced: each imagination first compares
    all weights, and a copy imagines with its own. Imagination uses no dropout, and only one thread at a time may run
    it. A second call sets `engine` and `precision` again and accelerates replaced parts.

    `engine`: "cpu", the C++ engine; "cuda_graph", which records a graph for each batch size and horizon; "oracle",
    plain PyTorch; or "auto", the fastest on the agent's device. `precision`: that of the CUDA-graph engine, as in
    `common.precision`; values other than "float32" round.

    Raises UserError if `agent` is not an agent of the public implementation, has unsupported sizes, or if its device
    or this installation does not support `engine` or `precision`.
    """
    missing = [part for part in PARTS if not isinstance(getattr(agent, part, None), nn.Module)]
    if missing:
        raise UserError(f"accelerate takes an agent of the public implementation; this has no {missing[0]}")
    parts = {part: getattr(agent, part) for part in PARTS}
    following = FollowingEngine(sharing_agent(parts), parts, engine, precision)
    config = following.agent.config.world_model
    transformer = agent.world_model.transformer
    _become(agent.tokenizer, _Tokenizer)
    _become(transformer, _Transformer)._transformer_config = config
    for block in transformer.blocks:
        _become(block.attn, _Attention)._transformer_config = config
    actor_critic = _become(agent.actor_critic, _ActorCritic)
    actor_critic._engine_choice = (engine, precision)
    actor_critic._following = following
    return agent


class _Accelerated(nn.Module):
    """Mixin for a class of the public implementation; copied and pickled as the two classes and the state."""

    _mixed: ClassVar[tuple[Any, Any]]  # the derived class of each pair of mixin and class
    _not_copied: ClassVar[tuple[str, ...]] = ()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = {name: value for name, value in self.__dict__.items() if name not in self._not_copied}
        return _blank, self._mixed, state


@cache
def _mixture(mixin: Any, base: Any) -> Any:
    names = {"__module__": base.__module__, "__doc__": base.__doc__, "_mixed": (mixin, base)}
    return type(base.__name__, (mixin, base), names)


def _blank(mixin: Any, base: Any) -> Any:
    """An empty module, for copies and pickles to fill."""
    mixture = _mixture(mixin, base)
    return mixture.__new__(mixture)


def _become(module: Any, mixin: Any) -> Any:
    """Gives the object the methods of `mixin`, ahead of its own."""
    if not isinstance(module, mixin):
        base: Any = type(module)
        module.__class__ = _mixture(mixin, base)
    return module


def _output_type(module: nn.Module, name: str) -> Any:
    """The output class that the module's file defines and its callers expect."""
    return getattr(sys.modules[type(module).__module__], name)


class _Tokenizer(_Accelerated):
    """`encode`, with `vq_lookup` for the nearest codewords."""

    def encode(self: Any, x: Tensor, should_preprocess: bool = False) -> Any:
        frames = self.preprocess_input(x) if should_preprocess else x
        leading = frames.shape[:-3]
        z = self.pre_quant_conv(self.encoder(frames.reshape(-1, *frames.shape[-3:])))
        vectors = z.permute(0, 2, 3, 1)
        codebook = self.embedding.weight
        tokens = vq_lookup(vectors.detach().float(), codebook.detach().float()).indices
        quantized = self.embedding(tokens).permute(0, 3, 1, 2)
        return _output_type(self, "TokenizerEncoderOutput")(
            z.reshape(*leading, *z.shape[1:]),
            quantized.reshape(*leading, *quantized.shape[1:]),
            tokens.reshape(*leading, -1),
        )


class StaticKVCache:
    """Keys and values of one layer for `cached_attention`, with the methods of the public implementation's cache."""

    def __init__(self, batch: int, heads: int, max_tokens: int, head_dim: int, like: Tensor):
        self.keys, self.values = like.new_zeros(2, batch, heads, max_tokens, head_dim).unbind()
        self.lengths = torch.zeros(batch, dtype=torch.int32, device=like.device)
        self.length = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(batch, heads, tokens held, head_dim)`."""
        batch, heads, _, head_dim = self.keys.shape
        return batch, heads, self.length, head_dim

    def reset(self) -> None:
        """Forgets all tokens."""
        self.length = 0
        self.lengths.zero_()

    def prune(self, mask: np.ndarray) -> None:
        """Keeps the sequences where `mask` `(batch,)` is True."""
        kept = torch.from_numpy(np.asarray(mask, dtype=bool)).to(self.keys.device)
        self.keys, self.values = self.keys[kept], self.values[kept]
        self.lengths = self.lengths[kept]

    def get(self) -> tuple[Tensor, Tensor]:
        """The stored keys and values, each `(batch, heads, tokens, head_dim)`."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def update(self, k: Tensor, v: Tensor) -> None:
        """Appends keys and values `(batch, heads, new, head_dim)`; no gradient flows through stored ones."""
        stop = self._room_for(k.shape[2])
        self.keys[:, :, self.length : stop] = k.detach()
        self.values[:, :, self.length : stop] = v.detach()
        self._advance(k.shape[2])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, config: TransformerConfig) -> Tensor:
        """Appends `key` and `value`, then attends with `query` to all stored ones; all `(batch, heads, new,
        head_dim)`."""
        self._room_for(key.shape[2])
        attended = cached_attention(
            query,
            key,
            value,
            self.keys,
            self.values,
            self.lengths,
            causal=config.attention,
            tokens_per_block=config.tokens_per_block,
        )
        self._advance(key.shape[2])
        return attended

    def _room_for(self, new: int) -> int:
        if self.length + new > self.keys.shape[2]:
            raise ValueError(
                f"the cache holds {self.keys.shape[2]} tokens; {self.length + new} were asked of it"
            )
        return self.length + new

    def _advance(self, new: int) -> None:
        self.length += new
        self.lengths += new


class StaticKeysValues:
    """The caches of all layers, with the methods of the public implementation's collection of them."""

    def __init__(self, layers: list[StaticKVCache]):
        self.layers = layers

    def __getitem__(self, layer: int) -> StaticKVCache:
        return self.layers[layer]

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def size(self) -> int:
        """Tokens held."""
        return self.layers[0].length

    def reset(self) -> None:
        for layer in self.layers:
            layer.reset()

    def prune(self, mask: np.ndarray) -> None:
        for layer in self.layers:
            layer.prune(mask)


class _Transformer(_Accelerated):
    """Makes our caches."""

    _transformer_config: TransformerConfig

    def generate_empty_keys_values(self: Any, n: int, max_tokens: int) -> StaticKeysValues:
        like, config = self.ln_f.weight.detach(), self._transformer_config
        width, heads = config.embed_dim, config.num_heads
        return StaticKeysValues(
            [StaticKVCache(n, heads, max_tokens, width // heads, like) for _ in range(len(self.blocks))]
        )


class _Attention(_Accelerated):
    """Attention of a block, over our cache or over a whole sequence."""

    _transformer_config: TransformerConfig

    def forward(self: Any, x: Tensor, kv_cache: Any = None) -> Tensor:
        if kv_cache is not None and (torch.is_grad_enabled() or not isinstance(kv_cache, StaticKVCache)):
            # A cache made before `accelerate`, or a pass with gradients.
            return cast(Tensor, super().forward(x, kv_cache))
        config = self._transformer_config
        query, key, value = (
            linear(x).unflatten(2, (config.num_heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )  # each (batch, heads, time, head_dim)
        if kv_cache is not None:
            attended = kv_cache.attend(query, key, value, config)
        else:
            attended = _attend_whole(query, key, value, config, self.attn_drop)
        return cast(Tensor, self.resid_drop(self.proj(attended.transpose(1, 2).flatten(2))))


def _attend_whole(query: Tensor, key: Tensor, value: Tensor, config: TransformerConfig, drop: Any) -> Tensor:
    time = query.shape[2]
    causal = config.attention == "causal"
    mask = None if causal else attention_mask(config, query.device)[:time, :time]
    dropout = drop.p if drop.training else 0.0
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal
    )


class _ActorCritic(_Accelerated):
    """`imagine` as one of our rollouts, then one pass that adds the gradient."""

    _not_copied = (
        "_following",
    )  # it belongs to this object's weights; a copy makes a new one when it first imagines
    _engine_choice: tuple[EngineName, str]
    _following: FollowingEngine | None

    def imagine(
        self: Any,
        batch: dict[str, Tensor],
        tokenizer: Any,
        world_model: Any,
        horizon: int,
        show_pbar: bool = False,
    ) -> Any:
        """As in the public implementation; UserError where that one fails an assertion."""
        if getattr(self, "use_original_obs", False):
            raise UserError(
                "imagination has only reconstructed frames: build the agent with use_original_obs=False"
            )
        frames, mask = batch["observations"], batch["mask_padding"]
        _require_segments(frames, mask)
        check_frames(frames, uint8=False)
        parts = dict(zip(PARTS, (tokenizer, world_model, self), strict=True))
        following = getattr(self, "_following", None)
        if following is None or not following.is_of(parts):
            following = FollowingEngine(sharing_agent(parts), parts, *self._engine_choice)
            self._following = following
        start = following.start(frames, mask)
        rollout = following.imagine(start, horizon, seed=int(torch.randint(2**63 - 1, ())))
        output = following.agent.actor_critic(rollout.observations, rollout.start_state)
        self.clear()
        return _output_type(self, "ImagineOutput")(
            observations=(rollout.observations * 255).to(torch.uint8),
            actions=rollout.actions,
            logits_actions=output.logits_actions,
            values=output.values,
            rewards=rollout.rewards,
            ends=rollout.ends,
        )


def _require_segments(frames: Tensor, mask: Tensor) -> None:
    if frames.dim() != 5 or mask.shape != frames.shape[:2] or mask.dtype != torch.bool:
        raise UserError(
            "imagination takes observations (batch, time, 3, 64, 64) and a bool mask_padding (batch, time), not "
            f"{tuple(frames.shape)} and {mask.dtype} {tuple(mask.shape)}"
        )
    if not bool(mask[:, -1].all()):
        rows = torch.nonzero(~mask[:, -1]).flatten().tolist()
        raise UserError(
            f"mask_padding ends padded in rows {rows}: imagination starts at the last frame, so pad at the left"
        )
