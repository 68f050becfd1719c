"""How far a run is, read from its folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from iris_fast.config import Config
from iris_fast.errors import UserError
from iris_fast.results.runs import CONFIG, EVALUATION
from iris_fast.training.metrics_file import METRICS_FILE, read_metrics
from iris_fast.training.progress import TimeLeft
from iris_fast.training.schedule import epoch_phases

from .runs import PlannedRun

Stage = Literal["new", "begun", "trained", "done"]


@dataclass(frozen=True)
class RunState:
    """Whole epochs of a run out of all, its last return, and the time left, by what its last epochs took.

    `stage` "trained": all epochs are logged, and the evaluation is to come; "done": it is evaluated too.
    """

    stage: Stage
    epoch: int
    epochs: int
    last_return: float | None = None
    of: str = ""  # what the return is of: evaluation, test or train
    time_left: TimeLeft | None = None

    def words(self) -> str:
        """In one line: `epoch 3/600, test return -20.5, left 4 h 10 min`."""
        said = [f"epoch {self.epoch}/{self.epochs}"]
        if self.last_return is not None:
            said.append(f"{self.of} return {self.last_return:.4g}")
        if self.time_left is not None and self.stage == "begun":
            said.append(f"left {self.time_left}")
        return ", ".join(said)


def read_state(run: PlannedRun, config: Config) -> RunState:
    """The state of a run that is to have this configuration. UserError if its metrics cannot be read."""
    epochs = config.common.epochs
    if not run.begun:
        return RunState("new", 0, epochs)
    evaluation = run.evaluation()
    if evaluation is not None and evaluation[0] >= epochs and len(evaluation[1]) >= run.episodes:
        epoch, returns = evaluation
        return RunState("done", epoch, epochs, math.fsum(returns) / len(returns), "evaluation")
    records = read_metrics(run.folder)
    epoch = int(records[-1]["epoch"]) if records else 0
    value, of = _last_return(records)
    stage: Stage = "trained" if epoch >= epochs else "begun"
    return RunState(stage, epoch, epochs, value, of, _time_left(config, epoch, records))


def _last_return(records: Sequence[dict[str, float]]) -> tuple[float | None, str]:
    """The last return of test episodes, or else of training episodes."""
    for kind in ("test", "train"):
        for record in reversed(records):
            if (value := record.get(f"collection/{kind}/return")) is not None:
                return value, kind
    return None, ""


def _time_left(config: Config, epoch: int, records: Sequence[dict[str, float]]) -> TimeLeft | None:
    """The phases of the epochs to come, each as long as it last was; None before the first epoch."""
    if not records:
        return None
    last: dict[str, float] = {}
    for record in records:
        last |= {key: value for key, value in record.items() if key.startswith("duration/")}
    seconds, unknown = 0.0, set()
    for later in range(epoch + 1, config.common.epochs + 1):
        for phase in epoch_phases(config, later):
            if (took := last.get(f"duration/{phase}")) is None:
                unknown.add(phase)
            else:
                seconds += took
    return TimeLeft(seconds, tuple(sorted(unknown)))


class Watched:
    """The state of a run, read again only when its files have changed, and kept while they cannot be read."""

    def __init__(self, run: PlannedRun, config: Config, state: RunState):
        self.run, self.config, self.state = run, config, state
        self._seen: object = None

    def refresh(self) -> RunState:
        seen = self._signs()
        if seen != self._seen:
            with suppress(UserError, OSError):  # a file in the middle of a change: the next look shows
                self.state, self._seen = read_state(self.run, self.config), seen
        return self.state

    def _signs(self) -> object:
        signs: list[tuple[int, int] | None] = []
        for path in (METRICS_FILE, EVALUATION, CONFIG):
            try:
                found = (self.run.folder / path).stat()
                signs.append((found.st_mtime_ns, found.st_size))
            except OSError:
                signs.append(None)
        return tuple(signs)
