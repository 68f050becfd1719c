"""Converts arguments of public functions to their annotated types: numbers of any library, or an error in one
sentence."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

_LARGEST = 1.7976931348623157e308  # of the finite floats

P = ParamSpec("P")
Result = TypeVar("Result")


def with_checked_types(function: Callable[P, Result]) -> Callable[P, Result]:
    """The function, called with arguments of its annotated types: `int(n)` and `float(n)` of any such number.

    Arguments annotated by tensors, numbers, bools, strings, dtypes and None are checked, others left alone.

    An int is what Python takes for an index (NumPy's integers too), a float any real number but NaN; neither is a
    bool, a tensor or an array of several. A float may be left to be an int, a bool be NumPy's. Everything else raises
    TypeError, and NaN ValueError, naming the argument.
    """
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    names = tuple(name for name, one in parameters.items() if one.kind is not one.VAR_POSITIONAL)
    kinds = {name: kinds for name in names if set(kinds := _kinds(hints.get(name, object))) <= set(_WORDS)}

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Result:
        given: list[Any] = [
            _checked(name, kinds[name], value) if name in kinds else value
            for name, value in zip(names, args, strict=False)
        ]
        given += args[len(names) :]  # too many: Python says so
        named = {
            name: _checked(name, kinds[name], value) if name in kinds else value
            for name, value in kwargs.items()
        }
        return function(*given, **named)  # type: ignore[arg-type]

    return checked


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation allows, with None for its type; only those of `_WORDS` are checked."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(annotation) for kind in _kinds(part))
    if typing.get_origin(annotation) is Literal:
        return (type(typing.get_args(annotation)[0]),)
    return (None if annotation is type(None) else annotation,)


def _checked(name: str, kinds: tuple[Any, ...], value: Any) -> Any:
    if isinstance(value, Tensor):
        if Tensor in kinds:
            return value
    elif value is None:
        if None in kinds:
            return value
    elif (int in kinds or float in kinds) and not isinstance(value, str):
        return as_int(name, value, kinds) if int in kinds else as_float(name, value, kinds)
    elif bool in kinds and _is_bool(value):
        return bool(value)
    elif any(isinstance(value, kind) for kind in (str, torch.dtype) if kind in kinds):
        return value
    raise _refusal(name, kinds, value)


def as_int(name: str, value: Any, kinds: tuple[Any, ...] = (int,)) -> int:
    """`value` as an int; TypeError with the argument's `name` if it is not one."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if not (_is_bool(value) or isinstance(value, Tensor)):
        try:
            return int(operator.index(value))
        except TypeError:
            pass
    raise _refusal(name, kinds, value)


def as_float(name: str, value: Any, kinds: tuple[Any, ...] = (float,)) -> float:
    """`value` as a float; TypeError with the argument's `name` if it is not one, ValueError for NaN."""
    if type(value) is not float and not isinstance(value, torch.SymFloat):
        is_number = hasattr(type(value), "__float__") or hasattr(type(value), "__index__")
        if not is_number or _is_bool(value) or isinstance(value, Tensor) or getattr(value, "ndim", 0) != 0:
            raise _refusal(name, kinds, value)
        try:
            value = float(value)
        except (TypeError, ValueError, OverflowError):
            raise _refusal(name, kinds, value) from None
    if value != value:
        raise ValueError(f"{name} must be a number, got nan")
    return value  # type: ignore[no-any-return]


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")  # NumPy's have both names


_WORDS = {
    Tensor: "a tensor",
    int: "an int",
    float: "a float",
    bool: "a bool",
    str: "a string",
    torch.dtype: "a torch.dtype",
    None: "None",
}


def _refusal(name: str, kinds: tuple[Any, ...], value: Any) -> TypeError:
    *some, last = [_WORDS[kind] for kind in kinds]
    wanted = f"{', '.join(some)} or {last}" if some else last
    kind = "a tensor" if isinstance(value, Tensor) else type(value).__name__
    shape = getattr(value, "shape", None)
    found = repr(value) if shape is None else f"of shape {tuple(shape)}"
    return TypeError(f"{name} must be {wanted}, got {kind} {found:.60}")


def check_range(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises ValueError unless `value` is finite, at least `low` and at most `high`."""
    if not max(low, -_LARGEST) <= value <= min(high, _LARGEST):
        bound = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
        wanted = "finite" if math.isinf(low) else f"finite and {bound}"
        raise ValueError(f"{name} must be {wanted}, got {value}")


def as_rows(tensor: Tensor) -> Tensor:
    """(..., n) as (rows, n), () as (1, 1): by sizes alone that a graph may leave open."""
    if tensor.dim() < 2:
        return tensor[None] if tensor.dim() else tensor.reshape(1, 1)
    return tensor.flatten(0, -2)
