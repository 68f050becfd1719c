"""Ctrl-C, SIGTERM and similar signals: a request to stop after the current step.

A second Ctrl-C or SIGTERM stops at once. The other signals come from a closing terminal (which may send two) and from
schedulers before a limit; repeating those changes nothing.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from iris_fast.terminal import ENDING, say_in_handler


class StopRequest:
    """While entered, signals set `requested` instead of ending the process.

    Ignored signals, such as SIGHUP under nohup, stay ignored. Outside the main thread it does nothing, because
    signals arrive only there. `quiet`: without a word, for all but the first of several processes.
    """

    SIGNALS = (signal.SIGINT, *ENDING)
    AT_ONCE = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, work: str = "finishing this step and saving", quiet: bool = False) -> None:
        """`work`: what is done before the stop, in the line that answers the first signal, unless `quiet`."""
        self.work, self.quiet = work, quiet
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as in shells: 130 for Ctrl-C, 143 for SIGTERM."""
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
        if not self.quiet:
            name = signal.Signals(number).name
            say_in_handler(f"\n{name}: {self.work} (press again to stop at once)\n")
