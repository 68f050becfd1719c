"""The vector-environment interface: gymnasium's `VectorEnv` with explicit resets and plain-data snapshots."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from iris_fast.envs.config import checked_seed, whole_number
from iris_fast.errors import UserError


class FrameVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Several copies of one game, each observed as a `(3, size, size)` RGB frame.

    Rows are never reset automatically (`AutoresetMode.DISABLED`): after `terminations[i] | truncations[i]`, row `i`
    must be reset before its next step. So gymnasium wrappers that need automatic resets, such as
    NormalizeObservation, refuse this environment; the others accept it, including RecordVideo and HumanRendering. A
    copy or a pickle continues as the original would if the backend has snapshots (`get_state`), and raises TypeError
    otherwise. Only one thread at a time may use it. A backend implements the hooks at the end of the class.

    Attributes:
        game: plain name of the game.
        backend: name of the backend, as in the settings.
        action_meanings: the name of each action in ALE's terms (`"NOOP"`, `"RIGHTFIRE"`, ...).
    """

    backend: str
    render_mode = "rgb_array"  # the only mode: observations are already pictures

    def __init__(
        self, game: str, action_meanings: Sequence[str], *, num_envs: int, size: int, steps_per_second: float
    ) -> None:
        num_envs, size = whole_number("num_envs", num_envs), whole_number("size", size)
        self.metadata = {
            "render_modes": [self.render_mode],
            "render_fps": steps_per_second,
            "autoreset_mode": AutoresetMode.DISABLED,
        }
        self.game = game
        self.action_meanings = tuple(action_meanings)
        self.num_envs = num_envs
        self.single_observation_space = gymnasium.spaces.Box(0, 255, (3, size, size), np.uint8)
        self.single_action_space = gymnasium.spaces.Discrete(len(self.action_meanings))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._observations = np.zeros((num_envs, 3, size, size), np.uint8)
        self._lives = np.zeros(num_envs, np.int64)
        self._game_over = np.zeros(num_envs, bool)
        self._ended = np.ones(num_envs, bool)
        self._started = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts the next episode of all rows or of the chosen ones.

        Args:
            seed: one non-negative integer, which restarts every random stream (without it the streams continue).
            options: `{"reset_mask": bool array (num_envs,)}` resets the rows where it is true.

        Returns:
            observations `(num_envs, 3, size, size)` uint8 (rows that are not reset are unchanged), and the infos of
            `step`.

        Raises:
            ValueError: an invalid seed, an unknown option, a mask of the wrong shape or type, a mask with a seed, a
            first reset that leaves out a row, or a closed environment.
        """
        self._require_open()
        mask = self._reset_mask(seed, options)
        if seed is not None:
            seed = checked_seed(seed)
            super().reset(seed=seed)  # gymnasium's generator, for its wrappers
            self._reseed(seed)
        rows = [int(row) for row in np.flatnonzero(mask)]
        if rows:
            self._game_over[rows] = False
            self._reset_rows(rows)
        self._ended[mask] = False
        self._started = True
        return self._observations.copy(), self._infos()

    def step(
        self, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Plays one agent step in every row.

        Args:
            actions: `(num_envs,)` integers in [0, n).

        Returns:
            observations `(num_envs, 3, size, size)` uint8; rewards `(num_envs,)` float32; terminations and
            truncations `(num_envs,)` bool (never both); infos with `lives` `(num_envs,)` int64 and
            `game_over` `(num_envs,)` bool, which distinguishes the end of a game from the loss of a life.

        Raises:
            ValueError: an action of the wrong shape, type or range, a row whose episode has ended, or a closed
            environment.
        """
        self._require_open()
        actions = self._checked_actions(actions)
        if self._ended.any():
            rows = np.flatnonzero(self._ended).tolist()
            raise ValueError(
                f"the episode of environment {rows} has ended or not begun: "
                "call reset (with options={'reset_mask': ...}) before the next step"
            )
        rewards, terminations, truncations = self._step_rows(actions)
        self._ended = terminations | truncations
        return self._observations.copy(), rewards, terminations, truncations, self._infos()

    def render(self) -> tuple[np.ndarray, ...]:
        """The current observation of each row, `(size, size, 3)` uint8; black before the first reset."""
        return tuple(self._observations.transpose(0, 2, 3, 1).copy())

    def screen(self, row: int) -> np.ndarray:
        """A row's picture as its game draws it, `(height, width, 3)` uint8: here its observation."""
        return self._observations[row].transpose(1, 2, 0).copy()

    def get_state(self) -> dict[str, Any] | None:
        """The whole state, to continue bit for bit in another process; None if the backend cannot save it.

        It holds only ints, bools, strings, bytes, lists and dicts, so `torch.load(weights_only=True)` reads it back.
        """
        backend_state = self._get_backend_state()
        if backend_state is None:
            return None
        return {
            **self._identity(),
            "started": self._started,
            "observations": self._observations.tobytes(),
            "lives": self._lives.tolist(),
            "game_over": self._game_over.tolist(),
            "ended": self._ended.tolist(),
            "rows": backend_state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a snapshot of `get_state`.

        Raises:
            UserError: the snapshot is of another backend, game, number of environments or frame size.
        """
        for name, value in self._identity().items():
            if state.get(name) != value:
                saved = state.get(name)
                fix = f"use env.backend={saved}" if name == "backend" else f"give {name} its saved value"
                raise UserError(f"the saved environment has {name}={saved!r} and this one {value!r}: {fix}")
        self._set_backend_state(state["rows"])
        self._observations = (
            np.frombuffer(state["observations"], np.uint8).reshape(self._observations.shape).copy()
        )
        self._lives = np.array(state["lives"], np.int64)
        self._game_over = np.array(state["game_over"], bool)
        self._ended = np.array(state["ended"], bool)
        self._started = bool(state["started"])

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError("the environment is closed: make another one")

    def _identity(self) -> dict[str, Any]:
        """The properties in which a snapshot and the environment that loads it must agree."""
        size = self._observations.shape[-1]
        return {"backend": self.backend, "game": self.game, "num_envs": self.num_envs, "size": size}

    def _infos(self) -> dict[str, Any]:
        return {"lives": self._lives.copy(), "game_over": self._game_over.copy()}

    def _reset_mask(self, seed: int | None, options: dict[str, Any] | None) -> np.ndarray:
        options = options or {}
        if unknown := set(options) - {"reset_mask"}:
            raise ValueError(f"unknown reset options {sorted(unknown)}: only reset_mask is known")
        if options.get("reset_mask") is None:
            return np.ones(self.num_envs, bool)
        mask = np.asarray(options["reset_mask"])
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(
                f"reset_mask must be bool of shape ({self.num_envs},), not {mask.dtype} of shape {mask.shape}"
            )
        if seed is not None:
            raise ValueError("a seed restarts the random streams of every row: give it without reset_mask")
        if not self._started and not mask.all():
            raise ValueError("the first reset must cover every row: give it without reset_mask")
        return mask

    def _checked_actions(self, actions: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not np.issubdtype(actions.dtype, np.integer):
            raise ValueError(
                f"actions must be integers of shape ({self.num_envs},), "
                f"not {actions.dtype} of shape {actions.shape}"
            )
        if actions.min() < 0 or actions.max() >= len(self.action_meanings):
            raise ValueError(
                f"actions {actions.tolist()} out of range: {self.game} has actions 0 to "
                f"{len(self.action_meanings) - 1}"
            )
        return actions

    @abstractmethod
    def _reseed(self, seed: int) -> None:
        """Puts every row and random stream in the starting state of a new environment with this seed."""

    @abstractmethod
    def _reset_rows(self, rows: list[int]) -> None:
        """Starts the next episode of these rows: writes their `_observations`, `_lives` and `_game_over`."""

    @abstractmethod
    def _step_rows(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Steps all rows, writing the same arrays; returns rewards, terminations and truncations."""

    @abstractmethod
    def _get_backend_state(self) -> Any:
        """The backend's part of the snapshot, plain data, or None."""

    @abstractmethod
    def _set_backend_state(self, state: Any) -> None:
        """Restores the backend's part of the snapshot."""
