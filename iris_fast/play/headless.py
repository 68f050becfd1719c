"""Recordings without a page: plays a number of steps as fast as it can."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from iris_fast.errors import RunStopped
from iris_fast.terminal import interrupted_code
from iris_fast.training.progress import Bar

from .session import Session


def record(session: Session, steps: int, paths: Sequence[Path]) -> None:
    """Plays `steps` steps of a session and saves them in each of the files, with the first frame of each episode."""
    recording = session.new_recording()
    done, title = 0, session.mode
    started = time.perf_counter()
    bar = Bar(sys.stderr, (title, title), steps, "step", list) if sys.stderr.isatty() else None
    try:
        while done < steps:
            session.record_step(recording)
            played = recording.rows[-1].action >= 0  # otherwise another episode begins
            done += played
            if bar is not None:
                bar.update(played)
    except KeyboardInterrupt as interrupt:
        raise RunStopped(
            f"interrupted after {done} of {steps} steps; nothing was written", interrupted_code(interrupt)
        ) from None
    finally:
        if bar is not None:
            bar.close()
    print(f"{steps} steps, {steps / (time.perf_counter() - started):.0f} a second")
    for path in paths:
        recording.save(path)
        print(f"wrote {path}")
