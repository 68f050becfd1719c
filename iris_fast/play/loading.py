"""What all tabs share: the agent of a run, its game, its policy and engine, and the folder of its films."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from torch import Tensor

from iris_fast.acting import Policy
from iris_fast.agent import Agent
from iris_fast.config import Config
from iris_fast.envs import make_vector_env
from iris_fast.envs.games import CATCH
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.graphs import graphs_of
from iris_fast.hub import repository_of
from iris_fast.imagination.engine import ImaginationEngine
from iris_fast.imagination.environment import DreamEnv
from iris_fast.interop.files import heads_assumption
from iris_fast.training.device import choose_device, engine_of
from iris_fast.training.subject import read_subject


@dataclass(frozen=True)
class Player:
    """A trained agent at its game.

    `media`: the folder of its run's films and recordings (`media_of`).
    """

    agent: Agent
    config: Config
    policy: Policy
    engine: ImaginationEngine
    action_names: tuple[str, ...]
    steps_per_second: int
    media: Path
    turn: AbstractContextManager[object]  # one tab at a time may use captured graphs

    @property
    def game(self) -> str:
        return self.config.game

    @property
    def temperature(self) -> float:
        """The policy's in the run's tests, so that the agent that is watched is the one that is scored."""
        return self.config.collection.test.config.temperature

    def make_env(self, seed: int) -> FrameVectorEnv:
        """One game under the rules of the test environment, from ale-py, which shows the emulator's screen."""
        return game_of(self.config, seed)

    def make_dream(self, first_tokens: Callable[[int], Tensor]) -> DreamEnv:
        """The dream as an environment, from the frames whose tokens are given."""
        return DreamEnv(
            self.engine,
            first_tokens,
            self.game,
            self.action_names,
            size=self.config.env.test.size,
            steps_per_second=self.steps_per_second,
        )


def media_of(path: Path) -> Path:
    """The folder of films and recordings: in the run, also for a checkpoint in it; outputs/NAME/media for an agent of
    the Hub; beside any other checkpoint."""
    name = repository_of(path)
    if name is not None:
        return Path("outputs") / name / "media"
    folder = path if path.is_dir() else path.parent
    return (folder.parent if folder.name == "checkpoints" else folder) / "media"


def game_of(config: Config, seed: int) -> FrameVectorEnv:
    backend = "catch" if config.game == CATCH else "ale"
    return make_vector_env(config.game, config.env.test, num_envs=1, seed=seed % 2**31, backend=backend)


def load_player(
    path: Path, game: str | None = None, device: str = "auto", num_heads: int | None = None
) -> Player:
    """The agent in a run folder or a checkpoint, ours or the public implementation's.

    Raises UserError in one sentence: no such run, a game that is not given or not installed, weights that do not fit.
    """
    place = choose_device(device)
    subject = read_subject(path, game, num_heads, place)
    if place.type == "cpu":  # the run's engine may have been a GPU's
        engine = replace(subject.config.common, engine="auto", layer_launches="auto")
        subject = replace(subject, config=replace(subject.config, common=engine))
    env = game_of(subject.config, 0)
    try:
        agent = subject.agent(len(env.action_meanings), place)
    finally:
        env.close()
    assumption = heads_assumption(subject.weights, num_heads)
    if assumption:
        print(assumption, file=sys.stderr)
    graphs = graphs_of(place) if subject.config.training.cuda_graphs else None
    return Player(
        agent,
        subject.config,
        Policy(agent, graphs),
        engine_of(agent, subject.config.common),
        env.action_meanings,
        round(env.metadata["render_fps"]),
        media_of(path),
        nullcontext() if graphs is None else Lock(),
    )
