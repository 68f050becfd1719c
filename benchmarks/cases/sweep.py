"""What a sweep costs a run, and what two runs at once take beside one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.harness import Work
from benchmarks.plan import Cost
from benchmarks.record import Label, Result, Size
from benchmarks.registry import Run, case
from benchmarks.timing import Round

if TYPE_CHECKING:
    from iris_fast.sweep.plan import Plan

NOTHING = (
    *("common.epochs=1", "training.should=false", "evaluation.should=false"),
    *("collection.train.config.num_steps=8", "logging.tensorboard=false"),
)
# Every part trains from the first epoch on: Catch's usual steps, as in its last epochs.
SHORT = (
    *("common.epochs=2", "evaluation.should=false", "logging.tensorboard=false"),
    *(f"training.{part}.start_after_epochs=0" for part in ("tokenizer", "world_model", "actor_critic")),
)


def plan_of(folder: Path, runs: int, cores: int, *overrides: str) -> Plan:
    """A sweep of so many Catch runs."""
    from iris_fast.sweep.__main__ import make_parser
    from iris_fast.sweep.plan import make_plan

    words = [
        "--games",
        "Catch",
        "--seeds",
        str(runs),
        "--preset",
        "tiny",
        "--episodes",
        "8",
        "--gpus-per-run",
        "0",
    ]
    words += ["--output", str(folder), "--cpus-per-run", str(cores), *overrides]
    plan = make_plan(make_parser().parse_intermixed_args(words))
    plan.make_output()
    return plan


def swept(ray: object, plan: Plan) -> float:
    """Seconds from the first run's start to the last one's end, as Ray tasks."""
    from iris_fast.sweep.cluster import Tasks

    tasks = Tasks(ray, plan)
    began = time.perf_counter()
    for run in plan.runs:
        tasks.submit(run)
    while len(tasks):
        for run, outcome in tasks.ended(0.05).items():
            if outcome is None or outcome.code != 0:
                raise RuntimeError(f"{run.name} failed: {run.log.read_text()[-500:]}")
    return time.perf_counter() - began


def directly(plan: Plan) -> float:
    """Seconds of the same commands of each run, one after the other from this process."""
    began = time.perf_counter()
    for run in plan.runs:
        for module, words in (("train", run.train_arguments(False)), ("evaluate", run.evaluate_arguments())):
            command = [sys.executable, "-m", f"iris_fast.{module}", *words]
            subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


@case("sweep", minutes=15, least=6)
def sweep(run: Run) -> Result:
    """A run as a Ray task beside its plain commands, and two Catch runs at once beside one after the other."""
    from iris_fast.sweep.cluster import OBJECT_STORE

    if find_spec("ray") is None:
        return Result(left_out="Ray is not installed: pip install 'iris_fast[sweep]'")
    if run.device.type != "cpu":
        return Result(left_out="it measures runs on a CPU: give --device cpu")
    import ray

    short = NOTHING if run.quick else SHORT
    with tempfile.TemporaryDirectory() as scratch:
        folder, number = Path(scratch), iter(range(10**6))
        began = time.perf_counter()
        options: dict[str, Any] = {
            "include_dashboard": False,
            "log_to_driver": False,
            "object_store_memory": OBJECT_STORE,
        }
        ray.init(address="local", num_cpus=2, **options)
        started = time.perf_counter() - began
        try:
            swept(ray, plan_of(folder / "first", 2, 1, *NOTHING))  # starts a worker for each core

            def fresh(runs: int, cores: int, *overrides: str) -> Plan:
                return plan_of(folder / str(next(number)), runs, cores, *overrides)

            alone: Mapping[str, Round] = {
                "as a Ray task": lambda _: swept(ray, fresh(1, 1, *NOTHING)),
                "its commands alone": lambda _: directly(fresh(1, 1, *NOTHING)),
            }
            two: Mapping[str, Round] = {
                "at once, a core each": lambda _: swept(ray, fresh(2, 1, *short)),
                "one after the other, both cores each": lambda _: swept(ray, fresh(2, 2, *short)),
                "one after the other, a core each": lambda _: swept_in_turn(ray, fresh(2, 1, *short)),
            }
            costs = [Cost(1, 30.0), Cost(1, 60.0)] if run.quick else [Cost(5, 30.0), Cost(3, 240.0)]
            sizes = [
                timed(
                    run, "overhead", {"run": "nothing but its start, 8 steps and 8 episodes"}, alone, costs
                ),
                timed(run, "two_runs", {"runs": 2, "epochs": 1 if run.quick else 2}, two, costs[1:]),
            ]
        finally:
            ray.shutdown()
    overhead = sizes[0].seconds
    task, plain = (overhead[side].median for side in ("as a Ray task", "its commands alone"))
    facts = {"overhead_seconds_a_run": task - plain, "ray_start_seconds": started, "cores": os.cpu_count()}
    return Result(sizes, run.machine().ceilings(), torch.get_num_threads(), facts=facts)


def swept_in_turn(ray: object, plan: Plan) -> float:
    """Seconds of the runs as Ray tasks, each begun when the one before has ended."""
    return sum(swept(ray, replace(plan, runs=[run])) for run in plan.runs)


def timed(
    run: Run, table: str, what: dict[str, Label], sides: Mapping[str, Round], costs: list[Cost]
) -> Size:
    return replace(run.timed(what, run.in_turn(sides, costs), Work(), costs[0]), table=table)
