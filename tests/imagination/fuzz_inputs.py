"""The fuzzer's inputs, arrays that are sometimes slightly wrong, and its judgement of the results.

A call whose arguments fit must work; one whose arguments do not must be refused by a documented exception.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
DTYPES = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool", "complex64", "object")
VALUES = (0, 1, -1, 2, 5, 2**31, -(2**63), 2**63 - 1, float("nan"), float("inf"), -1e38, 1e-40, 7e4)
CALM = 1e3  # no float32 overflows on the way from weights and inputs below this


class Refused(Exception):
    """A call raised what it is documented to raise."""


def attempt(
    call: Callable[[], Any],
    *,
    fits: bool | None,
    refusals: tuple[type[Exception], ...] = (TypeError, ValueError),
) -> Any:
    """What `call` gives; Refused for one of `refusals`.

    `fits`: whether it has to work, or has to be refused; None where either is right. RuntimeError is no refusal:
    it is documented for a dream that was interrupted or is in use by another thread, which no call here meets.
    """
    try:
        result = call()
    except refusals as refusal:
        assert fits is not True, f"refused what fits: {refusal}"
        raise Refused from refusal
    assert fits is not False, "took what does not fit"
    return result


def unaligned(array: Array) -> Array:
    """A copy that begins one byte past where its elements should."""
    room = np.zeros(array.nbytes + 1, np.uint8)[1:]
    copy = room.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def has_form(argument: Any, dtype: Any, shape: tuple[int, ...], limit: int | None = None) -> bool:
    """Whether the binding takes it as an array of this kind: aligned, in row-major order, in [0, limit)."""
    array = np.asarray(argument)
    flags = array.flags
    fits = array.dtype == dtype and array.shape == shape and flags.c_contiguous and flags.aligned
    return bool(fits and (limit is None or ((array >= 0) & (array < limit)).all()))


def are_weights(weights: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> bool:
    """Whether each name, and no other, holds a float32 array of its shape."""
    return weights.keys() == shapes.keys() and all(
        isinstance(weights.get(name), np.ndarray) and has_form(weights[name], np.float32, shape)
        for name, shape in shapes.items()
    )


def is_calm(*arrays: Any) -> bool:
    """Whether all are small numbers, so that results must be finite."""
    return all(bool((np.abs(np.asarray(array, np.float64)) <= CALM).all()) for array in arrays)


class Inputs:
    """A stream of random choices and of arrays that are sometimes spoiled."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)

    def pick(self, options: Any) -> Any:
        return options[int(self.random.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def whole(self, least: int, most: int) -> int:
        """A whole number in [least, most]."""
        return int(self.random.integers(least, most + 1))

    def size(self) -> int:
        return int(self.random.integers(0, 40)) if self.chance(0.97) else self.pick((2**20, 2**40, 2**62))

    def spoiled(self, array: Array, probability: float = 0.1) -> Any:
        """The array, or with that probability something that is not quite it."""
        if not self.chance(probability):
            return array
        way = self.random.integers(9)
        if way == 0:
            with np.errstate(all="ignore"):
                return array.astype(self.pick(DTYPES), casting="unsafe")
        if way == 1:
            return array[..., ::-1]
        if way == 2:
            return np.asfortranarray(array)
        if way == 3:
            return array[:-1]
        if way == 4:
            return array[None]
        if way == 5:
            return np.repeat(array, 2, axis=-1)[..., ::2]
        if way == 6:
            return unaligned(array)
        if way == 7:
            return self.pick((None, 3, [1, 2], "text", np.float32(1), np.zeros(0, np.int64)))
        changed = array.copy()
        if changed.size:
            value = self.pick(VALUES)
            with np.errstate(all="ignore"):
                changed.flat[int(self.random.integers(changed.size))] = np.array(value).astype(changed.dtype)
        return changed

    def spoiled_weights(self, weights: dict[str, Array]) -> dict[str, Any]:
        """The weights; every third time with one of them spoiled or missing, or with one too many."""
        result: dict[str, Any] = dict(weights)
        if self.chance(0.33):
            name = self.pick(sorted(result))
            result[name] = self.spoiled(result[name], 1.0)
            if self.chance(0.2):
                del result[name]
            elif self.chance(0.1):
                result[f"another.{name}"] = weights[name]
        return result

    def filled(self, shapes: dict[str, tuple[int, ...]], scale: float = 1.0) -> dict[str, Array]:
        """A state dict of these shapes."""
        return {
            name: np.float32(scale) * self.random.standard_normal(shape, np.float32)
            for name, shape in shapes.items()
        }
