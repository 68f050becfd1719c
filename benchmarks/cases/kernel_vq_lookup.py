"""The codebook lookup over sizes: ours at each precision beside PyTorch and other packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from benchmarks.compiling import compiled_side
from benchmarks.peers import FLASH_KMEANS, VECTOR_QUANTIZE, available
from benchmarks.registry import case
from benchmarks.timing import Timing, copy_bandwidth, matrix_rate, ratio_interval, time_sides
from iris_fast.kernels import vq_lookup
from iris_fast.kernels.vq_lookup import SearchConfig, launch_vq_lookup

Side = Callable[[Tensor, Tensor], Tensor]

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


def peers(codebook: Tensor) -> tuple[dict[str, Side], dict[str, str]]:
    """Sides of other packages, which look up in `codebook`, and why some are absent.

    They are timed without CUDA graphs: they ask the host for decisions.
    """
    num_codes, dim = codebook.shape

    def vector_quantize() -> Side:
        layer = VECTOR_QUANTIZE.load().VectorQuantize(dim, num_codes).to(codebook.device).eval()
        layer.codebook = codebook
        return lambda vectors, _: layer(vectors[None])[1][0]

    def flash_kmeans() -> Side:
        assign = FLASH_KMEANS.load().euclid_assign_triton
        return lambda vectors, codes: assign(vectors[None], codes[None], vectors.square().sum(1)[None])[
            0
        ].long()

    def flash_kmeans_bf16() -> Side:
        assign = flash_kmeans()
        return lambda vectors, codes: assign(vectors.bfloat16(), codes.bfloat16())

    found = {"vector-quantize-pytorch": vector_quantize, "flash-kmeans": flash_kmeans}
    if codebook.is_cuda:
        found["flash-kmeans bf16"] = flash_kmeans_bf16
    return available(found)


def excess(indices: Tensor, vectors: Tensor, codebook: Tensor) -> float:
    """How much farther than the nearest the first rows' codewords are, in float64, relative to the vectors' sizes."""
    x, c = vectors[:2048].double(), codebook.double()
    scores = torch.addmm(0.5 * c.square().sum(1), x, c.t(), alpha=-1)
    chosen = scores.gather(1, indices[:2048, None]).squeeze(1)
    scale = x.norm(dim=1) * c.norm(dim=1).max() + 0.5 * c.square().sum(1).max()
    return float(((chosen - scores.amin(1)) / scale).max())


def timed(
    sides: dict[str, Side], graphs: bool, vectors: Tensor, codebook: Tensor, rounds: int
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Timings of the sides whose tokens are right, and why the others have none."""
    right: dict[str, Callable[[], Tensor]] = {}
    refused: dict[str, str] = {}
    for name, side in sides.items():
        allowed = PRECISIONS.get(name.split()[-1], PRECISIONS["tf32"])
        try:
            error = excess(side(vectors, codebook), vectors, codebook)
        except Exception as failure:  # a peer that does not take this size says so instead of a time
            refused[name] = f"{type(failure).__name__}: {str(failure)[:200]}"
            continue
        if error <= allowed:
            right[name] = lambda side=side: side(vectors, codebook)
        else:
            refused[name] = f"tokens are wrong by {error:.2g} of the vectors' sizes"
    times = time_sides(right, vectors.device, rounds=rounds, seconds_a_round=0.01, graphs=graphs)
    return times, refused


def measure(
    size: tuple[int, int, int],
    device: torch.device,
    ceilings: dict[str, float],
    rounds: int,
    compile_it: bool,
) -> dict[str, Any]:
    """Medians of one size, of the sides whose tokens are right."""
    rows, dim, num_codes = size
    vectors, codebook = torch.randn(rows, dim, device=device), torch.randn(num_codes, dim, device=device)
    sides: dict[str, Side] = {
        f"ours {precision}": lambda x, c, precision=precision: vq_lookup(x, c, precision=precision).indices
        for precision in (PRECISIONS if device.type == "cuda" else ("ieee",))
    }
    others: dict[str, Side] = {}
    absent: dict[str, str] = {}
    if rows * num_codes <= MOST_DISTANCES:
        sides["pytorch"] = by_matrix
        if device.type == "cuda":
            sides |= {"pytorch tf32": by_matrix_in_tf32, "pytorch bf16": by_matrix_in_bf16}
        whole, not_compiled = compiled_side(by_matrix, device, compile_it and rows in COMPILED_ROWS)
        sides |= whole
        others, absent = peers(codebook)
        absent |= not_compiled
    with torch.no_grad():
        times, refused = timed(sides, True, vectors, codebook, rounds)
        more, more_refused = timed(others, False, vectors, codebook, rounds)
    times |= more
    found: dict[str, Any] = {"size": list(size), "flops": 2 * rows * num_codes * dim}
    found["bytes"] = 4 * (2 * rows * dim + num_codes * dim) + 8 * rows
    found["not_timed"] = refused | more_refused
    found["absent"] = absent
    found["seconds"] = {name: timing.summary() for name, timing in times.items()}
    found["share_of_matrix_rate"], found["share_of_copy_bandwidth"] = {}, {}
    for name, timing in times.items():
        found["share_of_copy_bandwidth"][name] = found["bytes"] / timing.median / ceilings["bandwidth"]
        if rate := ceilings.get(name.split()[-1], ceilings["ieee"]):
            found["share_of_matrix_rate"][name] = found["flops"] / timing.median / rate
    return found | speedups(times)


def precision_of(name: str) -> str:
    """What a side multiplies in: its name's last word, or what is known of it (flash-kmeans rounds to TF32)."""
    last = name.split()[-1]
    return last if last in PRECISIONS else "tf32" if name == "flash-kmeans" else "ieee"


def speedups(times: dict[str, Timing]) -> dict[str, Any]:
    """Of each of our sides over the fastest of the others that are at least as exact ("other")."""
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
            found[name] = {"other": best} | ratio_interval(times[best].seconds, times[name].seconds)
    return {"speedup_over_the_best_other": found} if found else {}


def ceilings_of(device: torch.device) -> dict[str, float]:
    """Measured bytes a second, and operations a second at each precision (a third of tf32's for tf32x3)."""
    small = device.type != "cuda"
    found = {"bandwidth": copy_bandwidth(device, 16 if small else 512)}
    size = 512 if small else None
    allowed = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = False
        found["ieee"] = matrix_rate(device, torch.float32, size)
        if not small:
            torch.backends.cuda.matmul.allow_tf32 = True
            found["tf32"] = matrix_rate(device, torch.float32)
            found["tf32x3"] = found["tf32"] / 3
            found["bf16"] = matrix_rate(device, torch.bfloat16)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return found


def sweep(device: torch.device, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """Medians of other tiles than the launcher's."""
    vectors, codebook = torch.randn(16384, 512, device=device), torch.randn(8192, 512, device=device)
    found: dict[str, list[dict[str, Any]]] = {}
    for precision, configs in SWEEP.items():
        entries = []
        for config in configs:
            entry: dict[str, Any] = {"config": asdict(config)}

            def lookup(config: SearchConfig = config, precision: Any = precision) -> Tensor:
                return launch_vq_lookup(vectors, codebook, "euclidean", precision, config=config)[1]

            try:
                error = excess(lookup(), vectors, codebook)
                if error <= PRECISIONS[precision]:
                    timing = time_sides({"ours": lookup}, device, rounds=rounds, seconds_a_round=0.01)["ours"]
                    entry["seconds"] = timing.summary()
                else:
                    entry["not_timed"] = f"tokens are wrong by {error:.2g} of the vectors' sizes"
            except RuntimeError as failure:
                entry["not_timed"] = str(failure)[:200]
            entries.append(entry)
        found[precision] = entries
    return found


@case("kernel_vq_lookup", minutes=0.1, default=True)
def kernel_vq_lookup(quick: bool) -> dict[str, Any]:
    """The codebook lookup over sizes: ours at each precision, PyTorch, vector-quantize-pytorch, flash-kmeans."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ceilings = ceilings_of(device)
    sizes = GPU_SIZES if device.type == "cuda" else CPU_SIZES
    rounds = 3 if quick else 9
    found: dict[str, Any] = {"device": device.type, "ceilings": ceilings}
    found["sizes"] = [
        measure(size, device, ceilings, rounds, compile_it=not quick)
        for size in (sizes[:2] if quick else sizes)
    ]
    if device.type == "cuda" and not quick:
        found["sweep"] = sweep(device, 5)
    return found
