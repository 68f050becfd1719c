"""GroupNorm and swish in one pass, channels last or first, and their gradient.

h = (x - mean) / sqrt(var + eps) · g + b over each (sample, group) (Wu and He 2018, "Group Normalization"), and
y = h · sigmoid(h), or h without swish. `x` is (batch, channels, area) with any strides, y has its layout.

A block owns all positions of some neighbouring groups of one sample: enough groups to fill 32 bytes, so that
channels-last memory is read in whole sectors. If they fit in registers, x is read once. Otherwise (64 × 64 positions
and more) the block computes statistics chunk by chunk, with two passes in registers each, merges them by the formula
of Chan et al. (1979), and reads x again, from L2 if the blocks in flight fit there. A kernel of statistics and one of
application, each over whole rows of memory, would always read twice from memory at the sizes where that matters
(batch 64 of 64 × 64 × 64 in float32 is 67 MB).
Backward, with d = dy · dswish(h): dx = (g d - mean(g d) - x̂ mean(g d x̂)) / std, the means over the group, and
dg = Σ d x̂, db = Σ d: each block writes the sums of its sample, and one sum over the batch, in a fixed order,
ends it: no atomic addition, so that gradients repeat bit by bit.
Bytes moved: x and y once forward (floor); x, dy and dx once backward. Work: about 12 and 25 operations a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._group_norm import in_cpp
from ._group_norm.on_cpu import centred, channels_last_backward, plain, plain_backward, statistics_dtype
from .common.arguments import check_range, with_checked_types
from .common.arithmetic import in_exact_float32
from .common.registration import operator
from .common.rounding import rounded_to
from .common.spec import (
    Benchmark,
    Call,
    Derivatives,
    Function,
    Launch,
    Numbers,
    OpSpec,
    Problem,
    Row,
    Sizes,
    dtype_name,
    with_gradients,
)
from .common.triton import jit, on_its_device, require_triton, tl, triton

_SECTOR = 32  # bytes that memory moves at least
_WHOLE = 16384  # numbers of a tile up to which one block holds all positions in registers
_CHUNK = 8192  # numbers of a tile otherwise
_LEAST = 1024  # numbers of a tile that are worth a block


@jit
def _over_group(per_channel, GROUPS: tl.constexpr, GROUP_BLOCK: tl.constexpr):
    """The sum over each group, at each of its channels: (GROUPS * GROUP_BLOCK,) to the same."""
    total = tl.sum(tl.reshape(per_channel, (GROUPS, GROUP_BLOCK)), axis=1)
    spread = tl.broadcast_to(total[:, None], (GROUPS, GROUP_BLOCK))
    return tl.reshape(spread, (GROUPS * GROUP_BLOCK,))


@jit
def _channels_of_block(groups, GROUP_SIZE: tl.constexpr, GROUPS: tl.constexpr, GROUP_BLOCK: tl.constexpr):
    """Sample () int64, and channel, group and whether it exists, (GROUPS * GROUP_BLOCK,) each, of a block."""
    blocks = (groups + GROUPS - 1) // GROUPS
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    first = (tl.program_id(0) % blocks) * GROUPS
    lane = tl.arange(0, GROUPS * GROUP_BLOCK)
    group = first + lane // GROUP_BLOCK
    if GROUP_BLOCK == GROUP_SIZE:
        channel = first * GROUP_SIZE + lane
        exists = channel < groups * GROUP_SIZE  # the compiler sees runs of it, unlike of `group < groups`
    else:
        channel = group * GROUP_SIZE + lane % GROUP_BLOCK
        exists = (group < groups) & (lane % GROUP_BLOCK < GROUP_SIZE)
    return sample, channel, group, exists


@jit
def _tile(
    start,  # first position
    area,
    channel,
    exists,
    stride_channel,
    stride_area,
    BLOCK_AREA: tl.constexpr,
):
    """Offsets and mask (BLOCK_AREA, channels of the block) of a chunk of positions."""
    position = start + tl.arange(0, BLOCK_AREA)
    offset = position.to(tl.int64)[:, None] * stride_area + channel.to(tl.int64)[None, :] * stride_channel
    return offset, (position < area)[:, None] & exists[None, :]


@jit
def _group_norm_swish_kernel(
    x,  # (batch, channels, area), any strides
    weight,  # (channels,), contiguous
    bias,  # (channels,), contiguous
    result,  # out: (batch, channels, area), any strides
    means,  # out: (batch, groups) float32, contiguous
    scales,  # out: (batch, groups) float32, contiguous: 1 / sqrt(variance + eps)
    area,
    groups,
    stride_x_batch,
    stride_x_channel,
    stride_x_area,
    stride_result_batch,
    stride_result_channel,
    stride_result_area,
    eps,
    SWISH: tl.constexpr,
    WHOLE: tl.constexpr,  # whether BLOCK_AREA covers the area
    GROUP_SIZE: tl.constexpr,  # channels of a group
    GROUPS: tl.constexpr,  # groups of a block
    GROUP_BLOCK: tl.constexpr,  # GROUP_SIZE, up to a power of two
    BLOCK_AREA: tl.constexpr,
):
    sample, channel, group, exists = _channels_of_block(groups, GROUP_SIZE, GROUPS, GROUP_BLOCK)
    x += sample * stride_x_batch
    result += sample * stride_result_batch
    mean = tl.zeros((GROUPS * GROUP_BLOCK,), tl.float32)
    deviation = tl.zeros((GROUPS * GROUP_BLOCK,), tl.float32)  # sum of squared differences from the mean
    if WHOLE:
        offset, mask = _tile(0, area, channel, exists, stride_x_channel, stride_x_area, BLOCK_AREA)
        held = tl.load(x + offset, mask=mask, other=0.0)
    for start in range(0, BLOCK_AREA if WHOLE else area, BLOCK_AREA):
        offset, mask = _tile(start, area, channel, exists, stride_x_channel, stride_x_area, BLOCK_AREA)
        values = (held if WHOLE else tl.load(x + offset, mask=mask, other=0.0)).to(tl.float32)
        count = tl.minimum(area - start, BLOCK_AREA).to(tl.float32)
        chunk_mean = _over_group(tl.sum(values, axis=0), GROUPS, GROUP_BLOCK) / (count * GROUP_SIZE)
        centred = tl.where(mask, values - chunk_mean[None, :], 0.0)
        difference = chunk_mean - mean
        share = count / (start + count)
        deviation += _over_group(tl.sum(centred * centred, axis=0), GROUPS, GROUP_BLOCK)
        # `difference` is multiplied in last: its square may overflow where the product with 0 must be 0.
        deviation += difference * (difference * (start * share * GROUP_SIZE))
        mean += difference * share
    variance = deviation / (area * 1.0 * GROUP_SIZE)  # `area` has no .to() where a launch makes 1 a constant
    scale = tl.math.rsqrt(variance + eps)
    first_of_group = exists & (tl.arange(0, GROUPS * GROUP_BLOCK) % GROUP_BLOCK == 0)
    tl.store(means + sample * groups + group, mean, mask=first_of_group)
    tl.store(scales + sample * groups + group, scale, mask=first_of_group)
    gain = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32) * scale
    shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    for start in range(0, BLOCK_AREA if WHOLE else area, BLOCK_AREA):
        offset, mask = _tile(start, area, channel, exists, stride_x_channel, stride_x_area, BLOCK_AREA)
        values = (held if WHOLE else tl.load(x + offset, mask=mask, other=0.0)).to(tl.float32)
        normed = (values - mean[None, :]) * gain[None, :] + shift[None, :]
        if SWISH:
            normed = normed / (1.0 + tl.exp(-normed))
        offset, mask = _tile(
            start, area, channel, exists, stride_result_channel, stride_result_area, BLOCK_AREA
        )
        tl.store(result + offset, rounded_to(normed, result.dtype.element_ty), mask=mask)


@jit
def _through_swish(
    grad,  # (BLOCK_AREA, channels of the block) float32: of y
    normed,  # the same: (x - mean) / sqrt(variance + eps)
    gain,  # (channels of the block,) float32
    shift,  # the same
    SWISH: tl.constexpr,
):
    """The gradient of h."""
    if not SWISH:
        return grad
    h = normed * gain[None, :] + shift[None, :]
    gate = 1.0 / (1.0 + tl.exp(-h))
    return grad * gate * (1.0 + h * (1.0 - gate))


@jit
def _group_norm_swish_backward_kernel(
    grad,  # (batch, channels, area), any strides
    x,  # (batch, channels, area), any strides
    means,  # (batch, groups) float32, contiguous
    scales,  # (batch, groups) float32, contiguous
    weight,  # (channels,), contiguous
    bias,  # (channels,), contiguous
    grad_x,  # out: (batch, channels, area), any strides
    sums,  # out: (batch, 2, channels) float32, contiguous: of the gradients of weight and of bias
    area,
    groups,
    stride_grad_batch,
    stride_grad_channel,
    stride_grad_area,
    stride_x_batch,
    stride_x_channel,
    stride_x_area,
    stride_grad_x_batch,
    stride_grad_x_channel,
    stride_grad_x_area,
    SWISH: tl.constexpr,
    WHOLE: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUP_BLOCK: tl.constexpr,
    BLOCK_AREA: tl.constexpr,
):
    sample, channel, group, exists = _channels_of_block(groups, GROUP_SIZE, GROUPS, GROUP_BLOCK)
    x += sample * stride_x_batch
    grad += sample * stride_grad_batch
    grad_x += sample * stride_grad_x_batch
    mean = tl.load(means + sample * groups + group, mask=exists, other=0.0)
    scale = tl.load(scales + sample * groups + group, mask=exists, other=0.0)
    gain = tl.load(weight + channel, mask=exists, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
    sum_weight = tl.zeros((GROUPS * GROUP_BLOCK,), tl.float32)
    sum_bias = tl.zeros((GROUPS * GROUP_BLOCK,), tl.float32)
    if WHOLE:
        offset, mask = _tile(0, area, channel, exists, stride_x_channel, stride_x_area, BLOCK_AREA)
        held = tl.load(x + offset, mask=mask, other=0.0)
        offset, mask = _tile(0, area, channel, exists, stride_grad_channel, stride_grad_area, BLOCK_AREA)
        held_grad = tl.load(grad + offset, mask=mask, other=0.0)
    for start in range(0, BLOCK_AREA if WHOLE else area, BLOCK_AREA):
        offset, mask = _tile(start, area, channel, exists, stride_x_channel, stride_x_area, BLOCK_AREA)
        values = (held if WHOLE else tl.load(x + offset, mask=mask, other=0.0)).to(tl.float32)
        offset, mask = _tile(start, area, channel, exists, stride_grad_channel, stride_grad_area, BLOCK_AREA)
        through = (held_grad if WHOLE else tl.load(grad + offset, mask=mask, other=0.0)).to(tl.float32)
        normed = (values - mean[None, :]) * scale[None, :]
        through = tl.where(mask, _through_swish(through, normed, gain, shift, SWISH), 0.0)
        sum_weight += tl.sum(tl.where(mask, through * normed, 0.0), axis=0)
        sum_bias += tl.sum(through, axis=0)
    channels = groups * GROUP_SIZE
    tl.store(sums + sample * 2 * channels + channel, sum_weight, mask=exists)
    tl.store(sums + sample * 2 * channels + channels + channel, sum_bias, mask=exists)
    count = area * 1.0 * GROUP_SIZE
    along = _over_group(gain * sum_weight, GROUPS, GROUP_BLOCK) / count
    level = _over_group(gain * sum_bias, GROUPS, GROUP_BLOCK) / count
    for start in range(0, BLOCK_AREA if WHOLE else area, BLOCK_AREA):
        offset, mask = _tile(start, area, channel, exists, stride_x_channel, stride_x_area, BLOCK_AREA)
        values = (held if WHOLE else tl.load(x + offset, mask=mask, other=0.0)).to(tl.float32)
        offset, mask = _tile(start, area, channel, exists, stride_grad_channel, stride_grad_area, BLOCK_AREA)
        through = (held_grad if WHOLE else tl.load(grad + offset, mask=mask, other=0.0)).to(tl.float32)
        normed = (values - mean[None, :]) * scale[None, :]
        through = _through_swish(through, normed, gain, shift, SWISH)
        change = (through * gain[None, :] - level[None, :] - normed * along[None, :]) * scale[None, :]
        offset, mask = _tile(
            start, area, channel, exists, stride_grad_x_channel, stride_grad_x_area, BLOCK_AREA
        )
        tl.store(grad_x + offset, rounded_to(change, grad_x.dtype.element_ty), mask=mask)


def choose_block(
    area: int, groups: int, group_size: int, sector: int, whole: int = _WHOLE
) -> tuple[int, int, int]:
    """Groups and positions of a block, and its warps.

    `sector` is how many neighbouring channels memory gives at once (1 for channels first); up to `whole`
    numbers the positions are all there.
    """
    group_block, positions = _power_of_two(group_size), _power_of_two(area)
    most = _power_of_two(groups)
    block_groups = min(most, max(1, sector // group_block))
    while block_groups < most and block_groups * group_block * positions < _LEAST:
        block_groups *= 2
    channels = block_groups * group_block
    if channels * positions > whole:
        positions = max(1, min(positions, _CHUNK // channels))
    return block_groups, positions, max(1, min(8, channels * positions // 1024))


def _power_of_two(number: int) -> int:
    return 1 << (max(number, 1) - 1).bit_length()


def _block_constants(
    x: Tensor, groups: int, whole: int, block: tuple[int, int, int] | None
) -> dict[str, int]:
    """What the choice of a block fixes of a launch."""
    channels, area = x.shape[1:]
    size = channels // groups
    sector = _SECTOR // x.element_size() if x.stride(1) == 1 and area > 1 else 1
    block_groups, block_area, num_warps = block or choose_block(area, groups, size, sector, whole)
    return {
        "WHOLE": block_area >= area,
        "GROUP_SIZE": size,
        "GROUPS": block_groups,
        "GROUP_BLOCK": _power_of_two(size),
        "BLOCK_AREA": block_area,
        "num_warps": num_warps,
    }


@on_its_device
def launch_group_norm_swish(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    num_groups: int,
    eps: float = 1e-6,
    swish: bool = True,
    *,
    block: tuple[int, int, int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the forward kernel on x (batch, channels, area) of float32, bfloat16 or float16.

    `block` is (groups, positions, warps) of a block, powers of two, by default `choose_block`. Returns y in
    the layout of x, and mean and 1 / sqrt(variance + eps), (batch, groups) float32.
    """
    require_triton("group_norm_swish", x, weight, bias)
    result = torch.empty_like(x)
    means, scales = (torch.empty((len(x), num_groups), device=x.device) for _ in range(2))
    if x.numel() == 0:
        return result, means.zero_(), scales.zero_()
    constants = _block_constants(x, num_groups, _WHOLE, block)
    grid = (len(x) * triton.cdiv(num_groups, constants["GROUPS"]),)
    _group_norm_swish_kernel[grid](
        x,
        weight.contiguous(),
        bias.contiguous(),
        result,
        means,
        scales,
        x.shape[2],
        num_groups,
        *x.stride(),
        *result.stride(),
        eps,
        SWISH=swish,
        **constants,
    )
    return result, means, scales


@on_its_device
def launch_group_norm_swish_backward(
    grad: Tensor,
    x: Tensor,
    means: Tensor,
    scales: Tensor,
    weight: Tensor,
    bias: Tensor,
    num_groups: int,
    swish: bool = True,
    *,
    block: tuple[int, int, int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launches the backward kernel; returns the gradients of x, weight and bias."""
    require_triton("group_norm_swish", grad, x, weight, bias)
    grad_x = torch.empty_like(x)
    if x.numel() == 0:
        return grad_x, torch.zeros_like(weight), torch.zeros_like(bias)
    sums = torch.empty((len(x), 2, x.shape[1]), device=x.device)
    constants = _block_constants(x, num_groups, _WHOLE // 2, block)
    grid = (len(x) * triton.cdiv(num_groups, constants["GROUPS"]),)
    _group_norm_swish_backward_kernel[grid](
        grad,
        x,
        means,
        scales,
        weight.contiguous(),
        bias.contiguous(),
        grad_x,
        sums,
        x.shape[2],
        num_groups,
        *grad.stride(),
        *x.stride(),
        *grad_x.stride(),
        SWISH=swish,
        **constants,
    )
    grad_weight, grad_bias = sums.sum(dim=0)
    return grad_x, grad_weight.to(weight.dtype, copy=True), grad_bias.to(bias.dtype, copy=True)


@operator("group_norm_swish")
def _group_norm_swish(
    x: Tensor,  # (batch, channels, area)
    weight: Tensor,  # (channels,)
    bias: Tensor,  # (channels,)
    num_groups: int,
    eps: float,
    swish: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # y in the layout of x; mean and 1 / std (batch, groups)
    run = in_cpp.forward if in_cpp.takes(x) else plain
    return run(x, weight, bias, num_groups, eps, swish)


@_group_norm_swish.register_kernel("cuda")
def _group_norm_swish_cuda(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    run = plain if x.dtype == torch.float64 else launch_group_norm_swish
    return run(x, *others)


@_group_norm_swish.register_fake
def _group_norm_swish_fake(
    x: Tensor, weight: Tensor, bias: Tensor, num_groups: int, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    means = x.new_empty((x.shape[0], num_groups), dtype=statistics_dtype(x))
    return torch.empty_like(x), means, torch.empty_like(means)


@operator("group_norm_swish_backward")
def _group_norm_swish_backward(
    grad: Tensor,  # (batch, channels, area)
    x: Tensor,  # (batch, channels, area)
    means: Tensor,  # (batch, groups)
    scales: Tensor,  # (batch, groups)
    weight: Tensor,  # (channels,)
    bias: Tensor,  # (channels,)
    num_groups: int,
    swish: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # gradients of x in its layout, of weight and of bias
    if in_cpp.takes(x):
        return in_cpp.backward(grad, x, means, scales, weight, bias, swish)
    return plain_backward(grad, x, means, scales, weight, bias, num_groups, swish)


@_group_norm_swish_backward.register_kernel("cuda")
def _group_norm_swish_backward_cuda(grad: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    run = plain_backward if x.dtype == torch.float64 else launch_group_norm_swish_backward
    return run(grad, x, *others)


@_group_norm_swish_backward.register_fake
def _group_norm_swish_backward_fake(
    grad: Tensor, x: Tensor, means: Tensor, scales: Tensor, weight: Tensor, bias: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, ctx.num_groups, _, ctx.swish = inputs
    _, means, scales = output
    ctx.mark_non_differentiable(means, scales)
    ctx.set_materialize_grads(False)  # no zeros for the statistics
    ctx.save_for_backward(x, means, scales, weight, bias)


def _backward(ctx, grad: Tensor | None, *of_statistics: Tensor | None):
    if grad is None:
        return (None,) * 6
    gradients = _group_norm_swish_backward(grad, *ctx.saved_tensors, ctx.num_groups, ctx.swish)
    return *gradients, None, None, None


_group_norm_swish.register_autograd(_backward, setup_context=_setup_context)


@with_checked_types
def group_norm_swish(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-6, *, swish: bool = True
) -> Tensor:
    """`silu(group_norm(x))` (batch, channels, ...) in the dtype and layout of x; without `swish`, `group_norm(x)`.

    Args:
        x: (batch, channels, ...), any float dtype; channels-last and contiguous memory are used directly; a layout
        without one stride over positions is copied. num_groups: divides the channels; a group is `channels /
        num_groups` neighbouring channels. weight, bias: (channels,), any float dtype.
        eps: added to the variance.

    Statistics and swish are in float32. On a CPU, float32 and bfloat16 in channels-last memory with a multiple of 16
    channels go to the C++ extension where it was built. Float64, and everything else outside a GPU, goes to plain
    PyTorch.
    Differentiable once by x, weight and bias, and deterministic. A NaN or infinity gives NaN in its
    (sample, group) and nowhere else.

    Raises ValueError or TypeError naming an argument of a wrong shape, dtype or value.
    """
    _check(x, num_groups, weight, bias, eps)
    flat = x.flatten(2) if x.dim() > 2 else x.unsqueeze(2)
    if in_cpp.runs_at_once(x) and in_cpp.takes(flat):
        return in_cpp.differentiable(flat, weight, bias, num_groups, eps, swish).reshape(x.shape)
    return _group_norm_swish(flat, weight, bias, num_groups, eps, swish)[0].reshape(x.shape)


@with_checked_types
@in_exact_float32
def group_norm_swish_reference(
    x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-6, *, swish: bool = True
) -> Tensor:
    """`group_norm_swish` by PyTorch's own GroupNorm and SiLU, in the dtype of x."""
    _check(x, num_groups, weight, bias, eps)
    normed = torch.group_norm(x, num_groups, weight.to(x.dtype), bias.to(x.dtype), eps)
    return F.silu(normed) if swish else normed


def fused_on_cpu(x: Tensor) -> bool:
    """Whether the C++ extension takes x (batch, channels, area), in `group_norm_swish` forward and backward."""
    return in_cpp.takes(x)


def channels_last_gradients(
    grad: Tensor, x: Tensor, means: Tensor, scales: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias of a GroupNorm on a CPU, faster than PyTorch's for channels-last memory.

    Args:
        grad: (batch, channels, height, width), of the output; x, the input, likewise.
        means, scales: (batch, groups), of each group its mean and 1 / sqrt(variance + eps).
        weight: (channels,).

    All of float32 or all of float64.
    """
    return channels_last_backward(grad, centred(x, means), scales, weight)


def _check(x: Tensor, num_groups: int, weight: Tensor, bias: Tensor, eps: float) -> None:
    check_range("eps", eps, 0)
    if x.dim() < 2 or x.shape[1] == 0:
        raise ValueError(f"x must be (batch, channels, ...) with a channel at least, got {tuple(x.shape)}")
    channels = x.shape[1]
    if num_groups < 1 or channels % num_groups:
        raise ValueError(f"num_groups must divide the {channels} channels of x, got {num_groups}")
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is not x and tuple(tensor.shape) != (channels,):
            raise ValueError(f"{name} must have shape ({channels},), got {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got dtype {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}, got {tensor.device}")


# (groups, positions, warps) of a block at 64 x 64 positions, to compare: by chunks, and whole in registers.
_BLOCKS = ((4, 512, 8), (4, 2048, 8), (4, 4096, 32), (8, 512, 8), (32, 64, 8))
_SIDE = 64  # of the paper's largest maps, which have 64 channels in 32 groups


def _calls(device: str) -> dict[str, Call]:
    numbers = Numbers(device, alike=True)
    maps = numbers.normal(2, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    return {
        "group_norm_swish": Call(
            lambda x, weight, bias: group_norm_swish(x, 4, weight, bias),
            (maps, 1 + numbers.normal(8).abs(), numbers.normal(8)),
            {0: 0},
        )
    }


def _arguments() -> dict[str, dict[str, Any]]:
    norm = {"weight": torch.ones(4), "bias": torch.ones(4), "num_groups": 2, "eps": 1e-6, "swish": True}
    return {"group_norm_swish": {"x": torch.arange(24.0).view(2, 4, 3), **norm}}


def _launches(_: int) -> Iterator[Launch]:
    papers = [(64, 64, side * side, 32) for side in (64, 32, 16, 4)]
    for shape in [*papers, (1, 1, 1, 1), (2, 6, 1, 2), (1, 5, 33, 5), (1, 64, 1024, 32), (3, 3, 9, 1)]:
        batch, channels, area, groups = shape
        weight, statistics = torch.ones(channels), torch.zeros(batch, groups)
        for dtype in (torch.float32, torch.bfloat16):
            first = torch.zeros(batch, channels, area, dtype=dtype)
            last = first.transpose(1, 2).contiguous().transpose(1, 2)
            for x, swish, hot in ((last, True, shape in papers), (first, False, False)):
                what = f"{shape} {dtype_name(dtype)} {'last' if x is last else 'first'}"
                saved = (x, x, statistics, statistics, weight, weight, groups, swish)
                forward = partial(launch_group_norm_swish, x, weight, weight, groups, 1e-6, swish)
                yield Launch(what, forward, hot)
                yield Launch(f"{what}, backward", partial(launch_group_norm_swish_backward, *saved), hot)


def _derivatives() -> Derivatives:
    numbers = Numbers("cpu")
    return Derivatives(
        lambda x, gain, shift: group_norm_swish(x, 4, gain, shift),
        lambda x, gain, shift: F.silu(F.group_norm(x, 4, gain, shift, 1e-6)),
        (2 * numbers.normal(3, 8, 5, 5) + 1, numbers.normal(8), numbers.normal(8)),
    )


def _sizes(cuda: bool, quick: bool) -> Sizes:
    """Every resolution at batch 64, the largest at 256 too, then with gradients."""
    ways = (False, True)
    if quick:
        return [{"batch": 2, "side": 16, "gradients": gradients} for gradients in ways]
    if not cuda:  # compiled at the largest maps alone: each takes seconds
        return [
            {"batch": 8, "side": side, "gradients": gradients, "compile_it": side == _SIDE}
            for side in (16, _SIDE)
            for gradients in ways
        ]
    dtypes = (torch.float32, torch.bfloat16)
    found: Sizes = [
        {"batch": 64, "side": side, "dtype": dtype} for side in (64, 32, 16, 4) for dtype in dtypes
    ]
    large: Sizes = [{"batch": 256, "side": side, "gradients": one} for side in (64, 16) for one in ways]
    return [size | {"compile_it": True} for size in found + [one | {"dtype": dtypes[1]} for one in large]]


def _problem(
    device: torch.device,
    batch: int,
    side: int,
    dtype: torch.dtype = torch.float32,
    gradients: bool = False,
) -> Problem:
    """`batch` maps of 64 channels in channels-last memory, as IRIS's autoencoder has them."""
    numbers = Numbers(device)
    channels, groups = 64, 32
    x = numbers.normal(batch, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight, bias = numbers.normal(2, channels).unbind()
    grad = torch.ones_like(x) * numbers.normal(*x.shape, dtype=dtype)

    def bind(function: Function, x: Tensor = x, weight: Tensor = weight, bias: Tensor = bias) -> Function:
        def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return function(x, groups, weight, bias)

        leaves = [x, weight, bias]
        return with_gradients(call, leaves, grad.to(x.dtype)) if gradients else lambda: call(*leaves)

    def of_block(block: tuple[int, int, int]) -> Tensor:
        return launch_group_norm_swish(x.flatten(2), weight, bias, groups, block=block)[0].reshape(x.shape)

    ours = {"ours": bind(group_norm_swish)}
    for block in _BLOCKS if device.type == "cuda" and side == _SIDE and not gradients else ():
        ours["ours_{}_groups_{}_positions_{}_warps".format(*block)] = partial(of_block, block)
    return Problem(
        {"batch": batch, "side": side, "dtype": dtype_name(dtype), "gradients": gradients},
        flops=x.numel() * (37 if gradients else 12),
        bytes=x.numel() * dtype.itemsize * (5 if gradients else 2),
        ours=ours,
        plain=group_norm_swish_reference,
        bind=bind,
        expected=lambda: bind(group_norm_swish_reference, x.double(), weight.double(), bias.double())(),
        tolerance=1e-4 if dtype == torch.float32 else 4e-2,
    )


SPEC = OpSpec(
    group_norm_swish,
    _calls,
    _arguments,
    group_norm_swish_reference,
    about="""
GroupNorm and swish, forward and backward, in the memory layout of the input: channels last stay channels last.
""",
    example="""
import torch
from iris_fast.kernels import group_norm_swish

x, norm = torch.randn(8, 64, 16, 16), torch.nn.GroupNorm(32, 64, eps=1e-6)
x = x.to(memory_format=torch.channels_last)
y = group_norm_swish(x, 32, norm.weight, norm.bias)  # silu(norm(x))
""",
    launches=_launches,
    derivatives=_derivatives,
    benchmark=Benchmark(
        _sizes,
        _problem,
        {"batch": 8, "side": 64},
        Row(
            "(batch, channels, …) → the same",
            "differentiable once",
            {"side": 64, "gradients": False},
            {"batch": 64, "side": 64, "dtype": "bfloat16", "gradients": False},
            "{batch} × 64 × {side}²",
        ),
        minutes=0.15,
    ),
)
