"""Modules that count how often their weights have changed: the one answer to whether a copy of weights is fresh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn


class Version(NamedTuple):
    """`changes`: of the weights, of any kind; `moves`: those after which parameters may lie elsewhere in memory."""

    changes: int
    moves: int


class Versioned(nn.Module):
    """A part of the agent, whose `version` rises at each change of its weights.

    Packed copies, decoded frames, cached tokens and captured graphs are made anew where it has risen. It rises by
    itself when weights are loaded, moved or converted, and by the gradient steps and codebook restarts of this
    project. Whoever changes weights by other means calls `weights_changed`: PyTorch cannot tell, since its fused
    optimizers count no tensor's versions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.version = Version(0, 0)
        self.register_load_state_dict_post_hook(_loaded)

    def weights_changed(self, *, in_place: bool = False) -> None:
        """Says that weights have changed.

        `in_place`: every parameter is still the same memory, as after an optimizer's step, so that CUDA graphs which
        read it need not be captured anew.
        """
        changes, moves = self.version
        self.version = Version(changes + 1, moves + (not in_place))

    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters that gradient steps change."""
        return list(self.parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        applied = super()._apply(fn, recurse)
        self.weights_changed()
        return applied


def _loaded(module: Any, incompatible_keys: object) -> None:
    module.weights_changed()
