"""Gradient steps of the systems: the same losses on the same batch, one optimizer step, timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from iris_fast.agent import Agent
from iris_fast.imagination.engine import ImaginationEngine, ImaginationStart
from iris_fast.models.frame_codec import FrameCoder
from iris_fast.training.parts import actor_critic_losses, adam, adamw

from .interface import Arrays, seconds_of

LEARNING_RATE, WEIGHT_DECAY, MAX_GRAD_NORM = 1e-4, 0.01, 10.0


def parameters_of(part: str, module: nn.Module) -> list[nn.Parameter]:
    """The trained parameters: all except the perceptual network."""
    return [p for name, p in module.named_parameters() if not name.startswith("lpips.")]


def optimizer_of(part: str, module: nn.Module) -> torch.optim.Optimizer:
    """The paper's optimizer of a part."""
    if part == "world_model":
        return adamw(module, LEARNING_RATE, WEIGHT_DECAY)
    return adam(parameters_of(part, module), LEARNING_RATE)


def loss_and_gradient(part: str, module: nn.Module, loss: Callable[[], Tensor]) -> dict[str, float]:
    """`loss` and the norm of its gradient, with nothing changed."""
    parameters = parameters_of(part, module)
    module.zero_grad(set_to_none=True)
    total = loss()
    total.backward()
    squares = [p.grad.double().square().sum() for p in parameters if p.grad is not None]
    module.zero_grad(set_to_none=True)
    return {"loss": float(total.detach()), "grad_norm": float(torch.stack(squares).sum().sqrt())}


class Steps:
    """Takes timed gradient steps on the parts of an agent, with given losses."""

    def __init__(self, modules: dict[str, nn.Module], device: torch.device):
        self.modules, self.device = modules, device
        self._optimizers: dict[str, torch.optim.Optimizer] = {}

    def seconds(
        self, part: str, loss: Callable[[], Tensor], training: Iterable[nn.Module]
    ) -> dict[str, float]:
        """`seconds` of loss, gradient, clipping and optimizer step; `training` are the modules with dropout.

        `update_seconds`: of clipping and optimizer alone, which no batch size changes; they are taken once more
        on the same gradient after the step, so that nothing within it is timed apart.
        """
        module = self.modules[part]
        if part not in self._optimizers:
            self._optimizers[part] = optimizer_of(part, module)
        optimizer, parameters = self._optimizers[part], parameters_of(part, module)

        def update() -> None:
            nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            update()

        for each in self.modules.values():
            each.eval()
        for each in training:
            each.train()
        seconds, _ = seconds_of(step, self.device)
        update_seconds, _ = seconds_of(update, self.device)
        for each in self.modules.values():
            each.eval()
        return {"seconds": seconds, "update_seconds": update_seconds}


class OurLosses:
    """The losses of our agent on a batch of segments, as training computes them.

    `batch`: `observations` `(batch, time, 3, 64, 64)` in [0, 1]; `actions`, `rewards`, `ends`, `mask_padding`
    `(batch, time)`. For the actor-critic all frames but the last burn in.
    """

    def __init__(self, agent: Agent, engine: ImaginationEngine, coder: FrameCoder):
        """`coder`: encodes and decodes frames of the replay, as the epoch's cache does with its own."""
        self.agent, self.engine, self.coder = agent, engine, coder
        self.imagine_seconds = 0.0  # of the last rollout, burn-in included

    @torch.no_grad()
    def cached(self, part: str, batch: Arrays) -> Any:
        """The epoch cache's data for a batch: tokens, or the start of rollouts."""
        observations, coder = batch["observations"], self.coder
        if part == "world_model":
            return coder.tokens_of(observations.flatten(0, 1)).unflatten(0, observations.shape[:2])
        if part == "actor_critic":
            before, mask = observations[:, :-1], batch["mask_padding"]
            seen = coder.frames_of(coder.tokens_of(before.flatten(0, 1)))
            return ImaginationStart(
                seen.view(before.shape), mask[:, :-1], coder.tokens_of(observations[:, -1])
            )
        return None

    def total(self, part: str, batch: Arrays, horizon: int, seed: int, cached: Any = None) -> Tensor:
        """The sum of a part's losses; `cached`: what `cached` gave, None to compute it here."""
        if part == "tokenizer":
            losses = self.agent.tokenizer.losses(batch["observations"].flatten(0, 1))
        elif part == "world_model":
            tokens = self.cached(part, batch) if cached is None else cached
            names = ("actions", "rewards", "ends", "mask_padding")
            losses = self.agent.world_model.losses(tokens, *(batch[name] for name in names))
        else:
            start = self.cached(part, batch) if cached is None else cached
            self.imagine_seconds, rollout = seconds_of(
                lambda: self.engine.imagine(start, horizon, seed), self.agent.device
            )
            losses = actor_critic_losses(self.agent.actor_critic, rollout)
        return torch.stack([loss.float() for loss in losses.values()]).sum()
