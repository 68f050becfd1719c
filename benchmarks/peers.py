"""Other packages, timed beside ours where they are installed: optional, and the results say why one is absent."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

import torch

Made = TypeVar("Made")


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
