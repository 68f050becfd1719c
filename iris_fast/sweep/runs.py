"""A run of a sweep, and the commands that do it. Workers import it, so it needs no PyTorch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iris_fast.results.runs import CONFIG, EVALUATION


@dataclass(frozen=True)
class PlannedRun:
    """A game and a seed, and how they are trained and evaluated. Paths are absolute, for other machines."""

    game: str
    seed: int
    preset: str
    output: Path
    overrides: tuple[str, ...]
    device: str | None  # None: an override says it
    episodes: int
    wandb: bool = False

    @property
    def name(self) -> str:
        return f"{self.game} seed {self.seed}"

    @property
    def folder(self) -> Path:
        return self.output / self.game / f"seed_{self.seed}"

    @property
    def log(self) -> Path:
        """What its commands print; beside the run folder, which `train` makes itself."""
        return self.output / "logs" / f"{self.game}_seed_{self.seed}.log"

    @property
    def begun(self) -> bool:
        """Whether `train` has made the folder, so that it resumes."""
        return (self.folder / CONFIG).is_file()

    def train_arguments(self, resume: bool) -> list[str]:
        """Of `python -m iris_fast.train`."""
        new = ["--game", self.game, "--preset", self.preset, "--seed", str(self.seed), "--run-dir"]
        device = [] if self.device is None else ["--device", self.device]
        wandb = ["--wandb"] if self.wandb else []
        return [*(["--resume"] if resume else new), str(self.folder), *device, *wandb, *self.overrides]

    def evaluate_arguments(self) -> list[str]:
        """Of `python -m iris_fast.evaluate`."""
        device = [] if self.device is None else ["--device", self.device]
        return [str(self.folder), "--episodes", str(self.episodes), *device]

    def evaluation(self) -> tuple[int, list[float]] | None:
        """The evaluated epoch and the returns of the run's evaluation; None if there is no whole one."""
        try:
            content: Any = json.loads((self.folder / EVALUATION).read_bytes())
            return int(content["epoch"]), [float(value) for value in content["returns"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
