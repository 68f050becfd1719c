"""The cases of single kernels: a peer whose outputs are wrong has no time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.cases import kernel_lambda_returns, kernel_sampling, layer_launches
from iris_fast.graphs import Uncaptured
from iris_fast.imagination.token_pass import TokenPasses
from tests.models.agents import micro_agent

CPU = torch.device("cpu")


def lambda_returns_measured() -> dict[str, Any]:
    return kernel_lambda_returns.measure(4, 5, CPU, 1e9, 3, compiled=False)


def test_a_peer_with_other_returns_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(lambda_returns_measured()["seconds"]) == {"ours", "pytorch"}
    right = kernel_lambda_returns.lambda_returns_reference

    def wrong(rewards: Tensor, *others: Any) -> Tensor:
        return right(rewards, *others) * (1.0 if rewards.dtype == torch.float64 else 1.001)

    monkeypatch.setattr(kernel_lambda_returns, "lambda_returns_reference", wrong)
    found = lambda_returns_measured()
    assert set(found["seconds"]) == {"ours"} and "off by 0.001" in found["not_timed"]["pytorch"]
    assert "speedup_over_pytorch" not in found
    monkeypatch.setattr(kernel_lambda_returns, "lambda_returns", wrong)
    found = lambda_returns_measured()
    assert "off by 0.001" in found["error"] and "seconds" not in found


def shape_of(size: tuple[int, int]) -> Tensor:
    return 3 * torch.randn(*size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(1, 3), (1, 8192), (64, 512), (1024, 3)])
def test_right_ways_of_drawing_pass(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = shape_of(size)
    for draw in (kernel_sampling.multinomial, kernel_sampling.categorical, kernel_sampling.exponential_race):
        assert kernel_sampling.strays(partial(draw, logits), logits) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda logits: logits.argmax(-1),
        lambda logits: torch.randint(logits.shape[1], (len(logits),)),
        lambda logits: kernel_sampling.multinomial(logits / 2),
        lambda logits: (kernel_sampling.multinomial(logits) + 1) % logits.shape[1],
        lambda logits: kernel_sampling.multinomial(logits) - 1,
    ],
    ids=["largest", "uniform", "temperature", "shifted", "negative"],
)
@pytest.mark.parametrize("size", [(1, 512), (64, 512)])
def test_wrong_ways_of_drawing_stray(wrong: Callable[[Tensor], Tensor], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = shape_of(size)
    assert "not timed" in (kernel_sampling.strays(lambda: wrong(logits), logits) or "")


def test_a_straying_peer_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_sampling, "multinomial", lambda logits: logits.argmax(-1))
    found = kernel_sampling.measure(64, 16, CPU, 1e9, 3, compiled=False)
    assert "torch.multinomial" not in found["seconds_without_graphs"]
    assert "stray" in found["not_timed"]["torch.multinomial"]
    assert set(found["speedup_over"]) == {"exponential race"}
    assert set(found["speedup_over_without_graphs"]) == {"torch.distributions"}


def forms_measured() -> dict[str, Any]:
    return layer_launches.measure(micro_agent(), Uncaptured(CPU), "float32", 1, 1, 2)


def test_rollouts_of_both_forms_are_timed_where_their_passes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    found = forms_measured()
    assert list(found["seconds"]) == ["5 launches", "2 launches"]
    assert found["difference"] < 1e-5 and set(found["speedup_over"]) == {"2 launches"}
    right = TokenPasses._two_launches_a_layer

    def wrong(self: TokenPasses, x: Tensor, held: int) -> Tensor:
        return right(self, x, held) * 1.001

    monkeypatch.setattr(TokenPasses, "_two_launches_a_layer", wrong)
    found = forms_measured()
    assert "differ by 0.001" in found["error"] and "seconds" not in found
