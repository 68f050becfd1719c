"""Recordings without a page, and what the command refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from iris_fast.play import __main__ as command
from iris_fast.play import recording
from iris_fast.play.loading import Player
from tests.support.commands import Say, refusal, run_command


def run_play(*arguments: object) -> int:
    return run_command(command.main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(player: Player) -> Path:
    return player.media.parent / "agent.pt"


@pytest.mark.parametrize("mode", ["real", "dream", "fork"])
def test_without_a_page_a_run_is_recorded(checkpoint: Path, tmp_path: Path, mode: str, capsys: Say) -> None:
    paths = [tmp_path / f"film{ending}" for ending in (".npz", ".mp4", ".gif")]
    files = [argument for path in paths for argument in ("--record", path)]
    arguments = (checkpoint, "--game", "Catch", "--mode", mode, "--steps", 20, "--seed", 2, *files)
    assert run_play(*arguments) == 0
    assert all(f"wrote {path}" in capsys.readouterr().out or path.is_file() for path in paths)
    with np.load(paths[0]) as arrays:
        first = dict(arrays)
    assert (first["actions"] >= 0).sum() == 20  # the first frames of episodes come on top
    assert run_play(*arguments) == 0
    with np.load(paths[0]) as arrays:
        for name in ("frames", "tokens", "actions", "rewards", "ends"):
            assert np.array_equal(arrays[name], first[name]), name


def test_bad_input_gets_one_sentence(
    checkpoint: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: object) -> str:
        return refusal(run_play, capsys, *arguments)

    catch = (checkpoint, "--game", "Catch")
    assert "there is no checkpoint" in said(tmp_path / "none")
    assert "does not name its game" in said(checkpoint)
    assert "trained with 3 actions and Pong has 6" in said(checkpoint, "--game", "Pong")
    assert "film.avi' ends in '.avi'" in said(*catch, "--record", tmp_path / "film.avi")
    assert "cannot be written" in said(*catch, "--record", checkpoint / "film.mp4")
    assert "--steps 0: give 1 to" in said(*catch, "--record", tmp_path / "f.gif", "--steps", 0)
    assert "--steps 5 is of no use without --record" in said(*catch, "--steps", 5)
    assert "needs the page" in said(*catch, "--record", tmp_path / "f.gif", "--controls", "person")
    assert "--save asks on the page" in said(*catch, "--record", tmp_path / "f.gif", "-s")
    assert "at most 5000 steps" in said(*catch, "--record", tmp_path / "f.gif", "--steps", 5001)
    assert "nothing to record" in said(*catch, "--record", tmp_path / "f.gif", "--mode", "episodes")
    assert "--temperature 0" in said(*catch, "--temperature", 0)
    assert "--seed -1" in said(*catch, "--seed", -1)
    assert "is not a port" in said(*catch, "--port", 70_000)
    monkeypatch.setattr(recording, "has_encoder", lambda: False)
    assert "name a .gif or .npz file" in said(*catch, "--record", tmp_path / "film.mp4")
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert "pip install 'iris_fast[play]'" in said(*catch)
    assert run_play(*catch, "--record", tmp_path / "f.npz", "--steps", 2) == 0  # needs no extra
    monkeypatch.setitem(sys.modules, "ale_py", None)
    no_game = said(checkpoint, "--game", "Pong", "--record", tmp_path / "f.npz")
    assert "Pong needs ale_py" in no_game and "pip install 'iris_fast[atari]'" in no_game
