"""LayerNorm, linear layer, GELU and residual in one launch: IRIS's four products of a layer, by rows and dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.compiling import compiled_side
from benchmarks.registry import case
from benchmarks.side_by_side import Machine, Side, compare_and_time, dtype_name, measured_machine
from iris_fast.kernels import layer_norm_linear, layer_norm_linear_reference
from iris_fast.kernels.layer_norm_linear import TILES, launch_layer_norm_linear

# name: (dim, out, LayerNorm, activation, residual)
LAYERS = {
    "query_key_value": (256, 768, True, None, False),
    "projection": (256, 256, False, None, True),
    "mlp_in": (256, 1024, True, "gelu", False),
    "mlp_out": (1024, 256, False, None, True),
}
ROLLOUTS = 64  # rows of a token pass
TOLERANCES = {"ieee": 1e-5, "tf32x3": 1e-5, "tf32": 4e-3}


@dataclass(frozen=True)
class Size:
    """One layer on so many rows. Weights, 0.4 to 1 MB in float32, are in the L2 cache of a GPU as in a rollout."""

    layer: str
    rows: int
    dtype: torch.dtype

    def inputs(self, device: torch.device) -> dict[str, Any]:
        dim, out, normalise, activation, residual = LAYERS[self.layer]
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(self.dtype)

        found: dict[str, Any] = {
            "x": random(self.rows, dim),
            "weight": random(out, dim) / 16,
            "bias": random(out),
        }
        if normalise:
            found |= {"norm_weight": random(dim), "norm_bias": random(dim)}
        if residual:
            found["residual"] = random(self.rows, out)
        return found | {"activation": activation}

    def facts(self) -> dict[str, Any]:
        dim, out, normalise, _, residual = LAYERS[self.layer]
        numbers = self.rows * (dim + out * (2 if residual else 1)) + out * (dim + 1) + 2 * dim * normalise
        return {
            "layer": self.layer,
            "rows": self.rows,
            "dtype": dtype_name(self.dtype),
            "bytes": numbers * self.dtype.itemsize,
            "flops": 2 * self.rows * dim * out,
        }


def sizes(machine: Machine, quick: bool) -> list[Size]:
    """All layers at the paper's batch, then the largest product by rows and in float32."""
    if quick or not machine.cuda:
        rows = (4,) if quick else (1, ROLLOUTS)
        return [Size(layer, count, torch.float32) for layer in LAYERS for count in rows]
    bf16 = [Size(layer, 64, torch.bfloat16) for layer in LAYERS]
    bf16 += [Size("mlp_in", rows, torch.bfloat16) for rows in (1, 16, 256, 1024, 8192)]
    return bf16 + [Size(layer, 64, torch.float32) for layer in ("mlp_in", "mlp_out")]


def as_float64(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value.double() if isinstance(value, Tensor) else value for name, value in inputs.items()}


def measure(machine: Machine, size: Size, quick: bool) -> dict[str, Any]:
    """Ours (float32 in each precision), every tile, PyTorch and torch.compile."""
    inputs = size.inputs(machine.device)
    precisions = ("ieee", "tf32x3", "tf32") if size.dtype == torch.float32 and machine.cuda else ("ieee",)
    sides: dict[str, Side] = {"ours": lambda: layer_norm_linear(**inputs)}
    tolerance = TOLERANCES[precisions[-1]] if size.dtype == torch.float32 else 2e-2
    for precision in precisions[1:]:
        sides[f"ours_{precision}"] = lambda p=precision: layer_norm_linear(**inputs, precision=p)  # type: ignore[misc]
    if machine.cuda:
        order = ("x", "weight", "bias", "norm_weight", "norm_bias", "residual")
        tensors: Any = [inputs.get(name) for name in order]
        activation = inputs["activation"] or "identity"
        for tile in TILES:
            sides[f"ours_{tile[0]}x{tile[1]}"] = lambda t=tile: launch_layer_norm_linear(  # type: ignore[misc]
                *tensors, activation=activation, tile=t
            )
    sides["pytorch"] = lambda: layer_norm_linear_reference(**inputs)
    # On a CPU at the rows of a rollout alone: each takes a second to compile.
    wanted = not quick and (machine.cuda or size.rows == ROLLOUTS)
    whole, absent = compiled_side(layer_norm_linear_reference, machine.device, wanted)
    sides |= {name: lambda f=f: f(**inputs) for name, f in whole.items()}  # type: ignore[misc]
    expected = layer_norm_linear_reference(**as_float64(inputs))
    return compare_and_time(
        machine, sides, expected, tolerance, size.facts() | {"absent": absent}, size.dtype
    )


@case("kernel_layer_norm_linear", minutes=0.15, default=True)
def kernel_layer_norm_linear(quick: bool) -> dict[str, Any]:
    """LayerNorm + linear + GELU + residual by layer, rows and dtype: ours by tile, PyTorch, torch.compile."""
    machine = measured_machine(quick)
    with torch.no_grad():
        found = [measure(machine, size, quick) for size in sizes(machine, quick)]
    return machine.facts() | {"sizes": found}
