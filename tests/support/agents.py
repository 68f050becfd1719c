"""A small agent whose weights are large enough for every path through it to show in its outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn

from iris_fast.agent import Agent
from iris_fast.config import resolve
from iris_fast.models.transformer import TransformerConfig
from iris_fast.models.versioned import Versioned
from iris_fast.models.world_model import WorldModel
from tests.golden.recipe import golden_agent, golden_parameter
from tests.support.micro import micro_config

NUM_ACTIONS = 3
Module = TypeVar("Module", bound=nn.Module)


class Line(nn.Linear, Versioned):
    """The smallest part that gradient steps can be taken on."""


def micro_agent(*overrides: str, seed: int = 0, num_actions: int = NUM_ACTIONS) -> Agent:
    """The micro configuration's agent in evaluation mode, every parameter drawn by its name."""
    config = resolve(micro_config(*overrides))
    return golden_agent(seed, num_actions, config.agent, with_lpips=False)


def make_world_model(config: TransformerConfig, vocab_size: int = 11, seed: int = 0) -> WorldModel:
    """A world model in evaluation mode, every parameter drawn by its name."""
    return redrawn(WorldModel(config, vocab_size, NUM_ACTIONS), seed).eval()


def small_transformer(**sizes: object) -> TransformerConfig:
    """Two layers of width 16 over blocks of five tokens, four blocks at most."""
    base = TransformerConfig(tokens_per_block=5, max_blocks=4, num_layers=2, num_heads=2, embed_dim=16)
    return replace(base, **sizes)  # type: ignore[arg-type]


def redrawn(module: Module, seed: int = 0) -> Module:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(golden_parameter(name, parameter.shape, seed))
    return module


def gradients(parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, torch.Tensor]:
    """Copies of the gradients that there are, by name."""
    return {name: p.grad.clone() for name, p in parameters if p.grad is not None}


def assert_same_gradients(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-4
) -> None:
    """The same names; each gradient within `tolerance` of its norm, or of a hundredth of the largest."""
    assert found.keys() == expected.keys()
    largest = max(float(gradient.norm()) for gradient in expected.values())
    assert largest > 0
    for name, gradient in expected.items():
        scale = max(float(gradient.norm()), largest / 100)
        assert float((found[name] - gradient).norm()) <= tolerance * scale, name
