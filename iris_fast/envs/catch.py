"""Catch: a ball falls, a paddle catches it. The smallest game on which learning can be seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from iris_fast.envs.games import CATCH
from iris_fast.envs.interface import FrameVectorEnv

ROWS = 10
COLUMNS = 5
STEPS_PER_SECOND = 5  # for human viewers
ACTION_MEANINGS = ("NOOP", "LEFT", "RIGHT")
_MOVES = np.array([0, -1, 1])

_STREAM = 0xCA7C4

_BACKGROUND = (16, 16, 40)
_BALL = (255, 216, 64)
_PADDLE = (64, 160, 255)


def draw_boards(size: int) -> np.ndarray:
    """All possible boards: `(ROWS, COLUMNS, COLUMNS, 3, size, size)` uint8 by ball row, ball column, paddle.

    A cell is `size / ROWS` pixels high and `size / COLUMNS` wide (6.4 by 12.8 at 64, in whole pixels).
    """
    row_edges = np.arange(ROWS + 1) * size // ROWS
    column_edges = np.arange(COLUMNS + 1) * size // COLUMNS
    boards = np.empty((ROWS, COLUMNS, COLUMNS, 3, size, size), np.uint8)
    boards[:] = np.array(_BACKGROUND, np.uint8)[:, None, None]

    def paint(cell: np.ndarray, row: int, column: int, colour: tuple[int, int, int]) -> None:
        cell[
            ...,
            row_edges[row] : row_edges[row + 1],
            column_edges[column] : column_edges[column + 1],
        ] = np.array(colour, np.uint8)[:, None, None]

    for paddle in range(COLUMNS):
        paint(boards[:, :, paddle], ROWS - 1, paddle, _PADDLE)
    for row in range(ROWS):
        for column in range(COLUMNS):
            paint(boards[row, column], row, column, _BALL)
    return boards


class CatchVectorEnv(FrameVectorEnv):
    """A board of 10 rows and 5 columns, a falling ball, and a paddle to catch it.

    The ball starts in a random column of the top row and falls one row a step; the paddle starts in the
    middle of the bottom row and moves left, stays or moves right. After 9 steps the ball is in the bottom row
    and the episode ends: reward +1 if the paddle is there, else -1 (0 before).
    Random play has a mean return of -0.6 (the ball's column is independent of the paddle's), perfect play +1.
    """

    backend = "catch"

    def __init__(self, *, num_envs: int, seed: int, size: int = 64) -> None:
        super().__init__(
            CATCH, ACTION_MEANINGS, num_envs=num_envs, size=size, steps_per_second=STEPS_PER_SECOND
        )
        self._boards = draw_boards(size)
        self._ball_row = np.zeros(num_envs, np.int64)
        self._ball_column = np.zeros(num_envs, np.int64)
        self._paddle = np.full(num_envs, COLUMNS // 2)
        self._reseed(seed)

    def _reseed(self, seed: int) -> None:
        # Not default_rng(seed): a policy drawing from that would be correlated with the ball.
        self._rng = np.random.default_rng([seed, _STREAM])

    def _reset_rows(self, rows: list[int]) -> None:
        self._ball_row[rows] = 0
        self._ball_column[rows] = self._rng.integers(COLUMNS, size=len(rows))
        self._paddle[rows] = COLUMNS // 2
        self._draw()

    def _step_rows(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        self._paddle = np.clip(self._paddle + _MOVES[actions], 0, COLUMNS - 1)
        self._ball_row += 1
        ended = self._ball_row == ROWS - 1
        caught = self._ball_column == self._paddle
        rewards = np.where(ended, np.where(caught, 1.0, -1.0), 0.0).astype(np.float32)
        self._game_over = ended.copy()
        self._draw()
        return rewards, ended, np.zeros(self.num_envs, bool)

    def _draw(self) -> None:
        self._observations = self._boards[self._ball_row, self._ball_column, self._paddle]

    def _get_backend_state(self) -> dict[str, Any]:
        return {
            "rng": self._rng.bit_generator.state,
            "ball_row": self._ball_row.tolist(),
            "ball_column": self._ball_column.tolist(),
            "paddle": self._paddle.tolist(),
        }

    def _set_backend_state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._ball_row = np.array(state["ball_row"], np.int64)
        self._ball_column = np.array(state["ball_column"], np.int64)
        self._paddle = np.array(state["paddle"], np.int64)
