"""The C++ models' weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from iris_fast.imagination.cpu_engine import CpuDream, pack_world_model
from iris_fast.models.cpu_policy import CpuPolicy
from iris_fast.models.cpu_weights import require_extension, weight_arrays
from iris_fast.models.frame_codec import pack_tokenizer
from iris_fast.models.transformer import TransformerConfig
from iris_fast.models.world_model import WorldModel
from iris_fast.randomness import PhiloxDraws
from tests.support.agents import make_world_model, micro_agent, small_transformer

VOCABULARY = 11


class Lazy(dict[str, Any]):
    """A state dict that makes an array when it is asked for one, which nobody else keeps."""

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(name).copy()


def packed(weights: dict[str, Any], config: TransformerConfig) -> Any:
    return require_extension().TokenModel(
        weights,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        tokens_per_block=config.tokens_per_block,
        max_blocks=config.max_blocks,
        block_causal=config.attention == "block_causal",
        layer_norm_epsilon=1e-5,
    )


def logits_of(model: WorldModel, weights: Any) -> np.ndarray:
    first = torch.arange(4)[None].remainder(VOCABULARY)
    dream = CpuDream(model, weights, require_extension().ThreadPool(1), first, PhiloxDraws(0))
    return dream.step_with_logits(torch.zeros(1, dtype=torch.int64))[1].rewards.numpy()


def test_weights_that_are_made_when_asked_for_live_long_enough() -> None:
    model = make_world_model(small_transformer(), VOCABULARY)
    lazy = packed(Lazy(weight_arrays(model)), model.config)
    np.testing.assert_array_equal(logits_of(model, lazy), logits_of(model, pack_world_model(model)))


def test_weights_of_a_deeper_world_model_are_refused() -> None:
    model = make_world_model(small_transformer(num_layers=3), VOCABULARY)
    with pytest.raises(ValueError, match=r"have transformer\.blocks\.2\.\S+, which this model has not"):
        packed(weight_arrays(model), small_transformer(num_layers=2))


def test_weights_of_another_architecture_are_refused() -> None:
    agent = micro_agent()
    agent.tokenizer.register_buffer("another", torch.zeros(3))
    with pytest.raises(ValueError, match="have another, which this model has not"):
        pack_tokenizer(agent.tokenizer)
    agent.actor_critic.register_buffer("another", torch.zeros(3))
    size = agent.config.tokenizer.autoencoder.resolution
    policy = CpuPolicy(agent.actor_critic, require_extension().ThreadPool(1), size)
    with pytest.raises(ValueError, match="have another, which this model has not"):
        policy(torch.zeros(1, 1, 3, size, size), agent.actor_critic.initial_state(1))
