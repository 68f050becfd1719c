"""Counts the GPU launches of steps on tensors without data, at PyTorch's dispatcher.

One launch for each call of an operation that computes, none for views and allocations. A call may be several kernels
on a GPU (GroupNorm, a convolution's gradient), so the counts are lower bounds. The LSTM cell of the policy is one
launch of the CUDA-graph engine on a GPU, and counted here as its parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.group_norms import group_norm_of
from iris_fast.agent import Agent
from iris_fast.config import preset_config, resolve
from iris_fast.imagination.device_rollout import DeviceRollout, Stretch
from iris_fast.imagination.dream import Dream
from iris_fast.imagination.frame_decoder import FrameDecoder
from iris_fast.imagination.token_pass import InferenceWeights, TokenPasses
from iris_fast.models.perceptual import LPIPS
from iris_fast.randomness import PhiloxDraws, Purpose

from .fake_device import without_data

Launches = Literal[2, 5]  # a layer
ACTIONS = 6
SEED = 1
# Allocations and questions, which launch nothing.
NO_LAUNCH = (
    *("empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"),
    *("device", "is_same_size", "lift_fresh"),
)


class LaunchCounter(TorchDispatchMode):
    """Counts calls that compute, by operation."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if not func.is_view and name not in NO_LAUNCH:
            self.launches[name] += 1
        return result


Counts = Counter[str]


def counted(function: Callable[[], Any]) -> Counts:
    with LaunchCounter() as counter:
        function()
    return counter.launches


def imagined_step_plain(agent: Agent, batch: int) -> Counts:
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


def rollout_counts(agent: Agent, batch: int, steps: int, dtype: torch.dtype, launches: Launches) -> Counts:
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


def imagined_step_ours(agent: Agent, batch: int, launches: Launches = 5) -> Counts:
    """A step of the CUDA-graph engine: what a rollout of three steps has more than one of two."""
    long, short = (rollout_counts(agent, batch, steps, torch.float32, launches) for steps in (3, 2))
    return long - short


def tokenizer_step(agent: Agent, frames: Tensor, fused: bool) -> Counts:
    """Losses of frames and their gradients, without the optimizer."""
    agent.tokenizer.zero_grad()

    def step() -> None:
        torch.stack(list(agent.tokenizer.losses(frames).values())).sum().backward()

    with group_norm_of(fused):
        return counted(step)


def measure(preset: str) -> dict[str, dict[str, Counts]]:
    """Counts of an imagined step and of a tokenizer step of a preset, by PyTorch's modules and by ours."""
    config = resolve(preset_config(preset, "Pong"))
    batch, size = config.training.actor_critic.batch_num_samples, config.env.train.size
    with torch.device("meta"):
        agent = Agent(config.agent, ACTIONS).eval()
        agent.tokenizer.attach_lpips(LPIPS())
    with FakeTensorMode(allow_non_fake_inputs=True):
        without_data(agent, torch.device("cpu"))
        with torch.no_grad():
            imagined = {
                "pytorch": imagined_step_plain(agent, batch),
                "ours": imagined_step_ours(agent, batch),
                "ours_two_launches_a_layer": imagined_step_ours(agent, batch, 2),
            }
        agent.train()
        frames = torch.zeros((config.training.tokenizer.batch_num_samples, 3, size, size))
        trained = {
            name: tokenizer_step(agent, frames, fused) for name, fused in (("pytorch", False), ("ours", True))
        }
    return {"imagined_step": imagined, "tokenizer_step": trained}
