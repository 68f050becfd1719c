# PYTHON_ARGCOMPLETE_OK
"""`python -m iris_fast COMMAND`, or `iris-fast COMMAND`: every command of the package by its name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from iris_fast.command_line import CommandParser, run_command
from iris_fast.errors import UserError, nearest

COMMANDS = {
    "train": ("iris_fast.train", "train an agent on a game"),
    "evaluate": ("iris_fast.evaluate", "play whole episodes with a trained agent"),
    "play": ("iris_fast.play.__main__", "watch an agent and play yourself, in the browser"),
    "plot": ("iris_fast.plot", "draw learning curves and losses"),
    "results": ("iris_fast.results.__main__", "scores on Atari 100k: published methods beside your runs"),
    "sweep": ("iris_fast.sweep.__main__", "train games × seeds, on this machine or on a cluster"),
    "convert": ("iris_fast.convert", "exchange checkpoints with the public implementation"),
    "doctor": ("iris_fast.doctor", "what this machine has, and what is missing"),
}
"""Each command: its module, with `make_parser` and `main`, and what it does."""

EPILOG = """\
`python -m iris_fast.COMMAND` is the same. Each command has --help.
Completion in bash and zsh: pip install argcomplete, then eval "$(register-python-argcomplete iris-fast)"."""


def make_parser() -> CommandParser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, (_, purpose) in COMMANDS.items()]
    parser = CommandParser(
        prog="iris-fast",
        description="\n".join(
            ["The IRIS world-model agent on Atari, trained fast.", "", "commands:", *lines]
        ),
        epilog=EPILOG,
    )
    parser.add_argument("command", nargs="?", metavar="COMMAND", help="one of the commands above")
    return parser


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] in COMMANDS:
        return int(command(words[0]).main(words[1:]))
    arguments, _ = make_parser().parse_known_args(words)
    if arguments.command is not None:
        known = tuple(COMMANDS)
        raise UserError(
            f"there is no command '{arguments.command}'{nearest(arguments.command, known)}: "
            f"choose from {', '.join(known)}"
        )
    make_parser().parse_args(words)
    make_parser().print_help()
    return 0


def command(name: str) -> Any:
    """The command's module."""
    return import_module(COMMANDS[name][0])


def complete() -> None:
    """Answers the shell's question for completions, and ends; returns at once in any other call."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    first = int(os.environ["_ARGCOMPLETE"])  # the number of the word after the program's
    name = words[first] if len(words) > first else ""
    if name in COMMANDS:
        os.environ["_ARGCOMPLETE"] = str(first + 1)
        parser = command(name).make_parser()
    else:
        parser = make_parser()
    for action in parser._actions:
        if action.dest in WORDS and action.choices is None:
            action.completer = WORDS[action.dest]  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser)


def _games(parser: CommandParser, **shell: object) -> tuple[str, ...]:
    from iris_fast.envs.games import list_games

    return list_games()


# What completes the arguments that are neither files nor choices, by their names.
WORDS: dict[str, Callable[..., tuple[str, ...]]] = {
    "command": lambda parser, **shell: tuple(COMMANDS),
    "game": _games,
    "games": _games,
    "preset": lambda parser, **shell: ("paper", "small", "tiny"),
    "device": lambda parser, **shell: ("auto", "cpu", "cuda"),
    "overrides": lambda parser, **shell: tuple(f"{key}=" for key in parser.settings),
}


def run() -> int:
    """The console script."""
    complete()
    return run_command(main)


if __name__ == "__main__":
    sys.exit(run())
