"""Recordings: what is in them, the same dream again from its seed, films, save mode, what cannot be written."""

from __future__ import annotations

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from iris_fast.play import recording
from iris_fast.play import session as play_session
from iris_fast.play.interface import MessageError
from iris_fast.play.loading import Player
from iris_fast.play.recording import film_of
from iris_fast.play.session import Session
from tests.play.sessions import load, recorded, reply, step


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
    assert film_of(arrays).shape == (13, 3, 64, 130 if mode == "fork" else 64)  # with a line between the two
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


def test_what_the_page_sets_while_it_is_recorded(own: Player) -> None:
    """The temperature of each step; a reset begins an episode; a replaced token changes the last frame."""
    session = Session(own, "dream", seed=1, temperature=1.0)
    session.handle({"type": "record"})
    step(session)
    session.handle({"type": "set", "temperature": 2.0, "fps": 60})
    step(session)
    before = session._world.moment
    session.handle({"type": "token", "index": 5, "code": 3})
    changed = session._world.moment
    assert (
        before.tokens is not None
        and before.tokens[5] != 3
        and not np.array_equal(before.frame, changed.frame)
    )
    session.handle({"type": "reset"})
    arrays = load(own, reply(session.handle({"type": "record"}), "recorded"))
    assert arrays["temperatures"].tolist() == [1, 1, 2, 2] and arrays["temperature"] == 1
    assert arrays["steps"].tolist() == [0, 1, 2, 0] and arrays["actions"][3] == -1
    assert np.array_equal(arrays["frames"][2], changed.frame) and arrays["tokens"][2, 5] == 3
    session.close()


def test_a_closed_tab_saves_its_recording_and_drops_the_episode_it_asked_about(own: Player) -> None:
    session = Session(own, save=True)
    session.handle({"type": "record"})
    while session.advance() is not None:
        pass
    session.close()
    session.close()
    (path,) = (own.media / "recordings").glob("*.npz")
    with np.load(path) as arrays:
        assert len(arrays["frames"]) == 10
    assert len(list(path.parent.iterdir())) == 2  # with its film


def test_recordings_of_the_same_second_have_names_of_their_own(
    own: Player, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording.time, "strftime", lambda _: "now")
    sessions = [Session(own, seed=seed) for seed in range(4)]
    with ThreadPoolExecutor() as threads:
        answers = list(threads.map(lambda one: recorded(one, 2)[1], sessions))
    names = sorted(path.name for path in (own.media / "recordings").iterdir())
    assert names == sorted(
        f"real_now{n}.{ending}" for n in ("", "_2", "_3", "_4") for ending in ("npz", "mp4")
    )
    assert sorted(int(load(own, answer)["seed"]) for answer in answers) == [0, 1, 2, 3]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_said_in_a_sentence_and_leaves_no_half_file(
    own: Player, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    session = Session(own)
    session.handle({"type": "record"})
    step(session)
    with monkeypatch.context() as patched:
        patched.setattr("iris_fast.files.os.fsync", fail)
        with pytest.raises(
            MessageError, match="the disk is full" if number == errno.ENOSPC else os.strerror(number)
        ):
            session.handle({"type": "record"})
    assert list((own.media / "recordings").iterdir()) == [] and session.state()["recording"] is False
    assert len(load(own, recorded(session, 2)[1])["frames"]) == 3  # the tab goes on
    session.close()


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


def test_a_folder_that_cannot_be_written_is_said_on_the_page(own: Player) -> None:
    own.media.write_text("a file in the way")
    session = Session(own)
    session.handle({"type": "record"})
    step(session)
    with pytest.raises(MessageError, match="cannot be written"):
        session.handle({"type": "record"})
    step(session)
    session.close()


def test_episodes_are_kept_without_a_question_or_no_longer_asked_about(own: Player) -> None:
    session = Session(own, save=True)
    messages = [message for _ in range(9) for message in step(session).messages]
    assert messages[-1]["type"] == "asked" and session.advance() is None and session.state()["asking"]
    kept = session.handle({"type": "set", "save": "all"})  # this one, and those after it
    assert len(load(own, reply(kept, "recorded"))["frames"]) == 10
    said = [message["type"] for _ in range(20) for message in step(session).messages]
    assert said == ["recorded", "recorded"] and not session.state()["asking"]
    session.handle({"type": "set", "save": "ask"})
    while not session.state()["asking"]:
        step(session)
    replies = session.handle({"type": "set", "save": "off"})
    assert [message["type"] for message in replies] == ["state"]
    assert all(not step(session).messages for _ in range(25))
    session.close()
