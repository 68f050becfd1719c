"""GroupNorm with swish in plain PyTorch, forward and backward, for `group_norm_swish` outside a GPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_FAR = 1.0  # how many standard deviations long a mean is that costs E[x²] - E[x]² a bit


def statistics_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _as_map(x: Tensor) -> Tensor:
    """x (batch, channels, area) as (batch, channels, 1, area), in a layout that PyTorch's GroupNorm takes."""
    mapped = x.unsqueeze(2)
    if x.device.type == "cpu" and mapped.is_contiguous(memory_format=torch.channels_last):
        return mapped
    return mapped.contiguous()


def plain(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float, swish: bool
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = statistics_dtype(x)
    if x.numel() == 0:
        means, scales = x.new_zeros((2, len(x), num_groups), dtype=dtype)
        return torch.empty_like(x), means, scales.clone()
    mapped, gain, shift = _as_map(x.to(dtype)), weight.to(dtype), bias.to(dtype)
    if mapped.is_contiguous():
        normed, means, scales = torch.ops.aten.native_group_norm(
            mapped, gain, shift, *x.shape, num_groups, eps
        )
    else:
        normed, means, scales = channels_last_forward(mapped, gain, shift, num_groups, eps)
    return _in_layout_of(x, F.silu(normed, inplace=True) if swish else normed), means, scales


def _in_layout_of(x: Tensor, mapped: Tensor) -> Tensor:
    """`mapped` (batch, channels, 1, area) as x is, copied only if it is not."""
    found, wanted = mapped.squeeze(2), torch.empty_like(x)
    alike = found.dtype == wanted.dtype and found.stride() == wanted.stride()
    return found if alike else wanted.copy_(found)


def channels_last_forward(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """GroupNorm of maps in channels-last memory, with its mean and 1 / sqrt(variance + eps) (batch, groups).

    PyTorch's own kernel for a CPU takes the variance from E[x²] - E[x]², which loses it where the mean is far from
    zero. What it says tells whether it has: then it is given the differences from the means that it found.
    """
    batch, channels, height, width = x.shape
    # A batch of one may have any stride, which that kernel takes for another layout.
    x = x.permute(0, 2, 3, 1).reshape(-1).view(batch, height, width, channels).permute(0, 3, 1, 2)

    def of(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.ops.aten.native_group_norm(
            values, weight, bias, batch, channels, height * width, num_groups, eps
        )

    normed, means, scales = of(x)
    rest = means
    for _ in range(2):  # the second is for means so large that those found first were far off
        if (rest * scales).abs().max() <= _FAR:
            break
        normed, rest, scales = of(centred(x, means, out=normed))
        means = means + rest
    return normed, means, scales


def centred(x: Tensor, means: Tensor, out: Tensor | None = None) -> Tensor:
    """x (batch, channels, height, width) less the mean of each group, `means` (batch, groups)."""
    each = means.repeat_interleave(x.shape[1] // means.shape[1], 1)[:, :, None, None]
    return torch.sub(x, each, out=out)


def channels_last_backward(
    grad: Tensor, differences: Tensor, scales: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """GroupNorm's gradients of x, weight and bias by plain PyTorch, for maps in channels-last memory.

    PyTorch's own backward kernel for a CPU takes 5 to 10 times as long in that layout as in contiguous memory; this
    takes less than half of that kernel in contiguous memory with the copies there and back. With y = (x - m) r w + b,
    g the gradient of y and sums over a group of n values:
    dx = g w r - (r / n) (sum(g w) + (x - m) r sum(g w (x - m) r)).

    All of float32 or all of float64: in bfloat16 the differences of sums would be rounding.

    Args:
        grad: (batch, channels, height, width), of y.
        differences: as grad, `centred` of x.
        scales: (batch, groups), 1 / sqrt(variance + eps).
        weight: (channels,).
    """
    batch, channels, height, width = differences.shape
    groups, area = scales.shape[1], height * width
    rows, grads = (t.permute(0, 2, 3, 1).reshape(batch, area, channels) for t in (differences, grad))

    def by_group(sums: Tensor) -> Tensor:
        return sums.view(-1, groups, channels // groups)

    # Each (batch, groups, channels of a group).
    products, totals = by_group((rows * grads).sum(1)), by_group(grads.sum(1))
    scale, gain = scales[:, :, None], by_group(weight)
    grad_weight = (products * scale).sum(0).view(channels)
    of_products, of_totals = ((sums * gain).sum(2, keepdim=True) for sums in (products, totals))
    share = scale / (area * (channels // groups))
    slope = -of_products * scale * scale * share
    offset = -of_totals * share
    factors = (gain * scale, slope.expand_as(totals), offset.expand_as(totals))
    of_grad, of_x, constant = (factor.reshape(batch, 1, channels) for factor in factors)
    found = torch.addcmul(constant, rows, of_x).addcmul_(grads, of_grad)
    grad_x = found.view(batch, height, width, channels).permute(0, 3, 1, 2)
    return grad_x, grad_weight, totals.sum(0).view(channels)


def plain_backward(
    grad: Tensor,
    x: Tensor,
    means: Tensor,
    scales: Tensor,
    weight: Tensor,
    bias: Tensor,
    num_groups: int,
    swish: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    if x.numel() == 0:
        return torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
    dtype = means.dtype
    grad, values, gain, shift = (
        grad.to(dtype).unsqueeze(2),
        _as_map(x.to(dtype)),
        weight.to(dtype),
        bias.to(dtype),
    )
    last = not values.is_contiguous()
    differences = centred(values, means) if swish or last else values
    if swish:
        scale = scales.repeat_interleave(x.shape[1] // num_groups, 1)[:, :, None, None]
        h = torch.addcmul(shift[:, None, None], differences, scale * gain[:, None, None])
        grad = torch.ops.aten.silu_backward(grad, h)
    if last:
        found, grad_weight, grad_bias = channels_last_backward(grad, differences, scales, gain)
    else:
        found, grad_weight, grad_bias = torch.ops.aten.native_group_norm_backward(
            grad.contiguous(), values, means, scales, gain, *x.shape, num_groups, [True, True, True]
        )
    return _in_layout_of(x, found), grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)
