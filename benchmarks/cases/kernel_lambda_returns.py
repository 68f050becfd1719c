"""λ-returns: one scan on the device beside the loop of PyTorch, plain and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.registry import case
from benchmarks.timing import copy_bandwidth, ratio_interval, time_sides
from iris_fast.kernels import lambda_returns, lambda_returns_reference

SHAPES = ((64, 20), (1024, 20), (4096, 100), (65536, 256))  # (batch, time); the first is the paper's
BYTES_A_STEP = 16  # rewards, values, ends and returns, float32


def measure(
    batch: int, time: int, device: torch.device, bandwidth: float, rounds: int, compiled: bool
) -> dict[str, Any]:
    """Medians of one shape, of the sides whose outputs are right."""
    rewards, values = torch.randn(2, batch, time, device=device).unbind()
    ends = (torch.rand(batch, time, device=device) < 0.05).float()
    arguments = (rewards, values, ends, 0.995, 0.95)
    sides: dict[str, Callable[..., Tensor]] = {"ours": lambda_returns, "pytorch": lambda_returns_reference}
    if compiled:
        sides["torch.compile"] = torch.compile(lambda_returns_reference)
    found: dict[str, Any] = {"shape": [batch, time], "bytes": BYTES_A_STEP * batch * time}
    expected = lambda_returns_reference(*(tensor.double() for tensor in arguments[:3]), 0.995, 0.95)
    found["not_timed"] = {}
    for name, side in list(sides.items()):
        error = float((side(*arguments) - expected).abs().max() / expected.abs().max())
        if not error < 1e-5:
            found["not_timed"][name] = f"its outputs are off by {error:.2g}: not timed"
            del sides[name]
    if "ours" not in sides:
        return found | {"error": found["not_timed"]["ours"]}
    times = time_sides(
        {name: lambda side=side: side(*arguments) for name, side in sides.items()},
        device,
        rounds=rounds,
        graphs=True,
    )
    found["seconds"] = {name: timing.summary() for name, timing in times.items()}
    found["share_of_copy_bandwidth"] = found["bytes"] / times["ours"].median / bandwidth
    for name in times:
        if name != "ours":
            found[f"speedup_over_{name}"] = ratio_interval(times[name].seconds, times["ours"].seconds)
    return found


@case("kernel_lambda_returns", minutes=0.1, default=True)
def kernel_lambda_returns(quick: bool) -> dict[str, Any]:
    """λ-returns over shapes: ours, plain PyTorch, torch.compile (on a GPU)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bandwidth = copy_bandwidth(device, 16 if quick else 512)
    shapes = SHAPES[:1] if quick else SHAPES[: 4 if device.type == "cuda" else 3]
    return {
        "device": device.type,
        "copy_bandwidth": bandwidth,
        "shapes": [
            measure(*shape, device, bandwidth, 3 if quick else 15, device.type == "cuda" and not quick)
            for shape in shapes
        ],
    }
