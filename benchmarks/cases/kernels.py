"""One case for each operation of the table: every size compared and timed."""

from __future__ import annotations

import torch

from benchmarks.kernels import OPERATIONS, Operation
from benchmarks.record import Result
from benchmarks.registry import Run, case


def register(operation: Operation) -> None:
    """Registers the case of an operation."""

    def run_operation(run: Run) -> Result:
        with torch.no_grad():
            return operation.measure(run.machine(), run.quick)

    run_operation.__doc__ = operation.about
    case(operation.case, operation.minutes, default=True)(run_operation)


for _operation in OPERATIONS.values():
    register(_operation)
