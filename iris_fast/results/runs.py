"""Scores of the user's runs, read from their `logs/evaluation.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from iris_fast.envs.games import ATARI_100K_SCORES, resolve_game
from iris_fast.errors import UserError, quoted
from iris_fast.files import nearest_entry

from .scores import Method, in_order

EVALUATION = Path("logs") / "evaluation.json"
CONFIG = Path("config") / "trainer.yaml"


@dataclass(frozen=True)
class EvaluatedRun:
    """A run's game, its mean return over the evaluation's episodes, and what its configuration says of training."""

    folder: Path
    game: str
    score: float
    episodes: int
    epoch: int | None  # of the evaluated weights
    epochs: int | None  # that the run is to have
    seed: int | None
    content: bytes


def read_runs(folders: Sequence[Path], name: str) -> tuple[Method | None, list[str]]:
    """The runs' scores as one method, and sentences about which games and seeds there are and what was left out.

    Runs of games that have no human score are left out. A run given twice, by another path or as a copy, is refused:
    it would count as two seeds.
    """
    runs, notes = [_read(folder) for folder in folders], list[str]()
    _refuse_twice(runs)
    for game in sorted({run.game for run in runs} - set(ATARI_100K_SCORES)):
        notes.append(f"runs of {game} are left out: Atari 100k has no human score of it")
    runs = [run for run in runs if run.game in ATARI_100K_SCORES]
    if folders and not runs:
        raise UserError(f"{notes[0]}; give runs of its games, such as Pong")
    if not runs:
        return None, notes
    games = in_order(run.game for run in runs)
    of_game = {game: [run for run in runs if run.game == game] for game in games}
    notes += _in_hand(of_game, name) + [note for run in runs for note in _unfinished(run)]
    return Method(name, {game: [run.score for run in of_game[game]] for game in games}), notes


def _read(folder: Path) -> EvaluatedRun:
    path = folder / EVALUATION
    if not folder.is_dir():
        near = nearest_entry(folder) if not folder.exists() else ""
        raise UserError(f"'{folder}' is not a folder{near}: give that of a run, which has {EVALUATION} in it")
    command = quoted("python", "-m", "iris_fast.evaluate", folder)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{folder} has no {EVALUATION}: run `{command}` first") from None
    try:
        content: Any = json.loads(data)
        game, returns = content["game"], content["returns"]
        epoch, env = content.get("epoch"), content.get("settings", {}).get("env", {})
        score = math.fsum(map(_number, returns)) / len(returns)
        clipped, lives = bool(env.get("clip_reward")), bool(env.get("done_on_life_loss"))
        if not isinstance(game, str) or not isinstance(epoch, int | None):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise UserError(
            f"{path} is not a whole evaluation with finite returns: run `{command}` to make it anew"
        ) from None
    if clipped or lives:
        rule = "env.test.clip_reward" if clipped else "env.test.done_on_life_loss"
        raise UserError(
            f"{path} was played with {rule}=true, so its scores are not raw scores of whole games: give runs "
            "without that"
        )
    try:
        game = resolve_game(game)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    config = _config(folder)
    seed, epochs = (_whole(config.get("common"), key) for key in ("seed", "epochs"))
    return EvaluatedRun(folder, game, score, len(returns), epoch, epochs, seed, data)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _config(folder: Path) -> dict[str, Any]:
    """The run's configuration; empty if it has none that can be read, since scores do not need it."""
    try:
        content = yaml.safe_load((folder / CONFIG).read_bytes())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _whole(section: Any, key: str) -> int | None:
    value = section.get(key) if isinstance(section, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _refuse_twice(runs: Sequence[EvaluatedRun]) -> None:
    seen: dict[object, Path] = {}
    seeds: dict[tuple[str, int], Path] = {}
    for run in runs:
        for key in (run.folder.resolve(), (run.content, run.seed)):
            if key in seen:
                raise UserError(
                    f"{run.folder} is the same run as {seen[key]}: give each once, since runs count as seeds"
                )
            seen[key] = run.folder
        if run.seed is not None:
            first = seeds.setdefault((run.game, run.seed), run.folder)
            if first != run.folder:
                raise UserError(
                    f"{run.folder} and {first} are runs of {run.game} with the same seed, {run.seed}: "
                    "give one of them, since runs count as independent seeds"
                )


def _in_hand(of_game: dict[str, list[EvaluatedRun]], name: str) -> list[str]:
    """Which games and seeds there are."""
    listed = []
    for game, runs in of_game.items():
        seeds = ", ".join("?" if run.seed is None else str(run.seed) for run in runs)
        listed.append(f"{game} ({'seed' if len(runs) == 1 else 'seeds'} {seeds})")
    notes = [f"{name}: {len(of_game)} of {len(ATARI_100K_SCORES)} games: {'; '.join(listed)}"]
    missing = [game for game in ATARI_100K_SCORES if game not in of_game]
    if missing:
        these = f"these {len(of_game)} games" if len(of_game) > 1 else "this game"
        notes.append(f"aggregates are over {these} alone, of every method; missing: {', '.join(missing)}")
    return notes


def _unfinished(run: EvaluatedRun) -> list[str]:
    if run.epoch is None or run.epochs is None or run.epoch >= run.epochs:
        return []
    return [f"{run.folder} was evaluated after epoch {run.epoch} of {run.epochs}: its training was not over"]
