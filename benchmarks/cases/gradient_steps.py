"""The three gradient steps of the paper's agent: ours, the public implementation's, Simulusion's."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.agreement import other_models, weights_of
from benchmarks.cases.rollout import agreeing
from benchmarks.comparison import Work, in_turn, machine_of, measured
from benchmarks.registry import Run, compared_case
from benchmarks.systems.weights import ACTIONS, noise_frames
from benchmarks.timing import Timing
from benchmarks.work import step_bytes, step_flops
from iris_fast.agent import PARTS

LENGTH, BURN_IN = 20, 20
TOLERANCE = 1e-3  # of losses and gradient norms, as a share
# (batch, horizon) of a part. The paper's batches take minutes on two cores; `projection` scales these up.
CPU_SIZES = {"tokenizer": (4, 0), "world_model": (2, 0), "actor_critic": (2, 20)}
GPU_SIZES = {"tokenizer": (64, 0), "world_model": (64, 0), "actor_critic": (64, 20)}
QUICK_SIZES = {"tokenizer": (2, 0), "world_model": (2, 0), "actor_critic": (2, 2)}
UNITS = {"tokenizer": "frames", "world_model": "frames", "actor_critic": "imagined_steps"}


def segments(part: str, batch: int, quick: bool, number: int = 0) -> dict[str, Tensor]:
    """A batch as the replay gives it: single frames, 20 of them, or 20 of burn-in and the one to start from.

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
    """The weights that a part is trained from: the tokenizer needs the perceptual network."""
    weights = weights_of(run)
    return weights.perceptual_file if part == "tokenizer" else weights.file


def disagreement(run: Run, part: str, sides: list[str], quick: bool) -> dict[str, str]:
    """Sides whose loss or gradient norm is another one than plain PyTorch's on the same batch, and how."""
    weights = weights_of(run)
    batch, horizon = segments(part, 2, quick=True), min(2, QUICK_SIZES[part][1])
    # Steep heads, so that draws are the same.
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
            gap = abs(number - expected[name]) / max(abs(expected[name]), 1e-30)
            if not gap <= TOLERANCE:
                found[side] = f"its {name} of the {part} step differs by {gap:.2g}: not timed"
    return found


def warmed_up(run: Run, part: str, batch: int, horizon: int, sides: list[str]) -> dict[str, str]:
    """Has every side take a step, which is not timed; why some cannot, by side."""
    failed: dict[str, str] = {}
    # On a CPU a short rollout warms up; on a GPU graphs are captured, each of its own horizon.
    horizon = min(horizon, 2) if run.device.type == "cpu" else horizon
    for side in sides:
        worker = run.systems.worker(side)
        try:
            if side in other_models(run):  # which were not compared, and so have not loaded these
                worker.call("load", file_of(run, part))
            worker.call("train", part, segments(part, batch, run.quick), horizon, False, 0)
        except RuntimeError as error:  # what another version of a package does not do costs its column alone
            if side == "ours":
                raise
            failed[side] = f"it failed: {str(error).strip().splitlines()[-1]}"
    return failed


def measure_part(run: Run, part: str, sides: list[str], rounds: int) -> dict[str, Any]:
    """Seconds of one part's step by every side, and of the actor-critic's also those of its rollout alone.

    "ours" encodes and decodes the batch's frames within its step, as the others do, so that ratios are of equal
    work; "ours_cached" finds them in the epoch's cache, as training does. Every round has another batch and seed.
    """
    sizes = QUICK_SIZES if run.quick else CPU_SIZES if run.device.type == "cpu" else GPU_SIZES
    batch, horizon = sizes[part]
    others = other_models(run)
    comparable = [side for side in sides if side not in others]
    refused = disagreement(run, part, comparable, run.quick)
    facts: dict[str, Any] = {"part": part, "batch": batch, "not_timed": refused}
    if "ours" in refused:
        return facts | {"error": refused["ours"]}
    # The oracle is what they are compared with.
    kept = [side for side in sides if side not in refused and side != "pytorch"]
    failed = warmed_up(run, part, batch, horizon, kept)
    refused |= failed
    kept = [side for side in kept if side not in failed]
    answers: dict[str, list[dict[str, float]]] = {}

    def call(side: str, number: int) -> float:
        data = segments(part, batch, run.quick, number + 1)
        worker, cached = run.systems.worker(side.removesuffix("_cached")), side == "ours_cached"
        answer: dict[str, float] = worker.call("train", part, data, horizon, cached, number + 1)
        answers.setdefault(side, []).append(answer)
        return answer["seconds"]

    timed = [*kept[:1], *(["ours_cached"] if part != "tokenizer" else []), *kept[1:]]
    found = in_turn({side: lambda number, side=side: call(side, number) for side in timed}, rounds)
    if error := remembered(answers):
        return facts | {"error": error}
    times = {side: Timing(tuple(t[0] for t in turns)) for side, turns in found.items()}
    for name in ("update_seconds", "imagine_seconds"):
        facts[name] = {
            side: statistics.median(answer[name] for answer in given)
            for side, given in answers.items()
            if name in given[0]
        }
    frames = segments(part, 1, run.quick)["ends"].shape[1]
    agent = weights_of(run).agent
    bytes_moved = step_bytes(agent, part)
    work = Work(
        step_flops(agent, part, batch, frames, horizon),
        {UNITS[part]: float(batch * (horizon or frames))},
        lambda side: bytes_moved,
        (*others, "ours_cached"),  # whose frames are encoded beforehand
    )
    if horizon:
        facts |= {"horizon": horizon, "rollout_seconds": _rollout_seconds(run, kept, batch, horizon, rounds)}
    return measured(facts, times, work, machine_of(run), torch.float32)


def remembered(answers: Mapping[str, Sequence[Mapping[str, float]]]) -> str | None:
    """Why a step is not timed whose rollout had frames that were not decoded; None where there were none."""
    for side, given in answers.items():
        if most := max(answer.get("frames_remembered", 0) for answer in given):
            return f"{side} remembered {most:.0f} frames of its rollout instead of decoding them: not timed"
    return None


def _rollout_seconds(run: Run, sides: list[str], batch: int, horizon: int, rounds: int) -> dict[str, float]:
    """Medians of the rollout without burn-in and gradient, which the whole step has besides."""
    frames = noise_frames(batch, seed=batch)
    calls = {
        side: lambda number, side=side: run.systems.worker(side).call("rollout", frames, horizon, number)[0]
        for side in sides
    }
    if run.device.type == "cuda":  # without burn-in a graph of its own, captured at its first call
        for call in calls.values():
            call(0)
    found = in_turn(calls, rounds)
    return {side: Timing(tuple(turn[0] for turn in turns)).median for side, turns in found.items()}


@compared_case("gradient_steps", minutes=1.6)
def gradient_steps(run: Run) -> dict[str, Any]:
    """The three gradient steps of the paper's agent, on a CPU with small batches."""
    sides, found = agreeing(run)
    sides = [side for side in sides if side not in ("ours_float16_cache", "pytorch_compiled")]
    sizes: list[dict[str, Any]] = []
    for part in PARTS if sides[:1] == ["ours"] else ():
        if not run.has_time_for(30):
            sizes.append({"part": part, "left_out": "the time is up"})
            continue
        sizes.append(measure_part(run, part, sides, run.rounds_or(2 if run.device.type == "cpu" else 5)))
    for side in sides:  # the steps have changed them
        run.systems.worker(side).call("load", weights_of(run).file)
    return found | {"sizes": sizes}
