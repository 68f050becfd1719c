"""Ctrl-C, SIGTERM and the like: a request to stop after the step under way.

A second Ctrl-C or SIGTERM stops at once. The others come from a terminal that closes (which may send two) and from
schedulers that announce a limit: a second one of those changes nothing.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from iris_fast.terminal import ENDING, say_in_handler


class StopRequest:
    """While entered, signals set `requested` instead of ending the process.

    Those that are ignored, as SIGHUP is under nohup, stay ignored. Outside the main thread nothing changes, since
    signals do not come there.
    """

    SIGNALS = (signal.SIGINT, *ENDING)
    AT_ONCE = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells have it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + (self.signal or 0)

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in self.SIGNALS:
            if number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if number in self.AT_ONCE:
                raise KeyboardInterrupt
            return
        self.signal = number
        name = signal.Signals(number).name
        say_in_handler(f"\n{name}: finishing this step and saving (once more to stop at once)\n")
