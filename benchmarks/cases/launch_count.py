"""How many kernels an imagined step and the three training steps launch, and what bytes they move, by operation.

Counted on tensors without data, at the paper's sizes, at PyTorch's dispatcher: one launch for each call of an
operation that computes, none for views and allocations. A call may be several kernels on a GPU (GroupNorm, a
convolution's gradient), so the counts are lower bounds. Bytes are those of the tensors that go in and come out.

An imagined step is counted twice: of the modules, and of the same arithmetic put together from our kernels. The
tokenizer's training step is counted with and without `group_norm_swish`. In the other two what remains is already
one launch for one operation of PyTorch's own: attention (SDPA), convolutions and the products of the LSTM
(cuDNN, cuBLAS), cross-entropy; `kernel_torch_limits` measures those on a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.registry import case
from iris_fast.agent import Agent
from iris_fast.config import Config, preset_config, resolve
from iris_fast.imagination.dream import Dream
from iris_fast.imagination.engine import Rollout
from iris_fast.imagination.randomness import PhiloxDraws, Purpose
from iris_fast.kernels import (
    cached_attention,
    group_norm_swish,
    layer_norm_linear,
    linear_sample,
    sample_categorical,
    token_embedding,
)
from iris_fast.models.group_norm import EPS, GroupNorm
from iris_fast.models.perceptual import LPIPS
from iris_fast.models.transformer import KVCache
from iris_fast.models.world_model import WorldModel
from iris_fast.training.actor_critic_step import ReturnsConfig, actor_critic_losses

ACTIONS = 6
SEED = 1
# Allocations and questions, which launch nothing.
NO_LAUNCH = (
    *("empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"),
    *("device", "is_same_size", "lift_fresh"),
)


class LaunchCounter(TorchDispatchMode):
    """Counts calls that compute, and the bytes of the tensors that they read and write, by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.bytes_in: Counter[str] = Counter()
        self.bytes_out: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in NO_LAUNCH:
            self.launches[name] += 1
            self.bytes_in[name] += _bytes((args, kwargs))
            self.bytes_out[name] += _bytes(result)
        return result

    def table(self) -> dict[str, Any]:
        """The totals, and each operation, the one with most bytes first."""
        moved = {name: self.bytes_in[name] + self.bytes_out[name] for name in self.launches}
        rows = {
            name: {
                "launches": self.launches[name],
                "bytes_in": self.bytes_in[name],
                "bytes_out": self.bytes_out[name],
            }
            for name in sorted(moved, key=lambda name: -moved[name])
        }
        return {"launches": self.launches.total(), "bytes": sum(moved.values()), "operations": rows}


def _bytes(tree: Any) -> int:
    """Of the tensors in a tree of arguments; an expanded tensor counts what it holds."""
    tensors = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return sum(min(t.numel() * t.itemsize, t.untyped_storage().nbytes()) for t in tensors)


def counted(function: Callable[[], Any]) -> dict[str, Any]:
    with LaunchCounter() as counter:
        function()
    return counter.table()


def empty_agent(config: Config) -> Agent:
    """An agent without data, in PyTorch's meta device, for `make_fake`."""
    with torch.device("meta"):
        agent = Agent(config.agent, ACTIONS)
        agent.tokenizer.attach_lpips(LPIPS())
    return agent


def make_fake(agent: Agent) -> Agent:
    """Puts fake CPU tensors of the same layout in place; to be called and used in a `FakeTensorMode`."""
    for module in agent.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None:
                continue
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
            if isinstance(tensor, nn.Parameter):
                module._parameters[name] = nn.Parameter(fake, tensor.requires_grad)
            else:
                module._buffers[name] = fake
    return agent


@contextmanager
def group_norm_of(fused: bool) -> Iterator[None]:
    """GroupNorm as on a GPU: our kernel, or PyTorch's and a SiLU (on a CPU it takes a way of its own)."""

    def forward(self: GroupNorm, x: Tensor) -> Tensor:
        if fused:
            return group_norm_swish(x, self.num_groups, self.weight, self.bias, EPS, swish=self.swish)
        normed = F.group_norm(x, self.num_groups, self.weight, self.bias, EPS)
        return F.silu(normed) if self.swish else normed

    with mock.patch.object(GroupNorm, "forward", forward):
        yield


class FusedDecoder:
    """The world model's decoding step of our kernels: five launches a layer."""

    def __init__(self, model: WorldModel, batch: int):
        self.model: Any = model
        self.cache: KVCache = model.new_cache(batch)
        self.lengths = torch.zeros(batch, dtype=torch.int32)  # tokens held, on the device: also the position
        self.held = model.frame_tokens  # the same for the host, to count the bytes of those tokens alone
        self.packed = []  # query, key and value as one layer: done once after the weights have changed
        blocks: Any = model.transformer.blocks
        for block in blocks:
            layers = (block.attn.query, block.attn.key, block.attn.value)
            self.packed.append([torch.cat([getattr(x, n) for x in layers]) for n in ("weight", "bias")])

    def step(self, tokens: Tensor) -> Tensor:
        """Features (batch, dim) before the last LayerNorm of one new token each."""
        actions, table = (embedding.weight for embedding in self.model.embedder.embedding_tables)
        x = token_embedding(tokens, table, self.model.pos_emb.weight, self.lengths, more_table=actions)
        for layer, block in enumerate(self.model.transformer.blocks):
            x = self._attend(x, block, layer)
            hidden = layer_norm_linear(x, *_affine(block.mlp[0]), **_norm(block.ln2), activation="gelu")
            x = layer_norm_linear(hidden, *_affine(block.mlp[2]), residual=x)
        self.lengths += 1
        self.held += 1
        return x

    def _attend(self, x: Tensor, block: Any, layer: int) -> Tensor:
        heads = self.model.config.num_heads
        packed = layer_norm_linear(x, *self.packed[layer], **_norm(block.ln1))
        query, key, value = packed.view(len(x), 3, heads, 1, -1).unbind(1)
        keys, values = self.cache.storage[layer, :, :, :, : self.held + 1]
        attended = cached_attention(query, key, value, keys, values, self.lengths)
        return layer_norm_linear(attended.transpose(1, 2).flatten(1), *_affine(block.attn.proj), residual=x)

    def sample(self, head: Any, x: Tensor, address: dict[str, Any], purpose: Purpose) -> Tensor:
        first, last = head.head_module[0], head.head_module[2]
        norm = _norm(self.model.transformer.ln_f)
        hidden = layer_norm_linear(x, *_affine(first), **norm, activation="relu")
        return linear_sample(hidden, *_affine(last), **address, purpose=int(purpose))


def _affine(layer: nn.Linear) -> tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


def _norm(layer: nn.LayerNorm) -> dict[str, Any]:
    return {"norm_weight": layer.weight, "norm_bias": layer.bias, "eps": layer.eps}


def imagined_step_plain(agent: Agent, batch: int) -> dict[str, Any]:
    """A step of the oracle in the middle of a rollout: decode, act, and 17 passes of the world model."""
    tokens = torch.zeros((batch, agent.world_model.frame_tokens), dtype=torch.int64)
    draws = PhiloxDraws(SEED)
    dream = Dream(agent.world_model, tokens, draws)
    state = agent.actor_critic.initial_state(batch)

    def step() -> None:
        policy = agent.actor_critic(agent.tokenizer.frames_of(dream.tokens).unsqueeze(1), state)
        dream.step(draws.sample(policy.logits_actions.squeeze(1), 0, Purpose.ACTION))

    with group_norm_of(fused=False):
        return counted(step)


def imagined_step_ours(agent: Agent, batch: int) -> dict[str, Any]:
    """The same of our kernels."""
    model = agent.world_model
    decoder = FusedDecoder(model, batch)
    state = agent.actor_critic.initial_state(batch)
    # What addresses a draw is on the device too: a captured graph draws anew at each replay.
    seed, position = (torch.zeros((), dtype=torch.int64) for _ in range(2))
    address: dict[str, Any] = {"seed": seed, "position": position, "row": torch.arange(batch)}
    tokens = torch.zeros((batch, model.frame_tokens), dtype=torch.int64)

    def step() -> None:
        policy = agent.actor_critic(agent.tokenizer.frames_of(tokens).unsqueeze(1), state)
        logits = policy.logits_actions.squeeze(1)
        x = decoder.step(sample_categorical(logits, **address, purpose=int(Purpose.ACTION)))
        decoder.sample(model.head_rewards, x, address, Purpose.REWARD)
        decoder.sample(model.head_ends, x, address, Purpose.END)
        for _ in range(model.frame_tokens):
            position.add_(1)
            x = decoder.step(decoder.sample(model.head_observations, x, address, Purpose.TOKEN))

    with group_norm_of(fused=True):
        return counted(step)


def training_step(
    part: nn.Module, losses: Callable[[], dict[str, Tensor]], fused: bool = False
) -> dict[str, Any]:
    """Losses of a part and their gradients, without the optimizer."""
    part.zero_grad()

    def step() -> None:
        torch.stack(list(losses().values())).sum().backward()

    with group_norm_of(fused):
        return counted(step)


def fake_rollout(agent: Agent, batch: int, horizon: int, size: int) -> Rollout:
    steps = torch.zeros((batch, horizon))
    logits = torch.zeros((batch, horizon, ACTIONS))
    tokens = torch.zeros((batch, horizon, agent.world_model.frame_tokens), dtype=torch.int64)
    frames = torch.zeros((batch, horizon, 3, size, size))
    state = agent.actor_critic.initial_state(batch)
    return Rollout(frames, tokens, steps.long(), steps, steps.bool(), logits, steps, state)


def measure(preset: str) -> dict[str, Any]:
    """Counts of each step of a preset."""
    config = resolve(preset_config(preset, "Pong"))
    # A GPU's fused attention has its dropout inside; the CPU's, which is counted here, would fall into parts.
    config = replace(config, world_model=replace(config.world_model, attn_pdrop=0.0))
    training, size, length = config.training, config.env.train.size, config.common.sequence_length or 1
    part = training.actor_critic
    found: dict[str, Any] = {"preset": preset, "dtype": "float32", "batch": part.batch_num_samples}
    agent = empty_agent(config).eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        make_fake(agent)
        with torch.no_grad():
            found["imagined_step"] = {
                "pytorch": imagined_step_plain(agent, part.batch_num_samples),
                "ours": imagined_step_ours(agent, part.batch_num_samples),
            }
        agent.train()
        frames = torch.zeros(
            (training.tokenizer.batch_num_samples // training.tokenizer.pieces, 3, size, size)
        )
        found["tokenizer_frames"] = len(frames)
        found["tokenizer_piece"] = {
            name: training_step(agent.tokenizer, lambda: agent.tokenizer.losses(frames), fused)
            for name, fused in (("pytorch", False), ("ours", True))
        }
        batch = training.world_model.batch_num_samples
        tokens = torch.zeros((batch, length, agent.world_model.frame_tokens), dtype=torch.int64)
        steps = torch.zeros((batch, length))
        segments = (tokens, steps.long(), steps, steps, torch.ones((batch, length), dtype=torch.bool))
        found["world_model_step"] = {
            "pytorch": training_step(agent.world_model, lambda: agent.world_model.losses(*segments))
        }
        rollout = fake_rollout(agent, part.batch_num_samples, part.imagine_horizon or 1, size)
        found["actor_critic_step"] = {
            "pytorch": training_step(
                agent.actor_critic, lambda: actor_critic_losses(agent.actor_critic, rollout, ReturnsConfig())
            )
        }
    return found


@case("launch_count", minutes=1)
def launch_count(quick: bool) -> dict[str, Any]:
    """Launches and bytes by operation of an imagined step and the training steps, plain and with our kernels."""
    return measure("tiny" if quick else "paper")
