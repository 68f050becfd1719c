"""`python -m benchmarks.profile_steps FOLDER`: where the time of a rollout and of each gradient step goes.

Writes a table of operations for each, of the steps as a run has them (captured on a GPU), after one to warm up.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases.token_cache import ACTIONS, filled_store
from benchmarks.cases.training_steps import trainers
from iris_fast.agent import Agent
from iris_fast.config import apply_overrides, preset_config
from iris_fast.graphs import CudaGraphs
from iris_fast.imagination.factory import engine_of
from iris_fast.replay.cache import FrameCache
from iris_fast.training.builder import prepare
from iris_fast.training.part_losses import imagination_start


def write_profile(function: Callable[[int], object], path: Path, device: torch.device) -> None:
    function(0)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        function(1)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    key = "device_time_total" if device.type == "cuda" else "cpu_time_total"
    path.write_text(profiler.key_averages().table(sort_by=key, row_limit=40))


def main(folder: Path) -> None:
    """Profiles the preset that fits the device."""
    folder.mkdir(parents=True, exist_ok=True)
    on_gpu = torch.cuda.is_available()
    overrides = ["common.precision=bf16"] if on_gpu else []
    config, device = prepare(apply_overrides(preset_config("paper" if on_gpu else "tiny", "Pong"), overrides))
    agent = Agent(config.agent, ACTIONS).to(device).eval()
    store = filled_store(400, config.env.train.size, 0, device)
    part = config.training.actor_critic
    cache = FrameCache(agent.tokenizer, store, max_bytes=10**9)
    engine = engine_of(agent, config.common)
    start = imagination_start(cache, part.batch_num_samples, part.burn_in, 0)
    horizon = part.imagine_horizon or 1
    write_profile(lambda seed: engine.imagine(start, horizon, seed), folder / "rollout.txt", device)
    graphs = CudaGraphs(device) if on_gpu else None
    for name, trainer in trainers(agent, config, store, cache, engine, graphs).items():
        agent.eval()
        agent.get_submodule(name).train()
        write_profile(lambda step, t=trainer: t.step(0, 1, step), folder / f"{name}.txt", device)  # type: ignore[misc]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
