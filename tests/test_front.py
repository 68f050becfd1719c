"""The front of the package: its names, the same work from Python as by the commands, the list of commands."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iris_fast
from iris_fast import __main__ as front_command
from iris_fast import front
from iris_fast.command_line import run_command
from iris_fast.evaluate import make_parser as evaluate_parser
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.train import make_parser as train_parser
from iris_fast.training.run_folder import RunFolder
from tests.support.commands import Say
from tests.support.micro import MICRO

LISTS = {"help", "version", "list_games", "list_keys"}  # options that only print


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = dict(item.split("=", 1) for item in MICRO) | {"common.epochs": 1}
    return iris_fast.train(
        "Catch", run_dir=tmp_path_factory.mktemp("front") / "run", seed=3, overrides=overrides
    )


def test_names_are_there_and_imported_at_their_use() -> None:
    program = (
        "import sys, iris_fast\n"
        "assert not {'torch', 'numpy', 'gymnasium'} & sys.modules.keys()\n"
        "assert set(iris_fast.__all__) <= set(dir(iris_fast))\n"
        "from iris_fast import UserError, train\n"
        "assert 'torch' not in sys.modules and callable(train) and train.main\n"
        "for name in iris_fast.__all__: assert callable(getattr(iris_fast, name)), name\n"
        "assert iris_fast.kernels.vq_lookup\n"
        "try: iris_fast.trian\n"
        "except AttributeError as error: assert 'trian' in str(error)\n"
        "else: raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_name_has_a_docstring() -> None:
    assert [name for name in iris_fast.__all__ if not inspect.getdoc(getattr(iris_fast, name))] == []


@pytest.mark.parametrize(
    ("function", "parser"), [(front.train, train_parser()), (front.evaluate, evaluate_parser())]
)
def test_arguments_are_the_commands_options(function: Callable[..., object], parser: Any) -> None:
    of_command = {
        action.dest: action.default
        for action in parser._actions
        if action.dest not in LISTS and action.dest != "overrides"
    }
    parameters = inspect.signature(function).parameters
    of_function = {name: each.default for name, each in parameters.items() if name != "overrides"}
    of_function = {name: None if value is inspect._empty else value for name, value in of_function.items()}
    assert of_function == of_command


def test_training_from_python(run: Path) -> None:
    config = RunFolder(run).read_config()
    assert (config.game, config.common.seed, config.common.epochs) == ("Catch", 3, 1)
    assert iris_fast.train(resume=run, overrides=["common.epochs=2"]) == run
    position = torch.load(RunFolder(run).checkpoint, weights_only=True)["position"]
    assert position["epoch"] == 3  # the next one


def test_evaluation_from_python(run: Path, capsys: Say) -> None:
    capsys.readouterr()
    result = iris_fast.evaluate(run, episodes=3, envs=2, greedy=True)
    assert len(result["returns"]) == 3 and result["settings"]["greedy"]
    assert capsys.readouterr().out == ""
    assert (run / "logs" / "evaluation.json").is_file()


@pytest.mark.parametrize(
    ("overrides", "key"), [({"common.epoch": 3}, "common.epoch"), (["common.epochs=many"], "many")]
)
def test_mistakes_are_user_errors(overrides: Any, key: str, tmp_path: Path) -> None:
    with pytest.raises(iris_fast.UserError, match=key):
        iris_fast.train("Catch", run_dir=tmp_path / "run", overrides=overrides)
    assert not (tmp_path / "run").exists()
    with pytest.raises(iris_fast.UserError, match="nowhere"):
        iris_fast.load_agent(tmp_path / "nowhere")


def test_overrides_from_a_mapping() -> None:
    values = {"tokenizer.encoder.ch_mult": (1, 2), "wandb.entity": None, "training.should": False}
    written = [front._setting(key, value) for key, value in values.items()]
    assert written == ["tokenizer.encoder.ch_mult=[1,2]", "wandb.entity=null", "training.should=False"]


@pytest.mark.parametrize("time", [1, 3])
def test_imagination_from_frames(run: Path, time: int) -> None:
    agent = iris_fast.load_agent(run)
    size = agent.config.tokenizer.autoencoder.resolution
    frames = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, time, 3, size, size), dtype=np.uint8)
    )
    rollout = iris_fast.imagine(agent, frames, 4, seed=5)
    assert rollout.tokens.shape[:2] == (2, 4)
    torch.testing.assert_close(rollout.tokens[:, 0], agent.coder.tokens_of(frames[:, -1] / 255))
    again = iris_fast.imagine(agent, frames / 255, 4, seed=5, engine=OracleEngine(agent))
    assert torch.equal(rollout.tokens, again.tokens) and torch.equal(rollout.actions, again.actions)
    other = iris_fast.imagine(agent, frames, 4, seed=6)
    assert not torch.equal(rollout.tokens, other.tokens)


def test_frames_that_cannot_be_imagined_from(run: Path) -> None:
    agent = iris_fast.load_agent(run)
    size = agent.config.tokenizer.autoencoder.resolution
    for shape in ((3, size, size), (1, 0, 3, size, size), (1, 1, 1, size, size), (1, 1, 3, size, 2 * size)):
        with pytest.raises(ValueError, match=re.escape(str(shape))):
            iris_fast.imagine(agent, torch.zeros(shape), 2)
    with pytest.raises(ValueError, match="horizon"):
        iris_fast.imagine(agent, torch.zeros(1, 1, 3, size, size), 0)


def test_the_list_of_commands(capsys: Say) -> None:
    assert run_command(front_command.main, []) == 0
    out = capsys.readouterr().out
    for name, (_, purpose) in front_command.COMMANDS.items():
        assert f"{name}" in out and purpose in out
        with pytest.raises(SystemExit) as ended:
            front_command.main([name, "--help"])
        assert ended.value.code == 0 and "usage:" in capsys.readouterr().out


def test_an_unknown_command_and_option(capsys: Say) -> None:
    assert run_command(front_command.main, ["trian", "--game", "Pong"]) == 2
    assert "no command 'trian' (nearest: train)" in capsys.readouterr().err
    assert run_command(front_command.main, ["--games"]) == 2
    assert "--games" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("iris-fast ev", {"evaluate "}),
        ("iris-fast train --game Bre", {"Breakout "}),
        ("iris-fast train --preset s", {"small "}),
        ("iris-fast train training.tokenizer.st", {"training.tokenizer.steps_per_epoch="}),
        ("iris-fast play --mode f", {"fork "}),
        ("iris-fast convert --to pu", {"public "}),
    ],
)
def test_completion(line: str, words: set[str], tmp_path: Path) -> None:
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    question = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    subprocess.run([sys.executable, "-m", "iris_fast"], env=os.environ | question, check=True)
    found = {word for word in answer.read_text().split("\n") if word}
    assert {word.strip() for word in found} == {word.strip() for word in words}
