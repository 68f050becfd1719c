"""The work of `train` after its arguments are read: the configuration, a trainer in its folder, the run."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch

from iris_fast.agent import PARTS
from iris_fast.config import (
    PRESETS,
    Config,
    apply_overrides,
    config_keys,
    config_values,
    preset_config,
    resolve,
    unresolve,
    written_value,
)
from iris_fast.config.schema import CommonConfig
from iris_fast.envs import resolve_game
from iris_fast.errors import RunStopped, UserError, nearest, quoted
from iris_fast.interop.files import architecture
from iris_fast.terminal import interrupted_code

from .announcements import announced_schedule
from .builder import Say, build_trainer
from .checkpoint import kept
from .checks import check_shares
from .device import choose_device, fitted, plain_defaults, prepare
from .distributed import Group, LostProcess, joined_processes
from .run_folder import RunFolder
from .trainer import Trainer


@plain_defaults()
def train(arguments: argparse.Namespace) -> Path:
    """Trains according to the command's arguments, together with the processes that torchrun started; returns the
    run's folder."""
    with joined_processes() as group:
        return _train_as_one_of(group, arguments)


def _train_as_one_of(group: Group, arguments: argparse.Namespace) -> Path:
    read = _resumed if arguments.resume else _fresh
    config, run = group.from_first(lambda: read(arguments))
    config = group.from_first(lambda: fitted(config))  # machines may differ
    config, device = prepare(config)
    device = group.device(device)
    check_shares(config, group.size)
    resume, say = arguments.resume is not None, _say if group.first else _say_nothing
    try:
        trainer = build_trainer(config, device, run, resume, say, group)
    except KeyboardInterrupt as interrupt:
        # A folder that was made whole stays, as of a run without a step; one that was not is gone.
        begin = f"; begin with {quoted('--resume', run.path)}" if run.config.is_file() else ""
        raise RunStopped(f"interrupted before training began{begin}", interrupted_code(interrupt)) from None
    if arguments.resume is None and arguments.preset is None:
        say(f"chosen: preset {config.preset} for {config.game} on {device} (others: --preset, --device)")
    _train(trainer, say)
    return run.path


def _train(trainer: Trainer, say: Say) -> None:
    """Trains for the rest of the run."""
    folder, epoch, epochs = trainer.run_folder.path, trainer.position.epoch, trainer.config.common.epochs
    try:
        time_left = trainer.progress().time_left()
        for line in announced_schedule(trainer.config):
            say(line)
        say(f"run folder: {folder}, epochs {epoch} to {epochs}, about {time_left} (a rough estimate)")
        trainer.run()
    except KeyboardInterrupt as interrupt:  # the second Ctrl-C, or one outside the steps
        code = trainer.stop.exit_code if trainer.stop.requested else interrupted_code(interrupt)
        raise RunStopped(
            f"at once; go on from the last checkpoint with {quoted('--resume', folder)}", code
        ) from None
    except LostProcess as lost:
        raise LostProcess(
            f"{lost}: {kept(trainer.run_folder)}; go on with {quoted('--resume', folder)}"
        ) from None
    finally:
        with ExitStack() as clean_up:  # each of them, even if another one fails
            clean_up.callback(trainer.run_folder.unlock)
            clean_up.callback(trainer.env.close)
            clean_up.callback(trainer.logger.close)
    evaluation = quoted("python", "-m", "iris_fast.evaluate", folder, "--episodes", 100)
    say(f"done: {folder}; {evaluation}")


def listed_config(arguments: argparse.Namespace) -> Config:
    """The configuration for `--list-keys`: that of a run with these arguments, or else the paper's."""
    if arguments.resume is not None:
        return _with_options(unresolve(RunFolder(arguments.resume).read_config()), arguments)
    if arguments.game is None:
        return _with_options(
            preset_of("paper" if arguments.preset is None else arguments.preset, "Pong"), arguments
        )
    return _with_options(_chosen_preset(arguments, resolve_game(arguments.game)), arguments)


def _chosen_preset(arguments: argparse.Namespace, game: str) -> Config:
    """The chosen preset, or the default for the game and the device, which an override may set."""
    if arguments.preset is not None:
        return preset_of(arguments.preset, game)
    return preset_of(choose_preset(game, choose_device(_device_of(arguments))), game)


def _device_of(arguments: argparse.Namespace) -> str:
    """The device that is named by `--device` or an override, else what all presets have."""
    given = [text.lstrip("+").partition("=") for text in arguments.overrides]
    named = [value.strip() for key, _, value in given if key.strip() == "common.device"]
    return arguments.device or [CommonConfig.device, *named][-1]


def choose_preset(game: str, device: torch.device) -> str:
    """The preset for a game and a device when none is named: the paper's where there is a GPU."""
    if game == "Catch":
        return "tiny"
    return "paper" if device.type == "cuda" else "small"


def preset_of(preset: str, game: str) -> Config:
    if preset not in PRESETS:
        known = ", ".join(PRESETS)
        raise UserError(f"there is no preset '{preset}'{nearest(preset, list(PRESETS))}: choose {known}")
    return preset_config(preset, game)


def _fresh(arguments: argparse.Namespace) -> tuple[Config, RunFolder]:
    """The configuration of a new run, and its folder, which does not exist yet."""
    if arguments.game is None:
        raise UserError("name a game, for example --game Pong (--list-games shows all)")
    game = resolve_game(arguments.game)
    config = _with_options(_chosen_preset(arguments, game), arguments)
    config = _with_initialization(config, arguments)
    run = RunFolder(arguments.run_dir) if arguments.run_dir else RunFolder.default(game)
    run.check_new()
    return config, run


def _resumed(arguments: argparse.Namespace) -> tuple[Config, RunFolder]:
    """The configuration of the run to resume; changes that would make it another run are refused."""
    for option in ("run_dir", "init", "init_parts", "preset"):
        if getattr(arguments, option) is not None:
            raise UserError(
                f"--{option.replace('_', '-')} does not go with --resume: the run folder has its own"
            )
    run = RunFolder(arguments.resume)
    saved = run.read_config(_say)
    if arguments.game is not None and resolve_game(arguments.game) != saved.game:
        raise UserError(
            f"--game {arguments.game}: the run in {run.path} plays {saved.game}; leave --game out, "
            "or start a new run"
        )
    # Unresolved, so that an override also reaches the keys that take its value.
    config = _with_options(unresolve(saved), arguments)
    if architecture(resolve(config).agent) != architecture(resolve(saved).agent):
        raise UserError(
            f"an override changes the architecture of the run in {run.path}: start a new run for other sizes"
        )
    for key, ours, theirs in (
        ("initialization", config.initialization, saved.initialization),
        ("env.train", config.env.train, saved.env.train),
        ("env.test", config.env.test, saved.env.test),
        ("collection.train.num_envs", config.collection.train.num_envs, saved.collection.train.num_envs),
    ):
        if ours != theirs:
            raise UserError(f"an override changes {key} of the run in {run.path}: start a new run for it")
    return config, run


def _with_options(config: Config, arguments: argparse.Namespace) -> Config:
    """The configuration with overrides and equivalent options; UserError if both set one key."""
    options = {name: getattr(arguments, name) for name in ("device", "seed")}
    for name, value in options.items():
        given = [text for text in arguments.overrides if text.lstrip("+").startswith(f"common.{name}=")]
        if value is not None and given:
            raise UserError(f"--{name} {value} and {given[0]} set the same value: give only one of them")
    config = apply_overrides(config, arguments.overrides)
    chosen = {name: value for name, value in options.items() if value is not None}
    config = replace(config, common=replace(config.common, **chosen))
    if arguments.wandb:
        config = replace(config, wandb=replace(config.wandb, mode="online"))
    return config


def _with_initialization(config: Config, arguments: argparse.Namespace) -> Config:
    """The configuration with the weights to start from."""
    if arguments.init is None:
        if arguments.init_parts is not None:
            raise UserError("--init-parts needs --init CHECKPOINT to load from")
        return config
    chosen = PARTS if arguments.init_parts is None else arguments.init_parts.split(",")
    parts = [part.strip() for part in chosen]
    for part in parts:
        if part not in PARTS:
            raise UserError(f"--init-parts {part}{nearest(part, PARTS)}: choose from {', '.join(PARTS)}")
    loads: dict[str, Any] = {f"load_{part}": part in parts for part in PARTS}
    initialization = replace(config.initialization, path_to_checkpoint=str(arguments.init), **loads)
    return replace(config, initialization=initialization)


def key_lines(config: Config) -> list[str]:
    """A line for each configuration key: its value in `config`, written as an override, and its type."""
    lines, values = [], config_values(config)
    for key, hint in config_keys().items():
        if key in ("game", "preset"):  # options of the command
            continue
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        kind = "|".join(choices) or getattr(hint, "__name__", None) or str(hint)
        lines.append(f"{key}={written_value(values[key])}  ({kind})")
    return lines


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _say_nothing(message: str) -> None:
    """All but the first of several processes are silent."""
