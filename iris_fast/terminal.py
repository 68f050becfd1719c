"""What a command prints: shown as far as it can be shown, and never a reason to lose what the command does."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO, cast

# Signals beside Ctrl-C's that ask a process to end: of a shutdown, a closed terminal, and schedulers before a limit.
ENDING = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)  # Windows has the first alone
)
# Of a reader that is gone for good: a closed pipe, a lost terminal. A full disk may have room again.
GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET}
# Our signs where an encoding has none of them; any other one is shown by its number.
PLAIN = {"±": "+-", "–": "-", "—": "-", "−": "-", "…": "...", "×": "x", "→": "->", "λ": "lambda", "²": "2"}


def end_at_interrupt() -> None:
    """From here on Ctrl-C and the like end the process in one line, until `raise_at_interrupt`: for imports.

    An exception would pass through the imports of other packages, which turn it into errors of their own.
    """
    _handle(signal.default_int_handler, _raise, _end)


def raise_at_interrupt(begin: bool = False) -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, as usual, and so do other signals that `end_at_interrupt` has.

    `begin`: the first time in a command, which gives it those signals.
    """
    _handle(_end, signal.SIG_DFL if begin else _end, _raise)


def as_before() -> None:
    """Undoes `raise_at_interrupt(begin=True)`."""
    _handle(_raise, _end, signal.SIG_DFL)


class Interrupted(KeyboardInterrupt):
    """A signal of `ENDING`, raised like Ctrl-C's KeyboardInterrupt."""

    def __init__(self, number: int):
        super().__init__()
        self.exit_code = 128 + number


def interrupted_code(error: KeyboardInterrupt) -> int:
    """The exit code of a command that was interrupted: 130 for Ctrl-C, 143 for SIGTERM, as shells have it."""
    return error.exit_code if isinstance(error, Interrupted) else 130


def _handle(one: Any, other: Any, new: Any) -> None:
    """Gives the signals that are handled by `one` or `other` to `new`; what is ignored (nohup) stays ignored."""
    if threading.current_thread() is not threading.main_thread():  # signals are handled there alone
        return
    for number in (signal.SIGINT, *ENDING):
        if signal.getsignal(number) in (one, other):
            usual = signal.default_int_handler if number == signal.SIGINT and new is not _end else new
            signal.signal(number, usual)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _end(number: int, frame: FrameType | None) -> None:
    say_in_handler("stopped: interrupted\n")
    os._exit(128 + number)


def say_in_handler(message: str) -> None:
    """Prints from a signal handler, where `print` may be in the middle of another print."""
    with suppress(OSError):
        os.write(2, message.encode("ascii", "backslashreplace"))


def open_descriptors() -> None:
    """What the shell has closed of input, output and messages is opened as what reads nothing and drops all.

    Else that descriptor would be the next file's, and messages would go there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(opened, True)


@contextmanager
def shown_output() -> Iterator[Output]:
    """In its block nothing that is printed can fail; yields what stands for standard output."""
    open_descriptors()
    kept = sys.stdout, sys.stderr
    output, messages = Output(sys.stdout), Output(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, output), cast(TextIO, messages)
    try:
        yield output
    finally:
        sys.stdout, sys.stderr = kept
        output.finish()
        messages.finish()


class Output:
    """A text stream whose `write` and `flush` never fail.

    Signs that its encoding does not have are written in others; what cannot be written is dropped. `lost` is
    the error of a disk that was full, None as long as everything was written or nobody was there to read it.
    """

    def __init__(self, stream: TextIO | None):
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115 (closed by the user: thrown away)
        self.lost: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._never_failing():
            self._stream.write(encodable(text, self._stream.encoding or "utf-8"))
        return len(text)

    def flush(self) -> None:
        with self._never_failing():
            self._stream.flush()

    def finish(self) -> None:
        """Writes what is left, or drops it, so that the interpreter does not complain of it at its end."""
        self.flush()
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._throw_away()

    @contextmanager
    def _never_failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in GONE:
                self._throw_away()
            else:
                self.lost = error
        except ValueError:  # a closed file
            pass

    def _throw_away(self) -> None:
        """Whatever else writes to this descriptor (C++, other processes to come) is spared the error too."""
        with suppress(OSError, ValueError):  # a stream without a descriptor
            null = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(null, self._stream.fileno())
            finally:
                os.close(null)


def encodable(text: str, encoding: str) -> str:
    """The text in signs that the encoding has."""
    try:
        text.encode(encoding)
        return text
    except UnicodeEncodeError:
        return "".join(_encodable_sign(sign, encoding) for sign in text)


def _encodable_sign(sign: str, encoding: str) -> str:
    try:
        sign.encode(encoding)
        return sign
    except UnicodeEncodeError:
        return PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode()
