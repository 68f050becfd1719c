"""Acting on raw frames, and the projected time of a whole Atari-100k run from this run's measurements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.agreement import FLOAT32, difference, other_models, weights_of
from benchmarks.cases.rollout import agreeing, frame_work
from benchmarks.plan import Cost
from benchmarks.record import Label, Result, Size
from benchmarks.registry import Run, case
from benchmarks.report.projection import project
from benchmarks.systems.weights import noise_frames

# The quantity, its method, and the number of frames. `projection` needs each of SIZES: one
# environment in collection, 8 in tests, the policy of 64 rollouts.
SIZES = (
    *(("act", "play", 1), ("act", "play", 8)),
    *(("encode and decode", "reconstruct", 16), ("policy alone", "act", 64)),
)
QUICK_SIZES = (
    *(("act", "play", 1), ("act", "play", 2)),
    *(("encode and decode", "reconstruct", 2), ("policy alone", "act", 2)),
)


# The networks each method runs on a frame: acting sees a reconstruction.
PARTS_OF = {"play": ("encode", "decode", "policy"), "reconstruct": ("encode", "decode"), "act": ("policy",)}


def seconds_in(answer: float | tuple[float, Any]) -> float:
    """The seconds in an answer, which may also have outputs."""
    return answer if isinstance(answer, float) else answer[0]


def other_frames(run: Run, sides: list[str], frames: Tensor) -> dict[str, str]:
    """The sides whose encoded and decoded frames differ from the oracle's, and the difference (except other
    models)."""
    tokenizer = weights_of(run).agent.tokenizer
    with torch.no_grad():
        expected = tokenizer.frames_of(tokenizer.tokens_of(frames))
    found = {}
    for side in sides:
        if side in other_models(run):
            continue
        with run.systems.exactly(side):
            gap = difference(run.systems.worker(side).call("reconstruct", frames)[1].clamp(0, 1), expected)
        if not gap <= FLOAT32:
            found[side] = (
                f"its reconstructions differ from the oracle's by {gap:.2g} of the largest: not timed"
            )
    return found


def measure(run: Run, sides: list[str], what: str, method: str, batch: int, costs: list[Cost]) -> Size:
    """Seconds of one method on `batch` frames; first compares reconstructions."""
    frames = noise_frames(batch, seed=batch)
    label: dict[str, Label] = {"what": what, "batch": batch}
    refused = other_frames(run, sides, frames) if method == "reconstruct" else {}
    if "ours" in refused:
        return Size(label, missing=refused["ours"])
    right = [side for side in sides if side not in refused]
    calls = run.asked(right, lambda worker, number: seconds_in(worker.call(method, frames)))
    for call in calls.values():
        call(0)
    work = frame_work(run, PARTS_OF[method], batch)
    return run.timed(label, run.in_turn(calls, costs), work, costs[0], not_timed=refused)


@case("playing", minutes=0.3, default=True, least=0.2)
def playing(run: Run) -> Result:
    """Acting on raw frames as in collection and tests, frames encoded and decoded, the policy alone."""
    sides, found = agreeing(run)
    left_out = ("ours_float16_cache", "ours_bf16", "pytorch", "pytorch_compiled")
    sides = [side for side in sides if side not in left_out]
    sizes = (QUICK_SIZES if run.quick else SIZES) if sides else ()
    costs = [Cost(3, 2.0)] * len(sizes)
    measured = [measure(run, sides, *size, costs[index:]) for index, size in enumerate(sizes)]
    return replace(found, sizes=measured)


@case("projection", minutes=0.01, default=True)
def projection(run: Run) -> Result:
    """Hours of a whole Atari-100k run by phase, from the steps that this run has measured."""
    return Result(facts=project(run.results))
