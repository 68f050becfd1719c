"""Acting on raw frames, and what a whole Atari-100k run would take by what this run has measured."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.agreement import FLOAT32, difference, other_models, weights_of
from benchmarks.cases.rollout import agreeing
from benchmarks.comparison import Work, in_turn, machine_of, measured
from benchmarks.registry import Run, compared_case
from benchmarks.report.projection import project
from benchmarks.systems.weights import noise_frames
from benchmarks.timing import Timing
from benchmarks.work import frame_bytes, frame_flops

# What is measured, the method that does it, and the number of frames. `projection` needs each of SIZES: one
# environment in collection, 8 in tests, the policy of 64 rollouts.
SIZES = (
    *(("act", "play", 1), ("act", "play", 8)),
    *(("encode and decode", "reconstruct", 16), ("policy alone", "act", 64)),
)
QUICK_SIZES = (
    *(("act", "play", 1), ("act", "play", 2)),
    *(("encode and decode", "reconstruct", 2), ("policy alone", "act", 2)),
)


# What each method does with a frame: acting sees a reconstruction.
PARTS_OF = {"play": ("encode", "decode", "policy"), "reconstruct": ("encode", "decode"), "act": ("policy",)}


def seconds_in(answer: float | tuple[float, Any]) -> float:
    """The seconds of an answer that may have outputs beside them."""
    return answer if isinstance(answer, float) else answer[0]


def other_frames(run: Run, sides: list[str], frames: Tensor) -> dict[str, str]:
    """Sides whose frames, encoded and decoded, are not the oracle's, and how (but those of another model)."""
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


@compared_case("playing", minutes=0.3)
def playing(run: Run) -> dict[str, Any]:
    """Acting on raw frames as in collection and tests, frames encoded and decoded, the policy alone."""
    sides, found = agreeing(run)
    sides = [side for side in sides if side not in ("ours_float16_cache", "pytorch", "pytorch_compiled")]
    agent = weights_of(run).agent
    sizes = []
    for what, method, batch in (QUICK_SIZES if run.quick else SIZES) if sides[:1] == ["ours"] else ():
        frames = noise_frames(batch, seed=batch)
        facts: dict[str, Any] = {"what": what, "batch": batch}
        refused = other_frames(run, sides, frames) if method == "reconstruct" else {}
        if refused:
            facts["not_timed"] = refused
        if "ours" in refused:
            sizes.append(facts | {"error": refused["ours"]})
            continue
        calls = {
            side: lambda _, side=side, method=method, frames=frames: seconds_in(
                run.systems.worker(side).call(method, frames)
            )
            for side in sides
            if side not in refused
        }
        for call in calls.values():
            call(0)
        turns = in_turn(calls, run.rounds_or(3))
        times = {side: Timing(tuple(turn[0] for turn in found)) for side, found in turns.items()}
        parts = PARTS_OF[method]
        work = Work(
            batch * sum(frame_flops(agent, part) for part in parts),
            {"frames": float(batch)},
            lambda side, parts=parts, batch=batch: frame_bytes(agent, parts, batch),  # type: ignore[misc]
            other_models(run),
        )
        sizes.append(measured(facts, times, work, machine_of(run), torch.float32))
    return found | {"sizes": sizes}


@compared_case("projection", minutes=0.1)
def projection(run: Run) -> dict[str, Any]:
    """Hours of a whole Atari-100k run by phase, from the steps that this run has measured."""
    return project(run.results)
