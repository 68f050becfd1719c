"""Seconds of each gradient step and of a rollout, the units of an epoch."""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases.token_cache import ACTIONS, filled_store
from benchmarks.harness import Machine, dtype_name, measured_machine
from benchmarks.profiling import operations_of
from benchmarks.record import Ceilings, Result
from benchmarks.registry import Run, case
from iris_fast.acting import ActingConfig, Actor, Policy
from iris_fast.agent import Agent
from iris_fast.config import apply_overrides, preset_config
from iris_fast.config.schema import memory_bytes
from iris_fast.graphs import Graphs, graphs_of
from iris_fast.models.perceptual import LPIPS
from iris_fast.replay.cache import FRAMES_TOGETHER, FrameCache
from iris_fast.training.device import AUTOCAST_DTYPES, engine_of, prepare
from iris_fast.training.graphed_step import make_part_trainer
from iris_fast.training.parts import ActorCriticPart, Part, make_parts

FRAMES = 100_000  # of Atari 100k
ACTING = (1, 8)  # environments of the paper's collection and tests


def timed(function: Callable[[int], object], repeats: int, device: torch.device) -> dict[str, Any]:
    """Median and extremes of the seconds of `function`, called once before to warm up."""
    seconds = []
    for repeat in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        function(repeat)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    warm = seconds[1:] or seconds
    return {"median": statistics.median(warm), "min": min(warm), "max": max(warm), "first": seconds[0]}


def measure(
    preset: str,
    repeats: int,
    *overrides: str,
    operations: bool = False,
    found: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Seconds of the three steps and of one rollout with a preset on this machine's device, in `found` as they come.

    `operations`: also the operations that take each step's time, and the share of the matrix rate that a gradient
    step's products and convolutions reach (on a GPU without those of cuDNN's LSTM, which are not counted).
    """
    config, device = prepare(apply_overrides(preset_config(preset, "Pong"), list(overrides)))
    on_gpu = device.type == "cuda"
    machine = measured_machine(preset != "paper", device) if operations else None
    if on_gpu:
        gc.collect()  # leftovers of another measurement
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    agent = Agent(config.agent, ACTIONS).to(device)
    agent.tokenizer.attach_lpips(LPIPS().to(device))  # any weights will do for timing
    # If memory is measured, the replay has room for all frames of a whole run.
    store = filled_store(2000, config.env.train.size, 0, device, FRAMES if on_gpu else None)
    limit = memory_bytes(config.datasets.train.cache_max_ram_usage, "datasets.train.cache_max_ram_usage")
    cache = FrameCache(agent.coder, store, max_bytes=limit)
    engine = engine_of(agent, config.common)
    graphs = graphs_of(device) if config.training.cuda_graphs else None
    found = {} if found is None else found
    found |= {
        "preset": preset,
        "overrides": list(overrides),
        "precision": config.common.precision,
        "engine": engine.name,
        "captured": graphs is not None,
        "acting": {str(count): acting(agent, graphs, count, repeats) for count in ACTING},
    }
    parts = make_parts(agent, config, cache, engine)
    trainers = {name: make_part_trainer(part, graphs) for name, part in parts.items()}
    for name, part in parts.items():
        agent.eval()
        part.module.train()
        flops = None if machine is None else flops_of(part)
        found[name] = measured(partial(trainers[name].step, 0, 1), repeats, machine, device)
        if machine is not None and flops is not None:
            rate = machine.rates[dtype_name(AUTOCAST_DTYPES.get(config.common.precision, torch.float32))]
            found[name] |= {"flops": flops, "share_of_matrix_rate": flops / found[name]["median"] / rate}
        if name == "tokenizer":  # from here on the cache holds every frame, as after a few steps of an epoch
            found["coding_a_frame"] = coding(cache, device)
    agent.eval()
    start = ActorCriticPart(agent, config, cache, engine).start(0)
    rollout = partial(engine.imagine, start, config.training.actor_critic.imagine_horizon or 1)
    found["rollout"] = measured(rollout, repeats, machine, device)
    if on_gpu:
        found["peak_bytes"] = torch.cuda.max_memory_allocated(device)
        found["peak_reserved_bytes"] = torch.cuda.max_memory_reserved(device)  # with the graphs' pools
    return found


def measured(
    function: Callable[[int], object], repeats: int, machine: Machine | None, device: torch.device
) -> dict[str, Any]:
    """The times, and with a `machine` also the operations that take them."""
    found = timed(function, repeats, device)
    return found if machine is None else found | {"operations": operations_of(lambda: function(1), device)}


def acting(agent: Agent, graphs: Graphs | None, count: int, repeats: int) -> dict[str, Any]:
    """Seconds of a step of collection or tests without the environments: from frames on the host to actions on the
    host."""
    actor = Actor(Policy(agent.eval(), graphs), ActingConfig(0.01, True, 1.0, 0), seed=0)
    size = agent.config.tokenizer.autoencoder.resolution
    frames = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    state = agent.actor_critic.initial_state(count)
    return timed(lambda number: actor(frames, state, number), repeats, agent.device)


def flops_of(part: Part[Any]) -> int | None:
    """Operations of the products and convolutions of a gradient step; None where PyTorch cannot count them."""
    batch = part.inputs(0)
    try:
        with FlopCounterMode(display=False) as counter:
            for losses in part.losses(batch):
                torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        return int(counter.get_total_flops())
    except Exception:  # a failing count must not lose the times
        traceback.print_exc()
        return None
    finally:
        part.module.zero_grad(set_to_none=True)


def coding(cache: FrameCache, device: torch.device) -> float:
    """Seconds in which the epoch's cache encodes and decodes a frame of its store."""
    slots = np.arange(1, cache.store.num_frames + 1)
    cache.reconstructions(slots[:FRAMES_TOGETHER])
    cache.invalidate()
    return timed(lambda _: cache.reconstructions(slots), 0, device)["first"] / len(slots)


GPU_SIDES = {
    "bf16": ("common.precision=bf16",),
    "float32": ("common.precision=float32",),
    "bf16_eager": ("common.precision=bf16", "common.engine=oracle", "training.cuda_graphs=false"),
}
"""The sides on a GPU: captured in two precisions, and with nothing captured."""


@case("training_steps", minutes=3)
def training_steps(run: Run) -> Result:
    """Seconds of the tokenizer, world-model and actor-critic step and of a rollout (small on CPU, paper on GPU)."""
    if not torch.cuda.is_available():
        alone = measure(*("tiny", 1) if run.quick else ("small", 10))
        return Result(ceilings=Ceilings("cpu"), facts=alone)
    preset, repeats = ("tiny", 2) if run.quick else ("paper", 10)
    found: dict[str, dict[str, Any]] = {}
    for name, overrides in GPU_SIDES.items():
        if not run.takes_precision(name):
            continue
        found[name] = {}
        try:
            measure(preset, repeats, *overrides, operations=name == "bf16", found=found[name])
        except Exception as error:  # a failing side must not end the others
            found[name]["error"] = f"{type(error).__name__}: {error}"
        except KeyboardInterrupt:  # nor one without time left
            found[name]["error"] = "interrupted"
            break
    return Result(ceilings=run.machine().ceilings(), facts=found)
