"""A run continues without videos and pictures that cannot be made, says so once, and is saved."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.codec import UnknownCodecError

from iris_fast.training import media
from iris_fast.training.loggers import read_metrics
from tests.support.commands import Say, run_evaluate, run_train, train_micro

EVALUATED = ("common.epochs=3", "evaluation.every=1", "training.actor_critic.start_after_epochs=9")


def no_encoder(error: Exception) -> Any:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise error

    return refuse


@pytest.mark.parametrize(
    "error", [UnknownCodecError("libx264"), av.error.ExternalError(542398533, "Generic error in a library")]
)
def test_without_an_encoder(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(av, "open", no_encoder(error))
    assert train_micro(run, *EVALUATED) == 0
    said = capsys.readouterr().err
    assert said.count("no films, and the run goes on") == 1 and "PyAV cannot encode H.264" in said
    assert not list(run.rglob("*.mp4")) and len(list((run / "media/reconstructions").glob("*.png"))) == 3
    assert len(read_metrics(run)) == 3
    assert run_evaluate(run, "--episodes", 1, "--video", tmp_path / "film.mp4") == 2
    assert "PyAV cannot encode H.264" in capsys.readouterr().err and not (tmp_path / "film.mp4").exists()
    assert (run / "logs" / "evaluation.json").is_file()  # what was played is not lost for want of a film


def test_a_picture_that_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    monkeypatch.setattr(
        media, "write_atomically", no_encoder(PermissionError(errno.EACCES, "denied", "x.png"))
    )
    assert train_micro(tmp_path / "run", *EVALUATED) == 0
    assert capsys.readouterr().err.count("no pictures or films, and the run goes on") == 1
    assert len(read_metrics(tmp_path / "run")) == 3


def test_a_disk_full_of_pictures_ends_the_run_with_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Say
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(media, "write_atomically", no_encoder(OSError(errno.ENOSPC, "No space left", "x.png")))
        assert train_micro(run, *EVALUATED) == 4
    assert "is full: no checkpoint was written yet" in capsys.readouterr().err.splitlines()[-1]
    assert not list(run.rglob("*.partial"))
    assert run_train("--resume", run) == 0
    assert len(read_metrics(run)) == 3


def test_a_film_says_why_it_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "open", no_encoder(UnknownCodecError("libx264")))
    with pytest.raises(media.NoFilmError, match=r"film\.mp4 was not made"):
        media.save_episode_video(tmp_path / "film.mp4", np.zeros((2, 3, 64, 64), np.uint8))
