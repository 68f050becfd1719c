"""Time saved in the C++ engine by half-precision keys and values, and by half-precision or int8 weights."""

from __future__ import annotations

import itertools
import time
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Work, timed_size
from benchmarks.record import Ceilings, Label, Result, Size
from benchmarks.registry import Run, case
from benchmarks.systems.weights import ACTIONS
from benchmarks.timing import Round, in_turn
from iris_fast.agent import Agent
from iris_fast.config import Config, preset_config, resolve
from iris_fast.imagination.cpu_engine import (
    CpuDream,
    CpuEngine,
    CpuOptions,
    HalfOrFloat,
    WeightsDtype,
    pack_world_model,
)
from iris_fast.imagination.engine import ImaginationStart
from iris_fast.models.cpu_weights import require_extension
from iris_fast.models.world_model import WorldModel
from iris_fast.randomness import PhiloxDraws

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


def rollouts_of(agent: Agent, batch: int, horizon: int, rounds: int) -> Size:
    """Seconds of whole rollouts, frames decoded and the policy acting, from tokens and no burn-in."""
    config = agent.config.tokenizer
    generator = torch.Generator().manual_seed(batch)
    start = ImaginationStart(
        torch.zeros(batch, 0, 3, config.autoencoder.resolution, config.autoencoder.resolution),
        torch.ones(batch, 0, dtype=torch.bool),
        torch.randint(config.vocab_size, (batch, config.tokens_per_frame), generator=generator),
    )
    engines = {name: CpuEngine(agent, options) for name, options in ENGINES.items()}
    what: dict[str, Label] = {"batch": batch, "horizon": horizon}
    calls: dict[str, Round] = {
        name: partial(rollout_seconds, engine, start, horizon) for name, engine in engines.items()
    }
    size = timed(what, calls, rounds, "rollouts")
    if any(engine.frames_remembered for engine in engines.values()):
        return Size(what, "rollouts", missing="a frame was remembered: not timed")
    return size


def timed(what: dict[str, Label], calls: dict[str, Round], rounds: int, table: str) -> Size:
    """A size whose first side is float32."""
    for call in calls.values():
        call(rounds)  # warms up
    return timed_size(what, in_turn(calls, lambda _: rounds), Work(), table=table)


def rollout_seconds(engine: CpuEngine, start: ImaginationStart, horizon: int, seed: int) -> float:
    engine.codec.forget_frames()
    began = time.perf_counter()
    engine.imagine(start, horizon, seed)
    return time.perf_counter() - began


def token_passes(config: Config, model: WorldModel, batch: int, rounds: int) -> Size:
    """Seconds of filling the context, for each choice of dtypes."""
    generator = torch.Generator().manual_seed(batch)
    first = torch.randint(config.agent.tokenizer.vocab_size, (batch, 16), generator=generator)
    actions = torch.randint(ACTIONS, (batch, model.config.max_blocks - 1), generator=generator)
    calls: dict[str, Round] = {
        name: partial(seconds_of, dream, first, actions)
        for name, dream in dreams_of(model, first, torch.get_num_threads()).items()
    }
    return timed({"batch": batch, "steps": actions.shape[1]}, calls, rounds, "sizes")


@case("cpu_low_precision", minutes=5)
def cpu_low_precision(run: Run) -> Result:
    """Token passes and rollouts of the C++ engine in half precision and int8, beside float32."""
    config = resolve(preset_config("tiny" if run.quick else "paper", "Pong"))
    torch.manual_seed(0)
    model = WorldModel(config.agent.world_model, config.agent.tokenizer.vocab_size, ACTIONS).eval()
    agent = Agent(config.agent, ACTIONS).eval()
    batches, rollouts, horizon = (((2, 2),), ((2, 2),), 2) if run.quick else (BATCHES, ROLLOUTS, 20)
    sizes = [token_passes(config, model, *size) for size in batches]
    sizes += [rollouts_of(agent, batch, horizon, rounds) for batch, rounds in rollouts]
    return Result(sizes, Ceilings("cpu"), torch.get_num_threads())
