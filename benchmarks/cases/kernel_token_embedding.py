"""Token and position embedding in one launch, of a rollout's step and of training, and its gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.compiling import compiled_side
from benchmarks.registry import case
from benchmarks.side_by_side import Machine, Side, compare_and_time, dtype_name, measured_machine
from iris_fast.kernels import token_embedding, token_embedding_reference

VOCAB, ACTIONS, POSITIONS = 512, 18, 1024


@dataclass(frozen=True)
class Size:
    """`batch` sequences of `time` tokens of width `dim`."""

    batch: int
    time: int
    dim: int
    dtype: torch.dtype
    gradients: bool

    def inputs(self, device: torch.device) -> tuple[Tensor, list[Tensor]]:
        """Tokens, and the tables of tokens, positions and actions."""
        generator = torch.Generator(device).manual_seed(0)
        shape = (self.batch, self.time)
        tokens = torch.randint(VOCAB + ACTIONS, shape, generator=generator, device=device)
        rows = (VOCAB, POSITIONS, ACTIONS)
        tables = [torch.randn(n, self.dim, generator=generator, device=device).to(self.dtype) for n in rows]
        return tokens, tables

    def facts(self) -> dict[str, Any]:
        count = self.batch * self.time
        rows = min(count, VOCAB + ACTIONS) + min(self.time, POSITIONS)
        written = (count + (rows + count if self.gradients else 0)) * self.dim
        return {
            "batch": self.batch,
            "time": self.time,
            "dim": self.dim,
            "dtype": dtype_name(self.dtype),
            "gradients": self.gradients,
            "bytes": 8 * count + self.dtype.itemsize * (rows * self.dim + written),
            "flops": count * self.dim * (3 if self.gradients else 1),
        }


def sizes(machine: Machine, quick: bool) -> list[Size]:
    """One token of each sequence, then the paper's training batch, then a larger model."""
    if quick:
        return [Size(2, 17, 32, torch.float32, gradients) for gradients in (False, True)]
    training = [Size(64, 340, 256, torch.float32, gradients) for gradients in (False, True)]
    if not machine.cuda:
        return [Size(64, 1, 256, torch.float32, False), *training]
    decoding = [Size(batch, 1, 256, torch.bfloat16, False) for batch in (64, 1024)]
    return [*decoding, *training, Size(16, 1024, 1024, torch.bfloat16, False)]


def plain(tokens: Tensor, table: Tensor, positions: Tensor, actions: Tensor) -> Tensor:
    """What is written without a kernel: one gather from each table, chosen between, and the positions added."""
    return token_embedding_reference(tokens, table, positions, more_table=actions)


def ours(tokens: Tensor, table: Tensor, positions: Tensor, actions: Tensor) -> Tensor:
    return token_embedding(tokens, table, positions, more_table=actions)


def with_gradients(function: Any, tokens: Tensor, tables: list[Tensor], grad: Tensor) -> Side:
    """The result and the gradients of the tables."""
    leaves = [table.detach().clone().requires_grad_() for table in tables]

    def side() -> list[Tensor]:
        y = function(tokens, *leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    return side


def measure(machine: Machine, size: Size, quick: bool) -> dict[str, Any]:
    tokens, tables = size.inputs(machine.device)
    functions: dict[str, Any] = {"ours": ours, "pytorch": plain}
    whole, absent = compiled_side(plain, machine.device, wanted=not quick)
    functions |= whole
    exact = [table.double() for table in tables]
    tolerance = 1e-4 if size.dtype == torch.float32 else 2e-2
    sides: dict[str, Side]
    expected: Any
    if size.gradients:
        shape = (size.batch, size.time, size.dim)
        grad = torch.randn(shape, device=machine.device).to(size.dtype)
        sides = {name: with_gradients(f, tokens, tables, grad) for name, f in functions.items()}
        expected = with_gradients(plain, tokens, exact, grad.double())()
    else:
        sides = {name: lambda f=f: f(tokens, *tables) for name, f in functions.items()}  # type: ignore[misc]
        expected = plain(tokens, *exact)
    return compare_and_time(
        machine, sides, expected, tolerance, size.facts() | {"absent": absent}, torch.float32
    )


@case("kernel_token_embedding", minutes=0.15, default=True)
def kernel_token_embedding(quick: bool) -> dict[str, Any]:
    """Token + position embedding by batch and length, also with gradients: ours, PyTorch, torch.compile."""
    machine = measured_machine(quick)
    return machine.facts() | {"sizes": [measure(machine, size, quick) for size in sizes(machine, quick)]}
