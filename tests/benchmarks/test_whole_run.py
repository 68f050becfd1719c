"""Acting, reconstructing and the policy alone: compared with the oracle, then timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.agreement import agreement_of, refusals
from benchmarks.cases.whole_run import playing, projection
from benchmarks.registry import Run
from benchmarks.report.tables import text_of


def test_what_a_player_does_is_timed(run: Run) -> None:
    result = playing(run)
    sizes = [(size.what["what"], size.what["batch"]) for size in result.sizes]
    assert sizes == [("act", 1), ("act", 2), ("encode and decode", 2), ("policy alone", 2)]
    assert all(size.seconds["ours"].median > 0 for size in result.sizes)


def test_other_reconstructions_are_not_timed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = run.systems.worker("ours")
    call = worker.call

    def off(method: str, *arguments: Any) -> Any:
        found = call(method, *arguments)
        return (found[0], 0.9 * found[1]) if method == "reconstruct" else found

    monkeypatch.setattr(worker, "call", off)
    size = playing(run).sizes[2]
    assert "reconstructions differ from the oracle's by 0.1" in size.missing and not size.seconds


class OffByOne:
    """A policy whose values are off by 1."""

    def __init__(self, policy: Any):
        self.policy = policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)

    def __call__(self, frames: torch.Tensor, state: Any) -> Any:
        output = self.policy(frames, state)
        return output._replace(values=output.values + 1)


def test_the_engines_own_policy_is_compared(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    system = run.systems.worker("ours").system  # type: ignore[attr-defined]
    load = system.load

    def load_another(weights: Any) -> None:
        load(weights)
        system.engine.policy = OffByOne(system.engine.policy)

    monkeypatch.setattr(system, "load", load_another)
    monkeypatch.setattr(run, "shared", {key: run.shared[key] for key in ("machine", "weights")})
    assert "its values differ from the oracle's" in refusals(agreement_of(run))["ours"]


def test_a_quick_run_is_not_projected(run: Run) -> None:
    run.results["playing"] = playing(run)
    text = text_of("projection", projection(run))
    assert "needs the cases gradient_steps, environments in the same run" in text
