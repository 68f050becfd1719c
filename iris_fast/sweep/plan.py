"""From the command's arguments to the list of runs, checked before any of them begins."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from iris_fast.config import Config, config_values, resolve, validate, written_value
from iris_fast.config.overrides import PATH_KEYS
from iris_fast.config.schema import Precision
from iris_fast.envs.games import ATARI_100K, resolve_game
from iris_fast.errors import UserError, quoted
from iris_fast.files import explained_writing, whole_path
from iris_fast.train import make_parser
from iris_fast.training.launch import choose_preset, listed_config, preset_of
from iris_fast.training.metrics_file import read_metrics
from iris_fast.training.run_folder import RunFolder

from .runs import PlannedRun

# Settings in which a run may differ from what the command asks: its length, which is checked apart; where and how its
# work is done, which changes numbers by rounding at most; what is logged.
FREE = re.compile(
    r"common\.(epochs|device|threads|engine|layer_launches|do_checkpoint)|training\.cuda_graphs"
    r"|datasets\.train\.(device|cache_max_ram_usage)|wandb\..*|logging\..*"
)
# What a run puts in the place of what was asked, by what its machine has: (asked, found).
FOUND = {
    "common.precision": [("auto", precision) for precision in get_args(Precision)],
    "tokenizer.perceptual": [("lpips", "none")],
}


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
    output = whole_path(Path(arguments.output))
    if output.exists() and not output.is_dir():
        raise UserError(f"'{output}' is a file: choose another folder with --output")
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
            configs[run] = listed_config(
                make_parser().parse_intermixed_args(run.train_arguments(resume=False))
            )
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
    """UserError if the run's folder holds a run with other settings, which would be taken for this one.

    More epochs may be asked for, and fewer as long as the run has not had more. What it has is what its last `train`
    wrote there, so settings that were changed by `--resume` are changed here too.
    """
    if not run.begun:
        return
    other = next(iter(differences(RunFolder(run.folder).read_config(), plan.configs[run])), None)
    if other is not None:
        key, found, asked = other
        raise UserError(
            f"{run.folder} has {key}={written_value(found)} and this command asks for {written_value(asked)}: "
            "choose another --output, or give what its runs were started with"
        )
    asked, records = plan.configs[run].common.epochs, read_metrics(run.folder)
    if records and (had := int(records[-1]["epoch"])) > asked:
        raise UserError(
            f"{run.folder} has had {had} epochs and this command asks for {asked}: "
            f"choose another --output, or give common.epochs={had} or more"
        )


def differences(found: Config, wanted: Config) -> list[tuple[str, Any, Any]]:
    """The settings in which a stored configuration is not the wanted one, with both values.

    Keys that others take their value from come first: `training.learning_rate` before the rates of the parts.
    """
    stored, asked, unresolved = map(config_values, (found, resolve(wanted), Config()))
    default = config_values(resolve(Config()))
    different = [
        (key, value, asked[key])
        for key, value in stored.items()
        if value != asked[key] and not FREE.fullmatch(key) and (asked[key], value) not in FOUND.get(key, ())
    ]
    return sorted(different, key=lambda each: unresolved[each[0]] != default[each[0]])


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
    return f"{key}={whole_path(Path(value.strip()))}"


def command(run: PlannedRun) -> str:
    """The commands that begin the run or go on with it, and evaluate it, as in a shell."""
    train = quoted("python", "-m", "iris_fast.train", *run.train_arguments(run.begun))
    return f"{train} && {quoted('python', '-m', 'iris_fast.evaluate', *run.evaluate_arguments())}"
