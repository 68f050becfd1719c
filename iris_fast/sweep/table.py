"""How a sweep is shown: a table redrawn in place on a terminal, elsewhere a line for each change."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .runs import PlannedRun
from .state import RunState

REST = ("done", "waiting", "new", "begun", "trained")  # shown after the others, if there is room


@dataclass
class Row:
    """What is shown of a run; `status` is waiting, running, done, stopped, or how it failed."""

    run: PlannedRun
    state: RunState
    status: str

    def line(self) -> str:
        return f"{self.run.name}: {self.status}, {self.state.words()}"


def count(rows: Collection[Row]) -> str:
    """`130 runs: 4 done, 2 running, 124 waiting`."""
    found = Counter(row.status for row in rows)
    first = [status for status in ("done", "running", "waiting") if status in found]
    others = sorted(set(found) - set(first))
    return f"{len(rows)} runs: {', '.join(f'{found[status]} {status}' for status in [*first, *others])}"


class Board:
    """A line for each run whose status or epoch has changed."""

    def __init__(self, rows: Collection[Row]):
        self.rows = rows
        self._said: dict[PlannedRun, object] = {}

    def show(self) -> None:
        first = not self._said
        changed = []
        for row in self.rows:
            sign = (row.status, row.state.epoch, row.state.last_return)
            if self._said.get(row.run) != sign:
                changed.append(row.line())
            self._said[row.run] = sign
        for line in [count(self.rows)] if first else changed:
            self.say(line)

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


class Table(Board):
    """A table of the runs that fits the terminal: running ones and failures first."""

    def __init__(self, rows: Collection[Row], live: Any):
        super().__init__(rows)
        self.live = live

    def show(self) -> None:
        self.live.update(self._drawn(self.live.console.height), refresh=True)

    def say(self, message: str) -> None:
        self.live.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _drawn(self, height: int) -> Any:
        from rich.table import Table as Drawn

        drawn = Drawn("game", "seed", "epoch", "return", "time left", "state", caption=count(self.rows))
        room = max(1, height - 6)
        for row in sorted(self.rows, key=lambda row: row.status in REST)[:room]:
            drawn.add_row(*cells(row))
        return drawn


def cells(row: Row) -> tuple[str, ...]:
    """Game, seed, epoch, return, time left, state."""
    state = row.state
    value = "" if state.last_return is None else f"{state.last_return:.4g} ({state.of})"
    left = "" if state.time_left is None or state.stage != "begun" else str(state.time_left)
    return row.run.game, str(row.run.seed), f"{state.epoch}/{state.epochs}", value, left, row.status


@contextmanager
def board(rows: Collection[Row]) -> Iterator[Board]:
    """The way to show these runs on standard error; without rich, lines."""
    if not sys.stderr.isatty():
        yield Board(rows)
        return
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        yield Board(rows)
        return
    console = Console(file=sys.stderr)
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        yield Table(rows, live)
