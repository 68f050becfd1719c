"""Played frames in files: reading returns the stored frames, whatever changed between saves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from iris_fast.errors import UserError
from iris_fast.replay.store import EpisodeStore
from iris_fast.training.checkpoint import DatasetLog, play_back
from tests.support.episodes import CPU, noise

SIZE, CAPACITY = 4, 40


def fill(store: EpisodeStore, key: int, length: int, closed: bool, rng: np.random.Generator) -> None:
    store.extend(key, *noise(rng, length, SIZE), closed=closed)


def read_back(log: DatasetLog, folder: Path) -> EpisodeStore:
    """What a new process gets from the log's state and its files."""
    store = EpisodeStore(CAPACITY, SIZE, CPU)
    state = log.state_dict()
    DatasetLog(list(state["files"]), dict(state["written"])).load(folder, store)
    return store


def assert_same(found: EpisodeStore, expected: EpisodeStore) -> None:
    assert list(found.episodes) == list(expected.episodes), "the same episodes in the same order"
    assert found.num_frames == expected.num_frames
    assert found.evicted == []
    for key, episode in expected.episodes.items():
        other = found.episodes[key]
        assert (other.length, other.closed) == (episode.length, episode.closed)
        assert other.episode_return == pytest.approx(episode.episode_return, abs=1e-5)
        index, other_index = torch.from_numpy(episode.held), torch.from_numpy(other.held)
        for name in ("frames", "actions", "rewards", "ends"):
            assert torch.equal(getattr(found, name)[other_index], getattr(expected, name)[index]), name


@pytest.mark.parametrize("seed", range(6))
def test_there_and_back(tmp_path: Path, seed: int) -> None:
    """Two environments play into a replay that is often full, with a save now and then; another process follows."""
    rng = np.random.default_rng(seed)
    store, log = EpisodeStore(CAPACITY, SIZE, CPU), DatasetLog()
    follower, shared = EpisodeStore(CAPACITY, SIZE, CPU), DatasetLog()
    playing, next_key = [0, 1], 2
    for epoch in range(1, 16):
        for row in range(2):
            for _ in range(int(rng.integers(0, 3))):
                held = store.episodes.get(playing[row])
                closed = bool(rng.random() < 0.5) or (held is not None and held.length > 10)
                fill(store, playing[row], int(rng.integers(1, 14)), closed, rng)
                if closed:
                    playing[row], next_key = next_key, next_key + 1
        log.save(tmp_path, store, epoch)
        if epoch % 3 == 0:
            assert_same(read_back(log, tmp_path), store)
        if (news := shared.news(store)) is not None:
            play_back(news, follower)
            shared.has_recorded(store)
        follower.evicted.clear()
        assert_same(follower, store)
        if store.num_frames:
            ours, theirs = (
                each.gather_frames(each.sample(np.random.default_rng(epoch), 8, 3, from_start=True).slots)
                for each in (store, follower)
            )
            assert torch.equal(ours, theirs)
    assert not all(key in store.episodes for key in range(next_key)), "some were evicted"


def test_an_open_episode_that_was_evicted_begins_anew(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store, log = EpisodeStore(CAPACITY, SIZE, CPU), DatasetLog()
    fill(store, 0, 10, False, rng)
    log.save(tmp_path, store, 1)
    fill(store, 1, 38, False, rng)  # evicts episode 0, which is still being played
    fill(store, 0, 4, False, rng)  # and goes on: its first ten frames are gone, and so is episode 1
    log.save(tmp_path, store, 2)
    assert {key: episode.length for key, episode in store.episodes.items()} == {0: 4}
    assert_same(read_back(log, tmp_path), store)
    fill(store, 0, 6, True, rng)
    log.save(tmp_path, store, 3)
    assert_same(read_back(log, tmp_path), store)


def test_only_what_is_new_is_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    store, log = EpisodeStore(CAPACITY, SIZE, CPU), DatasetLog()
    log.save(tmp_path, store, 1)
    assert log.files == []
    fill(store, 0, 5, False, rng)
    log.save(tmp_path, store, 1)
    log.save(tmp_path, store, 2)
    assert log.files == ["000001_0.npz"]
    fill(store, 0, 2, True, rng)
    fill(store, 1, 3, False, rng)
    log.save(tmp_path, store, 3)
    assert log.files == ["000001_0.npz", "000003_1.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == log.files
    with np.load(tmp_path / log.files[1]) as file:
        assert file["frames"].shape == (5, 3, SIZE, SIZE)
        assert file["frames"].dtype == np.uint8
        assert file["rewards"].dtype == np.float32
    assert_same(read_back(log, tmp_path), store)


def test_files_of_a_save_that_no_checkpoint_names_are_replaced(tmp_path: Path) -> None:
    """As when a process is killed between writing its frames and its checkpoint."""
    rng = np.random.default_rng(0)
    store, log = EpisodeStore(CAPACITY, SIZE, CPU), DatasetLog()
    fill(store, 0, 5, False, rng)
    log.save(tmp_path, store, 1)
    committed = DatasetLog(list(log.files), dict(log.written))
    fill(store, 0, 3, True, rng)
    log.save(tmp_path, store, 2)  # lost: only `committed` is in the checkpoint
    resumed = read_back(committed, tmp_path)
    assert resumed.episodes[0].length == 5
    fill(resumed, 0, 7, True, rng)
    committed.save(tmp_path, resumed, 2)
    assert committed.files == log.files
    assert_same(read_back(committed, tmp_path), resumed)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def scribble(path: Path) -> None:
    path.write_bytes(b"nothing of this is a file of arrays")


@pytest.mark.parametrize("damage", [truncate, scribble, Path.unlink])
def test_a_damaged_file_in_one_sentence(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    store, log = EpisodeStore(CAPACITY, SIZE, CPU), DatasetLog()
    fill(store, 0, 5, False, np.random.default_rng(0))
    log.save(tmp_path, store, 1)
    damage(tmp_path / log.files[0])
    with pytest.raises(UserError, match=r"000001_0\.npz is missing or damaged: the run cannot be resumed"):
        read_back(log, tmp_path)


def test_a_smaller_replay_goes_on_without_losing_what_it_plays(tmp_path: Path) -> None:
    """Episodes under way that were dropped as the files were read: what is played of them later is written."""
    rng = np.random.default_rng(0)
    store, log = EpisodeStore(100, SIZE, CPU), DatasetLog()
    for epoch in (1, 2):
        fill(store, 0, 20, False, rng)
        fill(store, 1, 20, False, rng)
        log.save(tmp_path, store, epoch)
    smaller = EpisodeStore(50, SIZE, CPU)
    log.load(tmp_path, smaller)
    assert log.written == {key: episode.length for key, episode in smaller.episodes.items()}
    for epoch, count in ((3, 5), (4, 7), (5, 12)):  # the last one drops the other episode
        fill(smaller, 1, count, False, rng)
        fill(smaller, 0, 4, False, rng)
        log.save(tmp_path, smaller, epoch)
        again = EpisodeStore(50, SIZE, CPU)
        DatasetLog(list(log.files), dict(log.written)).load(tmp_path, again)
        assert again.num_frames == smaller.num_frames
        for key, episode in smaller.episodes.items():
            frames = again.frames[torch.from_numpy(again.episodes[key].held)]
            assert torch.equal(frames, smaller.frames[torch.from_numpy(episode.held)])


def test_an_episode_that_is_cut_stays_closed(tmp_path: Path) -> None:
    """Though no frame has come since the files were read."""
    store, log = EpisodeStore(CAPACITY, SIZE, CPU), DatasetLog()
    fill(store, 0, 5, False, np.random.default_rng(0))
    log.save(tmp_path, store, 1)
    resumed = EpisodeStore(CAPACITY, SIZE, CPU)
    log.load(tmp_path, resumed)
    log.save(tmp_path, resumed, 2)
    assert len(log.files) == 1
    resumed.close(0)
    log.save(tmp_path, resumed, 2)
    log.save(tmp_path, resumed, 2)
    assert len(log.files) == 2
    assert_same(read_back(log, tmp_path), resumed)
