"""LayerNorm and MLP with its residual in one launch: IRIS's layer, by rows and dtype, beside two launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.compiling import compiled_side
from benchmarks.registry import case
from benchmarks.side_by_side import Machine, Side, compare_and_time, dtype_name, measured_machine
from iris_fast.kernels import layer_norm_linear, layer_norm_mlp, layer_norm_mlp_reference
from iris_fast.kernels.layer_norm_mlp import SLICE_WIDTHS, default_slice_width

DIM, WIDTH, PARTS = 256, 1024, 5  # the paper's; the parts that attention with 4 heads leaves
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Size:
    """So many rows of a stream in parts. The weights, 1 to 2 MB, are in the L2 cache of a GPU as in a rollout."""

    rows: int
    dtype: torch.dtype

    def inputs(self, device: torch.device) -> dict[str, Any]:
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        return {
            "parts": random(PARTS, self.rows, DIM),
            "in_weight": random(WIDTH, DIM).to(self.dtype) / 16,
            "in_bias": random(WIDTH).to(self.dtype),
            "out_weight": random(DIM, WIDTH).to(self.dtype) / 32,
            "out_bias": random(DIM).to(self.dtype),
            "norm_weight": random(DIM),
            "norm_bias": random(DIM),
        }

    def facts(self) -> dict[str, Any]:
        written = 1 + WIDTH // default_slice_width(self.rows, WIDTH)
        return {
            "rows": self.rows,
            "dtype": dtype_name(self.dtype),
            "bytes": 2 * WIDTH * DIM * self.dtype.itemsize + 4 * (PARTS + written) * self.rows * DIM,
            "flops": 4 * self.rows * WIDTH * DIM,
        }


def in_two_launches(x: Tensor, inputs: dict[str, Any]) -> Tensor:
    """The same by `layer_norm_linear`, from a stream in one piece."""
    norm = {"norm_weight": inputs["norm_weight"], "norm_bias": inputs["norm_bias"]}
    hidden = layer_norm_linear(x, inputs["in_weight"], inputs["in_bias"], activation="gelu", **norm)
    return layer_norm_linear(hidden, inputs["out_weight"], inputs["out_bias"], residual=x)


def measure(machine: Machine, size: Size, quick: bool) -> dict[str, Any]:
    """Ours by width of a slice, our two launches, PyTorch and torch.compile, compared by their sums."""
    inputs = size.inputs(machine.device)
    one = inputs | {"parts": inputs["parts"].sum(0)[None]}
    sides: dict[str, Side] = {"ours": lambda: layer_norm_mlp(**inputs)}
    if machine.cuda:
        for width in SLICE_WIDTHS[1:]:
            sides[f"ours_slices_of_{width}"] = lambda w=width: layer_norm_mlp(**inputs, slice_width=w)  # type: ignore[misc]
    sides["ours_in_two_launches"] = lambda: in_two_launches(one["parts"][0], inputs)
    sides["pytorch"] = lambda: layer_norm_mlp_reference(**one, slice_width=128)
    whole, absent = compiled_side(layer_norm_mlp_reference, machine.device, wanted=not quick)
    sides |= {name: lambda call=call: call(**one, slice_width=128) for name, call in whole.items()}
    exact = {name: tensor.double() for name, tensor in inputs.items()}
    expected = layer_norm_mlp_reference(**exact).sum(0)
    return compare_and_time(
        machine,
        sides,
        expected,
        TOLERANCES[size.dtype],
        size.facts() | {"absent": absent},
        size.dtype,
        compared=lambda found: found.sum(0) if found.dim() == 3 else found,
    )


@case("kernel_layer_norm_mlp", minutes=0.1, default=True)
def kernel_layer_norm_mlp(quick: bool) -> dict[str, Any]:
    """LayerNorm + MLP + residual in one launch, by rows and dtype: ours by slice, our two launches, PyTorch."""
    machine = measured_machine(quick)
    if quick or not machine.cuda:
        sizes = [Size(rows, torch.float32) for rows in ((4,) if quick else (1, 64))]
    else:
        sizes = [Size(rows, torch.bfloat16) for rows in (1, 16, 64, 256)] + [Size(64, torch.float32)]
    with torch.no_grad():
        return machine.facts() | {"sizes": [measure(machine, size, quick) for size in sizes]}
