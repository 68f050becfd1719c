"""What the commands share: a parser whose complaints are one sentence like all others, and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from . import __version__
from .errors import RunStopped, UserError, nearest
from .files import check_ending, is_disk_full, user_path
from .terminal import as_before, end_at_interrupt, interrupted_code, raise_at_interrupt, shown_output

# Packages that take seconds to import, as their users call them.
PACKAGES = {"torch": "PyTorch", "matplotlib": "matplotlib"}


class CommandParser(argparse.ArgumentParser):
    """Raises UserError for bad arguments, where argparse prints its usage and exits.

    Descriptions and examples are shown as they are written; options are not abbreviated, so that a script
    goes on meaning the same when an option is added. `settings`: dotted keys that are written KEY=VALUE,
    of which an option that is not known may have meant one.
    """

    def __init__(self, prog: str, description: str, epilog: str | None = None, settings: Sequence[str] = ()):
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._settings = settings
        version = f"iris_fast {__version__}"
        self.add_argument("--version", action="version", version=version, help="print the version and exit")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}{self._suggestion(message)} (--help shows all)")

    def _suggestion(self, message: str) -> str:
        """The setting or the options most like an option that is not known."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            return ""
        option, _, value = unknown.split()[0].partition("=")
        word = option.lstrip("-").replace("-", "_")
        same = [key for key in self._settings if key == word or key.endswith(f".{word}")]
        if same:
            shown = ", ".join(f"{key}={value or '…'}" for key in same[:3])
            return f": it is a setting, which is written {shown}"
        if "." in word:
            return f": a setting is written {word}={value or '…'}"
        return nearest(option, list(self._option_string_actions), count=2)


@contextmanager
def loading(package: str) -> Iterator[None]:
    """In its block is imported what needs `package`, which is said unless it is there already.

    Commands import such a package after their arguments are read: `--help` and mistakes are answered at once.
    """
    if sys.modules.get(package) is None:
        print(f"loading {PACKAGES[package]} …", file=sys.stderr, flush=True)
    end_at_interrupt()
    try:
        yield
    finally:
        raise_at_interrupt()


def path_argument(text: str) -> Path:
    """The path that an argument names, `~` expanded."""
    try:
        return user_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def file_argument(*endings: str, without: bool = True) -> Callable[[str], Path]:
    """A parser of the path of a file to write, which has one of these endings; or none, where `without` allows it."""

    def parse(text: str) -> Path:
        path = path_argument(text)
        try:
            check_ending(path, endings, without)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return path

    return parse


def run_command(main: Callable[[list[str] | None], int | None], argv: list[str] | None = None) -> int:
    """Runs a command's `main` and returns its exit code; what a user can act on is one line on stderr.

    2 for a `UserError` and a file that cannot be read or written, 4 for a full disk, 130 after Ctrl-C, 128 and the
    number of any other signal that asks a process to end, and that of a `RunStopped`. Output that nobody can read
    any more changes nothing; output that did not fit on a disk ends a command that went well otherwise with 4.
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
                print(f"stopped: the output could not be written whole ({reason})", file=sys.stderr)
                code = 4
            return code
    finally:
        as_before()


def _exit_code(main: Callable[[list[str] | None], int | None], argv: list[str] | None) -> int:
    try:
        return main(argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunStopped as stopped:
        print(f"stopped: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt as interrupt:
        print("stopped: interrupted", file=sys.stderr)
        return interrupted_code(interrupt)
    except OSError as error:
        named = f" with {error.filename}" if error.filename else ""
        if is_disk_full(error):
            print(f"stopped: the disk{named} is full: make room and start again", file=sys.stderr)
            return 4
        if not error.filename:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
