"""What the commands share: a parser whose complaints are one sentence like all others."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from . import __version__
from .errors import UserError, nearest

# Packages that take seconds to import, as their users call them.
PACKAGES = {"torch": "PyTorch", "matplotlib": "matplotlib"}


class CommandParser(argparse.ArgumentParser):
    """Raises UserError for bad arguments, where argparse prints its usage and exits.

    Descriptions and examples are shown as they are written; options are not abbreviated, so that a script
    goes on meaning the same when an option is added.
    """

    def __init__(self, prog: str, description: str, epilog: str | None = None):
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"iris_fast {__version__}")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}{self._suggestion(message)} (--help shows all)")

    def _suggestion(self, message: str) -> str:
        """The options most like one that is not known."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            return ""
        return nearest(unknown.split()[0].partition("=")[0], list(self._option_string_actions), count=2)


def announce_loading(package: str) -> None:
    """Says what the command waits for, before it imports what needs `package`; nothing once that is there.

    Commands import such a package after their arguments are read: `--help` and mistakes are answered at once.
    """
    if sys.modules.get(package) is None:
        print(f"loading {PACKAGES[package]} …", file=sys.stderr, flush=True)
