"""The metrics of runs as curves: read, smoothed, and averaged over several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from iris_fast.envs.games import resolve_game
from iris_fast.errors import UserError
from iris_fast.files import nearest_entry
from iris_fast.training.metrics_file import METRICS_FILE, read_metrics

Floats: TypeAlias = NDArray[np.float64]

PICTURE_ENDINGS = (".png", ".pdf", ".svg")
DURATION = "duration/epoch"
CONFIG_FILE = Path("config") / "trainer.yaml"
# Possible keys of the game in a configuration: this project's, then the public implementation's.
GAME_KEYS = ("game", "env.game", "env.train.game", "env.id", "env.train.id")


@dataclass(frozen=True)
class Run:
    """A run read from its folder; its records are the lines of metrics.jsonl."""

    folder: Path
    game: str
    records: list[dict[str, float]]

    def series(self, metric: str, against: str) -> tuple[Floats, Floats]:
        """The metric and its horizontal axis (`epoch`, `env_steps` or `minutes`), finite values only.

        Of several values at one place the last is taken: collection stops before training does, and then the final
        agent counts.
        """
        points = {r[against]: r[metric] for r in self.records if metric in r and against in r}
        finite = [(x, y) for x, y in sorted(points.items()) if np.isfinite(y)]
        return np.array([x for x, _ in finite], float), np.array([y for _, y in finite], float)


def load_run(folder: Path) -> Run:
    """Reads a run folder; UserError for any other folder, or if it has no metrics yet."""
    if not folder.is_dir():
        near = nearest_entry(folder) if not folder.exists() else ""
        raise UserError(
            f"'{folder}' is not a folder{near}: give that of a run, which has {METRICS_FILE} in it"
        )
    if not (folder / CONFIG_FILE).is_file() and not (folder / METRICS_FILE).is_file():
        raise UserError(
            f"'{folder}' is not the folder of a run: it has neither {CONFIG_FILE} nor {METRICS_FILE}"
        )
    records = read_metrics(folder)
    if not records:
        raise UserError(f"{folder} has no metrics yet: the first come when its first epoch ends")
    _add_minutes(records)
    return Run(folder, _game_of(folder), records)


def _add_minutes(records: list[dict[str, float]]) -> None:
    """Adds `minutes`, the time that a run's epochs have taken so far, pauses between them left out."""
    minutes = 0.0
    for record in records:
        if DURATION not in record:  # a run of another program
            return
        minutes += record[DURATION] / 60
        record["minutes"] = minutes


def running_mean(values: Floats, points: int) -> Floats:
    """Mean of each value and its neighbours, over `points` values, fewer towards the ends."""
    if points <= 1 or len(values) == 0:
        return values
    ahead = points // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first = np.maximum(places - (points - 1 - ahead), 0)
    last = np.minimum(places + ahead + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def across_runs(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats, Floats, Floats]:
    """`(x, mean, lowest, highest)` of curves `(x, y)`, interpolated to common places.

    Only runs that reach a place count there: an unfinished run leaves the mean where it ends.
    """
    x = np.unique(np.concatenate([places for places, _ in curves]))
    values = np.ma.masked_invalid(
        [np.interp(x, places, y, left=np.nan, right=np.nan) for places, y in curves]
    )
    mean, lowest, highest = (np.ma.filled(f(axis=0), np.nan) for f in (values.mean, values.min, values.max))
    return x, mean, lowest, highest


def _game_of(folder: Path) -> str:
    """The game in the run's configuration, or the name of its folder if the configuration has none."""
    import yaml

    try:
        config: Any = yaml.safe_load((folder / CONFIG_FILE).read_text())
    except (OSError, yaml.YAMLError):
        config = None
    for key in GAME_KEYS:
        value = config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, str):
            return _plain_game_name(value)
    return folder.resolve().name


def _plain_game_name(name: str) -> str:
    try:
        return resolve_game(name)
    except UserError:
        return name
