"""A run's folder records its provenance."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from iris_fast import __version__
from iris_fast.training.provenance import read_provenance
from iris_fast.training.run_folder import RunFolder
from tests.support.commands import run_train, train_micro

UNTRAINED = ("common.epochs=1", "training.should=false", "evaluation.should=false")


def test_a_record_of_the_start_and_of_each_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, path = tmp_path / "run", RunFolder(tmp_path / "run").provenance
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "iris_fast.train", "--run-dir", "a b"])
    assert train_micro(run, *UNTRAINED) == 0
    (start,) = read_provenance(path)
    assert start["epoch"] == 1
    assert start["command"] == "python -m iris_fast.train --run-dir 'a b'"
    assert start["versions"]["iris_fast"] == __version__ and start["versions"]["torch"] == version("torch")
    assert start["machine"]["cores"] >= 1 and start["machine"]["gpu"] is None
    if (Path(__file__).parents[2] / ".git").exists():
        assert len(start["commit"].removesuffix("-dirty")) == 12
    assert run_train("--resume", run, "common.epochs=3") == 0
    assert [record["epoch"] for record in read_provenance(path)] == [1, 2]
    assert run_train("--resume", run) == 0  # complete: nothing goes on
    assert len(read_provenance(path)) == 2


def test_a_run_of_before_and_a_damaged_file_begin_a_list(tmp_path: Path) -> None:
    run, path = tmp_path / "run", RunFolder(tmp_path / "run").provenance
    assert train_micro(run, *UNTRAINED) == 0
    path.write_text("[{")
    assert run_train("--resume", run, "common.epochs=2") == 0
    assert [record["epoch"] for record in read_provenance(path)] == [2]
