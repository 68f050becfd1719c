"""Device memory of a run, calculated from the tensors that each training step saves for its gradient."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import Result
from benchmarks.registry import Run, case
from benchmarks.work import losses_of
from iris_fast.agent import Agent
from iris_fast.config import Config, preset_config, resolve
from iris_fast.config.schema import memory_bytes
from iris_fast.imagination.token_pass import InferenceWeights
from iris_fast.models.perceptual import LPIPS
from iris_fast.models.tokenizer import PIECE
from iris_fast.replay.store import EpisodeStore

ACTIONS = 18  # the largest action set
FRAMES = 100_000  # of Atari 100k
VGG_WIDTH = 64  # channels of the perceptual network at full resolution
SMALL = 2  # rows computed here; saved memory grows in proportion


class SavedBytes:
    """Counts the bytes of distinct tensors that autograd keeps between forward and backward."""

    def __init__(self, parameters: list[Tensor]):
        self.seen: dict[int, int] = {p.untyped_storage().data_ptr(): 0 for p in parameters}

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self.seen.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    def count(self, function: Callable[[], Any]) -> int:
        with torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor):
            kept = function()
        del kept
        return sum(self.seen.values())


def saved_per_row(agent: Agent, function: Callable[[int], Any], rows: int = SMALL) -> float:
    """Bytes saved for each further row of a batch: the difference of two batches, so constants drop out."""
    counts = [SavedBytes(list(agent.parameters())).count(lambda n=n: function(n)) for n in (rows, 2 * rows)]  # type: ignore[misc]
    return (counts[1] - counts[0]) / rows


def paper_memory(config: Config, low_precision: bool) -> dict[str, float]:
    """Bytes by use, of the agent at its largest action set; activations in bfloat16 with `low_precision`."""
    # A GPU's fused attention keeps no matrix of weights; the CPU's does so only without dropout on them.
    config = replace(config, world_model=replace(config.world_model, attn_pdrop=0.0))
    agent = Agent(config.agent, ACTIONS)
    agent.tokenizer.attach_lpips(LPIPS())
    training, size = config.training, config.env.train.size
    trained = sum(p.numel() for p in agent.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in agent.parameters() if not p.requires_grad)

    def saved(part: str, frames: int) -> float:
        """Bytes for each row of so many frames."""

        def losses(rows: int) -> Any:
            with torch.autocast("cpu", torch.bfloat16) if low_precision else nullcontext():
                return losses_of(agent, part, rows, frames)

        return saved_per_row(agent, losses)

    agent.train()
    element = 2 if low_precision else 4
    widest = config.tokenizer.autoencoder.ch
    world = config.world_model
    cache = world.num_layers * 2 * world.embed_dim * world.max_tokens * element
    batch = training.actor_critic.batch_num_samples
    frame, burn_in = 3 * size * size, training.actor_critic.burn_in
    horizon = training.actor_critic.imagine_horizon or 1
    tokenizer_rows = training.tokenizer.batch_num_samples // (training.tokenizer.pieces or 1)
    return {
        "weights_gradients_adam": trained * 4 * 4,
        "perceptual_network": frozen * 4,
        "replay": FRAMES * EpisodeStore.frame_bytes(size),
        "tokenizer_step": saved("tokenizer", 1) * tokenizer_rows,
        "world_model_step": saved("world_model", config.common.sequence_length or 1)
        * training.world_model.batch_num_samples,
        "actor_critic_step": saved("actor_critic", horizon) * batch,
        "kv_cache": cache * batch,
        "engine_weights": engine_weights(agent, low_precision),
        # Copies of frames: as the engine makes them, stacked, returned, and in the captured step. Burn-in frames: as
        # gathered, and in the engine's input.
        "rollout_frames": (4 * horizon + 2 * burn_in) * batch * frame * 4,
        "burn_in_features": burn_in * batch * (frame + 1.25 * config.actor_critic.channels[0] * size**2) * 4,
        "reconstruction_cache_whole": FRAMES * frame * 4,
        "token_cache": FRAMES * config.tokenizer.tokens_per_frame * 4,
        # Four maps at full resolution are alive at the height of a residual block, whose inference is float32.
        "piece": 4 * PIECE["cuda"] * widest * size**2 * 4,
        # Of test frames besides: the perceptual network's first block sees them and their reconstructions.
        "evaluation": 4 * PIECE["cuda"] * widest * size**2 * 4
        + 2 * 2 * tokenizer_rows * VGG_WIDTH * size**2 * 4,
    }


def engine_weights(agent: Agent, low_precision: bool) -> int:
    """Bytes of the CUDA-graph engine's copies of weights."""
    if low_precision:
        parts = (agent.world_model, agent.tokenizer.decoder, agent.tokenizer.post_quant_conv)
        return 2 * sum(p.numel() for part in parts for p in part.parameters())
    weights = InferenceWeights(agent.world_model, torch.float32)
    return sum(layer.qkv.weight.nbytes + layer.qkv.bias.nbytes for layer in weights.layers)


def peaks(parts: dict[str, float], cache_limit: float) -> dict[str, float]:
    """Peak bytes of each phase, with everything captured as CUDA graphs.

    The three steps share one pool of memory, as large as the largest step, which stays reserved between phases; so
    does the engine's pool. The cache is empty while the tokenizer trains. Each step is warmed up in additional memory
    before its capture at the start of the run, while the cache is empty: `capturing` is the peak of that.
    """
    always = parts["weights_gradients_adam"] + parts["perceptual_network"] + parts["replay"]
    steps = max(parts[f"{part}_step"] for part in ("tokenizer", "world_model", "actor_critic"))
    engine = sum(parts[name] for name in ("kv_cache", "engine_weights", "rollout_frames", "burn_in_features"))
    cache = min(cache_limit, parts["reconstruction_cache_whole"]) + parts["token_cache"]
    held = always + steps + engine
    # The tokenizer is first; each other step warms up beside the pool of the earlier ones.
    capturing = max(
        parts["tokenizer_step"],
        parts["tokenizer_step"] + parts["world_model_step"],
        max(parts["tokenizer_step"], parts["world_model_step"]) + engine + parts["actor_critic_step"],
    )
    return {
        "capturing": always + capturing + parts["piece"],
        "tokenizer": held,
        "world_model": held + cache + parts["piece"],
        "actor_critic": held + cache + parts["piece"],
        "evaluating": held + cache + parts["evaluation"],
    }


@case("memory", minutes=1)
def memory(run: Run) -> Result:
    """Bytes of device memory of the paper preset by use and by phase, calculated from saved tensors."""
    config = resolve(preset_config("paper", "Pong"))
    cache = memory_bytes(config.datasets.train.cache_max_ram_usage, "datasets.train.cache_max_ram_usage")
    found: dict[str, Any] = {"reconstruction_cache_limit": cache}
    for name, low in (("bf16", True), ("float32", False)):
        parts = paper_memory(config, low)
        found[name] = {"bytes": parts, "peaks": peaks(parts, cache)}
    return Result(facts=found)
