"""Gradient steps as CUDA graphs: losses, gradients, clipping and the optimizer in one replay.

What a step is drawn from is chosen on the host and gathered on the device first, and copied into the graph's inputs;
dropout draws from PyTorch's generator, whose seed a replay reads anew. As graphs on a GPU these steps have never run:
none was to be had. What they capture is tested uncaptured, against the eager steps, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from iris_fast.config.schema import PartConfig
from iris_fast.graphs import GraphedCall, Graphs, Tensors
from iris_fast.models.versioned import Versioned

from .optimization import Losses, PartTrainer


@contextmanager
def preserved(module: Versioned, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Undoes in place what gradient steps inside it do to a part's parameters, its optimizer and generators.

    What the optimizer makes at its first step stays, as zeros: as it was made.
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
    """A `PartTrainer` whose step is captured at the first one.

    `inputs(seed)` gives what the losses of a batch are computed from, on the device and in a form that `GraphedCall`
    takes; `losses_of` computes them in pieces and may not look at a number from the host. Losses that are not finite
    end the run within `CHECK_EVERY` steps, before anything is saved. With `grad_acc_steps` above 1 the dropout of all
    batches goes on from the first one's seed. Not for fp16, whose scaling is kept eager.
    """

    def __init__(
        self,
        name: str,
        config: PartConfig,
        module: Versioned,
        optimizer: torch.optim.Optimizer,
        inputs: Callable[[int], Any],
        losses_of: Callable[[Any], Iterable[Losses]],
        precision: str,
        pieces: int,
        graphs: Graphs,
    ):
        if precision == "fp16":
            raise ValueError("gradient steps in fp16 are not captured: use PartTrainer, or bf16")
        super().__init__(
            name, config, module, optimizer, lambda seed: losses_of(inputs(seed)), precision, pieces
        )
        self.inputs = inputs
        self.losses_of = losses_of
        self.graphs = graphs
        self._call = self._new_call()

    def step(self, run_seed: int, epoch: int, step: int) -> Losses:
        """One optimizer step; its losses, their sum and the gradient norm before clipping."""
        metrics = self.replay(self.batch_seeds(run_seed, epoch, step), self.inputs)
        if step % self.CHECK_EVERY == 0:
            self.check_finite(metrics, epoch, step)
        return metrics

    def rehearse(
        self, inputs: Callable[[int], Any], seconds_of: Callable[[Callable[[], object]], float]
    ) -> float:
        """What `seconds_of` says of a step on what `inputs` gives, once it is captured; nothing is learned from it.

        Later steps replay what was captured here: `inputs` must give names and shapes that theirs have.
        """
        seeds = self.batch_seeds(0, 0, 0)
        with preserved(self.module, self.optimizer):
            self.replay(seeds, inputs)
            return seconds_of(lambda: self.replay(seeds, inputs))

    def replay(self, seeds: list[int], inputs: Callable[[int], Any]) -> Losses:
        """One optimizer step on what `inputs` gives for each batch's seed; its gradient is the parameters' `grad`."""
        torch.manual_seed(seeds[0])  # dropout, as in an eager step
        batches = {str(batch): inputs(seed) for batch, seed in enumerate(seeds)}
        metrics = {name: value.clone() for name, value in self._call(batches).items()}
        self.module.weights_changed(in_place=True)  # a replay runs none of the code that it was captured from
        return metrics

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._call = self._new_call()  # the optimizer's state lies elsewhere now

    def _new_call(self) -> GraphedCall:
        return GraphedCall(self._body, self.graphs, lambda: preserved(self.module, self.optimizer))

    def _body(self, batches: dict[str, Any]) -> Tensors:
        for parameter in self.parameters:
            parameter.grad = None  # so that the backward pass writes gradients instead of adding to them
        metrics: Losses = {}
        for inputs in batches.values():
            self._accumulate(self.losses_of(inputs), metrics)
        self._clip(metrics)
        self._update()
        return metrics


def is_captured(graphs: Graphs | None, precision: str) -> bool:
    """Whether gradient steps are captured: not without graphs, nor in fp16."""
    return graphs is not None and precision != "fp16"


def make_part_trainer(
    name: str,
    config: PartConfig,
    module: Versioned,
    optimizer: torch.optim.Optimizer,
    inputs: Callable[[int], Any],
    losses_of: Callable[[Any], Iterable[Losses]],
    precision: str,
    pieces: int,
    graphs: Graphs | None,
) -> PartTrainer:
    """A trainer whose steps `graphs` capture; eager ones without, and in fp16."""
    if graphs is None or not is_captured(graphs, precision):
        return PartTrainer(
            name, config, module, optimizer, lambda seed: losses_of(inputs(seed)), precision, pieces
        )
    return GraphedPartTrainer(name, config, module, optimizer, inputs, losses_of, precision, pieces, graphs)
