"""Stopped runs with the default backend resume with the command that they print.

The choice of `env.backend=auto` depends on the installed packages, so these tests vary them.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from iris_fast.command_line import run_command
from iris_fast.envs import factory
from iris_fast.train import main
from iris_fast.training.loggers import read_metrics
from iris_fast.training.run_folder import RunFolder
from tests.support.commands import Say, run_train
from tests.support.micro import MICRO
from tests.support.stopping import StopAt, assert_same_run, stop_during, wait_for

pytest.importorskip("ale_py")
pytest.importorskip("envpool")

PONG = ["--game", "Pong", "--preset", "tiny", *MICRO, "common.epochs=2", "evaluation.should=false"]
PACKAGES = {"ale": ("ale_py",), "envpool": ("envpool", "ale_py")}
CUT = {
    ("envpool", "envpool"): "environments: envpool cannot be restored, so the unfinished episodes were cut",
    ("envpool", "ale"): "environments: ale cannot restore envpool's, which the run used, so",
    ("ale", "envpool"): "environments: envpool cannot restore ale's, which the run used, so",
}


def install(monkeypatch: pytest.MonkeyPatch, backend: str, only: bool = False) -> None:
    """What `auto` finds installed, so that it takes `backend`."""
    packages = (PACKAGES[backend][0],) if only else PACKAGES[backend]
    monkeypatch.setattr(factory, "is_installed", lambda package: package in packages)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        install(patch, "ale")
        assert run_train(*PONG, "--run-dir", run) == 0
    return run


def printed_command(said: str) -> list[str]:
    """The arguments that a stopped run gives for going on."""
    last = said.strip().splitlines()[-1]
    return shlex.split(last[last.index("--resume") :])


@pytest.mark.parametrize("phase", ["collection", "tokenizer", "world_model", "actor_critic"])
@pytest.mark.parametrize("backend", ["envpool", "ale"])
def test_ctrl_c_in_each_phase_of_a_default_run(
    backend: str,
    phase: str,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Say,
) -> None:
    install(monkeypatch, backend)
    run, stop = tmp_path / "stopped", StopAt(phase, 2, signal.SIGINT)
    with monkeypatch.context() as patch:
        stop_during(patch, stop)
        assert run_command(main, [*PONG, "--run-dir", str(run)]) == 130
    said = capsys.readouterr().err
    assert f"game: Pong ({backend}, 6 actions)" in said and stop.sent
    assert main(printed_command(said)) == 0
    said = capsys.readouterr().err
    assert f"game: Pong ({backend}, 6 actions)" in said
    assert (CUT["envpool", "envpool"] in said) == (backend == "envpool")
    assert read_metrics(run)[-1]["replay/frames"] == 48
    if backend == "ale":
        assert_same_run(uninterrupted, run)


@pytest.mark.parametrize(("before", "after"), [("envpool", "ale"), ("ale", "envpool")])
@pytest.mark.parametrize("named", [False, True], ids=["installed", "named"])
def test_a_run_goes_on_with_another_backend(
    before: str, after: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    """Because its own is not installed any more, or since the other one is asked for."""
    install(monkeypatch, before, only=True)
    run = tmp_path / "run"
    assert run_train(*PONG, "--run-dir", run, "common.epochs=1") == 0
    if named:
        monkeypatch.setattr(factory, "is_installed", lambda package: True)
    else:
        install(monkeypatch, after, only=True)
    capsys.readouterr()
    assert run_train("--resume", run, "common.epochs=2", *([f"env.backend={after}"] if named else [])) == 0
    said = capsys.readouterr().err
    assert f"game: Pong ({after}, 6 actions)" in said and CUT[before, after] in said
    assert read_metrics(run)[-1]["replay/frames"] == 48


@pytest.mark.parametrize("backend", ["envpool", "ale"])
def test_an_older_checkpoint_tells_its_backend_by_its_snapshot(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    install(monkeypatch, backend)
    run = tmp_path / "run"
    assert run_train(*PONG, "--run-dir", run, "common.epochs=1") == 0
    content = torch.load(RunFolder(run).checkpoint, weights_only=True)
    del content["collector"]["backend"]
    torch.save(content, RunFolder(run).checkpoint)
    monkeypatch.setattr(factory, "is_installed", lambda package: True)  # auto alone would take envpool
    assert run_train("--resume", run, "common.epochs=2") == 0
    assert f"game: Pong ({backend}, 6 actions)" in capsys.readouterr().err.split("run folder")[-2]


def test_kill_9_of_a_default_run_on_pong(tmp_path: Path, capsys: Say) -> None:
    run = tmp_path / "killed"
    slower = ["common.epochs=3", "training.tokenizer.steps_per_epoch=60"]
    command = [sys.executable, "-m", "iris_fast.train", *PONG, "--run-dir", str(run), *slower]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(lambda: RunFolder(run).checkpoint.is_file())
    time.sleep(0.3)  # somewhere in the second epoch
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert run_train("--resume", run) == 0
    assert CUT["envpool", "envpool"] in capsys.readouterr().err
    assert read_metrics(run)[-1]["replay/frames"] == 72
