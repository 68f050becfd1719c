"""The time saved by the per-epoch cache of tokens and reconstructions."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch

from benchmarks.record import Result
from benchmarks.registry import Run, case
from iris_fast.agent import Agent
from iris_fast.config import preset_config, resolve
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore
from iris_fast.training.parts import ActorCriticPart, WorldModelPart

ACTIONS = 6


def filled_store(
    frames: int, size: int, seed: int, device: str | torch.device = "cpu", capacity: int | None = None
) -> EpisodeStore:
    """Episodes of 200 frames of noise, on the device as a run's replay is, with room for `capacity` of them."""
    rng = np.random.default_rng(seed)
    store = EpisodeStore(capacity or frames, size, torch.device(device))
    for key in range(frames // 200):
        pictures = rng.integers(0, 256, (200, 3, size, size), dtype=np.uint8)
        actions = rng.integers(0, ACTIONS, 200)
        store.extend(key, pictures, actions, np.zeros(200, np.float32), np.zeros(200, bool), closed=True)
    return store


def measure(preset: str, frames: int, steps: int) -> dict[str, Any]:
    """Seconds of a phase's data with the cache and without, and tokenizer passes over frames."""
    config = resolve(preset_config(preset, "Pong"))
    agent = Agent(config.agent, ACTIONS).eval()
    store = filled_store(frames, 64, seed=0)
    found: dict[str, Any] = {"preset": preset, "replay_frames": frames, "steps": steps}
    caches = {"with": FrameCache(agent.coder, store, max_bytes=4 * 10**9)}
    caches["without"] = FrameCache(agent.coder, store, enabled=False)
    times: dict[str, list[float]] = {
        f"{part}_{side}": [] for part in ("world_model", "starts") for side in caches
    }
    for step in range(steps):  # sides interleaved, step by step
        for side, cache in caches.items():
            began = time.perf_counter()
            WorldModelPart(agent, config, cache).inputs(step)
            middle = time.perf_counter()
            ActorCriticPart(agent, config, cache, OracleEngine(agent)).start(step)
            times[f"world_model_{side}"].append(middle - began)
            times[f"starts_{side}"].append(time.perf_counter() - middle)
    found["seconds"] = {name: {"sum": sum(v), "median": statistics.median(v)} for name, v in times.items()}
    for side, cache in caches.items():
        found[side] = {"frames_encoded": cache.frames_encoded, "frames_decoded": cache.frames_decoded}
    for part in ("world_model", "starts"):
        found[f"{part}_speedup"] = sum(times[f"{part}_without"]) / sum(times[f"{part}_with"])
    return found


@case("token_cache", minutes=2)
def token_cache(run: Run) -> Result:
    """Seconds of world-model data and rollout starts with the per-epoch cache and without it."""
    return Result(facts=measure("small", 400 if run.quick else 2000, 2 if run.quick else 12))
