"""A server in a process of its own, and what tests wait for on its page."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


@contextmanager
def served(*command: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process of `python -m COMMAND` that serves a page on this machine, and its port."""
    process = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127.0.0.1:(\d+)/", line)
        assert found is not None, line
        yield process, int(found[1])
    finally:
        process.kill()
        process.communicate()


def wait(page: Any, expression: str, seconds: float = 20) -> None:
    """Waits until an expression is true, asked from outside: the page's policy forbids Playwright's own wait."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never true: {expression}"
        page.wait_for_timeout(20)


def frames_change(page: Any) -> None:
    """Waits until three more frames are drawn."""
    page.wait_for_selector("#stage[data-frames]")
    before = int(page.get_attribute("#stage", "data-frames"))
    wait(page, f"Number(document.getElementById('stage').dataset.frames) > {before + 2}")


def canvases(page: Any, count: int) -> None:
    """Waits until that many frames are beside each other."""
    wait(page, f"document.querySelectorAll('#stage canvas').length === {count}")
