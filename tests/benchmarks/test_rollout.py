"""Systems in separate processes: they are compared before they are timed, and a wrong one gets no time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import agreement as agreement_module
from benchmarks.agreement import FLOAT32, agreement_of, difference, refusals, weights_of
from benchmarks.cases import rollout as rollout_module
from benchmarks.cases.gradient_steps import measure_part, segments
from benchmarks.cases.rollout import frame_decoding, rollout
from benchmarks.cases.token_generation import token_generation
from benchmarks.plan import Cost
from benchmarks.record import Result, Size
from benchmarks.registry import Run
from benchmarks.report.tables import flops_a_second, text_of
from benchmarks.systems.client import Systems, Worker
from benchmarks.systems.weights import load_agent_file
from iris_fast.errors import UserError
from iris_fast.imagination.frame_decoder import FrameDecoder

from .conftest import local_run

OURS = ["ours", "ours_float16_cache", "pytorch"]
CPU = torch.device("cpu")


@pytest.mark.parametrize("case", [rollout, token_generation, frame_decoding])
def test_every_side_is_compared_and_timed(run: Run, case: Callable[[Run], Result]) -> None:
    result = case(run)
    assert refusals(agreement_of(run)) == result.not_timed == {}
    assert [side for side, facts in result.sides.items() if facts["agrees"]] == OURS
    assert result.sides["pytorch"]["trajectory"] == {"equal": True, "steps": 3, "rows": 2}
    assert max(result.sides["ours"]["differences"].values()) < 1e-3
    (size,) = result.sizes
    first, *others = size.seconds
    assert first == "ours" and set(size.ratios) == set(others) and "pytorch" in others
    for side, spread in size.seconds.items():
        assert 0 < spread.quartile_1 <= spread.median <= spread.quartile_3 and spread.rounds == 2
        assert size.flops and flops_a_second(size, side) == pytest.approx(size.flops / spread.median)
    text = text_of("the case", result)
    assert "plain PyTorch" in text and "ours is faster" in text and "GFLOP/s" in text


@pytest.fixture
def switches() -> Iterator[None]:
    """PyTorch's switches for TF32 are afterwards as before."""
    both = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [one.allow_tf32 for one in both]
    yield
    for one, value in zip(both, before, strict=True):
        one.allow_tf32 = value  # type: ignore[attr-defined]


def test_our_low_precision_is_compared_by_its_rollout_and_timed(
    run: Run, monkeypatch: pytest.MonkeyPatch, switches: None
) -> None:
    """The side of a GPU, here uncaptured; a wrong decoder is found."""
    monkeypatch.setattr(Systems, "sides", lambda _: ["ours", "ours_bf16"])
    run = local_run(like=run)
    assert refusals(agreement_of(run)) == {}
    facts = agreement_of(run)["ours_bf16"]
    assert facts["trajectory"]["equal"] and facts["trajectory"]["share_of_tokens"] > 0.25
    (size,) = rollout(run).sizes
    assert size.seconds.keys() == {"ours", "ours_bf16"} and torch.backends.cudnn.allow_tf32
    costs = [Cost(1, 1.0)]
    for part in ("tokenizer", "world_model"):
        assert "ours_bf16" in measure_part(run, part, ["ours", "pytorch", "ours_bf16"], costs).seconds
    monkeypatch.setattr(FrameDecoder, "frames_of", lambda _, tokens: torch.zeros(len(tokens), 3, 64, 64))
    run.shared.pop("agreement")
    assert "its first frames differ" in refusals(agreement_of(run))["ours_bf16"]


def test_a_side_that_disagrees_has_no_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A float16 cache held to float32's rounding is a real disagreement."""
    monkeypatch.setitem(agreement_module.TOLERANCE, "ours_float16_cache", 1e-9)
    monkeypatch.setattr(run, "shared", {key: run.shared[key] for key in ("machine", "weights")})
    result = token_generation(run)
    (size,) = result.sizes
    assert list(size.seconds) == ["ours", "pytorch"] and list(size.ratios) == ["pytorch"]
    assert "not timed" in result.not_timed["ours_float16_cache"]
    text = text_of("token_generation", result)
    assert "differ from the oracle's by" in text
    assert [line for line in text.splitlines() if "float16" in line] == [
        f"  ours, float16 cache: {result.not_timed['ours_float16_cache']}"
    ]


def test_nothing_is_timed_where_ours_disagrees(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {side: dict(facts) for side, facts in agreement_of(run).items()}
    wrong["ours"] |= {"agrees": False, "error": "its rewards differ: not timed"}
    monkeypatch.setitem(run.shared, "agreement", wrong)
    for case in (rollout, token_generation, frame_decoding):
        assert case(run).sizes == []


def test_an_engine_that_is_one_graph_is_timed_by_its_rollouts_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {side: facts | {"has_parts": side != "ours"} for side, facts in agreement_of(run).items()}
    monkeypatch.setitem(run.shared, "agreement", whole)
    for case in (token_generation, frame_decoding):
        result = case(run)
        assert result.sizes == [] and "see the case rollout" in text_of("case", result)


def test_a_trajectory_of_other_weights_is_another_one(run: Run) -> None:
    worker, weights = run.systems.worker("pytorch"), weights_of(run)
    frames = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    worker.call("load", weights.file)
    found = agreement_module._trajectory(run, "pytorch", weights.steep, frames)
    assert not found["equal"]


def test_a_process_answers_fails_in_words_and_lives_on(run: Run) -> None:
    """One process, from its start to its end, with what goes through the pipe."""
    weights = weights_of(run)
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    with Worker("plain", CPU, 1) as worker:
        with pytest.raises(RuntimeError, match=r"(?s)'plain' failed.*FileNotFoundError"):
            worker.call("load", Path("nowhere.pt"))
        worker.call("load", weights.file)
        seconds, frames = worker.call("decode", tokens)
        assert seconds > 0 and frames.shape == (1, 3, 64, 64)
        assert difference(frames, weights.agent.tokenizer.frames_of(tokens)) < FLOAT32
        assert worker.call("exactly", True)  # PyTorch's default; it changes its arithmetic
        assert not worker.call("exactly", False)
        assert worker.call("exactly", True)
    with pytest.raises(RuntimeError, match=r"(?s)'nothing' failed.*there is no system 'nothing'"):
        Worker("nothing", CPU, 1)


def test_plain_pytorch_decodes_no_more_frames_than_it_is_asked_for(run: Run) -> None:
    """The oracle fills up pieces of 8, whose time would be held against PyTorch."""
    system = run.systems.worker("pytorch").system  # type: ignore[attr-defined]
    system.load(weights_of(run).file)
    counts: list[int] = []
    tokenizer = system.agent.tokenizer

    def counted(function: Any) -> Any:
        def call(rows: torch.Tensor) -> Any:
            counts.append(len(rows))
            return function(rows)

        return call

    tokenizer.decode, tokenizer.encode = counted(tokenizer.decode), counted(tokenizer.encode)
    try:
        system.decode(torch.zeros(1, 16, dtype=torch.int64))
        system.decode(torch.zeros(11, 16, dtype=torch.int64))  # the same frame each: none is remembered
        system.rollout(torch.rand(1, 3, 64, 64), 2, 0)
    finally:
        del tokenizer.decode, tokenizer.encode
    assert counts == [1, 8, 3, 1, 1, 1]


def test_pytorch_compiled_is_a_side_that_agrees(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler is left out, which takes a minute; what it is given and what is made of it is all there."""
    compiled: list[bool] = []

    def as_it_is(function: Any, dynamic: bool) -> Any:
        compiled.append(dynamic)
        return function

    monkeypatch.setattr(torch, "compile", as_it_is)
    other = local_run(compiled=True, like=run)
    assert other.systems.sides() == [*OURS, "pytorch_compiled"]
    result = token_generation(other)
    assert list(result.sizes[0].seconds) == [*OURS, "pytorch_compiled"]
    facts = result.sides["pytorch_compiled"]
    assert facts["trajectory"]["equal"] and facts["differences"]["observations"] < FLOAT32
    assert compiled == [True, True]  # once, though weights were loaded twice


def test_a_compiler_that_fails_costs_its_own_column(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(function: Any, **_: Any) -> Any:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", fails)
    result = token_generation(local_run(compiled=True, like=run))
    assert list(result.sizes[0].seconds) == OURS
    assert result.not_timed == {"pytorch_compiled": "it failed: No working C++ compiler found"}


def test_large_batches_are_said_to_take_longer_than_there_is(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU batch 256 is measured where it is asked for, and else the table says what it would take."""
    monkeypatch.setattr(rollout_module, "CPU_SIZES", {2: Cost(1, 1.0), 256: Cost(1, 1.0)})
    monkeypatch.setattr(rollout_module, "HORIZON_CPU", 2)
    monkeypatch.setattr(rollout_module, "predicted_seconds", lambda *_: 90.0)
    result = rollout(Run(False, run.systems, shared=run.shared))
    why = "left out: it would take 90 s (--batches 256 --full)"
    assert result.sizes[1] == Size({"batch": 256, "horizon": 2}, missing=why)
    assert "left out: it would take 90 s" in text_of("rollout", result)


def test_a_peer_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="only peer"):
        Systems(CPU, 1, None, ("another",))


def test_the_public_implementation_and_simulusion_agree(request: pytest.FixtureRequest) -> None:
    """With `--reference CHECKOUT`; Simulusion where it is installed."""
    checkout = request.config.getoption("--reference", default=None)
    if checkout is None:
        pytest.skip("no --reference CHECKOUT given")
    peers = ("simulusion",) if find_spec("simulusion") else ()
    sides = tuple(f"{peer}_tuned" for peer in peers)
    result = rollout(local_run(checkout, peers))
    assert list(result.sizes[0].seconds) == [*OURS, "public", "public_tuned", *sides]
    assert result.sides["public"]["trajectory"]["equal"]
    if peers:
        assert list(result.sides["simulusion_tuned"]["differences"]) == ["features"]


@pytest.mark.skipif(not find_spec("simulusion"), reason="Simulusion is not installed")
def test_simulusion_trains_its_tokenizer_with_the_perceptual_network_that_it_is_given() -> None:
    before = {name: sys.modules.get(name) for name in ("torchvision", "torchvision.models")}
    other = local_run(peers=("simulusion",))
    weights, worker = weights_of(other), other.systems.worker("simulusion_tuned")
    worker.call("load", weights.perceptual_file)
    agent, lpips = worker.system.agent, load_agent_file(weights.perceptual_file)[2]  # type: ignore[attr-defined]
    assert lpips is not None
    blocks = list(agent.perceptual_loss.blocks.state_dict().values())
    assert [tuple(tensor.shape) for tensor in blocks] == [
        tuple(tensor.shape) for name, tensor in lpips.items() if name.startswith("net.")
    ]
    assert blocks[0].equal(lpips["net.slice1.0.weight"])
    assert agent.perceptual_loss.lins[4].weight.equal(lpips["lin4.model.1.weight"])
    found = worker.call("train", "tokenizer", segments("tokenizer", 2, True), 0, False, 0)
    assert 0 < found["update_seconds"] < found["seconds"]
    assert {name: sys.modules.get(name) for name in before} == before
    worker.call("load", weights.file)
    assert worker.system.agent.perceptual_loss is None  # type: ignore[attr-defined]
