"""Gradient steps as CUDA graphs: one replay for losses, gradients, clipping and the optimizer.

The data of a step is chosen on the host, gathered on the device, and copied into the graph's inputs. Dropout draws
from PyTorch's generator; a replay reads its current seed. The graphs have not yet run on a GPU. Without capture,
their functions are tested against the eager steps bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from iris_fast.graphs import GraphedCall, Graphs, Tensors
from iris_fast.models.versioned import Versioned

from .optimization import PartTrainer
from .parts import Losses, Part


@contextmanager
def preserved(module: Versioned, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Undoes, in place, the effect of gradient steps in its block on a part's parameters, optimizer and generators.

    State that the optimizer creates at its first step stays, as zeros.
    """
    parameters = module.trained_parameters()
    weights = [parameter.detach().clone() for parameter in parameters]
    before = {
        parameter: {name: value.clone() for name, value in _tensors(state)}
        for parameter, state in optimizer.state.items()
    }
    devices = {parameter.device for parameter in parameters if parameter.is_cuda}
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        _restore(parameters, weights, optimizer, before)
        module.weights_changed(in_place=True)


def _restore(
    parameters: list[nn.Parameter],
    weights: list[Tensor],
    optimizer: torch.optim.Optimizer,
    before: dict[Any, dict[str, Tensor]],
) -> None:
    with torch.no_grad():
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.copy_(weight)
        for owner, state in optimizer.state.items():
            for name, value in _tensors(state):
                if owner in before:
                    value.copy_(before[owner][name])
                else:
                    value.zero_()


def _tensors(state: dict[str, Any]) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in state.items() if isinstance(value, Tensor)]


class GraphedPartTrainer(PartTrainer):
    """A `PartTrainer` that captures its step at the first call.

    Inputs are gathered before each replay and are not captured. Losses that are not finite end the run within
    `CHECK_EVERY` steps, before anything is saved. With `grad_acc_steps` above 1, dropout is seeded once for all
    batches of a step. fp16 is not supported, because its loss scaling stays eager.

    With several processes a step is two captures, and between them the collective.
    """

    def __init__(self, part: Part[Any], graphs: Graphs):
        if part.precision == "fp16":
            raise ValueError("gradient steps in fp16 are not captured: use PartTrainer, or bf16")
        if not part.capturable:
            raise ValueError(
                f"the losses of the {part.name} have a collective, so PartTrainer takes their steps"
            )
        super().__init__(part, captured=True)
        self.graphs = graphs
        self._new_calls()

    def step(self, run_seed: int, epoch: int, step: int) -> Losses:
        """As `PartTrainer.step`."""
        seeds = self.batch_seeds(run_seed, epoch, step)
        metrics = self.replay(seeds, lambda seed: self.part.training_inputs(seed, epoch, step))
        if step % self.CHECK_EVERY == 0:
            self.check_finite(metrics, epoch, step)
        return metrics

    def rehearse(self, part: Part[Any], seconds_of: Callable[[Callable[[], object]], float]) -> float:
        """Seconds of a captured step, measured by `seconds_of`; the weights do not change.

        Later steps replay this capture, so the data of `part` must have the names and shapes of this part's data.
        """
        seeds = self.batch_seeds(0, 0, 0)
        with preserved(self.part.module, self.optimizer):
            self.replay(seeds, part.inputs, together=False)
            return seconds_of(lambda: self.replay(seeds, part.inputs, together=False))

    def replay(self, seeds: list[int], inputs: Callable[[int], Any], together: bool = True) -> Losses:
        """One optimizer step on the result of `inputs` for each batch's seed; the gradient is in the parameters'
        `grad`. Unless `together`, the other processes' gradients are left out."""
        torch.manual_seed(seeds[0])  # dropout, as in an eager step
        batches = {str(batch): inputs(seed) for batch, seed in enumerate(seeds)}
        with self.group.dropout(seeds[0], self.device):
            found = self._call(batches)
        if self.group.size > 1:
            flat = self.group.add_up(found["flat"]) if together else found["flat"]
            found = self._finish({"flat": flat})
        metrics = {name: value.clone() for name, value in found.items()}
        # A replay runs none of the code that it was captured from.
        self.part.module.weights_changed(in_place=True)
        return metrics

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._new_calls()  # the optimizer's state lies elsewhere now

    def _new_calls(self) -> None:
        preserve = lambda: preserved(self.part.module, self.optimizer)  # noqa: E731
        alone = self.group.size == 1
        self._call = GraphedCall(self._body if alone else self._gradient, self.graphs, preserve)
        self._finish = GraphedCall(self._rest, self.graphs, preserve)
        self._metrics: Losses = {}  # of `_gradient`, by their names

    def _body(self, batches: dict[str, Any]) -> Tensors:
        metrics = self._losses_of(batches)
        self._clip(metrics)
        self._update()
        return metrics

    def _gradient(self, batches: dict[str, Any]) -> Tensors:
        self._metrics = self._losses_of(batches)
        return {"flat": self._given(self._metrics)}

    def _rest(self, inputs: Tensors) -> Tensors:
        metrics = dict(self._metrics)
        self._take(inputs["flat"], metrics)
        self._clip(metrics)
        self._update()
        return metrics

    def _losses_of(self, batches: dict[str, Any]) -> Losses:
        """The losses of the batches, whose gradient is then in the parameters' `grad`."""
        for parameter in self.parameters:
            parameter.grad = None  # so that the backward pass writes gradients rather than adds to them
        metrics: Losses = {}
        for inputs in batches.values():
            self._accumulate(inputs, metrics)
        return metrics


def make_part_trainer(part: Part[Any], graphs: Graphs | None) -> PartTrainer:
    """A trainer with steps captured by `graphs`; eager steps if `graphs` is None, in fp16, or for losses with a
    collective."""
    if graphs is None or part.precision == "fp16" or not part.capturable:
        return PartTrainer(part)
    return GraphedPartTrainer(part, graphs)
