"""LayerNorm, a linear layer, an activation and a residual, in one pass over few rows.

y = act(LN(x) Wᵀ + b) + r,  LN(x) = (x - mean(x)) / sqrt(var(x) + eps) · g + s  (Ba et al. 2016, "Layer
Normalization"), act the identity, ReLU or GELU(z) = z Φ(z) with Φ by erf (Hendrycks and Gimpel 2016).

`x` is (rows, dim), `weight` W (out, dim), the result (rows, out); LN, b, act and r are each optional. With few
rows the work is to read W once and to wait: a block owns a tile of the result, normalises its rows itself
(each block of a row of tiles repeats that: a few hundred numbers, from L2) and runs over `dim` by matrix
units. Statistics are of two passes in registers, merged over chunks of a row by the formula of Chan et al.
(1979), never E[x²] - E[x]². Where LN's `dim` is small all of a tile's numbers are asked for before the first is
used, x a single time, so that a block waits for memory once. `dim` is not split over blocks: the smallest tile
reads 16 × (dim) weights, 32 KiB at dim 1024 in bfloat16, which takes less time than the second launch that a
fixed order of addition needs.
Bytes moved: W, x, r and y once, at least. Work: 2 · rows · dim · out operations, 8 · rows · dim for LN.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .common.arguments import as_rows, check_range, with_checked_types
from .common.arithmetic import in_exact_float32
from .common.registration import operator
from .common.rounding import dot_of, rounded_to
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
)
from .common.triton import (
    jit,
    large_shared_memory,
    num_multiprocessors,
    on_its_device,
    require_triton,
    tl,
    triton,
)

ACTIVATIONS = ("identity", "gelu", "relu")
PRECISIONS = ("ieee", "tf32x3", "tf32")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)

# (rows, columns of the result, warps) of a block, the largest first.
TILES = ((64, 128, 8), (64, 64, 8), (64, 32, 4), (32, 32, 4), (16, 32, 4), (16, 16, 2))
_HELD = 64  # numbers of x that a thread holds while it takes statistics
_HELD_WHOLE = 96  # registers of a thread for rows and weights of a tile that is taken at once
_OCCUPANCY = 0.7  # blocks a multiprocessor has to be given before a larger tile is taken


@jit
def _moments(values, mask, count):
    """Mean and sum of squared differences from it, (rows,), of `count` numbers a row, which `mask` tells."""
    mean = tl.sum(values, axis=1) / count
    centred = tl.where(mask, values - mean[:, None], 0.0)
    return mean, tl.sum(centred * centred, axis=1)


@jit
def _row_statistics(
    x_rows,  # pointers to the start of each row (BLOCK_ROWS,)
    row_mask,  # (BLOCK_ROWS,): which rows there are
    dim,
    stride_dim,  # elements between neighbours of a row
    eps,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_STATISTICS: tl.constexpr,
):
    """Mean and 1 / sqrt(variance + eps), (BLOCK_ROWS,) float32, of each row."""
    mean = tl.zeros((BLOCK_ROWS,), tl.float32)
    deviation = tl.zeros((BLOCK_ROWS,), tl.float32)  # sum of squared differences from the mean
    for start in range(0, dim, BLOCK_STATISTICS):
        column = start + tl.arange(0, BLOCK_STATISTICS)
        mask = row_mask[:, None] & (column < dim)[None, :]
        offset = column.to(tl.int64) * stride_dim
        values = tl.load(x_rows[:, None] + offset[None, :], mask=mask, other=0.0).to(tl.float32)
        count = tl.minimum(dim - start, BLOCK_STATISTICS).to(tl.float32)
        chunk_mean, chunk_deviation = _moments(values, mask, count)
        difference = chunk_mean - mean
        share = count / (start + count)
        # `difference` is multiplied in last: its square may overflow where the product with 0 must be 0.
        deviation += chunk_deviation + difference * (difference * (start * share))
        mean += difference * share
    return mean, tl.math.rsqrt(deviation / dim + eps)


@jit
def activated(values, ACTIVATION: tl.constexpr):
    """`values` float32 under one of ACTIVATIONS."""
    if ACTIVATION == "gelu":
        values = 0.5 * values * (1.0 + tl.math.erf(values * 0.7071067811865476))
    elif ACTIVATION == "relu":
        # A comparison and not a maximum, so that NaN stays NaN.
        values = tl.where(values < 0.0, 0.0, values)
    return values


@jit
def _tile_of(matrix, row, column, stride_row, stride_column, inside):
    offset = row.to(tl.int64)[:, None] * stride_row + column.to(tl.int64)[None, :] * stride_column
    return tl.load(matrix + offset, mask=inside, other=0.0)


@jit
def _plus_product(
    total,  # (BLOCK_ROWS, BLOCK_OUT) float32
    start,  # of the columns of x and weight
    x_rows,
    weight_columns,
    norm_weight,
    norm_bias,
    row_mask,
    column_mask,
    mean,  # (BLOCK_ROWS,), with `scale` computed here if WHOLE
    scale,
    dim,
    stride_x_dim,
    stride_weight_dim,
    eps,
    NORMALISE: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """`total` and the product of BLOCK_DIM normalised columns of x and the same ones of the weights."""
    k = start + tl.arange(0, BLOCK_DIM)
    k_mask = k < dim
    k_offset = k.to(tl.int64)
    weights = tl.load(
        weight_columns[None, :] + k_offset[:, None] * stride_weight_dim,
        mask=k_mask[:, None] & column_mask[None, :],
        other=0.0,
    )
    if NORMALISE:
        gain = tl.load(norm_weight + k, mask=k_mask, other=0.0).to(tl.float32)
        if HAS_NORM_BIAS:
            shift = tl.load(norm_bias + k, mask=k_mask, other=0.0).to(tl.float32)
    mask = row_mask[:, None] & k_mask[None, :]
    values = tl.load(x_rows[:, None] + k_offset[None, :] * stride_x_dim, mask=mask, other=0.0).to(tl.float32)
    if NORMALISE:
        if WHOLE:
            mean, deviation = _moments(values, mask, dim * 1.0)
            scale = tl.math.rsqrt(deviation / dim + eps)
        values = (values - mean[:, None]) * scale[:, None] * gain[None, :]
        if HAS_NORM_BIAS:
            values += shift[None, :]
    return dot_of(rounded_to(values, weights.dtype), weights, total, PRECISION)


@jit
def _layer_norm_linear_kernel(
    x,  # (rows, dim), any strides
    weight,  # (out, dim), any strides; products are in its dtype
    bias,  # (out,), contiguous; read if HAS_BIAS
    norm_weight,  # (dim,), contiguous; read if NORMALISE
    norm_bias,  # (dim,), contiguous; read if HAS_NORM_BIAS
    residual,  # (rows, out), any strides; read if HAS_RESIDUAL
    result,  # out: (rows, out), contiguous
    rows,
    dim,
    out,
    stride_x_row,
    stride_x_dim,
    stride_weight_out,
    stride_weight_dim,
    stride_residual_row,
    stride_residual_out,
    eps,
    HAS_BIAS: tl.constexpr,
    NORMALISE: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    BLOCK_STATISTICS: tl.constexpr,
    WHOLE: tl.constexpr,  # BLOCK_DIM holds all of dim
):
    # Neighbouring blocks share a tile of the weights, so that each is read from memory once.
    row_tiles = (rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    row = (tl.program_id(0) % row_tiles) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = (tl.program_id(0) // row_tiles) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    row_mask, column_mask = row < rows, column < out
    x_rows = x + row.to(tl.int64) * stride_x_row
    weight_columns = weight + column.to(tl.int64) * stride_weight_out
    inside = row_mask[:, None] & column_mask[None, :]
    mean, scale = tl.zeros((BLOCK_ROWS,), tl.float32), tl.zeros((BLOCK_ROWS,), tl.float32)
    total = tl.zeros((BLOCK_ROWS, BLOCK_OUT), tl.float32)
    if WHOLE:
        # What needs nothing else is asked for first, so that it arrives while the block waits for the rest.
        if HAS_BIAS:
            added = tl.load(bias + column, mask=column_mask, other=0.0)
        if HAS_RESIDUAL:
            before = _tile_of(residual, row, column, stride_residual_row, stride_residual_out, inside)
        total = _plus_product(
            total,
            0,
            x_rows,
            weight_columns,
            norm_weight,
            norm_bias,
            row_mask,
            column_mask,
            mean,
            scale,
            dim,
            stride_x_dim,
            stride_weight_dim,
            eps,
            NORMALISE,
            HAS_NORM_BIAS,
            WHOLE,
            PRECISION,
            BLOCK_DIM,
        )
    else:
        if NORMALISE:
            mean, scale = _row_statistics(
                x_rows, row_mask, dim, stride_x_dim, eps, BLOCK_ROWS, BLOCK_STATISTICS
            )
        for start in range(0, dim, BLOCK_DIM):
            total = _plus_product(
                total,
                start,
                x_rows,
                weight_columns,
                norm_weight,
                norm_bias,
                row_mask,
                column_mask,
                mean,
                scale,
                dim,
                stride_x_dim,
                stride_weight_dim,
                eps,
                NORMALISE,
                HAS_NORM_BIAS,
                WHOLE,
                PRECISION,
                BLOCK_DIM,
            )
        if HAS_BIAS:
            added = tl.load(bias + column, mask=column_mask, other=0.0)
    if HAS_BIAS:
        total += added.to(tl.float32)[None, :]
    total = activated(total, ACTIVATION)
    if HAS_RESIDUAL:
        if not WHOLE:
            before = _tile_of(residual, row, column, stride_residual_row, stride_residual_out, inside)
        total += before.to(tl.float32)
    offset = row.to(tl.int64)[:, None] * out + column.to(tl.int64)[None, :]
    tl.store(result + offset, rounded_to(total, result.dtype.element_ty), mask=inside)


def choose_tile(rows: int, out: int, multiprocessors: int) -> tuple[int, int, int]:
    """The largest tile of `TILES` that still gives most multiprocessors a block, or else the smallest."""
    for tile in TILES:
        blocks = -(-rows // tile[0]) * -(-out // tile[1])
        if blocks >= _OCCUPANCY * multiprocessors:
            return tile
    return TILES[-1]


def statistics_columns(dim: int, block_rows: int, num_warps: int) -> int:
    """How many columns of a row tile have their statistics taken at a time: all of them if registers allow."""
    return min(_HELD * 32 * num_warps // block_rows, 1 << (max(dim, 1) - 1).bit_length())


def products_columns(dtype: torch.dtype, precision: str) -> int:
    """How much of `dim` goes through the matrix units at a time; three products in TF32 need the registers."""
    if dtype != torch.float32:
        return 128
    return 16 if precision == "tf32x3" else 32


def whole_columns(
    dim: int, dtype: torch.dtype, block_rows: int, block_out: int, num_warps: int
) -> int | None:
    """`dim` as a power of two where all of a tile's numbers go through the matrix units at once, else None.

    The registers of a thread must hold its share of the rows in float32, and of the weights.
    """
    columns = max(16, 1 << (max(dim, 1) - 1).bit_length())
    held = columns * (block_rows + block_out // 2) / (32 * num_warps)
    return columns if dtype != torch.float32 and dim and held <= _HELD_WHOLE else None


@on_its_device
def launch_layer_norm_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    activation: str = "identity",
    precision: str = "ieee",
    *,
    tile: tuple[int, int, int] | None = None,
    block_dim: int | None = None,
    num_stages: int | None = None,
) -> Tensor:
    """Launches the kernel on x (rows, dim) and weight (out, dim) of `FLOATS`.

    `tile` is (rows, columns, warps) of a block, by default `choose_tile`; `block_dim` is how much of `dim`
    goes through the matrix units at a time, a power of two from 16, by default with LN `whole_columns`, or else
    `products_columns`; `num_stages` of loading are 3 by default, and 2 where shared memory is small.
    """
    given = [t for t in (x, weight, bias, norm_weight, norm_bias, residual) if t is not None]
    require_triton("layer_norm_linear", *given)
    (rows, dim), out = x.shape, weight.shape[0]
    result = torch.empty((rows, out), device=x.device, dtype=(weight if residual is None else residual).dtype)
    if result.numel() == 0:
        return result
    block_rows, block_out, num_warps = tile or choose_tile(rows, out, num_multiprocessors(x.device))
    whole = None
    if (
        norm_weight is not None and block_dim is None
    ):  # without a norm the compiler puts waits between the loads
        whole = whole_columns(dim, weight.dtype, block_rows, block_out, num_warps)
    block_dim = block_dim or whole or products_columns(weight.dtype, precision)
    num_stages = num_stages or (3 if large_shared_memory(x.device) else 2)
    bias, norm_weight, norm_bias = (
        None if t is None else t.contiguous() for t in (bias, norm_weight, norm_bias)
    )
    grid = (triton.cdiv(rows, block_rows) * triton.cdiv(out, block_out),)
    _layer_norm_linear_kernel[grid](
        x,
        weight,
        weight if bias is None else bias,
        weight if norm_weight is None else norm_weight,
        weight if norm_bias is None else norm_bias,
        weight if residual is None else residual,
        result,
        rows,
        dim,
        out,
        *x.stride(),
        *weight.stride(),
        *(result if residual is None else residual).stride(),
        eps,
        HAS_BIAS=bias is not None,
        NORMALISE=norm_weight is not None,
        HAS_NORM_BIAS=norm_bias is not None,
        HAS_RESIDUAL=residual is not None,
        ACTIVATION=activation,
        PRECISION=precision,
        BLOCK_ROWS=block_rows,
        BLOCK_OUT=block_out,
        BLOCK_DIM=block_dim,
        BLOCK_STATISTICS=statistics_columns(dim, block_rows, num_warps),
        WHOLE=whole is not None,
        num_warps=num_warps,
        num_stages=num_stages,
    )
    return result


def _normalised(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """LN(x), mean and 1 / sqrt(variance + eps), in float32 (float64 for float64)."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    shift = None if norm_bias is None else norm_bias.to(dtype)
    return torch.native_layer_norm(x.to(dtype), x.shape[-1:], norm_weight.to(dtype), shift, eps)


def _linear(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(inputs.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))


def _plain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str,
) -> Tensor:
    inputs = x if norm_weight is None else _normalised(x, norm_weight, norm_bias, eps)[0]
    result = _linear(inputs, weight, bias)
    if activation == "gelu":
        result = F.gelu(result)
    elif activation == "relu":
        result = F.relu(result)
    return result if residual is None else (result + residual).to(residual.dtype)


@operator("layer_norm_linear")
def _layer_norm_linear(
    x: Tensor,  # (rows, dim)
    weight: Tensor,  # (out, dim)
    bias: Tensor | None,  # (out,)
    norm_weight: Tensor | None,  # (dim,)
    norm_bias: Tensor | None,  # (dim,)
    residual: Tensor | None,  # (rows, out)
    eps: float,
    activation: str,  # one of ACTIVATIONS
    precision: str,  # one of PRECISIONS
) -> Tensor:  # (rows, out), in the dtype of residual, or else of weight
    return _plain(x, weight, bias, norm_weight, norm_bias, residual, eps, activation)


@_layer_norm_linear.register_kernel("cuda")
def _layer_norm_linear_cuda(x: Tensor, weight: Tensor, *others: Any) -> Tensor:
    if torch.float64 in (x.dtype, weight.dtype):
        return _plain(x, weight, *others[:-1])
    return launch_layer_norm_linear(x, weight, *others)


@_layer_norm_linear.register_fake
def _layer_norm_linear_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    residual: Tensor | None,
    *_: object,
) -> Tensor:
    dtype = weight.dtype if residual is None else residual.dtype
    return x.new_empty((x.shape[0], weight.shape[0]), dtype=dtype)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, norm_weight, norm_bias, residual, ctx.eps, ctx.activation, _ = inputs
    ctx.save_for_backward(x, weight, bias, norm_weight, norm_bias)
    ctx.residual_dtype = None if residual is None else residual.dtype


def _backward(ctx, grad: Tensor):
    """The gradient by recomputation in plain PyTorch, because the operation is made for inference."""
    x, weight, bias, norm_weight, norm_bias = ctx.saved_tensors
    normed = x
    if norm_weight is not None:
        normed, mean, scale = _normalised(x, norm_weight, norm_bias, ctx.eps)
    normed = normed.to(weight.dtype)
    grad_linear = grad.to(weight.dtype)
    if ctx.activation != "identity":
        before = _linear(normed, weight, bias)
        if ctx.activation == "gelu":
            grad_linear = torch.ops.aten.gelu_backward(grad_linear, before)
        else:
            grad_linear = torch.ops.aten.threshold_backward(grad_linear, before, 0)
    grad_x = grad_linear @ weight
    grad_norm_weight = grad_norm_bias = None
    if norm_weight is not None:
        dtype = mean.dtype
        shift = None if norm_bias is None else norm_bias.to(dtype)
        grad_x, grad_norm_weight, grad_norm_bias = torch.ops.aten.native_layer_norm_backward(
            grad_x.to(dtype),
            x.to(dtype),
            x.shape[-1:],
            mean,
            scale,
            norm_weight.to(dtype),
            shift,
            [True, True, shift is not None],
        )
        grad_norm_weight = grad_norm_weight.to(norm_weight.dtype)
        grad_norm_bias = None if norm_bias is None else grad_norm_bias.to(norm_bias.dtype)
    return (
        grad_x.to(x.dtype),
        grad_linear.t() @ normed,
        None if bias is None else grad_linear.sum(0, dtype=bias.dtype),
        grad_norm_weight,
        grad_norm_bias,
        None if ctx.residual_dtype is None else grad.to(ctx.residual_dtype),
        None,
        None,
        None,
    )


_layer_norm_linear.register_autograd(_backward, setup_context=_setup_context)


@with_checked_types
def layer_norm_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str | None = None,
    residual: Tensor | None = None,
    precision: str = "ieee",
) -> Tensor:
    """`activation(layer_norm(x) @ weight.T + bias) + residual`, (..., out), meant for up to about 1000 rows.

    Args:
        x: (..., dim), any float dtype and strides.
        weight: (out, dim), as `torch.nn.Linear` has it. LN(x) is rounded to its dtype, sums are in float32.
        bias: (out,).
        norm_weight, norm_bias: (dim,), the LayerNorm's; without `norm_weight` x is not normalised.
        eps: added to the variance.
        activation: None, "gelu" (by erf) or "relu".
        residual: (..., out), added last. The result has its dtype, otherwise that of `weight`.
        precision: of float32 products on a GPU: "ieee" (exact), "tf32x3" (three products in TF32 for nearly
            float32) or "tf32". Other dtypes and devices ignore it.

    Float64, and every tensor outside a GPU, goes to `layer_norm_linear_reference`. Differentiable by all
    tensors, by recomputation in plain PyTorch. A row of x that holds NaN (or, if normalised, infinity) gives
    a row of NaN (ReLU and GELU keep NaN).

    Raises ValueError or TypeError naming an argument of a wrong shape, dtype or value.
    """
    _check(x, weight, bias, norm_weight, norm_bias, residual, eps, activation, precision)
    added = None if residual is None else as_rows(residual)
    result = _layer_norm_linear(
        as_rows(x), weight, bias, norm_weight, norm_bias, added, eps, activation or "identity", precision
    )
    return result.reshape(*x.shape[:-1], weight.shape[0])


@with_checked_types
@in_exact_float32
def layer_norm_linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str | None = None,
    residual: Tensor | None = None,
    precision: str = "ieee",
) -> Tensor:
    """`layer_norm_linear` in plain PyTorch; `precision` is checked and not used."""
    _check(x, weight, bias, norm_weight, norm_bias, residual, eps, activation, precision)
    return _plain(x, weight, bias, norm_weight, norm_bias, residual, eps, activation or "identity")


def _check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    activation: str | None,
    precision: str,
) -> None:
    check_range("eps", eps, 0)
    if weight.dim() != 2 or x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"x must be (..., dim) and weight (out, dim), got {tuple(x.shape)} and {tuple(weight.shape)}"
        )
    out, dim = weight.shape
    expected = {
        "bias": (bias, (out,)),
        "norm_weight": (norm_weight, (dim,)),
        "norm_bias": (norm_bias, (dim,)),
        "residual": (residual, (*x.shape[:-1], out)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    tensors = {"x": x, "weight": weight} | {name: t for name, (t, _) in expected.items() if t is not None}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got dtype {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}, got {tensor.device}")
    if norm_bias is not None and norm_weight is None:
        raise ValueError("norm_bias needs norm_weight (ones for a LayerNorm without one)")
    if activation not in (None, "gelu", "relu"):
        raise ValueError(f'activation must be None, "gelu" or "relu", got {activation!r}')
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


_ROLLOUTS = 64  # rows of a token pass
# Linear layers of the paper's agent by name: (dim, out, LayerNorm, activation, residual).
_LAYERS = {
    "query_key_value": (256, 768, True, None, False),
    "projection": (256, 256, False, None, True),
    "mlp_in": (256, 1024, True, "gelu", False),
    "mlp_out": (1024, 256, False, None, True),
}
_TOLERANCES = {"ieee": 1e-5, "tf32x3": 1e-5, "tf32": 4e-3}


def _calls(device: str) -> dict[str, Call]:
    def call(x: Tensor, weight: Tensor, gain: Tensor, residual: Tensor) -> Tensor:
        return layer_norm_linear(x, weight, norm_weight=gain, activation="gelu", residual=residual)

    numbers = Numbers(device, alike=True)
    x, weight, gain = numbers.normal(6, 8), numbers.normal(12, 8), 1 + numbers.normal(8).abs()
    return {"layer_norm_linear": Call(call, (x, weight, gain, numbers.normal(6, 12)), {0: 0, 3: 0})}


def _arguments() -> dict[str, dict[str, Any]]:
    x, weight = torch.linspace(-1, 1, 10).view(2, 5), torch.eye(5)
    return {"layer_norm_linear": {"x": x, "weight": weight, "norm_weight": torch.ones(5), "eps": 1e-5}}


def _launches(_: int) -> Iterator[Launch]:
    kinds = [(torch.float32, precision) for precision in PRECISIONS]
    kinds += [(torch.bfloat16, "ieee"), (torch.float16, "ieee")]
    papers = [(1, 256, 1024), (64, 256, 768), (64, 1024, 256), (8192, 256, 1024)]
    for rows, dim, out in [*papers, (1, 1, 1), (5, 40, 33)]:
        for dtype, precision in kinds:
            x, weight = torch.zeros(rows, dim, dtype=dtype), torch.zeros(out, dim, dtype=dtype)
            optional = (x.new_zeros(out), x.new_zeros(dim), x.new_zeros(dim), x.new_zeros(rows, out))
            launch = partial(launch_layer_norm_linear, x, weight)
            what = f"{rows} x {dim} to {out} {dtype_name(dtype)} {precision}"
            hot = (rows, dim, out) in papers and dtype != torch.float16
            yield Launch(what, partial(launch, *optional, 1e-5, "gelu", precision), hot)
            if rows in (1, 64):
                yield Launch(f"{what}, ReLU", partial(launch, activation="relu", precision=precision))
    half, weight, ones = torch.zeros(4, 8, dtype=torch.bfloat16), torch.zeros(6, 8), torch.ones(8)
    mixed = partial(launch_layer_norm_linear, half, weight, None, ones, None, half[:, :6])
    yield Launch("bfloat16 x, float32 weight", mixed)
    turned = partial(launch_layer_norm_linear, half.float(), weight.bfloat16(), norm_weight=ones)
    yield Launch("float32 x, bfloat16 weight", turned)


def _derivatives() -> Derivatives:
    def ours(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, added: Tensor) -> Tensor:
        options: dict[str, Any] = {"norm_weight": gain, "norm_bias": shift, "residual": added}
        return layer_norm_linear(x, weight, bias, activation="gelu", **options)

    def plain(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, added: Tensor) -> Tensor:
        return F.gelu(F.linear(F.layer_norm(x, x.shape[-1:], gain, shift), weight, bias)) + added

    normal = Numbers("cpu").normal
    layer = (normal(24, 40) / 6, normal(24), 1 + 0.1 * normal(40), normal(40))
    return Derivatives(ours, plain, (3 * normal(7, 40) + 1, *layer, normal(7, 24)))


def _sizes(cuda: bool, quick: bool) -> Sizes:
    """All layers at the paper's batch, then the largest product by rows and in float32."""
    if quick or not cuda:  # compiled at the rows of a rollout alone: each takes a second
        return [
            {"layer": layer, "rows": rows, "compile_it": rows == _ROLLOUTS}
            for layer in _LAYERS
            for rows in ((4,) if quick else (1, _ROLLOUTS))
        ]
    half = {"dtype": torch.bfloat16}
    found: Sizes = [{"layer": layer, "rows": 64, **half} for layer in _LAYERS]
    found += [{"layer": "mlp_in", "rows": rows, **half} for rows in (1, 16, 256, 1024, 8192)]
    found += [{"layer": layer, "rows": 64} for layer in ("mlp_in", "mlp_out")]
    return [size | {"compile_it": True} for size in found]


def _problem(device: torch.device, layer: str, rows: int, dtype: torch.dtype = torch.float32) -> Problem:
    """One layer. Weights, 0.4 to 1 MB in float32, are in the L2 cache of a GPU as in a rollout."""
    dim, out, normalise, activation, residual = _LAYERS[layer]
    random = partial(Numbers(device).normal, dtype=dtype)
    order = ("x", "weight", "bias", "norm_weight", "norm_bias", "residual")
    given: dict[str, Any] = {"x": random(rows, dim), "weight": random(out, dim) / 16, "bias": random(out)}
    given |= {"norm_weight": random(dim), "norm_bias": random(dim)} if normalise else {}
    given |= {"residual": random(rows, out)} if residual else {}
    inputs = given | {"activation": activation}
    cuda = device.type == "cuda"
    precisions = PRECISIONS if dtype == torch.float32 and cuda else ("ieee",)

    def bind(function: Function, **options: Any) -> Function:
        return lambda: function(**(inputs | options))

    ours = {"ours": bind(layer_norm_linear)}
    ours |= {f"ours_{one}": bind(layer_norm_linear, precision=one) for one in precisions[1:]}
    tensors: Any = [given.get(name) for name in order]
    for tile in TILES if cuda else ():
        options: dict[str, Any] = {"activation": activation or "identity", "tile": tile}
        ours[f"ours_{tile[0]}x{tile[1]}"] = partial(launch_layer_norm_linear, *tensors, **options)
    numbers = rows * (dim + out * (2 if residual else 1)) + out * (dim + 1) + 2 * dim * normalise
    exact = {name: tensor.double() for name, tensor in given.items()}
    return Problem(
        {"layer": layer, "rows": rows, "dtype": dtype_name(dtype)},
        flops=2 * rows * dim * out,
        bytes=numbers * dtype.itemsize,
        dtype=dtype,
        ours=ours,
        plain=layer_norm_linear_reference,
        bind=bind,
        expected=bind(layer_norm_linear_reference, **exact),
        tolerance=_TOLERANCES[precisions[-1]] if dtype == torch.float32 else 2e-2,
    )


SPEC = OpSpec(
    layer_norm_linear,
    _calls,
    _arguments,
    layer_norm_linear_reference,
    about="""
LayerNorm, linear layer, GELU or ReLU and residual in one launch, each of them optional: a block of a GPT in few rows.
""",
    example="""
import torch
from iris_fast.kernels import layer_norm_linear

x, norm, linear = torch.randn(64, 256), torch.nn.LayerNorm(256), torch.nn.Linear(256, 1024)
gain, shift = norm.weight, norm.bias
hidden = layer_norm_linear(
    x, linear.weight, linear.bias, norm_weight=gain, norm_bias=shift, activation="gelu"
)
""",
    launches=_launches,
    derivatives=_derivatives,
    benchmark=Benchmark(
        _sizes,
        _problem,
        {"layer": "mlp_in", "rows": 64},
        Row(
            "(…, dim), (out, dim) → (…, out)",
            "made for up to about 1000 rows",
            {"layer": "mlp_in", "rows": 64},
            {"layer": "mlp_in", "rows": 64, "dtype": "bfloat16"},
            "{rows} × 256 → 1024, GELU",
        ),
        minutes=0.15,
    ),
)
