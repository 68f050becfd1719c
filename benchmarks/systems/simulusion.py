"""Simulusion, a library with another implementation of IRIS; measured by its public methods if it is installed."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from iris_fast.agent import AgentConfig
from iris_fast.interop.checkout import random_vgg16
from iris_fast.models.perceptual import VGG_SLICES

from .interface import Arrays, seconds_of
from .weights import ACTIONS, load_agent_file, simulusion_trunk


@contextmanager
def given_torchvision(perceptual: Mapping[str, Tensor]) -> Iterator[None]:
    """While Simulusion builds its perceptual loss, replaces torchvision by one whose VGG-16 has these weights (by
    LPIPS' names).

    The real one would download weights; others of the same shapes take the same time.
    """

    def vgg16(*ignored: Any, **also_ignored: Any) -> SimpleNamespace:
        found = random_vgg16()
        with torch.no_grad():
            for number, convolutions in enumerate(VGG_SLICES, start=1):
                for index, _, _ in convolutions:
                    for kind in ("weight", "bias"):
                        own = perceptual[f"net.slice{number}.{index}.{kind}"]
                        getattr(found.features[index], kind).copy_(own)
        return found

    package, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    models.vgg16 = vgg16  # type: ignore[attr-defined]
    models.VGG16_Weights = SimpleNamespace(IMAGENET1K_V1=None)  # type: ignore[attr-defined]
    package.models = models  # type: ignore[attr-defined]
    given = {"torchvision": package, "torchvision.models": models}
    before = {name: sys.modules.get(name) for name in given}
    sys.modules.update(given)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class SimulusionSystem:
    """Its agent at the paper's sizes. Its Transformer takes our weights; its autoencoder, heads and policy differ."""

    same_model = False
    goes_on = True
    difference = (
        "the Transformer has the same weights; heads (one linear layer), autoencoder (0.77 M parameters in its "
        "decoder, where the paper's has 1.82 M) and policy are its own, randomly initialised"
    )

    def __init__(self, device: torch.device):
        logging.disable(logging.INFO)
        self.device = device
        self.agent: Any = None
        self._with_perceptual = False

    def load(self, weights: Path) -> None:
        config, own, perceptual = load_agent_file(weights)
        if self.agent is None or self._with_perceptual != (perceptual is not None):
            self.agent = self._make(config, perceptual)
            self._with_perceptual = perceptual is not None
        transformer = self.agent.transformer
        trunk = simulusion_trunk(own, config.world_model)
        missing = transformer.load_state_dict(trunk, strict=False)
        if missing.unexpected_keys:
            raise ValueError(f"this version of Simulusion has no {missing.unexpected_keys[0]}")
        positions = own["world_model.pos_emb.weight"]
        with torch.no_grad():
            transformer.pos_embedding[0, : len(positions)] = positions

    def _make(self, config: AgentConfig, perceptual: Mapping[str, Tensor] | None) -> Any:
        if perceptual is None:
            return self._agent(config, perceptual_weight=0.0)  # no rollout needs it
        with tempfile.TemporaryDirectory() as folder, given_torchvision(perceptual):
            linear = Path(folder) / "linear.pth"
            torch.save({name: value for name, value in perceptual.items() if name.startswith("lin")}, linear)
            agent = self._agent(config, perceptual_weight=1.0, perceptual_linear_weights=str(linear))
        if agent.perceptual_loss is None or not agent.perceptual_loss.has_learned_weights:
            raise ValueError(
                "this version of Simulusion does not take the perceptual network that it is given"
            )
        return agent

    def _agent(self, config: AgentConfig, **more: Any) -> Any:
        from simulusion.configs.iris_config import IRISConfig
        from simulusion.models.iris_agent import IRISAgent

        sizes = config.world_model
        settings = IRISConfig(
            vocab_size=config.tokenizer.vocab_size,
            token_embedding_dim=config.tokenizer.embed_dim,
            encoder_channels=config.tokenizer.autoencoder.ch,
            decoder_depth=config.tokenizer.autoencoder.ch,
            transformer_embed_dim=sizes.embed_dim,
            transformer_layers=sizes.num_layers,
            transformer_heads=sizes.num_heads,
            **more,
        )
        return IRISAgent(settings, ACTIONS, self.device).eval()

    def has_parts(self) -> bool:
        return True

    @torch.no_grad()
    def dream(self, first: Tensor, actions: Tensor, tokens: Tensor | None) -> Arrays:
        """The features at each action, from a cache that was primed with the frames before it."""
        assert tokens is not None, "Simulusion replays the frames of another side"
        first, actions, tokens = (tensor.to(self.device) for tensor in (first, actions, tokens))
        frames = torch.cat([first.unsqueeze(1), tokens], dim=1)
        transformer, features = self.agent.transformer, []
        for step in range(actions.shape[1]):
            cache = transformer.init_cache(len(first), self.device)
            position = transformer.prime_cache(frames[:, : step + 1], actions[:, :step], cache)
            features.append(transformer.generate_frame_cached(actions[:, step], cache, position)[2])
        return {"features": torch.stack(features, dim=1)}

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> tuple[float, Tensor]:
        side = int(tokens.shape[1] ** 0.5)
        grid, agent = tokens.to(self.device).unflatten(1, (side, side)), self.agent
        return seconds_of(
            lambda: agent.decoder(agent.encoder.quantizer.decode_indices(grid)).clamp(0, 1), self.device
        )

    @torch.no_grad()
    def act(self, frames: Tensor) -> tuple[float, Arrays]:
        frames = frames.to(self.device).unsqueeze(1)
        seconds, (logits, values, _) = seconds_of(
            lambda: self.agent.forward_actor_critic(frames), self.device
        )
        return seconds, {"logits": logits[:, 0], "values": values[:, 0]}

    @torch.no_grad()
    def generate(self, first: Tensor, actions: Tensor) -> list[float]:
        transformer, (batch, steps) = self.agent.transformer, actions.shape
        first, actions = first.to(self.device), actions.to(self.device)
        cache, decode_step = self._cache(batch, first.shape[1] + steps * (first.shape[1] + 1))
        position = 0

        def step(action: Tensor) -> None:
            nonlocal position
            if position == 0:
                position = transformer.prime_cache(first.unsqueeze(1), None, cache)
            _, _, features, position = transformer.generate_frame_cached(
                action, cache, position, decode_step=decode_step
            )
            transformer.expected_reward(features)
            transformer.termination_head(features)

        return [seconds_of(lambda a=a: step(a), self.device)[0] for a in actions.unbind(1)]  # type: ignore[misc]

    def _cache(self, batch: int, tokens: int) -> tuple[Any, Any]:
        """A cache and, on a GPU, its captured step, as its own rollout makes them."""
        from simulusion.models.iris_transformer import GraphedDecodeStep

        cache = self.agent.transformer.init_cache(batch, self.device, max_len=tokens)
        cuda = self.device.type == "cuda"
        return cache, GraphedDecodeStep(self.agent.transformer, cache, batch) if cuda else None

    @torch.no_grad()
    def rollout(self, frames: Tensor, horizon: int, seed: int) -> tuple[float, Arrays]:
        """Its `imagine_rollout` over one step less, so that it decodes and generates as many frames as the others.

        It goes on to the frame after the last action, for its value; the others stop before. So it has one action's
        pass less than they have. A rollout of one step is its own of one step.
        """
        torch.manual_seed(seed)
        frames = frames.to(self.device)
        seconds, found = seconds_of(
            lambda: self.agent.imagine_rollout(
                frames, horizon=max(1, horizon - 1), stop_on_termination=False
            ),
            self.device,
        )
        return seconds, {
            "actions": found["actions"],
            "rewards": found["rewards"],
            "ends": found["continues"] < 0.5,
            "observations": found["frames"][:, :horizon],
        }

    def play(self, frames: Tensor) -> float:
        frames = frames.to(self.device)
        return seconds_of(lambda: self.agent.act(self.agent.reconstruct(frames)), self.device)[0]

    def reconstruct(self, frames: Tensor) -> tuple[float, Tensor]:
        frames = frames.to(self.device)
        return seconds_of(lambda: self.agent.reconstruct(frames), self.device)

    def train(self, part: str, batch: Arrays, horizon: int, cached: bool, seed: int) -> dict[str, float]:
        """Its update of a part, with its settings (it checkpoints the Transformer's activations)."""
        assert not cached, "Simulusion has no cache of tokens"
        torch.manual_seed(seed)
        moved = {name: value.to(self.device) for name, value in batch.items()}
        observations, agent = moved["observations"], self.agent
        before = tuple(moved[name][:, :-1] for name in ("actions", "rewards", "ends"))
        imagined: list[float] = []
        updates: dict[str, tuple[Any, Callable[[], Any]]] = {
            "tokenizer": (
                agent.autoencoder_opt,
                lambda: agent.update_autoencoder(observations.flatten(0, 1)),
            ),
            "world_model": (
                agent.transformer_opt,
                lambda: agent.update_transformer(observations, *before),
            ),
            "actor_critic": (
                agent.ac_opt,
                lambda: imagined.append(self._actor_critic_step(observations, horizon)),
            ),
        }
        optimizer, update = updates[part]
        found = {"seconds": seconds_of(update, self.device)[0]}
        # Clipping and the optimizer once more, on the gradient that the update has left.
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def again() -> None:
            nn.utils.clip_grad_norm_(parameters, agent.config.grad_clip_norm)
            optimizer.step()

        if any(parameter.grad is not None for parameter in parameters):
            found["update_seconds"] = seconds_of(again, self.device)[0]
        return found | ({"imagine_seconds": imagined[0]} if imagined else {})

    def _actor_critic_step(self, observations: Tensor, horizon: int) -> float:
        """Takes the step; seconds of its rollout, with the burn-in of the policy."""
        before = self.agent.reconstruct(observations[:, :-1])
        seconds, trajectory = seconds_of(
            lambda: self.agent.imagine_rollout(
                observations[:, -1], horizon=horizon, burn_in_frames=before, stop_on_termination=False
            ),
            self.device,
        )
        self.agent.update_actor_critic(trajectory)
        return seconds
