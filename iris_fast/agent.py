"""The agent: tokenizer, world model and actor-critic together, and acting with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .kernels._arguments import with_checked_types
from .models.actor_critic import ActorCritic, ActorCriticConfig, ActorCriticOutput, LSTMState
from .models.frame_codec import FrameCodec, FrameCoder, has_codec, make_codec
from .models.tokenizer import Tokenizer, TokenizerConfig
from .models.transformer import TransformerConfig
from .models.world_model import WorldModel

PARTS = ("tokenizer", "world_model", "actor_critic")


@dataclass(frozen=True)
class AgentConfig:
    """The sizes of the three models."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    world_model: TransformerConfig = field(default_factory=TransformerConfig)
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)


class Agent(nn.Module):
    """Sees raw frames, acts on their reconstructions, dreams in tokens."""

    @with_checked_types
    def __init__(self, config: AgentConfig, num_actions: int):
        super().__init__()
        self.config = config
        self.num_actions = num_actions
        self.tokenizer = Tokenizer(config.tokenizer)
        self.world_model = WorldModel(config.world_model, config.tokenizer.vocab_size, num_actions)
        self.actor_critic = ActorCritic(
            config.actor_critic, num_actions, config.tokenizer.autoencoder.resolution
        )
        self._codec: FrameCodec | None = None  # made when first needed

    @property
    def device(self) -> torch.device:
        return self.actor_critic.actor_linear.weight.device

    @torch.no_grad()
    def reconstruct(self, frames: Tensor) -> Tensor:
        """What the policy sees of frames `(batch, 3, 64, 64)` uint8: decoded, clamped to [0, 1]."""
        return self.seen(frames.float() / 255)

    @torch.no_grad()
    def seen(self, frames: Tensor) -> Tensor:
        """As `reconstruct`, of frames `(batch, 3, 64, 64)` float32 in [0, 1]."""
        coder = self._coder()
        return coder.frames_of(coder.tokens_of(frames))

    def _coder(self) -> FrameCoder:
        """The tokenizer by the C++ codec where that is possible, else by its own modules."""
        if not has_codec(self.tokenizer):
            return self.tokenizer
        if self._codec is None:
            self._codec = make_codec(self.tokenizer)
        return self._codec

    @torch.no_grad()
    def policy(self, frames: Tensor, state: LSTMState) -> ActorCriticOutput:
        """One step of the policy on raw frames `(batch, 3, 64, 64)` uint8."""
        return self.actor_critic(self.reconstruct(frames).unsqueeze(1), state)

    def load_parts(self, state_dict: dict[str, Tensor], parts: Iterable[str] = PARTS) -> None:
        """Loads the named parts from a whole agent's state dict (already checked to fit).

        A perceptual network in the state dict is left aside: the agent keeps the one it has.
        """
        for part in parts:
            own = {n.removeprefix(f"{part}."): v for n, v in state_dict.items() if n.startswith(f"{part}.")}
            if part == "tokenizer":
                own = {name: value for name, value in own.items() if not name.startswith("lpips.")}
                if self.tokenizer.lpips is not None:
                    own |= {
                        f"lpips.{name}": value for name, value in self.tokenizer.lpips.state_dict().items()
                    }
            self.get_submodule(part).load_state_dict(own)
