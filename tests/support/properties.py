"""Hypothesis; or, on a machine without it, tests of properties that are skipped."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["given", "settings", "st"]

try:
    from hypothesis import given, settings
    from hypothesis import strategies as st
except ModuleNotFoundError:

    class _Absent:
        """Stands for every strategy, and what is made of it."""

        def __getattr__(self, name: str) -> _Absent:
            return self

        def __call__(self, *_: object, **__: object) -> _Absent:
            return self

    st: Any = _Absent()  # type: ignore[no-redef]

    def given(*positional: object, **named: object) -> Any:  # type: ignore[no-redef]
        """The decorated test without the arguments that would be drawn, and skipped."""

        def skipped(function: Callable[..., object]) -> Callable[..., object]:
            def test(**_: object) -> None:
                raise AssertionError("a test that needs hypothesis was not skipped")

            functools.update_wrapper(test, function)
            del test.__wrapped__  # type: ignore[attr-defined]
            taken = [one for name, one in inspect.signature(function).parameters.items() if name not in named]
            test.__signature__ = inspect.Signature(taken[: len(taken) - len(positional)])  # type: ignore[attr-defined]
            return pytest.mark.skip(reason="needs hypothesis")(test)

        return skipped

    def settings(*_: object, **__: object) -> Callable[[object], object]:  # type: ignore[no-redef]
        return lambda function: function
