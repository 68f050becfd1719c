"""Our operations inside an agent of the public implementation: `accelerate(agent)`.

The agent stays what it was, with its own parameters, optimizers, checkpoints and methods. Replaced are, on this
one object, the tokenizer's lookup (`vq_lookup`), attention with and without a key-value cache (`cached_attention`
and PyTorch's fused attention) and imagination: by the engine that is fastest on the agent's device, the C++ one on a
CPU and CUDA graphs on a GPU, which follows the parameters as they are trained.
"""

from __future__ import annotations

import sys
from types import MethodType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_fast.agent import PARTS, Agent, AgentConfig
from iris_fast.errors import UserError
from iris_fast.imagination.engine import EngineName
from iris_fast.kernels import cached_attention, vq_lookup
from iris_fast.models.transformer import TransformerConfig, attention_mask

from .following_engine import FollowingEngine
from .public import infer_config


def accelerate(agent: Any, engine: EngineName = "auto", precision: str = "float32") -> Any:
    """Makes an agent of the public implementation (its `Agent`) use our operations; returns it.

    Its results stay the same up to float32 rounding; samples are drawn by our generator, seeded from PyTorch's
    default one, so that they are others from the same distributions. It may be trained, loaded and moved to another
    device afterwards. Calling it again changes nothing.

    `engine` imagines: "auto" for the fastest that the agent's device has ("cpu", the C++ one; "cuda_graph", which
    records a graph for each batch size and horizon), or one of these, or "oracle", plain PyTorch. `precision`: of the
    CUDA-graph engine, as `common.precision`; one that is not "float32" rounds what is imagined.

    Raises UserError when `agent` is no agent of the public implementation, or is of sizes that we do not know, and
    where its device or this installation does not have `engine`.
    """
    if getattr(agent, "_accelerated", False):
        return agent
    missing = [part for part in PARTS if not isinstance(getattr(agent, part, None), nn.Module)]
    if missing:
        raise UserError(f"accelerate takes an agent of the public implementation; this has no {missing[0]}")
    ours = _sharing_parameters(agent)
    following = FollowingEngine(ours, engine, precision)
    _replace_lookup(agent.tokenizer)
    _replace_attention(agent.world_model.transformer, ours.config.world_model)
    _replace_imagination(agent, following)
    agent._accelerated = True
    return agent


def _sharing_parameters(agent: Any) -> Agent:
    """An agent of ours whose parameters are the very objects of the public one."""
    weights = agent.state_dict()
    there = agent.world_model.config
    config = infer_config(weights, num_heads=there.num_heads)
    ours = Agent(AgentConfig(config.tokenizer, config.world_model, config.actor_critic), agent_actions(agent))
    theirs = dict(agent.named_parameters())
    for name, _ in list(ours.named_parameters()):
        parameter = theirs[name]
        if parameter.dim() == 4:
            # Our convolutions run with channels last; the values and the object stay.
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        module_name, _, leaf = name.rpartition(".")
        ours.get_submodule(module_name)._parameters[leaf] = parameter
    return ours.eval()


def agent_actions(agent: Any) -> int:
    """The number of actions of an agent of the public implementation."""
    return int(agent.actor_critic.actor_linear.out_features)


def _output_type(module: nn.Module, name: str) -> Any:
    """A class that the module's own file defines: what its callers expect to get back."""
    return getattr(sys.modules[type(module).__module__], name)


def _replace_lookup(tokenizer: Any) -> None:
    """`encode`, with the nearest codewords found by `vq_lookup`."""
    encoding = _output_type(tokenizer, "TokenizerEncoderOutput")

    def encode(self: Any, x: Tensor, should_preprocess: bool = False) -> Any:
        frames = self.preprocess_input(x) if should_preprocess else x
        leading = frames.shape[:-3]
        z = self.pre_quant_conv(self.encoder(frames.reshape(-1, *frames.shape[-3:])))
        vectors = z.permute(0, 2, 3, 1)
        codebook = self.embedding.weight
        tokens = vq_lookup(vectors.detach().float(), codebook.detach().float()).indices
        quantized = self.embedding(tokens).permute(0, 3, 1, 2)
        return encoding(
            z.reshape(*leading, *z.shape[1:]),
            quantized.reshape(*leading, *quantized.shape[1:]),
            tokens.reshape(*leading, -1),
        )

    tokenizer.encode = MethodType(encode, tokenizer)


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
        """Keys and values held, each `(batch, heads, tokens, head_dim)`."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def update(self, k: Tensor, v: Tensor) -> None:
        """Appends keys and values `(batch, heads, new, head_dim)`; no gradient flows through what is held."""
        stop = self._room_for(k.shape[2])
        self.keys[:, :, self.length : stop] = k.detach()
        self.values[:, :, self.length : stop] = v.detach()
        self._advance(k.shape[2])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, config: TransformerConfig) -> Tensor:
        """Appends `key` and `value` and attends `query` to all that is held; all `(batch, heads, new, head_dim)`."""
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


def _replace_attention(transformer: Any, config: TransformerConfig) -> None:
    """The attention of every block, and the cache that the transformer hands out."""
    width, heads = config.embed_dim, config.num_heads

    def generate_empty_keys_values(self: Any, n: int, max_tokens: int) -> StaticKeysValues:
        like = self.ln_f.weight.detach()
        return StaticKeysValues(
            [StaticKVCache(n, heads, max_tokens, width // heads, like) for _ in range(len(self.blocks))]
        )

    transformer.generate_empty_keys_values = MethodType(generate_empty_keys_values, transformer)
    for block in transformer.blocks:
        block.attn.forward = MethodType(_attention_of(config, type(block.attn).forward), block.attn)


def _attention_of(config: TransformerConfig, original: Any) -> Any:
    def forward(self: Any, x: Tensor, kv_cache: Any = None) -> Tensor:
        if kv_cache is not None and (torch.is_grad_enabled() or not isinstance(kv_cache, StaticKVCache)):
            # A cache made before `accelerate`, or a pass that gradients flow through.
            return original(self, x, kv_cache)
        query, key, value = (
            linear(x).unflatten(2, (config.num_heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )  # each (batch, heads, time, head_dim)
        if kv_cache is not None:
            attended = kv_cache.attend(query, key, value, config)
        else:
            attended = _attend_whole(query, key, value, config, self.attn_drop)
        return self.resid_drop(self.proj(attended.transpose(1, 2).flatten(2)))

    return forward


def _attend_whole(query: Tensor, key: Tensor, value: Tensor, config: TransformerConfig, drop: Any) -> Tensor:
    time = query.shape[2]
    causal = config.attention == "causal"
    mask = None if causal else attention_mask(config, query.device)[:time, :time]
    dropout = drop.p if drop.training else 0.0
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal
    )


def _replace_imagination(agent: Any, engine: FollowingEngine) -> None:
    """`imagine` of the actor-critic: a rollout of ours, then one pass that gives it its gradient."""
    imagined = _output_type(agent.actor_critic, "ImagineOutput")

    def imagine(
        self: Any,
        batch: dict[str, Tensor],
        tokenizer: Any,
        world_model: Any,
        horizon: int,
        show_pbar: bool = False,
    ) -> Any:
        if tokenizer is not agent.tokenizer or world_model is not agent.world_model:
            raise UserError("an accelerated agent imagines with its own tokenizer and world model")
        start = engine.start(batch["observations"], batch["mask_padding"])
        seed = int(torch.randint(2**63 - 1, ()))
        rollout = engine.imagine(start, horizon, seed)
        output = engine.agent.actor_critic(rollout.observations, rollout.start_state)
        self.clear()
        return imagined(
            observations=(rollout.observations * 255).to(torch.uint8),
            actions=rollout.actions,
            logits_actions=output.logits_actions,
            values=output.values,
            rewards=rollout.rewards,
            ends=rollout.ends,
        )

    agent.actor_critic.imagine = MethodType(imagine, agent.actor_critic)
