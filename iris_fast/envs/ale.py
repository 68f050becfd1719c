"""Raw Atari frames from ale-py, through gymnasium's registered environments."""

from __future__ import annotations

from typing import Any

import gymnasium

from iris_fast.envs.atari import NOOP, RawFrames
from iris_fast.envs.games import INSTALL_ATARI
from iris_fast.errors import UserError


class AleEmulators:
    """`num_envs` emulators of gymnasium's `ALE/<game>-v5`, stepped frame by frame, one after the other.

    Threads would not help: ale-py holds the interpreter's lock while it emulates. A copy or a pickle has new
    emulators in the same states.

    Raises:
        UserError: ale-py is not installed, or knows no such game.
    """

    backend = "ale"

    def __init__(self, game: str, *, num_envs: int, seed: int) -> None:
        try:
            import ale_py
        except ImportError as error:
            raise UserError(f"{game} needs ale-py, which cannot be imported: {INSTALL_ATARI}") from error
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # otherwise it prints a greeting on stderr
        gymnasium.register_envs(ale_py)
        self.game = game
        self.num_envs = num_envs
        self._state_type = ale_py.ALEState
        self._noop = ale_py.Action.NOOP
        self._envs = [_make_env(game) for _ in range(num_envs)]
        self._ales = [env.ale for env in self._envs]
        self.action_meanings = tuple(self._envs[0].get_action_meanings())
        self._actions = self._ales[0].getMinimalActionSet()
        self.reload(seed)

    def reload(self, seed: int) -> None:
        for row, env in enumerate(self._envs):
            env.seed_game(seed + row)
            env.load_game()

    def reset(self, rows: list[int]) -> RawFrames:
        for row in rows:
            self._ales[row].reset_game()
        return self.step(rows, [NOOP] * len(rows))

    def step(self, rows: list[int], actions: list[int]) -> RawFrames:
        ales = [self._ales[row] for row in rows]
        rewards = [
            ale.act(self._noop if action == NOOP else self._actions[action])
            for ale, action in zip(ales, actions, strict=True)
        ]
        return RawFrames(
            screens=[ale.getScreenRGB().transpose(2, 0, 1) for ale in ales],
            rewards=rewards,
            game_over=[ale.game_over() for ale in ales],
            lives=[ale.lives() for ale in ales],
        )

    def save(self) -> list[bytes]:
        return [ale.cloneState(include_rng=True).serialize() for ale in self._ales]

    def restore(self, states: list[bytes]) -> None:
        for ale, state in zip(self._ales, states, strict=True):
            # A saved state does not say whether the emulator is inside a frame, and right after a reset it
            # can be (Qbert): a few complete frames put it between frames, where play was saved.
            ale.reset_game()
            for _ in range(4):
                ale.act(self._noop)
            ale.restoreState(self._state_type(state))

    def __getstate__(self) -> dict[str, Any]:
        return {"game": self.game, "num_envs": self.num_envs, "states": self.save()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        AleEmulators.__init__(self, state["game"], num_envs=state["num_envs"], seed=0)
        self.restore(state["states"])

    def close(self) -> None:
        for env in self._envs:
            env.close()


def _make_env(game: str) -> Any:
    try:
        env = gymnasium.make(
            f"ALE/{game}-v5",
            frameskip=1,
            repeat_action_probability=0.0,
            full_action_space=False,
            max_num_frames_per_episode=0,  # no limit: the rules count the frames
        )
    except gymnasium.error.UnregisteredEnv as error:
        raise UserError(f"ale-py has no game {game!r}: upgrade it with {INSTALL_ATARI} --upgrade") from error
    return env.unwrapped
