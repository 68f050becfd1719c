"""An agent built of our modules with the public implementation's names, for tests without a checkout."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iris_fast.agent import AgentConfig
from iris_fast.models.actor_critic import ActorCritic as OurActorCritic
from iris_fast.models.actor_critic import ActorCriticConfig
from iris_fast.models.autoencoder import AutoencoderConfig, EncoderConfig
from iris_fast.models.tokenizer import Tokenizer as OurTokenizer
from iris_fast.models.tokenizer import TokenizerConfig
from iris_fast.models.transformer import TransformerConfig
from iris_fast.models.world_model import WorldModel
from tests.golden.recipe import golden_agent

NUM_ACTIONS = 3


@dataclass
class TokenizerEncoderOutput:
    z: Tensor
    z_quantized: Tensor
    tokens: Tensor


@dataclass
class ImagineOutput:
    observations: Tensor
    actions: Tensor
    logits_actions: Tensor
    values: Tensor
    rewards: Tensor
    ends: Tensor


class Tokenizer(OurTokenizer):
    def preprocess_input(self, x: Tensor) -> Tensor:
        return 2 * x - 1


class ActorCritic(OurActorCritic):
    use_original_obs = False

    def clear(self) -> None:
        pass

    def imagine(self, *arguments: Any, **named: Any) -> Any:
        raise AssertionError("the public implementation's own imagination was called")


class PublicAgent(nn.Module):
    """Initialised as `golden_agent` is."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        autoencoder = AutoencoderConfig(
            ch=32, ch_mult=(1, 1, 1, 1, 1), num_res_blocks=1, attn_resolutions=(), z_channels=8
        )
        config = AgentConfig(
            TokenizerConfig(16, 8, EncoderConfig(autoencoder)),
            TransformerConfig(num_layers=1, num_heads=2, embed_dim=16, max_blocks=4),
            ActorCriticConfig((4, 4, 4, 4), 8),
        )
        self.tokenizer = Tokenizer(config.tokenizer)
        self.world_model = WorldModel(config.world_model, config.tokenizer.vocab_size, NUM_ACTIONS)
        self.actor_critic = ActorCritic(config.actor_critic, NUM_ACTIONS)
        self.load_state_dict(golden_agent(seed, NUM_ACTIONS, config, with_lpips=False).state_dict())
        self.eval()


def segments(batch: int = 2, time: int = 3) -> dict[str, Tensor]:
    """What `imagine` takes: frames in [0, 1], the first one of the last row padded."""
    mask = torch.ones(batch, time, dtype=torch.bool)
    mask[-1, 0] = False
    frames = torch.rand(batch, time, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return {"observations": frames, "mask_padding": mask}


def dream(agent: Any, actor_critic: Any = None, **changed: Tensor) -> Tensor:
    """The policy's logits `(batch, horizon, actions)` in an imagination of `agent`, with a gradient."""
    torch.manual_seed(7)
    acting = actor_critic or agent.actor_critic
    output = acting.imagine(segments() | changed, agent.tokenizer, agent.world_model, horizon=2)
    logits: Tensor = output.logits_actions
    return logits
