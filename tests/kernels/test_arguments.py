"""Every number argument of every public operation takes numbers of any library and refuses other values."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import iris_fast.kernels as kernels
from iris_fast.kernels import philox_4x32
from iris_fast.kernels.common.arguments import _kinds, as_float, as_int

from .harness import flat

PUBLIC = sorted(name for name in kernels.__all__ if name.islower() and name != "philox_4x32")


def valid_calls() -> dict[str, dict[str, Any]]:
    """Keyword arguments of a call of each function that give a number to every argument that takes one."""
    given = {name: one for spec in kernels.SPECS.values() for name, one in spec.arguments().items()}
    for spec in kernels.SPECS.values():
        if spec.reference is not None:
            taken = inspect.signature(spec.reference).parameters
            own = given[spec.name].items()
            given[spec.reference.__name__] = {name: value for name, value in own if name in taken}
    return given


def arguments_of(kinds: set[Any]) -> Iterator[tuple[str, str]]:
    """Operation and argument, of those whose annotation allows one of `kinds` and that `valid_calls` gives."""
    for name in PUBLIC:
        hints = typing.get_type_hints(getattr(kernels, name))
        for argument in valid_calls()[name]:
            if set(_kinds(hints[argument])) & kinds:
                yield name, argument


def test_every_public_function_has_a_call() -> None:
    assert set(valid_calls()) == set(PUBLIC)


@pytest.mark.parametrize(("name", "argument"), list(arguments_of({int, float, bool})))
def test_numpy_numbers_give_what_python_s_give(name: str, argument: str) -> None:
    function, given = getattr(kernels, name), valid_calls()[name]
    value = given[argument]
    kinds: dict[type, list[Callable[[Any], Any]]] = {
        bool: [np.bool_],
        int: [np.int64, np.uint8, np.array],
        float: [np.float32, np.float64, np.array],
    }
    for kind in kinds[type(value)]:
        expected = flat(function(**(valid_calls()[name] | {argument: type(value)(kind(value))})))
        found = flat(function(**(valid_calls()[name] | {argument: kind(value)})))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("name", "argument"), list(arguments_of({int, float, bool, str, Tensor})))
def test_what_is_no_such_value_is_refused_by_name(name: str, argument: str) -> None:
    function, given = getattr(kernels, name), valid_calls()[name]
    kinds = set(_kinds(typing.get_type_hints(function)[argument]))
    wrong: list[Any] = [[1], b"1", 1j, object(), np.ones(2)]
    wrong += [] if str in kinds else ["1"]
    wrong += [] if bool in kinds else [True, np.True_]
    wrong += [] if None in kinds else [None]
    wrong += [] if Tensor in kinds else [torch.ones(()), torch.ones(2)]
    wrong += [] if float in kinds else [1.0, np.float32(1)]
    for value in wrong:
        with pytest.raises(TypeError, match=rf"^{argument} must be "):
            function(**(given | {argument: value}))
    for value in (float("nan"), np.float32("nan")) if float in kinds else ():
        with pytest.raises(ValueError, match=argument):
            function(**(given | {argument: value}))


def out_of_range(name: str, value: Any, argument: str) -> list[int | float]:
    """Numbers that an argument refuses: the infinite, and the negative but where they have a meaning."""
    any_sign = {one for spec in kernels.SPECS.values() if name in spec.arguments() for one in spec.any_sign}
    infinite = [math.inf, -math.inf] if isinstance(value, float) else []
    return infinite + ([] if argument in any_sign else [type(value)(-1)])


@pytest.mark.parametrize(
    ("name", "argument"),
    [pair for pair in arguments_of({int, float}) if pair != ("vq_statistics_reference", "num_codes")],
)
def test_numbers_out_of_range_are_refused_by_name(name: str, argument: str) -> None:
    given = valid_calls()[name]
    for value in out_of_range(name.removesuffix("_reference"), given[argument], argument):
        with pytest.raises(ValueError, match=argument if argument != "lengths" else "lengths -1"):
            getattr(kernels, name)(**(given | {argument: value}))


def test_philox_takes_the_words_of_numpy_and_refuses_what_is_no_word() -> None:
    expected = philox_4x32((1, 2, 3, 4), (5, 6))
    for kind in (np.int64, np.uint32, np.uint64):
        counter = (kind(1), kind(2), kind(3), kind(4))
        assert philox_4x32(counter, (kind(5), kind(6))) == expected  # type: ignore[arg-type]
    for wrong in (-1, 2**32):
        with pytest.raises(ValueError, match=r"counter\[0\] must be"):
            philox_4x32((wrong, 2, 3, 4), (5, 6))
    with pytest.raises(TypeError, match=r"key\[1\] must be"):
        philox_4x32((1, 2, 3, 4), (5, 6.0))  # type: ignore[arg-type]


def test_numbers_alone() -> None:
    assert as_int("n", np.int16(3)) == 3 and type(as_int("n", np.int16(3))) is int
    assert type(as_float("x", np.float64(0.5))) is float and as_float("x", 2) == 2.0
