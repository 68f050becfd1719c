"""One draw from the softmax of each row of logits, addressed by (seed; row, position, purpose).

With p_i = exp((l_i - max l) / temperature) in float32 and u the Philox number in [0, 1) of the row's
address, the token is the first i whose running sum of p, in float64, exceeds u * sum(p). A class of logit
-inf is never drawn. A row that is not a distribution (it holds a NaN or +inf, or only -inf) gives token 0 on every
device: a valid index, without a synchronisation.

`top_k` and `top_p` first reduce the classes, in this order. `top_k` keeps the classes of the `top_k` largest logits
and all ties with the last. `top_p` then keeps the most probable of these until their mass reaches `top_p` of the
whole, up to rounding, and all ties with the last. Ties are between logits, so they are the same on every device.
Draws lie on a grid of 2^-24: a class is drawn with its probability rounded up or down to a multiple of it.

`logits` is (..., classes), the tokens are (...). Bytes moved: the logits once. Work: `classes` exponentials
a row, and 10 Philox rounds; a truncation adds 16 rounds of three sums over the row, each finding two bits of its
threshold. Up to 8192 classes that is one launch, with the row in registers. Beyond, one launch finds the mass of each
chunk of 4096 classes and a second searches one chunk of each row: so a few long rows fill a device too. There a
truncation reads the row about 20 times from the cache, in a launch before these.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from ._sampling.arguments import check_logits_shape, checked_address, checked_truncation
from ._sampling.long_rows import launch_long_rows
from ._sampling.tiles import address_words, draw_from_tile, mass_scale, readable, tile_warps
from .common.arguments import as_rows, with_checked_types
from .common.arithmetic import in_exact_float32
from .common.extension import find_extension
from .common.registration import operator
from .common.spec import Benchmark, Call, Launch, Numbers, OpSpec, Problem, Row, Sizes
from .common.triton import jit, on_its_device, require_triton, tl, triton
from .philox import philox_uniform

_TILE_CLASSES = 8192
_CHUNK_CLASSES = 4096
_SPAN = 32
_KEY_BITS = {torch.float32: 32, torch.bfloat16: 16, torch.float16: 20}


class Sample(NamedTuple):
    """Draws (...) and properties of their distributions, after temperature and truncation."""

    tokens: Tensor
    """(...) int64."""
    log_probs: Tensor
    """(...) float32: natural logarithm of the token's probability; NaN for a row that is not a distribution."""
    entropies: Tensor
    """(...) float32, in nats; NaN for a row that is not a distribution."""


@jit(do_not_specialize=["purpose", "top_k"])
def _sample_tile_kernel(
    logits,  # (rows, classes) float32, bfloat16 or float16, classes adjacent
    row_stride,  # elements from one row of logits to the next
    seed,  # () int64
    row,  # (rows,) int64, or None
    position,  # (rows,) int64
    position_stride,
    tokens,  # out: (rows,) int64
    log_probs,  # out: (rows,) float32, or None
    entropies,  # out: (rows,) float32, or None
    rows,
    classes,
    purpose,
    temperature,
    top_k,
    top_p,
    scale,  # units of mass in a p of 1
    HAS_ROW: tl.constexpr,
    HAS_TEMPERATURE: tl.constexpr,
    HAS_TOP_K: tl.constexpr,
    HAS_TOP_P: tl.constexpr,
    WITH_INFO: tl.constexpr,
    KEY_BITS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    SPAN: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    inside = index < rows
    column = tl.arange(0, BLOCK_CLASSES)
    mask = inside[:, None] & (column < classes)[None, :]
    offset = index[:, None] * row_stride + column[None, :]
    tile = readable(tl.load(logits + offset, mask=mask, other=-float("inf")))
    word = address_words(seed, row, position, position_stride, purpose, index, inside, HAS_ROW)
    token, log_prob, entropy = draw_from_tile(
        tile,
        word,
        temperature,
        top_k,
        top_p,
        scale,
        HAS_TEMPERATURE,
        HAS_TOP_K,
        HAS_TOP_P,
        WITH_INFO,
        KEY_BITS,
        SPAN,
    )
    tl.store(tokens + index, token.to(tl.int64), mask=inside)
    if WITH_INFO:
        tl.store(log_probs + index, log_prob, mask=inside)
        tl.store(entropies + index, entropy, mask=inside)


@on_its_device
def launch_sample_categorical(
    logits: Tensor,
    seed: Tensor,
    row: Tensor | None,
    position: Tensor,
    purpose: int,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    *,
    with_info: bool = False,
    tile_classes: int = _TILE_CLASSES,
    chunk_classes: int = _CHUNK_CLASSES,
    block_rows: int | None = None,
    num_warps: int | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Launches the kernels on logits (rows, classes); row and position are (rows,) int64, or row is None.

    Rows of more than `tile_classes` classes go in chunks of `chunk_classes`, a power of two. `block_rows` rows, a
    power of two, share a program otherwise. Gives tokens, and with `with_info` log-probabilities and entropies.
    """
    require_triton("sample_categorical", logits, seed, position)
    if logits.dtype not in _KEY_BITS:
        logits = logits.to(torch.float32)
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    rows, classes = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    # Of storages of their own: an operator may not return two tensors of one.
    log_probs, entropies = (
        torch.empty(rows, dtype=torch.float32, device=logits.device) if with_info else None for _ in range(2)
    )
    if rows == 0:
        return tokens, log_probs, entropies
    row = None if row is None else row.contiguous()
    address = (seed, row, position, position.stride(0))
    outputs = (tokens, log_probs, entropies)
    truncation = (temperature, top_k, top_p, mass_scale(classes))
    flags = {"HAS_TEMPERATURE": temperature != 1.0, "WITH_INFO": with_info}
    limits = {"HAS_TOP_K": top_k > 0, "HAS_TOP_P": top_p < 1.0, "KEY_BITS": _KEY_BITS[logits.dtype]}
    if classes > tile_classes:
        launch_long_rows(
            logits, address, outputs, truncation, purpose, flags, limits, chunk_classes, num_warps
        )
        return outputs
    default_rows, block_classes = tile_shape(rows, classes)
    block_rows = block_rows or default_rows
    _sample_tile_kernel[(triton.cdiv(rows, block_rows),)](
        logits,
        logits.stride(0),
        *address,
        *outputs,
        rows,
        classes,
        purpose,
        *truncation,
        HAS_ROW=row is not None,
        BLOCK_ROWS=block_rows,
        BLOCK_CLASSES=block_classes,
        SPAN=min(_SPAN, block_classes),
        num_warps=num_warps or tile_warps(block_rows * block_classes),
        **flags,
        **limits,
    )
    return outputs


def tile_shape(rows: int, classes: int) -> tuple[int, int]:
    """Rows and classes of a program's tile: one row, or as many short ones as have 256 classes together."""
    block_classes = max(4, triton.next_power_of_2(classes))
    return min(triton.next_power_of_2(rows), max(1, 256 // block_classes)), block_classes


@operator("sample_categorical")
def _sample_categorical(
    logits: Tensor,  # (rows, classes), floating point
    seed: Tensor,  # () int64: the 64 bits of the seed
    row: Tensor | None,  # (rows,) int64; None for the index
    position: Tensor,  # (rows,) int64
    purpose: int,
    temperature: float,
    top_k: int = 0,  # 0: all classes
    top_p: float = 1.0,  # 1: all classes
) -> Tensor:  # (rows,) int64
    return sample_without_info(logits, seed, row, position, purpose, temperature, top_k, top_p)


@_sample_categorical.register_kernel("cuda")
def _sample_categorical_cuda(logits: Tensor, *others: Any) -> Tensor:
    return launch_sample_categorical(logits, *others)[0]


@_sample_categorical.register_fake
def _sample_categorical_fake(logits: Tensor, *_: object) -> Tensor:
    return logits.new_empty(logits.shape[:1], dtype=torch.int64)


@operator("sample_categorical_info")
def _sample_categorical_info(
    logits: Tensor,
    seed: Tensor,
    row: Tensor | None,
    position: Tensor,
    purpose: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor, Tensor]:  # (rows,) int64, float32 and float32
    return invert(logits, seed, row, position, purpose, temperature, top_k, top_p)


@_sample_categorical_info.register_kernel("cuda")
def _sample_categorical_info_cuda(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    tokens, log_probs, entropies = launch_sample_categorical(logits, *others, with_info=True)
    assert log_probs is not None and entropies is not None
    return tokens, log_probs, entropies


@_sample_categorical_info.register_fake
def _sample_categorical_info_fake(logits: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    rows = logits.shape[:1]
    tokens = logits.new_empty(rows, dtype=torch.int64)
    return tokens, logits.new_empty(rows, dtype=torch.float32), logits.new_empty(rows, dtype=torch.float32)


@overload
def sample_categorical(
    logits: Tensor,
    *,
    seed: int | Tensor,
    position: int | Tensor,
    purpose: int,
    row: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    return_info: Literal[False] = False,
) -> Tensor: ...


@overload
def sample_categorical(
    logits: Tensor,
    *,
    seed: int | Tensor,
    position: int | Tensor,
    purpose: int,
    row: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    return_info: Literal[True],
) -> Sample: ...


@with_checked_types
def sample_categorical(
    logits: Tensor,
    *,
    seed: int | Tensor,
    position: int | Tensor,
    purpose: int,
    row: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    return_info: bool = False,
) -> Tensor | Sample:
    """Draws int64 tokens (...) from softmax(logits / temperature); logits (..., classes), any float dtype.

    Args:
        seed: int in [0, 2^64), or a () int64 tensor holding its 64 bits (which a captured CUDA graph needs to
            draw anew at each replay; an int costs a launch on CUDA).
        position: int in [0, 2^32), or an integer tensor that broadcasts to (...); its low 32 bits count.
        purpose: int in [0, 2^32): the purpose of the draw, so that draws at one position differ.
        row: integer tensor that broadcasts to (...); by default the index into the flattened (...).
        temperature: positive, finite and not below 2^-126.
        top_k: draw from the classes of the `top_k` largest logits, at least 1, with all tied with the last.
        top_p: draw from the most probable classes (of the top k) whose mass reaches `top_p` of all, in (0, 1]:
            with the class that reaches it, and all tied with that. A mass that falls short by 2^-20 of it, as the
            rounding of logits may make it, reaches it.
        return_info: return a `Sample` of tokens, log-probabilities and entropies instead.

    Draws lie on a grid of 2^-24, so each class has its probability to less than that. More than 2^24 classes are
    refused, because some could never be drawn. Equal addresses and logits give equal tokens on every device, except
    where u * sum(p), or with `top_p` the mass to reach, lies within float32 rounding of a running sum. On the CPU
    plain tokens come from the C++ extension where it was built, and all else from the reference; on CUDA all is
    Triton's. Not differentiable.

    Raises ValueError or TypeError naming an argument of a wrong shape, dtype, device or range.
    """
    check_logits_shape(logits)
    truncation = checked_truncation(logits.shape[-1], temperature, top_k, top_p)
    leading = logits.shape[:-1]
    address = checked_address(leading, logits.device, seed, row, position, purpose).flattened()
    arguments = (as_rows(logits), *address, purpose, *truncation)
    if return_info:
        return Sample(*(part.reshape(leading) for part in _sample_categorical_info.detached(*arguments)))
    return _sample_categorical.detached(*arguments).reshape(leading)


@with_checked_types
@in_exact_float32
def sample_categorical_reference(
    logits: Tensor,
    *,
    seed: int | Tensor,
    position: int | Tensor,
    purpose: int,
    row: Tensor | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    return_info: bool = False,
) -> Any:
    """`sample_categorical` in plain PyTorch, for every device: a Tensor, or with `return_info` a `Sample`."""
    check_logits_shape(logits)
    truncation = checked_truncation(logits.shape[-1], temperature, top_k, top_p)
    leading = logits.shape[:-1]
    address = checked_address(leading, logits.device, seed, row, position, purpose).flattened()
    drawn = invert(as_rows(logits), *address, purpose, *truncation)
    sample = Sample(*(part.reshape(leading) for part in drawn))
    return sample if return_info else sample.tokens


def sample_without_info(
    logits: Tensor,
    seed: Tensor,
    row: Tensor | None,
    position: Tensor,
    purpose: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> Tensor:
    """Tokens (rows,) by the C++ extension, where it is there and can, and otherwise by PyTorch."""
    extension = find_extension() if logits.is_cpu else None
    if extension is None or top_k > 0 or top_p < 1.0:
        return invert(logits, seed, row, position, purpose, temperature, top_k, top_p)[0]
    tokens = extension.sample_categorical(
        logits.detach().to(torch.float32).contiguous().numpy(),
        int(seed) % 2**64,
        (torch.arange(len(logits), device=logits.device) if row is None else row.contiguous()).numpy(),
        position.contiguous().numpy(),
        purpose,
        temperature,
    )
    return torch.from_numpy(tokens)


def invert(
    logits: Tensor,
    seed: Tensor,
    row: Tensor | None,
    position: Tensor,
    purpose: int,
    temperature: float,
    top_k: int,
    top_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, log-probabilities and entropies (rows,) for logits (rows, classes), in plain PyTorch."""
    logits = logits.detach().to(torch.float32).contiguous()
    row = torch.arange(len(logits), device=logits.device) if row is None else row
    uniform = philox_uniform(seed, row, position, purpose)
    distance = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    probabilities = _truncate(logits, torch.exp(distance), top_k, top_p)
    running = probabilities.cumsum(dim=-1, dtype=torch.float64)
    total = running[:, -1:]
    # u <= 1 - 2^-24, so the threshold is below the total: the search ends on a class, and on one whose p is
    # positive, because only such a class raises the running sum.
    tokens = torch.searchsorted(running, uniform.to(torch.float64).unsqueeze(-1) * total, right=True)
    is_distribution = torch.isfinite(total) & (total > 0)
    tokens = torch.where(is_distribution, tokens, 0)
    log_total = total.to(torch.float32).log()
    log_probs = distance.gather(-1, tokens) - log_total
    weighted = torch.where(probabilities > 0, probabilities * distance, 0.0).sum(dim=-1, keepdim=True)
    entropies = (log_total - weighted / total.to(torch.float32)).clamp(min=0.0)
    log_probs, entropies = (torch.where(is_distribution, part, torch.nan) for part in (log_probs, entropies))
    return tokens.squeeze(-1), log_probs.squeeze(-1), entropies.squeeze(-1)


def _truncate(logits: Tensor, probabilities: Tensor, top_k: int, top_p: float) -> Tensor:
    """The probabilities (rows, classes), as 0 outside the top k and then the top p."""
    if top_k > 0:
        kth = logits.topk(top_k, dim=-1).values[:, -1:]
        probabilities = torch.where(logits >= kth, probabilities, 0.0)
    if top_p < 1.0:
        descending, order = logits.sort(dim=-1, descending=True)
        running = probabilities.gather(-1, order).cumsum(dim=-1, dtype=torch.float64)
        wanted = top_p * (1 - 2**-20) * running[:, -1:]  # as `top_p_target` has it
        crossing = torch.searchsorted(running, wanted).clamp(max=logits.shape[-1] - 1)
        probabilities = torch.where(logits >= descending.gather(-1, crossing), probabilities, 0.0)
    return probabilities


_ROWS, _CLASSES = (1, 64, 1024, 16384), (3, 512, 8192, 50257)
_LARGEST_ON_CPU = 1024 * 512  # of classes in all; beyond, a truncated draw takes seconds there
_COMPILED_ON_CPU = [(64, 512), (1024, 512)]  # each takes seconds
TRUNCATION: dict[str, Any] = {"top_k": 50, "top_p": 0.9}  # of a way that benchmarks time


def _calls(device: str) -> dict[str, Call]:
    def truncated(logits: Tensor, seed: Tensor, position: Tensor) -> Sample:
        place: dict[str, Any] = {"seed": seed, "position": position, "purpose": 0}
        return sample_categorical(logits, **place, top_k=9, top_p=0.8, return_info=True)

    numbers = Numbers(device, alike=True)
    address: dict[str, Any] = {"seed": 7, "position": 3, "purpose": 1}
    draw = Call(lambda logits: sample_categorical(logits, **address), (2 * numbers.normal(6, 30),), {0: 0})
    given = (2 * numbers.normal(6, 30), numbers.integers(99), numbers.integers(9, 6))
    return {"sample_categorical": draw, "sample_categorical_truncated": Call(truncated, given, {0: 0, 2: 0})}


def _arguments() -> dict[str, dict[str, Any]]:
    address = {"seed": 1, "position": 2, "purpose": 3}
    limits = {"temperature": 1.5, "top_k": 3, "top_p": 0.5, "return_info": True}
    return {"sample_categorical": {"logits": torch.linspace(-1, 1, 10).view(2, 5), **address, **limits}}


def _launches(_: int) -> Iterator[Launch]:
    limits = [(1.0, 0, 1.0), (0.5, 1, 1.0), (1.0, 0, 0.9), (0.7, 50, 0.9)]
    seed = torch.zeros((), dtype=torch.int64)
    for rows, classes in [(64, 512), (64, 50257), (1, 1), (1, 3), (1, 8192), (1, 8193), (3, 9000)]:
        position = seed.expand(rows)
        logits, row = torch.zeros(rows, classes), torch.arange(rows)
        for limit in limits:
            # Long rows that are truncated may spill: it is 44 bytes on sm_100.
            hot = rows == 64 and (limit == limits[0] or classes <= 8192)
            what = f"{rows} x {classes} {limit}"
            yield Launch(
                what, partial(launch_sample_categorical, logits, seed, None, position, 1, *limit), hot
            )
            given = (logits.bfloat16(), seed, row, position, 2**32 - 1, *limit)
            info = partial(launch_sample_categorical, *given, with_info=True)
            yield Launch(f"{what} bfloat16 with info", info, hot)
    half, position = torch.zeros(5, 20, dtype=torch.float16), seed.expand(5)
    draw = partial(launch_sample_categorical, half, seed, None, position, 0, 1.0, 3, 0.5)
    yield Launch("float16", draw)


def _sizes(cuda: bool, quick: bool) -> Sizes:
    sizes = [(rows, classes) for rows in _ROWS for classes in _CLASSES]
    sizes = [size for size in sizes if cuda or size[0] * size[1] <= _LARGEST_ON_CPU]
    sizes = [(1, 8192), (64, 512)] if quick else sizes
    return [{"rows": r, "classes": c, "compile_it": cuda or (r, c) in _COMPILED_ON_CPU} for r, c in sizes]


def _problem(device: torch.device, rows: int, classes: int) -> Problem:
    """One draw a row, whose address is on the device as an engine has it."""
    logits = 3 * Numbers(device).normal(rows, classes)
    zero = torch.zeros((), dtype=torch.int64, device=device)
    address: dict[str, Any] = {"seed": zero, "position": zero.clone(), "purpose": 0}

    def draw(**options: Any) -> Any:
        return sample_categorical(logits, **address, **options)

    return Problem(
        {"rows": rows, "classes": classes},
        flops=2 * logits.numel(),
        bytes=logits.nbytes,
        ours={
            "ours": draw,
            "ours, with info": lambda: draw(return_info=True),
            "ours, top-k 50 and top-p 0.9": lambda: draw(**TRUNCATION),
        },
        plain=sample_categorical_reference,
        bind=lambda function: partial(function, logits, **address),
        expected=lambda: sample_categorical_reference(logits, **address),
        inputs={"logits": logits, **address},
    )


SPEC = OpSpec(
    sample_categorical,
    _calls,
    _arguments,
    sample_categorical_reference,
    about="""
One draw a row from softmax(logits / temperature), with top-k and top-p. Draws are *addressed*: a function of their
seed, row, position and purpose, not of the draws before. So they do not depend on how a batch is split, and a fast
engine can be compared with a slow one token by token. `return_info=True` gives a `Sample` with log-probabilities and
entropies. The numbers below it are `philox_uniform` (in [0, 1), at an address) and `philox_4x32` (Philox-4x32-10,
four words).
""",
    example="""
import torch
from iris_fast.kernels import sample_categorical

logits = torch.randn(64, 512)
tokens = sample_categorical(logits, seed=7, position=0, purpose=3, top_k=50, top_p=0.9)  # (64,) int64
sample = sample_categorical(logits, seed=7, position=0, purpose=3, return_info=True)
""",
    launches=_launches,
    benchmark=Benchmark(
        _sizes,
        _problem,
        {"rows": 64, "classes": 512},
        Row(
            "(…, classes) → (…) int64",
            "1 class at least; no gradient",
            {"rows": 64, "classes": 512},
            {"rows": 64, "classes": 512},
            "{rows} × {classes}",
        ),
        peers=("an exponential race", "torch.multinomial", "torch.distributions", "FlashInfer"),
        minutes=0.3,
        own_on_cpu=True,
    ),
)
