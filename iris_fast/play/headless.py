"""Recordings without a page: plays a number of steps as fast as it can."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from iris_fast.errors import RunStopped
from iris_fast.terminal import interrupted_code
from iris_fast.training.progress import Bar

from .session import Session


def record(session: Session, steps: int, paths: Sequence[Path]) -> None:
    """Plays `steps` steps of a session and saves them, with the frame before the first, in each of the files."""
    recording = session.start_recording()
    title = session.mode
    bar = Bar(sys.stderr, (title, title), steps, "step", lambda: []) if sys.stderr.isatty() else None
    try:
        for _ in range(steps):
            session.step()
            if bar is not None:
                bar.update(1)
    except KeyboardInterrupt as interrupt:
        done = len(recording.moments) - 1
        raise RunStopped(
            f"interrupted after {done} of {steps} steps; nothing was written", interrupted_code(interrupt)
        ) from None
    finally:
        if bar is not None:
            bar.close()
    for path in paths:
        recording.save(path)
        print(f"wrote {path}")
