"""Loads a checkpoint with a checkout of the public implementation, a black box in a process of its own.

`python reference_loader.py CHECKOUT CHECKPOINT NUM_ACTIONS with|without SIZES` builds its agent (`SIZES`:
JSON of the tokenizer's and world model's settings; with or without the perceptual network), calls its loader,
which is strict, and prints `loaded N` once each of its N tensors equals the file's. Packages that it imports
and that are not installed are replaced by empty ones: loading needs none of them.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from torch import nn

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: max-pool


class EmptyModule(types.ModuleType):
    """Stands for a package that is not installed: every name in it is an empty class."""

    __path__: list[str] = []  # noqa: RUF012 (the import system reads it off the module)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def import_reference(checkout: Path) -> types.ModuleType:
    """The checkout's `agent` module, with whatever it misses replaced by empty modules."""
    sys.path.insert(0, str(checkout / "src"))
    present = set(sys.modules)
    while True:
        try:
            return importlib.import_module("agent")
        except ModuleNotFoundError as error:
            for name in set(sys.modules) - present:  # forget what was imported half
                del sys.modules[name]
            assert error.name is not None
            sys.modules[error.name] = EmptyModule(error.name)
            present.add(error.name)


def vgg16(*_: Any, **__: Any) -> types.SimpleNamespace:
    """torchvision's VGG-16 in shape, with random weights: the checkpoint has its own."""
    layers: list[nn.Module] = []
    width = 3
    for channels in VGG16:
        layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()] if channels else [nn.MaxPool2d(2)]
        width = channels or width
    return types.SimpleNamespace(features=nn.Sequential(*layers))


def build(agent_module: types.ModuleType, num_actions: int, with_lpips: bool, sizes: dict[str, Any]) -> Any:
    """The reference's agent, of the given sizes."""
    tokenizer_module = importlib.import_module("models.tokenizer")
    nets = importlib.import_module("models.tokenizer.nets")
    perceptual: Any = importlib.import_module("models.tokenizer.lpips")
    transformer = importlib.import_module("models.transformer")
    world_model = importlib.import_module("models.world_model")
    actor_critic = importlib.import_module("models.actor_critic")
    # Both would come from the network.
    perceptual.models = types.SimpleNamespace(vgg16=vgg16)
    perceptual.LPIPS.load_from_pretrained = lambda *_, **__: None
    config = nets.EncoderDecoderConfig(**sizes["autoencoder"])
    tokenizer = tokenizer_module.Tokenizer(
        **sizes["tokenizer"],
        encoder=nets.Encoder(config),
        decoder=nets.Decoder(config),
        with_lpips=with_lpips,
    )
    model = world_model.WorldModel(
        sizes["tokenizer"]["vocab_size"], num_actions, transformer.TransformerConfig(**sizes["world_model"])
    )
    return agent_module.Agent(tokenizer, model, actor_critic.ActorCritic(num_actions))


def main() -> None:
    checkout, checkpoint, num_actions, perceptual, sizes = sys.argv[1:]
    agent = build(import_reference(Path(checkout)), int(num_actions), perceptual == "with", json.loads(sizes))
    agent.load(Path(checkpoint), torch.device("cpu"))
    saved = torch.load(checkpoint, weights_only=True)
    loaded = agent.state_dict()
    assert list(loaded) == list(saved), "names or their order differ"
    assert all(torch.equal(loaded[name], saved[name]) for name in saved), "values differ"
    assert all(loaded[name].dtype == saved[name].dtype for name in saved), "dtypes differ"
    print(f"loaded {len(saved)}")


if __name__ == "__main__":
    main()
