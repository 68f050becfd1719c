"""The cases of single kernels: a peer whose outputs are wrong has no time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import compiling
from benchmarks.cases import kernel_lambda_returns, kernel_sampling, kernel_vq_lookup, layer_launches
from benchmarks.report.tables import text_of
from benchmarks.side_by_side import Machine, compare_and_time
from benchmarks.timing import Timing
from iris_fast.graphs import Uncaptured
from iris_fast.imagination.token_pass import TokenPasses
from iris_fast.kernels import sample_categorical
from tests.support.agents import micro_agent

CPU = torch.device("cpu")


MACHINE = Machine(CPU, 1e9, {torch.float32: 1e9}, 3)


def lambda_returns_measured(compile_it: bool = False) -> dict[str, Any]:
    return kernel_lambda_returns.measure(MACHINE, 4, 5, compile_it)


def test_a_peer_with_other_returns_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(lambda_returns_measured()["seconds"]) == {"ours", "pytorch"}
    right = kernel_lambda_returns.lambda_returns_reference

    def wrong(rewards: Tensor, *others: Any) -> Tensor:
        return right(rewards, *others) * (1.0 if rewards.dtype == torch.float64 else 1.001)

    monkeypatch.setattr(kernel_lambda_returns, "lambda_returns_reference", wrong)
    found = lambda_returns_measured()
    assert set(found["seconds"]) == {"ours"} and "off by 0.001" in found["not_timed"]["pytorch"]
    assert found["speedup_over"] == {}
    monkeypatch.setattr(kernel_lambda_returns, "lambda_returns", wrong)
    found = lambda_returns_measured()
    assert "off by 0.001" in found["error"] and "seconds" not in found


def test_a_peer_that_fails_costs_its_own_row() -> None:
    one, facts = torch.ones(3), {"bytes": 12, "flops": 3}

    def failing() -> Tensor:
        raise RuntimeError("no such operation\nand more")

    found = compare_and_time(MACHINE, {"ours": one.clone, "peer": failing}, one, 0, facts, torch.float32)
    assert set(found["seconds"]) == {"ours"}
    assert found["not_timed"] == {"peer": "failed: RuntimeError: no such operation"}
    with pytest.raises(RuntimeError, match="no such operation"):
        compare_and_time(MACHINE, {"ours": failing}, one, 0, facts, torch.float32)


@pytest.fixture
def a_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """`torch.compile` gives the function as it is; what was found out about compiling is forgotten."""
    compiling.trouble.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    yield monkeypatch
    compiling.trouble.cache_clear()


def test_what_is_compiled_is_compared_and_timed(a_compiler: pytest.MonkeyPatch) -> None:
    found = lambda_returns_measured(compile_it=True)
    assert set(found["seconds"]) == {"ours", "pytorch", "torch.compile"} and found["absent"] == {}
    a_compiler.setattr(torch, "compile", lambda function, **_: lambda *x: 1.001 * function(*x))
    found = lambda_returns_measured(compile_it=True)
    assert set(found["seconds"]) == {"ours", "pytorch"}
    assert "off by 0.001" in found["not_timed"]["torch.compile"]


def test_a_machine_without_a_compiler_says_so_once(a_compiler: pytest.MonkeyPatch) -> None:
    tried = []

    def fails(function: Any, **_: Any) -> Any:
        tried.append(function)
        raise RuntimeError("No working C++ compiler found\nwith a trace")

    a_compiler.setattr(torch, "compile", fails)
    sizes = [lambda_returns_measured(compile_it=True) for _ in range(2)]
    assert len(tried) == 1 and set(sizes[0]["seconds"]) == {"ours", "pytorch"}
    text = text_of("kernel_lambda_returns", {"shapes": sizes})
    why = "torch.compile: does not compile here: RuntimeError: No working C++ compiler found"
    assert text.count(why) == 1 and text.count("torch.compile") == 1


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
    found = kernel_sampling.measure(64, 16, CPU, (1e9, 1e9), 3, compile_it=False)
    assert "torch.multinomial" not in found["seconds_without_graphs"]
    assert "stray" in found["not_timed"]["torch.multinomial"]
    assert set(found["speedup_over"]) == {"exponential race"}
    assert set(found["speedup_over_without_graphs"]) == {"torch.distributions"}


def kept_by_hand(row: list[float]) -> list[int]:
    """The classes that top-k 3 and top-p 0.6 leave of a row of distinct logits, one by one."""
    order = sorted(range(len(row)), key=lambda index: -row[index])[:3]
    masses = torch.tensor([row[index] for index in order], dtype=torch.float64).softmax(0).tolist()
    kept, mass = [], 0.0
    for index, share in zip(order, masses, strict=True):
        if mass < 0.6:
            kept.append(index)
        mass += share
    return kept


def test_what_truncation_leaves_is_counted_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_sampling, "TRUNCATION", {"top_k": 3, "top_p": 0.6})
    logits = shape_of((200, 7))
    probabilities, sure = kernel_sampling.truncated(logits)
    assert sure.all()
    for row, found in zip(logits, probabilities, strict=True):
        kept = kept_by_hand(row.tolist())
        assert found.nonzero().flatten().tolist() == sorted(kept)
        torch.testing.assert_close(found[kept], row.double()[kept].softmax(0))
    tied = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])  # the third and fourth tie: all of them stay
    assert kernel_sampling.truncated(tied)[0][0].count_nonzero() == 2 + 2
    near = torch.tensor([[0.6, 0.3, 0.1]]).log()
    assert not kernel_sampling.truncated(near)[1].any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_k": None},
        {"top_p": None},
        {"top_k": 49, "top_p": None},
        {"top_p": 0.8},
        {"temperature": 1.01},
    ],
    ids=["no top-k", "no top-p", "one fewer", "less mass", "temperature"],
)
def test_truncated_draws_that_are_wrong_have_no_time(
    wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)

    def ours(logits: Tensor, **options: Any) -> Any:
        return sample_categorical(logits, **(options | wrong if "top_k" in options else options))

    monkeypatch.setattr(kernel_sampling, "sample_categorical", ours)
    monkeypatch.setattr(kernel_sampling, "TRUNCATION", {"top_k": 50, "top_p": 0.97})
    found = kernel_sampling.measure(1024, 512, CPU, (1e9, 1e9), 1, compile_it=False)
    assert "with top-k and top-p a token" in found["error"] and "seconds" not in found


@pytest.mark.parametrize("size", [(1, 3), (64, 512), (1024, 3), (64, 8192)])
def test_ours_draws_rightly_in_all_its_ways(size: tuple[int, int]) -> None:
    logits, seed = shape_of(size), torch.zeros((), dtype=torch.int64)
    place = torch.zeros((), dtype=torch.int64)
    draw = partial(sample_categorical, logits, seed=seed, position=place, purpose=0)
    assert kernel_sampling.wrong_draws(draw, logits, seed) is None


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


def test_a_lookup_is_compared_with_others_that_are_as_exact() -> None:
    seconds = {"ours ieee": 2.0, "ours bf16": 1.0, "pytorch": 4.0, "pytorch bf16": 0.5, "flash-kmeans": 3.0}
    times = {name: Timing((value,) * 5) for name, value in seconds.items()}
    best = kernel_vq_lookup.speedups(times)["speedup_over_the_best_other"]
    assert {name: (facts["other"], facts["ratio"]) for name, facts in best.items()} == {
        "ours ieee": ("pytorch", 2.0),
        "ours bf16": ("pytorch bf16", 0.5),
    }
    assert kernel_vq_lookup.speedups({"ours ieee": times["ours ieee"]}) == {}
