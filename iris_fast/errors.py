"""Errors that a user can act on, one sentence each; `command_line.run_command` reports them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from difflib import get_close_matches


class UserError(Exception):
    """Bad input from the user: one sentence naming the value and the fix; a command exits with 2."""


class RunStopped(Exception):
    """A run that cannot go on (diverged, disk full, interrupted): one sentence and an exit code."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


def nearest(value: str, known: list[str] | tuple[str, ...], count: int = 3) -> str:
    """The names most like `value`, as the end of an error sentence (empty if none is close)."""
    lowered = {name.lower(): name for name in known}
    close = get_close_matches(value.lower(), list(lowered), n=count, cutoff=0.5)
    if not close:
        return ""
    return f" (nearest: {', '.join(lowered[name] for name in close)})"


def run_command(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """As `command_line.run_command`, kept here for programs that import it from this module."""
    from .command_line import run_command as run

    return run(main, argv)


def quoted(*words: object) -> str:
    """Words of a command line, quoted for copying into a shell."""
    return shlex.join(str(word) for word in words)
