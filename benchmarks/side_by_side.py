"""One size of an operation, its sides compared and then timed, in the shape that results are written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .timing import copy_bandwidth, matrix_rate, ratio_interval, time_sides

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


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` for one shape, with nothing kept of the shapes before (which it would give up on)."""
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


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

    A side whose outputs are further from `expected` than `tolerance` of its largest number stops the
    measurement of this size: an "error" is given instead of times. `compared`: what of an output is compared.
    """
    for name, side in sides.items():
        error = _error(compared(side()), expected)
        if not error <= tolerance:
            return facts | {"error": f"the output of {name} is off by {error:.2g}: not timed"}
    times = time_sides(
        sides,
        machine.device,
        rounds=machine.rounds,
        seconds_a_round=0.004 if machine.cuda else 0.02,
        graphs=True,
    )
    first, *others = times
    ours = times[first]
    return facts | {
        "seconds": {name: timing.summary() for name, timing in times.items()},
        "share_of_copy_bandwidth": facts["bytes"] / ours.median / machine.bandwidth,
        "share_of_matrix_rate": facts["flops"] / ours.median / machine.rates[dtype],
        "speedup_over": {name: ratio_interval(times[name].seconds, ours.seconds) for name in others},
    }


def _error(found: Tensor | Sequence[Tensor], expected: Tensor | Sequence[Tensor]) -> float:
    """The largest difference, as a share of the largest number expected of that output."""
    founds = [found] if isinstance(found, Tensor) else found
    expecteds = [expected] if isinstance(expected, Tensor) else expected
    errors = [
        float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1e-30))
        for a, b in zip(founds, expecteds, strict=True)
    ]
    return max(errors) if all(error == error for error in errors) else float("nan")
