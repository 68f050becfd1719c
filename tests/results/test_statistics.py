"""Aggregates of published scores as published, intervals as rliable's, games with uneven numbers of runs."""

from __future__ import annotations

import numpy as np
import pytest

from iris_fast.errors import UserError
from iris_fast.results import summarize
from iris_fast.results.scores import Method, published
from iris_fast.results.statistics import AGGREGATES, TAUS, improvement, rliable, score_matrix, statistics

AS_PUBLISHED = {
    "IRIS": (1.046, 0.289, 0.501, 0.512, 10),
    "SimPLe": (0.332, 0.134, 0.130, 0.729, 1),
    "SPR": (0.616, 0.396, 0.337, 0.577, 6),
}


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_aggregates_are_those_of_the_paper(name: str) -> None:
    result = summarize(methods=[name], reps=2, show=False)
    found = [round(result.aggregates[name][aggregate].value, 3) for aggregate in AGGREGATES]
    assert (*found, result.superhuman[name]) == AS_PUBLISHED[name]


def test_every_method_has_all_games_a_paper_and_a_source() -> None:
    assert len(published()) == 13
    for method in published().values():
        assert len(method.scores) == 26 and np.isfinite(score_matrix(method)).all()
        assert method.paper and method.preprint.startswith("arXiv:") and ".json" in method.source


def test_intervals_are_those_of_rliable_up_to_resampling() -> None:
    library, metrics = rliable()
    method = published()["IRIS"]
    found, profile = statistics(method, 2000, 0)
    np.random.seed(1)  # the generator that rliable draws from
    _, ends = library.get_interval_estimates(
        {"IRIS": score_matrix(method)}, lambda scores: np.array([metrics.aggregate_mean(scores)]), reps=2000
    )
    low, high = ends["IRIS"][:, 0]
    assert found["mean"].interval == pytest.approx((low, high), abs=0.1 * (high - low))
    shares, _ = library.create_performance_profile({"IRIS": score_matrix(method)}, TAUS[::40], reps=2)
    np.testing.assert_allclose(profile.shares[::40], shares["IRIS"])
    assert profile.band is not None and (profile.band[0] <= profile.band[1]).all()


def test_the_seed_decides_and_the_global_generator_stays() -> None:
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    first, again, other = (statistics(published()["IRIS"], 50, seed)[0]["IQM"] for seed in (0, 0, 1))
    assert first == again and first.value == other.value and first.interval != other.interval
    np.testing.assert_array_equal(np.random.get_state(legacy=False)["state"]["key"], before)


def test_games_with_fewer_runs_weigh_the_same_and_are_resampled_as_few() -> None:
    # In human-normalised scores Pong's two runs are 0 and 1, Boxing's three are 0, 0 and 3.
    method = Method("uneven", {"Boxing": [0.1, 0.1, 36.1], "Pong": [-20.7, 14.6]})
    assert score_matrix(method).shape == (6, 2)
    found, _ = statistics(method, 400, 0)
    assert found["mean"].value == pytest.approx((1 + 0.5) / 2)
    assert found["optimality gap"].value == pytest.approx(1 - (1 / 3 + 1 / 2) / 2)
    pong, _ = statistics(method.on(["Pong"]), 400, 0)
    assert pong["mean"].interval == pytest.approx((0, 1))  # each with a probability of a quarter
    with pytest.raises(UserError, match="same number of runs"):
        score_matrix(Method("x", {"Boxing": [0.0] * 97, "Pong": [0.0] * 98}))


def test_one_run_has_no_interval_however_many_the_other_games_have() -> None:
    method = Method("one", {"Boxing": [1.0, 2.0, 3.0], "Pong": [0.0]})
    found, profile = statistics(method, 10, 0)
    assert all(estimate.interval is None for estimate in found.values()) and profile.band is None
    assert improvement(method, published()["IRIS"], 10, 0).interval is None
    assert improvement(published()["IRIS"], method, 10, 0).interval is None
    result = summarize(methods=["EfficientZero"], reps=2, show=False)
    assert result.notes == ["no interval of EfficientZero: a game with one run does not show how runs differ"]


@pytest.mark.parametrize("other", ["SPR", "MuZero", "Simulus"])
def test_the_probability_of_improvement_is_that_of_rliable(other: str) -> None:
    _, metrics = rliable()
    ours, theirs = published()["IRIS"], published()[other]
    found = improvement(ours, theirs, 200, 0)
    expected = metrics.probability_of_improvement(score_matrix(ours), score_matrix(theirs))
    assert found.value == pytest.approx(expected)
    if found.interval is not None:
        assert found.interval[0] < found.value < found.interval[1]
    assert improvement(ours, ours, 2, 0).value == pytest.approx(0.5)
