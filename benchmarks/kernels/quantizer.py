"""The codebook lookup at each precision, and sums of vectors by codeword, beside PyTorch and other packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Function, Machine, Work, dtype_name, time_right_ones
from benchmarks.peers import FLASH_KMEANS, VECTOR_QUANTIZE
from benchmarks.record import Ratio, Size
from benchmarks.timing import Timing, ratio_of
from iris_fast.kernels import vq_lookup, vq_statistics, vq_statistics_reference
from iris_fast.kernels.vq_lookup import SearchConfig, launch_vq_lookup

from .table import Check, Operation, Problem, Row, Sizes

# (rows, dim, num_codes): small and large, those of the paper's tokenizer (16 tokens a frame) among them
GPU_SIZES = (
    (1, 8, 16),
    (16, 512, 512),
    (1024, 512, 512),
    (4096, 512, 512),
    (16384, 512, 512),
    (65536, 64, 1024),
    (65536, 8, 1024),
    (65536, 256, 8192),
    (262144, 512, 8192),
)
CPU_SIZES = ((16, 512, 512), (1024, 512, 512), (4096, 64, 1024))
MOST_DISTANCES = 2**29  # 2 GiB of float32: larger sizes are ours alone
COMPILED_ROWS = (1024, 16384)  # each takes seconds to compile
PRECISIONS = {"ieee": 2**-22, "tf32x3": 2**-19, "tf32": 2**-8, "bf16": 2**-6}
"""How far past the nearest a chosen codeword may be, relative to the sizes of the two vectors."""

SWEEP = {
    "bf16": [
        SearchConfig(128, 256, 64, 8, 3),
        SearchConfig(128, 128, 64, 8, 3),
        SearchConfig(128, 128, 64, 8, 4),
        SearchConfig(256, 128, 64, 8, 3),
        SearchConfig(128, 64, 64, 4, 3, 2),
    ],
    "tf32": [
        SearchConfig(128, 256, 32, 8, 3),
        SearchConfig(128, 128, 32, 8, 3),
        SearchConfig(256, 128, 32, 8, 3),
        SearchConfig(128, 64, 32, 4, 3, 2),
    ],
    "tf32x3": [
        SearchConfig(64, 128, 32, 4, 3, 2),
        SearchConfig(128, 64, 32, 8, 3),
        SearchConfig(128, 128, 32, 8, 3),
        SearchConfig(64, 64, 32, 4, 3, 3),
    ],
    "ieee": [
        SearchConfig(64, 64, 16, 4, 3, 3),
        SearchConfig(64, 64, 16, 8, 3, 2),
        SearchConfig(128, 64, 16, 8, 3),
    ],
}
"""Tiles to compare with those that the launcher takes, on (16384, 512, 8192)."""


def lookup_sizes(cuda: bool, quick: bool) -> Sizes:
    sizes = GPU_SIZES if cuda else CPU_SIZES
    return [
        {"rows": rows, "dim": dim, "num_codes": codes, "compile_it": rows in COMPILED_ROWS}
        for rows, dim, codes in (sizes[:2] if quick else sizes)
    ]


def by_matrix(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Plain PyTorch: the product with all codewords, then argmin."""
    return torch.addmm(0.5 * codebook.square().sum(1), vectors, codebook.t(), alpha=-1).argmin(1)


def by_matrix_in_tf32(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The same where PyTorch may round what products read to TF32."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    try:
        return by_matrix(vectors, codebook)
    finally:
        matmul.allow_tf32 = before


def by_matrix_in_bf16(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The same of bfloat16 products; like ours it is given float32."""
    half_squares = (0.5 * codebook.square().sum(1)).bfloat16()
    return torch.addmm(half_squares, vectors.bfloat16(), codebook.bfloat16().t(), alpha=-1).argmin(1)


def peers(vectors: Tensor, codebook: Tensor) -> dict[str, Callable[[], Function]]:
    """What makes the sides of other packages, which ask the host for decisions."""
    num_codes, dim = codebook.shape

    def vector_quantize() -> Function:
        layer = VECTOR_QUANTIZE.load().VectorQuantize(dim, num_codes).to(codebook.device).eval()
        layer.codebook = codebook
        return lambda: layer(vectors[None])[1][0]

    def assign(x: Tensor, codes: Tensor) -> Tensor:
        found = FLASH_KMEANS.load().euclid_assign_triton(x[None], codes[None], x.square().sum(1)[None])
        return found[0].long()

    def flash_kmeans() -> Function:
        FLASH_KMEANS.load()
        return lambda: assign(vectors, codebook)

    def flash_kmeans_bf16() -> Function:
        FLASH_KMEANS.load()
        return lambda: assign(vectors.bfloat16(), codebook.bfloat16())

    found = {"vector-quantize-pytorch": vector_quantize, "flash-kmeans": flash_kmeans}
    return found | ({"flash-kmeans bf16": flash_kmeans_bf16} if codebook.is_cuda else {})


def excess(indices: Tensor, vectors: Tensor, codebook: Tensor) -> float:
    """How much farther than the nearest the first rows' codewords are, in float64, relative to the vectors' sizes."""
    x, c = vectors[:2048].double(), codebook.double()
    scores = torch.addmm(0.5 * c.square().sum(1), x, c.t(), alpha=-1)
    chosen = scores.gather(1, indices[:2048, None]).squeeze(1)
    scale = x.norm(dim=1) * c.norm(dim=1).max() + 0.5 * c.square().sum(1).max()
    return float(((chosen - scores.amin(1)) / scale).max())


def nearest(vectors: Tensor, codebook: Tensor, allowed: float) -> Check:
    """Whether tokens are of codewords as near as the precision allows."""

    def check(side: Function) -> str | None:
        error = excess(side(), vectors, codebook)
        return (
            None if error <= allowed else f"tokens are wrong by {error:.2g} of the vectors' sizes: not timed"
        )

    return check


def precision_of(name: str) -> str:
    """What a side multiplies in: its name's last word, or what is known of it (flash-kmeans rounds to TF32)."""
    last = name.split()[-1]
    return last if last in PRECISIONS else "tf32" if name == "flash-kmeans" else "ieee"


def over_the_best_other(times: Mapping[str, Timing]) -> dict[str, Ratio]:
    """Of each of our sides over the fastest of the others that are at least as exact (`than`)."""
    found = {}
    for name in (name for name in times if name.startswith("ours")):
        allowed = PRECISIONS[precision_of(name)]
        others = {
            other: timing.median
            for other, timing in times.items()
            if not other.startswith("ours") and PRECISIONS[precision_of(other)] <= allowed
        }
        if others:
            best = min(others, key=others.__getitem__)
            found[name] = replace(ratio_of(times[best].seconds, times[name].seconds), than=best)
    return found


def lookup(device: torch.device, rows: int, dim: int, num_codes: int, compile_it: bool = False) -> Problem:
    """`rows` vectors in a codebook; sides whose names end in a precision multiply in it."""
    vectors, codebook = torch.randn(rows, dim, device=device), torch.randn(num_codes, dim, device=device)
    cuda, few = device.type == "cuda", rows * num_codes <= MOST_DISTANCES
    ours: dict[str, Function] = {
        f"ours {precision}": lambda p=precision: vq_lookup(vectors, codebook, precision=p).indices  # type: ignore[misc]
        for precision in (PRECISIONS if cuda else ("ieee",))
    }
    others: dict[str, Callable[[], Function]] = {}
    if few and cuda:
        others["pytorch tf32"] = lambda: lambda: by_matrix_in_tf32(vectors, codebook)
        others["pytorch bf16"] = lambda: lambda: by_matrix_in_bf16(vectors, codebook)
    return Problem(
        {"size": [rows, dim, num_codes]},
        Work(2 * rows * num_codes * dim, 4 * (2 * rows * dim + num_codes * dim) + 8 * rows),
        ours,
        by_matrix if few else None,
        lambda function: lambda: function(vectors, codebook),
        compile_it and few,
        others=others,
        uncaptured=peers(vectors, codebook) if few else {},
        checks=lambda side: nearest(vectors, codebook, PRECISIONS.get(side.split()[-1], PRECISIONS["tf32"])),
        ratios=over_the_best_other,
    )


def sweep(machine: Machine) -> list[Size]:
    """Medians of other tiles than the launcher's, beside the launcher's own."""
    device = machine.device
    vectors, codebook = torch.randn(16384, 512, device=device), torch.randn(8192, 512, device=device)
    work = Work(2 * 16384 * 8192 * 512)
    found = []
    for precision, configs in SWEEP.items():
        p: Any = precision
        sides: dict[str, Function] = {
            f"ours {precision}": lambda p=p: vq_lookup(vectors, codebook, precision=p).indices  # type: ignore[misc]
        }
        for config in configs:
            words = " ".join(f"{name} {value}" for name, value in asdict(config).items())
            sides[f"ours, {words}"] = lambda config=config, p=p: launch_vq_lookup(  # type: ignore[misc]
                vectors, codebook, "euclidean", p, config=config
            )[1]
        check = nearest(vectors, codebook, PRECISIONS[precision])
        checks = dict.fromkeys(sides, check)
        found.append(time_right_ones(machine, {"precision": precision}, work, sides, checks, table="sweep"))
    return found


VQ_LOOKUP = Operation(
    "vq_lookup",
    "The codebook lookup over sizes: ours at each precision, PyTorch, vector-quantize-pytorch, flash-kmeans.",
    0.1,
    lookup_sizes,
    lookup,
    {"rows": 1024, "dim": 512, "num_codes": 512},
    Row(
        "(…, dim), (num_codes, dim) → (…) int64, (…, dim)",
        "none; float64 by PyTorch",
        {"size": [1024, 512, 512]},
        {"size": [16384, 512, 512]},
        "{size[0]} × {size[1]}, {size[2]} codes",
        ("ours tf32x3", "ours ieee"),
    ),
    sweep=sweep,
)


def statistics_sizes(cuda: bool, quick: bool) -> Sizes:
    """The paper's tokenizer batch first."""
    if quick:
        return [{"rows": 64, "dim": 16, "num_codes": 8}]
    papers = {"rows": 4096, "dim": 512, "num_codes": 512, "compile_it": True}
    if not cuda:
        return [papers, {"rows": 4096, "dim": 64, "num_codes": 1024}]
    return [
        papers,
        *(
            {"rows": rows, "dim": 512, "num_codes": 8192, "dtype": dtype, "compile_it": True}
            for rows in (16384, 262144)
            for dtype in (torch.float32, torch.bfloat16)
        ),
    ]


def one_hot(vectors: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """What quantizer libraries do: a product with the matrix of choices."""
    chosen = F.one_hot(indices, num_codes).to(vectors.dtype)
    return chosen.sum(0, dtype=torch.float32), (chosen.t() @ vectors).float()


def statistics(
    device: torch.device,
    rows: int,
    dim: int,
    num_codes: int,
    dtype: torch.dtype = torch.float32,
    compile_it: bool = False,
) -> Problem:
    """`rows` vectors of `dim` numbers, of which one in four chose the same codeword."""
    generator = torch.Generator(device).manual_seed(0)
    vectors = torch.randn(rows, dim, generator=generator, device=device).to(dtype)
    indices = torch.randint(num_codes, (rows,), generator=generator, device=device)
    indices[::4] = num_codes // 2
    arguments = (vectors, indices, num_codes)
    few = rows * num_codes <= 2**28
    return Problem(
        {"rows": rows, "dim": dim, "num_codes": num_codes, "dtype": dtype_name(dtype)},
        Work(rows * dim, rows * (8 + dim * dtype.itemsize) + 4 * num_codes * (dim + 1)),
        {"ours": lambda: vq_statistics(*arguments)},
        vq_statistics_reference,
        lambda function: lambda: function(*arguments),
        compile_it,
        others={"one-hot product": lambda: lambda: one_hot(*arguments)} if few else {},
        expected=lambda: vq_statistics_reference(vectors.double(), indices, num_codes),
        tolerance=1e-5 if dtype == torch.float32 else 1e-2,
    )


VQ_STATISTICS = Operation(
    "vq_statistics",
    "Counts and sums of the vectors of each codeword: ours, index_add_, a one-hot product, torch.compile.",
    0.1,
    statistics_sizes,
    statistics,
    {"rows": 1024, "dim": 512, "num_codes": 512},
    Row(
        "(…, dim), (…) int64 → (num_codes,), (num_codes, dim)",
        "indices in range",
        {"rows": 4096, "dim": 512},
        {"rows": 4096, "dim": 512},
        "{rows} × {dim}, {num_codes} codes",
    ),
)
