"""The cases of single kernels: a peer with wrong outputs gets no time."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks import peers
from benchmarks.cases import layer_launches
from benchmarks.harness import Machine
from benchmarks.kernels import measure, quantizer, sampling, timed_operations
from benchmarks.kernels.table import Comparison
from benchmarks.record import Result, Size
from benchmarks.report.tables import text_of
from benchmarks.timing import Timing
from iris_fast.graphs import Uncaptured
from iris_fast.imagination.token_pass import TokenPasses
from iris_fast.kernels import sample_categorical
from iris_fast.kernels.common.spec import Problem
from tests.support.agents import micro_agent

CPU = torch.device("cpu")
MACHINE = Machine(CPU, 1e9, {"float32": 1e9}, 3)


# The module: `iris_fast.kernels.lambda_returns` is its function.
returns: Any = importlib.import_module("iris_fast.kernels.lambda_returns")


def problem_of(name: str, **size: Any) -> Problem:
    """The problem of an operation on the CPU."""
    _, benchmark = timed_operations()[name]
    return benchmark.problem(CPU, **size)


def returns_measured(compile_it: bool = False) -> Size:
    made = Comparison(problem_of("lambda_returns", batch=4, time=5), compile_it)
    (size,) = made.measured(MACHINE, "sizes")
    return size


def test_a_peer_with_other_returns_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(returns_measured().seconds) == {"ours", "pytorch"}
    right = returns.lambda_returns_reference

    def wrong(rewards: Tensor, *others: Any) -> Tensor:
        return right(rewards, *others) * (1.0 if rewards.dtype == torch.float64 else 1.001)

    monkeypatch.setattr(returns, "lambda_returns_reference", wrong)
    found = returns_measured()
    assert set(found.seconds) == {"ours"} and "off by 0.001" in found.not_timed["pytorch"]
    assert found.ratios == {}
    monkeypatch.setattr(returns, "lambda_returns", wrong)
    found = returns_measured()
    assert "off by 0.001" in found.missing and not found.seconds


def test_a_peer_that_fails_costs_its_own_row() -> None:
    one = torch.ones(3)

    def failing() -> Tensor:
        raise RuntimeError("no such operation\nand more")

    problem = Problem({}, 3, 12, {"ours": one.clone}, expected=lambda: one)
    peer = Comparison(problem, others={"peer": lambda: failing})
    (found,) = peer.measured(MACHINE, "sizes")
    assert set(found.seconds) == {"ours"}
    assert found.not_timed == {"peer": "failed: RuntimeError: no such operation"}
    with pytest.raises(RuntimeError, match="no such operation"):
        Comparison(replace(problem, ours={"ours": failing})).measured(MACHINE, "sizes")


def test_sides_that_wait_for_the_host_are_timed_beside_ours_in_a_table_of_their_own() -> None:
    one = torch.ones(3)
    problem = Problem({}, 3, 12, {"ours": one.clone}, expected=lambda: one)
    made = Comparison(problem, uncaptured={"peer": lambda: one.clone})
    captured, waiting = made.measured(MACHINE, "sizes")
    assert (captured.table, list(captured.seconds)) == ("sizes", ["ours"])
    assert (waiting.table, list(waiting.seconds)) == ("sizes without CUDA graphs", ["ours", "peer"])


@pytest.mark.parametrize("name", timed_operations())
def test_every_operation_is_timed_beside_plain_pytorch(name: str) -> None:
    """The sizes of the smoke test, and those of the documentation's row among the usual ones."""
    _, benchmark = timed_operations()[name]
    result = measure(name, MACHINE, quick=True)
    assert result.sizes and not any(size.missing for size in result.sizes)
    for size in result.timed():
        others = [side for side in size.seconds if not side.startswith("ours")]
        assert others and size.flops and size.bytes, size
    for cuda, wanted in ((False, benchmark.row.cpu), (True, benchmark.row.gpu)):
        labels = [label_of(name, **size) for size in benchmark.sizes(cuda, False)]
        assert any(all(label.get(key) == value for key, value in wanted.items()) for label in labels)


def label_of(name: str, compile_it: bool = False, **size: Any) -> dict[str, Any]:
    """The label of a size, without its numbers."""
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        return problem_of(name, **size).what


@pytest.fixture
def a_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """`torch.compile` gives the function as it is; what was found out about compiling is forgotten."""
    peers.trouble.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    yield monkeypatch
    peers.trouble.cache_clear()


def test_what_is_compiled_is_compared_and_timed(a_compiler: pytest.MonkeyPatch) -> None:
    found = returns_measured(compile_it=True)
    assert set(found.seconds) == {"ours", "pytorch", "torch.compile"} and found.absent == {}
    a_compiler.setattr(torch, "compile", lambda function, **_: lambda *x: 1.001 * function(*x))
    found = returns_measured(compile_it=True)
    assert set(found.seconds) == {"ours", "pytorch"}
    assert "off by 0.001" in found.not_timed["torch.compile"]


def test_a_machine_without_a_compiler_says_so_once(a_compiler: pytest.MonkeyPatch) -> None:
    tried = []

    def fails(function: Any, **_: Any) -> Any:
        tried.append(function)
        raise RuntimeError("No working C++ compiler found\nwith a trace")

    a_compiler.setattr(torch, "compile", fails)
    sizes = [returns_measured(compile_it=True) for _ in range(2)]
    assert len(tried) == 1 and set(sizes[0].seconds) == {"ours", "pytorch"}
    text = text_of("kernel_lambda_returns", Result(sizes))
    why = "torch.compile: does not compile here: RuntimeError: No working C++ compiler found"
    assert text.count(why) == 1 and text.count("torch.compile") == 1


def shape_of(size: tuple[int, int]) -> Tensor:
    return 3 * torch.randn(*size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(1, 3), (1, 8192), (64, 512), (1024, 3)])
def test_right_ways_of_drawing_pass(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = shape_of(size)
    for draw in (sampling.multinomial, sampling.categorical, sampling.exponential_race):
        assert sampling.strays(partial(draw, logits), logits) is None


@pytest.mark.parametrize(
    "wrong",
    [
        lambda logits: logits.argmax(-1),
        lambda logits: torch.randint(logits.shape[1], (len(logits),)),
        lambda logits: sampling.multinomial(logits / 2),
        lambda logits: (sampling.multinomial(logits) + 1) % logits.shape[1],
        lambda logits: sampling.multinomial(logits) - 1,
    ],
    ids=["largest", "uniform", "temperature", "shifted", "negative"],
)
@pytest.mark.parametrize("size", [(1, 512), (64, 512)])
def test_wrong_ways_of_drawing_stray(wrong: Callable[[Tensor], Tensor], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = shape_of(size)
    assert "not timed" in (sampling.strays(lambda: wrong(logits), logits) or "")


def draws(rows: int, classes: int) -> Comparison:
    return sampling.beside_draws(problem_of("sample_categorical", rows=rows, classes=classes), False)


def test_a_straying_peer_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "multinomial", lambda logits: logits.argmax(-1))
    captured, waiting = draws(64, 16).measured(MACHINE, "sizes")
    assert "torch.multinomial" not in waiting.seconds
    assert "stray" in waiting.not_timed["torch.multinomial"]
    assert [side for side in captured.ratios if not side.startswith("ours")] == ["exponential race"]
    assert set(waiting.ratios) == {"torch.distributions"}


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
    monkeypatch.setattr(sampling, "TRUNCATION", {"top_k": 3, "top_p": 0.6})
    logits = shape_of((200, 7))
    probabilities, sure = sampling.truncated(logits)
    assert sure.all()
    for row, found in zip(logits, probabilities, strict=True):
        kept = kept_by_hand(row.tolist())
        assert found.nonzero().flatten().tolist() == sorted(kept)
        torch.testing.assert_close(found[kept], row.double()[kept].softmax(0))
    tied = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])  # the third and fourth tie: all of them stay
    assert sampling.truncated(tied)[0][0].count_nonzero() == 2 + 2
    near = torch.tensor([[0.6, 0.3, 0.1]]).log()
    assert not sampling.truncated(near)[1].any()


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

    for module in (sampling, importlib.import_module("iris_fast.kernels.sample_categorical")):
        monkeypatch.setattr(module, "sample_categorical", ours)
        monkeypatch.setattr(module, "TRUNCATION", {"top_k": 50, "top_p": 0.97})
    (found,) = draws(1024, 512).measured(MACHINE, "sizes")
    assert "with top-k and top-p a token" in found.missing and not found.seconds


@pytest.mark.parametrize("size", [(1, 3), (64, 512), (1024, 3), (64, 8192)])
def test_ours_draws_rightly_in_all_its_ways(size: tuple[int, int]) -> None:
    logits, seed = shape_of(size), torch.zeros((), dtype=torch.int64)
    place = torch.zeros((), dtype=torch.int64)
    draw = partial(sample_categorical, logits, seed=seed, position=place, purpose=0)
    assert sampling.wrong_draws(draw, logits, seed) is None


def forms_measured() -> Size:
    return layer_launches.measure(micro_agent(), Uncaptured(CPU), "float32", 1, 1, 2)


def test_rollouts_of_both_forms_are_timed_where_their_passes_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    found = forms_measured()
    assert list(found.seconds) == ["5 launches", "2 launches"]
    assert found.more["difference"] < 1e-5 and set(found.ratios) == {"2 launches"}
    right = TokenPasses._two_launches_a_layer

    def wrong(self: TokenPasses, x: Tensor, held: int) -> Tensor:
        return right(self, x, held) * 1.001

    monkeypatch.setattr(TokenPasses, "_two_launches_a_layer", wrong)
    found = forms_measured()
    assert "differ by 0.001" in found.missing and not found.seconds


def test_a_lookup_is_compared_with_others_that_are_as_exact() -> None:
    seconds = {"ours ieee": 2.0, "ours bf16": 1.0, "pytorch": 4.0, "pytorch bf16": 0.5, "flash-kmeans": 3.0}
    times = {name: Timing((value,) * 5) for name, value in seconds.items()}
    best = quantizer.over_the_best_other(times)
    assert {name: (ratio.than, ratio.ratio) for name, ratio in best.items()} == {
        "ours ieee": ("pytorch", 2.0),
        "ours bf16": ("pytorch bf16", 0.5),
    }
    assert quantizer.over_the_best_other({"ours ieee": times["ours ieee"]}) == {}
