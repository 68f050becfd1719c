"""Triton if it is installed, and otherwise a message (macOS, Windows, arm64).

Every file of device code begins with `from .common.triton import jit, tl, triton`. In Triton's interpreter
(`TRITON_INTERPRET=1` before the first import) the same launchers take CPU tensors.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl

    jit: Callable[..., Any] = triton.jit
except ModuleNotFoundError:
    triton = None
    tl = None

    def jit(function: Callable[..., Any] | None = None, **_: object) -> Callable[..., Any]:
        """Returns device code unchanged: without Triton it is never called."""
        return jit if function is None else function


P = ParamSpec("P")
Result = TypeVar("Result")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter (a debugging aid of Triton's, read once as Triton reads it)."""


def require_triton(operation: str, *tensors: Tensor) -> None:
    """Raises RuntimeError with the fix if `operation` cannot run on these tensors with Triton."""
    if triton is None:
        raise RuntimeError(f"{operation} on {tensors[0].device} needs Triton: pip install triton")
    elsewhere = [tensor.device for tensor in tensors if not tensor.is_cuda]
    if elsewhere and not INTERPRETED:
        raise RuntimeError(f"the Triton kernel of {operation} takes CUDA tensors, got one on {elsewhere[0]}")


def num_multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a CUDA device; 4 in the interpreter, where it only shapes the launch."""
    if device.type != "cuda":
        return 4
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def large_shared_memory(device: torch.device) -> bool:
    """Whether a block may have 163 KB of shared memory and more: other CUDA devices have 99 KB.

    (CUDA C++ Programming Guide, "Technical Specifications": compute capability 8.0, 9.0, 10.x.)
    """
    if device.type != "cuda":
        return True
    major, minor = torch.cuda.get_device_capability(device)
    return major == 10 or (minor == 0 and major in (8, 9))


def on_its_device(launcher: Callable[P, Result]) -> Callable[P, Result]:
    """The launcher with the device of its first argument, a tensor, as the current one for as long as it runs.

    Triton launches on the current device, which need not be that of the tensors where there are several.
    """

    @functools.wraps(launcher)
    def launched(*args: P.args, **kwargs: P.kwargs) -> Result:
        (tensor, *_) = args
        assert isinstance(tensor, Tensor)
        if tensor.device.type != "cuda":
            return launcher(*args, **kwargs)
        with torch.cuda.device(tensor.device):
            return launcher(*args, **kwargs)

    return launched
