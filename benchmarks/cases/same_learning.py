"""Whether the fast path learns the same: losses of captured bfloat16 steps beside float32 runs of other seeds."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks.cases.token_cache import ACTIONS, filled_store
from benchmarks.cases.training_steps import trainers
from benchmarks.registry import case
from iris_fast.agent import PARTS, Agent
from iris_fast.config import apply_overrides, preset_config
from iris_fast.graphs import CudaGraphs, Graphs, Uncaptured
from iris_fast.imagination.factory import engine_of
from iris_fast.models.perceptual import LPIPS
from iris_fast.replay.cache import FrameCache
from iris_fast.training.builder import prepare


def losses_of_run(preset: str, steps: int, seed: int, *overrides: str) -> dict[str, list[float]]:
    """Each part's loss at every step, from the same initial weights and frames whatever the seed."""
    config, device = prepare(apply_overrides(preset_config(preset, "Pong"), list(overrides)))
    torch.manual_seed(0)
    agent = Agent(config.agent, ACTIONS)
    if config.tokenizer.perceptual == "lpips":
        agent.tokenizer.attach_lpips(LPIPS())
    agent = agent.to(device)
    store = filled_store(500, config.env.train.size, seed=0)
    store.model_device = device
    cache = FrameCache(agent.tokenizer, store, max_bytes=10**9)
    engine = engine_of(agent, config.common)
    graphs: Graphs | None = None
    if config.training.cuda_graphs:
        graphs = CudaGraphs(device) if device.type == "cuda" else Uncaptured(device)
    found = {}
    for name, trainer in trainers(agent, config, store, cache, engine, graphs).items():
        agent.eval()
        agent.get_submodule(name).train()
        losses = [trainer.step(seed, 1, step)["total_loss"].clone() for step in range(steps)]
        found[name] = torch.stack(losses).tolist()
        agent.eval()
        engine.weights_changed([name])
        if name == "tokenizer":
            cache.invalidate()
    return found


def compare(preset: str, steps: int, fast: tuple[str, ...]) -> dict[str, Any]:
    """Mean losses of the last half of the steps: the fast path's, and those of three float32 runs."""
    plain = [losses_of_run(preset, steps, seed, "training.cuda_graphs=false") for seed in (0, 1, 2)]
    quick = losses_of_run(preset, steps, 0, *fast)
    found: dict[str, Any] = {"preset": preset, "steps": steps, "fast": list(fast)}
    for name in PARTS:
        theirs = [statistics.mean(run[name][steps // 2 :]) for run in plain]
        ours = statistics.mean(quick[name][steps // 2 :])
        spread = max(theirs) - min(theirs)
        within = min(theirs) - spread <= ours <= max(theirs) + spread
        found[name] = {
            "float32": theirs,
            "fast": ours,
            "within_the_spread_of_seeds": within,
            "first_losses": {"float32": plain[0][name][:3], "fast": quick[name][:3]},
        }
    return found


@case("same_learning", minutes=4)
def same_learning(quick: bool) -> dict[str, Any]:
    """Losses of captured bf16 steps beside float32 runs with other seeds (on a CPU captured ones, uncaptured)."""
    if torch.cuda.is_available():
        return compare("tiny" if quick else "paper", 10 if quick else 60, ("common.precision=bf16",))
    return compare("tiny", 4 if quick else 40, ())
