"""Random calls of the policy's LSTM and heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.imagination.fuzz_frames import MODEL_REFUSALS, SPOILED, FrameCalls, Shapes
from tests.imagination.fuzz_inputs import Array, are_weights, attempt, has_form, is_calm


@dataclass(frozen=True)
class Recurrence:
    """One that was made; `probe` are inputs of one row, and `expected` what they gave at first."""

    recurrence: Any
    count: int
    width: int
    actions: int
    calm: bool
    probe: tuple[Array, Array, Array]
    expected: tuple[Array, ...]


def recurrence_shapes(count: int, width: int, actions: int) -> Shapes:
    """The recurrent part of the actor-critic's state dict."""
    return {
        "lstm.weight_ih": (4 * width, count),
        "lstm.weight_hh": (4 * width, width),
        "lstm.bias_ih": (4 * width,),
        "lstm.bias_hh": (4 * width,),
        "actor_linear.weight": (actions, width),
        "actor_linear.bias": (actions,),
        "critic_linear.weight": (1, width),
        "critic_linear.bias": (1,),
    }


class RecurrenceCalls(FrameCalls):
    """Makes recurrences of random sizes, and steps them."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.recurrences: list[Recurrence] = []

    def recurrence(self) -> None:
        count, width, actions = self.whole(1, 70), self.whole(1, 50), self.whole(1, 20)
        shapes = recurrence_shapes(count, width, actions)
        weights = self.spoiled_weights(self.filled(shapes))
        # The sizes are read from the weights, so that one of another size may give another recurrence.
        fits = True if are_weights(weights, shapes) else None
        pool, simd = self.pool(), self.simd()
        made = attempt(
            lambda: self.extension.PolicyRecurrence(weights, pool, simd=simd),
            fits=fits,
            refusals=MODEL_REFUSALS,
        )
        if fits:
            probe = self._inputs(1, count, width)
            kept = Recurrence(
                made, count, width, actions, is_calm(*weights.values()), probe, made.step(*probe)
            )
            self.recurrences = [*self.recurrences[-5:], kept]

    def recur(self) -> None:
        if not self.recurrences:
            return
        made: Recurrence = self.pick(self.recurrences)
        batch = self.whole(0, 20)
        inputs = tuple(
            self.spoiled(array, SPOILED / 3) for array in self._inputs(batch, made.count, made.width)
        )
        rows = len(inputs[0]) if np.ndim(inputs[0]) else 0
        sizes = (made.count, made.width, made.width)
        fits = all(
            has_form(array, np.float32, (rows, size)) for array, size in zip(inputs, sizes, strict=True)
        )
        found = attempt(lambda: made.recurrence.step(*inputs), fits=fits)
        finite = made.calm and is_calm(*inputs)
        for array, shape in zip(
            found, ((rows, made.width), (rows, made.width), (rows, made.actions), (rows,)), strict=True
        ):
            self.check(array, shape, finite)
        if rows:
            row = self.whole(0, rows - 1)
            alone = made.recurrence.step(*(array[row : row + 1] for array in inputs))
            for one, all_rows in zip(alone, found, strict=True):
                assert np.array_equal(one, all_rows[row : row + 1], equal_nan=True)
        # Whatever was in the inputs, nothing of it stays.
        for now, before in zip(made.recurrence.step(*made.probe), made.expected, strict=True):
            assert np.array_equal(now, before, equal_nan=True)

    def _inputs(self, batch: int, count: int, width: int) -> tuple[Array, Array, Array]:
        features, hidden, cells = (
            self.random.standard_normal((batch, size), np.float32) for size in (count, width, width)
        )
        return features, hidden, cells
