"""One case for each operation that is timed: every size compared and timed."""

from __future__ import annotations

import torch

from benchmarks.kernels import measure, timed_operations
from benchmarks.record import Result
from benchmarks.registry import Run, case


def register(name: str) -> None:
    """Registers the case of an operation."""
    _, benchmark = timed_operations()[name]

    def run_operation(run: Run) -> Result:
        with torch.no_grad():
            return measure(name, run.machine(), run.quick)

    others = ", ".join(("plain PyTorch", "torch.compile", *benchmark.peers))
    run_operation.__doc__ = f"`{name}` at the sizes that matter: ours by configuration, {others}."
    case(f"kernel_{name}", benchmark.minutes, default=True)(run_operation)


for _name in timed_operations():
    register(_name)
