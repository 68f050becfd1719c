"""Argument checks and fallbacks of layers on a residual stream in parts, shared by attention and MLP."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.triton import triton
from ..layer_norm_linear import PRECISIONS

MAX_DIM = 1024
MAX_PARTS = 65


def check_stream(parts: Tensor, norm_weight: Tensor, norm_bias: Tensor | None) -> None:
    """Raises ValueError for a stream that is not `(parts, rows, dim)` within the limits, and for its LayerNorm."""
    if parts.dim() != 3 or not 1 <= parts.shape[0] <= MAX_PARTS or not 1 <= parts.shape[2] <= MAX_DIM:
        raise ValueError(
            f"parts must be (parts, rows, dim) with 1 to {MAX_PARTS} parts and dim from 1 to {MAX_DIM}, "
            f"got shape {tuple(parts.shape)}"
        )
    dim = parts.shape[2]
    for name, tensor in (("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        if tensor is not None and tensor.shape != (dim,):
            raise ValueError(f"{name} must have shape ({dim},), got {tuple(tensor.shape)}")


def check_linear(name: str, weight: Tensor, bias: Tensor | None, shape: tuple[int, int]) -> None:
    """Raises ValueError unless the layer is of this shape `(out, in)`."""
    if tuple(weight.shape) != shape:
        raise ValueError(f"{name}_weight must have shape {shape}, got {tuple(weight.shape)}")
    if bias is not None and tuple(bias.shape) != shape[:1]:
        raise ValueError(f"{name}_bias must have shape ({shape[0]},), got {tuple(bias.shape)}")


def check_tensors(operation: str, tensors: dict[str, Tensor | None], one_dtype: tuple[str, ...]) -> None:
    """Raises unless all are floats on one device, those of `one_dtype` have one dtype, and none requires a
    gradient."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first_name, first = next(iter(given.items()))
    for name, tensor in given.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got dtype {tensor.dtype}")
        if tensor.device != first.device:
            raise ValueError(
                f"{name} must be on the device of {first_name}, {first.device}, got {tensor.device}"
            )
    dtype = given[one_dtype[0]].dtype
    for name in one_dtype[1:]:
        if given[name].dtype != dtype:
            raise TypeError(f"{name} must have the dtype of {one_dtype[0]}, {dtype}, got {given[name].dtype}")
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given.values()):
        raise RuntimeError(
            f"{operation} has no gradient: call it under torch.no_grad(), or detach its inputs"
        )


def check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def require_small_products(operation: str) -> None:
    """Raises RuntimeError for a Triton whose products need 16 rows, which these kernels do not have."""
    version = tuple(int(number) for number in triton.__version__.split(".")[:2])
    if version < (3, 3):
        raise RuntimeError(f"{operation} needs Triton 3.3 or later, found {triton.__version__}")


def result_dtype(parts: Tensor, weight: Tensor) -> torch.dtype:
    """Of a stream: float32, or float64 where either is."""
    return torch.float64 if torch.float64 in (parts.dtype, weight.dtype) else torch.float32


def stream_sum(parts: Tensor, dtype: torch.dtype) -> Tensor:
    """The stream `(rows, dim)`, its parts added in order."""
    total = parts[0].to(dtype)
    for part in parts[1:]:
        total = total + part.to(dtype)
    return total


def normalised(x: Tensor, norm_weight: Tensor, norm_bias: Tensor | None, eps: float) -> Tensor:
    shift = None if norm_bias is None else norm_bias.to(x.dtype)
    return torch.nn.functional.layer_norm(x, x.shape[-1:], norm_weight.to(x.dtype), shift, eps)


def as_parts(x: Tensor, shares: Tensor, bias: Tensor | None) -> Tensor:
    """The stream after a layer: the old stream, then the shares `(shares, rows, dim)`, the first with the bias."""
    result = torch.cat((x[None], shares.to(x.dtype)))
    if bias is not None and len(shares):
        result[1] += bias.to(x.dtype)
    return result
