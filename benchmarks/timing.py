"""Times sides in turn, round by round, in reverse every other round, so that drift affects all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .record import Ratio, Spread

Side = Callable[[], object]
Round = Callable[[int], float | Sequence[float]]
"""From the number of a round to a side's seconds: one number, or one for each part of the round."""
FEW = 5  # rounds below which a confidence interval would be too narrow
BRIEF = 0.5  # seconds
SETTLE = 0.02  # seconds between turns of processes, until the last one's threads stop spinning


@dataclass(frozen=True)
class Timing:
    """Seconds of one side: one number a round, and where a round has parts those of each round."""

    seconds: tuple[float, ...]
    parts: tuple[tuple[float, ...], ...] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def spread(self) -> Spread:
        """Median, quartiles and number of rounds."""
        low, high = np.percentile(self.seconds, (25, 75))
        return Spread(self.median, float(low), float(high), len(self.seconds))

    def part_means(self) -> list[float]:
        """The mean of each part over the rounds."""
        return [sum(part) / len(part) for part in zip(*self.parts, strict=True)]


def in_turn(
    sides: Mapping[str, Round], rounds: Callable[[float], int], again: bool = True
) -> dict[str, Timing]:
    """Times sides that return their seconds, once a round each.

    `rounds`: the number of rounds, given the seconds of the first. Each turn starts with a short pause. A side that
    took less than `BRIEF` is called again and the second answer counts: while others worked, its process lost its
    caches, and on some machines pages of its memory, which would dominate so short a time. Without `again` neither
    happens.
    """

    def asked(side: Round) -> Round:
        def ask(number: int) -> float | Sequence[float]:
            time.sleep(SETTLE)
            found = side(number)
            whole = found if isinstance(found, float) else sum(found)
            return side(number) if whole < BRIEF else found

        return ask

    return _in_turn({name: asked(side) if again else side for name, side in sides.items()}, rounds)


def _in_turn(sides: Mapping[str, Round], rounds: Callable[[float], int]) -> dict[str, Timing]:
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in sides}
    order = list(sides)
    number, count = 0, 1
    while number < count:
        began = time.monotonic()
        for name in order if number % 2 == 0 else reversed(order):
            seconds = sides[name](number)
            found[name].append((seconds,) if isinstance(seconds, float) else tuple(seconds))
        if number == 0:
            count = rounds(time.monotonic() - began)
        number += 1
    return {name: Timing(tuple(sum(parts) for parts in turns), tuple(turns)) for name, turns in found.items()}


def time_sides(
    sides: Mapping[str, Side],
    device: torch.device,
    *,
    rounds: int = 15,
    seconds_a_round: float = 0.02,
    graphs: bool = False,
) -> dict[str, Timing]:
    """Times functions of this process; a round repeats each until `seconds_a_round` have gone.

    On CUDA a round is timed by events; with `graphs` each side is captured in a CUDA graph first, so that
    launches from Python are not what is measured. Give sides inputs larger than the cache, or say that they fit.
    """
    prepared = {name: _prepare(side, device, graphs) for name, side in sides.items()}
    repeats = {name: _repeats(side, device, seconds_a_round) for name, side in prepared.items()}
    return _in_turn(
        {
            name: lambda _, name=name, side=side: _time(side, device, repeats[name])  # type: ignore[misc]
            for name, side in prepared.items()
        },
        lambda _: rounds,
    )


def ratio_of(
    slow: Sequence[float],
    fast: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Ratio:
    """The time of the first side relative to the second: the ratio of medians, and its range over paired rounds.

    `low` and `high` are a bootstrap interval, or with fewer than `FEW` rounds, of which a bootstrap would make too
    narrow a one, the least and the greatest ratio of a round; of one round there is no such range. The pairs must
    be rounds, which are independent: parts of one round are not, and an interval over them would say nothing.
    """
    pairs = np.stack([slow, fast], axis=1)
    middle = np.median(pairs, axis=0)
    ratio, rounds = float(middle[0] / middle[1]), len(pairs)
    if rounds == 1:
        return Ratio(ratio, rounds)
    if rounds < FEW:
        ratios = pairs[:, 0] / pairs[:, 1]
        return Ratio(ratio, rounds, float(ratios.min()), float(ratios.max()))
    chosen = np.random.default_rng(0).integers(0, rounds, (resamples, rounds))
    medians = np.median(pairs[chosen], axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(medians[:, 0] / medians[:, 1], (tail, 100 - tail))
    return Ratio(ratio, rounds, float(low), float(high))


def copy_bandwidth(device: torch.device, megabytes: int = 512) -> float:
    """Bytes read and written a second by a large copy on the device."""
    source = torch.rand(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    found = time_sides({"copy": lambda: target.copy_(source)}, device, rounds=7)["copy"]
    return 2 * source.nbytes / found.median


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Operations a second of a large square product of random matrices in `dtype` (a multiply-add is two)."""
    size = size or (8192 if device.type == "cuda" else 2048)
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    found = time_sides({"product": lambda: a @ b}, device, rounds=7)["product"]
    return 2 * size**3 / found.median


def _prepare(side: Side, device: torch.device, graphs: bool) -> Side:
    for _ in range(3):
        side()
    if not graphs or device.type != "cuda":
        return side
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        side()
    return graph.replay


def _repeats(side: Side, device: torch.device, seconds: float) -> int:
    once = min(_time(side, device, 1) for _ in range(3))
    return max(1, min(10_000, round(seconds / max(once, 1e-7))))


def _time(side: Side, device: torch.device, repeats: int) -> float:
    if device.type == "cuda":
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(repeats):
            side()
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended) / 1e3 / repeats
    start = time.perf_counter()
    for _ in range(repeats):
        side()
    return (time.perf_counter() - start) / repeats
