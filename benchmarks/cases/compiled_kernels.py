"""Registers, shared memory and spills of every Triton kernel, for GPUs that need not be there."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.compilation import ARCHITECTURES, compile_in_process, variant_modules
from benchmarks.registry import case


@case("compiled_kernels", minutes=5)
def compiled_kernels(quick: bool) -> dict[str, Any]:
    """Registers, shared memory and spills of each Triton kernel, compiled for sm_80, sm_90 and sm_100."""
    architectures = ARCHITECTURES[1:2] if quick else ARCHITECTURES
    return {
        operation: [
            asdict(compiled)
            for architecture in architectures
            for compiled in compile_in_process(operation, architecture)
        ]
        for operation in variant_modules()
    }
