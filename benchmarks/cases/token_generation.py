"""Token generation by every system's world model, step by step until the context is full."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.agreement import weights_of
from benchmarks.cases.rollout import agreeing_parts, kv_bytes, planned
from benchmarks.harness import Work
from benchmarks.plan import Cost
from benchmarks.record import Result, Size
from benchmarks.registry import Run, case
from benchmarks.systems.weights import ACTIONS
from benchmarks.work import token_work

# By batch, rounds of 19 steps; with --full at least 3.
CPU_SIZES = {1: Cost(3, 5.8), 16: Cost(2, 15), 64: Cost(1, 41)}
GPU_SIZES = {1: Cost(5, 3), 16: Cost(5, 3), 64: Cost(5, 3), 256: Cost(3, 6)}


def measure_batch(run: Run, sides: list[str], batch: int, steps: int, costs: list[Cost]) -> Size:
    """Seconds of `steps` steps from an empty cache; the first step fills it with a frame."""
    agent = weights_of(run).agent
    generator = torch.Generator().manual_seed(batch)
    first = torch.randint(agent.config.tokenizer.vocab_size, (batch, 16), generator=generator)
    actions = torch.randint(ACTIONS, (batch, steps), generator=generator)
    calls = run.asked(sides, lambda worker, number: worker.call("generate", first, actions))
    for side in sides:
        run.systems.worker(side).call("generate", first, actions[:, :1])  # warms up
    times = run.in_turn(calls, costs)
    floor = token_work(agent.world_model, batch, steps)
    passes = steps * agent.world_model.config.tokens_per_block
    work = Work(
        floor.flops,
        units={"passes": passes, "tokens": batch * passes},
        bytes_by_side=lambda side: floor.kv_numbers * kv_bytes(side) + 4 * floor.weight_numbers,
    )
    steps_of = {side: timing.part_means() for side, timing in times.items()}
    what = {"batch": batch, "steps": steps}
    return run.timed({**what}, times, work, costs[0], more={"step_seconds": steps_of})


@case("token_generation", minutes=1.7, default=True, least=1.2)
def token_generation(run: Run) -> Result:
    """Token passes a second by batch size, from an empty cache until the context is full."""
    sides, found = agreeing_parts(run)
    plan = planned(run, CPU_SIZES, GPU_SIZES)
    if run.full and not run.quick:
        plan = {batch: cost._replace(rounds=max(3, cost.rounds)) for batch, cost in plan.items()}
    costs = list(plan.values())
    steps = 2 if run.quick else weights_of(run).agent.world_model.config.max_blocks - 1
    sizes = [
        measure_batch(run, sides, batch, steps, costs[index:])
        for index, batch in enumerate(plan if sides else ())
    ]
    return replace(found, sizes=sizes)
