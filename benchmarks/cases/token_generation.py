"""Imagined tokens of every system's world model, step by step until the context is full."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.agreement import weights_of
from benchmarks.cases.rollout import agreeing_parts, kv_bytes, predicted_seconds
from benchmarks.comparison import Work, in_turn, machine_of, measured
from benchmarks.registry import Run, compared_case
from benchmarks.systems.weights import ACTIONS
from benchmarks.timing import Timing
from benchmarks.work import token_work

CPU_SIZES = ((1, 3), (16, 2), (64, 1))  # (batch, rounds of 19 steps); with --full at least 3
GPU_SIZES = ((1, 5), (16, 5), (64, 5), (256, 3))


def measure_batch(run: Run, sides: list[str], batch: int, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds of `steps` steps from an empty cache, the first of which fills it with a frame."""
    agent = weights_of(run).agent
    generator = torch.Generator().manual_seed(batch)
    first = torch.randint(agent.config.tokenizer.vocab_size, (batch, 16), generator=generator)
    actions = torch.randint(ACTIONS, (batch, steps), generator=generator)
    calls = {
        side: lambda number, side=side: run.systems.worker(side).call("generate", first, actions)
        for side in sides
    }
    for side in sides:
        run.systems.worker(side).call("generate", first, actions[:, :1])  # warms up
    seconds = in_turn(calls, rounds)
    times = {side: Timing(tuple(sum(turn) for turn in found)) for side, found in seconds.items()}
    floor = token_work(agent.world_model, batch, steps)
    passes = steps * agent.world_model.config.tokens_per_block
    work = Work(
        floor.flops,
        {"passes": float(passes), "tokens": float(batch * passes)},
        lambda side: floor.kv_numbers * kv_bytes(side) + 4 * floor.weight_numbers,
    )
    found = measured({"batch": batch, "steps": steps}, times, work, machine_of(run), torch.float32)
    found["step_seconds"] = {
        side: [sum(step) / len(step) for step in zip(*turns, strict=True)] for side, turns in seconds.items()
    }
    return found | {"amount": amount_of(batch) * steps}


def amount_of(batch: int) -> int:
    """What a step's time is taken to be in proportion to: reading the weights takes as long as some rows do."""
    return batch + 12


@compared_case("token_generation", minutes=2)
def token_generation(run: Run) -> dict[str, Any]:
    """Token passes a second by batch size, from an empty cache until the context is full."""
    sides, found = agreeing_parts(run)
    plan = ((2, 2),) if run.quick else CPU_SIZES if run.device.type == "cpu" else GPU_SIZES
    if run.full:
        plan = tuple((batch, max(3, rounds)) for batch, rounds in plan)
    plan = tuple(size for size in plan if run.takes(size[0]))
    steps = 2 if run.quick else weights_of(run).agent.world_model.config.max_blocks - 1
    sizes: list[dict[str, Any]] = []
    for batch, usual in plan if sides[:1] == ["ours"] else ():
        rounds = run.rounds_or(usual)
        needed = predicted_seconds(sizes, amount_of(batch) * (steps * rounds + 1))
        if not run.has_time_for(needed):
            sizes.append({"batch": batch, "left_out": f"it would take {needed:.0f} s"})
            continue
        sizes.append(measure_batch(run, sides, batch, rounds, steps))
    return found | {"sizes": sizes}
