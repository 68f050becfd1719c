"""One draw a row from softmax((x weight^T + bias) / temperature): a head's last layer and its draw in one.

The draw equals that of `sample_categorical` at the same address from these logits. The logits are never written; they
are float32 sums (not rounded to the dtype of x), added in the order of the matrix units.

`x` is (..., dim), `weight` (classes, dim), `bias` (classes), the tokens are (...). Bytes moved: x, the weights once a
block of rows (from the cache), 8 a token. FLOPs: 2 rows classes dim. Up to 512 classes it is one launch, in which a
program holds all logits of its rows: 16 rows while few programs would leave multiprocessors idle, and 32 or 64
for many. So 64 rows take 4 programs, each of which reads all weights: for 512 classes of 256 numbers that is 0.25 MB
of bfloat16 at what one multiprocessor reads from the cache, some 4 microseconds where a launch is 3. Classes split
over programs would need a second launch to combine them, and gain nothing at that size. Beyond 512 classes it is
PyTorch's product in float32 and the draw of `sample_categorical` from it, which write and read 4 bytes a logit.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ._sampling.arguments import checked_address, checked_truncation
from ._sampling.tiles import address_words, draw_from_tile, mass_scale, readable
from .common.arguments import as_rows, with_checked_types
from .common.arithmetic import exact_float32, in_exact_float32
from .common.registration import operator
from .common.rounding import dot_of, rounded_to
from .common.spec import Benchmark, Call, Launch, Numbers, OpSpec, Problem, Row, Sizes, dtype_name
from .common.triton import jit, num_multiprocessors, on_its_device, require_triton, tl, triton
from .sample_categorical import (
    Sample,
    invert,
    launch_sample_categorical,
    sample_categorical,
    sample_without_info,
)

_TILE_CLASSES = 512
_SPAN = 32
PRECISIONS = ("ieee", "tf32", "tf32x3", "bf16")


@jit
def _linear_tile(
    x,  # (rows, dim), numbers of a row adjacent
    x_stride,
    weight,  # (classes, dim), numbers of a class adjacent
    weight_stride,
    bias,  # (classes,), or None
    index,  # (BLOCK_ROWS,) int64: which rows
    rows,
    classes,
    dim,
    HAS_BIAS: tl.constexpr,
    TO_BFLOAT16: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Logits (BLOCK_ROWS, BLOCK_CLASSES) float32, -inf past the last class."""
    column = tl.arange(0, BLOCK_CLASSES).to(tl.int64)
    part = tl.arange(0, BLOCK_DIM)
    logits = tl.zeros([index.shape[0], BLOCK_CLASSES], tl.float32)
    for start in range(0, dim, BLOCK_DIM):
        inside = start + part < dim
        left = tl.load(
            x + index[:, None] * x_stride + start + part[None, :],
            mask=(index < rows)[:, None] & inside[None, :],
            other=0.0,
        )
        right = tl.load(
            weight + column[None, :] * weight_stride + start + part[:, None],
            mask=(column < classes)[None, :] & inside[:, None],
            other=0.0,
        )
        if TO_BFLOAT16:
            left = rounded_to(left.to(tl.float32), tl.bfloat16)
            right = rounded_to(right.to(tl.float32), tl.bfloat16)
        logits = dot_of(left, right, logits, PRECISION)
    if HAS_BIAS:
        logits += tl.load(bias + column, mask=column < classes, other=0.0).to(tl.float32)[None, :]
    return readable(tl.where((column < classes)[None, :], logits, -float("inf")))


@jit(do_not_specialize=["purpose", "top_k"])
def _linear_sample_kernel(
    x,  # (rows, dim), numbers of a row adjacent
    x_stride,
    weight,  # (classes, dim), numbers of a class adjacent
    weight_stride,
    bias,  # (classes,), or None
    seed,  # () int64
    row,  # (rows,) int64, or None
    position,  # (rows,) int64
    position_stride,
    tokens,  # out: (rows,) int64
    log_probs,  # out: (rows,) float32, or None
    entropies,  # out: (rows,) float32, or None
    rows,
    classes,
    dim,
    purpose,
    temperature,
    top_k,
    top_p,
    scale,  # units of mass in a p of 1
    HAS_BIAS: tl.constexpr,
    HAS_ROW: tl.constexpr,
    HAS_TEMPERATURE: tl.constexpr,
    HAS_TOP_K: tl.constexpr,
    HAS_TOP_P: tl.constexpr,
    WITH_INFO: tl.constexpr,
    TO_BFLOAT16: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    SPAN: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    inside = index < rows
    logits = _linear_tile(
        x,
        x_stride,
        weight,
        weight_stride,
        bias,
        index,
        rows,
        classes,
        dim,
        HAS_BIAS,
        TO_BFLOAT16,
        PRECISION,
        BLOCK_CLASSES,
        BLOCK_DIM,
    )
    word = address_words(seed, row, position, position_stride, purpose, index, inside, HAS_ROW)
    token, log_prob, entropy = draw_from_tile(
        logits,
        word,
        temperature,
        top_k,
        top_p,
        scale,
        HAS_TEMPERATURE,
        HAS_TOP_K,
        HAS_TOP_P,
        WITH_INFO,
        32,
        SPAN,
    )
    tl.store(tokens + index, token.to(tl.int64), mask=inside)
    if WITH_INFO:
        tl.store(log_probs + index, log_prob, mask=inside)
        tl.store(entropies + index, entropy, mask=inside)


@on_its_device
def launch_linear_sample(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: Tensor,
    row: Tensor | None,
    position: Tensor,
    purpose: int,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    precision: str = "ieee",
    *,
    with_info: bool = False,
    block_rows: int | None = None,
    num_warps: int | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Launches the kernel on x (rows, dim), weight (classes, dim), bias (classes,) or None.

    `block_rows`, a power of two of at least 16, are the rows of a program.
    """
    require_triton("linear_sample", x, weight, seed, position)
    if weight.shape[0] > _TILE_CLASSES:
        with exact_float32(x.device):
            logits = _logits(x, weight, bias, precision)
        return launch_sample_categorical(
            logits, seed, row, position, purpose, temperature, top_k, top_p, with_info=with_info
        )
    x, weight = _kernel_inputs(x, weight)
    rows, dim = x.shape
    classes = weight.shape[0]
    tokens = torch.empty(rows, dtype=torch.int64, device=x.device)
    # Of storages of their own: an operator may not return two tensors of one.
    log_probs, entropies = (
        torch.empty(rows, dtype=torch.float32, device=x.device) if with_info else None for _ in range(2)
    )
    outputs = (tokens, log_probs, entropies)
    if rows == 0:
        return outputs
    block_classes = max(16, triton.next_power_of_2(classes))
    default_rows, default_warps, block_dim, num_stages = configuration(
        rows,
        block_classes,
        x.dtype.itemsize,
        num_multiprocessors(x.device),
        crowded=with_info or top_k > 0 or top_p < 1.0,
        hopper=x.is_cuda and torch.cuda.get_device_capability(x.device)[0] == 9,
    )
    block_rows = block_rows or default_rows
    operands = (x, x.stride(0), weight, weight.stride(0), None if bias is None else bias.contiguous())
    address = (seed, None if row is None else row.contiguous(), position, position.stride(0))
    scale = mass_scale(classes)
    flags = {
        "HAS_BIAS": bias is not None,
        "HAS_TEMPERATURE": temperature != 1.0,
        "WITH_INFO": with_info,
        "TO_BFLOAT16": precision == "bf16" and x.dtype != torch.bfloat16,
        "PRECISION": "ieee" if precision == "bf16" else precision,
        "BLOCK_ROWS": block_rows,
        "BLOCK_CLASSES": block_classes,
        "BLOCK_DIM": block_dim,
        "SPAN": min(_SPAN, block_classes),
        "num_warps": num_warps or default_warps,
        "num_stages": num_stages,
    }
    numbers = (rows, classes, dim, purpose, temperature, top_k, top_p, scale)
    limits = {"HAS_TOP_K": top_k > 0, "HAS_TOP_P": top_p < 1.0, "HAS_ROW": row is not None}
    _linear_sample_kernel[(triton.cdiv(rows, block_rows),)](
        *operands, *address, *outputs, *numbers, **flags, **limits
    )
    return outputs


def configuration(
    rows: int, block_classes: int, element_bytes: int, multiprocessors: int, *, crowded: bool, hopper: bool
) -> tuple[int, int, int, int]:
    """Rows a program, warps, numbers of a dot product a step, and stages of loading.

    For many rows: 64 of 16-bit numbers, the fewest that Hopper's matrix units take; else 64 spill registers and 32
    hardly, nor do 16 with truncation or info (`crowded`). A thread holds 64 logits of 64 rows, and 32 of fewer.
    """
    many = rows >= 32 * multiprocessors and not crowded
    block_rows = (64 if hopper and element_bytes == 2 else 32) if many else 16
    warps = min(16, max(4, block_rows * block_classes // 1024))
    return block_rows, warps, 32, 2 if element_bytes == 4 else 3


def _kernel_inputs(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both in one dtype that the matrix units take, numbers of a row adjacent."""
    dtype = torch.promote_types(x.dtype, weight.dtype)
    dtype = dtype if dtype in (torch.float16, torch.bfloat16) else torch.float32
    x, weight = x.to(dtype), weight.to(dtype)
    return (
        x if x.stride(1) == 1 else x.contiguous(),
        weight if weight.stride(1) == 1 else weight.contiguous(),
    )


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None, precision: str) -> Tensor:
    """Logits float32 of inputs as the kernel would round them, in plain PyTorch."""
    if precision == "bf16":
        x, weight = x.to(torch.bfloat16), weight.to(torch.bfloat16)
    bias = None if bias is None else bias.to(torch.float32)
    return torch.nn.functional.linear(x.to(torch.float32), weight.to(torch.float32), bias)


@operator("linear_sample")
def _linear_sample(
    x: Tensor,  # (rows, dim)
    weight: Tensor,  # (classes, dim)
    bias: Tensor | None,  # (classes,)
    seed: Tensor,  # () int64
    row: Tensor | None,  # (rows,) int64
    position: Tensor,  # (rows,) int64
    purpose: int,
    temperature: float,
    top_k: int,
    top_p: float,
    precision: str,
    with_info: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # (rows,) int64, float32 and float32; the last two (0,) without info
    logits = _logits(x, weight, bias, precision)
    arguments = (seed, row, position, purpose, temperature, top_k, top_p)
    if with_info:
        return invert(logits, *arguments)
    nothing = (x.new_empty(0, dtype=torch.float32), x.new_empty(0, dtype=torch.float32))
    return sample_without_info(logits, *arguments), *nothing


@_linear_sample.register_kernel("cuda")
def _linear_sample_cuda(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    tokens, log_probs, entropies = launch_linear_sample(x, *others[:-1], with_info=others[-1])
    if log_probs is None or entropies is None:
        return tokens, x.new_empty(0, dtype=torch.float32), x.new_empty(0, dtype=torch.float32)
    return tokens, log_probs, entropies


@_linear_sample.register_fake
def _linear_sample_fake(x: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    size = x.shape[0] if others[-1] else 0  # with information
    tokens = x.new_empty(x.shape[:1], dtype=torch.int64)
    return tokens, x.new_empty(size, dtype=torch.float32), x.new_empty(size, dtype=torch.float32)


@overload
def linear_sample(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    seed: int | Tensor,
    position: int | Tensor,
    purpose: int,
    row: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    return_info: Literal[False] = False,
    precision: str = "ieee",
) -> Tensor: ...


@overload
def linear_sample(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    seed: int | Tensor,
    position: int | Tensor,
    purpose: int,
    row: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    return_info: Literal[True],
    precision: str = "ieee",
) -> Sample: ...


@with_checked_types
def linear_sample(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    seed: int | Tensor,
    position: int | Tensor,
    purpose: int,
    row: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    return_info: bool = False,
    precision: str = "ieee",
) -> Tensor | Sample:
    """Draws int64 tokens (...) from softmax((x weight^T + bias) / temperature) without writing the logits.

    Args:
        x, weight, bias: (..., dim), (classes, dim) and (classes,) or None, of float dtypes on one device.
        seed, position, purpose, row, temperature, top_k, top_p, return_info: as for `sample_categorical`.
        precision: of products of float32 inputs on CUDA: "ieee", "tf32" (10-bit mantissas), "tf32x3" (three such
            products, nearly float32), or "bf16" (inputs rounded to bfloat16, on every device). Products of float16
            and bfloat16 inputs are exact. Sums are float32.

    The token is that of `sample_categorical` at the same address of these logits in float32, except where
    u * sum(p) lies within the rounding of the logits of a running sum. On the CPU that is how it is
    computed. A row whose logits are no distribution gives token 0. Not differentiable.

    Raises ValueError or TypeError naming an argument of a wrong shape, dtype, device or range.
    """
    arguments = _checked(x, weight, bias, seed, row, position, purpose, temperature, top_k, top_p, precision)
    drawn = _linear_sample.detached(*arguments, precision, return_info)
    if return_info:
        return Sample(*(part.reshape(x.shape[:-1]) for part in drawn))
    return drawn[0].reshape(x.shape[:-1])


@with_checked_types
@in_exact_float32
def linear_sample_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    seed: int | Tensor,
    position: int | Tensor,
    purpose: int,
    row: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    return_info: bool = False,
    precision: str = "ieee",
) -> Any:
    """`linear_sample` in plain PyTorch, for every device: a linear layer in float32 and a draw from its logits."""
    arguments = _checked(x, weight, bias, seed, row, position, purpose, temperature, top_k, top_p, precision)
    drawn = invert(_logits(arguments[0], weight, bias, precision), *arguments[3:])
    sample = Sample(*(part.reshape(x.shape[:-1]) for part in drawn))
    return sample if return_info else sample.tokens


def _checked(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    seed: int | Tensor,
    row: Tensor | None,
    position: int | Tensor,
    purpose: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    precision: str,
) -> tuple:
    """The arguments in the operator's form, without the last two."""
    if weight.dim() != 2 or weight.shape[0] == 0:
        raise ValueError(f"weight must be (classes, dim) with a class, got shape {tuple(weight.shape)}")
    classes, dim = weight.shape
    if x.dim() == 0 or x.shape[-1] != dim:
        raise ValueError(f"x must be (..., {dim}), as weight is (classes, {dim}), got shape {tuple(x.shape)}")
    if bias is not None and bias.shape != (classes,):
        raise ValueError(f"bias must have shape ({classes},), got {tuple(bias.shape)}")
    for name, tensor in (("x", x), ("weight", weight), ("bias", bias)):
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, got dtype {tensor.dtype}")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} must be on the device of x, {x.device}, got {tensor.device}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    truncation = checked_truncation(classes, temperature, top_k, top_p)
    leading = x.shape[:-1]
    address = checked_address(leading, x.device, seed, row, position, purpose).flattened()
    return as_rows(x), weight, bias, *address, purpose, *truncation


_LAYERS = ((64, 512, 256), (1024, 512, 256), (16384, 512, 256), (64, 8192, 256))  # rows, classes, dim


def _calls(device: str) -> dict[str, Call]:
    def draw(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_sample(x, weight, bias, seed=7, position=3, purpose=1)

    def with_info(x: Tensor, weight: Tensor) -> Sample:
        return linear_sample(x, weight, seed=7, position=3, purpose=1, return_info=True)

    normal = Numbers(device, alike=True).normal
    x, weight = normal(6, 8), normal(12, 8)
    return {
        "linear_sample": Call(draw, (x, weight, normal(12)), {0: 0}),
        "linear_sample_info": Call(with_info, (x, weight), {0: 0}),
    }


def _arguments() -> dict[str, dict[str, Any]]:
    layer = {"x": torch.linspace(-1, 1, 10).view(2, 5), "weight": torch.eye(5)}
    address = {"seed": 1, "position": 2, "purpose": 3}
    limits = {"temperature": 1.5, "top_k": 3, "top_p": 0.5, "return_info": True}
    return {"linear_sample": {**layer, **address, **limits}}


def _launches(architecture: int) -> Iterator[Launch]:
    """Of (rows, classes, dim)."""
    single, half = torch.float32, torch.bfloat16
    seed = torch.zeros((), dtype=torch.int64)
    for size in [
        (64, 512, 256),
        (20000, 512, 256),
        (1, 1, 1),
        (1, 2, 0),
        (1, 512, 1),
        (64, 8192, 256),
        (3, 3, 40),
    ]:
        rows, classes, dim = size
        for dtype, precision in ((single, "ieee"), (single, "tf32x3"), (single, "bf16"), (half, "ieee")):
            x, weight = torch.zeros(rows, dim, dtype=dtype), torch.zeros(classes, dim, dtype=dtype)
            launch = partial(launch_linear_sample, x, weight, precision=precision)
            place, what = (seed, None, seed.expand(rows), 1), f"{size} {dtype_name(dtype)} {precision}"
            # Many rows of float32 spill, of bfloat16 elsewhere than on Hopper.
            hot = rows == 64 or (rows == 20000 and dtype == half and architecture == 90)
            yield Launch(what, partial(launch, None, *place, 1.0), hot)
            bias = weight.new_zeros(classes)
            yield Launch(f"{what} with info", partial(launch, bias, *place, 0.5, with_info=True))
            yield Launch(f"{what} truncated", partial(launch, None, *place, 1.0, 1, 0.9))


def _sizes(cuda: bool, quick: bool) -> Sizes:
    return [
        dict(zip(("rows", "classes", "dim"), one, strict=True)) for one in _LAYERS[: 1 if quick else None]
    ]


def _problem(device: torch.device, rows: int, classes: int, dim: int) -> Problem:
    """A linear layer with its draw, in bfloat16 on a GPU: as one operation, and as two."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    normal = Numbers(device).normal
    x, weight = normal(rows, dim, dtype=dtype), normal(classes, dim, dtype=dtype) / dim**0.5
    bias = torch.zeros(classes, device=device, dtype=dtype)
    zero = torch.zeros((), dtype=torch.int64, device=device)
    address: dict[str, Any] = {"seed": zero, "position": zero.clone(), "purpose": 0}
    linear = torch.nn.functional.linear
    return Problem(
        {"rows": rows, "classes": classes, "dim": dim},
        flops=2 * rows * classes * dim,
        bytes=x.nbytes + weight.nbytes + bias.nbytes + 8 * rows,
        dtype=dtype,
        ours={
            "ours": lambda: linear_sample(x, weight, bias, **address),
            "linear, then our draw": lambda: sample_categorical(linear(x, weight, bias), **address),
        },
        inputs={"x": x, "weight": weight, "bias": bias, **address},
    )


SPEC = OpSpec(
    linear_sample,
    _calls,
    _arguments,
    linear_sample_reference,
    about="That draw from the logits of a linear layer, which are never written: the end of a head in one launch.",
    example="""
import torch
from iris_fast.kernels import linear_sample

hidden, head = torch.randn(64, 256), torch.nn.Linear(256, 512)
tokens = linear_sample(hidden, head.weight, head.bias, seed=7, position=0, purpose=3)  # (64,) int64
""",
    launches=_launches,
    benchmark=Benchmark(
        _sizes,
        _problem,
        {"rows": 64, "classes": 512, "dim": 256},
        Row(
            "(…, dim), (classes, dim), (classes,) → (…) int64",
            "one launch up to 512 classes; no gradient",
            {"rows": 64, "classes": 512},
            {"rows": 64, "classes": 512},
            "{rows} × {dim} → {classes}",
        ),
        peers=("a linear layer and an exponential race",),
    ),
)
