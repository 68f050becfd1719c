"""Triton's interpreter, made quicker for tests: it computes the same."""

from __future__ import annotations

import functools
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any


def patch_language_once() -> None:
    """Lets the interpreter replace the functions of `triton.language` once a launch.

    It does so again at each call of a device function, which took half of the time of a launch.
    """
    try:
        from triton.runtime import interpreter
    except ModuleNotFoundError:
        return
    language = (interpreter.tl, interpreter.tl.core)
    patch = interpreter._patch_lang

    @functools.cache
    def languages_of(function: FunctionType) -> list[ModuleType]:
        return [value for value in function.__globals__.values() if any(value is each for each in language)]

    def patch_if_needed(function: Any) -> Any:
        if all(each.static_range.__module__ == interpreter.__name__ for each in languages_of(function)):
            return SimpleNamespace(restore=lambda: None)
        return patch(function)

    interpreter._patch_lang = patch_if_needed
