"""Per-codeword counts and sums of the vectors assigned to it, in a fixed order, and the codebook update from them.

counts_k = Σ_{r: i_r = k} 1,   sums_k = Σ_{r: i_r = k} w_r (x_r - c_k),   with w = 1 and c = 0 where not given.

The statistics of an exponential moving average (van den Oord et al., "Neural Discrete Representation Learning",
arXiv 1711.00937, appendix A.1) and, with a weight a row and the codebook, the codebook's gradient. Vectors are
(rows, dim), indices (rows,). Rows are sorted by codeword, stably; each codeword's run is cut into pieces of at most
`PIECE` rows; one program sums a piece, a second kernel the pieces of a codeword. No atomics, so two calls give the
same bits; and no codeword, however popular, leaves the work to one program.
Bytes moved: the vectors once, 24 a row for the sort, 8 · dim a piece (at most rows / PIECE + num_codes of them).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .common.arguments import as_rows, check_range, with_checked_types
from .common.arithmetic import in_exact_float32
from .common.registration import operator
from .common.spec import Benchmark, Call, Launch, Numbers, OpSpec, Problem, Row, Sizes, dtype_name
from .common.triton import jit, on_its_device, require_triton, tl, triton

PIECE = 1024
_FEW_ROWS = 4096  # of one codeword, up to which a sum in float32 is as exact as a product with one-hot rows
_NUMBERS_TOGETHER = 2**17  # in float64, of which a processor's cache holds as many


@jit
def _piece_sums_kernel(
    vectors,  # (rows, dim) any float dtype: x
    order,  # (rows,) int64: rows sorted by codeword
    starts,  # (num_codes + 1,) int64: where each codeword's run begins in `order`
    piece_ends,  # (num_codes,) int64: number of pieces of this codeword and those before it
    piece_codes,  # (pieces,) int64: codeword of a piece; num_codes past the last
    weights,  # (rows,) float32 or float64: w; not read unless WEIGHTED
    codebook,  # (num_codes, dim) any float dtype: c; not read unless WEIGHTED
    partial,  # out: (pieces, dim) float32 or float64: what sums are accumulated in
    num_codes,
    dim,
    stride_vectors,  # elements between rows of `vectors`
    stride_codebook,  # elements between rows of `codebook`
    WEIGHTED: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    piece = tl.program_id(0).to(tl.int64)
    code = tl.load(piece_codes + piece)
    if code < num_codes:
        feature = tl.program_id(1) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
        inside = feature < dim
        run_start, run_end = tl.load(starts + code), tl.load(starts + code + 1)
        pieces_of_code = (run_end - run_start + PIECE - 1) // PIECE
        first = run_start + (piece - (tl.load(piece_ends + code) - pieces_of_code)) * PIECE
        last = tl.minimum(first + PIECE, run_end)
        if WEIGHTED:
            codeword = tl.load(codebook + code * stride_codebook + feature, mask=inside, other=0.0)
            codeword = codeword.to(partial.dtype.element_ty)
        total = tl.zeros((BLOCK_DIM,), partial.dtype.element_ty)
        for step in range(0, (last - first + BLOCK_ROWS - 1) // BLOCK_ROWS):
            position = first + step * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
            row_mask = position < last
            row = tl.load(order + position, mask=row_mask, other=0)
            mask = row_mask[:, None] & inside[None, :]
            x = tl.load(vectors + row[:, None] * stride_vectors + feature[None, :], mask=mask, other=0.0)
            x = x.to(partial.dtype.element_ty)
            if WEIGHTED:
                weight = tl.load(weights + row, mask=row_mask, other=0.0)
                x = tl.where(mask, weight[:, None] * (x - codeword[None, :]), 0.0)
            total += tl.sum(x, axis=0)
        tl.store(partial + piece * dim + feature, total, mask=inside)


@jit
def _merge_pieces_kernel(
    partial,  # (pieces, dim) float32 or float64
    starts,  # (num_codes + 1,) int64
    piece_ends,  # (num_codes,) int64
    counts,  # out: (num_codes,) of the same type
    sums,  # out: (num_codes, dim) of the same type
    dim,
    PIECE: tl.constexpr,
    BLOCK_PIECES: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    code = tl.program_id(0).to(tl.int64)
    feature = tl.program_id(1) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    inside = feature < dim
    count = tl.load(starts + code + 1) - tl.load(starts + code)
    end = tl.load(piece_ends + code)
    start = end - (count + PIECE - 1) // PIECE
    total = tl.zeros((BLOCK_DIM,), tl.float64)
    for step in range(0, (end - start + BLOCK_PIECES - 1) // BLOCK_PIECES):
        piece = start + step * BLOCK_PIECES + tl.arange(0, BLOCK_PIECES)
        mask = (piece < end)[:, None] & inside[None, :]
        part = tl.load(partial + piece[:, None] * dim + feature[None, :], mask=mask, other=0.0)
        total += tl.sum(part.to(tl.float64), axis=0)
    tl.store(sums + code * dim + feature, total.to(sums.dtype.element_ty), mask=inside)
    if tl.program_id(1) == 0:
        tl.store(counts + code, count.to(counts.dtype.element_ty))


@on_its_device
def launch_vq_statistics(
    vectors: Tensor,
    indices: Tensor,
    num_codes: int,
    weights: Tensor | None = None,
    codebook: Tensor | None = None,
    *,
    piece: int = PIECE,
    block_rows: int = 16,
    block_dim: int = 128,
    num_warps: int = 4,
) -> tuple[Tensor, Tensor]:
    """Launches the kernels on `vectors` (rows, dim) and `indices` (rows,) int64 below `num_codes`."""
    require_triton("vq_statistics", vectors, indices)
    vectors = vectors if vectors.stride(-1) == 1 else vectors.contiguous()
    rows, dim = vectors.shape
    counts, sums = _new_outputs(vectors, num_codes)
    ordered, order = torch.sort(indices, stable=True)
    starts = torch.searchsorted(ordered, torch.arange(num_codes + 1, device=indices.device))
    piece_ends = ((starts.diff() + piece - 1) // piece).cumsum(0)
    # As many pieces as there can be: how many there are is known on the device alone.
    pieces = rows // piece + min(rows, num_codes)
    piece_codes = torch.searchsorted(piece_ends, torch.arange(pieces, device=indices.device), right=True)
    partial = torch.empty((pieces, dim), dtype=sums.dtype, device=sums.device)
    block_dim = min(block_dim, triton.next_power_of_2(dim))
    dim_blocks = triton.cdiv(dim, block_dim)
    weighted = weights is not None and codebook is not None
    weights = vectors if weights is None else weights.contiguous()
    codebook = vectors if codebook is None else codebook.contiguous()
    if pieces:
        _piece_sums_kernel[(pieces, dim_blocks)](
            vectors,
            order,
            starts,
            piece_ends,
            piece_codes,
            weights,
            codebook,
            partial,
            num_codes,
            dim,
            vectors.stride(0),
            codebook.stride(0),
            WEIGHTED=weighted,
            PIECE=piece,
            BLOCK_ROWS=block_rows,
            BLOCK_DIM=block_dim,
            num_warps=num_warps,
        )
    _merge_pieces_kernel[(num_codes, dim_blocks)](
        partial, starts, piece_ends, counts, sums, dim, piece, 8, block_dim, num_warps=num_warps
    )
    return counts, sums


def _new_outputs(vectors: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    sums = vectors.new_empty((num_codes, vectors.shape[1]), dtype=dtype)
    return vectors.new_empty(num_codes, dtype=dtype), sums


@operator("vq_statistics")
def _vq_statistics(
    vectors: Tensor,  # (rows, dim)
    indices: Tensor,  # (rows,) int64
    num_codes: int,
    weights: Tensor | None,  # (rows,)
    codebook: Tensor | None,  # (num_codes, dim)
) -> tuple[Tensor, Tensor]:  # (num_codes,) and (num_codes, dim), float32, or float64 where the vectors are
    return _indexed_sums(vectors, indices, num_codes, weights, codebook)


_vq_statistics.register_kernel("cuda")(launch_vq_statistics)


@_vq_statistics.register_fake
def _vq_statistics_fake(
    vectors: Tensor, indices: Tensor, num_codes: int, *_: object
) -> tuple[Tensor, Tensor]:
    return _new_outputs(vectors, num_codes)


@with_checked_types
def vq_statistics(vectors: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """How many `vectors` (…, dim) chose each codeword, and their sums: (num_codes,) and (num_codes, dim).

    `indices` (…) int64 are those of `vq_lookup`, in [0, num_codes); a vector with an index outside, such as -1 for a
    masked token, is ignored on every device. The result is float32, or float64 for float64 vectors, and repeats bit
    by bit. It has no gradient. With several devices, add their results before `ema_update`.

    Raises ValueError if the leading shapes or the devices differ, TypeError if `indices` are not int64.
    """
    if vectors.dim() < 1 or vectors.shape[:-1] != indices.shape:
        raise ValueError(
            "indices must have the leading shape of vectors (…, dim), got "
            f"{tuple(indices.shape)} for {tuple(vectors.shape)}"
        )
    if indices.dtype != torch.int64 or not vectors.is_floating_point():
        raise TypeError(f"need float vectors and int64 indices, got {vectors.dtype} and {indices.dtype}")
    if indices.device != vectors.device:
        raise ValueError(f"indices must be on the device of vectors, {vectors.device}, got {indices.device}")
    if num_codes < 0:
        raise ValueError(f"num_codes must be at least 0, got {num_codes}")
    return _vq_statistics.detached(as_rows(vectors), indices.reshape(-1), num_codes, None, None)


@with_checked_types
@in_exact_float32
def vq_statistics_reference(vectors: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """`vq_statistics` in plain PyTorch."""
    rows = as_rows(vectors.detach())
    return _indexed_sums(rows, indices.reshape(-1), num_codes, None, None)


@torch.no_grad()
@with_checked_types
def ema_update(
    codebook: Tensor,
    cluster_size: Tensor,
    embed_avg: Tensor,
    counts: Tensor,
    sums: Tensor,
    decay: float = 0.99,
    eps: float = 1e-5,
) -> None:
    """Moves a codebook to the running means of its vectors, in place.

    N_k ← γ N_k + (1 - γ) counts_k,   m_k ← γ m_k + (1 - γ) sums_k   (arXiv 1711.00937, appendix A.1)
    c_k = m_k / Ñ_k,   Ñ_k = (N_k + ε) / (Σ N + num_codes ε) · Σ N   (Laplace smoothing: no division by zero)

    `codebook`, `embed_avg` (m) and `sums` are (num_codes, dim); `cluster_size` (N) and `counts` (num_codes,); γ is
    `decay`, ε is `eps`. All but `counts` and `sums` change. Computed in float32 at least; but keep `cluster_size` and
    `embed_avg` in float32, since half precision rounds small changes of them away, and float16 ends at 65504. While
    no codeword has been used (Σ N is 0) the codebook stays. Start N at ones and m at the codebook: with N at zeros an
    unused codeword is divided by about ε.

    Raises ValueError where shapes or devices disagree.
    """
    check_range("decay", decay, 0, 1)
    check_range("eps", eps, 0)
    shapes = [tuple(tensor.shape) for tensor in (codebook, embed_avg, sums, cluster_size, counts)]
    if codebook.dim() != 2 or len(set(shapes[:3])) > 1 or set(shapes[3:]) != {(len(codebook),)}:
        raise ValueError(
            "codebook, embed_avg and sums must be (num_codes, dim), cluster_size and counts (num_codes,), got "
            + ", ".join(map(str, shapes))
        )
    for name, tensor in (
        *(("cluster_size", cluster_size), ("embed_avg", embed_avg)),
        *(("counts", counts), ("sums", sums)),
    ):
        if tensor.device != codebook.device:
            raise ValueError(
                f"{name} must be on the device of codebook, {codebook.device}, got {tensor.device}"
            )
    dtype = torch.promote_types(torch.promote_types(cluster_size.dtype, embed_avg.dtype), torch.float32)
    sizes = cluster_size.to(dtype).lerp(counts.to(dtype), 1 - decay)
    means = embed_avg.to(dtype).lerp(sums.to(dtype), 1 - decay)
    total = sizes.sum(dtype=torch.float64)
    smoothed = ((sizes + eps) / (total + len(codebook) * eps) * total).to(dtype)[:, None]
    codebook.copy_(torch.where(smoothed > 0, means / smoothed, codebook.to(dtype)))
    cluster_size.copy_(sizes)
    embed_avg.copy_(means)


def _indexed_sums(
    vectors: Tensor, indices: Tensor, num_codes: int, weights: Tensor | None, codebook: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Counts of integers, and sums, of many rows in float64, by `index_add_`, which on a CPU adds rows in order."""
    dtype = torch.promote_types(vectors.dtype, torch.float32)
    weighted = weights is not None and codebook is not None
    low, high = (int(end) for end in indices.aminmax()) if len(indices) else (0, -1)
    if low < 0 or high >= num_codes:
        inside = (indices >= 0) & (indices < num_codes)
        indices, vectors = indices[inside], vectors[inside]
        weights = weights[inside] if weights is not None else None
    counts = torch.bincount(indices, minlength=num_codes)
    few = dtype == torch.float64 or len(vectors) <= _FEW_ROWS or bool(counts.max() <= _FEW_ROWS)
    sums = vectors.new_zeros((num_codes, vectors.shape[1]), dtype=dtype if few else torch.float64)
    rows = max(1, (_NUMBERS_TOGETHER if weighted or not few else vectors.numel()) // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), rows):
        part = slice(start, start + rows)
        values, index = vectors[part].to(dtype), indices[part]
        if weights is not None and codebook is not None:
            values = weights[part, None].to(dtype) * (values - codebook.to(dtype).index_select(0, index))
        sums.index_add_(0, index, values.to(sums.dtype))
    return counts.to(dtype), sums.to(dtype)


def _calls(device: str) -> dict[str, Call]:
    def moved(vectors: Tensor, indices: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A codebook, its sizes and its sums after a step of its moving average."""
        counts, sums = vq_statistics(vectors, indices, len(codebook))
        found = (codebook.clone(), torch.ones_like(counts), codebook.clone())
        ema_update(*found, counts, sums)
        return found

    numbers = Numbers(device, alike=True)
    vectors, indices, codebook = numbers.normal(6, 8), numbers.integers(5, 6), numbers.normal(5, 8)
    return {
        "vq_statistics": Call(partial(vq_statistics, num_codes=5), (vectors, indices), {0: 0, 1: 0}),
        "ema_update": Call(moved, (vectors, indices, codebook), {0: 0, 1: 0}),
    }


def _arguments() -> dict[str, dict[str, Any]]:
    x = torch.linspace(-1, 1, 10).view(2, 5)
    moved = {name: torch.ones(5, 5) for name in ("codebook", "embed_avg", "sums")}
    moved |= {name: torch.ones(5) for name in ("cluster_size", "counts")}
    return {
        "vq_statistics": {"vectors": x, "indices": torch.tensor([0, 1]), "num_codes": 3},
        "ema_update": {**moved, "decay": 0.5, "eps": 1e-5},
    }


def _launches(_: int) -> Iterator[Launch]:
    for rows, dim, num_codes in [(2000, 512, 512), (1, 1, 1), (1, 33, 7), (3, 1, 1)]:
        vectors, indices = torch.zeros(rows, dim), torch.zeros(rows, dtype=torch.int64)
        launch = partial(launch_vq_statistics, vectors, indices, num_codes)
        yield Launch(f"{rows} x {dim}", launch, hot=True)
        weighting = (torch.zeros(rows), torch.zeros(num_codes, dim))
        yield Launch(f"{rows} x {dim} weighted", partial(launch, *weighting), hot=True)
    wide, index = torch.zeros(5, 8, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    yield Launch("float64", partial(launch_vq_statistics, wide, index, 4))
    yield Launch("bfloat16", partial(launch_vq_statistics, wide.bfloat16(), index, 4))


def _sizes(cuda: bool, quick: bool) -> Sizes:
    """The paper's tokenizer batch first."""
    if quick:
        return [{"rows": 64, "dim": 16, "num_codes": 8}]
    papers = {"rows": 4096, "dim": 512, "num_codes": 512, "compile_it": True}
    if not cuda:
        return [papers, {"rows": 4096, "dim": 64, "num_codes": 1024}]
    large = {"dim": 512, "num_codes": 8192, "compile_it": True}
    return [
        papers,
        *(
            {"rows": rows, **large, "dtype": dtype}
            for rows in (16384, 262144)
            for dtype in (torch.float32, torch.bfloat16)
        ),
    ]


def _problem(
    device: torch.device, rows: int, dim: int, num_codes: int, dtype: torch.dtype = torch.float32
) -> Problem:
    """`rows` vectors of `dim` numbers, of which one in four chose the same codeword."""
    numbers = Numbers(device)
    vectors, indices = numbers.normal(rows, dim, dtype=dtype), numbers.integers(num_codes, rows)
    indices[::4] = num_codes // 2
    given = (vectors, indices, num_codes)
    return Problem(
        {"rows": rows, "dim": dim, "num_codes": num_codes, "dtype": dtype_name(dtype)},
        flops=rows * dim,
        bytes=rows * (8 + dim * dtype.itemsize) + 4 * num_codes * (dim + 1),
        ours={"ours": partial(vq_statistics, *given)},
        plain=vq_statistics_reference,
        bind=lambda function: partial(function, *given),
        expected=lambda: vq_statistics_reference(vectors.double(), indices, num_codes),
        tolerance=1e-5 if dtype == torch.float32 else 1e-2,
        inputs={"vectors": vectors, "indices": indices, "num_codes": num_codes},
    )


SPEC = OpSpec(
    vq_statistics,
    _calls,
    _arguments,
    vq_statistics_reference,
    about="""
Counts and sums of the vectors of each codeword, in a fixed order. `ema_update` moves a codebook to their running
means.
""",
    example="""
import torch
from iris_fast.kernels import ema_update, vq_statistics

vectors, indices, codebook = torch.randn(1000, 32), torch.randint(8, (1000,)), torch.randn(8, 32)
counts, sums = vq_statistics(vectors, indices, num_codes=8)  # (8,) and (8, 32)
ema_update(codebook, torch.ones(8), codebook.clone(), counts, sums, decay=0.99)
""",
    launches=_launches,
    benchmark=Benchmark(
        _sizes,
        _problem,
        {"rows": 1024, "dim": 512, "num_codes": 512},
        Row(
            "(…, dim), (…) int64 → (num_codes,), (num_codes, dim)",
            "indices in range",
            {"rows": 4096, "dim": 512},
            {"rows": 4096, "dim": 512},
            "{rows} × {dim}, {num_codes} codes",
        ),
    ),
)
