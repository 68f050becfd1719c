"""Arithmetic that PyTorch's global switches do not change."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
Result = TypeVar("Result")


class _Switches:
    """PyTorch's switches, for one kind of device, that compute float32 products in fewer bits.

    They are one set for all threads. So the first thread that comes in sets them, and the last that goes out puts
    them back.
    """

    def __init__(self, *names: str):
        self._names = names  # below torch.backends
        self._lock = threading.Lock()
        self._inside = 0
        self._put_back: list[Callable[[], object]] = []

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._put_back = [undo for name in self._names if (undo := _made_exact(name))]

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                for undo in self._put_back:
                    undo()


def _made_exact(name: str) -> Callable[[], object] | None:
    """Sets one switch to float32; returns a function that restores it, or None if it was already float32."""
    if not hasattr(torch.backends, "fp32_precision"):  # PyTorch before 2.9 has one switch for all
        word = torch.get_float32_matmul_precision()
        if word == "highest":
            return None
        torch.set_float32_matmul_precision("highest")
        return functools.partial(torch.set_float32_matmul_precision, word)
    backend, _, operation = name.partition(".")
    whole = getattr(torch.backends, backend)
    switch = getattr(whole, operation)
    value = switch.fp32_precision
    if value in ("none", "ieee"):
        return None
    # One that says what its whole backend says is taken to follow it, and follows it again.
    before = "none" if getattr(whole, "fp32_precision", None) == value else value
    switch.fp32_precision = "ieee"
    return functools.partial(setattr, switch, "fp32_precision", before)


_SWITCHES = {
    "cpu": _Switches("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"),
    "cuda": _Switches("cuda.matmul"),
}


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """A context in which nothing is cast, on devices that know autocast."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """Products in the dtype of their factors: no autocast, and none of PyTorch's switches for float32 products.

    Those are `torch.set_float32_matmul_precision`, and `fp32_precision` and `allow_tf32` of `torch.backends`. What
    `torch.compile` makes a graph of follows the switches all the same, but for operators in it.
    """
    switches: AbstractContextManager[None] = _SWITCHES.get(device.type) or nullcontext()
    with nullcontext() if torch.compiler.is_compiling() else switches:
        if not (torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)):
            yield
            return
        with torch.autocast(device.type, enabled=False):
            yield


def exact_on_cpu(device: torch.device) -> AbstractContextManager[None]:
    """`exact_float32` on a CPU; elsewhere what the caller has set, as a run does by its `common.precision`."""
    return exact_float32(device) if device.type == "cpu" else nullcontext()


def in_exact_float32(function: Callable[P, Result]) -> Callable[P, Result]:
    """The function in `exact_float32` on the device of its first argument, a tensor."""

    @functools.wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> Result:
        first = args[0] if args else next(iter(kwargs.values()))
        if not isinstance(first, Tensor):
            return function(*args, **kwargs)  # which says what is wrong
        with exact_float32(first.device):
            return function(*args, **kwargs)

    return exact
