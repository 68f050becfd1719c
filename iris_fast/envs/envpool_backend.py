"""Raw Atari frames from envpool. Its preprocessing (another resize, other resets) is not used."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import numpy as np

from iris_fast.envs.ale import AleEmulators
from iris_fast.envs.atari import NOOP, RawFrames
from iris_fast.envs.games import INSTALL_ATARI
from iris_fast.errors import UserError

# envpool shows the upper 210 rows of these games' 214 to 250.
_TALLER_GAMES = frozenset(
    {
        "Adventure",
        "AirRaid",
        "Carnival",
        "JourneyEscape",
        "KeystoneKapers",
        "KingKong",
        "Klax",
        "LaserGates",
        "MrDo",
        "Pacman",
        "Pooyan",
        "SirLancelot",
        "SpaceWar",
    }
)
_NO_LIMIT = 2**31 - 1
# Without a no-op among the minimal actions, envpool cannot be told to do nothing.
_GAMES_WITHOUT_NOOP = frozenset({"Backgammon", "VideoCheckers"})


def envpool_obstacle(game: str) -> str | None:
    """The reason why envpool cannot show this game (plain name) as ALE does; None if it can."""
    if game in _TALLER_GAMES:
        return "envpool cuts its frames off at 210 rows"
    if game in _GAMES_WITHOUT_NOOP:
        return "it has no no-op in its minimal action set"
    return None


class EnvpoolEmulators:
    """`num_envs` emulators of one envpool, stepped frame by frame by its threads.

    Its preprocessing is switched off as far as possible: single 210 x 160 RGB frames, no skip, no end at a lost life,
    no FIRE, no limit, and one no-op frame after a reset. It cannot be copied or pickled (TypeError), since it cannot
    tell its state.

    Raises:
        UserError: envpool is not installed, or cannot show the game as ALE does.
    """

    backend = "envpool"

    def __init__(self, game: str, *, num_envs: int, seed: int) -> None:
        if obstacle := envpool_obstacle(game):
            raise UserError(f"envpool does not fit {game} ({obstacle}): choose env.backend=ale")
        try:
            import envpool
        except ImportError as error:
            raise UserError(
                f"envpool cannot be imported ({error}): {INSTALL_ATARI}, or choose env.backend=ale"
            ) from error
        tasks = [task for task in envpool.list_all_envs() if task.lower() == f"{game}-v5".lower()]
        if not tasks:
            raise UserError(f"envpool has no game {game!r}: choose env.backend=ale")
        self.game = game
        self.num_envs = num_envs
        self._make = partial(
            envpool.make_gymnasium,
            tasks[0],
            num_envs=num_envs,
            num_threads=min(num_envs, os.cpu_count() or 1),
            stack_num=1,
            frame_skip=1,
            noop_max=1,
            episodic_life=False,
            use_fire_reset=False,
            repeat_action_probability=0.0,
            full_action_space=False,
            reward_clip=False,
            max_episode_steps=_NO_LIMIT,
            gray_scale=False,
            img_height=210,
            img_width=160,
        )
        self.reload(seed)
        self.action_meanings = _action_meanings(game, int(self._pool.action_space.n))

    def reload(self, seed: int) -> None:
        self._pool: Any = self._make(seed=seed % 2**31)

    def reset(self, rows: list[int]) -> RawFrames:
        screens, info = self._pool.reset(np.array(rows, np.int32))
        return RawFrames(
            screens=list(screens),
            rewards=[0.0] * len(rows),
            game_over=[bool(over) for over in info["terminated"]],
            lives=info["lives"].tolist(),
        )

    def step(self, rows: list[int], actions: list[int]) -> RawFrames:
        # The no-op is action 0 of every game accepted here.
        indices = np.array([0 if action == NOOP else action for action in actions], np.int32)
        screens, rewards, _, _, info = self._pool.step(indices, np.array(rows, np.int32))
        return RawFrames(
            screens=list(screens),
            rewards=rewards.tolist(),
            game_over=[bool(over) for over in info["terminated"]],
            lives=info["lives"].tolist(),
        )

    def save(self) -> None:
        """None: envpool cannot save its emulators."""

    def restore(self, states: list[bytes]) -> None:
        raise UserError("envpool cannot restore a saved state: choose env.backend=ale to continue exactly")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"an envpool environment ({self.game}) cannot be copied or pickled: choose env.backend=ale, or make it "
            "where it is played with make_vector_env"
        )

    def close(self) -> None:
        self._pool.close()


def _action_meanings(game: str, count: int) -> tuple[str, ...]:
    """ALE's names of the minimal actions; without ale-py, which has the names, numbers after the no-op."""
    try:
        meanings = AleEmulators(game, num_envs=1, seed=0).action_meanings
    except UserError:
        meanings = ("NOOP", *(f"ACTION_{action}" for action in range(1, count)))
    return meanings
