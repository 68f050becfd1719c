"""From the command's arguments to the list of runs, checked before any of them begins."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from iris_fast.config import Config, resolve, unresolve, validate
from iris_fast.config.overrides import PATH_KEYS
from iris_fast.envs.games import ATARI_100K, resolve_game
from iris_fast.errors import UserError, quoted
from iris_fast.files import explained_writing
from iris_fast.train import make_parser
from iris_fast.training.launch import choose_preset, listed_config, preset_of

from .runs import PlannedRun

# What a run finds out on its machine, and what changes no number: these may differ from what the command asks.
FOUND = re.compile(r"(tokenizer\.perceptual|wandb\..*|logging\..*)$")
CHOSEN_AT_START = ("common.precision", "auto")  # what a run's configuration has a value for, by its machine


@dataclass(frozen=True)
class Plan:
    """The runs in order, a game's seeds one after the other, with the configuration that each is to have."""

    runs: list[PlannedRun]
    configs: dict[PlannedRun, Config]
    output: Path
    cpus: float  # a run
    gpus: float
    retries: int

    def make_output(self) -> None:
        """Makes the output folder, and in it that of logs. UserError where it cannot be written."""
        with explained_writing(self.output, "choose another folder with --output"):
            (self.output / "logs").mkdir(parents=True, exist_ok=True)


def make_plan(arguments: argparse.Namespace) -> Plan:
    """The plan of the command's arguments. UserError for anything that would stop a run at its start."""
    cpus, gpus = _shares(arguments)
    games, seeds = chosen_games(arguments.games), chosen_seeds(arguments.seeds)
    _check(arguments)
    output = Path(arguments.output).absolute()
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file: choose another folder with --output")
    keys = {override.partition("=")[0].lstrip("+").strip() for override in arguments.overrides}
    threads = [] if "common.threads" in keys else [f"common.threads={max(1, int(cpus))}"]
    overrides = tuple(map(_with_whole_path, arguments.overrides)) + tuple(threads)
    device = None if "common.device" in keys else "cuda" if gpus else "cpu"
    runs, configs = [], {}
    for game in games:
        preset = arguments.preset or choose_preset(game, torch.device("cuda" if gpus else "cpu"))
        preset_of(preset, game)
        for seed in seeds:
            run = PlannedRun(
                game, seed, preset, output, overrides, device, arguments.episodes, arguments.wandb
            )
            runs.append(run)
            configs[run] = _config(run, resume=False)
        validate(configs[runs[-1]])
    return Plan(runs, configs, output, cpus, gpus, arguments.retries)


def chosen_games(text: str) -> list[str]:
    """The games of `--games`: all, or names with commas between, each once."""
    if text.strip().lower() == "all":
        return list(ATARI_100K)
    names = [name for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--games '{text}' names no game: give all, or names such as Pong,Breakout")
    return list(dict.fromkeys(resolve_game(name) for name in names))


def chosen_seeds(text: str) -> list[int]:
    """The seeds of `--seeds`: N for 0 to N-1, a list, or a range, each once."""
    found = re.fullmatch(r"\s*(\d+)\s*", text)
    if found and 0 < int(found[1]) <= 1000:
        return list(range(int(found[1])))
    seeds: list[int] = []
    for part in text.split(",") if not found else []:
        piece = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if part.strip() and not piece:
            seeds = []
            break
        if piece:
            first, last = int(piece[1]), int(piece[2] or piece[1])
            seeds += range(first, min(last, first + 1000) + 1)
    if not seeds:
        raise UserError(f"--seeds {text}: give how many (5), or which (0,3 or 5-9)")
    return list(dict.fromkeys(seeds))


def check_folder(plan: Plan, run: PlannedRun) -> None:
    """UserError if the run's folder holds a run with other settings, which would be taken for this one."""
    if not run.begun:
        return
    # Unresolved, so that the key is named that others take their value from.
    wanted, there = (unresolve(resolve(one)) for one in (plan.configs[run], _config(run, resume=True)))
    other = next(iter(_differences(there, wanted)), None)
    if other is not None:
        key, found, asked = other
        raise UserError(
            f"{run.folder} has {key}={found} and this command asks for {asked}: choose another --output, or give "
            f"what its runs were started with"
        )


def _config(run: PlannedRun, resume: bool) -> Config:
    """The configuration that `train` would have with the run's arguments."""
    return listed_config(make_parser().parse_intermixed_args(run.train_arguments(resume)))


def _differences(found: Any, wanted: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """The settings that are not the same, with both values."""
    different = []
    for name in (entry.name for entry in fields(found)):
        one, other, key = getattr(found, name), getattr(wanted, name), prefix + name
        if is_dataclass(one):
            different += _differences(one, other, f"{key}.")
        elif one != other and not FOUND.match(key) and (key, other) != CHOSEN_AT_START:
            different.append((key, one, other))
    return different


def _shares(arguments: argparse.Namespace) -> tuple[float, float]:
    """The cores and GPUs of each run."""
    cpus, gpus = arguments.cpus_per_run, arguments.gpus_per_run
    if not (math.isfinite(cpus) and cpus > 0):
        raise UserError(f"--cpus-per-run {cpus:g}: give a number of cores above 0")
    if gpus is None:
        gpus = float(torch.cuda.is_available())
    if not 0 <= gpus <= 1:
        raise UserError(f"--gpus-per-run {gpus:g}: a run has 0, 1 or a share of a GPU, such as 0.5")
    return cpus, gpus


def _check(arguments: argparse.Namespace) -> None:
    if arguments.episodes < 1:
        raise UserError(
            f"--episodes {arguments.episodes}: give one episode or more, since results need a score"
        )
    if arguments.retries < 0:
        raise UserError(f"--retries {arguments.retries}: give 0 or more")
    for override in arguments.overrides:
        if override.lstrip("+").startswith("common.seed="):
            raise UserError(f"{override}: the seeds of a sweep are given by --seeds")


def _with_whole_path(override: str) -> str:
    """The override; a path in it made absolute, since runs may begin in other folders."""
    key, _, value = override.partition("=")
    if key.lstrip("+") not in PATH_KEYS or value.strip().lower() in ("", "null", "none", "~"):
        return override
    return f"{key}={Path(value.strip()).expanduser().absolute()}"


def command(run: PlannedRun) -> str:
    """The command that begins the run or goes on with it, as in a shell."""
    return quoted("python", "-m", "iris_fast.train", *run.train_arguments(run.begun))
