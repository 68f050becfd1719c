"""What half precision of keys and values, and half precision or int8 of weights, save in the C++ engine."""

from __future__ import annotations

import itertools
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.comparison import in_turn
from benchmarks.registry import case
from benchmarks.systems.weights import ACTIONS
from benchmarks.timing import Timing, ratio_interval
from iris_fast.agent import Agent
from iris_fast.config import preset_config, resolve
from iris_fast.imagination.cpu_engine import (
    CpuDream,
    CpuEngine,
    CpuOptions,
    HalfOrFloat,
    WeightsDtype,
    pack_world_model,
)
from iris_fast.imagination.engine import ImaginationStart
from iris_fast.imagination.randomness import PhiloxDraws
from iris_fast.models.cpu_weights import require_extension
from iris_fast.models.world_model import WorldModel

BATCHES = ((1, 9), (16, 5), (64, 3))  # sequences, rounds
KV_DTYPES: tuple[HalfOrFloat, ...] = ("float32", "float16")
WEIGHTS_DTYPES: tuple[WeightsDtype, ...] = ("float32", "float16", "int8")


def dreams_of(model: WorldModel, first: Tensor, threads: int) -> dict[str, CpuDream]:
    """A dream for each choice of dtypes, by `keys and values / weights`."""
    pool = require_extension().ThreadPool(threads)
    packed = {dtype: pack_world_model(model, weights_dtype=dtype) for dtype in WEIGHTS_DTYPES}
    return {
        f"{kv} / {weights}": CpuDream(model, packed[weights], pool, first, PhiloxDraws(0), kv_dtype=kv)
        for kv, weights in itertools.product(KV_DTYPES, WEIGHTS_DTYPES)
    }


def seconds_of(dream: CpuDream, first: Tensor, actions: Tensor, seed: int) -> float:
    """Seconds of stepping from an empty cache until the context is full."""
    dream.restart(first, PhiloxDraws(seed))
    began = time.perf_counter()
    for step in range(actions.shape[1]):
        dream.step(actions[:, step])
    return time.perf_counter() - began


ENGINES = {
    "float32": CpuOptions(),
    "float16 keys and values": CpuOptions(kv_dtype="float16"),
    "int8, float16 keys and values": CpuOptions(
        weights_dtype="int8", decoder_dtype="int8", kv_dtype="float16"
    ),
}
ROLLOUTS = ((1, 9), (64, 3))  # sequences, rounds


def rollouts_of(agent: Agent, batch: int, horizon: int, rounds: int) -> dict[str, Any]:
    """Seconds of whole rollouts, frames decoded and the policy acting, from tokens and no burn-in."""
    config = agent.config.tokenizer
    generator = torch.Generator().manual_seed(batch)
    start = ImaginationStart(
        torch.zeros(batch, 0, 3, config.autoencoder.resolution, config.autoencoder.resolution),
        torch.ones(batch, 0, dtype=torch.bool),
        torch.randint(config.vocab_size, (batch, config.tokens_per_frame), generator=generator),
    )
    engines = {name: CpuEngine(agent, options) for name, options in ENGINES.items()}
    calls = {
        name: lambda seed, engine=engine: _seconds(engine, start, horizon, seed)
        for name, engine in engines.items()
    }
    for call in calls.values():
        call(rounds)  # warms up
    times = {name: Timing(tuple(turn[0] for turn in turns)) for name, turns in in_turn(calls, rounds).items()}
    if any(engine.memo.hits for engine in engines.values()):
        return {"batch": batch, "horizon": horizon, "error": "a frame was remembered: not timed"}
    plain, *others = times
    return {
        "batch": batch,
        "horizon": horizon,
        "seconds": {name: timing.summary() for name, timing in times.items()},
        "times_float32": {name: ratio_interval(times[plain].seconds, times[name].seconds) for name in others},
    }


def _seconds(engine: CpuEngine, start: ImaginationStart, horizon: int, seed: int) -> float:
    engine.memo.forget()
    began = time.perf_counter()
    engine.imagine(start, horizon, seed)
    return time.perf_counter() - began


@case("cpu_low_precision", minutes=5)
def cpu_low_precision(quick: bool) -> dict[str, Any]:
    """Token passes and rollouts of the C++ engine in half precision and int8, beside float32."""
    config = resolve(preset_config("tiny" if quick else "paper", "Pong"))
    torch.manual_seed(0)
    model = WorldModel(config.agent.world_model, config.agent.tokenizer.vocab_size, ACTIONS).eval()
    threads = torch.get_num_threads()
    found: list[dict[str, Any]] = []
    for batch, rounds in ((2, 2),) if quick else BATCHES:
        generator = torch.Generator().manual_seed(batch)
        first = torch.randint(config.agent.tokenizer.vocab_size, (batch, 16), generator=generator)
        actions = torch.randint(ACTIONS, (batch, model.config.max_blocks - 1), generator=generator)
        calls = {
            name: lambda number, dream=dream: seconds_of(dream, first, actions, number)  # noqa: B023
            for name, dream in dreams_of(model, first, threads).items()
        }
        for call in calls.values():
            call(rounds)  # warms up
        times = {
            name: Timing(tuple(turn[0] for turn in turns)) for name, turns in in_turn(calls, rounds).items()
        }
        plain, *others = times
        found.append(
            {
                "batch": batch,
                "steps": actions.shape[1],
                "seconds": {name: timing.summary() for name, timing in times.items()},
                "times_float32": {
                    name: ratio_interval(times[plain].seconds, times[name].seconds) for name in others
                },
            }
        )
    agent = Agent(config.agent, ACTIONS).eval()
    rollouts = [
        rollouts_of(agent, batch, 2 if quick else 20, rounds)
        for batch, rounds in (((2, 2),) if quick else ROLLOUTS)
    ]
    return {"threads": threads, "sizes": found, "rollouts": rollouts}
