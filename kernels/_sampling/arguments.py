"""The common arguments of samplers: their checks, and their forms for operators and kernels."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

MOST_CLASSES = 2**24
"""As many numbers as a draw can be, which are the multiples of 2^-24 below 1."""

_SMALLEST_TEMPERATURE, _LARGEST_TEMPERATURE = 2.0**-126, 3.4e38


class Address(NamedTuple):
    """The address of draws: `seed` () int64, `row` (...) int64 or None for the index, `position` (...) int64."""

    seed: Tensor
    row: Tensor | None
    position: Tensor

    def flattened(self) -> Address:
        row = None if self.row is None else self.row.reshape(-1)
        return Address(self.seed, row, self.position.reshape(-1))


def checked_address(
    leading: torch.Size,
    device: torch.device,
    seed: int | Tensor,
    row: Tensor | None,
    position: int | Tensor,
    purpose: int,
) -> Address:
    """The address of draws of shape `leading`; ValueError or TypeError names a wrong argument."""
    if not 0 <= purpose < 2**32:
        raise ValueError(f"purpose must be an int from 0 to 2**32 - 1, got {purpose}")
    if not isinstance(seed, Tensor):
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed must be an int from 0 to 2**64 - 1, got {seed}")
        seed = seed - 2**64 if seed >= 2**63 else seed
    if not isinstance(position, Tensor) and not 0 <= position < 2**32:
        raise ValueError(f"position must be an int from 0 to 2**32 - 1, got {position}")
    return Address(
        _integer_tensor("seed", seed, torch.Size(()), device),
        None if row is None else _integer_tensor("row", row, leading, device),
        _integer_tensor("position", position, leading, device),
    )


def check_logits_shape(logits: Tensor) -> None:
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(
            f"logits must be (..., classes) with at least one class, got shape {tuple(logits.shape)}"
        )
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got dtype {logits.dtype}")


def checked_truncation(
    classes: int, temperature: float, top_k: int | None, top_p: float | None
) -> tuple[float, int, float]:
    """Temperature, top_k (0 where it leaves all classes) and top_p (1 where it does), or ValueError."""
    if classes > MOST_CLASSES:
        raise ValueError(
            f"a draw is of at most 2**24 classes, got {classes}: draw a part of them first, then in it"
        )
    if not _SMALLEST_TEMPERATURE <= temperature <= _LARGEST_TEMPERATURE:
        finite = (
            "positive and finite" if not (temperature > 0 and math.isfinite(temperature)) else "in float32"
        )
        raise ValueError(f"temperature must be {finite}, got {temperature} (for 0, take the argmax)")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, or None for all classes, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be in (0, 1], or None for all classes, got {top_p}")
    kept = 0 if top_k is None or top_k >= classes else top_k
    return temperature, kept, 1.0 if top_p is None else top_p


def _integer_tensor(name: str, value: int | Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    if not isinstance(value, Tensor):
        # Not torch.tensor, whose copy from the host a CUDA graph cannot capture.
        return torch.full((), value, dtype=torch.int64, device=device).expand(shape)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be an int or a tensor of integers, got dtype {value.dtype}")
    if value.device != device:
        raise ValueError(f"{name} must be on the device of logits, {device}, got {value.device}")
    try:
        return value.to(torch.int64).expand(shape)
    except RuntimeError:
        raise ValueError(f"{name} must broadcast to shape {tuple(shape)}, got {tuple(value.shape)}") from None
