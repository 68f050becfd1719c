"""The rules of Atari 100k, on scripted emulators where every frame is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from iris_fast.envs.atari import NOOP, RawFrames, resize_frame
from tests.envs.conftest import TEST, TRAIN, scripted_env

UP = np.array([1])


def brightness(observations: np.ndarray) -> int:
    """The one value of a `(1, 3, size, size)` observation of a plain screen."""
    (value,) = np.unique(observations)
    return int(value)


def small(frame: np.ndarray) -> np.ndarray:
    """A `(height, width, 3)` frame resized to `(3, 32, 32)` by PIL."""
    return np.asarray(Image.fromarray(frame).resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def test_a_step_holds_its_action_four_frames_sums_rewards_and_shows_the_maximum() -> None:
    env, emulators = scripted_env(TEST)
    observations, _ = env.reset()
    assert brightness(observations) == 1 and emulators.log == [(0, NOOP)]
    observations, rewards, *_ = env.step(UP)
    assert emulators.log[1:] == [(0, 1)] * 4
    assert brightness(observations) == 5
    assert rewards[0] == 0.5 * (2 + 3 + 4 + 5)


def test_the_observation_is_the_maximum_of_the_last_two_frames_each_resized_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env, emulators = scripted_env(replace(TEST, size=32))
    env.reset()
    frames = np.random.default_rng(0).integers(0, 256, (4, 210, 160, 3), dtype=np.uint8)
    plain_step = emulators.step

    def noisy_step(rows: list[int], actions: list[int]) -> RawFrames:
        raw = plain_step(rows, actions)
        return raw._replace(screens=[frames[emulators.frame[0] - 2].transpose(2, 0, 1)])

    monkeypatch.setattr(emulators, "step", noisy_step)
    observations, *_ = env.step(UP)
    np.testing.assert_array_equal(observations[0], np.maximum(small(frames[2]), small(frames[3])))
    assert (observations[0] != small(np.maximum(frames[2], frames[3]))).any()


@pytest.mark.parametrize("shape", [(210, 160), (250, 160), (33, 47)])
def test_planar_and_interleaved_frames_are_resized_alike(shape: tuple[int, int]) -> None:
    interleaved = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(interleaved).resize((64, 64), Image.Resampling.BILINEAR))
    planar = np.ascontiguousarray(interleaved.transpose(2, 0, 1))
    for screen in (interleaved.transpose(2, 0, 1), planar):
        np.testing.assert_array_equal(resize_frame(screen, 64), expected.transpose(2, 0, 1))


def test_one_to_thirty_noops_uniformly_when_training() -> None:
    env, emulators = scripted_env(TRAIN, num_envs=3000)
    observations, _ = env.reset()
    noops = Counter(row for row, action in emulators.log if action == NOOP)
    counts = Counter(noops.values())
    assert set(counts) == set(range(1, 31))
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 58.3  # chi-squared, p = 0.001
    assert [int(frame.max()) for frame in observations] == [noops[row] for row in range(3000)]


def test_exactly_one_noop_when_testing() -> None:
    env, emulators = scripted_env(TEST, num_envs=50)
    env.reset()
    assert emulators.log == [(row, NOOP) for row in range(50)]


def test_a_game_that_ends_within_the_noops_starts_again_and_plays_the_rest() -> None:
    env, emulators = scripted_env(TRAIN, num_envs=20, ends_at=10)
    env.reset()
    noops = Counter(row for row, _ in emulators.log)
    restarted = [row for row in range(20) if emulators.resets[row] > 1]
    assert restarted and max(noops.values()) <= 31 and min(emulators.resets) == 1
    assert all(frame < 10 for frame in emulators.frame)


def test_the_skip_stops_when_the_game_ends() -> None:
    env, emulators = scripted_env(TEST, ends_at=7)
    env.reset()
    env.step(UP)
    observations, rewards, terminations, truncations, infos = env.step(UP)
    assert emulators.frame == [7] and rewards[0] == 0.5 * (6 + 7)
    assert brightness(observations) == 7
    assert terminations[0] and infos["game_over"][0] and not truncations[0]
    env.reset()
    assert emulators.resets == [2]


def test_a_skip_of_one_frame_shows_that_frame_alone() -> None:
    env, _ = scripted_env(TEST, ends_at=6)
    env.reset()
    env.step(UP)
    observations, _, terminations, _, _ = env.step(UP)
    assert terminations[0] and brightness(observations) == 6


def test_a_lost_life_ends_the_episode_and_the_game_goes_on_with_one_noop_step() -> None:
    env, emulators = scripted_env(replace(TRAIN, noop_max=1), lives_at={0: 3, 7: 2})
    env.reset()
    env.step(UP)
    _, _, terminations, truncations, infos = env.step(UP)  # frames 6 to 9
    assert terminations[0] and not truncations[0] and not infos["game_over"][0] and infos["lives"][0] == 2
    observations, infos = env.reset()
    assert emulators.resets == [1]
    assert emulators.log[-4:] == [(0, NOOP)] * 4 and emulators.frame == [13]
    assert brightness(observations) == 13 and infos["lives"][0] == 2
    _, _, terminations, *_ = env.step(UP)
    assert not terminations[0]


def test_the_last_life_ends_the_episode_only_with_the_game() -> None:
    env, emulators = scripted_env(replace(TRAIN, noop_max=1), lives_at={0: 1, 3: 0}, ends_at=9)
    env.reset()
    ends = [env.step(UP)[2][0] for _ in range(2)]
    assert ends == [False, True] and emulators.frame == [9]


def test_lives_are_ignored_when_testing() -> None:
    env, _ = scripted_env(TEST, lives_at={0: 3, 4: 2, 8: 1})
    env.reset()
    assert not any(env.step(UP)[2][0] for _ in range(4))


def test_a_game_over_within_the_noop_step_after_a_lost_life_starts_a_new_game() -> None:
    env, emulators = scripted_env(replace(TRAIN, noop_max=1), lives_at={0: 3, 4: 2}, ends_at=7)
    env.reset()
    assert env.step(UP)[2][0]
    observations, infos = env.reset()
    assert emulators.resets == [2] and brightness(observations) == 1
    assert not infos["game_over"][0] and infos["lives"][0] == 3


def test_a_reset_in_the_middle_of_an_episode_starts_a_new_game() -> None:
    env, emulators = scripted_env(TRAIN)
    env.reset()
    env.step(UP)
    env.reset()
    assert emulators.resets == [2]


def test_the_limit_counts_raw_frames_with_noops_and_truncates() -> None:
    env, emulators = scripted_env(replace(TRAIN, noop_max=1, max_episode_steps=11))
    env.reset()  # 1 frame
    said = [env.step(UP) for _ in range(3)]  # 4, 4 and the 2 that are left
    assert [bool(truncations[0]) for _, _, _, truncations, _ in said] == [False, False, True]
    assert not any(terminations[0] for _, _, terminations, _, _ in said)
    assert emulators.frame == [11] and brightness(said[-1][0]) == 11
    assert not said[-1][4]["game_over"][0]
    env.reset()
    assert emulators.resets == [2] and not env.step(UP)[3][0]


def test_the_limit_spans_the_lives_of_a_game() -> None:
    env, emulators = scripted_env(replace(TRAIN, noop_max=1, max_episode_steps=15), lives_at={0: 3, 4: 2})
    env.reset()
    assert env.step(UP)[2][0]  # frames 2 to 5
    env.reset()  # 6 to 9
    truncations = [env.step(UP)[3][0] for _ in range(2)]
    assert truncations == [False, True] and emulators.frame == [15]


def test_a_life_lost_at_the_limit_needs_a_new_game() -> None:
    env, emulators = scripted_env(replace(TRAIN, noop_max=1, max_episode_steps=9), lives_at={0: 3, 9: 2})
    env.reset()
    env.step(UP)
    _, _, terminations, truncations, _ = env.step(UP)
    assert terminations[0] and not truncations[0]
    env.reset()
    assert emulators.resets == [2] and emulators.frame == [1]


def test_rows_that_end_their_skip_early_do_not_hold_back_the_others() -> None:
    env, emulators = scripted_env(TEST, num_envs=2, ends_at=10)
    env.reset()
    env.step(np.array([1, 1]))
    env.reset(options={"reset_mask": np.array([True, False])})
    _, _, terminations, _, _ = env.step(np.array([1, 1]))
    assert not terminations.any() and emulators.frame == [5, 9]
    observations, rewards, terminations, _, _ = env.step(np.array([1, 1]))
    assert terminations.tolist() == [False, True] and emulators.frame == [9, 10]
    assert rewards.tolist() == [0.5 * (6 + 7 + 8 + 9), 0.5 * 10]
    assert observations[0].max() == 9 and observations[1].max() == 10


def test_clipped_rewards_are_the_sign_of_a_steps_sum() -> None:
    env, _ = scripted_env(replace(TEST, clip_reward=True))
    env.reset()
    rewards = env.step(UP)[1]
    assert rewards.dtype == np.float32 and rewards[0] == 1.0


def test_close_closes_the_emulators() -> None:
    env, emulators = scripted_env(TEST)
    env.close()
    assert emulators.log == [(-1, -1)] and env.closed
