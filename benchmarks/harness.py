"""Compares and then times the sides of one size, and records the result. All cases use it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from iris_fast.kernels.common.spec import dtype_name

from .peers import brief
from .record import Ceilings, Label, Ratio, Size
from .timing import Timing, copy_bandwidth, matrix_rate, ratio_of, time_sides

Output = Tensor | Sequence[Tensor]
Function = Callable[[], Any]


@dataclass(frozen=True)
class Machine:
    """A device and its measured ceilings: bytes a second of a copy, operations a second of products by dtype."""

    device: torch.device
    bandwidth: float
    rates: dict[str, float]
    rounds: int

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def ceilings(self) -> Ceilings:
        return Ceilings(self.device.type, self.bandwidth, self.rates)


def measured_machine(quick: bool, device: torch.device | None = None) -> Machine:
    """The device (None: the GPU, or else the CPU) with its ceilings."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtypes = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]
    rates = {dtype_name(dtype): matrix_rate(device, dtype, 512 if quick else None) for dtype in dtypes}
    return Machine(device, copy_bandwidth(device, 16 if quick else 512), rates, 3 if quick else 9)


@dataclass(frozen=True)
class Work:
    """The work of one size; see `record.Size`. `bytes_by_side`, if given, is called for each side."""

    flops: float | None = None
    bytes: float | None = None
    rate: str = "float32"
    units: dict[str, float] = field(default_factory=dict)
    bytes_by_side: Callable[[str], float] | None = None
    uncounted: Sequence[str] = ()


def timed_size(what: dict[str, Label], times: Mapping[str, Timing], work: Work, **others: Any) -> Size:
    """The record of one size: seconds, work, and ratios to the first side (ours)."""
    first = next(iter(times))
    own = {side: work.bytes_by_side(side) for side in times} if work.bytes_by_side else {}
    fewest = own.get(first, work.bytes)
    return Size(
        what,
        seconds={name: timing.spread() for name, timing in times.items()},
        ratios={
            name: ratio_of(timing.seconds, times[first].seconds)
            for name, timing in times.items()
            if name != first
        },
        flops=work.flops,
        bytes=fewest,
        bytes_of={side: number for side, number in own.items() if number != fewest},
        uncounted=[side for side in work.uncounted if side in times],
        rate=work.rate,
        units=work.units,
        **others,
    )


def time_right_ones(
    machine: Machine,
    what: dict[str, Label],
    work: Work,
    sides: Mapping[str, Function],
    checks: Mapping[str, Callable[[Function], str | None]],
    graphs: bool = True,
    ratios: Callable[[Mapping[str, Timing]], dict[str, Ratio]] | None = None,
    **others: Any,
) -> Size:
    """One size whose sides are functions of this process; the first one is ours.

    A side with wrong outputs, or one that fails, gets a reason instead of a time; if it is ours, nothing is timed. A
    side without a check is not compared. `ratios`: the pairs to compare, by default each side with the first.
    """
    first = next(iter(sides))
    refused: dict[str, str] = {}
    for name, side in sides.items():
        if name in checks and (why := _refusal(side, checks[name], ours=name == first)):
            refused[name] = why
    if first in refused:
        return Size(what, missing=f"{first}: {refused[first]}", **others)
    times = time_sides(
        {name: side for name, side in sides.items() if name not in refused},
        machine.device,
        rounds=machine.rounds,
        seconds_a_round=0.004 if machine.cuda else 0.02,
        graphs=graphs,
    )
    size = timed_size(what, times, work, not_timed=refused, **others)
    return size if ratios is None else replace(size, ratios=ratios(times))


def _refusal(side: Function, check: Callable[[Function], str | None], ours: bool) -> str | None:
    """The reason not to time a side; None if its outputs are right. Exceptions of ours are raised."""
    try:
        return check(side)
    except Exception as failure:
        if ours:
            raise
        return f"failed: {brief(failure)}"


def largest_error(found: Output, expected: Output) -> float:
    """The largest difference, as a share of the largest number expected of that output."""
    founds = [found] if isinstance(found, Tensor) else found
    expecteds = [expected] if isinstance(expected, Tensor) else expected
    errors = [
        float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))
        for a, b in zip(founds, expecteds, strict=True)
    ]
    return max(errors) if all(error == error for error in errors) else float("nan")
