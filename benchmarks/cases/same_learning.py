"""Tests whether the fast path learns the same: losses and gradients of bfloat16 steps and of float32 steps."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks.group_norms import group_norm_of
from benchmarks.played import CATCH_ACTIONS, played_store
from benchmarks.record import Result
from benchmarks.registry import Run, case
from benchmarks.systems.weights import random_lpips
from iris_fast.agent import PARTS, Agent
from iris_fast.config import apply_overrides, preset_config
from iris_fast.graphs import Uncaptured, graphs_of
from iris_fast.models import cpu_training
from iris_fast.replay.cache import FrameCache
from iris_fast.training.device import apply_precision, engine_of, prepare
from iris_fast.training.graphed_step import GraphedPartTrainer, make_part_trainer, preserved
from iris_fast.training.parts import Part, make_parts

STEPS, WINDOWS, SEEDS = 200, 4, 3
GRADIENTS = (
    4  # batches whose gradients are compared: of one alone, a few codewords decide that rounding changes
)
SHORT_STEPS = 60  # where all of it must end within two minutes
GPU_BATCHES = (
    *("training.tokenizer.batch_num_samples=32", "training.tokenizer.pieces=1"),
    *("training.world_model.batch_num_samples=16", "training.actor_critic.batch_num_samples=16"),
    "training.actor_critic.imagine_horizon=10",
)
"""Chosen so that 200 steps of three float32 runs, whose convolutions use no matrix units, end within two minutes."""
CPU_BATCHES = tuple(f"training.{part}.batch_num_samples=8" for part in PARTS)
GPU_SECONDS = 125.0  # deadline of the last float32 run; runs that would end later are left out
MOST_SPREADS = (
    2.0  # largest allowed distance of the fast path from the seeds' mean, in their standard deviations
)
ROUNDING = {
    "float32": 1e-4,
    "bf16": 2 * torch.finfo(torch.bfloat16).eps,
}  # additional tolerance, as a share of a gradient's norm


class Learner:
    """An agent that returns to its first weights before each run; its data is Catch, played at random."""

    def __init__(self, preset: str, overrides: Iterable[str]):
        self.config, device = prepare(apply_overrides(preset_config(preset, "Catch"), list(overrides)))
        torch.manual_seed(0)
        self.agent = Agent(self.config.agent, CATCH_ACTIONS)
        if self.config.tokenizer.perceptual == "lpips":
            self.agent.tokenizer.attach_lpips(random_lpips())
        self.agent.to(device).eval()
        store = played_store(1000, self.config.env.train.size, 0, device)
        cache = FrameCache(self.agent.coder, store, max_bytes=10**9)
        self.parts = make_parts(self.agent, self.config, cache, engine_of(self.agent, self.config.common))
        self.graphs = graphs_of(device) or Uncaptured(device) if self.config.training.cuda_graphs else None
        self.first = {name: value.clone() for name, value in self.agent.state_dict().items()}

    def begin(self) -> None:
        """Restores the first weights and sets the arithmetic of this agent."""
        apply_precision(self.config.common.precision)
        self.agent.load_state_dict(self.first)
        self.agent.eval()

    def losses(self, seed: int, steps: int) -> dict[str, list[float]]:
        """Each part's loss at every step, part after part as in an epoch."""
        self.begin()
        found = {}
        trainers = {name: make_part_trainer(part, self.graphs) for name, part in self.parts.items()}
        for name, trainer in trainers.items():
            self.agent.eval()
            trainer.part.module.train()
            losses = [trainer.step(seed, 1, step)["total_loss"].clone() for step in range(steps)]
            found[name] = torch.stack(losses).tolist()
            self.agent.eval()
        return found


def gradient(part: Part[Any], inputs: Any) -> dict[str, Tensor]:
    """Gradient of a batch's losses by parameter, accumulated piece by piece."""
    part.module.zero_grad(set_to_none=True)
    for losses in part.losses(inputs):
        (torch.stack([loss.float() for loss in losses.values()]).sum() / part.pieces).backward()
    return gradients_of(part.module)


def gradients_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.detach().float().clone() for n, p in module.named_parameters() if p.grad is not None}


def compare_losses(runs: Sequence[Sequence[float]], fast: Sequence[float]) -> dict[str, Any]:
    """Mean losses by quarter: of float32 runs with several seeds, of the fast path, and their distance.

    `spreads`: its distance from their mean in their standard deviations; `spreads_from_same_draws`: its distance from
    the first run, which drew the same data. It passes if no `spreads` exceeds `MOST_SPREADS`.
    """
    width = len(fast) // WINDOWS
    found: dict[str, Any] = {"float32": [], "fast": [], "spreads": [], "spreads_from_same_draws": []}
    for window in range(WINDOWS):
        part = slice(window * width, (window + 1) * width)
        seeds, ours = [statistics.mean(run[part]) for run in runs], statistics.mean(fast[part])
        spread = statistics.stdev(seeds)
        found["float32"].append(seeds)
        found["fast"].append(ours)
        found["spreads"].append(abs(ours - statistics.mean(seeds)) / spread)
        found["spreads_from_same_draws"].append(abs(ours - seeds[0]) / spread)
    return found | {"within_the_spread_of_seeds": max(found["spreads"]) <= MOST_SPREADS}


def compare_gradients(fast: Learner, plain: Learner, part: str) -> dict[str, Any]:
    """Errors of the fast path's gradient against float32's, and those of plain PyTorch in the same precision.

    On the same batches and weights, without dropout. Plain is eager, and PyTorch's alone. `within`: no
    parameter's error exceeds twice plain's error (plus rounding of its norm, or of a hundredth of the largest), each
    over all batches.
    """
    fast.begin()
    trainer = make_part_trainer(fast.parts[part], fast.graphs)
    assert isinstance(trainer, GraphedPartTrainer)
    batches, others, ours, exact = [], [], [], []
    for seed in range(GRADIENTS):
        inputs = fast.parts[part].inputs(seed)  # of its own memory: rollouts are the caller's to keep
        batches.append(inputs)
        with plain_pytorch():
            others.append(gradient(fast.parts[part], inputs))
        with preserved(trainer.part.module, trainer.optimizer):
            norm = float(trainer.replay([0], given(inputs))["grad_norm"])
            found = gradients_of(fast.agent.get_submodule(part))
        clipped = min(1.0, trainer.part.config.max_grad_norm / norm)
        ours.append({name: value / clipped for name, value in found.items()})
    plain.begin()
    for inputs in batches:
        with plain_pytorch():
            exact.append(gradient(plain.parts[part], inputs))
    rounding = ROUNDING[fast.config.common.precision]
    return gradient_errors(stacked(ours), stacked(others), stacked(exact), rounding)


@contextmanager
def plain_pytorch() -> Iterator[None]:
    """Gradient steps by PyTorch's operations alone, none of ours."""
    with group_norm_of(fused=False), mock.patch.object(cpu_training, "in_bfloat16", lambda x: False):
        yield


def given(inputs: Any) -> Callable[[int], Any]:
    """What gathers these inputs for every seed."""
    return lambda seed: inputs


def stacked(gradients: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """By parameter, the gradients of all batches."""
    return {name: torch.stack([one[name] for one in gradients]) for name in gradients[0]}


def gradient_errors(
    ours: Mapping[str, Tensor], plain: Mapping[str, Tensor], exact: Mapping[str, Tensor], rounding: float
) -> dict[str, Any]:
    """Relative errors of two gradients, and the largest excess of the first over the limit set by the second."""
    largest = max(float(gradient.norm()) for gradient in exact.values())
    assert ours.keys() == plain.keys() == exact.keys() and largest > 0
    squares = {"ours": 0.0, "plain": 0.0, "exact": 0.0}
    worst, name_of_worst = 0.0, ""
    for name, gradient in exact.items():
        error, allowed = (float((found[name] - gradient).norm()) for found in (ours, plain))
        norm = float(gradient.norm())
        share = error / (2 * allowed + rounding * max(norm, largest / 100))
        share = math.inf if math.isnan(share) else share
        if share > worst:
            worst, name_of_worst = share, name
        for side, value in (("ours", error), ("plain", allowed), ("exact", norm)):
            squares[side] += value**2
    return {
        "parameters": len(exact),
        "error": (squares["ours"] / squares["exact"]) ** 0.5,
        "error_of_plain_pytorch": (squares["plain"] / squares["exact"]) ** 0.5,
        "worst_share_of_the_allowed": worst,
        "worst_parameter": name_of_worst,
        "within": worst <= 1,
    }


def compare(
    preset: str, steps: int, fast: Sequence[str], batches: Sequence[str] = (), seconds: float = float("inf")
) -> dict[str, Any]:
    """Gradients, then losses of `steps` steps by the fast path and by float32 runs, as many as `seconds` allow."""
    began = time.monotonic()
    quick = Learner(preset, [*batches, *fast])
    plain = Learner(preset, [*batches, "common.precision=float32", "training.cuda_graphs=false"])
    gradients: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        try:
            gradients[part] = compare_gradients(quick, plain, part)
        except Exception as error:  # the losses can still be compared
            gradients[part] = {"error": f"{type(error).__name__}: {error}", "within": False}
    losses = quick.losses(0, steps)
    runs: list[dict[str, list[float]]] = []
    longest = 0.0
    for seed in range(SEEDS):
        started = time.monotonic()
        if len(runs) >= 2 and started - began + longest > seconds:
            break
        runs.append(plain.losses(seed, steps))
        longest = max(longest, time.monotonic() - started)
    found: dict[str, Any] = {"preset": preset, "steps": steps, "fast": list(fast), "batches": list(batches)}
    found["seeds"] = len(runs)
    for part in PARTS:
        found[part] = compare_losses([run[part] for run in runs], losses[part])
        found[part]["gradient"] = gradients[part]
    return found


@case("same_learning", minutes=4)
def same_learning(run: Run) -> Result:
    """Losses over 200 bf16 steps (captured on a GPU) beside float32 runs of other seeds, and gradients.

    If all is to end within two minutes (`--minutes`), 60 steps.
    """
    steps = WINDOWS if run.quick else SHORT_STEPS if run.plan.seconds < 120 else STEPS
    if torch.cuda.is_available():
        preset, batches = ("tiny", CPU_BATCHES) if run.quick else ("paper", GPU_BATCHES)
        seconds = min(GPU_SECONDS, 0.7 * run.plan.seconds)
        return Result(facts=compare(preset, steps, ("common.precision=bf16",), batches, seconds))
    preset = "tiny" if run.quick else "small"
    return Result(facts=compare(preset, steps, ("common.precision=bf16",), CPU_BATCHES))
