"""Compiles the launches of the CUDA-graph engine for a GPU that may be absent.

`python -m tests.imagination.dry_rollout ARCHITECTURE` runs the engine's passes, draws and frame decoder at the
paper's sizes (one layer: all are alike), in a process without the interpreter, and prints the kernels compiled.
"""

from __future__ import annotations

import importlib
import json
import sys
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, Literal
from unittest import mock

import torch

from benchmarks.compilation import absent_gpu
from benchmarks.group_norms import group_norm_of
from iris_fast.agent import Agent
from iris_fast.config import preset_config, resolve
from iris_fast.imagination.frame_decoder import FrameDecoder
from iris_fast.imagination.token_pass import InferenceWeights, TokenPasses
from iris_fast.kernels import sample_categorical
from iris_fast.randomness import Purpose

OPERATORS = (
    "layer_norm_linear",
    "cached_attention",
    "layer_norm_attention",
    "layer_norm_mlp",
    "linear_sample",
    "token_embedding",
    "sample_categorical",
    "group_norm_swish",
)
ACTIONS = 6


def launch_everything(
    agent: Agent, batch: int, dtype: torch.dtype, precision: str, launches: Literal[2, 5]
) -> None:
    """A first frame, an action, a frame's token at a full cache, every draw, and a decoded frame."""
    passes = TokenPasses(InferenceWeights(agent.world_model, dtype), batch, precision, launches)
    weights, last = passes.weights, passes.config.max_tokens - 1
    seed, position = torch.zeros((), dtype=torch.int64), passes.places[16]
    passes.feed(torch.zeros((batch, 16), dtype=torch.int64), 0)
    x = passes.feed(torch.full((batch, 1), len(weights.tokens)), 16)[:, 0]
    passes.feed(torch.zeros((batch, 1), dtype=torch.int64), last)
    heads = (
        (weights.observations, Purpose.TOKEN),
        (weights.rewards, Purpose.REWARD),
        (weights.ends, Purpose.END),
    )
    for head, purpose in heads:
        passes.draw(head, x, seed, position, purpose)
    sample_categorical(torch.zeros(batch, ACTIONS), seed=seed, position=position, purpose=int(Purpose.ACTION))
    FrameDecoder(agent.tokenizer, dtype).frames_of(torch.zeros((1, 16), dtype=torch.int64))


def main(architecture: int) -> None:
    config = resolve(preset_config("paper", "Pong"))
    config = replace(config, world_model=replace(config.world_model, num_layers=1))
    agent = Agent(config.agent, ACTIONS).eval()
    compiled: list[Any] = []
    with torch.no_grad(), absent_gpu(architecture, compiled), group_norm_of(fused=True), ExitStack() as stack:
        for name in OPERATORS:
            module = importlib.import_module(f"iris_fast.kernels.{name}")
            launcher = partial(getattr(module, f"_{name}")._operator._backend_fns["cuda"])
            launcher.detached = launcher  # type: ignore[attr-defined]
            stack.enter_context(mock.patch.object(module, f"_{name}", launcher))
        for dtype, precision in ((torch.float32, "ieee"), (torch.float32, "tf32"), (torch.bfloat16, "ieee")):
            launch_everything(agent, 64, dtype, precision, 5)
            launch_everything(agent, 64, dtype, precision, 2)
    print(json.dumps([{"kernel": one.metadata.name, "shared": one.metadata.shared} for one in compiled]))


if __name__ == "__main__":
    main(int(sys.argv[1]))
