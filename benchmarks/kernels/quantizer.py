"""What `vq_lookup` and `vq_statistics` are timed beside, and other tiles of the lookup."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Function, Machine, Work, time_right_ones
from benchmarks.peers import FLASH_KMEANS, VECTOR_QUANTIZE
from benchmarks.record import Ratio, Size
from benchmarks.timing import Timing, ratio_of
from iris_fast.kernels import vq_lookup
from iris_fast.kernels.common.spec import Problem
from iris_fast.kernels.vq_lookup import SearchConfig, launch_vq_lookup

from .table import Check, Comparison

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


def in_tf32(function: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """The function's result where PyTorch may round what products read to TF32."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, True
    try:
        return function(*given)
    finally:
        matmul.allow_tf32 = before


def by_matrix_in_bf16(vectors: Tensor, codebook: Tensor) -> Tensor:
    """The product with all codewords, in bfloat16, then argmin; like ours it is given float32."""
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


def beside_lookup(problem: Problem, compile_it: bool) -> Comparison:
    """With the same in PyTorch's lower precisions, and other packages; sizes too large for them are ours alone."""
    vectors, codebook, plain = problem.inputs["vectors"], problem.inputs["codebook"], problem.plain
    others: dict[str, Callable[[], Function]] = {}
    if plain is not None and vectors.is_cuda:
        others["pytorch tf32"] = lambda: lambda: in_tf32(plain, vectors, codebook)
        others["pytorch bf16"] = lambda: lambda: by_matrix_in_bf16(vectors, codebook)
    return Comparison(
        problem,
        compile_it and plain is not None,
        others=others,
        uncaptured={} if plain is None else peers(vectors, codebook),
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


def one_hot(vectors: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """What quantizer libraries do: a product with the matrix of choices."""
    chosen = F.one_hot(indices, num_codes).to(vectors.dtype)
    return chosen.sum(0, dtype=torch.float32), (chosen.t() @ vectors).float()


def beside_statistics(problem: Problem, compile_it: bool) -> Comparison:
    """With a one-hot product, where that has room."""
    given = problem.inputs
    few = len(given["vectors"]) * given["num_codes"] <= 2**28
    return Comparison(
        problem, compile_it, others={"one-hot product": lambda: lambda: one_hot(**given)} if few else {}
    )
