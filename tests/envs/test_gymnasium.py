"""Environments under gymnasium's wrappers and checks, rendered, copied and pickled: on every backend."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium.wrappers.vector as wrappers
import numpy as np
import pytest
from gymnasium.utils import env_checker

from iris_fast.envs import EnvConfig, FrameVectorEnv, make_vector_env
from iris_fast.errors import UserError
from tests.envs.conftest import MakeEnv, assert_same, needs_ale, play, random_actions

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*:DeprecationWarning")

WRAPPERS: dict[str, tuple[Any, ...]] = {
    "RecordEpisodeStatistics": (),
    "DictInfoToList": (),
    "NormalizeReward": (),
    "ClipReward": (-1, 1),
    "DtypeObservation": (np.float32,),
    "RescaleObservation": (0, 1),
    "ReshapeObservation": ((3 * 64 * 64,),),
    "FlattenObservation": (),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapper_of_gymnasium_plays(make_env: MakeEnv, name: str) -> None:
    env = getattr(wrappers, name)(make_env(num_envs=3), *WRAPPERS[name])
    observations, _ = env.reset(seed=1)
    for _ in range(12):
        assert observations in env.observation_space
        observations, _, terminations, truncations, _ = env.step(env.action_space.sample())
        if (ended := terminations | truncations).any():
            observations, _ = env.reset(options={"reset_mask": ended})
    env.close()


def test_a_wrapper_that_needs_rows_which_reset_themselves_says_so(make_env: MakeEnv) -> None:
    with pytest.raises(ValueError, match="autoreset_mode"):
        wrappers.NormalizeObservation(make_env())


@pytest.fixture
def films(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[np.ndarray], float]]:
    """Frames and rate of every film that gymnasium writes, by an encoder that only keeps them."""
    written: list[tuple[list[np.ndarray], float]] = []

    class Clip:
        def __init__(self, frames: list[np.ndarray], fps: float):
            written.append((list(frames), fps))

        def write_videofile(self, path: str, logger: object) -> None:
            pass

    for name in ("moviepy", "moviepy.video", "moviepy.video.io"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    encoder = types.ModuleType("moviepy.video.io.ImageSequenceClip")
    vars(encoder)["ImageSequenceClip"] = Clip
    monkeypatch.setitem(sys.modules, encoder.__name__, encoder)
    return written


def test_record_video_films_what_is_observed(
    make_env: MakeEnv, films: list[tuple[list[np.ndarray], float]], tmp_path: Path
) -> None:
    base = make_env(num_envs=2)
    env = wrappers.RecordVideo(base, str(tmp_path), episode_trigger=lambda episode: True)
    observations, _ = env.reset(seed=3)
    seen = [observations]
    for _ in range(8):
        seen.append(env.step(np.ones(2, np.int64))[0])
    env.close()
    ((frames, rate),) = films
    assert rate == (5 if base.backend == "catch" else 15)
    assert len(frames) == len(seen)
    for frame, (first, second) in zip(frames, seen, strict=True):
        np.testing.assert_array_equal(frame, np.concatenate([first, second], axis=2).transpose(1, 2, 0))


def test_human_rendering_takes_it(make_env: MakeEnv, monkeypatch: pytest.MonkeyPatch) -> None:
    env = wrappers.HumanRendering(make_env())
    assert env.render_mode == "human"
    pytest.importorskip("pygame")
    pytest.importorskip("cv2")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env.reset(seed=0)
    env.step(np.zeros(2, np.int64))
    env.close()


@pytest.mark.parametrize(
    "check",
    [
        env_checker.check_reset_seed_determinism,
        env_checker.check_reset_options,
        env_checker.check_reset_return_type,
        env_checker.check_seed_deprecation,
        env_checker.env_render_passive_checker,
    ],
)
def test_gymnasiums_own_checks_that_fit_several_rows(make_env: MakeEnv, check: Callable[[Any], None]) -> None:
    check(make_env())


def test_what_is_returned_is_not_written_to_again(make_env: MakeEnv) -> None:
    env = make_env()
    returned = [env.reset(seed=0)[0], *env.render()]
    kept = copy.deepcopy(returned)
    env.step(np.ones(2, np.int64))
    assert_same(returned, kept)
    returned[0][:] = 7  # nor read
    assert_same([*env.render()], [*env.render()])
    assert not np.array_equal(env.render()[0], returned[0][0].transpose(1, 2, 0))


@pytest.mark.parametrize("seed", [[1, 2], 1.5, True, "0", -1, np.float32(2)])
def test_a_seed_that_is_none_is_refused_by_name(make_env: MakeEnv, seed: Any) -> None:
    env = make_env()
    with pytest.raises(ValueError, match=r"seed=.* is not possible for an environment: give one integer"):
        env.reset(seed=seed)
    with pytest.raises(UserError, match=r"seed=.* is not possible for an environment: give one integer"):
        make_env(seed=seed)


def test_a_seed_of_numpy_is_the_same_as_an_int(make_env: MakeEnv) -> None:
    env = make_env(seed=np.int64(7))  # type: ignore[arg-type]
    first, _ = env.reset()
    again, _ = env.reset(seed=np.uint32(7))  # type: ignore[arg-type]
    np.testing.assert_array_equal(first, again)
    assert env.np_random_seed == 7


def test_a_closed_environment_says_so(make_env: MakeEnv) -> None:
    env = make_env()
    env.reset()
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step(np.zeros(2, np.int64))):
        with pytest.raises(ValueError, match="closed: make another"):
            call()


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
    "cloudpickle": lambda env: pickle.loads(cloudpickle.dumps(env)),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("steps", [None, 13])
def test_a_copy_plays_on_as_the_original(way: str, steps: int | None) -> None:
    assert_plays_on(make_vector_env("Catch", EnvConfig(), num_envs=2, seed=3), COPIES[way], steps)


@needs_ale
@pytest.mark.parametrize(("way", "steps"), [("pickle", None), ("deepcopy", 0), ("cloudpickle", 6)])
def test_a_copy_of_emulators_plays_on_as_the_original(way: str, steps: int | None) -> None:
    env = make_vector_env("Qbert", EnvConfig(noop_max=2), num_envs=1, seed=3, backend="ale")
    assert_plays_on(env, COPIES[way], steps)


def assert_plays_on(env: FrameVectorEnv, copied: Callable[[Any], FrameVectorEnv], steps: int | None) -> None:
    """Copied before its first reset where `steps` is None, else after so many steps."""
    if steps is not None:
        env.reset()
        play(env, random_actions(env, steps))
    other = copied(env)
    actions = random_actions(env, 10, seed=1)
    said: list[list[np.ndarray]] = []
    for each in (env, other):
        begun = [] if steps is not None else [each.reset()[0]]
        said.append([*begun, *play(each, actions), each.reset(seed=5)[0], *play(each, actions)])
    assert_same(*said)


@pytest.mark.parametrize("way", COPIES)
def test_an_environment_without_snapshots_says_that_it_cannot_be_copied(way: str) -> None:
    pytest.importorskip("envpool")
    env = make_vector_env("Pong", EnvConfig(), num_envs=1, seed=0, backend="envpool")
    with pytest.raises(TypeError, match=r"an envpool environment .Pong. cannot be copied or pickled: choose"):
        COPIES[way](env)
