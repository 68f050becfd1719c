"""Planned rounds on machines of any speed, with a simulated clock."""

from __future__ import annotations

import pytest
import torch

from benchmarks.__main__ import chosen_cases
from benchmarks.cases import environments, gradient_steps, rollout, token_generation, whole_run
from benchmarks.plan import Cost, Expected, Plan
from benchmarks.registry import CASES

# Usual seconds in all: 2 x 10 + 3 x 20 + 30 = 110 for the first, 40 for the second, 30 for the last, which has no
# rounds to spare.
FIRST = [Cost(3, 10), Cost(4, 20)]
SECOND = [Cost(4, 10)]
MADE_UP = [Expected("first", 110, 30), Expected("second", 40, 10), Expected("last", 30, 30)]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def rounds_of(
    slowness: float, minutes: float, unlimited: bool = False
) -> tuple[dict[str, list[int]], Plan, float]:
    """The rounds of each size on a machine that is so many times slower, the plan, and the seconds of all."""
    clock = Clock()
    plan = Plan(60 * minutes, MADE_UP, unlimited=unlimited, clock=clock)
    found: dict[str, list[int]] = {}
    for name, sizes in (("first", FIRST), ("second", SECOND)):
        plan.begin(name)
        for index, size in enumerate(sizes):
            clock.now += slowness * size.seconds
            rounds = plan.rounds(slowness * size.seconds, sizes[index:])
            clock.now += slowness * size.seconds * (rounds - 1)
            found.setdefault(name, []).append(rounds)
    plan.begin("last")
    clock.now += slowness * 30
    return found, plan, clock.now - 100


def test_where_there_is_time_all_rounds_are_done() -> None:
    found, plan, seconds = rounds_of(1, 4)
    assert found == {"first": [3, 4], "second": [4]} and not plan.reduced and seconds == 180


@pytest.mark.parametrize("slowness", [1.0, 1.5, 2.0, 2.5, 3.0])
def test_a_slow_machine_does_fewer_rounds_of_everything_in_time(slowness: float) -> None:
    found, plan, seconds = rounds_of(slowness, 3)
    assert seconds <= 180 or slowness > 2.5
    assert all(rounds >= 1 for counts in found.values() for rounds in counts)
    if slowness == 2.0:
        assert found["first"] < FIRST_USUAL and found["second"] < [4] and found["second"] > [1]
        assert plan.reduced == [
            f"first: {found['first'][0]} of 3",
            f"first: {found['first'][1]} of 4",
            f"second: {found['second'][0]} of 4",
        ]


FIRST_USUAL = [3, 4]


def test_a_machine_that_is_far_too_slow_does_one_round_of_everything() -> None:
    found, plan, _ = rounds_of(20, 1)
    assert found == {"first": [1, 1], "second": [1]} and len(plan.reduced) == 3 and plan.left() < 0
    assert plan.share(further=1.0) == 0.0


def test_a_machine_that_is_faster_than_the_two_cores_is_taken_as_it_is() -> None:
    found, plan, _ = rounds_of(0.1, 0.5)
    assert found == {"first": [3, 4], "second": [4]} and plan.slowness == pytest.approx(0.1)


def test_a_full_run_is_not_shortened() -> None:
    found, plan, _ = rounds_of(20, 1, unlimited=True)
    assert found == {"first": [3, 4], "second": [4]} and not plan.reduced


def test_what_the_machine_becomes_counts() -> None:
    """One that slows down after the first size takes the rounds from those that come after it."""
    clock = Clock()
    plan = Plan(200, MADE_UP, clock=clock)
    plan.begin("first")
    clock.now += 10
    assert plan.rounds(10, FIRST) == 3
    clock.now += 20
    clock.now += 60
    assert plan.rounds(60, FIRST[1:]) == 1
    plan.begin("second")
    clock.now += 30
    assert plan.rounds(30, SECOND) == 1 and plan.reduced == ["first: 1 of 4", "second: 1 of 4"]


SIZES: dict[str, list[Cost]] = {
    "rollout": [rollout.CPU_SIZES[batch] for batch in (1, 16, 64)],
    "token_generation": list(token_generation.CPU_SIZES.values()),
    "frame_decoding": list(rollout.DECODED_CPU.values()),
    "gradient_steps": [Cost(2, seconds) for seconds in gradient_steps.COSTS.values()],
    "playing": [Cost(3, 2.0)] * len(whole_run.SIZES),
    "environments": [Cost(3, 0.4)] * len(environments.SIZES),
}


def default_run(slowness: float) -> tuple[dict[str, list[int]], float]:
    """Rounds of the default cases' sizes within ten minutes, and the minutes that they took.

    What a case takes besides its rounds is what is left of its least time.
    """
    clock = Clock()
    names = chosen_cases(None)
    plan = Plan(600, [CASES[name].expected(torch.device("cpu")) for name in names], clock=clock)
    found: dict[str, list[int]] = {}
    for name in names:
        plan.begin(name)
        sizes = SIZES.get(name, [])
        fixed = 60 * CASES[name].least - sum(size.seconds for size in sizes)
        assert fixed >= 0, name
        clock.now += slowness * fixed
        for index, size in enumerate(sizes):
            clock.now += slowness * size.seconds
            rounds = plan.rounds(slowness * size.seconds, sizes[index:])
            clock.now += slowness * size.seconds * (rounds - 1)
            found.setdefault(name, []).append(rounds)
    return found, (clock.now - 100) / 60


def test_the_default_run_ends_in_ten_minutes_with_a_round_of_everything() -> None:
    usual = {name: [size.rounds for size in sizes] for name, sizes in SIZES.items()}
    assert default_run(1.0)[0] == usual
    found, minutes = default_run(1.6)
    assert minutes <= 10 and found != usual
    assert all(1 <= a <= b for name in usual for a, b in zip(found[name], usual[name], strict=True))
    assert {rounds for counts in default_run(4.0)[0].values() for rounds in counts} == {1}
