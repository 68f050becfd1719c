"""Sides timed in turn by their own processes, and what is written down of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .registry import Run
from .side_by_side import Machine, dtype_name, measured_machine
from .timing import Timing, ratio_interval

BRIEF = 0.5  # seconds
SETTLE = 0.02  # seconds between turns, for threads of the last side that still spin


@dataclass(frozen=True)
class Work:
    """What a measurement does: operations, bytes at the least by side, and what is counted a second by name.

    `other_models` are sides whose operations are others, so that no rate of these is given.
    """

    flops: float | None
    units: dict[str, float]
    bytes_of: Callable[[str], float] | None = None
    other_models: tuple[str, ...] = ()


def machine_of(run: Run) -> Machine:
    """The device with its ceilings, measured once a run."""
    found: Machine = run.once("machine", lambda run: measured_machine(run.quick, run.device))
    return found


def in_turn(
    sides: Mapping[str, Callable[[int], float | Sequence[float]]], rounds: int
) -> dict[str, list[list[float]]]:
    """Seconds of every side by round, each round's sides one after the other, every other round backwards.

    A side is given the round's number and returns its seconds: one, or one for each part of the round. One that took
    less than `BRIEF` is asked again and the second answer counts: while others worked its process lost its caches,
    and on some machines pages of its memory, which would be most of so short a time.
    """
    seconds: dict[str, list[list[float]]] = {name: [] for name in sides}
    order = list(sides)
    for number in range(rounds):
        for name in order if number % 2 == 0 else reversed(order):
            time.sleep(SETTLE)
            found = _parts(sides[name](number))
            seconds[name].append(_parts(sides[name](number)) if sum(found) < BRIEF else found)
    return seconds


def _parts(found: float | Sequence[float]) -> list[float]:
    return [found] if isinstance(found, float) else list(found)


def measured(
    facts: dict[str, Any], times: Mapping[str, Timing], work: Work, machine: Machine, dtype: torch.dtype
) -> dict[str, Any]:
    """The record of one size: seconds, rates with their share of the ceilings, ratios to the first side (ours)."""
    first, *others = times
    if work.flops is not None:
        facts = facts | {"flops": work.flops}
    return facts | {
        "seconds": {name: timing.summary() for name, timing in times.items()},
        "rates": {name: _rates(name, timing.median, work, machine, dtype) for name, timing in times.items()},
        "speedup_over": {name: ratio_interval(times[name].seconds, times[first].seconds) for name in others},
    }


def _rates(side: str, seconds: float, work: Work, machine: Machine, dtype: torch.dtype) -> dict[str, float]:
    found = {f"{unit}_a_second": count / seconds for unit, count in work.units.items()}
    if side in work.other_models or work.flops is None:
        return found
    found |= {
        "flops_a_second": work.flops / seconds,
        "share_of_matrix_rate": work.flops / seconds / machine.rates[dtype],
    }
    if work.bytes_of is not None:
        rate = work.bytes_of(side) / seconds
        found |= {"bytes_a_second": rate, "share_of_copy_bandwidth": rate / machine.bandwidth}
    return found


def header(run: Run, agreement: Mapping[str, Any]) -> dict[str, Any]:
    """What goes before the sizes of a comparison: ceilings, threads, the sides and whether they agree."""
    return machine_of(run).facts() | {
        "threads": run.systems.threads,
        "agreement": dict(agreement),
    }


__all__ = ["Work", "dtype_name", "header", "in_turn", "machine_of", "measured"]
