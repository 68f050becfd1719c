"""Imagination on every system: whole rollouts by the public function, and decoded frames."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.agreement import FLOAT32, agreement_of, difference, other_models, refusals, weights_of
from benchmarks.harness import Work
from benchmarks.plan import Cost
from benchmarks.record import Label, Result, Size
from benchmarks.registry import Run, case
from benchmarks.systems.weights import noise_frames
from benchmarks.timing import Round
from benchmarks.work import frame_bytes, frame_flops, token_work

# By batch. On two CPU cores the public implementation takes seconds a step at batch 64. One horizon for all, since
# the last step has a single pass: a step's share of passes depends on it.
HORIZON_CPU, HORIZON_GPU = 4, 20
CPU_SIZES = {1: Cost(7, 2.8), 16: Cost(3, 6.2), 64: Cost(3, 17), 256: Cost(3, 70)}
CPU_ASKED = 256  # larger batches run on a CPU only on request
CPU_LARGE = 64  # minutes left to the other cases
CPU_LARGE_WITHOUT = ("ours_float16_cache", "pytorch", "pytorch_compiled")
GPU_SIZES = {1: Cost(5, 1), 16: Cost(5, 1), 64: Cost(5, 2), 256: Cost(3, 6)}
DECODED_CPU = {1: Cost(15, 0.4), 16: Cost(5, 1.5), 64: Cost(3, 4.5)}
DECODED_GPU = {1: Cost(15, 0.2), 16: Cost(15, 0.2), 64: Cost(15, 0.2), 256: Cost(9, 0.5), 1024: Cost(5, 2)}
QUICK_SIZES = {2: Cost(2, 1)}


def kv_bytes(side: str) -> int:
    """Bytes of a number in a side's cache."""
    return 2 if side in ("ours_float16_cache", "ours_bf16") else 4


def rollout_work(run: Run, batch: int, horizon: int) -> Work:
    """One encoding, then `horizon` decodings and policy steps; the last step has only its action's token pass."""
    agent = weights_of(run).agent
    block = agent.world_model.config.tokens_per_block
    tokens = token_work(agent.world_model, batch, horizon - 1, last_action=True)
    flops = tokens.flops + batch * (
        frame_flops(agent, "encode") + horizon * (frame_flops(agent, "decode") + frame_flops(agent, "policy"))
    )
    return Work(
        flops,
        units={"imagined_steps": batch * horizon, "tokens": batch * ((horizon - 1) * block + 1)},
        bytes_by_side=lambda side: tokens.kv_numbers * kv_bytes(side) + 4 * tokens.weight_numbers,
        uncounted=other_models(run),
    )


def measure_rollout(run: Run, sides: list[str], batch: int, horizon: int, costs: list[Cost]) -> Size:
    """Seconds of rollouts from `batch` frames of noise. Ours decodes no frame twice.

    `costs`: those of this size and the next ones.
    """
    frames = noise_frames(batch, seed=batch)
    what: dict[str, Label] = {"batch": batch, "horizon": horizon}
    for side in sides:
        # Warm-up: on a GPU each horizon has its graph; compiled code needs a whole step.
        warm = horizon if run.device.type == "cuda" else 2 if side == "pytorch_compiled" else 1
        run.systems.worker(side).call("rollout", frames, warm, 0)
    rows = run.systems.worker("ours").call("rollout", frames, horizon, 0)[1]["tokens"].flatten(0, 1)
    if (share := len(rows.unique(dim=0)) / len(rows)) < 1:
        return Size(what, missing=f"only {share:.0%} of the frames are distinct: not timed")
    times = run.in_turn(rollouts(run, sides, frames, horizon), costs)
    return run.timed(what, times, rollout_work(run, batch, horizon), costs[0])


def rollouts(run: Run, sides: Iterable[str], frames: Tensor, horizon: int) -> dict[str, Round]:
    """Rollouts of each side, whose seed is the number of the round."""
    return run.asked(sides, lambda worker, number: worker.call("rollout", frames, horizon, number)[0])


def agreeing(run: Run) -> tuple[list[str], Result]:
    """The sides to time, ours first (none if ours disagrees), and a result without sizes."""
    agreement = agreement_of(run)
    refused = refusals(agreement)
    sides = [side for side in run.systems.sides() if side not in refused]
    found = Result(
        ceilings=run.machine().ceilings(), threads=run.systems.threads, sides=agreement, not_timed=refused
    )
    return (sides if sides[:1] == ["ours"] else []), found


NO_PARTS = (
    "this device's engine runs a rollout as one graph, whose parts cannot be timed: see the case rollout"
)


def agreeing_parts(run: Run) -> tuple[list[str], Result]:
    """As `agreeing`, but without sides if the parts of ours cannot be timed."""
    sides, found = agreeing(run)
    if sides and not agreement_of(run)["ours"]["has_parts"]:
        return [], replace(found, left_out=NO_PARTS)
    return sides, found


def planned(run: Run, cpu: dict[int, Cost], gpu: dict[int, Cost]) -> dict[int, Cost]:
    """The batch sizes to run, with their costs."""
    plan = QUICK_SIZES if run.quick else cpu if run.device.type == "cpu" else gpu
    return {batch: cost for batch, cost in plan.items() if run.takes(batch)}


def predicted_seconds(sizes: list[Size], batch: int, rounds: int) -> float:
    """Seconds of `rounds` rounds of a size and of warming up, from the largest size so far."""
    timed = [size for size in sizes if size.seconds]
    if not timed:
        return 0.0
    each = sum(spread.median for spread in timed[-1].seconds.values()) / timed[-1].number("batch")
    return each * batch * (rounds + 0.25)


@case("rollout", minutes=2.5, default=True, least=1.3)
def rollout(run: Run) -> Result:
    """Rollouts by batch size, from raw frames, with each system's imagination function."""
    sides, found = agreeing(run)
    plan = planned(run, CPU_SIZES, GPU_SIZES)
    horizon = 2 if run.quick else HORIZON_CPU if run.device.type == "cpu" else HORIZON_GPU
    asked = run.full or run.batches is not None or run.device.type != "cpu"
    sizes: list[Size] = []
    taken = [batch for batch in plan if asked or batch < CPU_ASKED]
    for batch in plan if sides else ():
        if batch not in taken:
            seconds = predicted_seconds(sizes, batch, run.usual(plan[batch]).rounds)
            why = f"left out: it would take {seconds:.0f} s (--batches {batch} --full)"
            sizes.append(Size({"batch": batch, "horizon": horizon}, missing=why))
            continue
        lean = batch >= CPU_LARGE and run.device.type == "cpu" and not run.full
        kept = [side for side in sides if not lean or side not in CPU_LARGE_WITHOUT]
        costs = [plan[other] for other in taken[taken.index(batch) :]]
        sizes.append(measure_rollout(run, kept, batch, horizon, costs))
    return replace(found, sizes=sizes)


@case("rollout_whole", minutes=12)
def rollout_whole(run: Run) -> Result:
    """The paper's whole rollout: 64 × 20 steps on every system (minutes a round on a CPU)."""
    sides, found = agreeing(run)
    batch, horizon = (2, 3) if run.quick else (64, 20)
    cost = Cost(1 if run.quick else 3, 150)
    return replace(found, sizes=[measure_rollout(run, sides, batch, horizon, [cost])] if sides else [])


@case("frame_decoding", minutes=0.6, default=True, least=0.3)
def frame_decoding(run: Run) -> Result:
    """Frames decoded from tokens, by number of frames."""
    sides, found = agreeing_parts(run)
    plan = planned(run, DECODED_CPU, DECODED_GPU)
    costs = list(plan.values())
    sizes = [decoded(run, sides, batch, costs[index:]) for index, batch in enumerate(plan if sides else ())]
    return replace(found, sizes=sizes)


def decoded(run: Run, sides: list[str], batch: int, costs: list[Cost]) -> Size:
    """Seconds of decoding `batch` frames, different in every round; first compares the frames of all sides."""
    agent = weights_of(run).agent
    rounds = run.usual(costs[0]).rounds
    generator = torch.Generator().manual_seed(batch)
    tokens = torch.randint(agent.config.tokenizer.vocab_size, (rounds + 1, batch, 16), generator=generator)
    sides = [side for side in sides if side != "ours_float16_cache"]  # its decoder is the same as ours
    # Warm-up, and a comparison of the decoded frames at this batch size too.
    warm = {side: run.systems.worker(side).call("decode", tokens[rounds])[1] for side in sides}
    not_timed: dict[str, str] = {}
    for side in [side for side in sides if side not in other_models(run)]:
        gap = difference(warm[side], warm.get("pytorch", warm["ours"]))
        if not gap <= FLOAT32:
            not_timed[side] = f"its frames differ from the oracle's by {gap:.2g} of the largest: not timed"
    what: dict[str, Label] = {"batch": batch}
    if "ours" in not_timed:
        return Size(what, missing=not_timed["ours"])
    right = [side for side in sides if side not in not_timed]
    calls = run.asked(right, lambda worker, number: worker.call("decode", tokens[number])[0])
    work = frame_work(run, ("decode",), batch)
    return run.timed(what, run.in_turn(calls, costs), work, costs[0], not_timed=not_timed)


def frame_work(run: Run, parts: tuple[str, ...], batch: int) -> Work:
    """The operations and bytes of the networks of `parts` on `batch` frames."""
    agent = weights_of(run).agent
    return Work(
        batch * sum(frame_flops(agent, part) for part in parts),
        frame_bytes(agent, parts, batch),
        units={"frames": batch},
        uncounted=other_models(run),
    )
