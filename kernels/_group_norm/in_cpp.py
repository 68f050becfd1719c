"""GroupNorm with swish by the C++ extension, forward and backward, for float32 and bfloat16 with channels last."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..common.extension import find_extension
from ..common.registration import refuse_forward_mode

_LANES = 16  # channels that the extension takes at a time


def takes(x: Tensor) -> bool:
    """Whether the extension is there, and computes GroupNorm of x (batch, channels, area)."""
    return (
        x.is_cpu
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > 0
        and x.shape[1] % _LANES == 0
        and x.transpose(1, 2).is_contiguous()
        and hasattr(find_extension(), "group_norm")
    )


def runs_at_once(x: Tensor) -> bool:
    """Whether nothing is between the caller and the numbers of x: no compilation, transformation or subclass."""
    return (
        type(x) is Tensor
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()
    )


class _GroupNormSwish(torch.autograd.Function):
    """The extension's GroupNorm of a map (batch, channels, ...); an operator of `torch.library` takes 0.1 ms more."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float, swish: bool
    ) -> Tensor:
        flat = x.flatten(2)
        y, means, scales = forward(flat, weight, bias, num_groups, eps, swish)
        ctx.save_for_backward(x, means, scales, weight, bias)
        ctx.swish = swish
        return y.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, means, scales, weight, bias = ctx.saved_tensors
        flat = x.flatten(2)
        grad_x, *others = backward(grad.flatten(2), flat, means, scales, weight, bias, ctx.swish)
        return grad_x.view(x.shape), *others, None, None, None


def differentiable(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float, swish: bool
) -> Tensor:
    """y of x (batch, channels, ...) where `takes` says yes to it and it `runs_at_once`."""
    refuse_forward_mode("group_norm_swish", (x, weight, bias))
    return _GroupNormSwish.apply(x, weight, bias, num_groups, eps, swish)


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> Any:
    return _extension().ThreadPool(threads)


def _extension() -> Any:
    return find_extension()


def _buffer(tensor: Tensor) -> Any:
    """NumPy's view of a tensor; of a map (batch, channels, area) with channels last, copied only if it must be.

    NumPy has no bfloat16: its bits are uint16.
    """
    tensor = (tensor.detach().transpose(1, 2) if tensor.dim() == 3 else tensor.detach()).contiguous()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float, swish: bool
) -> tuple[Tensor, Tensor, Tensor]:
    out, means = torch.empty_like(x), x.new_empty((len(x), num_groups), dtype=torch.float32)
    scales = torch.empty_like(means)
    inputs = (_buffer(x), _buffer(weight.float()), _buffer(bias.float()))
    _extension().group_norm(
        _pool(torch.get_num_threads()), *inputs, eps, swish, _buffer(means), _buffer(scales), _buffer(out)
    )
    return out, means, scales


def backward(
    grad: Tensor, x: Tensor, means: Tensor, scales: Tensor, weight: Tensor, bias: Tensor, swish: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x, grad_weight, grad_bias = torch.empty_like(x), torch.empty(len(weight)), torch.empty(len(bias))
    inputs = (_buffer(grad.to(x.dtype)), _buffer(x), _buffer(weight.float()), _buffer(bias.float()))
    outputs = (_buffer(tensor) for tensor in (grad_x, grad_weight, grad_bias))
    pool = _pool(torch.get_num_threads())
    _extension().group_norm_backward(pool, *inputs, swish, _buffer(means), _buffer(scales), *outputs)
    return grad_x, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)
