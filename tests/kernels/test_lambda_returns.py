from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from iris_fast.kernels import lambda_returns

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
