"""Imagined tokens a second in the world model: the C++ engine beside the oracle's PyTorch loop, on the CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.registry import case
from benchmarks.timing import copy_bandwidth, matrix_rate
from iris_fast.agent import Agent
from iris_fast.config import preset_config, resolve
from iris_fast.imagination.cpu_engine import CpuDream, CpuEngine, CpuOptions
from iris_fast.imagination.dream import Dream
from iris_fast.imagination.randomness import PhiloxDraws
from iris_fast.models.world_model import WorldModel

ACTIONS = 6
# What is kept in half precision, with the tolerance of logits against the oracle's, as a share of the largest.
SIDES = {
    "cpu_float32": (CpuOptions(), 1e-4),
    "cpu_float16": (CpuOptions(kv_dtype="float16"), 1e-2),
    "cpu_float16_weights": (CpuOptions(kv_dtype="float16", weights_dtype="float16"), 1e-2),
}
CPU = torch.device("cpu")


def disagreement(world_model: WorldModel, dream: CpuDream, first: Tensor, actions: Tensor) -> float:
    """The largest difference from the oracle of the logits after the first action, as a share of the largest."""
    logits = dream.step_with_logits(actions, generate_frame=False)[1]
    cache = world_model.new_cache(len(first))
    with torch.no_grad():
        world_model.step(world_model.embedder.tokens(first), cache)
        features = world_model.step(world_model.embedder.actions(actions).unsqueeze(1), cache).squeeze(1)
        pairs = [
            (logits.rewards, world_model.head_rewards(features)),
            (logits.ends, world_model.head_ends(features)),
        ]
    return max(float((ours - theirs).abs().amax() / theirs.abs().amax()) for ours, theirs in pairs)


def seconds_of(start: Callable[[], Dream | CpuDream], actions: Tensor) -> list[float]:
    """Seconds of each step from the start until the context is full; the first includes feeding the first frame."""
    seconds = []
    began = time.perf_counter()
    dream = start()
    for step in range(actions.shape[1]):
        dream.step(actions[:, step])
        now = time.perf_counter()
        seconds.append(now - began)
        began = now
    return seconds


def work(world_model: WorldModel, batch: int, steps: int, kv_bytes: int) -> dict[str, float]:
    """FLOPs of the products and bytes of keys and values read in `steps` steps of a batch."""
    config = world_model.config
    linears = [m for m in world_model.transformer.modules() if isinstance(m, nn.Linear)]
    head = [m for m in world_model.head_observations.modules() if isinstance(m, nn.Linear)]
    block = config.tokens_per_block
    layers, heads = (sum(m.weight.numel() for m in found) for found in (linears, head))
    # Passes of 16 first tokens and of whole blocks; the first token of a frame has a head, its last none.
    tokens = world_model.frame_tokens + steps * block
    positions = range(world_model.frame_tokens, tokens)
    kept = 2 * config.num_layers * config.embed_dim * kv_bytes
    return {
        "flops": 2.0 * batch * (layers * tokens + heads * world_model.frame_tokens * steps),
        "kv_bytes": float(batch * kept * sum(position + 1 for position in positions)),
    }


def measure_batch(
    agent: Agent, batch: int, steps: int, rounds: int, ceilings: dict[str, float]
) -> dict[str, Any]:
    """Passes a second of every side at one batch size, sides interleaved round by round."""
    world_model = agent.world_model
    generator = torch.Generator().manual_seed(batch)
    vocabulary = agent.config.tokenizer.vocab_size
    first = torch.randint(vocabulary, (batch, world_model.frame_tokens), generator=generator)
    actions = torch.randint(ACTIONS, (batch, steps), generator=generator)
    draws = PhiloxDraws(0)
    sides: dict[str, Callable[[], Dream | CpuDream]] = {"oracle": lambda: Dream(world_model, first, draws)}
    found: dict[str, Any] = {"batch": batch, "steps": steps, "rounds": rounds}
    for name, (options, tolerance) in SIDES.items():
        dream = CpuEngine(agent, options).dream(first, draws)
        error = disagreement(world_model, dream, first, actions[:, 0])
        found[name] = {"logits_differ_by": error}
        if error <= tolerance:
            sides[name] = lambda dream=dream: dream.restart(first, draws) or dream  # type: ignore[misc]
        else:
            found[name]["not_timed"] = "its logits are not the oracle's"
    for start in sides.values():
        seconds_of(start, actions[:, :1])  # warms up
    seconds: dict[str, list[list[float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, start in sides.items():
            seconds[name].append(seconds_of(start, actions))
    for name, runs in seconds.items():
        found.setdefault(name, {}).update(
            summary(runs, world_model, batch, 2 if "float16" in name else 4, ceilings)
        )
        found[name]["times_the_oracle"] = found["oracle"]["seconds"] / found[name]["seconds"]
    return found


def summary(
    runs: list[list[float]], world_model: WorldModel, batch: int, kv_bytes: int, ceilings: dict[str, float]
) -> dict[str, Any]:
    """Medians over rounds, and how much of the time the floors of products and of memory are."""
    steps = len(runs[0])
    total = statistics.median(sum(run) for run in runs)
    floor = work(world_model, batch, steps, kv_bytes)
    return {
        "seconds": total,
        "passes_a_second": steps * world_model.config.tokens_per_block / total,
        "tokens_a_second": batch * steps * world_model.config.tokens_per_block / total,
        "step_seconds": [statistics.median(step) for step in zip(*runs, strict=True)],
        **floor,
        "share_of_matrix_rate": floor["flops"] / ceilings["flops_a_second"] / total,
        "share_of_copy_bandwidth": floor["kv_bytes"] / ceilings["bytes_a_second"] / total,
    }


@case("token_generation", minutes=6)
def token_generation(quick: bool) -> dict[str, Any]:
    """Token passes a second of the C++ engine and of the oracle's loop: paper world model, batch 64, 16 and 1."""
    agent = Agent(resolve(preset_config("tiny" if quick else "paper", "Pong")).agent, ACTIONS).eval()
    ceilings = {
        "flops_a_second": matrix_rate(CPU, torch.float32, 512 if quick else None),
        "bytes_a_second": copy_bandwidth(CPU, 32 if quick else 512),
    }
    steps = 2 if quick else agent.world_model.config.max_blocks - 1
    batches = (4, 1) if quick else (64, 16, 1)
    # The oracle takes about 50 ms a pass at batch 64, so 16 s a round; small batches take more rounds.
    rounds = {64: 3, 16: 5, 1: 9}
    return {
        "preset": "tiny" if quick else "paper",
        "threads": torch.get_num_threads(),
        "ceilings": ceilings,
        "batches": [
            measure_batch(agent, batch, steps, 1 if quick else rounds[batch], ceilings) for batch in batches
        ],
    }
