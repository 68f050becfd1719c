"""GroupNorm and swish, forward and with gradients, on the maps of IRIS's autoencoder in channels-last memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.compiling import compiled_side
from benchmarks.registry import case
from benchmarks.side_by_side import Machine, Side, compare_and_time, dtype_name, measured_machine
from iris_fast.kernels import group_norm_swish, group_norm_swish_reference
from iris_fast.kernels.group_norm_swish import launch_group_norm_swish

CHANNELS, GROUPS = 64, 32
LARGEST = 64  # side of the maps
# (groups, positions, warps) of a block at 64 x 64 positions: by chunks, and whole in registers.
BLOCKS = ((4, 512, 8), (4, 2048, 8), (4, 4096, 32), (8, 512, 8), (32, 64, 8))


@dataclass(frozen=True)
class Size:
    """`batch` maps of 64 channels and side x side positions."""

    batch: int
    side: int
    dtype: torch.dtype
    gradients: bool

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        generator = torch.Generator(device).manual_seed(0)
        x = torch.randn(self.batch, CHANNELS, self.side, self.side, generator=generator, device=device)
        weight, bias = torch.randn(2, CHANNELS, generator=generator, device=device)
        return x.to(self.dtype).contiguous(memory_format=torch.channels_last), weight, bias

    def facts(self) -> dict[str, Any]:
        numbers = self.batch * CHANNELS * self.side**2
        return {
            "batch": self.batch,
            "side": self.side,
            "dtype": dtype_name(self.dtype),
            "gradients": self.gradients,
            "bytes": numbers * self.dtype.itemsize * (5 if self.gradients else 2),
            "flops": numbers * (37 if self.gradients else 12),
        }


def sizes(machine: Machine, quick: bool) -> list[Size]:
    """Every resolution at batch 64, the largest at 256 too, then with gradients."""
    if quick:
        return [Size(2, 16, torch.float32, gradients) for gradients in (False, True)]
    if not machine.cuda:
        return [
            Size(8, side, torch.float32, gradients) for side in (16, LARGEST) for gradients in (False, True)
        ]
    forward = [
        Size(64, side, dtype, False) for side in (64, 32, 16, 4) for dtype in (torch.float32, torch.bfloat16)
    ]
    return forward + [Size(256, side, torch.bfloat16, grad) for side in (64, 16) for grad in (False, True)]


def with_gradients(function: Any, x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> Side:
    """The result and the gradients of all three."""
    leaves = [
        tensor.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        for tensor in (x, weight, bias)
    ]

    def side() -> list[Tensor]:
        y = function(leaves[0], GROUPS, leaves[1], leaves[2])
        return [y.detach(), *torch.autograd.grad(y, leaves, grad)]

    return side


def measure(machine: Machine, size: Size, quick: bool) -> dict[str, Any]:
    """Ours, its blocks at the largest maps, PyTorch and torch.compile."""
    x, weight, bias = size.inputs(machine.device)
    functions: dict[str, Any] = {"ours": group_norm_swish, "pytorch": group_norm_swish_reference}
    # On a CPU at the largest maps alone: each takes seconds to compile.
    wanted = not quick and (machine.cuda or size.side == LARGEST)
    whole, absent = compiled_side(group_norm_swish_reference, machine.device, wanted)
    functions |= whole
    exact = (x.double(), weight.double(), bias.double())
    tolerance = 1e-4 if size.dtype == torch.float32 else 4e-2
    sides: dict[str, Side]
    if size.gradients:
        grad = torch.randn_like(x)
        sides = {name: with_gradients(f, x, weight, bias, grad) for name, f in functions.items()}
        expected = with_gradients(group_norm_swish_reference, *exact, grad.double())()
    else:
        sides = {name: lambda f=f: f(x, GROUPS, weight, bias) for name, f in functions.items()}  # type: ignore[misc]
        expected = group_norm_swish_reference(exact[0], GROUPS, *exact[1:])
        for block in BLOCKS if machine.cuda and size.side == 64 else ():
            name = "ours_{}_groups_{}_positions_{}_warps".format(*block)
            sides[name] = lambda b=block: launch_group_norm_swish(  # type: ignore[misc]
                x.flatten(2), weight, bias, GROUPS, block=b
            )[0].reshape(x.shape)
    return compare_and_time(
        machine, sides, expected, tolerance, size.facts() | {"absent": absent}, torch.float32
    )


@case("kernel_group_norm_swish", minutes=0.15, default=True)
def kernel_group_norm_swish(quick: bool) -> dict[str, Any]:
    """GroupNorm + swish by resolution and dtype, also with gradients: ours by block, PyTorch, torch.compile."""
    machine = measured_machine(quick)
    return machine.facts() | {"sizes": [measure(machine, size, quick) for size in sizes(machine, quick)]}
