"""One agent on two processes: their gradient steps beside those of one process, and what communication takes."""

from __future__ import annotations

import os
import socket
import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from benchmarks.harness import Work
from benchmarks.plan import Cost
from benchmarks.record import Label, Result, Size
from benchmarks.registry import Run, case
from benchmarks.systems.client import Worker
from iris_fast.agent import PARTS
from iris_fast.config import apply_overrides, preset_config, resolve

CORES = 2
TOGETHER, ALONE = "2 processes, a thread each", "1 process, 2 threads"
# The paper's batches take minutes on two cores. What is sent does not depend on the batch.
BATCHES: dict[str, dict[str, int]] = {
    "small": {},
    "paper": {"tokenizer": 8, "world_model": 4, "actor_critic": 4},
}
# Seconds of a round on two CPU cores.
COSTS = {
    "small": {"tokenizer": 0.8, "world_model": 2.0, "actor_critic": 3.0},
    "paper": {"tokenizer": 2.6, "world_model": 2.4, "actor_critic": 5.0},
}
ROUNDS = 9
TOLERANCE = 1e-4  # allowed relative difference of the losses
QUICK = (
    *("training.actor_critic.imagine_horizon=2", "training.actor_critic.burn_in=2"),
    *("common.sequence_length=2", "tokenizer.background=false"),
)


class Pair:
    """Two processes of one thread that train together."""

    def __init__(self, workers: Sequence[Worker]):
        self.workers = workers

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """The answers of both, which work at the same time."""
        for worker in self.workers:
            worker.ask(method, *arguments)
        return [worker.answer() for worker in self.workers]


@contextmanager
def started() -> Iterator[tuple[Pair, Worker]]:
    """The two sides."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with ExitStack() as ends:

        def start(threads: int, environment: dict[str, str]) -> Worker:
            return ends.enter_context(
                Worker("processes", torch.device("cpu"), threads, environment=environment)
            )

        pair = Pair([start(1, address | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)])
        alone = start(CORES, {"WORLD_SIZE": "1"})
        pair.call("join")
        yield pair, alone


def overrides_of(preset: str, quick: bool) -> list[str]:
    batches = dict.fromkeys(PARTS, 2) if quick else BATCHES[preset]
    found = [f"training.{part}.batch_num_samples={batch}" for part, batch in batches.items()]
    return [*found, "training.tokenizer.pieces=1", *(QUICK if quick else ())]


def communication(answers: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Of a step of several processes: seconds that sending took, and seconds that the first to come waited.

    Whoever comes last to a collective waits for nothing, so the shortest time within collectives is that of sending.
    """
    within = [answer["collectives"] for answer in answers]
    return min(within), max(within) - min(within)


def difference(pair: Pair, alone: Worker, part: str) -> str:
    """How the part's loss on the same weights and batch differs between the sides; empty if only by rounding."""
    *both, expected = (found[part] for found in (*pair.call("losses"), alone.call("losses")))
    if all(abs(loss - expected) <= TOLERANCE * abs(expected) for loss in both):
        return ""
    return f"its loss is {both[0]:.6g} and {both[1]:.6g} on two processes, {expected:.6g} on one: not timed"


def measure(run: Run, pair: Pair, alone: Worker, what: dict[str, Label], costs: list[Cost]) -> Size:
    """Seconds of a part's step on both sides, and of what it sends."""
    part = what["part"]
    for each in (pair, alone):
        each.call("prepare", part)
        each.call("step", part, 0)  # warms up
    sent: list[tuple[float, float]] = []

    def together(number: int) -> float:
        answers = pair.call("step", part, number + 1)
        sent.append(communication(answers))
        seconds: float = max(answer["seconds"] for answer in answers)
        return seconds

    def by_itself(number: int) -> float:
        seconds: float = alone.call("step", part, number + 1)["seconds"]
        return seconds

    times = run.in_turn({TOGETHER: together, ALONE: by_itself}, costs)
    sums = [max(both) for both in zip(*pair.call("sum_seconds", part, 5), strict=True)]
    sending, waiting = (statistics.median(column) for column in zip(*sent, strict=True))
    more = {"communication": sending, "waiting": waiting, "sum_alone": statistics.median(sums)}
    return run.timed(what, times, Work(), costs[0], more=more)


def measured_preset(run: Run, preset: str, facts: dict[str, dict[str, Any]]) -> list[Size]:
    """The sizes of a preset, whose bytes and memory go into `facts`."""
    overrides = overrides_of(preset, run.quick)
    config = resolve(apply_overrides(preset_config(preset, "Pong"), overrides))
    presets = list(COSTS)
    costs = [Cost(ROUNDS, COSTS[name][part]) for name in presets[presets.index(preset) :] for part in PARTS]
    sizes = []
    with started() as (pair, alone):
        pair.call("begin", preset, overrides)
        facts["gradient_bytes"][preset] = alone.call("begin", preset, overrides)
        wrong = {part: difference(pair, alone, part) for part in PARTS}
        for number, part in enumerate(PARTS):
            batch = getattr(config.training, part).batch_num_samples
            what: dict[str, Label] = {"preset": preset, "part": part, "batch": batch}
            if wrong[part]:
                sizes.append(Size(what, missing=wrong[part]))
            else:
                sizes.append(measure(run, pair, alone, what, costs[number:]))
        memory = {TOGETHER: pair.call("memory"), ALONE: [alone.call("memory")]}
    facts["peak_gigabytes"][preset] = {
        side: max(found["memory/host_peak_gigabytes"] for found in answers)
        for side, answers in memory.items()
    }
    return sizes


@case("processes", minutes=5, least=2)
def processes(run: Run) -> Result:
    """Gradient steps of one agent on two processes beside one process of two threads, and their communication."""
    if run.device.type != "cpu":
        return Result(left_out="it measures processes on a CPU: give --device cpu")
    if (os.cpu_count() or 1) < CORES:
        return Result(left_out=f"it needs {CORES} cores")
    facts: dict[str, dict[str, Any]] = {"gradient_bytes": {}, "peak_gigabytes": {}}
    sizes = [size for preset in COSTS for size in measured_preset(run, preset, facts)]
    return Result(sizes, run.machine().ceilings(), CORES, facts=facts)
