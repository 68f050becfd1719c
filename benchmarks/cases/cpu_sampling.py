"""One draw a row on the CPU: the C++ extension beside torch.distributions, for the sizes of a dream's draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical

from benchmarks.registry import case
from benchmarks.timing import ratio_interval, time_sides
from iris_fast.kernels import philox_uniform, sample_categorical
from iris_fast.models.cpu_weights import require_extension

SIZES = ((64, 512), (64, 3), (1, 512))  # rows, classes
CPU = torch.device("cpu")
ROUNDING = 3e-7  # of a running sum of probabilities


def furthest(tokens: Tensor, logits: Tensor) -> float:
    """How far, at most, our u lies outside the interval of its token in float64's distribution."""
    upper = logits.double().softmax(-1).cumsum(-1)
    lower = torch.cat([torch.zeros(len(logits), 1, dtype=torch.float64), upper[:, :-1]], dim=-1)
    u = philox_uniform(0, torch.arange(len(logits)), 0, 0).double()[:, None]
    above = u - upper.gather(-1, tokens[:, None])
    below = lower.gather(-1, tokens[:, None]) - u
    return float(torch.maximum(above, below).amax())


def measure(rows: int, classes: int, rounds: int) -> dict[str, Any]:
    """Seconds of each way to draw, once our tokens were compared with float64's distribution."""
    logits = 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(rows))
    values, row, position = logits.numpy(), np.arange(rows), np.zeros(rows, np.int64)
    extension = require_extension()
    facts: dict[str, Any] = {"rows": rows, "classes": classes, "bytes": logits.nbytes}
    error = furthest(torch.from_numpy(extension.sample_categorical(values, 0, row, position, 0)), logits)
    if error > ROUNDING:
        return facts | {"error": f"a draw is {error:.2g} from its token: not timed"}
    sides: dict[str, Callable[[], object]] = {
        "extension": lambda: extension.sample_categorical(values, 0, row, position, 0),
        "iris_fast.kernels.sample_categorical": lambda: sample_categorical(
            logits, seed=0, position=0, purpose=0
        ),
        "torch.distributions.Categorical": lambda: Categorical(logits=logits).sample(),
        "Categorical without validation": lambda: Categorical(logits=logits, validate_args=False).sample(),
    }
    times = time_sides(sides, CPU, rounds=rounds)
    ours, *others = times
    return facts | {
        "seconds": {name: timing.summary() for name, timing in times.items()},
        "speedup_over": {name: ratio_interval(times[name].seconds, times[ours].seconds) for name in others},
    }


@case("cpu_sampling", minutes=0.2)
def cpu_sampling(quick: bool) -> dict[str, Any]:
    """One draw a row on the CPU: the C++ extension beside torch.distributions.Categorical, 64 × 512 and smaller."""
    return {
        "threads": torch.get_num_threads(),
        "draws": [measure(rows, classes, 3 if quick else 15) for rows, classes in SIZES],
    }
