"""The output of commands: shown as far as possible; a failure to print never stops the command's work."""

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

# Ending signals other than Ctrl-C's: from a shutdown, a closed terminal, and schedulers before a limit.
ENDING = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)  # Windows has only the first
)
# Errors of a reader that is gone for good: a closed pipe, a lost terminal. A full disk may have room again.
GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET}
# Replacements for our characters that an encoding lacks; any other is shown by its number.
PLAIN = {"±": "+-", "–": "-", "—": "-", "−": "-", "…": "...", "×": "x", "→": "->", "λ": "lambda", "²": "2"}


def end_at_interrupt() -> None:
    """During imports: makes Ctrl-C and similar signals end the process with one line, until `raise_at_interrupt`.

    An exception would pass through the imports of other packages, which turn it into errors of their own.
    """
    _handle(signal.default_int_handler, _raise, _end)


def raise_at_interrupt(begin: bool = False) -> None:
    """Makes Ctrl-C raise KeyboardInterrupt again, and the other signals of `end_at_interrupt` too.

    `begin`: the first call in a command, which takes over those signals.
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
    """The exit code of an interrupted command, as in shells: 130 for Ctrl-C, 143 for SIGTERM."""
    return error.exit_code if isinstance(error, Interrupted) else 130


def _handle(one: Any, other: Any, new: Any) -> None:
    """Hands the signals of the handlers `one` or `other` to `new`; ignored signals (nohup) stay ignored."""
    if threading.current_thread() is not threading.main_thread():  # signals are handled only there
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
    """Prints from a signal handler, which may interrupt another `print`."""
    with suppress(OSError):
        os.write(2, message.encode("ascii", "backslashreplace"))


def open_descriptors() -> None:
    """Opens closed standard descriptors (input, output, messages) on the null device.

    Otherwise the next opened file would get that descriptor, and messages would go into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(opened, True)


@contextmanager
def shown_output() -> Iterator[Output]:
    """A block in which printing cannot fail; yields the stream in place of standard output."""
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

    Characters missing from its encoding are replaced; text that cannot be written is dropped. `lost` is the error of
    a full disk; None if everything was written or the reader is gone.
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
        """Writes or drops the rest, so that the interpreter does not complain about it at exit."""
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
        """Also spares other writers to this descriptor (C++, later processes) the error."""
        with suppress(OSError, ValueError):  # a stream without a descriptor
            null = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(null, self._stream.fileno())
            finally:
                os.close(null)


def encodable(text: str, encoding: str) -> str:
    """The text in characters of the encoding."""
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
