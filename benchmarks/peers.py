"""What is timed beside ours where it is there: other packages and `torch.compile`; results say why one is absent."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, TypeVar

import torch

Made = TypeVar("Made")
Function = Callable[..., Any]


class Unavailable(Exception):
    """Why a peer is not timed, in words for the results."""


@dataclass(frozen=True)
class Peer:
    """A package by the module to import and the name to install it by; `gpu` where it has no other code."""

    module: str
    package: str
    gpu: bool = False

    def load(self) -> ModuleType:
        """The module; Unavailable where it is not installed, cannot be imported or has no GPU to run on."""
        if self.gpu and not torch.cuda.is_available():
            raise Unavailable("runs on GPUs alone")
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError:
            raise Unavailable(f"not installed: pip install {self.package}") from None
        except Exception as error:  # built for another PyTorch, for example
            raise Unavailable(f"cannot be imported: {brief(error)}") from None


VECTOR_QUANTIZE = Peer("vector_quantize_pytorch", "vector-quantize-pytorch")
FLASH_KMEANS = Peer("flash_kmeans.assign_euclid_triton", "flash-kmeans", gpu=True)
FLASH_ATTENTION = Peer("flash_attn", "flash-attn", gpu=True)
FLASHINFER = Peer("flashinfer", "flashinfer-python", gpu=True)


def available(makers: dict[str, Callable[[], Made]]) -> tuple[dict[str, Made], dict[str, str]]:
    """What each maker gives, and why the others give nothing (another library's limit ends no measurement)."""
    made: dict[str, Made] = {}
    absent: dict[str, str] = {}
    for name, make in makers.items():
        try:
            made[name] = make()
        except Unavailable as reason:
            absent[name] = str(reason)
        except Exception as error:
            absent[name] = f"failed: {brief(error)}"
    return made, absent


def brief(error: Exception) -> str:
    """An error in a line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


COMPILED = "torch.compile"


@lru_cache
def trouble(device: str) -> str | None:
    """Why nothing can be compiled for the device type ("cpu", "cuda"), None where it can; tried once a process.

    A CPU's code wants a C++ compiler, which not every machine has. The first compilation of a process also takes
    the most time, which then no later one is blamed for.
    """
    numbers = torch.zeros(8, device=device)
    try:
        with torch.no_grad():
            torch.compile(lambda x: x.sin() + 1, dynamic=False)(numbers)
    except Exception as error:  # whatever a compiler that is not there, or a backend, raises
        return f"does not compile here: {brief(error)}"
    finally:
        torch._dynamo.reset()
    return None


def compiled(function: Function, device: torch.device, dynamic: bool = False) -> Function:
    """`torch.compile` of a function, for one shape unless `dynamic`; raises Unavailable where nothing compiles.

    Compiling happens at the first call: compare its outputs before timing it. Nothing is kept of shapes compiled
    before, which PyTorch would give up on after some.
    """
    if (why := trouble(device.type)) is not None:
        raise Unavailable(why)
    torch._dynamo.reset()
    return torch.compile(function, dynamic=dynamic)
