"""A run has its folder to itself: by a unique name, and by a lock if the file system has locks."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

import pytest

from iris_fast.config import resolve
from iris_fast.errors import UserError
from iris_fast.training.run_folder import RunFolder
from tests.support.commands import Say, run_train, train_micro
from tests.support.micro import micro_config

UNTRAINED = ("common.epochs=1", "training.should=false", "evaluation.should=false")


def flock_raises(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise error

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_trained_in(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    flock_raises(monkeypatch, OSError(number, os.strerror(number)))
    run = tmp_path / "run"
    assert train_micro(run, *UNTRAINED) == 0
    said = f"lock: the file system of {run} has none ({os.strerror(number)}), so take care"
    assert said in capsys.readouterr().err
    assert run_train("--resume", run, "common.epochs=2") == 0
    assert said in capsys.readouterr().err


def test_a_lock_that_is_held_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say) -> None:
    flock_raises(monkeypatch, BlockingIOError(errno.EWOULDBLOCK, "held"))
    assert train_micro(tmp_path / "run", *UNTRAINED) == 2
    assert "another process is training" in capsys.readouterr().err


def test_runs_that_start_in_one_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them are named before one is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "2026-01-31_12-00-00")
    config = resolve(micro_config())
    runs = [RunFolder.default("Catch") for _ in range(3)]
    for run in runs:
        run.check_new()
        with run.creating(config):
            pass
    base = "2026-01-31_12-00-00"
    assert [run.path.name for run in runs] == [base, f"{base}_2", f"{base}_3"]
    assert all(run.config.is_file() for run in runs)
    for run in runs:
        with pytest.raises(UserError, match="exists already"):
            run.check_new()  # it has its name, and holds something
        run.unlock()


def test_what_cannot_start_leaves_the_others_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "now")
    config = resolve(micro_config())
    one, other = RunFolder.default("Catch"), RunFolder.default("Catch")
    with one.creating(config):
        pass
    with pytest.raises(ZeroDivisionError), other.creating(config):
        raise ZeroDivisionError
    assert sorted(path.name for path in (tmp_path / "outputs" / "Catch").iterdir()) == ["now"]
    one.unlock()


def test_a_resumed_run_removes_what_a_killed_one_left_half_written(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_micro(run, *UNTRAINED) == 0
    left = [
        "checkpoints/.last.pt.00.partial",
        "checkpoints/dataset/.a.npz.00.partial",
        "media/episodes/test/.b.00.partial",
    ]
    others = ["logs/.evaluation.json.00.partial"]  # of a command that may be at work
    for name in left + others:
        (run / name).write_bytes(b"half")
    assert run_train("--resume", run, "common.epochs=2") == 0
    assert {str(path.relative_to(run)) for path in run.rglob("*.partial")} == set(others)
