"""Recordings as data and films, and browsing them: what was shown is what is read back."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from iris_fast.errors import UserError
from iris_fast.play import recording as module
from iris_fast.play.episodes import Recorded, Screening, Shelf
from iris_fast.play.recording import (
    SCALE,
    About,
    Recorder,
    Recording,
    load_recording,
    new_name,
    save_recording,
)
from iris_fast.training.media import save_episode_video

ABOUT = About("dream", "Catch", ("NOOP", "LEFT", "RIGHT"), seed=7, temperature=0.5, fps=15)


def recorded(rows: int = 12, fork: bool = False) -> Recording:
    """Two episodes: a bright row that falls; the second begins at row 8."""
    recorder = Recorder(ABOUT)
    for row in range(rows):
        frame = np.zeros((64, 64, 3), np.uint8)
        frame[row * 4 : row * 4 + 4] = 200
        first = row in (0, 8)
        recorder.add(
            frame,
            None if first else row % 3,
            0.0 if first else 1.0,
            row == 7,
            np.arange(16) + row,
            None if first else row / 10,
            dream=255 - frame if fork else None,
        )
    return recorder.recording()


@pytest.mark.parametrize("fork", [False, True])
def test_the_data_is_read_back_as_it_was(tmp_path: Path, fork: bool) -> None:
    saved = recorded(fork=fork)
    saved.save(tmp_path / "a.npz")
    read = load_recording(tmp_path / "a.npz")
    assert read.about == ABOUT and int(np.load(tmp_path / "a.npz")["seed"]) == 7
    for name in ("frames", "actions", "rewards", "ends", "tokens", "values", "dreams"):
        np.testing.assert_array_equal(getattr(read, name), getattr(saved, name), name)
    assert read.actions.tolist() == [-1, 1, 2, 0, 1, 2, 0, 1, -1, 0, 1, 2] and read.steps == 10
    assert read.returns.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]
    assert np.isnan(read.values[[0, 8]]).all() and read.values[3] == np.float32(0.3)


def test_an_mp4_decodes_to_the_frames_shown(tmp_path: Path) -> None:
    saved = recorded(fork=True)
    saved.save(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        films = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 15
    shown = np.concatenate([saved.frames, saved.dreams], axis=2)  # type: ignore[list-item]
    assert len(films) == len(saved)
    for film, frame in zip(films, shown, strict=True):
        decoded = film[-64 * SCALE :][SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]
        assert np.abs(decoded.astype(int) - frame).mean() < 2


def test_a_gif_has_the_frames_shown(tmp_path: Path) -> None:
    saved = recorded()
    saved.save(tmp_path / "a.gif")
    film = Image.open(tmp_path / "a.gif")
    assert film.n_frames == len(saved) and film.info["duration"] == 70  # type: ignore[attr-defined]
    for index, frame in enumerate(saved.frames):
        film.seek(index)
        assert np.array_equal(np.asarray(film.convert("RGB"))[::4, ::4], frame)


def test_without_an_encoder_a_gif_is_saved_and_an_mp4_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_film_encoder", lambda: False)
    with pytest.raises(UserError, match=r"no H.264 encoder: name a .gif or an .npz instead"):
        recorded().save(tmp_path / "a.mp4")
    assert [path.suffix for path in save_recording(recorded(), tmp_path)] == [".npz", ".gif"]


def test_names_are_new(tmp_path: Path) -> None:
    assert len({new_name(tmp_path, "dream") for _ in range(5)}) == 5


def test_a_long_recording_keeps_its_first_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 5)
    assert len(recorded()) == 5


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x93NUMPY nothing"])
def test_a_broken_file_gets_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"a.npz is not a recording that can be read"):
        load_recording(tmp_path / "a.npz")


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    recorded().save(tmp_path / "a.npz")
    arrays = dict(np.load(tmp_path / "a.npz"))
    for name, wrong in (("actions", arrays["actions"] + 9), ("frames", arrays["frames"][:3])):
        file = io.BytesIO()
        np.savez(file, **{**arrays, name: wrong})  # type: ignore[arg-type]
        (tmp_path / "b.npz").write_bytes(file.getvalue())
        with pytest.raises(UserError, match="not a recording"):
            load_recording(tmp_path / "b.npz")


@pytest.fixture()
def media(tmp_path: Path) -> Path:
    """A run's films, a recording in three files, a broken film, and files that are none of the list's."""
    media = tmp_path / "run" / "media"
    frames = np.zeros((60, 3, 64, 64), np.uint8)
    for index, frame in enumerate(frames):
        frame[:, index] = 255
    for kind in ("train", "test", "imagination"):
        save_episode_video(media / "episodes" / kind / "epoch_0005_0.mp4", frames, captions=["text"] * 60)
    for ending in (".npz", ".mp4", ".gif"):
        recorded().save(media / "recordings" / f"mine{ending}")
    (media / "recordings" / "broken.mp4").write_bytes(b"nothing")
    (media / "recordings" / "notes.txt").write_text("no")
    (media / "pictures").mkdir()
    recorded().save(media / "pictures" / "a.npz")
    recorded().save(tmp_path / "secret.npz")
    (media / "recordings" / "link.npz").symlink_to(tmp_path / "secret.npz")
    return media


def test_the_list_has_every_film_and_recording_once(media: Path) -> None:
    rows = {str(row["id"]): row for row in Shelf(media).list()}
    kinds = {name: (row["kind"], row["steps"], row["return"]) for name, row in rows.items()}
    assert kinds == {
        "episodes/train/epoch_0005_0.mp4": ("real", 59, None),
        "episodes/test/epoch_0005_0.mp4": ("real", 59, None),
        "episodes/imagination/epoch_0005_0.mp4": ("dream", 59, None),
        "recordings/mine.npz": ("recording", 10, 10.0),
        "recordings/broken.mp4": ("recording", None, None),
    }
    assert Shelf(media / "missing").list() == []


@pytest.mark.parametrize(
    "id",
    [
        "recordings/link.npz",
        "recordings/../../../secret.npz",
        "recordings/../pictures/a.npz",
        "pictures/a.npz",
        "/etc/passwd",
        "recordings/notes.txt",
        "recordings",
        "",
        "recordings/\0.npz",
    ],
)
def test_nothing_else_is_opened(media: Path, id: str) -> None:
    with pytest.raises(UserError, match="there is no episode"):
        Shelf(media).open(id)


def test_a_broken_film_gets_a_sentence(media: Path) -> None:
    with pytest.raises(UserError, match=r"broken.mp4 is not a film that can be read"):
        Shelf(media).open("recordings/broken.mp4")


def test_a_film_is_shown_at_any_frame_in_any_order(media: Path) -> None:
    film = Shelf(media).open("episodes/test/epoch_0005_0.mp4")
    assert len(film) == 60
    for index in (0, 1, 2, 59, 30, 29, 55, 3):
        picture = film.shown(index).frame[-64 * 6 :]
        assert picture[:, 100].mean(axis=1).argmax() // 6 == index
    film.close()


def test_two_are_compared_and_the_shorter_waits_at_its_end(media: Path) -> None:
    screening = Screening(Shelf(media))
    assert screening.length == 0 and screening.at_end and screening.shown() == {}
    screening.open(0, "recordings/mine.npz")
    screening.open(1, "episodes/test/epoch_0005_0.mp4")
    screening.seek(20)
    assert screening.length == 60 and not screening.at_end
    shown = screening.shown()
    recording = recorded()
    assert np.array_equal(shown["left"].frame, recording.frames[-1])
    assert (shown["left"].action_name, shown["left"].reward, shown["left"].total) == ("RIGHT", 1.0, 3.0)
    assert shown["right"].action is None and shown["right"].reward is None
    screening.seek(1000)
    assert screening.index == 59 and screening.at_end
    screening.close()
    assert screening.length == 0


def test_a_forks_recording_shows_both_side_by_side() -> None:
    assert Recorded(recorded(fork=True)).shown(3).frame.shape == (64, 128, 3)
