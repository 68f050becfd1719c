"""The registry of benchmark cases, and the state that the cases of a run share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .harness import Machine, Work, measured_machine, timed_size
from .plan import Cost, Expected, Plan
from .record import Label, Result, Size
from .systems.client import Systems, Worker
from .timing import Round, Timing, in_turn

# In this order, because `projection` uses the cases before it, and earlier cases get their rounds first.
FIRST = (
    *("rollout", "token_generation", "frame_decoding", "gradient_steps"),
    *("playing", "environments", "projection"),
)


GPU_SHARE = 0.3  # of the time on two CPU cores that a GPU is taken to need; no GPU has run these yet


@dataclass
class Run:
    """One call of the command: its options, and the state that its cases share.

    `plan` shares out the time; `batches`, where given, are the only batch sizes to take, and `rounds` stands for the
    rounds that comparisons of systems usually have; `precision`, where given, is the only one to take of cases that
    take several; `trained`, where given, is the folder of a training run, for
    cases about what one has learned; `results` are those of the cases so far; `shared` holds what is measured once.
    """

    quick: bool
    systems: Systems
    plan: Plan = field(default_factory=lambda: Plan(600.0))
    batches: tuple[int, ...] | None = None
    trained: Path | None = None
    rounds: int | None = None
    precision: str | None = None
    results: dict[str, Result] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.systems.device

    @property
    def full(self) -> bool:
        """Whether to run all sizes, however long they take."""
        return self.plan.unlimited

    def machine(self) -> Machine:
        """The device with its ceilings, measured once."""
        found: Machine = self.once("machine", lambda run: measured_machine(run.quick, run.device))
        return replace(found, rounds=max(3, round(self.plan.share() * found.rounds)))

    def usual(self, size: Cost) -> Cost:
        """A size with the rounds that were asked for instead of its usual ones; two at the most with `quick`."""
        rounds = self.rounds or size.rounds
        return size._replace(rounds=min(rounds, 2) if self.quick else rounds)

    def asked(
        self, sides: Iterable[str], ask: Callable[[Worker, int], float | list[float]]
    ) -> dict[str, Round]:
        """What times each side: `ask` of its process, from the number of a round to seconds."""
        return {side: partial(ask, self.systems.worker(side)) for side in sides}

    def in_turn(self, sides: Mapping[str, Round], sizes: Sequence[Cost]) -> dict[str, Timing]:
        """Times sides for as many rounds as the plan allows; `sizes`: the current size and the next ones."""
        costs = [self.usual(size) for size in sizes]
        if self.quick:
            return in_turn(sides, lambda _: costs[0].rounds, again=False)
        return in_turn(sides, lambda seconds: self.plan.rounds(seconds, costs))

    def timed(
        self, what: dict[str, Label], times: Mapping[str, Timing], work: Work, cost: Cost, **others: Any
    ) -> Size:
        """The record of a size; it notes a reduced number of rounds."""
        usual = self.usual(cost).rounds
        fewer = len(next(iter(times.values())).seconds) < usual
        return timed_size(what, times, work, usual_rounds=usual if fewer else None, **others)

    def takes(self, batch: int) -> bool:
        """Whether this batch size was requested."""
        return self.batches is None or batch in self.batches

    def takes_precision(self, name: str) -> bool:
        """Whether this precision was requested."""
        return self.precision in (None, name)

    def once(self, name: str, make: Callable[[Run], Any]) -> Any:
        """The result of `make`, which is called the first time only."""
        if name not in self.shared:
            self.shared[name] = make(self)
        return self.shared[name]


Function = Callable[[Run], Result]


@dataclass(frozen=True)
class Case:
    """A measurement; `minutes` is what it takes on two CPU cores, `least` with a single round of each size.

    `default`: whether it runs when no cases are named.
    """

    name: str
    run: Function
    description: str
    minutes: float
    default: bool
    least: float

    def expected(self, device: torch.device) -> Expected:
        """The expected time before any round has shown the speed of the device."""
        share = 60.0 if device.type == "cpu" else 60 * GPU_SHARE
        return Expected(self.name, share * self.minutes, share * self.least)


CASES: dict[str, Case] = {}


def case(
    name: str, minutes: float, default: bool = False, least: float | None = None
) -> Callable[[Function], Function]:
    """Registers a function as a case; the first line of its docstring describes it."""

    def register(run: Function) -> Function:
        description = (run.__doc__ or "").strip().splitlines()[0]
        CASES[name] = Case(name, run, description, minutes, default, minutes if least is None else least)
        return run

    return register
