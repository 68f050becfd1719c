"""Videos of played and imagined episodes show all steps and the result of the last one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from iris_fast.acting import ActingConfig
from iris_fast.envs import EnvConfig, make_vector_env
from iris_fast.envs.catch import _BALL
from iris_fast.envs.factory import is_installed
from iris_fast.replay.store import EpisodeStore
from iris_fast.training import evaluation
from iris_fast.training.collector import Collector
from iris_fast.training.evaluation import Evaluator, save_steps
from iris_fast.training.run_folder import RunFolder
from iris_fast.training.tester import play_episodes
from tests.support.agents import micro_agent
from tests.support.commands import train_micro
from tests.support.micro import micro_config
from tests.training.scripted import ScriptedEnv, address

ACTING = ActingConfig(epsilon=0.0, should_sample=True, temperature=0.5, burn_in=0)
NAMES = ("NOOP", "LEFT", "RIGHT")


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.fixture
def filmed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, list[str], float]]:
    """Frames, captions and rate of each film that would be saved."""
    films: list[tuple[np.ndarray, list[str], float]] = []

    def keep(path: Path, frames: np.ndarray, *, fps: float, captions: list[str], comment: str) -> None:
        assert captions[-1].endswith(comment)  # the return
        films.append((frames, captions, fps))

    monkeypatch.setattr(evaluation, "save_episode_video", keep)
    return films


def test_films_of_catch_show_the_ball_land(tmp_path: Path) -> None:
    assert train_micro(tmp_path / "run", "common.epochs=2") == 0
    for kind in ("train", "test"):
        (film,) = (tmp_path / "run" / "media" / "episodes" / kind).glob("*.mp4")
        frames = decoded(film)
        assert len(frames) == 10  # 9 steps, and where the last one led
        bottom = [frame[-20:].reshape(-1, 3).astype(int) for frame in frames]
        is_ball = [bool((np.abs(row - _BALL).max(axis=1) < 40).any()) for row in bottom]
        assert is_ball == [False] * 9 + [True]


@pytest.mark.parametrize("backend", ["catch", "ale", "envpool"])
def test_the_observation_that_ends_an_episode_is_kept_in_every_backend(backend: str) -> None:
    package = {"ale": "ale_py"}.get(backend, backend)
    if backend != "catch" and not is_installed(package):
        pytest.skip(f"{package} is not installed")
    game = "Catch" if backend == "catch" else "Pong"
    rules = EnvConfig(max_episode_steps=60, noop_max=1)
    env, again = (make_vector_env(game, rules, num_envs=1, seed=5, backend=backend) for _ in range(2))
    try:
        (episode,) = play_episodes(micro_agent(), env, ACTING, 1, seed=3, keep_frames=1000)
        observation, _ = again.reset(seed=3)
        for action in episode.steps.actions:
            observation, _, terminations, truncations, _ = again.step(np.array([action]))
    finally:
        env.close()
        again.close()
    assert (terminations | truncations).all()
    assert episode.steps.last is not None and len(episode.steps.film) == episode.length + 1
    np.testing.assert_array_equal(episode.steps.last, observation[0])
    assert not np.array_equal(episode.steps.last, episode.steps.frames[-1])


def test_the_last_frames_of_training_episodes_are_kept_and_saved() -> None:
    env = ScriptedEnv([[2], [13], [3, 1]])
    store = EpisodeStore(500, 64, torch.device("cpu"), torch.device("cpu"))
    collector = Collector(env, micro_agent(), store, ACTING, seed=0, keep_last=2)
    collector.collect(60, lambda steps: False)
    closed = sorted(key for key, episode in store.episodes.items() if episode.closed)
    assert sorted(collector.last_frames) == closed[-2:]
    for key, frame in collector.last_frames.items():
        row, episode, step = address(store.frames[store.episodes[key].held[0]].numpy())
        assert step == 0 and address(frame) == (row, episode, store.episodes[key].length)
    other = Collector(env, micro_agent(), store, ACTING, seed=0, keep_last=2)
    other.load_state_dict(collector.state_dict() | {"observations": None})
    assert {key: address(frame) for key, frame in other.last_frames.items()} == {
        key: address(frame) for key, frame in collector.last_frames.items()
    }
    older = {name: value for name, value in collector.state_dict().items() if name != "last_frames"}
    other.load_state_dict(older | {"observations": None})
    assert other.last_frames == {}


@pytest.mark.parametrize("ended", [True, False])
def test_the_last_frame_of_a_film_says_whether_the_episode_ended(
    ended: bool, filmed: list[tuple[np.ndarray, list[str], float]], tmp_path: Path
) -> None:
    frames = np.zeros((4, 3, 8, 8), np.uint8)
    save_steps(tmp_path / "film.mp4", frames, [0, 1, 2], [0.0, 0.0, -1.0], NAMES, ended=ended)
    save_steps(tmp_path / "film.mp4", frames[:3], [0, 1, 2], [0.0, 0.0, -1.0], NAMES, ended=ended)
    (shown, captions, fps), (_, without, _) = filmed
    assert len(shown) == len(captions) == 4 and fps == evaluation.SLOWEST_FPS
    assert captions[-1] == ("END" if ended else "CUT") + "\t\treturn -1"
    assert without == captions[:-1]  # of an episode whose last observation nobody has


def test_a_film_that_is_too_long_is_cut(
    filmed: list[tuple[np.ndarray, list[str], float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "MAX_VIDEO_FRAMES", 70)
    save_steps(tmp_path / "film.mp4", np.zeros((81, 3, 8, 8), np.uint8), [0] * 80, [1.0] * 80, NAMES)
    ((shown, captions, fps),) = filmed
    assert len(shown) == len(captions) == 71 and captions[-1] == "CUT\t\treturn 70"
    assert fps == evaluation.FILM_FPS  # Atari's own speed


@pytest.mark.parametrize("end", [None, 0, 3, 5])
def test_a_dream_is_filmed_to_its_first_end_and_where_it_led(
    end: int | None, filmed: list[tuple[np.ndarray, list[str], float]], tmp_path: Path
) -> None:
    class Dreamer:
        def imagine(self, start: object, horizon: int, seed: int) -> Any:
            ends = torch.zeros(1, horizon, dtype=torch.bool)
            if end is not None:
                ends[0, end:] = True
            frames = torch.arange(horizon)[None, :, None, None, None].expand(1, horizon, 3, 64, 64) / 255
            nothing = torch.zeros(1, horizon)
            return SimpleNamespace(observations=frames, actions=nothing.long(), rewards=nothing, ends=ends)

    config = micro_config("evaluation.imagined_frames=6")
    evaluator = Evaluator(config, micro_agent(), Dreamer(), RunFolder(tmp_path), "catch")  # type: ignore[arg-type]
    store = EpisodeStore(30, 64, torch.device("cpu"), torch.device("cpu"))
    frames = np.zeros((20, 3, 64, 64), np.uint8)
    store.extend(0, frames, np.zeros(20, np.int64), np.zeros(20, np.float32), np.zeros(20, bool), closed=True)
    env = SimpleNamespace(action_meanings=NAMES)
    evaluator._save_imagined(store, env, 1, 0, {"tokenizer", "world_model"})  # type: ignore[arg-type]
    ((shown, captions, _),) = filmed
    steps = 6 if end is None else end + 1
    assert shown[:, 0, 0, 0].tolist() == list(range(steps + 1))
    assert captions[-1].split("\t")[0] == ("CUT" if end is None else "END")
