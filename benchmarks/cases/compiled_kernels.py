"""Registers, shared memory and spills of every Triton kernel, for GPUs that need not be there."""

from __future__ import annotations

from dataclasses import asdict

from benchmarks.compilation import ARCHITECTURES, compile_in_process, compiled_operations
from benchmarks.record import Result
from benchmarks.registry import Run, case


@case("compiled_kernels", minutes=5)
def compiled_kernels(run: Run) -> Result:
    """Registers, shared memory and spills of each Triton kernel at sizes that matter, for sm_80, sm_90 and sm_100."""
    architectures = ARCHITECTURES[1:2] if run.quick else ARCHITECTURES
    found = {
        operation: [
            asdict(compiled)
            for architecture in architectures
            for compiled in compile_in_process(operation, architecture, hot=True)
        ]
        for operation in compiled_operations()
    }
    return Result(facts=found)
