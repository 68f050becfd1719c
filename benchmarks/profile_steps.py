"""`python -m benchmarks.profile_steps FILE`: where the time of a rollout goes, operation by operation."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases.token_cache import ACTIONS, filled_store
from iris_fast.agent import Agent
from iris_fast.config import preset_config
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.replay.cache import FrameCache
from iris_fast.training.builder import prepare
from iris_fast.training.part_losses import imagination_start


def main(path: Path) -> None:
    """Profiles one rollout of the preset that fits the device and writes the table of operations."""
    config, device = prepare(preset_config("paper" if torch.cuda.is_available() else "tiny", "Pong"))
    agent = Agent(config.agent, ACTIONS).to(device).eval()
    store = filled_store(400, config.env.train.size, seed=0)
    store.model_device = device
    part = config.training.actor_critic
    cache = FrameCache(agent.tokenizer, store, max_bytes=10**9)
    start = imagination_start(cache, part.batch_num_samples, part.burn_in, 0)
    engine = OracleEngine(agent)
    engine.imagine(start, 2, 0)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with profile(activities=activities) as profiler:
        engine.imagine(start, part.imagine_horizon or 1, 1)
    key = "cuda_time_total" if device.type == "cuda" else "cpu_time_total"
    path.write_text(profiler.key_averages().table(sort_by=key, row_limit=40))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
