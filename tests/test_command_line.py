"""The start of commands: answers without PyTorch come at once, and slow imports are announced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from iris_fast import __version__
from iris_fast.training.loggers import MetricLogger

WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys(["torch", "matplotlib", "triton"]))  # importing one of them raises ImportError
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__")
"""
COMMANDS = ("train", "evaluate", "plot", "convert")


def without_torch(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where neither PyTorch nor matplotlib can be imported."""
    program = [sys.executable, "-c", WITHOUT, f"iris_fast.{command}", *arguments]
    return subprocess.run(program, capture_output=True, encoding="utf-8", timeout=60)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_version_and_mistakes_need_no_torch(command: str) -> None:
    shown = without_torch(command, "--help")
    assert shown.returncode == 0 and shown.stdout.startswith(f"usage: python -m iris_fast.{command}")
    assert without_torch(command, "--version").stdout == f"iris_fast {__version__}\n"
    refused = without_torch(command, "--versio")
    assert refused.returncode == 2 and refused.stderr.startswith("error: ")


def test_the_list_of_games_needs_no_torch() -> None:
    listed = without_torch("train", "--list-games")
    assert listed.returncode == 0 and "Catch" in listed.stdout.split()


@pytest.mark.parametrize(
    ("arguments", "package"),
    [
        (("train", "--game", "Catch"), "PyTorch"),
        (("train", "--list-keys"), "PyTorch"),
        (("evaluate", "RUN"), "PyTorch"),
        (("convert", "a", "b", "--to", "public"), "PyTorch"),
        (("plot", "RUN"), "matplotlib"),
    ],
)
def test_a_command_says_what_it_waits_for_before_it_does(
    arguments: tuple[str, ...], package: str, tmp_path: Path
) -> None:
    MetricLogger(tmp_path, tensorboard=False, run_config={}).log({}, epoch=1, env_steps=0)
    arguments = tuple(text.replace("RUN", str(tmp_path)) for text in arguments)
    assert without_torch(*arguments).stderr.startswith(f"loading {package} …\n")


def test_init_parts_of_the_help_are_the_agents() -> None:
    from iris_fast.agent import PARTS
    from iris_fast.train import make_parser

    assert f"(default {','.join(PARTS)})" in " ".join(make_parser().format_help().split())
