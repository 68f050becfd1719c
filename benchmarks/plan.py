"""Plans the rounds of each measurement, so that a slow machine does fewer of everything and omits nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Cost(NamedTuple):
    """One size: its usual number of rounds, and seconds of a round with every system on two Xeon cores."""

    rounds: int
    seconds: float


class Expected(NamedTuple):
    """One case: seconds on those two cores with the usual rounds, and with one round of each size."""

    name: str
    usual: float
    least: float


class Plan:
    """Shares out the time of a run while it runs; earlier cases come first.

    Each size asks after its first round, which shows how slow the machine is. The remaining time, less one round of
    everything still to come, goes to further rounds, with the same share of the usual number for this size and the
    later ones. Every size gets one round, even after the time is up.
    """

    def __init__(
        self,
        seconds: float,
        cases: Sequence[Expected] = (),
        *,
        unlimited: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`cases`: in the order in which they run. `unlimited`: all get their usual rounds."""
        self.seconds, self.unlimited, self._clock = seconds, unlimited, clock
        self.began = clock()
        self.reduced: list[str] = []
        self._waiting = list(cases)
        self._case = ""
        self._took = self._nominal = 0.0

    @property
    def slowness(self) -> float:
        """The time of rounds so far relative to the two cores; 1 before the first round."""
        return self._took / self._nominal if self._nominal else 1.0

    def left(self) -> float:
        """Seconds until the time is up; negative after it."""
        return self.began + self.seconds - self._clock()

    def begin(self, case: str) -> None:
        """Call it when a case begins."""
        self._case = case
        self._waiting = [other for other in self._waiting if other.name != case]

    def rounds(self, a_round: float, sizes: Sequence[Cost]) -> int:
        """The rounds for the first of `sizes`, given the seconds of one; the other sizes follow in the same case."""
        this, *later = sizes
        self._took += a_round
        self._nominal += this.seconds
        share = self.share((this.rounds - 1) * a_round, later)
        found = 1 + int(share * (this.rounds - 1) + 1e-9)
        if found < this.rounds:
            self.reduced.append(f"{self._case}: {found} of {this.rounds}")
        return found

    def share(self, further: float = 0.0, later: Sequence[Cost] = ()) -> float:
        """The share of further rounds that fits: `further` seconds now, and everything later."""
        if self.unlimited:
            return 1.0
        needed = sum(case.least for case in self._waiting) + sum(2 * size.seconds for size in later)
        more = sum(case.usual - case.least for case in self._waiting)
        more += sum((size.rounds - 1) * size.seconds for size in later)
        left = self.left() - self.slowness * needed
        wanted = further + self.slowness * more
        return 1.0 if wanted <= max(left, 0.0) else max(left, 0.0) / wanted
