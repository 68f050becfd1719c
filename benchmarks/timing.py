"""Timing side by side: warmed up, interleaved round by round, medians with a bootstrap interval of ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Side = Callable[[], object]
FEW = 5  # rounds below which an interval of confidence would say more than they do


@dataclass(frozen=True)
class Timing:
    """Seconds of one side, one number a round; the rounds of all sides belong together."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def summary(self) -> dict[str, float]:
        """Median, quartiles and number of rounds."""
        low, high = np.percentile(self.seconds, (25, 75))
        return {
            "median": self.median,
            "quartile_1": float(low),
            "quartile_3": float(high),
            "rounds": len(self.seconds),
        }


def time_sides(
    sides: Mapping[str, Side],
    device: torch.device,
    *,
    rounds: int = 15,
    seconds_a_round: float = 0.02,
    graphs: bool = False,
) -> dict[str, Timing]:
    """Times each side in turn, `rounds` times over; a round repeats a side until `seconds_a_round` have gone.

    Every other round goes backwards, so that drift of the machine falls on all.

    On CUDA a round is timed by events; with `graphs` each side is captured in a CUDA graph first, so that
    launches from Python are not what is measured. Give sides inputs larger than the cache, or say that they fit.
    """
    prepared = {name: _prepare(side, device, graphs) for name, side in sides.items()}
    repeats = {name: _repeats(side, device, seconds_a_round) for name, side in prepared.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = list(prepared)
    for number in range(rounds):
        for name in order if number % 2 == 0 else reversed(order):
            seconds[name].append(_time(prepared[name], device, repeats[name]))
    return {name: Timing(tuple(found)) for name, found in seconds.items()}


def ratio_interval(
    slow: Sequence[float],
    fast: Sequence[float],
    confidence: float = 0.95,
    resamples: int = 2000,
    of: Callable[..., np.ndarray] = np.median,
) -> dict[str, float]:
    """How many times faster the second side is: ratio of medians, and how it varies over paired rounds.

    `low` and `high` are a bootstrap interval, or with fewer than `FEW` rounds, of which a bootstrap would make too
    narrow a one, the least and the greatest ratio of a round (`rounds` says how many there were; of one round there
    is no such range). The pairs must be rounds, which are independent: parts of one round are not, and an interval
    over them would say nothing. `of`: what of the rounds is compared.
    """
    pairs = np.stack([slow, fast], axis=1)
    middle = of(pairs, axis=0)
    found = {"ratio": float(middle[0] / middle[1]), "rounds": len(pairs)}
    if len(pairs) < FEW:
        ratios = pairs[:, 0] / pairs[:, 1]
        return found | ({"low": float(ratios.min()), "high": float(ratios.max())} if len(pairs) > 1 else {})
    chosen = np.random.default_rng(0).integers(0, len(pairs), (resamples, len(pairs)))
    medians = of(pairs[chosen], axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(medians[:, 0] / medians[:, 1], (tail, 100 - tail))
    return found | {"low": float(low), "high": float(high)}


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
