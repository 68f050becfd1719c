"""Feeds the C++ engine random shapes, types, layouts and values: each call works or raises a documented exception.

    python -m tests.imagination.fuzz_cpu_engine --seconds 60    # or --calls 500, the same ones every time

Prints the number of working and refused calls of each kind. A crash ends the process; the seed repeats it.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.imagination.fuzz_inputs import Refused
from tests.imagination.fuzz_rollouts import RolloutCalls


class Fuzzer(RolloutCalls):
    """One stream of random calls; `seed` decides all of them."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.counts: Counter[str] = Counter()

    def run(self, seconds: float, most: float = math.inf) -> None:
        """Calls for so long, or so often."""
        calls: list[Callable[[], Any]] = [
            self.model,
            self.dream,
            self.restart,
            self.step,
            self.step,
            self.draw,
        ]
        calls += [self.pool, self.frame_model, self.decode, self.encode, self.policy, self.features]
        calls += [self.recurrence, self.recur, self.roll_out]
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.counts.total() < most:
            call = self.pick(calls)
            name = call.__name__
            try:
                call()
                self.counts[f"{name} worked"] += 1
            except Refused:
                self.counts[f"{name} refused"] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--calls", type=int, help="how many calls, however long they take")
    parser.add_argument("--seed", type=int, default=0, help="what decides the calls (default: 0)")
    arguments = parser.parse_args()
    fuzzer = Fuzzer(arguments.seed)
    if arguments.calls is None:
        fuzzer.run(arguments.seconds)
    else:
        fuzzer.run(math.inf, arguments.calls)
    for name in sorted(fuzzer.counts):
        print(f"{name}: {fuzzer.counts[name]}")


if __name__ == "__main__":
    main()
