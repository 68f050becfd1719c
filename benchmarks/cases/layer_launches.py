"""Captured rollouts with five and with two launches a layer in token passes, timed in pairs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from benchmarks.harness import Work, timed_size
from benchmarks.record import Ceilings, Label, Result, Size
from benchmarks.registry import Run, case
from benchmarks.timing import Side, time_sides
from iris_fast.agent import Agent
from iris_fast.config import preset_config, resolve
from iris_fast.graphs import CudaGraphs, Graphs, Uncaptured
from iris_fast.imagination.engine import ImaginationStart
from iris_fast.imagination.factory import options_of
from iris_fast.imagination.graph_engine import CudaGraphEngine, GraphOptions
from iris_fast.imagination.token_pass import InferenceWeights, TokenPasses

ACTIONS = 6
FORMS: tuple[Literal[5, 2], ...] = (5, 2)
TOLERANCES = {"float32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}
# (precision, batch, horizon): few, since each is captured twice.
GPU_SIZES = (("bf16", 64, 20), ("bf16", 1, 20), ("float32", 64, 20))


def start_of(agent: Agent, batch: int, seed: int = 0) -> ImaginationStart:
    """A start from frames of noise, without burn-in."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand((batch, 1, 3, 64, 64), generator=generator)
    tokens = torch.randint(agent.config.tokenizer.vocab_size, (batch, 16), generator=generator)
    mask = torch.ones((batch, 1), dtype=torch.bool)
    return ImaginationStart(frames.to(agent.device), mask.to(agent.device), tokens.to(agent.device))


@torch.no_grad()
def features(agent: Agent, options: GraphOptions, start: ImaginationStart) -> Tensor:
    """Features of five passes over given tokens after a first frame, `(batch, 5, embed_dim)`; draws would diverge."""
    weights = InferenceWeights(agent.world_model, getattr(torch, options.dtype))
    passes = TokenPasses(weights, len(start.first_tokens), options.precision, options.launches_per_layer)
    passes.feed(start.first_tokens, 0)
    return torch.cat([passes.feed(start.first_tokens[:, i : i + 1], 16 + i) for i in range(5)], dim=1)


def measure(agent: Agent, graphs: Graphs, precision: str, batch: int, horizon: int, rounds: int) -> Size:
    """Seconds of a rollout of each form, in turn; their passes over the same tokens must agree."""
    what: dict[str, Label] = {"precision": precision, "batch": batch, "horizon": horizon}
    options = {form: replace(options_of(precision), launches_per_layer=form) for form in FORMS}
    start = start_of(agent, batch)
    five, two = (features(agent, one, start) for one in options.values())
    error = float((five - two).abs().max() / five.abs().max())
    if not error <= TOLERANCES[precision]:
        return Size(what, missing=f"the features of the two forms differ by {error:.2g}: not timed")
    engines = {form: CudaGraphEngine(agent, one, graphs) for form, one in options.items()}
    sides: dict[str, Side] = {
        f"{form} launches": partial(engine.imagine, start, horizon, 1) for form, engine in engines.items()
    }
    times = time_sides(sides, agent.device, rounds=rounds)
    return timed_size(what, times, Work(), more={"difference": error})


@case("layer_launches", minutes=1)
def layer_launches(run: Run) -> Result:
    """Rollouts with five launches a layer and with two, captured, in pairs (on a CPU uncaptured: no figure)."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    graphs: Graphs = CudaGraphs(device) if cuda else Uncaptured(device)
    paper = cuda and not run.quick
    agent = Agent(resolve(preset_config("paper" if paper else "tiny", "Pong")).agent, ACTIONS)
    agent = agent.to(device).eval()
    sizes = [size for size in GPU_SIZES if run.takes_precision(size[0])] if paper else [("float32", 2, 2)]
    found = [measure(agent, graphs, *size, 9 if cuda else 2) for size in sizes]
    return Result(found, Ceilings(device.type), facts={"captured": cuda})
