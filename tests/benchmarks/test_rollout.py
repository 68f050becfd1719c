"""Systems in processes of their own: they agree before they are timed, and where they do not there is no time."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from benchmarks import agreement as agreement_module
from benchmarks.agreement import FLOAT32, agreement_of, difference, refusals, weights_of
from benchmarks.cases.rollout import frame_decoding, rollout
from benchmarks.cases.token_generation import token_generation
from benchmarks.registry import Run
from benchmarks.systems.client import Systems, Worker
from benchmarks.tables import text_of
from iris_fast.errors import UserError

from .conftest import local_run

OURS = ["ours", "ours_float16_cache", "pytorch"]
CPU = torch.device("cpu")


@pytest.mark.parametrize("case", [rollout, token_generation, frame_decoding])
def test_every_side_is_compared_and_timed(run: Run, case: object) -> None:
    result = case(run)  # type: ignore[operator]
    assert refusals(agreement_of(run)) == result["not_timed"] == {}
    assert [side for side, facts in result["agreement"].items() if facts["agrees"]] == OURS
    assert result["agreement"]["pytorch"]["trajectory"] == {"equal": True, "steps": 3, "rows": 2}
    assert max(result["agreement"]["ours"]["differences"].values()) < 1e-3
    (size,) = result["sizes"]
    first, *others = size["seconds"]
    assert first == "ours" and set(size["speedup_over"]) == set(others) and "pytorch" in others
    for side, timing in size["seconds"].items():
        assert 0 < timing["quartile_1"] <= timing["median"] <= timing["quartile_3"]
        rates = size["rates"][side]
        assert rates["flops_a_second"] == pytest.approx(size["flops"] / timing["median"])
    text = text_of("the case", result)
    assert "plain PyTorch" in text and "ours is faster" in text and "GFLOP/s" in text


def test_a_side_that_disagrees_has_no_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A float16 cache held to float32's rounding is a real disagreement."""
    monkeypatch.setitem(agreement_module.TOLERANCE, "ours_float16_cache", 1e-9)
    monkeypatch.setattr(run, "shared", {key: run.shared[key] for key in ("machine", "weights")})
    result = token_generation(run)
    (size,) = result["sizes"]
    assert list(size["seconds"]) == ["ours", "pytorch"] and "ours_float16_cache" not in size["rates"]
    assert "not timed" in result["not_timed"]["ours_float16_cache"]
    text = text_of("token_generation", result)
    assert "differ from the oracle's by" in text
    assert [line for line in text.splitlines() if "float16" in line] == [
        f"  ours, float16 cache: {result['not_timed']['ours_float16_cache']}"
    ]


def test_nothing_is_timed_where_ours_disagrees(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {side: dict(facts) for side, facts in agreement_of(run).items()}
    wrong["ours"] |= {"agrees": False, "error": "its rewards differ: not timed"}
    monkeypatch.setitem(run.shared, "agreement", wrong)
    for case in (rollout, token_generation, frame_decoding):
        assert case(run)["sizes"] == []


def test_an_engine_that_is_one_graph_is_timed_by_its_rollouts_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {side: facts | {"has_parts": side != "ours"} for side, facts in agreement_of(run).items()}
    monkeypatch.setitem(run.shared, "agreement", whole)
    for case in (token_generation, frame_decoding):
        result = case(run)
        assert result["sizes"] == [] and "see the case rollout" in text_of("case", result)


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
    with Worker("oracle", CPU, 1) as worker:
        with pytest.raises(RuntimeError, match=r"(?s)'oracle' failed.*FileNotFoundError"):
            worker.call("load", Path("nowhere.pt"))
        worker.call("load", weights.file)
        seconds, frames = worker.call("decode", tokens)
        assert seconds > 0 and frames.shape == (1, 3, 64, 64)
        assert difference(frames, weights.agent.tokenizer.frames_of(tokens)) < FLOAT32
    with pytest.raises(RuntimeError, match=r"(?s)'nothing' failed.*there is no system 'nothing'"):
        Worker("nothing", CPU, 1)


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
    assert list(result["sizes"][0]["seconds"]) == [*OURS, "public", "public_tuned", *sides]
    assert result["agreement"]["public"]["trajectory"]["equal"]
    if peers:
        assert list(result["agreement"]["simulusion_tuned"]["differences"]) == ["features"]
