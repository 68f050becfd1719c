"""LayerNorm and self-attention with its residual in one launch: IRIS's layer, by batch and dtype, beside three."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.compiling import compiled_side
from benchmarks.registry import case
from benchmarks.side_by_side import Machine, Side, compare_and_time, dtype_name, measured_machine
from iris_fast.kernels import (
    cached_attention,
    layer_norm_attention,
    layer_norm_attention_reference,
    layer_norm_linear,
)
from iris_fast.kernels.layer_norm_attention import launch_layer_norm_attention

DIM, HEADS, HEAD_DIM, ROOM, PARTS = 256, 4, 64, 340, 17  # the paper's; the parts that its MLP leaves
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SEQUENCES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Size:
    """One decoding step: every sequence holds `length` tokens and gets one more."""

    batch: int
    length: int
    dtype: torch.dtype

    def inputs(self, device: torch.device) -> dict[str, Any]:
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        width = HEADS * HEAD_DIM
        caches = random(2, self.batch, HEADS, ROOM, HEAD_DIM).to(self.dtype)
        return {
            "parts": random(PARTS, self.batch, DIM),
            "qkv_weight": random(3 * width, DIM).to(self.dtype) / 16,
            "qkv_bias": random(3 * width).to(self.dtype),
            "proj_weight": random(DIM, width).to(self.dtype) / 16,
            "proj_bias": random(DIM).to(self.dtype),
            "key_cache": caches[0],
            "value_cache": caches[1],
            "lengths": torch.full((self.batch,), self.length, dtype=torch.int32, device=device),
            "norm_weight": random(DIM),
            "norm_bias": random(DIM),
        }

    def facts(self) -> dict[str, Any]:
        width = HEADS * HEAD_DIM
        cached = 2 * self.batch * width * (self.length + 1)
        return {
            "batch": self.batch,
            "length": self.length,
            "dtype": dtype_name(self.dtype),
            "bytes": (cached + 4 * width * DIM) * self.dtype.itemsize
            + 4 * (PARTS + 1 + HEADS) * self.batch * DIM,
            "flops": 8 * self.batch * width * DIM + 4 * self.batch * width * (self.length + 1),
        }


def in_three_launches(x: Tensor, inputs: dict[str, Any]) -> Tensor:
    """The same by `layer_norm_linear` and `cached_attention`, from a stream in one piece."""
    norm = {"norm_weight": inputs["norm_weight"], "norm_bias": inputs["norm_bias"]}
    packed = layer_norm_linear(x, inputs["qkv_weight"], inputs["qkv_bias"], **norm)
    query, key, value = packed.unflatten(1, (3, HEADS, 1, HEAD_DIM)).unbind(1)
    attended = cached_attention(
        query, key, value, inputs["key_cache"], inputs["value_cache"], inputs["lengths"]
    )
    rows = attended.transpose(1, 2).flatten(1)
    return layer_norm_linear(rows, inputs["proj_weight"], inputs["proj_bias"], residual=x)


def measure(machine: Machine, size: Size, quick: bool) -> dict[str, Any]:
    """Ours by sequences a block, our three launches, PyTorch and torch.compile, compared by their sums."""
    inputs = size.inputs(machine.device)
    one = inputs | {"parts": inputs["parts"].sum(0)[None]}
    sides: dict[str, Side] = {"ours": lambda: layer_norm_attention(**inputs)}
    if machine.cuda:
        order = ("parts", "norm_weight", "norm_bias", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias")
        tensors: Any = [inputs[name] for name in (*order, "key_cache", "value_cache", "lengths")]
        for rows in SEQUENCES:
            lanes = 4096 // HEAD_DIM // rows // (2 if size.dtype == torch.float32 else 1)
            sides[f"ours_{rows}_sequences"] = lambda rows=rows, lanes=lanes: launch_layer_norm_attention(  # type: ignore[misc]
                *tensors, scale=HEAD_DIM**-0.5, ROWS=rows, LANES=lanes
            )
    sides["ours_in_three_launches"] = lambda: in_three_launches(one["parts"][0], inputs)
    sides["pytorch"] = lambda: layer_norm_attention_reference(**one)
    whole, absent = compiled_side(layer_norm_attention_reference, machine.device, wanted=not quick)
    sides |= {name: lambda call=call: call(**one) for name, call in whole.items()}
    exact = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
    expected = layer_norm_attention_reference(**exact).sum(0)
    return compare_and_time(
        machine,
        sides,
        expected,
        TOLERANCES[size.dtype],
        size.facts() | {"absent": absent},
        size.dtype,
        compared=lambda found: found.sum(0) if found.dim() == 3 else found,
    )


@case("kernel_layer_norm_attention", minutes=0.1, default=True)
def kernel_layer_norm_attention(quick: bool) -> dict[str, Any]:
    """LayerNorm + self-attention over a KV cache + residual in one launch: ours, our three launches, PyTorch."""
    machine = measured_machine(quick)
    if quick or not machine.cuda:
        sizes = [Size(batch, 323, torch.float32) for batch in ((2,) if quick else (1, 64))]
    else:
        sizes = [
            Size(batch, length, torch.bfloat16) for batch in (1, 16, 64, 256) for length in (17, 170, 339)
        ]
        sizes.append(Size(64, 170, torch.float32))
    with torch.no_grad():
        return machine.facts() | {"sizes": [measure(machine, size, quick) for size in sizes]}
