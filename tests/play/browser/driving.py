"""A server in a process of its own, and what tests wait for on its page."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[3]
FAKE = "tests.play.served"  # the command that serves fake sessions


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


def pixels(page: Any, number: int = 0) -> np.ndarray:
    """The frame in a canvas, `(64, 64, 3)` uint8: of each square that is drawn for a pixel, its middle."""
    values = page.evaluate(
        """(number) => {
            const canvas = document.querySelectorAll("#stage canvas")[number];
            const scale = canvas.width / 64;
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            const found = [];
            for (let at = 0; at < 4096; at += 1) {
                const [y, x] = [Math.floor(at / 64), at % 64].map((place) => Math.floor((place + 0.5) * scale));
                found.push(...data.slice(4 * (y * canvas.width + x), 4 * (y * canvas.width + x) + 3));
            }
            return found;
        }""",
        number,
    )
    return np.array(values, np.uint8).reshape(64, 64, 3)


def until(page: Any, found: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Waits until a function of the test is true."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, f"never true: {what}"
        page.wait_for_timeout(20)
