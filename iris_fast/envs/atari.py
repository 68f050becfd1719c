"""The rules of Atari 100k (frame skip, resize then maximum, no-ops, lives, limit) over raw-frame emulators.

Both Atari backends produce raw frames only; all rules of IRIS for environments are applied here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from iris_fast.envs.config import EnvConfig
from iris_fast.envs.interface import FrameVectorEnv

RAW_FRAMES_PER_SECOND = 60
NOOP = -1  # used instead of an action index, because two games have no no-op among their minimal actions


class RawFrames(NamedTuple):
    """One raw frame of some emulators, in the order of the requested rows."""

    screens: list[np.ndarray]  # (3, height, width) uint8 each, any strides, not written to afterwards
    rewards: list[float]
    game_over: list[bool]
    lives: list[int]


class RawEmulators(Protocol):
    """`num_envs` Atari emulators, stepped one raw frame at a time, without sticky actions or processing."""

    backend: str
    game: str
    num_envs: int
    action_meanings: tuple[str, ...]

    def reload(self, seed: int) -> None:
        """Puts all emulators in the starting state of new ones with this seed (in some games a reset leaves
        traces)."""

    def reset(self, rows: list[int]) -> RawFrames:
        """Starts new games and plays one frame of no-op in each."""

    def step(self, rows: list[int], actions: list[int]) -> RawFrames:
        """Plays one frame of an action, an index into `action_meanings` or `NOOP`, in each row."""

    def save(self) -> list[bytes] | None:
        """The whole state of each emulator with its random generator; None if the backend cannot save it."""

    def restore(self, states: list[bytes]) -> None:
        """Continues from a result of `save`."""

    def close(self) -> None:
        """Frees the emulators."""


@dataclass
class _Row:
    """The state of the rules for one environment between steps."""

    rng: np.random.Generator
    raw_frames: int = 0  # since the game began, no-ops included
    restart: bool = True  # the game is over or out of time
    life_lost: bool = False  # the episode ended with a life, and the next one goes on in the same game
    screens: list[np.ndarray] = field(default_factory=list)  # the last two raw frames of this step


def resize_frame(screen: np.ndarray, size: int) -> np.ndarray:
    """PIL's BILINEAR resize (which antialiases) of `(3, height, width)` uint8 to `(3, size, size)`.

    PIL treats channels independently, so planar frames are resized channel by channel, without an interleaving copy.
    """
    interleaved = screen.transpose(1, 2, 0)
    if interleaved.flags.c_contiguous:
        return np.asarray(_resize_image(interleaved, size)).transpose(2, 0, 1)
    return np.stack([np.asarray(_resize_image(channel, size)) for channel in screen])


def _resize_image(pixels: np.ndarray, size: int) -> Image.Image:
    return Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR)


class AtariVectorEnv(FrameVectorEnv):
    """Atari by the rules of IRIS, on the emulators of a backend.

    - A step holds its action for `frame_skip` raw frames, or until the game ends or reaches its limit;
      rewards are summed; the observation is the elementwise maximum of its last two raw frames, each resized
      first.
    - A new game starts with 1 to `noop_max` raw frames of no-op and is observed as its last raw frame.
    - With `done_on_life_loss`, a step that loses a life other than the last terminates the episode, and the
      next one starts in the same game, with one agent step of no-op (its reward is dropped).
    - A reset in the middle of an episode starts a new game.
    - A game that has played `max_episode_steps` raw frames, no-ops included, is truncated.
    """

    def __init__(self, emulators: RawEmulators, config: EnvConfig, *, seed: int) -> None:
        self.backend = emulators.backend
        super().__init__(
            emulators.game,
            emulators.action_meanings,
            num_envs=emulators.num_envs,
            size=config.size,
            steps_per_second=RAW_FRAMES_PER_SECOND / config.frame_skip,
        )
        self._emulators = emulators
        self._config = config
        self._rows = self._fresh_rows(seed)

    def close_extras(self, **kwargs: Any) -> None:
        self._emulators.close()

    def screen(self, row: int) -> np.ndarray:
        """The emulator's last raw frame, mostly 210 × 160; the observation where there is none yet, as after
        `set_state`."""
        screens = self._rows[row].screens
        return screens[-1].transpose(1, 2, 0).copy() if screens else super().screen(row)

    def _fresh_rows(self, seed: int) -> list[_Row]:
        return [_Row(np.random.default_rng([seed, row])) for row in range(self.num_envs)]

    def _reseed(self, seed: int) -> None:
        self._emulators.reload(seed)
        self._rows = self._fresh_rows(seed)

    def _reset_rows(self, rows: list[int]) -> None:
        goes_on = [row for row in rows if self._rows[row].life_lost]
        self._play(goes_on, [NOOP] * len(goes_on))
        for row in rows:
            state = self._rows[row]
            # The no-op after a lost life can itself end the game.
            if state.restart or not state.life_lost:
                self._start_game(row)
            state.life_lost = False
            self._observe(row)

    def _start_game(self, row: int) -> None:
        state = self._rows[row]
        state.restart = True
        noops = int(state.rng.integers(1, self._config.noop_max + 1))
        while noops > 0 or state.restart:
            state.screens = []
            if state.restart:
                state.raw_frames = 0
                frames = self._emulators.reset([row])
            else:
                frames = self._emulators.step([row], [NOOP])
            self._record(row, frames, 0)
            noops -= 1

    def _step_rows(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        lives_before = self._lives.copy()
        rows = range(self.num_envs)
        rewards = self._play(rows, actions.tolist())
        for row in rows:
            self._observe(row)
        out_of_game = np.array([state.restart for state in self._rows])
        life_lost = (self._lives > 0) & (self._lives < lives_before) & self._config.done_on_life_loss
        for row in rows:
            self._rows[row].life_lost = bool(life_lost[row] and not out_of_game[row])
        terminations = self._game_over | life_lost
        truncations = out_of_game & ~terminations
        return np.sign(rewards) if self._config.clip_reward else rewards, terminations, truncations

    def _play(self, rows: Iterable[int], actions: Iterable[int]) -> np.ndarray:
        """Holds an action in each of `rows` for `frame_skip` raw frames; returns rewards `(num_envs,)`."""
        rewards = np.zeros(self.num_envs, np.float32)
        playing = list(zip(rows, actions, strict=True))
        for row, _ in playing:
            self._rows[row].screens = []
        for _ in range(self._config.frame_skip):
            if not playing:
                break
            frames = self._emulators.step([row for row, _ in playing], [action for _, action in playing])
            for index, (row, _) in enumerate(playing):
                rewards[row] += frames.rewards[index]
                self._record(row, frames, index)
            playing = [(row, action) for row, action in playing if not self._rows[row].restart]
        return rewards

    def _record(self, row: int, frames: RawFrames, index: int) -> None:
        """Records a row's raw frame, the `index`-th of `frames`."""
        state = self._rows[row]
        state.screens = [*state.screens[-1:], frames.screens[index]]
        state.raw_frames += 1
        state.restart = frames.game_over[index] or state.raw_frames >= self._config.max_episode_steps
        self._game_over[row] = frames.game_over[index]
        self._lives[row] = frames.lives[index]

    def _observe(self, row: int) -> None:
        """Writes the observation of a row from its last one or two raw frames."""
        screens = self._rows[row].screens
        observation = resize_frame(screens[-1], self._config.size)
        # In about a fifth of all steps the two raw frames are the same, and a comparison costs far less.
        if len(screens) == 2 and not np.array_equal(screens[0], screens[1]):
            observation = np.maximum(observation, resize_frame(screens[0], self._config.size))
        self._observations[row] = observation

    def _get_backend_state(self) -> list[dict[str, Any]] | None:
        saved = self._emulators.save()
        if saved is None:
            return None
        return [
            {
                "emulator": emulator,
                "rng": state.rng.bit_generator.state,
                "raw_frames": state.raw_frames,
                "restart": state.restart,
                "life_lost": state.life_lost,
            }
            for emulator, state in zip(saved, self._rows, strict=True)
        ]

    def _set_backend_state(self, state: list[dict[str, Any]]) -> None:
        self._emulators.restore([row["emulator"] for row in state])
        for row, saved in zip(self._rows, state, strict=True):
            row.rng.bit_generator.state = saved["rng"]
            row.raw_frames = saved["raw_frames"]
            row.restart = saved["restart"]
            row.life_lost = saved["life_lost"]
