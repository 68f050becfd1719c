"""Stored data comes back exactly, segments are drawn as specified, and old episodes make room."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from iris_fast.errors import UserError
from iris_fast.replay.store import PADDING_SLOT, EpisodeStore, Segments
from tests.support.episodes import CPU, Columns, assert_uniform, noise, noise_store

SIZE = 4


def fill(store: EpisodeStore, key: int, length: int, closed: bool = True, seed: int = 0) -> Columns:
    columns = noise(np.random.default_rng([seed, key, length]), length, SIZE)
    store.extend(key, *columns, closed=closed)
    return columns


def assert_holds(store: EpisodeStore, key: int, columns: Columns) -> None:
    index = torch.from_numpy(store.episodes[key].held)
    stored = (store.frames, store.actions, store.rewards, store.ends)
    for storage, values in zip(stored, columns, strict=True):
        np.testing.assert_array_equal(storage[index].numpy(), values)


def owner(store: EpisodeStore) -> dict[int, tuple[int, int]]:
    """(episode, index within it) of each slot."""
    return {
        int(slot): (key, index)
        for key, episode in store.episodes.items()
        for index, slot in enumerate(episode.held)
    }


def check_rows(store: EpisodeStore, segments: Segments, from_start: bool) -> None:
    """Each row is consecutive steps of one episode, padded on the one side, as long as the episode allows."""
    place, length = owner(store), segments.slots.shape[1]
    for slots, mask in zip(segments.slots, segments.mask, strict=True):
        held = int(mask.sum())
        assert held > 0
        shown = slice(0, held) if from_start else slice(length - held, length)
        assert mask[shown].all()
        assert (slots[~mask] == PADDING_SLOT).all()
        episodes, indices = zip(*(place[int(slot)] for slot in slots[shown]), strict=True)
        assert len(set(episodes)) == 1
        assert list(indices) == list(range(indices[0], indices[0] + held))
        if from_start:
            assert held == min(length, store.episodes[episodes[0]].length - indices[0])
        else:
            assert held == min(length, indices[-1] + 1)


@pytest.mark.parametrize("from_start", [True, False])
def test_segments_are_drawn_as_specified(from_start: bool) -> None:
    lengths = (1, 7, 40)
    store = noise_store(*lengths, size=SIZE)
    segments = store.sample(np.random.default_rng(3), 6000, 9, from_start)
    check_rows(store, segments, from_start)
    place = owner(store)
    drawn = Counter(place[int(slot)] for slot in segments.slots[:, 0 if from_start else -1])
    by_episode = [sum(n for (key, _), n in drawn.items() if key == episode) for episode in range(3)]
    assert_uniform(np.array(by_episode))  # whatever their length
    for key, length in enumerate(lengths[1:], start=1):
        assert_uniform(np.array([drawn[(key, index)] for index in range(length)]))


def test_draws_depend_on_the_generator_alone() -> None:
    store = noise_store(5, 9, size=SIZE)
    first, again, other = (store.sample(np.random.default_rng(seed), 20, 4, True).slots for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("from_start", [True, False])
def test_padding_is_zeros_and_marked(from_start: bool) -> None:
    store = noise_store(2, size=SIZE)
    segments = store.sample(np.random.default_rng(0), 8, 5, from_start)
    batch, frames = store.batch(segments), store.gather_frames(segments.slots)
    mask = batch.mask_padding
    assert mask.dtype == torch.bool
    assert frames.shape == (8, 5, 3, SIZE, SIZE)
    assert (frames[~mask] == 0).all()
    assert (frames[mask].amin(dim=(1, 2, 3)) > 0).all()
    for padded in (batch.actions, batch.rewards, batch.ends):
        assert padded.shape == (8, 5)
        assert (padded[~mask] == 0).all()
    assert (batch.rewards[mask] != 0).all()


def test_what_is_stored_comes_back_exactly() -> None:
    store = EpisodeStore(64, SIZE, CPU)
    frames = np.arange(3 * SIZE * SIZE * 64, dtype=np.int64).reshape(64, 3, SIZE, SIZE).astype(np.uint8)
    rewards = np.random.default_rng(0).normal(size=64).astype(np.float32) * 1e3
    actions, ends = np.arange(64) % 18, np.arange(64) % 5 == 0
    slots = store.extend(0, frames, actions, rewards, ends, closed=True)
    assert_holds(store, 0, (frames, actions, rewards, ends))
    gathered = store.gather_frames(slots)
    assert gathered.dtype == torch.float32
    assert torch.equal((gathered * 255).round().to(torch.uint8), torch.from_numpy(frames))
    assert torch.equal(gathered, torch.from_numpy(frames).float() / 255)
    segment = store.batch(Segments(slots[None], np.ones((1, 64), bool)))
    assert torch.equal(segment.rewards[0], torch.from_numpy(rewards))
    assert segment.actions.dtype == torch.int64
    assert segment.actions[0].tolist() == actions.tolist()
    assert segment.ends[0].tolist() == ends.tolist()


def test_open_episodes_grow_side_by_side() -> None:
    """As two environments hand over their steps epoch after epoch, past the first room of an episode."""
    store = EpisodeStore(400, SIZE, CPU)
    pieces: dict[int, list[Columns]] = {0: [], 1: []}
    for turn, length in enumerate((1, 60, 70, 30)):
        for key in pieces:
            pieces[key].append(fill(store, key, length, closed=turn == 3, seed=turn))
    for key, parts in pieces.items():
        columns: Columns = tuple(np.concatenate(column) for column in zip(*parts, strict=True))  # type: ignore[assignment]
        assert_holds(store, key, columns)
        assert store.episodes[key].length == 161
        assert store.episodes[key].closed
        assert store.episodes[key].episode_return == pytest.approx(float(columns[2].sum()), rel=1e-5)
    assert store.num_frames == 322
    assert not set(store.episodes[0].held) & set(store.episodes[1].held)


def test_whole_oldest_closed_episodes_make_room() -> None:
    store = EpisodeStore(12, SIZE, CPU)
    fill(store, 0, 2, closed=False)  # the oldest, but still being played
    kept = {key: fill(store, key, 4) for key in (1, 2)}
    before = set(store.episodes[1].held)
    kept[3] = fill(store, 3, 5)
    assert list(store.episodes) == [0, 2, 3]
    assert store.evicted == [1]
    assert store.num_frames == 11
    assert set(store.episodes[3].held) & before, "its slots are used again"
    for key in (2, 3):
        assert_holds(store, key, kept[key])


def test_slots_are_reused_and_the_padding_stays_empty() -> None:
    store, capacity = EpisodeStore(50, SIZE, CPU), 50
    rng = np.random.default_rng(0)
    contents: dict[int, Columns] = {}
    for key in range(100):
        contents[key] = fill(store, key, int(rng.integers(1, 20)))
        held = [int(slot) for episode in store.episodes.values() for slot in episode.held]
        assert len(held) == len(set(held)) == store.num_frames <= capacity
        assert min(held) >= 1
        assert max(held) <= capacity
        assert list(store.episodes) == list(range(key + 1 - len(store.episodes), key + 1))
    for key in store.episodes:
        assert_holds(store, key, contents[key])
    assert store.frames.shape[0] == capacity + 1
    assert not store.frames[PADDING_SLOT].any()


def test_an_open_episode_goes_only_when_there_is_no_closed_one() -> None:
    store = EpisodeStore(6, SIZE, CPU)
    fill(store, 0, 3, closed=False)
    fill(store, 1, 3, closed=False)
    fill(store, 1, 2, closed=True, seed=1)
    assert list(store.episodes) == [1]
    assert store.episodes[1].length == 5


def test_an_episode_longer_than_the_replay_is_refused() -> None:
    store = EpisodeStore(6, SIZE, CPU)
    with pytest.raises(UserError, match="6 frames do not hold one episode: raise"):
        fill(store, 0, 7)
    store = EpisodeStore(6, SIZE, CPU)
    fill(store, 0, 4, closed=False)
    with pytest.raises(UserError, match="do not hold one episode"):
        fill(store, 0, 3)


def test_no_room_for_a_frame_is_refused() -> None:
    with pytest.raises(UserError, match=r"does not hold one frame: raise datasets\.train\.max_ram_usage"):
        EpisodeStore(0, SIZE, CPU)


def test_an_empty_replay_is_refused() -> None:
    store = EpisodeStore(6, SIZE, CPU)
    with pytest.raises(UserError, match=r"the replay is empty: collect before training"):
        store.sample(np.random.default_rng(0), 1, 1, True)
    columns = noise(np.random.default_rng(0), 0, SIZE)
    store.extend(0, *columns, closed=False)  # an episode without a step is as good as none
    with pytest.raises(UserError, match="the replay is empty"):
        store.sample(np.random.default_rng(0), 1, 1, True)


def test_bytes_of_a_frame() -> None:
    store = EpisodeStore(9, SIZE, CPU)
    storages = (store.frames, store.actions, store.rewards, store.ends)
    assert sum(storage.nbytes for storage in storages) == 10 * EpisodeStore.frame_bytes(SIZE)


def test_a_replay_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch, "zeros", no_room)
    with pytest.raises(
        UserError,
        match=r"1000 frames \(0\.0 GB\) do not fit on cpu: use a lower datasets\.train\.max_ram_usage",
    ):
        EpisodeStore(1000, 64, torch.device("cpu"), torch.device("cpu"))


def test_more_than_any_memory_is_refused() -> None:
    with pytest.raises(UserError, match=r"do not fit on cpu: use a lower datasets\.train\.max_ram_usage"):
        EpisodeStore(10**11, 64, torch.device("cpu"))


def test_change_is_the_difference_to_the_frame_before() -> None:
    """Across calls of `extend`, in slots that are used again, and none in a first frame or in padding."""
    store = EpisodeStore(9, SIZE, CPU)
    fill(store, 0, 4)
    first, second = fill(store, 1, 2, closed=False)[0], fill(store, 1, 3, seed=1)[0]
    third = fill(store, 2, 3)[0]  # evicts episode 0
    assert list(store.episodes) == [1, 2]
    for key, frames in ((1, np.concatenate([first, second])), (2, third)):
        expected = np.abs(np.diff(frames.astype(int), axis=0, prepend=frames[:1].astype(int)))
        gathered, found = store.gather_with_change(store.episodes[key].held)
        assert found.dtype == torch.uint8
        assert torch.equal(gathered, store.gather_frames(store.episodes[key].held))
        np.testing.assert_array_equal(found.numpy(), expected)
    assert not store.gather_with_change(np.array([PADDING_SLOT]))[1].any()
