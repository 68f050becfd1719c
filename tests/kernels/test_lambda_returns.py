from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from iris_fast.kernels import lambda_returns
from iris_fast.kernels.common.triton import INTERPRETED
from iris_fast.kernels.lambda_returns import (
    lambda_returns_reference,
    launch_lambda_returns,
    launch_lambda_returns_backward,
)
from tests.support.properties import given, settings, st

from .harness import DEVICES, assert_as_exact_as, poisoned_outputs

HERE = "cpu" if INTERPRETED else "cuda"
GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "paper_6_actions.npz"


def loop(
    rewards: np.ndarray, values: np.ndarray, ends: np.ndarray, gamma: float, lambda_: float
) -> np.ndarray:
    """The recursion for one row (time,), in float64."""
    returns = np.empty(len(values), dtype=np.float64)
    returns[-1] = values[-1]
    for t in reversed(range(len(values) - 1)):
        bootstrap = (1 - lambda_) * values[t + 1] + lambda_ * returns[t + 1]
        returns[t] = rewards[t] + gamma * (1 - ends[t]) * bootstrap
    return returns


@pytest.mark.parametrize("time", [1, 2, 20, 257])
@pytest.mark.parametrize(("gamma", "lambda_"), [(0.995, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)])
def test_equals_the_recursion_in_float64(time: int, gamma: float, lambda_: float) -> None:
    generator = np.random.default_rng(time)
    rewards, values = generator.standard_normal((2, 5, time))
    ends = generator.random((5, time)) < 0.1
    expected = np.stack([loop(*row, gamma, lambda_) for row in zip(rewards, values, ends, strict=True)])
    returns = lambda_returns(
        torch.tensor(rewards), torch.tensor(values), torch.tensor(ends), gamma=gamma, lambda_=lambda_
    )
    assert returns.dtype == torch.float32
    np.testing.assert_allclose(returns.numpy(), expected, rtol=2e-6, atol=2e-6 * np.abs(expected).max())


def test_equals_the_golden_returns() -> None:
    with np.load(GOLDEN) as golden:
        names = ("rewards", "values", "ends", "returns")
        rewards, values, ends, expected = (torch.from_numpy(golden[f"lambda_{name}"]) for name in names)
    returns = lambda_returns(rewards, values, ends, gamma=0.995, lambda_=0.95)
    torch.testing.assert_close(returns, expected, rtol=1e-6, atol=1e-6)


def test_an_end_cuts_the_return() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    values = torch.full((1, 4), 100.0)
    ends = torch.tensor([[0, 1, 0, 0]])
    returns = lambda_returns(rewards, values, ends, gamma=1.0, lambda_=1.0)
    assert returns.tolist() == [[3.0, 2.0, 103.0, 100.0]]


def test_no_time_and_no_batch() -> None:
    for shape in ((4, 0), (0, 6)):
        nothing = torch.zeros(shape)
        assert lambda_returns(nothing, nothing, nothing, 0.9, 0.9).shape == shape


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4), (2, 3)), ((3,), (3,), (3,)), ((2, 3), (2, 3), (3, 2))])
def test_bad_shapes_are_refused_by_name(shapes: tuple[tuple[int, ...], ...]) -> None:
    rewards, values, ends = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"one shape \(batch, time\), got \("):
        lambda_returns(rewards, values, ends, 0.9, 0.9)


def random_rollout(batch: int, time: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, values and ends (batch, time) float32."""
    generator = torch.Generator().manual_seed(seed)
    ends = (torch.rand(batch, time, generator=generator) < 0.2).float()
    rewards, values = torch.randn(2, batch, time, generator=generator).unbind()
    return rewards, values, ends


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (64, 20), (5, 64), (2, 65), (3, 200)])
def test_the_kernel_is_as_exact_as_plain_pytorch(device: str, shape: tuple[int, int]) -> None:
    rewards, values, ends = random_rollout(*shape)
    rows = zip(rewards.double().numpy(), values.double().numpy(), ends.double().numpy(), strict=True)
    exact = [loop(*row, 0.995, 0.95) for row in rows]
    with poisoned_outputs():
        found = launch_lambda_returns(rewards.to(device), values.to(device), ends.to(device), 0.995, 0.95)
    plain = lambda_returns_reference(rewards, values, ends, 0.995, 0.95)
    assert_as_exact_as(found, plain, torch.from_numpy(np.stack(exact)), rounding=4)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_and_infinity_reach_the_steps_before_them(device: str) -> None:
    rewards, values, ends = random_rollout(3, 70)
    rewards[0, 40], values[1, 66], rewards[2, 3] = float("nan"), float("inf"), float("-inf")
    found = launch_lambda_returns(rewards.to(device), values.to(device), ends.to(device), 0.9, 0.9).cpu()
    expected = lambda_returns_reference(rewards, values, ends, 0.9, 0.9)
    assert torch.isnan(found[0, :41]).all() and torch.isfinite(found[0, 41:]).all()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (64, 20), (5, 64), (2, 65), (3, 200), (0, 4)])
def test_the_backward_kernel_is_as_exact_as_plain_pytorch(device: str, shape: tuple[int, int]) -> None:
    rewards, values, ends = random_rollout(*shape)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def plain(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        leaves = [tensor.to(dtype).requires_grad_() for tensor in (rewards, values)]
        following = leaves[1][:, -1]
        returns = [following]
        for t in range(shape[1] - 2, -1, -1):
            mixed = (1 - 0.95) * leaves[1][:, t + 1] + 0.95 * following
            following = leaves[0][:, t] + 0.995 * (1 - ends[:, t].to(dtype)) * mixed
            returns.append(following)
        found = torch.autograd.grad(
            torch.stack(returns[::-1], 1), leaves, grad.to(dtype), allow_unused=True, materialize_grads=True
        )
        return found

    with poisoned_outputs():
        gradients = launch_lambda_returns_backward(grad.to(device), ends.to(device), 0.995, 0.95)
    for found, rounded, exact in zip(gradients, plain(torch.float32), plain(torch.float64), strict=True):
        assert_as_exact_as(found, rounded, exact, rounding=4) if found.numel() else None
        assert found.shape == shape


@settings(max_examples=40, deadline=None)
@given(batch=st.integers(0, 6), time=st.integers(0, 70), seed=st.integers(0, 99), transposed=st.booleans())
def test_any_shape_and_stride(batch: int, time: int, seed: int, transposed: bool) -> None:
    rewards, values, ends = random_rollout(batch, time, seed)
    if transposed:
        rewards, values = rewards.t().contiguous().t(), values.t().contiguous().t()
    found = lambda_returns(rewards, values, ends, 0.9, 0.8)
    expected = lambda_returns_reference(rewards, values, ends, 0.9, 0.8)
    torch.testing.assert_close(found, expected)
    launched = launch_lambda_returns(rewards.to(HERE), values.to(HERE), ends.to(HERE), 0.9, 0.8)
    torch.testing.assert_close(launched.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_gradients_equal_those_of_the_loop() -> None:
    rewards, values, ends = random_rollout(4, 9)
    weight = torch.randn(4, 9)
    gradients = []
    for function in (lambda_returns, lambda_returns_reference):
        inputs = [tensor.clone().requires_grad_() for tensor in (rewards, values)]
        (function(inputs[0], inputs[1], ends, 0.95, 0.9) * weight).sum().backward()
        gradients.append([tensor.grad for tensor in inputs])
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_is_a_well_formed_operator_and_compiles_whole() -> None:
    rewards, values, ends = random_rollout(3, 5)
    arguments = (rewards.requires_grad_(), values.requires_grad_(), ends, 0.9, 0.8)
    torch.library.opcheck(torch.ops.iris_fast_kernels.lambda_returns.default, arguments)
    compiled = torch.compile(lambda_returns, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), lambda_returns(*arguments))
