"""The agent: tokenizer, world model and actor-critic, and acting with them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .errors import UserError
from .kernels.common.arguments import with_checked_types
from .kernels.common.arithmetic import exact_on_cpu
from .models.actor_critic import ActorCritic, ActorCriticConfig, ActorCriticOutput, LSTMState
from .models.frame_codec import AgentCoder
from .models.frames import unit_frames
from .models.tokenizer import Tokenizer, TokenizerConfig
from .models.transformer import TransformerConfig
from .models.versioned import Version, Versioned
from .models.world_model import WorldModel

if TYPE_CHECKING:
    from .pretrained import Dtype

PARTS = ("tokenizer", "world_model", "actor_critic")
FORMER_KEYS: dict[str, tuple[Any, str]] = {
    "tokenizer.codebook_init": (None, "codebooks begin uniform within ±1/vocab_size, as in the paper"),
    "tokenizer.encoder.config.in_channels": (3, "frames have 3 channels"),
    "tokenizer.encoder.config.out_ch": (3, "frames have 3 channels"),
}
"""Keys of former versions: the value that always holds now, and what that means."""


@dataclass(frozen=True)
class AgentConfig:
    """The sizes of the three models."""

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    world_model: TransformerConfig = field(default_factory=TransformerConfig)
    actor_critic: ActorCriticConfig = field(default_factory=ActorCriticConfig)


def config_to_dict(config: AgentConfig) -> dict[str, Any]:
    """`AgentConfig` as a plain nested dict."""
    return dataclasses.asdict(config)


def config_from_dict(values: Mapping[str, Any], kind: type = AgentConfig, where: str = "") -> Any:
    """`AgentConfig` from its plain nested dict, without keys of former versions; missing ones take their defaults.

    Raises UserError for a key it does not know. `where`: the dotted name of `kind`, with a dot at its end.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = {name: value for name, value in values.items() if f"{where}{name}" not in FORMER_KEYS}
    unknown = values.keys() - fields.keys()
    if unknown:
        raise UserError(
            f"the checkpoint's configuration has an unknown key {min(unknown)!r}: upgrade iris_fast"
        )
    arguments = {}
    for name, value in values.items():
        nested = fields[name].default_factory
        if isinstance(nested, type) and isinstance(value, Mapping):
            arguments[name] = config_from_dict(value, nested, f"{where}{name}.")
        else:
            arguments[name] = _as_tuple(value)
    return kind(**arguments)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Agent(nn.Module):
    """Takes raw frames, acts on their reconstructions, and imagines in tokens.

    `coder`: the shared encoder and decoder of frames. Engines, coders and policies keep copies of weights. Loading
    weights, moving the agent and this project's gradient steps are noticed; after any other change (another
    optimizer, a write into a parameter, a replaced parameter) call `weights_changed`. Copies and pickles have their
    own weights and no packed ones, so any machine can load them. Several threads may act with one agent at once, as
    long as none changes its weights.
    """

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
        self.coder = AgentCoder(self.tokenizer)

    @property
    def device(self) -> torch.device:
        return self.actor_critic.actor_linear.weight.device

    @torch.no_grad()
    def reconstruct(self, frames: Tensor) -> Tensor:
        """The policy's view of frames `(batch, 3, 64, 64)`: decoded, clamped to [0, 1].

        Frames are uint8 in [0, 255] or floats in [0, 1]; raises ValueError for others.
        """
        return self.coder.frames_of(self.coder.tokens_of(unit_frames(frames)))

    @property
    def versions(self) -> dict[str, Version]:
        """The version of each part's weights, which shows whether a copy is fresh."""
        return {part: self._part(part).version for part in PARTS}

    def weights_changed(self, *parts: str, in_place: bool = False) -> None:
        """Records that the weights of `parts` (default: all) have changed, so that no old copies are used.

        `in_place`: every parameter kept its memory, as after an optimizer step, so CUDA graphs that read it stay
        valid.
        """
        for part in parts or PARTS:
            self._part(part).weights_changed(in_place=in_place)

    def _part(self, name: str) -> Versioned:
        if name not in PARTS:
            raise ValueError(f"{name} is not a part of the agent: choose from {', '.join(PARTS)}")
        return self.get_submodule(name)  # type: ignore[return-value]

    @torch.no_grad()
    def policy(self, frames: Tensor, state: LSTMState) -> ActorCriticOutput:
        """One step of the policy on raw frames `(batch, 3, 64, 64)`, uint8 or floats as in `reconstruct`.

        On a CPU neither autocast nor PyTorch's precision switches have an effect.
        """
        seen = self.reconstruct(frames)
        with exact_on_cpu(self.device):
            return self.actor_critic(seen.unsqueeze(1), state)

    def load_parts(self, state_dict: dict[str, Tensor], parts: Iterable[str] = PARTS) -> None:
        """Loads the named parts from a whole agent's state dict (already checked to fit).

        A perceptual network in the state dict is ignored: the agent keeps its own.
        """
        for part in parts:
            own = {n.removeprefix(f"{part}."): v for n, v in state_dict.items() if n.startswith(f"{part}.")}
            if part == "tokenizer":
                own = {name: value for name, value in own.items() if not name.startswith("lpips.")}
                if self.tokenizer.lpips is not None:
                    own |= {
                        f"lpips.{name}": value for name, value in self.tokenizer.lpips.state_dict().items()
                    }
            self._part(part).load_state_dict(own)

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], *, revision: str | None = None, device: str = "cpu"
    ) -> Agent:
        """An agent of the Hugging Face Hub (`OWNER/NAME`), or of a folder that `save_pretrained` wrote.

        `revision`: a branch, tag or commit. Needs the extra `hub`. Raises UserError where there is no such agent, or
        no network and no earlier download.
        """
        from .pretrained import from_pretrained

        return from_pretrained(cls, os.fspath(name), revision, device)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        run: str | os.PathLike[str] | None = None,
        dtype: Dtype = "float32",
    ) -> None:
        """Writes the agent in the form of the Hub: `model.safetensors`, `config.json` and a model card.

        `run`: the folder of its run, for the card's evaluation, curve, configuration and command. `dtype`: of the
        weights in the file, `float16` for half the size. The perceptual network is left out. Raises UserError for a
        folder that cannot be written.
        """
        from .pretrained import save_pretrained

        save_pretrained(self, Path(folder), run=None if run is None else Path(run), dtype=dtype)

    def push_to_hub(
        self,
        repository: str,
        *,
        run: str | os.PathLike[str] | None = None,
        dtype: Dtype = "float32",
        private: bool | None = None,
        token: str | None = None,
        message: str = "Upload an agent of iris_fast",
    ) -> str:
        """Uploads what `save_pretrained` writes to the repository `OWNER/NAME`, made if it is new.

        Returns its address `hf://OWNER/NAME`, which every command takes in place of a checkpoint. Raises UserError
        where the upload fails.
        """
        from .pretrained import push_to_hub

        place = None if run is None else Path(run)
        return push_to_hub(
            self, repository, run=place, dtype=dtype, private=private, token=token, message=message
        )
