"""One size of an operation, its sides compared and then timed, in the shape that results are written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .peers import brief
from .timing import Timing, copy_bandwidth, matrix_rate, ratio_interval, time_sides

Side = Callable[[], Tensor | Sequence[Tensor]]


@dataclass(frozen=True)
class Machine:
    """A device and its measured ceilings: bytes a second of a copy, operations a second of products by dtype."""

    device: torch.device
    bandwidth: float
    rates: dict[torch.dtype, float]
    rounds: int

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def facts(self) -> dict[str, Any]:
        rates = {dtype_name(dtype): rate for dtype, rate in self.rates.items()}
        return {"device": self.device.type, "copy_bandwidth": self.bandwidth, "matrix_rates": rates}


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def measured_machine(quick: bool, device: torch.device | None = None) -> Machine:
    """The device (None: the GPU, or else the CPU) with its ceilings."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtypes = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]
    rates = {dtype: matrix_rate(device, dtype, 512 if quick else None) for dtype in dtypes}
    return Machine(device, copy_bandwidth(device, 16 if quick else 512), rates, 3 if quick else 9)


def compare_and_time(
    machine: Machine,
    sides: Mapping[str, Side],
    expected: Tensor | Sequence[Tensor],
    tolerance: float,
    facts: dict[str, Any],
    dtype: torch.dtype,
    compared: Callable[[Any], Tensor | Sequence[Tensor]] = lambda found: found,
) -> dict[str, Any]:
    """`facts` (with the floor in `bytes` and `flops`) and the seconds of each side; the first one is ours.

    A side whose outputs are further from `expected` than `tolerance` of its largest number, or that fails, has no
    time but a reason under "not_timed"; where it is ours nothing is timed, and "error" says why. `compared`: what of
    an output is compared.
    """
    refused: dict[str, str] = {}
    first = next(iter(sides))
    for name, side in sides.items():
        why = _refusal(lambda side=side: compared(side()), expected, tolerance, ours=name == first)
        if why is not None:
            refused[name] = why
    if first in refused:
        return facts | {"error": f"{first}: {refused[first]}"}
    times = time_sides(
        {name: side for name, side in sides.items() if name not in refused},
        machine.device,
        rounds=machine.rounds,
        seconds_a_round=0.004 if machine.cuda else 0.02,
        graphs=True,
    )
    return facts | {"not_timed": refused} | timed_facts(times, facts, machine.bandwidth, machine.rates[dtype])


def timed_facts(
    times: Mapping[str, Timing], facts: Mapping[str, Any], bandwidth: float, rate: float
) -> dict[str, Any]:
    """Seconds of each side with their shares of the ceilings, and ratios to the first side (ours)."""
    first, *others = times
    return {
        "seconds": {name: timing.summary() for name, timing in times.items()},
        "share_of_copy_bandwidth": {
            name: facts["bytes"] / timing.median / bandwidth for name, timing in times.items()
        },
        "share_of_matrix_rate": {
            name: facts["flops"] / timing.median / rate for name, timing in times.items()
        },
        "speedup_over": {name: ratio_interval(times[name].seconds, times[first].seconds) for name in others},
    }


def _refusal(side: Side, expected: Tensor | Sequence[Tensor], tolerance: float, ours: bool) -> str | None:
    """Why a side is not timed, None where its outputs are right. What ours raises goes on."""
    try:
        error = _error(side(), expected)
    except Exception as failure:
        if ours:
            raise
        return f"failed: {brief(failure)}"
    return None if error <= tolerance else f"its output is off by {error:.2g}: not timed"


def _error(found: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor]) -> float:
    """The largest difference, as a share of the largest number expected of that output."""
    founds = [found] if isinstance(found, Tensor) else found
    expecteds = [expected] if isinstance(expected, Tensor) else expected
    errors = [
        float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))
        for a, b in zip(founds, expecteds, strict=True)
    ]
    return max(errors) if all(error == error for error in errors) else float("nan")
