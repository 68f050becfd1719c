"""Imagination of every system: whole rollouts by the front door, and frames decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.agreement import FLOAT32, agreement_of, difference, other_models, refusals, weights_of
from benchmarks.comparison import Work, header, in_turn, machine_of, measured
from benchmarks.registry import Run, compared_case
from benchmarks.systems.weights import noise_frames
from benchmarks.timing import Timing
from benchmarks.work import frame_bytes, frame_flops, token_work

# (batch, horizon, rounds). On two CPU cores the public implementation takes seconds a step at batch 64. One horizon
# for all, since the last step has a single pass: a step's share of passes depends on it.
CPU_SIZES = ((1, 4, 7), (16, 4, 3), (64, 4, 3), (256, 4, 3))
CPU_ASKED = 256  # from here on a CPU is measured where it is asked for
CPU_LARGE = 64  # minutes; other cases have these
CPU_LARGE_WITHOUT = ("ours_float16_cache", "pytorch", "pytorch_compiled")
GPU_SIZES = ((1, 20, 5), (16, 20, 5), (64, 20, 5), (256, 20, 3))
DECODED_CPU = ((1, 15), (16, 5), (64, 3))  # (frames, rounds)
DECODED_GPU = ((1, 15), (16, 15), (64, 15), (256, 9), (1024, 5))


def kv_bytes(side: str) -> int:
    """Bytes of a number in that side's cache."""
    return 2 if side == "ours_float16_cache" else 4


def rollout_work(run: Run, batch: int, horizon: int) -> Work:
    """One encoding, `horizon` frames decoded and acted on; the last step has its action's token pass alone."""
    agent = weights_of(run).agent
    block = agent.world_model.config.tokens_per_block
    tokens = token_work(agent.world_model, batch, horizon - 1, last_action=True)
    flops = tokens.flops + batch * (
        frame_flops(agent, "encode") + horizon * (frame_flops(agent, "decode") + frame_flops(agent, "policy"))
    )
    units = {"imagined_steps": float(batch * horizon), "tokens": float(batch * ((horizon - 1) * block + 1))}
    return Work(
        flops,
        units,
        lambda side: tokens.kv_numbers * kv_bytes(side) + 4 * tokens.weight_numbers,
        other_models(run),
    )


def measure_rollout(run: Run, sides: list[str], batch: int, horizon: int, rounds: int) -> dict[str, Any]:
    """Seconds of rollouts from `batch` frames of noise. Every frame that ours decodes is another one."""
    frames = noise_frames(batch, seed=batch)
    facts: dict[str, Any] = {"batch": batch, "horizon": horizon}
    for side in sides:
        # Warms up: on a GPU graphs are captured for a horizon of their own; what is compiled needs a whole step.
        warm = horizon if run.device.type == "cuda" else 2 if side == "pytorch_compiled" else 1
        run.systems.worker(side).call("rollout", frames, warm, 0)
    rows = run.systems.worker("ours").call("rollout", frames, horizon, 0)[1]["tokens"].flatten(0, 1)
    if (share := len(rows.unique(dim=0)) / len(rows)) < 1:
        return facts | {"error": f"only {share:.0%} of the frames are distinct: not timed"}
    calls = {
        side: lambda number, side=side: run.systems.worker(side).call("rollout", frames, horizon, number)[0]
        for side in sides
    }
    seconds = in_turn(calls, rounds)
    times = {side: Timing(tuple(sum(turn) for turn in found)) for side, found in seconds.items()}
    work = rollout_work(run, batch, horizon)
    return measured(facts, times, work, machine_of(run), torch.float32)


def agreeing(run: Run) -> tuple[list[str], dict[str, Any]]:
    """The sides that may be timed, ours first, and the head of the result."""
    agreement = agreement_of(run)
    refused = refusals(agreement)
    sides = [side for side in run.systems.sides() if side not in refused]
    return sides, header(run, agreement) | {"not_timed": refused}


NO_PARTS = "the engine of this device makes rollouts as one graph, with no part apart: see the case rollout"


def agreeing_parts(run: Run) -> tuple[list[str], dict[str, Any]]:
    """As `agreeing`; no sides where ours has no parts to be timed apart."""
    sides, found = agreeing(run)
    if sides[:1] == ["ours"] and not agreement_of(run)["ours"]["has_parts"]:
        return [], found | {"left_out": NO_PARTS}
    return sides, found


def predicted_seconds(sizes: list[dict[str, Any]], amount: float) -> float:
    """Seconds of a size of `amount` steps, rounds and warming up included, from the largest size so far."""
    done = [size for size in sizes if "seconds" in size]
    if not done:
        return 0.0
    last = done[-1]
    each = sum(timing["median"] for timing in last["seconds"].values()) / last["amount"]
    return each * amount


@compared_case("rollout", minutes=3)
def rollout(run: Run) -> dict[str, Any]:
    """Rollouts by batch size, from raw frames, by each system's own imagination."""
    sides, found = agreeing(run)
    plan = CPU_SIZES if run.device.type == "cpu" else GPU_SIZES
    if run.quick:
        plan = ((2, 2, 2),)
    plan = tuple(size for size in plan if run.takes(size[0]))
    sizes: list[dict[str, Any]] = []
    for batch, horizon, usual in plan if sides[:1] == ["ours"] else ():
        rounds = run.rounds_or(usual)
        needed = predicted_seconds(sizes, batch * (horizon * rounds + 1))
        asked = run.full or run.batches is not None or run.device.type != "cpu"
        if not run.has_time_for(needed) or not (asked or batch < CPU_ASKED):
            why = f"it would take {needed:.0f} s (--batches {batch} --full)"
            sizes.append({"batch": batch, "horizon": horizon, "left_out": why})
            continue
        lean = batch >= CPU_LARGE and run.device.type == "cpu" and not run.full
        kept = [side for side in sides if not lean or side not in CPU_LARGE_WITHOUT]
        sizes.append(measure_rollout(run, kept, batch, horizon, rounds) | {"amount": batch * horizon})
    return found | {"sizes": sizes}


@compared_case("rollout_whole", minutes=12, default=False)
def rollout_whole(run: Run) -> dict[str, Any]:
    """The paper's rollout whole: 64 × 20 steps by every system (minutes a round on a CPU)."""
    sides, found = agreeing(run)
    batch, horizon, rounds = (2, 3, 1) if run.quick else (64, 20, run.rounds_or(3))
    sizes = [measure_rollout(run, sides, batch, horizon, rounds)] if sides[:1] == ["ours"] else []
    return found | {"sizes": sizes}


@compared_case("frame_decoding", minutes=0.6)
def frame_decoding(run: Run) -> dict[str, Any]:
    """Frames decoded from tokens, by number of frames."""
    sides, found = agreeing_parts(run)
    agent, machine = weights_of(run).agent, machine_of(run)
    plan = ((2, 2),) if run.quick else DECODED_CPU if run.device.type == "cpu" else DECODED_GPU
    plan = tuple(size for size in plan if run.takes(size[0]))
    sizes: list[dict[str, Any]] = []
    for batch, usual in plan if sides[:1] == ["ours"] else ():
        rounds = run.rounds_or(usual)
        needed = predicted_seconds(sizes, batch * (rounds + 1))
        if not run.has_time_for(needed):
            sizes.append({"batch": batch, "left_out": f"it would take {needed:.0f} s"})
            continue
        generator = torch.Generator().manual_seed(batch)
        tokens = torch.randint(
            agent.config.tokenizer.vocab_size, (rounds + 1, batch, 16), generator=generator
        )
        calls: dict[str, Callable[[int], float]] = {
            side: lambda number, side=side: run.systems.worker(side).call("decode", tokens[number])[0]  # type: ignore[misc]  # noqa: B023
            for side in sides
            if side != "ours_float16_cache"  # it decodes as ours does
        }
        # Warms up; and what is decoded must be the same for this number of frames too.
        warm = {side: run.systems.worker(side).call("decode", tokens[rounds])[1] for side in calls}
        facts: dict[str, Any] = {"batch": batch}
        for side in [side for side in calls if side not in other_models(run)]:
            gap = difference(warm[side], warm.get("pytorch", warm["ours"]))
            if not gap <= FLOAT32:
                facts.setdefault("not_timed", {})[side] = (
                    f"its frames differ from the oracle's by {gap:.2g} of the largest: not timed"
                )
                del calls[side]
        if "ours" not in calls:
            sizes.append(facts | {"error": facts["not_timed"]["ours"]})
            continue
        times = {
            side: Timing(tuple(turn[0] for turn in found)) for side, found in in_turn(calls, rounds).items()
        }
        work = Work(
            batch * frame_flops(agent, "decode"),
            {"frames": float(batch)},
            lambda side, batch=batch: frame_bytes(agent, ("decode",), batch),  # type: ignore[misc]
            other_models(run),
        )
        sizes.append(measured(facts, times, work, machine, torch.float32) | {"amount": batch})
    return found | {"sizes": sizes}
