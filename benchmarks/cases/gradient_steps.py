"""The three gradient steps of the paper's agent: ours, the public implementation's, Simulusion's."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.agreement import other_models, weights_of
from benchmarks.cases.rollout import agreeing, rollouts
from benchmarks.harness import Work
from benchmarks.plan import Cost
from benchmarks.record import Label, Result, Size
from benchmarks.registry import Run, case
from benchmarks.systems.weights import ACTIONS, noise_frames
from benchmarks.timing import Round, in_turn
from benchmarks.work import step_bytes, step_flops
from iris_fast.agent import PARTS

LENGTH, BURN_IN = 20, 20
TOLERANCE = 1e-3  # allowed relative difference of losses and gradient norms
TOLERANCE_BF16 = 5e-2  # of losses alone: same_learning looks at gradients in low precision
# (batch, horizon) of a part. The paper's batches take minutes on two cores; `projection` scales these up.
CPU_SIZES = {"tokenizer": (4, 0), "world_model": (2, 0), "actor_critic": (2, 20)}
GPU_SIZES = {"tokenizer": (64, 0), "world_model": (64, 0), "actor_critic": (64, 20)}
QUICK_SIZES = {"tokenizer": (2, 0), "world_model": (2, 0), "actor_critic": (2, 2)}
COSTS = {"tokenizer": 2.2, "world_model": 4.0, "actor_critic": 20.0}  # seconds of a round on two CPU cores
UNITS = {"tokenizer": "frames", "world_model": "frames", "actor_critic": "imagined_steps"}


def segments(part: str, batch: int, quick: bool, number: int = 0) -> dict[str, Tensor]:
    """A batch as from the replay: single frames, segments of 20, or 20 frames of burn-in and the first one.

    Another `number` gives other frames, actions and rewards.
    """
    time = {"tokenizer": 1, "world_model": LENGTH, "actor_critic": BURN_IN + 1}[part]
    time = min(time, 3) if quick else time
    seed = 1000 * number + batch
    generator = torch.Generator().manual_seed(seed)
    return {
        "observations": noise_frames(batch * time, seed=seed).unflatten(0, (batch, time)),
        "actions": torch.randint(ACTIONS, (batch, time), generator=generator),
        "rewards": torch.randint(-1, 2, (batch, time), generator=generator).float(),
        "ends": torch.zeros(batch, time, dtype=torch.int64),
        "mask_padding": torch.ones(batch, time, dtype=torch.bool),
    }


def file_of(run: Run, part: str) -> Path:
    """The file of initial weights of a part; the tokenizer also needs the perceptual network."""
    weights = weights_of(run)
    return weights.perceptual_file if part == "tokenizer" else weights.file


def disagreement(run: Run, part: str, sides: list[str], quick: bool) -> dict[str, str]:
    """The sides whose loss or gradient norm differs from plain PyTorch's on the same batch, and the difference."""
    weights = weights_of(run)
    batch, horizon = segments(part, 2, quick=True), min(2, QUICK_SIZES[part][1])
    # Steep heads make all draws the same.
    compared = weights.steep_file if part == "actor_critic" else file_of(run, part)
    found: dict[str, str] = {}
    expected: dict[str, float] = {}
    for side in ["pytorch", *(side for side in sides if side != "pytorch")]:
        worker = run.systems.worker(side)
        worker.call("load", compared)
        with run.systems.exactly(side):
            numbers = worker.call("losses", part, batch, horizon)
        if compared != file_of(run, part):
            worker.call("load", file_of(run, part))
        expected = expected or numbers
        for name, number in numbers.items():
            if side == "ours_bf16" and name != "loss":
                continue
            gap = abs(number - expected[name]) / max(abs(expected[name]), 1e-30)
            if not gap <= (TOLERANCE_BF16 if side == "ours_bf16" else TOLERANCE):
                found[side] = f"its {name} of the {part} step differs by {gap:.2g}: not timed"
    return found


def warmed_up(run: Run, part: str, batch: int, horizon: int, sides: list[str]) -> dict[str, str]:
    """Lets every side take an untimed step; returns, by side, why some cannot."""
    failed: dict[str, str] = {}
    # On a CPU a short rollout warms up; on a GPU graphs are captured, each of its own horizon.
    horizon = min(horizon, 2) if run.device.type == "cpu" else horizon
    for side in sides:
        worker = run.systems.worker(side)
        try:
            if side in other_models(run):  # not compared before, so these weights are not loaded yet
                worker.call("load", file_of(run, part))
            worker.call("train", part, segments(part, batch, run.quick), horizon, False, 0)
        except RuntimeError as error:  # a package version without this function loses only its column
            if side == "ours":
                raise
            failed[side] = f"it failed: {str(error).strip().splitlines()[-1]}"
    return failed


def measure_part(run: Run, part: str, sides: list[str], costs: list[Cost]) -> Size:
    """Seconds of one part's step on every side; for the actor-critic, also seconds of its rollout alone.

    "ours" encodes and decodes the batch's frames within its step, as the others do, so ratios compare equal work;
    "ours_cached" reads them from the epoch's cache, as training does. Every round has another batch and seed.
    """
    sizes = QUICK_SIZES if run.quick else CPU_SIZES if run.device.type == "cpu" else GPU_SIZES
    batch, horizon = sizes[part]
    others = other_models(run)
    what: dict[str, Label] = {"part": part, "batch": batch, **({"horizon": horizon} if horizon else {})}
    refused = disagreement(run, part, [side for side in sides if side not in others], run.quick)
    if "ours" in refused:
        return Size(what, missing=refused["ours"])
    # The reference of the comparison.
    kept = [side for side in sides if side not in refused and side != "pytorch"]
    refused |= warmed_up(run, part, batch, horizon, kept)
    kept = [side for side in kept if side not in refused]
    answers: dict[str, list[dict[str, float]]] = {}

    def call(side: str, number: int) -> float:
        data = segments(part, batch, run.quick, number + 1)
        worker, cached = run.systems.worker(side.removesuffix("_cached")), side == "ours_cached"
        answer: dict[str, float] = worker.call("train", part, data, horizon, cached, number + 1)
        answers.setdefault(side, []).append(answer)
        return answer["seconds"]

    timed = [*kept[:1], *(["ours_cached"] if part != "tokenizer" else []), *kept[1:]]
    calls: dict[str, Round] = {side: partial(call, side) for side in timed}
    times = run.in_turn(calls, costs)
    if error := remembered(answers):
        return Size(what, missing=error)
    more = {
        name: {
            side: statistics.median(answer[name] for answer in given)
            for side, given in answers.items()
            if name in given[0]
        }
        for name in ("update_seconds", "imagine_seconds")
    }
    if horizon:
        more["rollout_seconds"] = _rollout_seconds(run, kept, batch, horizon, len(times["ours"].seconds))
    frames = segments(part, 1, run.quick)["ends"].shape[1]
    agent = weights_of(run).agent
    work = Work(
        step_flops(agent, part, batch, frames, horizon),
        step_bytes(agent, part),
        units={UNITS[part]: batch * (horizon or frames)},
        uncounted=(*others, "ours_cached"),  # whose frames are encoded beforehand
    )
    return run.timed(what, times, work, costs[0], not_timed=refused, more=more)


def remembered(answers: Mapping[str, Sequence[Mapping[str, float]]]) -> str | None:
    """The reason not to time a step whose rollout remembered frames; None if all were decoded."""
    for side, given in answers.items():
        if most := max(answer.get("frames_remembered", 0) for answer in given):
            return f"{side} remembered {most:.0f} frames of its rollout instead of decoding them: not timed"
    return None


def _rollout_seconds(run: Run, sides: list[str], batch: int, horizon: int, rounds: int) -> dict[str, float]:
    """Medians of the rollout alone, without the step's burn-in and gradient."""
    frames = noise_frames(batch, seed=batch)
    calls = rollouts(run, sides, frames, horizon)
    if run.device.type == "cuda":  # without burn-in a graph of its own, captured at its first call
        for call in calls.values():
            call(0)
    return {side: timing.median for side, timing in in_turn(calls, lambda _: rounds, not run.quick).items()}


@case("gradient_steps", minutes=1.4, default=True, least=0.9)
def gradient_steps(run: Run) -> Result:
    """The three gradient steps of the paper's agent, on a CPU with small batches."""
    sides, found = agreeing(run)
    sides = [side for side in sides if side not in ("ours_float16_cache", "pytorch_compiled")]
    usual = 2 if run.device.type == "cpu" else 5
    costs = [Cost(usual, COSTS[part]) for part in PARTS]
    sizes = [
        measure_part(run, part, sides, costs[index:]) for index, part in enumerate(PARTS if sides else ())
    ]
    for side in sides:  # the steps have changed them
        run.systems.worker(side).call("load", weights_of(run).file)
    return replace(found, sizes=sizes)
