"""Gradient steps of one part: accumulation, clipping, loss scaling, and the check for divergence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from iris_fast.errors import RunStopped
from iris_fast.randomness import derive_seed

from .distributed import flattened, laid_out
from .measures import Sums, Totals, totals_of
from .parts import Losses, Part

# A batch predicted to take at most this is timed whole: small batches on a GPU, bound by launches, predict too
# little.
REHEARSED_SECONDS = {"cpu": 3.0, "cuda": 30.0}
# The optimizer settings taken from the configuration and the device, not from the checkpoint.
SETTINGS = ("lr", "weight_decay", "capturable")
SUM = "sum/"  # begins the names of a step's sums, among its losses


class MetricMeans:
    """Means of a phase's metrics, summed on the device, so that no step waits for the host."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().double() if value.device.type == "cpu" else value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def means(self, prefix: str) -> dict[str, float]:
        """The means of the losses and of other numbers of a step."""
        return {
            f"{prefix}/{name}": float(value) / self.count
            for name, value in self.sums.items()
            if not name.startswith(SUM)
        }

    def totals(self) -> Totals:
        """The phase's sums of what its batches say besides, by their names in `measures`."""
        return totals_of(
            {name.removeprefix(SUM): value for name, value in self.sums.items() if name.startswith(SUM)}
        )

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "sums": {name: value.tolist() for name, value in self.sums.items()}}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        self.count = state["count"]
        self.sums = {name: torch.tensor(v, dtype=dtype, device=device) for name, v in state["sums"].items()}


class PartTrainer:
    """Takes eager gradient steps on a part of the agent.

    All randomness of a step is drawn from its address. The objective is the sum of the losses, averaged over the
    step's batches, their pieces and, where several train, the processes. Raises RunStopped when a loss or gradient is
    not finite, before any weight changes on a CPU (on a GPU within `CHECK_EVERY` steps, before anything is saved).
    """

    CHECK_EVERY = 20

    def __init__(self, part: Part[Any], captured: bool = False):
        """`captured`: whether a CUDA graph will capture the optimizer's step."""
        self.part = part
        self.group = part.group
        self.parameters = part.parameters
        self.optimizer = part.optimizer(captured)
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=part.precision == "fp16")

    def step(self, run_seed: int, epoch: int, step: int) -> Losses:
        """One optimizer step; returns its losses, their sum, the gradient norm before clipping, and after `SUM` what
        its batches say besides."""
        self.optimizer.zero_grad(set_to_none=True)
        metrics: Losses = {}
        for seed in self.batch_seeds(run_seed, epoch, step):
            torch.manual_seed(seed)  # dropout
            inputs = self.part.training_inputs(seed, epoch, step)
            with self.group.dropout(seed, self.device):
                self._accumulate(inputs, metrics)
        if self.group.size > 1:
            self._take(self.group.add_up(self._given(metrics)), metrics)
        self._clip(metrics)
        if self.device.type == "cpu" or step % self.CHECK_EVERY == 0:
            self.check_finite(metrics, epoch, step)
        self._update()
        return metrics

    def rehearse(self, part: Part[Any], seconds_of: Callable[[Callable[[], object]], float]) -> float:
        """Seconds of a step, measured by `seconds_of` on the data of `part` (this part with other data).

        Several processes measure their own rows, without their collective, since each may measure more or less often.
        The weights do not change. A slow batch is extrapolated from a sixteenth of it.
        """

        def gradient(batch: int) -> None:
            self._accumulate(part.inputs(0, batch), {}, part)
            self.optimizer.zero_grad(set_to_none=True)

        whole = part.config.batch_num_samples // self.group.size
        few = max(1, whole // 16)
        gradient(few)
        seconds = seconds_of(lambda: gradient(few)) * whole / few
        if seconds <= REHEARSED_SECONDS[self.device.type]:
            seconds = seconds_of(lambda: gradient(whole))
        return seconds * part.config.grad_acc_steps

    def batch_seeds(self, run_seed: int, epoch: int, step: int) -> list[int]:
        """The seeds of the batches of a step."""
        return [
            derive_seed(run_seed, self.part.name, epoch, step, batch)
            for batch in range(self.part.config.grad_acc_steps)
        ]

    def _accumulate(self, inputs: Any, metrics: Losses, part: Part[Any] | None = None) -> None:
        """Adds the gradient of a batch's losses to the parameters', and losses and sums to `metrics`.

        `part`: the one whose losses are taken, if not this trainer's.
        """
        share = 1 / (self.part.config.grad_acc_steps * self.part.pieces * self.group.size)
        sums: Sums = {}
        for losses in (part or self.part).losses(inputs, sums):
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
            self.scaler.scale(total * share).backward()
            losses["total_loss"] = total
            for name, loss in losses.items():
                metrics[name] = metrics.get(name, 0) + loss.detach() * share
        for name, value in sums.items():
            metrics[SUM + name] = metrics.get(SUM + name, 0) + value

    def _given(self, metrics: Losses) -> Tensor:
        """This process's gradient, losses and sums in one tensor, to be added up over processes."""
        return flattened([p.grad for p in self.parameters if p.grad is not None] + list(metrics.values()))

    def _take(self, flat: Tensor, metrics: Losses) -> None:
        """Makes the sums over processes the parameters' gradients and the numbers in `metrics`."""
        trained = [parameter for parameter in self.parameters if parameter.grad is not None]
        sums = laid_out(flat, [*trained, *metrics.values()])
        for parameter, gradient in zip(trained, sums, strict=False):
            parameter.grad = gradient
        metrics.update(zip(metrics, sums[len(trained) :], strict=True))

    def _clip(self, metrics: Losses) -> None:
        self.scaler.unscale_(self.optimizer)
        metrics["grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, self.part.config.max_grad_norm)

    def _update(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.part.module.weights_changed(in_place=True)

    def check_finite(self, metrics: Losses, epoch: int, step: int) -> None:
        """RunStopped if the sum of the losses or the gradient is NaN or infinite."""
        watched = ["total_loss"] if self.scaler.is_enabled() else ["total_loss", "grad_norm"]
        part = self.part.name
        for name in watched:
            value = float(metrics[name])
            if not math.isfinite(value):
                raise RunStopped(
                    f"{part.replace('_', ' ')} {name} became {value} in epoch {epoch}, step {step}: nothing "
                    "of this epoch was saved; resume with another seed (common.seed), a lower "
                    f"training.{part}.learning_rate or training.{part}.max_grad_norm",
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
