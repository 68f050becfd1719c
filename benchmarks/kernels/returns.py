"""λ-returns: one scan on the device beside the loop of PyTorch, plain and compiled."""

from __future__ import annotations

import torch

from benchmarks.harness import Work
from iris_fast.kernels import lambda_returns, lambda_returns_reference

from .table import Operation, Problem, Row, Sizes

SHAPES = ((64, 20), (1024, 20), (4096, 100), (65536, 256))  # (batch, time); the first is the paper's
BYTES_A_STEP = 16  # rewards, values, ends and returns, float32
FLOPS_A_STEP = 7  # gamma (1 - end) ((1 - lambda) v + lambda G) + r


def sizes(cuda: bool, quick: bool) -> Sizes:
    shapes = SHAPES[:1] if quick else SHAPES if cuda else SHAPES[:3]
    # On a CPU compiled at the paper's shape alone: a loop over time takes seconds to compile.
    return [{"batch": b, "time": t, "compile_it": cuda or (b, t) == SHAPES[0]} for b, t in shapes]


def problem(device: torch.device, batch: int, time: int, compile_it: bool = False) -> Problem:
    rewards, values = torch.randn(2, batch, time, device=device).unbind()
    ends = (torch.rand(batch, time, device=device) < 0.05).float()
    arguments = (rewards, values, ends, 0.995, 0.95)
    steps = batch * time
    return Problem(
        {"shape": [batch, time]},
        Work(FLOPS_A_STEP * steps, BYTES_A_STEP * steps),
        {"ours": lambda: lambda_returns(*arguments)},
        lambda_returns_reference,
        lambda function: lambda: function(*arguments),
        compile_it,
        expected=lambda: lambda_returns_reference(
            rewards.double(), values.double(), ends.double(), 0.995, 0.95
        ),
        tolerance=1e-5,
    )


LAMBDA_RETURNS = Operation(
    "lambda_returns",
    "λ-returns over shapes: ours, plain PyTorch, torch.compile (on a CPU at the paper's shape).",
    0.1,
    sizes,
    problem,
    {"batch": 64, "time": 20},
    Row(
        "3 × (batch, time) → (batch, time)",
        "float32",
        {"shape": [64, 20]},
        {"shape": [64, 20]},
        "{shape[0]} × {shape[1]}",
    ),
)
