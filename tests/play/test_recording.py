"""Recordings: what is in them, the same dream again from its seed, films, save mode, and looking through them."""

from __future__ import annotations

import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from iris_fast.play import __main__ as command
from iris_fast.play import recording
from iris_fast.play import session as play_session
from iris_fast.play.interface import Message, MessageError, Update
from iris_fast.play.loading import Player, media_of
from iris_fast.play.session import Session
from iris_fast.training.media import save_episode_video
from tests.support.commands import Say, refusal, run_command


def run_play(*arguments: object) -> int:
    return run_command(command.main, [str(argument) for argument in arguments])


@pytest.fixture()
def own(player: Player, tmp_path: Path) -> Player:
    """The player with a media folder of its own."""
    return replace(player, media=tmp_path / "media")


def step(session: Session) -> Update:
    update = session.advance()
    assert update is not None
    return update


def reply(replies: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(message for message in replies if message["type"] == kind)


def recorded(session: Session, steps: int) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The frames shown while it was recorded, the one at its start included, and the reply."""
    shown = [next(iter(session._world.images(False).values()))]
    session.handle({"type": "record"})
    assert session.state()["recording"] is True
    shown += [next(iter(step(session).images.values())) for _ in range(steps)]
    return shown, reply(session.handle({"type": "record"}), "recorded")


def load(own: Player, answer: dict[str, Any]) -> dict[str, np.ndarray]:
    with np.load(own.media / answer["id"]) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("mode", ["real", "dream", "fork"])
def test_a_recording_has_the_frames_shown_and_their_steps(own: Player, mode: str) -> None:
    session = Session(own, mode, seed=3)
    step(session)
    shown, answer = recorded(session, 12)
    arrays = load(own, answer)
    assert np.array_equal(arrays["frames"].transpose(0, 2, 3, 1), np.stack(shown))
    assert arrays["seed"] == 3 and str(arrays["mode"]) == mode and str(arrays["game"]) == "Catch"
    assert (arrays["actions"] >= 0).sum() + (arrays["actions"] == -1).sum() == 13
    assert ((arrays["actions"] == -1) == (arrays["steps"] == 0)).all()
    assert np.isfinite(arrays["values"][arrays["actions"] >= 0]).all()
    if mode == "dream":
        decoded = own.engine.frames_of(torch.from_numpy(arrays["tokens"]))
        assert np.abs(decoded.numpy() * 255 - arrays["frames"]).max() <= 0.51
    assert ("dreams" in arrays) == (mode == "fork")
    session.close()


def test_a_dream_that_an_agent_played_is_the_same_again_from_its_seed(own: Player) -> None:
    first = Session(own, "dream", seed=11, temperature=0.7)
    for _ in range(3):
        step(first)
    arrays = load(own, recorded(first, 40)[1])
    again = Session(own, "dream", seed=int(arrays["seed"]), temperature=float(arrays["temperature"]))
    assert (arrays["steps"] == 0).any(), "several dreams"
    for _ in range(3):
        step(again)
    same = load(own, recorded(again, 40)[1])
    for name in ("frames", "actions", "rewards", "ends", "tokens", "values"):
        assert np.array_equal(arrays[name], same[name], equal_nan=name == "values"), name
    other = Session(own, "dream", seed=12, temperature=0.7)
    assert not np.array_equal(load(own, recorded(other, 40)[1])["tokens"][:30], arrays["tokens"][:30])


def test_the_film_of_a_recording_shows_its_frames(own: Player) -> None:
    session = Session(own, seed=1)
    shown, answer = recorded(session, 5)
    film = own.media / "recordings" / next(f["name"] for f in answer["files"] if f["name"].endswith(".mp4"))
    with av.open(str(film)) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == len(shown)
    for large, small in zip(decoded, shown, strict=True):
        picture = large[large.shape[0] - 384 :][3::6, 3::6]
        assert np.abs(picture.astype(int) - small).mean() < 4


def test_save_mode_asks_after_each_episode(own: Player) -> None:
    session = Session(own, save=True)
    asked = [message for _ in range(9) for message in step(session).messages]
    assert [(message["type"], message["steps"]) for message in asked] == [("asked", 9)]
    assert session.advance() is None
    answer = reply(session.handle({"type": "keep", "keep": True}), "recorded")
    assert len(load(own, answer)["frames"]) == 10 and load(own, answer)["ends"][-1]
    for _ in range(10):
        step(session)
    replies = session.handle({"type": "keep", "keep": False})
    assert [message["type"] for message in replies] == ["state"]
    with pytest.raises(MessageError, match="No episode waits"):
        session.handle({"type": "keep", "keep": True})
    assert len(list((own.media / "recordings").glob("*.npz"))) == 1


def test_leaving_a_mode_ends_its_recording(own: Player) -> None:
    session = Session(own)
    session.handle({"type": "record"})
    step(session)
    replies = session.handle({"type": "set", "mode": "dream"})
    assert len(load(own, reply(replies, "recorded"))["frames"]) == 2
    assert reply(replies, "state")["recording"] is False


def test_without_an_encoder_a_gif_is_made(own: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "has_encoder", lambda: False)
    shown, answer = recorded(Session(own), 4)
    gif = next(file["name"] for file in answer["files"] if file["name"].endswith(".gif"))
    with Image.open(own.media / "recordings" / gif) as image:
        assert (
            getattr(image, "n_frames", 0) == len(shown) and image.info["duration"] == 200
        )  # Catch: 5 a second
        for index, frame in enumerate(shown):
            image.seek(index)
            assert np.array_equal(np.asarray(image.convert("RGB"))[::4, ::4], frame)
    monkeypatch.setattr(recording, "LONGEST_GIF", 3)
    assert [Path(file["name"]).suffix for file in recorded(Session(own), 4)[1]["files"]] == [".npz"]


def test_a_long_recording_ends_by_itself_and_a_long_episode_is_cut(
    own: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(play_session, "LONGEST", 5)
    session = Session(own, save=True)
    session.handle({"type": "record"})
    told = [message for _ in range(9) for message in step(session).messages]
    assert [message["type"] for message in told] == ["recorded", "state", "asked"]
    assert told[1]["recording"] is False
    assert len(load(own, told[0])["frames"]) == 5 and session.state()["recording"] is False
    kept = reply(session.handle({"type": "keep", "keep": True}), "recorded")
    assert len(load(own, kept)["frames"]) == 5


def test_a_long_recording_that_cannot_be_written_is_said_once(
    own: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(play_session, "LONGEST", 3)
    own.media.write_text("a file in the way")
    session = Session(own)
    session.handle({"type": "record"})
    step(session)
    with pytest.raises(MessageError, match="cannot be written"):
        session.advance()
    assert step(session).info["step"] == 3


def test_a_recording_keeps_no_more_than_it_writes(own: Player) -> None:
    """Not the logits of the step, which are larger than its frame, and frames only compressed."""
    session = Session(own, "dream")
    made = session.new_recording()
    for _ in range(20):
        session.record_step(made)
    assert len(pickle.dumps((made.rows, made._frames, made._tokens))) < 20 * 64 * 64 * 3


def test_episodes_are_listed_opened_sought_and_compared(own: Player) -> None:
    rng = np.random.default_rng(0)
    frames = np.zeros((300, 3, 64, 64), np.uint8)
    frames[:] = rng.integers(0, 255, (300, 3, 1, 1), dtype=np.uint8)
    save_episode_video(own.media / "episodes" / "test" / "epoch_0003_0.mp4", frames, scale=1)
    session = Session(own)
    shown, answer = recorded(session, 9)
    session.handle({"type": "set", "mode": "episodes"})
    assert session.advance() is None  # nothing is open yet
    rows: Any = reply(session.handle({"type": "list"}), "episodes")["episodes"]
    assert [(row["kind"], row["steps"]) for row in rows] == [("real", 299), ("recording", 9)]
    assert rows[1]["id"] == answer["id"] and abs(rows[1]["return"]) == 1

    session.handle({"type": "open", "side": 0, "id": answer["id"]})
    session.handle({"type": "set", "paused": True})
    update = step(session)
    assert update.info["step"] == 0 and np.array_equal(update.images["left"], shown[0])
    session.handle({"type": "open", "side": 1, "id": rows[0]["id"]})
    for index in (5, 6, 299, 120, 3, 0, 251):
        session.handle({"type": "seek", "index": index})
        update = step(session)
        assert update.info["step"] == index and update.info["length"] == 299
        assert np.array_equal(update.images["left"], shown[min(index, 9)])
        assert np.abs(update.images["right"].astype(int).mean((0, 1)) - frames[index, :, 0, 0]).max() < 6, (
            index
        )
    session.handle({"type": "open", "side": 0, "id": rows[0]["id"]})
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


def test_a_folder_that_cannot_be_written_is_said_on_the_page(own: Player) -> None:
    own.media.write_text("a file in the way")
    session = Session(own)
    session.handle({"type": "record"})
    step(session)
    with pytest.raises(MessageError, match="cannot be written"):
        session.handle({"type": "record"})
    step(session)
    session.close()


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
