"""λ-returns: one scan on the device beside the loop of PyTorch, plain and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.compiling import compiled_side
from benchmarks.registry import case
from benchmarks.side_by_side import Machine, Side, compare_and_time, measured_machine
from iris_fast.kernels import lambda_returns, lambda_returns_reference

SHAPES = ((64, 20), (1024, 20), (4096, 100), (65536, 256))  # (batch, time); the first is the paper's
BYTES_A_STEP = 16  # rewards, values, ends and returns, float32
FLOPS_A_STEP = 7  # gamma (1 - end) ((1 - lambda) v + lambda G) + r
COMPILED = SHAPES[:1]  # on a CPU: a loop over time takes seconds to compile


def measure(machine: Machine, batch: int, time: int, compile_it: bool) -> dict[str, Any]:
    """Medians of one shape, of the sides whose outputs are right."""
    rewards, values = torch.randn(2, batch, time, device=machine.device).unbind()
    ends = (torch.rand(batch, time, device=machine.device) < 0.05).float()
    arguments = (rewards, values, ends, 0.995, 0.95)
    functions: dict[str, Callable[..., Tensor]] = {
        "ours": lambda_returns,
        "pytorch": lambda_returns_reference,
    }
    whole, absent = compiled_side(lambda_returns_reference, machine.device, compile_it)
    sides: dict[str, Side] = {
        name: lambda f=f: f(*arguments)  # type: ignore[misc]
        for name, f in (functions | whole).items()
    }
    facts = {
        "shape": [batch, time],
        "bytes": BYTES_A_STEP * batch * time,
        "flops": FLOPS_A_STEP * batch * time,
        "absent": absent,
    }
    expected = lambda_returns_reference(*(tensor.double() for tensor in arguments[:3]), 0.995, 0.95)
    return compare_and_time(machine, sides, expected, 1e-5, facts, torch.float32)


@case("kernel_lambda_returns", minutes=0.15, default=True)
def kernel_lambda_returns(quick: bool) -> dict[str, Any]:
    """λ-returns over shapes: ours, plain PyTorch, torch.compile (on a CPU at the paper's shape)."""
    machine = measured_machine(quick)
    shapes = SHAPES[:1] if quick else SHAPES if machine.cuda else SHAPES[:3]
    return machine.facts() | {
        "shapes": [
            measure(machine, *shape, compile_it=not quick and (machine.cuda or shape in COMPILED))
            for shape in shapes
        ]
    }
