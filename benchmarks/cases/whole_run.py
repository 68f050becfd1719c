"""Acting on raw frames, and what a whole Atari-100k run would take by what this run has measured."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.cases.rollout import agreeing
from benchmarks.comparison import Work, in_turn, machine_of, measured
from benchmarks.projection import project
from benchmarks.registry import Run, compared_case
from benchmarks.systems.weights import noise_frames
from benchmarks.timing import Timing

SIZES = (("act", "play", 1), ("act", "play", 8), ("encode and decode", "reconstruct", 16))
QUICK_SIZES = (("act", "play", 1), ("act", "play", 2), ("encode and decode", "reconstruct", 2))


@compared_case("playing", minutes=0.3)
def playing(run: Run) -> dict[str, Any]:
    """Acting on raw frames as in collection and tests, and frames encoded and decoded."""
    sides, found = agreeing(run)
    sides = [side for side in sides if side not in ("ours_float16_cache", "pytorch")]
    sizes = []
    for what, method, batch in (QUICK_SIZES if run.quick else SIZES) if sides[:1] == ["ours"] else ():
        frames = noise_frames(batch, seed=batch)
        calls = {
            side: lambda _, side=side, method=method, frames=frames: run.systems.worker(side).call(
                method, frames
            )
            for side in sides
        }
        for call in calls.values():
            call(0)
        turns = in_turn(calls, 2 if run.quick else 3)
        times = {side: Timing(tuple(turn[0] for turn in found)) for side, found in turns.items()}
        work = Work(None, {"frames": float(batch)})
        facts = {"what": what, "batch": batch}
        sizes.append(measured(facts, times, work, machine_of(run), torch.float32))
    return found | {"sizes": sizes}


@compared_case("projection", minutes=0.1)
def projection(run: Run) -> dict[str, Any]:
    """Hours of a whole Atari-100k run by phase, from the steps that this run has measured."""
    return project(run.results)
