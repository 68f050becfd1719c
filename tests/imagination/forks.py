"""Runs work in a forked child while the parent continues."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def forked(work: Callable[[], None], seconds: float = 60) -> Iterator[None]:
    """Runs `work` in a child while the block runs here.

    AssertionError after the block unless the child came to the end of `work` in so many seconds; what it raised is
    on standard error.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    try:
        yield
    finally:
        code_of_child = _exit_code(child, seconds)
    assert code_of_child == 0, f"the forked process ended with {code_of_child}"


def _exit_code(child: int, seconds: float) -> int:
    """A child's exit code; that of a killed process if it took longer."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
