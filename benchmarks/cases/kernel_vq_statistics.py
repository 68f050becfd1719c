"""Counts and sums of the vectors of each codeword: ours beside `index_add_`, a one-hot product and torch.compile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.compiling import compiled_side
from benchmarks.registry import case
from benchmarks.side_by_side import Machine, Side, compare_and_time, dtype_name, measured_machine
from iris_fast.kernels import vq_statistics, vq_statistics_reference


@dataclass(frozen=True)
class Size:
    """`rows` vectors of `dim` numbers, of which one in four chose the same of `num_codes` codewords."""

    rows: int
    dim: int
    num_codes: int
    dtype: torch.dtype

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(device).manual_seed(0)
        vectors = torch.randn(self.rows, self.dim, generator=generator, device=device).to(self.dtype)
        indices = torch.randint(self.num_codes, (self.rows,), generator=generator, device=device)
        indices[::4] = self.num_codes // 2
        return vectors, indices

    def facts(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "dim": self.dim,
            "num_codes": self.num_codes,
            "dtype": dtype_name(self.dtype),
            "bytes": self.rows * (8 + self.dim * self.dtype.itemsize) + 4 * self.num_codes * (self.dim + 1),
            "flops": self.rows * self.dim,
        }


PAPERS = Size(4096, 512, 512, torch.float32)


def sizes(machine: Machine, quick: bool) -> list[Size]:
    """The paper's tokenizer batch first."""
    if quick:
        return [Size(64, 16, 8, torch.float32)]
    first = [PAPERS]
    if not machine.cuda:
        return [*first, Size(4096, 64, 1024, torch.float32)]
    return [
        *first,
        *(
            Size(rows, 512, 8192, dtype)
            for rows in (16384, 262144)
            for dtype in (torch.float32, torch.bfloat16)
        ),
    ]


def one_hot(vectors: Tensor, indices: Tensor, num_codes: int) -> tuple[Tensor, Tensor]:
    """What quantizer libraries do: a product with the matrix of choices."""
    chosen = F.one_hot(indices, num_codes).to(vectors.dtype)
    return chosen.sum(0, dtype=torch.float32), (chosen.t() @ vectors).float()


def measure(machine: Machine, size: Size, quick: bool) -> dict[str, Any]:
    vectors, indices = size.inputs(machine.device)
    arguments = (vectors, indices, size.num_codes)
    sides: dict[str, Side] = {
        "ours": lambda: vq_statistics(*arguments),
        "pytorch": lambda: vq_statistics_reference(*arguments),
    }
    if size.rows * size.num_codes <= 2**28:
        sides["one-hot product"] = lambda: one_hot(*arguments)
    wanted = not quick and (machine.cuda or size == PAPERS)
    whole, absent = compiled_side(vq_statistics_reference, machine.device, wanted)
    sides |= {name: lambda f=f: f(*arguments) for name, f in whole.items()}  # type: ignore[misc]
    expected = vq_statistics_reference(vectors.double(), indices, size.num_codes)
    tolerance = 1e-5 if size.dtype == torch.float32 else 1e-2
    return compare_and_time(
        machine, sides, expected, tolerance, size.facts() | {"absent": absent}, torch.float32
    )


@case("kernel_vq_statistics", minutes=0.1, default=True)
def kernel_vq_statistics(quick: bool) -> dict[str, Any]:
    """Counts and sums of the vectors of each codeword: ours, index_add_, a one-hot product, torch.compile."""
    machine = measured_machine(quick)
    return machine.facts() | {"sizes": [measure(machine, size, quick) for size in sizes(machine, quick)]}
