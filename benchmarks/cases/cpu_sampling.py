"""One draw a row on the CPU: the C++ extension beside torch.distributions, for the sizes of a dream's draws."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical

from benchmarks.harness import Work, timed_size
from benchmarks.record import Ceilings, Label, Result, Size
from benchmarks.registry import Run, case
from benchmarks.timing import Side, time_sides
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


def measure(rows: int, classes: int, rounds: int) -> Size:
    """Seconds of each way to draw, once our tokens were compared with float64's distribution."""
    logits = 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(rows))
    values, row, position = logits.numpy(), np.arange(rows), np.zeros(rows, np.int64)
    extension = require_extension()
    what: dict[str, Label] = {"rows": rows, "classes": classes}
    error = furthest(torch.from_numpy(extension.sample_categorical(values, 0, row, position, 0)), logits)
    if error > ROUNDING:
        return Size(what, "draws", missing=f"a draw is {error:.2g} from its token: not timed")
    sides: dict[str, Side] = {
        "extension": lambda: extension.sample_categorical(values, 0, row, position, 0),
        "iris_fast.kernels.sample_categorical": lambda: sample_categorical(
            logits, seed=0, position=0, purpose=0
        ),
        "torch.distributions.Categorical": lambda: Categorical(logits=logits).sample(),
        "Categorical without validation": lambda: Categorical(logits=logits, validate_args=False).sample(),
    }
    work = Work(bytes=logits.nbytes)
    return timed_size(what, time_sides(sides, CPU, rounds=rounds), work, table="draws")


@case("cpu_sampling", minutes=0.2)
def cpu_sampling(run: Run) -> Result:
    """One draw a row on the CPU: the C++ extension beside torch.distributions.Categorical, 64 × 512 and smaller."""
    rounds = 3 if run.quick else 15
    sizes = [measure(rows, classes, rounds) for rows, classes in SIZES]
    return Result(sizes, Ceilings("cpu"), torch.get_num_threads())
