"""Runs an unchanged checkout of the public implementation as a black box, for comparisons.

Its modules have names such as `agent` and `models` and are imported from the checkout's `src` folder, so the process
must have no other modules of these names. Missing packages that it imports (gym 0.21, hydra, torchvision, …) are
replaced by empty ones: its models need none of them.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
import types
from pathlib import Path
from typing import Any

from torch import nn

from iris_fast.agent import AgentConfig
from iris_fast.errors import UserError

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: max-pool


class EmptyModule(types.ModuleType):
    """Replaces a package that is not installed: every name in it is an empty class."""

    __path__: list[str] = []  # noqa: RUF012 (the import system reads it off the module)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def import_checkout(checkout: Path, module: str = "agent") -> Any:
    """A module of the checkout, with missing packages replaced by empty modules.

    Raises UserError if `checkout` is not a checkout of the public implementation.
    """
    source = checkout.resolve() / "src"
    if not (source / "agent.py").is_file():
        raise UserError(f"'{checkout}' is not a checkout of eloialonso/iris: it has no src/agent.py")
    if str(source) not in sys.path:
        sys.path.insert(0, str(source))
    present = set(sys.modules)
    while True:
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or (source / f"{error.name.replace('.', '/')}.py").exists():
                raise
            for name in set(sys.modules) - present:  # forget partly imported modules
                del sys.modules[name]
            sys.modules[error.name] = EmptyModule(error.name)
            present.add(error.name)


def public_agent(
    checkout: Path, config: AgentConfig | None = None, num_actions: int = 6, with_lpips: bool = False
) -> Any:
    """The checkout's agent for our `config` (default: the paper's), with its initial weights.

    The optional perceptual network has random weights: the real ones would need a download.
    """
    config = config or AgentConfig()
    agent_module = import_checkout(checkout)
    tokenizer_module, nets, perceptual, transformer, world_model, actor_critic = (
        import_checkout(checkout, f"models.{name}")
        for name in (
            "tokenizer",
            "tokenizer.nets",
            "tokenizer.lpips",
            "transformer",
            "world_model",
            "actor_critic",
        )
    )
    perceptual.models = types.SimpleNamespace(vgg16=random_vgg16)
    perceptual.LPIPS.load_from_pretrained = lambda *_, **__: None
    autoencoder = dataclasses.asdict(config.tokenizer.autoencoder)
    del autoencoder["norm_groups"]
    sizes = nets.EncoderDecoderConfig(**autoencoder)
    tokenizer = tokenizer_module.Tokenizer(
        vocab_size=config.tokenizer.vocab_size,
        embed_dim=config.tokenizer.embed_dim,
        encoder=nets.Encoder(sizes),
        decoder=nets.Decoder(sizes),
        with_lpips=with_lpips,
    )
    model = world_model.WorldModel(
        config.tokenizer.vocab_size,
        num_actions,
        transformer.TransformerConfig(**dataclasses.asdict(config.world_model)),
    )
    return agent_module.Agent(tokenizer, model, actor_critic.ActorCritic(num_actions))


def random_vgg16(*_: Any, **__: Any) -> types.SimpleNamespace:
    """torchvision's VGG-16 with random weights, with its shapes and its in-place activations."""
    layers: list[nn.Module] = []
    width = 3
    for channels in VGG16:
        layers += (
            [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU(inplace=True)]
            if channels
            else [nn.MaxPool2d(2)]
        )
        width = channels or width
    return types.SimpleNamespace(features=nn.Sequential(*layers))
