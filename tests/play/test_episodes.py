"""Looking through episodes and recordings: found, opened, sought, compared, and refused where damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iris_fast.play.interface import Message, MessageError
from iris_fast.play.loading import Player, media_of
from iris_fast.play.session import Session
from iris_fast.training.media import return_comment, save_episode_video
from tests.play.sessions import recorded, reply, step


def test_episodes_are_listed_opened_sought_and_compared(own: Player) -> None:
    rng = np.random.default_rng(0)
    frames = np.zeros((300, 3, 64, 64), np.uint8)
    frames[:] = rng.integers(0, 255, (300, 3, 1, 1), dtype=np.uint8)
    film = own.media / "episodes" / "test" / "epoch_0003_0.mp4"
    save_episode_video(film, frames, scale=1, comment=return_comment(-2.5))
    session = Session(own)
    shown, answer = recorded(session, 9)
    session.handle({"type": "set", "mode": "episodes"})
    recording, test = reply(session.handle({"type": "list"}), "episodes")["episodes"]
    assert (recording["kind"], recording["steps"], abs(recording["return"])) == ("recording", 9, 1)
    assert (recording["name"], recording["id"]) == ("Recording: game", answer["id"])
    assert (test["kind"], test["steps"], test["return"]) == ("real", 299, -2.5)
    assert (test["name"], test["changed"]) == ("Test episode, epoch 3", int(film.stat().st_mtime))
    opened: Any = session.state()["films"]  # the newest film is shown at once
    assert opened == {"0": {"id": answer["id"], "name": "Recording: game"}}

    session.handle({"type": "open", "side": 0, "id": answer["id"]})
    session.handle({"type": "set", "paused": True})
    update = step(session)
    assert update.info["step"] == 0 and np.array_equal(update.images["left"], shown[0])
    session.handle({"type": "open", "side": 1, "id": test["id"]})
    for index in (5, 6, 299, 120, 3, 0, 251):
        session.handle({"type": "seek", "index": index})
        update = step(session)
        assert update.info["step"] == index and update.info["length"] == 299
        assert np.array_equal(update.images["left"], shown[min(index, 9)])
        assert np.abs(update.images["right"].astype(int).mean((0, 1)) - frames[index, :, 0, 0]).max() < 6, (
            index
        )
    session.handle({"type": "open", "side": 0, "id": test["id"]})
    update = step(session)  # a film's numbers are in its picture
    assert update.info["reward"] is None and update.info["return"] is None
    session.handle({"type": "seek", "index": 10**6})
    assert step(session).info["step"] == 299
    session.handle({"type": "set", "paused": False})
    step(session)
    assert session.advance() is None  # its end
    session.close()


@pytest.mark.parametrize(
    "name", ["../secret.npz", "/etc/passwd", "link.npz", "episodes", "none.mp4", "x" * 500, "a\0"]
)
def test_only_films_of_the_media_folder_can_be_opened(own: Player, name: str) -> None:
    own.media.mkdir()
    secret = own.media.parent / "secret.npz"
    secret.write_bytes(b"x")
    (own.media / "link.npz").symlink_to(secret)
    session = Session(own)
    with pytest.raises(MessageError, match="There is no episode"):
        session.handle({"type": "open", "side": 0, "id": name})
    assert session.mode == "real"
    session.close()


def test_a_film_that_is_damaged_further_on_is_closed_with_a_sentence(own: Player) -> None:
    path = own.media / "episodes" / "test" / "epoch_0001_0.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (600, 3, 64, 64), dtype=np.uint8)
    save_episode_video(path, frames, scale=1)
    content = bytearray(path.read_bytes())
    begin = content.index(b"mdat") + 4
    content[begin : content.index(b"moov") - 4] = bytes(content.index(b"moov") - 4 - begin)
    path.write_bytes(content)
    session = Session(own, "episodes")
    session.handle({"type": "open", "side": 0, "id": "episodes/test/epoch_0001_0.mp4"})
    with pytest.raises(MessageError, match="is damaged: choose another"):
        session.advance()
    assert session.advance() is None
    session.close()


def test_a_checkpoints_films_are_its_runs(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for path in (
        tmp_path / "run",
        tmp_path / "run" / "checkpoints" / "last.pt",
        tmp_path / "run" / "copy.pt",
    ):
        assert media_of(path) == tmp_path / "run" / "media"


def test_a_recordings_arrays_have_their_shapes_and_types(own: Player) -> None:
    path = own.media / "recordings" / "other.npz"
    path.parent.mkdir(parents=True)
    count = 4
    good: dict[str, Any] = {
        "frames": np.zeros((count, 3, 64, 64), np.uint8),
        "actions": np.zeros(count, np.int32),
        "rewards": np.full(count, np.nan, np.float32),
        "ends": np.zeros(count, bool),
        "steps": np.arange(count),
        "action_names": np.array(["NOOP"]),
    }
    session = Session(own)

    def opened(**other: Any) -> None:
        np.savez(path, **{**good, **other})
        session.handle({"type": "open", "side": 0, "id": "recordings/other.npz"})

    opened()
    assert step(session).info["action_name"] == "NOOP"
    for other in (
        {"frames": np.zeros((count, 64), np.uint8)},
        {"frames": np.zeros((count, 3, 64, 64))},
        {"frames": np.zeros((0, 3, 64, 64), np.uint8)},
        {"actions": np.zeros((count, 2), np.int64)},
        {"actions": np.array(["a"] * count)},
        {"rewards": np.zeros(count, complex)},
        {"ends": np.zeros(count)},
        {"steps": np.zeros(count + 1, np.int64)},
        {"steps": np.array(3)},
    ):
        with pytest.raises(MessageError, match="cannot be read as a film"):
            opened(**other)
    session.close()


@pytest.mark.parametrize("ending", [".npz", ".mp4"])
def test_damaged_films_get_a_sentence(own: Player, ending: str) -> None:
    (own.media / "recordings").mkdir(parents=True)
    path = own.media / "recordings" / f"broken{ending}"
    for content in (b"", b"PK\x03\x04 no film", b"\x93NUMPY no film", b"PK no film"):
        path.write_bytes(content)
        with pytest.raises(MessageError, match="cannot be read as a film"):
            Session(own).handle({"type": "open", "side": 0, "id": f"recordings/broken{ending}"})
    session = Session(own)
    rows: Any = reply(session.handle({"type": "list"}), "episodes")["episodes"]
    assert rows[0]["steps"] is None
    with pytest.raises(MessageError, match="cannot be read as a film"):
        session.handle({"type": "open", "side": 0, "id": f"recordings/broken{ending}"})
    session.close()


def test_an_episode_takes_no_actions_on_the_world(own: Player) -> None:
    session = Session(own, "episodes")
    messages: list[Message] = [{"type": "record"}, {"type": "token", "index": 0, "code": 0}]
    for message in messages:
        with pytest.raises(MessageError, match="film"):
            session.handle(message)
    with pytest.raises(MessageError, match="sought"):
        Session(own).handle({"type": "seek", "index": 0})


def test_films_are_in_the_order_of_their_epochs_and_kinds(own: Player) -> None:
    frames = np.zeros((2, 3, 64, 64), np.uint8)
    for folder in ("imagination", "test", "train"):
        for epoch in (100, 20):
            save_episode_video(own.media / "episodes" / folder / f"epoch_{epoch:04d}_0.mp4", frames, scale=1)
    save_episode_video(own.media / "episodes" / "test" / "epoch_0020_1.mp4", frames, scale=1)
    session = Session(own, "episodes")
    rows: Any = reply(session.handle({"type": "list"}), "episodes")["episodes"]
    assert [row["name"] for row in rows[:3]] == [
        "Test episode, epoch 100",
        "Training episode, epoch 100",
        "Dream, epoch 100",
    ]
    assert sorted(row["name"] for row in rows[3:5]) == [
        "Test episode, epoch 20",
        "Test episode, epoch 20, number 2",
    ]
    assert rows[0]["return"] is None  # of a film that does not say it
    opened: Any = session.state()["films"]
    assert opened["0"]["name"] == "Test episode, epoch 20, number 2"  # written last
    session.close()


def test_without_a_film_there_is_none_to_show(own: Player) -> None:
    session = Session(own, "episodes")
    assert session.state()["films"] == {} and session.advance() is None
    session.close()
