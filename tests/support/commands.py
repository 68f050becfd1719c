"""Runs commands in this process, for speed, and captures their output and files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from iris_fast.command_line import run_command
from iris_fast.evaluate import main as evaluate
from iris_fast.train import main as train
from tests.support.micro import MICRO

Say = pytest.CaptureFixture[str]


def run_train(*arguments: object) -> int:
    return run_command(train, [str(argument) for argument in arguments])


def run_evaluate(*arguments: object) -> int:
    return run_command(evaluate, [str(argument) for argument in arguments])


def train_micro(run: Path, *arguments: object, game: str = "Catch") -> int:
    """Trains the micro agent in a new run folder."""
    return run_train("--game", game, "--run-dir", run, *MICRO, *arguments)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its bytes, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refusal(command: Callable[..., int], capsys: Say, *arguments: object) -> str:
    """The one sentence with which a command refuses its input."""
    capsys.readouterr()
    code = command(*arguments)
    said = capsys.readouterr()
    assert code == 2, said.err
    sentence = re.sub(r"^loading .* …\n", "", said.err)  # by the first test of a process
    assert sentence.startswith("error: ") and sentence.endswith("\n")
    assert sentence.count("\n") == 1, sentence
    assert said.out == ""
    return sentence
