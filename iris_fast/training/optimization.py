"""Gradient steps of one part: optimizer, accumulation, clipping, loss scaling, and the check for divergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from iris_fast.config.schema import PartConfig
from iris_fast.errors import RunStopped
from iris_fast.imagination.randomness import derive_seed
from iris_fast.models.versioned import Versioned

Losses = dict[str, Tensor]
# Of an optimizer, what the configuration and the device say and not the checkpoint.
SETTINGS = ("lr", "weight_decay", "capturable")


def weight_decay_groups(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters with weight decay (weights of Linear layers alone) and those without."""
    decayed: list[nn.Parameter] = [m.weight for m in module.modules() if isinstance(m, nn.Linear)]  # type: ignore[misc]
    identities = {id(parameter) for parameter in decayed}
    return decayed, [p for p in module.parameters() if id(p) not in identities]


def adam(
    parameters: list[nn.Parameter], learning_rate: float, captured: bool = True
) -> torch.optim.Optimizer:
    """Adam; `captured`: whether a CUDA graph may take its step in, on a GPU, where it then counts its steps."""
    capturable = captured and parameters[0].is_cuda
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True, capturable=capturable)


def adamw(
    module: nn.Module, learning_rate: float, weight_decay: float, captured: bool = True
) -> torch.optim.Optimizer:
    """AdamW with weight decay on the weights of Linear layers alone; `captured` as of `adam`."""
    decayed, others = weight_decay_groups(module)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    capturable = captured and decayed[0].is_cuda
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True, capturable=capturable)


class MetricMeans:
    """Means of a phase's metrics, summed on the device so that a step need not wait for the host."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().double() if value.device.type == "cpu" else value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def means(self, prefix: str) -> dict[str, float]:
        return {f"{prefix}/{name}": float(value) / self.count for name, value in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "sums": {name: float(value) for name, value in self.sums.items()}}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self.count = state["count"]
        self.sums = {name: torch.tensor(v, dtype=dtype, device=device) for name, v in state["sums"].items()}


class PartTrainer:
    """Takes gradient steps on `module`, one part of the agent.

    `losses(seed)` gives the losses of a batch, everything random in it drawn from `seed`, in `pieces` equal
    pieces one after the other, so that the memory of one serves the next; the mean of their sums is minimised.
    It sees to its own precision; `precision` says here whether gradients need scaling (fp16). Raises RunStopped
    when a loss or gradient is not finite, before any weight changes on a CPU (on a GPU within `CHECK_EVERY`
    steps, before anything is saved).
    """

    CHECK_EVERY = 20

    def __init__(
        self,
        name: str,
        config: PartConfig,
        module: Versioned,
        optimizer: torch.optim.Optimizer,
        losses: Callable[[int], Iterable[Losses]],
        precision: str,
        pieces: int = 1,
    ):
        self.name = name
        self.config = config
        self.module = module
        self.parameters = module.trained_parameters()
        self.optimizer = optimizer
        self.losses = losses
        self.pieces = pieces
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")

    def step(self, run_seed: int, epoch: int, step: int) -> Losses:
        """One optimizer step; returns its losses, their sum and the gradient norm before clipping."""
        self.optimizer.zero_grad(set_to_none=True)
        metrics: Losses = {}
        for seed in self.batch_seeds(run_seed, epoch, step):
            torch.manual_seed(seed)  # dropout
            self._accumulate(self.losses(seed), metrics)
        self._clip(metrics)
        if self.device.type == "cpu" or step % self.CHECK_EVERY == 0:
            self.check_finite(metrics, epoch, step)
        self._update()
        return metrics

    def batch_seeds(self, run_seed: int, epoch: int, step: int) -> list[int]:
        """What the batches of a step are drawn from."""
        return [
            derive_seed(run_seed, self.name, epoch, step, batch)
            for batch in range(self.config.grad_acc_steps)
        ]

    def _accumulate(self, pieces: Iterable[Losses], metrics: Losses) -> None:
        """Adds the gradient of a batch's losses to the parameters', and the losses to `metrics`."""
        share = 1 / (self.config.grad_acc_steps * self.pieces)
        for losses in pieces:
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
            self.scaler.scale(total * share).backward()
            losses["total_loss"] = total
            for name, loss in losses.items():
                metrics[name] = metrics.get(name, 0) + loss.detach() * share

    def _clip(self, metrics: Losses) -> None:
        self.scaler.unscale_(self.optimizer)
        metrics["grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)

    def _update(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.module.weights_changed(in_place=True)

    def check_finite(self, metrics: Losses, epoch: int, step: int) -> None:
        """RunStopped when the sum of the losses, or the gradient, has become NaN or infinite."""
        watched = ["total_loss"] if self.scaler.is_enabled() else ["total_loss", "grad_norm"]
        for name in watched:
            value = float(metrics[name])
            if not math.isfinite(value):
                raise RunStopped(
                    f"{self.name.replace('_', ' ')} {name} became {value} in epoch {epoch}, step {step}: nothing "
                    "of this epoch was saved; resume with another seed (common.seed), a lower "
                    f"training.{self.name}.learning_rate or training.{self.name}.max_grad_norm",
                    exit_code=3,
                )

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        own = [{name: group[name] for name in SETTINGS} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)  # an override given at resume counts
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
