"""Modules that count the changes of their weights; the count tells whether a copy is fresh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn


class Version(NamedTuple):
    """`changes`: number of changes of the weights; `moves`: number of changes that may have moved parameters in
    memory."""

    changes: int
    moves: int


class Versioned(nn.Module):
    """A part of the agent; its `version` rises at each change of its weights.

    When it has risen, packed copies, decoded frames, cached tokens and captured graphs are made again. Loading,
    moving and converting weights raise it, and so do this project's gradient steps and codebook restarts. Code that
    changes weights in another way must call `weights_changed`: PyTorch cannot tell, because its fused optimizers do
    not update tensors' version counters."""

    def __init__(self) -> None:
        super().__init__()
        self.version = Version(0, 0)
        self.register_load_state_dict_post_hook(_loaded)

    def weights_changed(self, *, in_place: bool = False) -> None:
        """Records that weights have changed.

        `in_place`: every parameter kept its memory, as after an optimizer step, so CUDA graphs that read it stay
        valid."""
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
