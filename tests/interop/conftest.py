"""Agents and files for the tests of checkpoints."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from iris_fast.agent import Agent, AgentConfig
from iris_fast.models.autoencoder import AutoencoderConfig, EncoderConfig
from iris_fast.models.perceptual import LPIPS
from iris_fast.models.tokenizer import TokenizerConfig
from iris_fast.models.transformer import TransformerConfig
from tests.golden.recipe import STATE_DICT_FILE, golden_agent, golden_lpips, golden_state_dict


def small_config(**world_model: object) -> AgentConfig:
    """As small an agent as the public implementation can hold, unlike the paper's in every size."""
    autoencoder = AutoencoderConfig(
        ch=32, ch_mult=(1, 2, 1), num_res_blocks=1, attn_resolutions=(32,), z_channels=24
    )
    sizes = {"tokens_per_block": 257, "max_blocks": 2, "num_layers": 2, "embed_dim": 32} | world_model
    return AgentConfig(TokenizerConfig(48, 16, EncoderConfig(autoencoder)), TransformerConfig(**sizes))  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def small_agent() -> Agent:
    return golden_agent(3, 5, small_config(), with_lpips=False)


@pytest.fixture(scope="session")
def lpips() -> LPIPS:
    return golden_lpips(1)


@pytest.fixture(scope="session")
def published() -> dict[str, Tensor]:
    """A published checkpoint of the paper's agent with 6 actions, built without our models."""
    description = json.loads(STATE_DICT_FILE.read_text())
    weights = golden_state_dict(description["parameters"], seed=1)
    at_action = torch.arange(16, 340, 17)
    constants = {
        "shift": torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1),
        "scale": torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1),
        "mask": torch.ones(340, 340).tril(),
        "head_observations.indices": torch.tensor([p for p in range(340) if p % 17 != 15]),
        "head_rewards.indices": at_action,
        "head_ends.indices": at_action,
    }
    for name, shape in description["buffers"].items():
        (weights[name],) = (value for suffix, value in constants.items() if name.endswith(suffix))
        assert list(weights[name].shape) == shape
    return {name: weights[name] for name in description["state_dict_order"]}
