"""How cost grows: with batch, horizon, environments, threads and the frames in the replay."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.agreement import weights_of
from benchmarks.cases.environments import Player
from benchmarks.cases.token_cache import filled_store
from benchmarks.record import Result, Size, Spread
from benchmarks.registry import Run, case
from benchmarks.systems.client import Systems
from benchmarks.systems.weights import ACTIONS, noise_frames
from benchmarks.timing import Timing
from iris_fast.randomness import numpy_generator

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
HORIZONS = (5, 10, 19, 20, 40, 60, 80, 100)
ENVIRONMENTS = (1, 2, 4, 8, 16)
REPLAYS = (1_000, 3_000, 10_000, 30_000, 100_000)
LONG_BATCH = 16  # of the rollouts by horizon


def slope(sizes: list[float], seconds: list[float]) -> float:
    """The exponent of time as a power of the size, by least squares of logarithms: 1 is linear."""
    x, y = np.log(sizes), np.log(seconds)
    return float(np.polyfit(x, y, 1)[0])


def by_batch(run: Run) -> list[Size]:
    """Our token passes and decoding by batch; three rounds each, while there is time."""
    worker, config = run.systems.worker("ours"), weights_of(run).agent.config
    if not worker.call("has_parts"):
        return []  # a whole rollout is one graph there, without parts
    found: list[Size] = []
    for batch in (1, 2) if run.quick else BATCHES:
        needed = 8 * sum(spread.median for spread in found[-1].seconds.values()) if found else 0.0
        if needed > run.plan.left() and not run.full:
            break
        generator = torch.Generator().manual_seed(batch)
        first = torch.randint(config.tokenizer.vocab_size, (batch, 16), generator=generator)
        actions = torch.randint(ACTIONS, (batch, 3), generator=generator)
        steps = [sum(worker.call("generate", first, actions)) for _ in range(4)][1:]
        frames = [
            worker.call("decode", (first + number) % config.tokenizer.vocab_size)[0] for number in range(3)
        ]
        found.append(grown({"batch": batch, "steps": 3}, {"tokens": steps, "decoding": frames}))
    return found


def by_horizon(run: Run) -> list[Size]:
    """Seconds of each of 100 steps, summed up to the horizon; past 19 steps the context is rebuilt."""
    if not run.systems.worker("ours").call("has_parts"):
        return []
    worker, config = run.systems.worker("ours"), weights_of(run).agent.config
    batch, longest = (2, 3) if run.quick else (LONG_BATCH, HORIZONS[-1])
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(config.tokenizer.vocab_size, (batch, 16), generator=generator)
    actions = torch.randint(ACTIONS, (batch, longest), generator=generator)
    worker.call("generate", first, actions[:, :1])
    rounds = [worker.call("generate", first, actions) for _ in range(1 if run.quick else 3)]
    horizons = (1, 3) if run.quick else HORIZONS
    return [
        grown({"horizon": horizon, "batch": batch}, {"tokens": [sum(steps[:horizon]) for steps in rounds]})
        for horizon in horizons
    ]


def by_threads(run: Run) -> list[Size]:
    """Rollouts of one episode and of many, with one thread and with two, each in a new process."""
    sizes = {2: 2} if run.quick else {1: 12, 64: 3}  # horizon by batch
    found = []
    for threads in (1,) if run.quick else (1, 2):
        systems = Systems(run.device, threads, None, ())
        try:
            worker = systems.worker("ours")
            worker.call("load", weights_of(run).file)
            seconds: dict[str, list[float]] = {}
            for batch, horizon in sizes.items():
                frames = noise_frames(batch, seed=batch)
                rounds = [worker.call("rollout", frames, horizon, number)[0] for number in range(4)][1:]
                seconds[f"rollout {batch} × {horizon}"] = rounds
        finally:
            systems.close()
        found.append(grown({"threads": threads}, seconds))
    return found


def by_environments(run: Run) -> list[Size]:
    """A vector step of Pong by number of environments."""
    found = []
    for count in (1, 2) if run.quick else ENVIRONMENTS:
        timings = {}
        for backend in ("envpool", "ale"):
            player = Player(backend, count)
            player.env.reset()
            player.play(20)
            steps = 10 if run.quick else 100
            timings[backend] = [player.seconds(steps) / steps for _ in range(3)]
            player.env.close()
        found.append(grown({"environments": count}, timings))
    return found


def by_replay(run: Run) -> list[Size]:
    """A batch of 64 segments drawn and gathered, by frames in the replay."""
    found = []
    for frames in (400,) if run.quick else REPLAYS:
        store = filled_store(frames, 64, seed=0)

        def draw(number: int, store: Any = store) -> float:
            began = time.perf_counter()
            segments = store.sample(numpy_generator(number, "segments"), 64, 20, from_start=True)
            store.batch(segments)
            store.gather_frames(segments.slots.reshape(-1))
            return time.perf_counter() - began

        seconds = [draw(number) for number in range(6)][1:]
        found.append(grown({"frames": frames}, {"batch of 64 × 20": seconds}))
    return found


def grown(what: dict[str, int], seconds: Mapping[str, Sequence[float]]) -> Size:
    """One point of a curve: the rounds of each thing timed."""
    spreads: dict[str, Spread] = {name: Timing(tuple(rounds)).spread() for name, rounds in seconds.items()}
    return Size({**what}, seconds=spreads)


def slopes(found: Mapping[str, Sequence[Size]]) -> dict[str, dict[str, float]]:
    """For each varied and each timed quantity: the exponent of growth over the whole range."""
    powers: dict[str, dict[str, float]] = {}
    for name, sizes in found.items():
        if len(sizes) < 2:
            continue
        key = next(iter(sizes[0].what))
        x = [float(size.what[key]) for size in sizes]  # type: ignore[arg-type]
        powers[name] = {
            side: slope(x, [size.seconds[side].median for size in sizes]) for side in sizes[0].seconds
        }
        assert all(math.isfinite(power) for power in powers[name].values())
    return powers


@case("scaling", minutes=8)
def scaling(run: Run) -> Result:
    """How cost grows with batch, horizon, environments, threads and frames in the replay (ours)."""
    run.systems.worker("ours").call("load", weights_of(run).file)
    found = {
        "by_batch": by_batch(run),
        "by_horizon": by_horizon(run),
        "by_threads": by_threads(run),
        "by_environments": by_environments(run),
        "by_replay": by_replay(run),
    }
    return Result(
        [replace(size, table=name) for name, sizes in found.items() for size in sizes],
        run.machine().ceilings(),
        run.systems.threads,
        facts={"powers": slopes(found)},
    )
