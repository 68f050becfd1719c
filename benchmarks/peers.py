"""Optional peers: other packages and `torch.compile`; results give the reason if one is absent."""

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
    """A peer cannot be timed; the message goes into the results."""


@dataclass(frozen=True)
class Peer:
    """A package, by its module and its name for pip; `gpu`: whether it runs only on GPUs."""

    module: str
    package: str
    gpu: bool = False

    def load(self) -> ModuleType:
        """The module; Unavailable if it is not installed, cannot be imported, or lacks its GPU."""
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
    """The results of all makers, and the reasons of those that failed (another library's limit ends no
    measurement)."""
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
    """An error as one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


COMPILED = "torch.compile"


@lru_cache
def trouble(device: str) -> str | None:
    """The reason why nothing compiles for the device type ("cpu", "cuda"); None if it does. Tried once a process.

    CPU code needs a C++ compiler, which not every machine has. This also takes the slow first compilation of a
    process out of later timings.
    """
    numbers = torch.zeros(8, device=device)
    try:
        with torch.no_grad():
            torch.compile(lambda x: x.sin() + 1, dynamic=False)(numbers)
    except Exception as error:  # any error of a missing compiler or a backend
        return f"does not compile here: {brief(error)}"
    finally:
        torch._dynamo.reset()
    return None


def compiled(function: Function, device: torch.device, dynamic: bool = False) -> Function:
    """`torch.compile` of a function, for one shape unless `dynamic`; raises Unavailable if nothing compiles.

    It compiles at the first call, so compare its outputs before timing it. Earlier compilations are dropped, because
    PyTorch stops compiling a function after several shapes.
    """
    if (why := trouble(device.type)) is not None:
        raise Unavailable(why)
    torch._dynamo.reset()
    return torch.compile(function, dynamic=dynamic)
