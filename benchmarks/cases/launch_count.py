"""How many kernels an imagined step and the three training steps launch, and what bytes they move, by operation.

Counted on tensors without data, at the paper's sizes, at PyTorch's dispatcher: one launch for each call of an
operation that computes, none for views and allocations. A call may be several kernels on a GPU (GroupNorm, a
convolution's gradient), so the counts are lower bounds. Bytes are those of the tensors that go in and come out.

An imagined step is counted of the oracle's modules, and of what the CUDA-graph engine captures, in float32 and in
bfloat16, with five launches a layer in passes of one token and with two; the LSTM cell of the policy is one launch of
the latter on a GPU, and counted here as its parts. The tokenizer's training step is counted with and without
`group_norm_swish`. In the other two what remains is already one launch for one operation of PyTorch's own: attention
(SDPA), convolutions and the products of the LSTM (cuDNN, cuBLAS), cross-entropy; `kernel_torch_limits` measures those
on a GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.record import Result
from benchmarks.registry import Run, case
from iris_fast.agent import Agent
from iris_fast.config import Config, preset_config, resolve
from iris_fast.imagination.device_rollout import DeviceRollout, Stretch
from iris_fast.imagination.dream import Dream
from iris_fast.imagination.engine import Rollout
from iris_fast.imagination.frame_decoder import FrameDecoder
from iris_fast.imagination.randomness import PhiloxDraws, Purpose
from iris_fast.imagination.token_pass import InferenceWeights, TokenPasses
from iris_fast.kernels import group_norm_swish
from iris_fast.models.group_norm import EPS, GroupNorm
from iris_fast.models.perceptual import LPIPS
from iris_fast.training.actor_critic_step import ReturnsConfig, actor_critic_losses

Launches = Literal[2, 5]  # a layer
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


def rollout_counts(
    agent: Agent, batch: int, steps: int, dtype: torch.dtype, launches: Launches
) -> dict[str, Any]:
    """What the CUDA-graph engine captures for rollouts of so many steps that go on from a recurrent state."""
    passes = TokenPasses(InferenceWeights(agent.world_model, dtype), batch, launches_per_layer=launches)
    stretch = Stretch(batch, steps, None, last=False)
    rollout = DeviceRollout(stretch, agent.actor_critic, FrameDecoder(agent.tokenizer, dtype), passes)
    state = agent.actor_critic.initial_state(batch)
    seed, first_step = (torch.zeros((), dtype=torch.int64) for _ in range(2))
    tokens = torch.zeros((batch, agent.world_model.frame_tokens), dtype=torch.int64)
    inputs = {"seed": seed, "first_step": first_step, "tokens": tokens, **state._asdict()}
    with group_norm_of(fused=True):
        return counted(lambda: rollout(inputs))


def imagined_step_ours(
    agent: Agent, batch: int, dtype: torch.dtype, launches: Launches = 5
) -> dict[str, Any]:
    """A step of the CUDA-graph engine: what a rollout of three steps has more than one of two."""
    long, short = (rollout_counts(agent, batch, steps, dtype, launches) for steps in (3, 2))
    rows = {}
    for name, row in long["operations"].items():
        less = short["operations"].get(name, dict.fromkeys(row, 0))
        more = {key: value - less[key] for key, value in row.items()}
        if more["launches"]:
            rows[name] = more
    moved = sum(row["bytes_in"] + row["bytes_out"] for row in rows.values())
    return {
        "launches": sum(row["launches"] for row in rows.values()),
        "bytes": moved,
        "operations": rows,
    }


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
                "ours": imagined_step_ours(agent, part.batch_num_samples, torch.float32),
                "ours_bfloat16": imagined_step_ours(agent, part.batch_num_samples, torch.bfloat16),
                "ours_two_launches_a_layer": imagined_step_ours(
                    agent, part.batch_num_samples, torch.float32, 2
                ),
                "ours_two_launches_a_layer_bfloat16": imagined_step_ours(
                    agent, part.batch_num_samples, torch.bfloat16, 2
                ),
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
def launch_count(run: Run) -> Result:
    """Launches and bytes by operation of an imagined step and the training steps, plain and with our kernels."""
    return Result(facts=measure("tiny" if run.quick else "paper"))
