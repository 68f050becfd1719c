"""`torch.compile` beside ours: compiled before anything is timed, and left out in words where it does not work."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from .peers import Unavailable, brief

NAME = "torch.compile"
Function = Callable[..., Any]


@lru_cache
def trouble(device: str) -> str | None:
    """Why nothing can be compiled for the device type ("cpu", "cuda"), None where it can; tried once a process.

    A CPU's code wants a C++ compiler, which not every machine has. The first compilation of a process also takes
    the most time, which then no later one is blamed for.
    """
    numbers = torch.zeros(8, device=device)
    try:
        with torch.no_grad():
            torch.compile(lambda x: x.sin() + 1, dynamic=False)(numbers)
    except Exception as error:  # whatever a compiler that is not there, or a backend, raises
        return f"does not compile here: {brief(error)}"
    finally:
        torch._dynamo.reset()
    return None


def compiled(function: Function, device: torch.device, dynamic: bool = False) -> Function:
    """`torch.compile` of a function, for one shape unless `dynamic`; raises Unavailable where nothing compiles.

    Compiling happens at the first call: compare its outputs before timing it. Nothing is kept of shapes compiled
    before, which PyTorch would give up on after some.
    """
    if (why := trouble(device.type)) is not None:
        raise Unavailable(why)
    torch._dynamo.reset()
    return torch.compile(function, dynamic=dynamic)


def compiled_side(
    function: Function, device: torch.device, wanted: bool, dynamic: bool = False
) -> tuple[dict[str, Function], dict[str, str]]:
    """The function compiled, by the name of its side, or why it is not there; nothing where it is not `wanted`.

    Compiling takes a second or more a size, so not all sizes want it.
    """
    if not wanted:
        return {}, {}
    try:
        return {NAME: compiled(function, device, dynamic)}, {}
    except Unavailable as reason:
        return {}, {NAME: str(reason)}
