"""The weights of the golden agent, without a file: each parameter is drawn from its name."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from iris_fast.agent import Agent, AgentConfig
from iris_fast.models.perceptual import LPIPS

DATA = Path(__file__).parent / "data"
GOLDEN_FILE = DATA / "paper_6_actions.npz"
STATE_DICT_FILE = DATA / "paper_6_actions_state_dict.json"


def golden_parameter(name: str, shape: Iterable[int], seed: int) -> Tensor:
    """The parameter called `name` (its name in the whole agent's state dict), float32."""
    shape = tuple(shape)
    stream = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode()))
    values = stream.standard_normal(shape)
    if len(shape) >= 2:
        values = values / math.sqrt(math.prod(shape[1:]))
    elif name.endswith("weight"):
        values = 1 + 0.1 * values
    else:
        values = 0.1 * values
    if name.startswith("tokenizer.lpips.lin"):
        values = np.abs(values)
    return torch.from_numpy(values.astype(np.float32))


def fill(agent: Agent, seed: int) -> Agent:
    """Gives every parameter of `agent` its golden value, in place."""
    with torch.no_grad():
        for name, parameter in agent.named_parameters():
            parameter.copy_(golden_parameter(name, parameter.shape, seed))
    return agent


def golden_lpips(seed: int) -> LPIPS:
    """The perceptual network with golden weights."""
    lpips = LPIPS()
    with torch.no_grad():
        for name, parameter in lpips.named_parameters():
            parameter.copy_(golden_parameter(f"tokenizer.lpips.{name}", parameter.shape, seed))
    return lpips.eval()


def golden_agent(
    seed: int, num_actions: int, config: AgentConfig | None = None, with_lpips: bool = True
) -> Agent:
    """The agent with golden weights, in evaluation mode; by default the paper's, complete."""
    agent = fill(Agent(config or AgentConfig(), num_actions), seed)
    if with_lpips:
        agent.tokenizer.attach_lpips(golden_lpips(seed))
    return agent.eval()


def golden_state_dict(shapes: Mapping[str, Iterable[int]], seed: int) -> dict[str, Tensor]:
    """Golden parameters by name, for the names and shapes given."""
    return {name: golden_parameter(name, shape, seed) for name, shape in shapes.items()}
