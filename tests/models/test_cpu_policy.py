"""The actor-critic in C++ computes what the PyTorch module computes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_fast.config.presets import PRESETS
from iris_fast.models.actor_critic import (
    ActorCritic,
    ActorCriticConfig,
    ActorCriticOutput,
    LSTMState,
)
from iris_fast.models.cpu_policy import RECURRENT, CpuPolicy
from iris_fast.models.cpu_weights import require_extension, weight_arrays
from tests.support.agents import redrawn
from tests.support.properties import given, settings, st

EXTENSION = require_extension()

LEVELS: list[str] = EXTENSION.simd_levels()
# Configuration and resolution; of odd maps the last row and column are dropped by pooling.
CONFIGS = {name: (preset().actor_critic, 64) for name, preset in PRESETS.items()}
CONFIGS["odd"] = (ActorCriticConfig(channels=(5, 20, 7, 33), lstm_dim=12), 23)


def make_policy(
    name: str, seed: int = 0, threads: int = 1, group_size: int = 0, simd: str = "auto"
) -> tuple[ActorCritic, CpuPolicy]:
    config, resolution = CONFIGS[name]
    module = redrawn(ActorCritic(config, 4, resolution), seed).eval()
    pool = EXTENSION.ThreadPool(threads)
    return module, CpuPolicy(module, pool, resolution, group_size=group_size, simd=simd)


def some_frames(name: str, *batch: int, seed: int = 0) -> Tensor:
    size = CONFIGS[name][1]
    return torch.rand(*batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", sorted(CONFIGS))
@torch.no_grad()
def test_features_are_no_further_from_the_exact_ones_than_pytorchs(name: str) -> None:
    module, policy = make_policy(name)
    frames = some_frames(name, 5)
    exact = copy.deepcopy(module).double().features(frames.double())
    ours, theirs = policy.features(frames), module.features(frames)
    assert ours.shape == theirs.shape
    error, allowed = ((found - exact).square().mean().sqrt() for found in (ours, theirs))
    assert error <= 2 * allowed
    assert exact.std() > 0.1


@torch.no_grad()
def test_steps_and_burn_in_are_the_modules() -> None:
    module, policy = make_policy("tiny")
    frames = some_frames("tiny", 3, 4)
    mask = torch.tensor([[True] * 4, [False, False, True, True], [False] * 4])
    state, expected = policy.burn_in(frames, mask), module.burn_in(frames, mask)
    torch.testing.assert_close(state, expected)
    torch.testing.assert_close(policy(frames, state), module(frames, expected))
    assert not policy.burn_in(frames[:, :0], mask[:, :0]).hx.any()


@pytest.mark.parametrize("name", sorted(CONFIGS))
@torch.no_grad()
def test_outputs_are_no_further_from_the_exact_ones_than_pytorchs(name: str) -> None:
    module, policy = make_policy(name)
    frames, state = some_frames(name, 5, 3), LSTMState(*torch.randn(2, 5, module.config.lstm_dim))
    exact = copy.deepcopy(module).double()(frames.double(), LSTMState(*(part.double() for part in state)))
    ours, theirs = policy(frames, state), module(frames, state)
    for found, expected, right in zip(flat(ours), flat(theirs), flat(exact), strict=True):
        assert found.shape == expected.shape and found.dtype == torch.float32
        error, allowed = ((part - right).square().mean().sqrt() for part in (found, expected))
        assert error <= 2 * allowed + 1e-7
    assert exact.logits_actions.std() > 0.05


def flat(output: ActorCriticOutput) -> list[Tensor]:
    return [output.logits_actions, output.values, *output.state]


@given(
    name=st.sampled_from(["tiny", "odd"]),
    batch=st.integers(1, 19),
    threads=st.integers(1, 3),
    simd=st.sampled_from(LEVELS),
)
@settings(max_examples=20, deadline=None)
def test_outputs_have_the_same_bits_for_any_threads_rows_and_simd_level(
    name: str, batch: int, threads: int, simd: str
) -> None:
    frames = some_frames(name, batch, 2, seed=batch)
    module, plain = make_policy(name)
    state = LSTMState(*torch.randn(2, batch, module.config.lstm_dim))
    expected = flat(plain(frames, state))
    other = make_policy(name, 0, threads, 0, simd)[1]
    last = LSTMState(*(part[-1:] for part in state))
    for found, alone, right in zip(
        flat(other(frames, state)), flat(other(frames[-1:], last)), expected, strict=True
    ):
        assert torch.equal(found, right)
        assert torch.equal(alone, right[-1:])


def test_states_that_do_not_fit_are_refused() -> None:
    module, policy = make_policy("tiny")
    frames, state = some_frames("tiny", 2, 1), module.initial_state(2)
    with pytest.raises(ValueError, match=r"hidden must have shape \(2, \d+\), got \(3, \d+\)"):
        policy(frames, module.initial_state(3))
    with pytest.raises(TypeError, match="cells must be float32"):
        policy(frames, LSTMState(state.hx, state.cx.double()))
    weights = {name: array for name, array in weight_arrays(module).items() if name.startswith(RECURRENT)}
    for broken, kind, message in (
        ({**weights, "lstm.bias_hh": np.zeros(3, np.float32)}, ValueError, "lstm.bias_hh must have shape"),
        ({**weights, "another": np.zeros(3, np.float32)}, ValueError, "have another"),
        (
            {name: array for name, array in weights.items() if name[0] != "c"},
            KeyError,
            "critic_linear",
        ),
    ):
        with pytest.raises(kind, match=message):
            EXTENSION.PolicyRecurrence(broken, EXTENSION.ThreadPool(1))


@given(
    name=st.sampled_from(["tiny", "odd"]),
    batch=st.integers(0, 19),
    threads=st.integers(1, 3),
    group_size=st.integers(0, 20),
    simd=st.sampled_from(LEVELS),
)
@settings(max_examples=20, deadline=None)
def test_the_same_bits_for_any_threads_groups_and_simd_level(
    name: str, batch: int, threads: int, group_size: int, simd: str
) -> None:
    frames = some_frames(name, batch, seed=batch)
    plain = make_policy(name, group_size=1)[1].features(frames)
    other = make_policy(name, 0, threads, group_size, simd)[1]
    assert torch.equal(other.features(frames), plain)
    assert torch.equal(other.features(frames[-1:]), plain[-1:])


@pytest.mark.parametrize("fused", [False, True])  # fused optimizers do not count versions of what they change
def test_weights_are_packed_again_when_they_changed(fused: bool) -> None:
    module, policy = make_policy("tiny")
    frames = some_frames("tiny", 2)
    before = policy.features(frames)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, fused=fused)
    module.features(frames).sum().backward()
    optimizer.step()
    module.weights_changed(in_place=True)
    after = policy.features(frames)
    assert not torch.allclose(before, after, atol=1e-3)
    torch.testing.assert_close(after, module.features(frames).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"resolution": 15}, ValueError, "halved 4 times"),
        ({"resolution": 5000}, ValueError, "resolution"),
        ({"resolution": 64, "convolutions": 0}, ValueError, "convolutions"),
        ({"resolution": 64, "convolutions": 5}, KeyError, "conv5.weight"),
        ({"resolution": 64, "group_size": 2000}, ValueError, "group_size"),
        ({"resolution": 64, "simd": "mmx"}, ValueError, "simd"),
        ({"resolution": -1}, TypeError, "incompatible"),
    ],
)
def test_sizes_that_cannot_be_are_named(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    weights = weight_arrays(make_policy("tiny")[0], skip=RECURRENT)
    with pytest.raises(kind, match=message):
        EXTENSION.PolicyFeatures(weights, EXTENSION.ThreadPool(1), **arguments)


def test_weights_and_frames_that_do_not_fit_are_refused() -> None:
    module, policy = make_policy("tiny")
    weights = weight_arrays(module, skip=RECURRENT)
    broken = {**weights, "conv2.bias": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match=r"conv2.bias must have shape \(16,\), got \(3,\)"):
        EXTENSION.PolicyFeatures(broken, EXTENSION.ThreadPool(1), resolution=64)
    with pytest.raises(ValueError, match=r"\(2, 3, 64, 64\), got \(2, 3, 64, 32\)"):
        policy.features(torch.zeros(2, 3, 64, 32))
    with pytest.raises(TypeError, match="float32"):
        policy.features(torch.zeros(2, 3, 64, 64, dtype=torch.float64))
    with pytest.raises(ValueError, match="float64"):
        CpuPolicy(module.double(), EXTENSION.ThreadPool(1), 64)
