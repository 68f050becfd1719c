"""The checks before anything of a run is built or written."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from iris_fast.agent import PARTS
from iris_fast.config import Config
from iris_fast.config.schema import memory_bytes
from iris_fast.errors import RunStopped, UserError
from iris_fast.replay.store import EpisodeStore

from .run_folder import RunFolder


def check_run(config: Config, run: RunFolder, content: Mapping[str, Any] | None) -> None:
    """UserError for an impossible run, RunStopped for a complete one; `content`: its checkpoint."""
    if content is not None:
        check_unfinished(config, run, content)
    check_replay(config, already_filled=content is not None)
    check_wandb(config)
    if content is None:
        initial_parts(config)
        check_perceptual(config)


def check_shares(config: Config, processes: int) -> None:
    """UserError for a batch that several processes cannot share evenly."""
    if processes == 1 or not config.training.should:
        return
    for name in PARTS:
        part = getattr(config.training, name)
        pieces = getattr(part, "pieces", None) or 1
        if part.batch_num_samples % (processes * pieces):
            each, less = (f"each of training.{name}.pieces={pieces} of ", f", or training.{name}.pieces=1")
            raise UserError(
                f"training.{name}.batch_num_samples={part.batch_num_samples}: {processes} processes cannot share "
                f"{each if pieces > 1 else ''}it evenly; give a multiple of {processes * pieces}"
                f"{less if pieces > 1 else ''}"
            )


def check_unfinished(config: Config, run: RunFolder, content: Mapping[str, Any]) -> None:
    """Ends a complete run with one sentence and exit code 0, before anything is built or changed."""
    epochs, done = config.common.epochs, content["position"]["epoch"] - 1
    if epochs < done:
        raise UserError(
            f"common.epochs={epochs}: the run in {run.path} has done {done} already; give more to go on"
        )
    if epochs == done:
        raise RunStopped(
            f"the run in {run.path} is complete ({epochs} epochs): to go on, add common.epochs={2 * epochs}",
            0,
        )


def check_replay(config: Config, already_filled: bool) -> None:
    """UserError if the replay could hold no frame to train on."""
    limit, size = config.datasets.train.max_ram_usage, config.env.train.size
    if memory_bytes(limit, "datasets.train.max_ram_usage") < EpisodeStore.frame_bytes(size):
        raise UserError(
            f"datasets.train.max_ram_usage={limit} does not hold one frame: give more, such as 1G"
        )
    if config.collection.train.stop_after_epochs == 0 and config.training.should and not already_filled:
        raise UserError(
            "collection.train.stop_after_epochs=0 leaves the replay empty, with nothing to train on: give at "
            "least 1, or training.should=false"
        )


def check_perceptual(config: Config) -> None:
    """UserError for weights of a perceptual network that the loss does not use."""
    weights, perceptual = config.initialization.lpips_weights, config.tokenizer.perceptual
    if weights is not None and perceptual != "lpips":
        raise UserError(
            f"initialization.lpips_weights={weights} is of no use with tokenizer.perceptual={perceptual}: "
            "leave it out, or add tokenizer.perceptual=lpips"
        )


def check_wandb(config: Config) -> None:
    """UserError if Weights & Biases is requested but not installed."""
    if config.wandb.mode != "disabled" and find_spec("wandb") is None:
        raise UserError("wandb is not installed: pip install 'iris_fast[wandb]', or run without --wandb")


def initial_parts(config: Config) -> tuple[str, ...]:
    """The parts to load from `initialization.path_to_checkpoint`; UserError for parts or path alone."""
    initialization = config.initialization
    parts = tuple(part for part in PARTS if getattr(initialization, f"load_{part}"))
    if parts and initialization.path_to_checkpoint is None:
        raise UserError(
            f"initialization.load_{parts[0]}=true: say where from with initialization.path_to_checkpoint=FILE"
        )
    if initialization.path_to_checkpoint is not None and not parts:
        raise UserError(
            f"initialization.path_to_checkpoint={initialization.path_to_checkpoint}: say what to load from "
            "it, for example initialization.load_tokenizer=true"
        )
    return parts
