"""LayerNorm and a whole MLP with its residual, in one launch over few rows, on a residual stream in parts.

y = x + W₂ act(W₁ LN(x) + b₁) + b₂ (Vaswani et al., "Attention is all you need", 2017, section 3.3, with LayerNorm
first), act the identity, ReLU or GELU. The stream x is (parts, rows, dim) and stands for its sum over the first axis;
so does y, (1 + slices, rows, dim): x added up, then what each slice of the MLP's width adds, with b₂ in the first.

In two launches the second waits for all of the first, because each of its results needs the whole width. Here a
block owns a group of rows and a slice of the width: it reads its slices of W₁ and W₂, and writes its share of the sum
for the next reader of the stream (the next layer adds the parts as it loads them). Without a sum across blocks there
is no grid barrier and no atomic addition, and results repeat bit by bit. Bytes moved, at the least: both weights
once, 2 dim width numbers; the parts read, and 4 (1 + slices) rows dim bytes written. Each group of rows reads both
weights from L2 once, each slice the group's rows of the stream. FLOPs: 4 rows dim width, and 8 rows dim slices for
the LayerNorm that each slice repeats.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._stream.arguments import (
    MAX_PARTS,
    as_parts,
    check_linear,
    check_precision,
    check_stream,
    check_tensors,
    normalised,
    require_small_products,
    result_dtype,
    stream_sum,
)
from ._stream.tiles import (
    normalised_pieces,
    piece,
    plus_bias,
    plus_product,
    store_rows,
    store_stream,
    stream_rows,
)
from .common.arguments import check_range, with_checked_types
from .common.arithmetic import in_exact_float32
from .common.registration import operator
from .common.rounding import rounded_to
from .common.spec import Benchmark, Call, Function, Launch, Numbers, OpSpec, Problem, Row, Sizes, dtype_name
from .common.triton import jit, large_shared_memory, on_its_device, require_triton, tl, triton
from .layer_norm_linear import PRECISIONS, activated, layer_norm_linear

SLICE_WIDTHS = (16, 32, 64, 128)


@jit
def _layer_norm_mlp_kernel(
    parts,  # (PARTS, rows, dim); the last dimension is contiguous
    norm_weight,  # (dim,), contiguous
    norm_bias,  # (dim,), contiguous; read if HAS_NORM_BIAS
    in_weight,  # (width, dim), any strides; products are in its dtype
    in_bias,  # (width,), contiguous; read if HAS_IN_BIAS
    out_weight,  # (dim, width), any strides, in the dtype of in_weight
    out_bias,  # (dim,), contiguous; read if HAS_OUT_BIAS
    result,  # out: (1 + slices, rows, dim) float32, contiguous
    rows,
    dim,
    width,
    stride_part,
    stride_row,
    stride_in_out,  # of in_weight: elements from one of its outputs to the next, and from one input
    stride_in_dim,
    stride_out_out,  # of out_weight likewise
    stride_out_dim,
    eps,
    PARTS: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    HAS_IN_BIAS: tl.constexpr,
    HAS_OUT_BIAS: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
    PIECES: tl.constexpr,  # a power of two of pieces of BLOCK_K columns that `dim` fits in
    SLICE: tl.constexpr,  # of the width
    BLOCK_K: tl.constexpr,  # how much of `dim` is multiplied at a time
    BLOCK_OUT: tl.constexpr,  # how many results are made at a time
    STAGES: tl.constexpr,
):
    # Neighbouring blocks share a slice of the weights.
    row_groups = tl.cdiv(rows, ROWS)
    row = (tl.program_id(0) % row_groups) * ROWS + tl.arange(0, ROWS)
    slice_index = tl.program_id(0) // row_groups
    row_mask = row < rows
    element = in_weight.dtype.element_ty
    x = stream_rows(parts, row, row_mask, dim, stride_part, stride_row, PARTS, PIECES, BLOCK_K)
    if slice_index == 0:
        store_stream(x, result, row, row_mask, dim, PIECES, BLOCK_K)
    pieces = normalised_pieces(x, norm_weight, norm_bias, dim, eps, HAS_NORM_BIAS, PIECES, ROWS, BLOCK_K)
    unit = slice_index * SLICE + tl.arange(0, SLICE)  # of the hidden layer
    unit_mask = unit < width
    in_rows = in_weight + unit.to(tl.int64) * stride_in_out
    hidden = tl.zeros((ROWS, SLICE), tl.float32)
    for index in tl.range(0, tl.cdiv(dim, BLOCK_K), num_stages=STAGES):
        values = piece(pieces, index, PIECES, element)
        start = index * BLOCK_K
        hidden = plus_product(
            hidden, values, in_rows, unit_mask, start, dim, stride_in_dim, BLOCK_K, PRECISION
        )
    hidden = activated(plus_bias(hidden, in_bias, unit, unit_mask, HAS_IN_BIAS), ACTIVATION)
    hidden = rounded_to(tl.where(unit_mask[None, :], hidden, 0.0), element)

    first_unit = tl.cast(slice_index, tl.int64) * SLICE
    biased = tl.where(slice_index == 0, dim, 0)  # of the results, how many this block gives their bias
    share = result + tl.cast(1 + slice_index, tl.int64) * rows * dim
    for start in tl.range(0, dim, BLOCK_OUT, num_stages=STAGES):
        column = start + tl.arange(0, BLOCK_OUT)
        column_mask = column < dim
        columns = out_weight + column.to(tl.int64) * stride_out_out + first_unit * stride_out_dim
        total = tl.zeros((ROWS, BLOCK_OUT), tl.float32)
        total = plus_product(
            total,
            hidden,
            columns,
            column_mask,
            0,
            width - slice_index * SLICE,
            stride_out_dim,
            SLICE,
            PRECISION,
        )
        total = plus_bias(total, out_bias, column, column < biased, HAS_OUT_BIAS)
        store_rows(total, share, row, row_mask, column, dim)


def configuration(rows: int, dim: int, dtype: torch.dtype, large_memory: bool) -> dict[str, int]:
    """Sizes of a block: rows, columns of a product at a time, warps and stages of loading.

    16 rows are what a matrix unit takes (8 where a row takes more registers than that leaves). With 64 units to a
    slice a stage of loading is 16 KB, of which two are on their way.
    """
    columns = min(64 if dtype == torch.float32 else 128, max(16, triton.next_power_of_2(dim)))
    return {
        "ROWS": min(16 if dim <= 512 else 8, triton.next_power_of_2(max(1, rows))),
        "BLOCK_K": columns,
        "BLOCK_OUT": columns,
        "STAGES": 3 if large_memory else 2,
        "num_warps": 4 if dim <= 256 else 8,
    }


def default_slice_width(rows: int, width: int) -> int:
    """64, which at 64 rows and IRIS's width of 1024 is 64 blocks; twice that for many rows or a very wide layer."""
    return 64 if rows <= 128 and width <= 64 * (MAX_PARTS - 1) else 128


@on_its_device
def launch_layer_norm_mlp(
    parts: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    eps: float = 1e-5,
    activation: str = "gelu",
    precision: str = "ieee",
    slice_width: int = 64,
    **sizes: int,
) -> Tensor:
    """Launches the kernel on arguments as `layer_norm_mlp` checks them; `sizes` replace those of `configuration`."""
    require_triton("layer_norm_mlp", parts, in_weight, out_weight)
    require_small_products("layer_norm_mlp")
    parts = parts if parts.stride(2) == 1 else parts.contiguous()
    (count, rows, dim), width = parts.shape, in_weight.shape[0]
    slices = triton.cdiv(width, slice_width)
    result = torch.empty((1 + slices, rows, dim), dtype=torch.float32, device=parts.device)
    if result.numel() == 0:
        return result
    norm_weight = norm_weight.contiguous()
    norm_bias, in_bias, out_bias = (
        None if t is None else t.contiguous() for t in (norm_bias, in_bias, out_bias)
    )
    chosen = configuration(rows, dim, in_weight.dtype, large_shared_memory(parts.device)) | sizes
    grid = (triton.cdiv(rows, chosen["ROWS"]) * slices,)
    _layer_norm_mlp_kernel[grid](
        parts,
        norm_weight,
        norm_weight if norm_bias is None else norm_bias,
        in_weight,
        in_weight if in_bias is None else in_bias,
        out_weight,
        out_weight if out_bias is None else out_bias,
        result,
        rows,
        dim,
        width,
        *parts.stride()[:2],
        *in_weight.stride(),
        *out_weight.stride(),
        eps,
        PARTS=count,
        HAS_NORM_BIAS=norm_bias is not None,
        HAS_IN_BIAS=in_bias is not None,
        HAS_OUT_BIAS=out_bias is not None,
        ACTIVATION=activation,
        PRECISION=precision,
        PIECES=triton.next_power_of_2(triton.cdiv(dim, chosen["BLOCK_K"])),
        SLICE=slice_width,
        **chosen,
    )
    return result


def _plain(
    parts: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    eps: float,
    activation: str,
    slice_width: int,
) -> Tensor:
    x = stream_sum(parts, result_dtype(parts, in_weight))
    bias = None if in_bias is None else in_bias.to(in_weight.dtype)
    hidden = F.linear(normalised(x, norm_weight, norm_bias, eps).to(in_weight.dtype), in_weight, bias)
    if activation == "gelu":
        hidden = F.gelu(hidden)
    elif activation == "relu":
        hidden = F.relu(hidden)
    pieces = zip(hidden.split(slice_width, dim=1), out_weight.split(slice_width, dim=1), strict=True)
    shares = [F.linear(units.to(x.dtype), weight.to(x.dtype)) for units, weight in pieces]
    return as_parts(x, torch.stack(shares), out_bias)


@operator("layer_norm_mlp")
def _layer_norm_mlp(
    parts: Tensor,  # (parts, rows, dim)
    norm_weight: Tensor,  # (dim,)
    norm_bias: Tensor | None,  # (dim,)
    in_weight: Tensor,  # (width, dim)
    in_bias: Tensor | None,  # (width,)
    out_weight: Tensor,  # (dim, width)
    out_bias: Tensor | None,  # (dim,)
    eps: float,
    activation: str,
    precision: str,
    slice_width: int,
) -> Tensor:  # (1 + ceil(width / slice_width), rows, dim)
    tensors = (parts, norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias)
    return _plain(*tensors, eps, activation, slice_width)


@_layer_norm_mlp.register_kernel("cuda")
def _layer_norm_mlp_cuda(
    parts: Tensor, norm_weight: Tensor, norm_bias: Tensor | None, in_weight: Tensor, *others: Any
) -> Tensor:
    tensors = (parts, norm_weight, norm_bias, in_weight)
    if result_dtype(parts, in_weight) == torch.float64:
        in_bias, out_weight, out_bias, eps, activation, _, slice_width = others
        return _plain(*tensors, in_bias, out_weight, out_bias, eps, activation, slice_width)
    return launch_layer_norm_mlp(*tensors, *others)


@_layer_norm_mlp.register_fake
def _layer_norm_mlp_fake(
    parts: Tensor, norm_weight: Tensor, norm_bias: Tensor | None, in_weight: Tensor, *others: Any
) -> Tensor:
    slices = -(-in_weight.shape[0] // others[-1])
    return parts.new_empty((1 + slices, *parts.shape[1:]), dtype=result_dtype(parts, in_weight))


@with_checked_types
def layer_norm_mlp(
    parts: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    *,
    norm_weight: Tensor,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str | None = "gelu",
    precision: str = "ieee",
    slice_width: int | None = None,
) -> Tensor:
    """`x + mlp(layer_norm(x))` for x = `parts.sum(0)`, as parts again: (1 + ceil(width / slice_width), rows, dim).

    Args:
        parts: (parts, rows, dim), any float dtype; `x[None]` is a stream in one part. At most 65 parts, dim 1024.
        in_weight, in_bias: (width, dim) and (width,) or None, as `torch.nn.Linear` has them.
        out_weight, out_bias: (dim, width) and (dim,) or None; weights in the dtype of in_weight, to which LN(x) and
            the hidden layer are rounded. Sums are in float32.
        norm_weight, norm_bias, eps: the LayerNorm's, (dim,).
        activation: "gelu" (by erf), "relu" or None.
        precision: of float32 products on a GPU, as for `layer_norm_linear`.
        slice_width: 16, 32, 64 or 128 units of the hidden layer a part, by default chosen by the shapes.

    The result is float32 (float64 for float64): the sum of `parts`, then the share of each slice. Its `.sum(0)` is
    the plain result; the next layer takes it as it is. Float64, and every tensor outside a GPU, goes to
    `layer_norm_mlp_reference`. A row that holds NaN or infinity gives NaN.

    For inference: RuntimeError if an input requires a gradient. ValueError or TypeError names an argument of a wrong
    shape, dtype or value.
    """
    check_stream(parts, norm_weight, norm_bias)
    _check(parts, norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias, eps)
    check_precision(precision)
    if activation not in (None, "gelu", "relu"):
        raise ValueError(f'activation must be None, "gelu" or "relu", got {activation!r}')
    slice_width = _slice_width(slice_width, parts, in_weight)
    tensors = (parts, norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias)
    return _layer_norm_mlp(*tensors, eps, activation or "identity", precision, slice_width)


@with_checked_types
@in_exact_float32
def layer_norm_mlp_reference(
    parts: Tensor,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    *,
    norm_weight: Tensor,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
    activation: str | None = "gelu",
    slice_width: int | None = None,
) -> Tensor:
    """`layer_norm_mlp` in plain PyTorch, for every device."""
    check_stream(parts, norm_weight, norm_bias)
    tensors = (parts, norm_weight, norm_bias, in_weight, in_bias, out_weight, out_bias)
    _check(*tensors, eps)
    slice_width = _slice_width(slice_width, parts, in_weight)
    return _plain(*tensors, eps, activation or "identity", slice_width)


def _slice_width(given: int | None, parts: Tensor, in_weight: Tensor) -> int:
    """Units of the hidden layer a part; ValueError for a number that the kernel does not have."""
    if given is None:
        return default_slice_width(parts.shape[1], in_weight.shape[0])
    if given not in SLICE_WIDTHS:
        raise ValueError(f"slice_width must be one of {SLICE_WIDTHS}, got {given}")
    return given


def _check(
    parts: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor | None,
    in_weight: Tensor,
    in_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    eps: float,
) -> None:
    check_range("eps", eps, 0)
    dim = parts.shape[2]
    width = in_weight.shape[0] if in_weight.dim() else 0
    if width == 0:
        raise ValueError(f"in_weight must be (width, dim) with a unit, got shape {tuple(in_weight.shape)}")
    check_linear("in", in_weight, in_bias, (width, dim))
    check_linear("out", out_weight, out_bias, (dim, width))
    tensors = {
        "parts": parts,
        "in_weight": in_weight,
        "in_bias": in_bias,
        "out_weight": out_weight,
        "out_bias": out_bias,
        "norm_weight": norm_weight,
        "norm_bias": norm_bias,
    }
    check_tensors("layer_norm_mlp", tensors, ("in_weight", "out_weight"))


def _calls(device: str) -> dict[str, Call]:
    def call(parts: Tensor, first: Tensor, last: Tensor, gain: Tensor) -> Tensor:
        return layer_norm_mlp(parts, first, None, last, None, norm_weight=gain, slice_width=16)

    normal = Numbers(device, alike=True).normal
    weights = (normal(40, 8), normal(8, 40), 1 + normal(8).abs())
    return {"layer_norm_mlp": Call(call, (normal(2, 6, 8), *weights), {0: 1})}


def _arguments() -> dict[str, dict[str, Any]]:
    stream = {"parts": torch.linspace(0, 1, 32).view(1, 2, 16), "norm_weight": torch.ones(16), "eps": 1e-5}
    first, last = {"in_weight": torch.eye(32, 16)}, {"out_weight": torch.eye(16, 32)}
    return {
        "layer_norm_mlp": {**stream, **first, **last, "in_bias": None, "out_bias": None, "slice_width": 16}
    }


def _launches(_: int) -> Iterator[Launch]:
    """Of (parts, rows, dim, width, slice_width)."""
    papers = [
        (5, 64, 256, 1024, 64),
        (5, 1, 256, 1024, 64),
        (5, 256, 256, 1024, 128),
        (9, 64, 1024, 4096, 128),
    ]
    kinds = [(torch.float32, precision) for precision in PRECISIONS] + [(torch.bfloat16, "ieee")]
    for size in [*papers, (1, 1, 1, 1, 16), (3, 5, 40, 33, 32)]:
        parts, rows, dim, width, slice_width = size
        for dtype, precision in [*kinds, (torch.float16, "ieee")] if dim <= 256 else kinds[::3]:
            stream, ones = torch.zeros(parts, rows, dim), torch.ones(dim)
            first, last = torch.zeros(width, dim, dtype=dtype), torch.zeros(dim, width, dtype=dtype)
            layers = (first, first.new_zeros(width), last, last.new_zeros(dim))
            given = (stream, ones, ones, *layers, 1e-5, "gelu", precision, slice_width)
            what = f"{size} {dtype_name(dtype)} {precision}"
            full = rows == 256 and dtype == torch.float32  # of registers
            spills = {"ieee": 224, "tf32x3": 128}.get(precision, 0) if full else 0
            yield Launch(what, partial(launch_layer_norm_mlp, *given), size in papers, spills)
    half = ones.bfloat16()
    without_biases = (stream.bfloat16(), half, None, first, None, last, None, 1e-5, "relu")
    yield Launch("without biases, ReLU", partial(launch_layer_norm_mlp, *without_biases))


def _sizes(cuda: bool, quick: bool) -> Sizes:
    if quick or not cuda:
        return [{"rows": rows, "compile_it": True} for rows in ((4,) if quick else (1, 64))]
    half = {"dtype": torch.bfloat16, "compile_it": True}
    return [*({"rows": rows, **half} for rows in (1, 16, 64, 256)), {"rows": 64, "compile_it": True}]


def _in_two_launches(
    parts: Tensor, in_weight: Tensor, in_bias: Tensor, out_weight: Tensor, out_bias: Tensor, **norm: Any
) -> Tensor:
    """The same by `layer_norm_linear`, from a stream in one piece."""
    hidden = layer_norm_linear(parts[0], in_weight, in_bias, activation="gelu", **norm)
    return layer_norm_linear(hidden, out_weight, out_bias, residual=parts[0])


def _problem(device: torch.device, rows: int, dtype: torch.dtype = torch.float32) -> Problem:
    """So many rows of a stream in the 5 parts that attention with 4 heads leaves, at the paper's width.

    The weights, 1 to 2 MB, are in the L2 cache of a GPU as in a rollout.
    """
    normal = Numbers(device).normal
    parts, dim, width = 5, 256, 1024
    inputs: dict[str, Any] = {
        "parts": normal(parts, rows, dim),
        "in_weight": normal(width, dim, dtype=dtype) / 16,
        "in_bias": normal(width, dtype=dtype),
        "out_weight": normal(dim, width, dtype=dtype) / 32,
        "out_bias": normal(dim, dtype=dtype),
        "norm_weight": normal(dim),
        "norm_bias": normal(dim),
    }
    one = inputs | {"parts": inputs["parts"].sum(0)[None]}
    ours: dict[str, Function] = {"ours": partial(layer_norm_mlp, **inputs)}
    for slices in SLICE_WIDTHS[1:] if device.type == "cuda" else ():
        ours[f"ours_slices_of_{slices}"] = partial(layer_norm_mlp, **inputs, slice_width=slices)
    ours["ours_in_two_launches"] = partial(_in_two_launches, **one)
    written = 1 + width // default_slice_width(rows, width)
    exact = {name: tensor.double() for name, tensor in inputs.items()}
    return Problem(
        {"rows": rows, "dtype": dtype_name(dtype)},
        flops=4 * rows * width * dim,
        bytes=2 * width * dim * dtype.itemsize + 4 * (parts + written) * rows * dim,
        dtype=dtype,
        ours=ours,
        plain=layer_norm_mlp_reference,
        bind=lambda function: partial(function, **one, slice_width=128),
        expected=lambda: layer_norm_mlp_reference(**exact).sum(0),
        tolerance=1e-5 if dtype == torch.float32 else 2e-2,
        compared=lambda found: found.sum(0) if found.dim() == 3 else found,
    )


SPEC = OpSpec(
    layer_norm_mlp,
    _calls,
    _arguments,
    layer_norm_mlp_reference,
    about="The other half of that layer in one launch: LayerNorm, MLP and residual, again as parts of the stream.",
    example="""
import torch
from iris_fast.kernels import layer_norm_mlp

parts, norm = torch.randn(5, 64, 256), torch.ones(256)  # a stream in five parts
first, last = torch.randn(1024, 256), torch.randn(256, 1024)
parts = layer_norm_mlp(parts, first, None, last, None, norm_weight=norm)
x = parts.sum(0)  # (64, 256)
""",
    launches=_launches,
    benchmark=Benchmark(
        _sizes,
        _problem,
        {"rows": 64},
        Row(
            "(parts, rows, dim), (width, dim), (dim, width) → (1 + slices, rows, dim)",
            "dim to 1024, 65 parts; made for up to some 100 rows; no gradient",
            {"rows": 64},
            {"rows": 64, "dtype": "bfloat16"},
            "{rows} × 256, width 1024",
        ),
    ),
)
