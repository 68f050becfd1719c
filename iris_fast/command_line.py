"""Shared by the commands: a parser with one-sentence errors, and exit codes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from . import __version__
from .errors import RunStopped, UserError, nearest
from .files import check_ending, is_disk_full, user_path
from .hub import fetched, is_address
from .terminal import as_before, end_at_interrupt, interrupted_code, raise_at_interrupt, shown_output

# Names of packages that take seconds to import.
PACKAGES = {"torch": "PyTorch", "matplotlib": "matplotlib", "rliable": "rliable"}


class CommandParser(argparse.ArgumentParser):
    """Raises UserError for bad arguments; argparse would print its usage and exit.

    Descriptions and examples are shown unchanged. Options cannot be abbreviated, so that a new option does not change
    the meaning of a script. `settings`: dotted keys, written KEY=VALUE, to suggest in place of an unknown option.
    """

    def __init__(self, prog: str, description: str, epilog: str | None = None, settings: Sequence[str] = ()):
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.settings = settings
        version = f"iris_fast {__version__}"
        self.add_argument("--version", action="version", version=version, help="print the version and exit")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}{self._suggestion(message)} (--help shows all)")

    def _suggestion(self, message: str) -> str:
        """The setting or the options most like an unknown option."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            return ""
        option, _, value = unknown.split()[0].partition("=")
        word = option.lstrip("-").replace("-", "_")
        same = [key for key in self.settings if key == word or key.endswith(f".{word}")]
        if same:
            shown = ", ".join(f"{key}={value or '…'}" for key in same[:3])
            return f": it is a setting, which is written {shown}"
        if "." in word:
            return f": a setting is written {word}={value or '…'}"
        return nearest(option, list(self._option_string_actions), count=2)


@contextmanager
def loading(package: str) -> Iterator[None]:
    """A block that imports modules which need `package`; announces the import unless it is already loaded.

    Commands import slow packages after parsing arguments, so `--help` and mistakes are answered at once.
    """
    if sys.modules.get(package) is None and os.environ.get("RANK", "0") == "0":  # of torchrun's processes
        print(f"loading {PACKAGES[package]} …", file=sys.stderr, flush=True)
    end_at_interrupt()
    try:
        yield
    finally:
        raise_at_interrupt()


def path_argument(text: str) -> Path:
    """The path in an argument, `~` expanded."""
    try:
        return user_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def checkpoint_argument(text: str) -> Path:
    """As `path_argument`, for what may be a file of the Hugging Face Hub, which is downloaded."""
    if not is_address(text):
        return path_argument(text)
    try:
        return fetched(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def file_argument(*endings: str, without: bool = True) -> Callable[[str], Path]:
    """An argument parser for the path of an output file with one of these endings, or with none if `without` allows
    it."""

    def parse(text: str) -> Path:
        path = path_argument(text)
        try:
            check_ending(path, endings, without)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return path

    return parse


def run_command(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """Runs a command's `main` and returns its exit code; a user error becomes one line on stderr.

    Codes: 2 for a `UserError` or a file that cannot be read or written, 4 for a full disk, 130 after Ctrl-C, 128 plus
    the number of any other ending signal, or the code of a `RunStopped`. A closed output pipe changes nothing; output
    that did not fit on a disk turns a success into 4.
    """
    raise_at_interrupt(begin=True)
    try:
        with shown_output() as output:
            try:
                code = _exit_code(main, argv)
            except SystemExit as ended:  # of --help and --version
                output.flush()
                if output.lost is None:
                    raise
                code = ended.code if isinstance(ended.code, int) else 0
            output.flush()
            if output.lost is not None and code == 0:
                reason = output.lost.strerror
                print(f"stopped: the output is incomplete ({reason})", file=sys.stderr)
                code = 4
            return code
    finally:
        as_before()


def _exit_code(main: Callable[[list[str] | None], int | None], argv: list[str] | None) -> int:
    try:
        return main(argv) or 0
    except (Exception, KeyboardInterrupt) as error:
        sentence, code = last_words(error)
        if sentence is None:
            raise
        print(sentence, file=sys.stderr)
        return code


def last_words(error: BaseException) -> tuple[str | None, int]:
    """What a command that ends with `error` says, None where that is a traceback, and its exit code."""
    match error:
        case UserError():
            return f"error: {error}", 2
        case RunStopped():
            return f"stopped: {error}", error.exit_code
        case KeyboardInterrupt():
            return "stopped: interrupted", interrupted_code(error)
        case OSError() if is_disk_full(error):
            named = f" with {error.filename}" if error.filename else ""
            return f"stopped: the disk{named} is full: make room and start again", 4
        case OSError() if error.filename:
            return f"error: {error.filename}: {error.strerror}", 2
        case _:
            return None, 1
