"""What the commands share: a parser whose complaints are one sentence like all others."""

from __future__ import annotations

import argparse
from typing import NoReturn

from .errors import UserError, nearest


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

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}{self._suggestion(message)} (--help shows all)")

    def _suggestion(self, message: str) -> str:
        """The options most like one that is not known."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            return ""
        return nearest(unknown.split()[0].partition("=")[0], list(self._option_string_actions), count=2)
