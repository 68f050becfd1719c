"""What a command is given as RUN: the weights of a trained agent, and the configuration of their run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from iris_fast.agent import Agent, config_from_dict
from iris_fast.config import Config, from_dict
from iris_fast.envs import resolve_game
from iris_fast.errors import UserError
from iris_fast.interop.files import Weights, check_fits, read_weights
from iris_fast.pretrained import is_pretrained

from .device import prepare
from .run_folder import RunFolder


@dataclass(frozen=True)
class Subject:
    """A trained agent in files: weights, and the configuration of their run."""

    weights: Weights
    config: Config
    run: RunFolder | None  # None for a file on its own
    epoch: int | None  # whole epochs of training, if the file gives them

    def agent(self, num_actions: int, device: torch.device) -> Agent:
        """The agent in evaluation mode; UserError if the weights are of a game with another number of actions, or are
        not finite: such an agent would act all the same, and its scores and dreams would mean nothing."""
        weights = self.weights
        if weights.num_actions != num_actions:
            raise UserError(
                f"{weights.path} was trained with {weights.num_actions} actions and {self.config.game} has "
                f"{num_actions}: name the game it was trained on with --game"
            )
        agent = Agent(config_from_dict(weights.agent_config), num_actions)
        check_fits(weights, agent)
        agent.load_parts(weights.state_dict)
        for name, value in agent.state_dict().items():
            if not value.isfinite().all():
                raise UserError(
                    f"{weights.path} holds weights that are not finite, first in {name}: use an earlier checkpoint"
                )
        return agent.to(device).eval()


def read_subject(path: Path, game: str | None, num_heads: int | None, device: torch.device) -> Subject:
    """Reads the checkpoint at `path`, and the configuration if it belongs to one of our runs; prepares the device.

    `game`, `num_heads`: what the file does not say; UserError if it says otherwise.
    """
    run = RunFolder(path) if path.is_dir() and not is_pretrained(path) else None
    if run is not None and not run.checkpoint.is_file():
        run.check_is_run()
        raise UserError(f"{path} has no checkpoint yet: wait for the end of its first epoch")
    weights = read_weights(path, num_heads)
    resolved = None if game is None else resolve_game(game)
    if run is not None and weights.kind == "iris_fast":
        config = run.read_config()
        if resolved not in (None, config.game):
            raise UserError(f"--game {game}: the run in {path} plays {config.game}; leave --game out")
    else:
        run, config = None, _config_of_file(weights, weights.run.get("run_config"), resolved)
    # A run trained in half precision still acts in float32; TF32 is kept on devices that have it.
    precision = config.common.precision if device.type == "cuda" else "float32"
    common = replace(config.common, device=str(device), precision=precision)
    config, _ = prepare(replace(config, common=common))
    epoch = int(weights.run["position"]["epoch"]) - 1 if "position" in weights.run else None
    return Subject(weights, config, run, epoch)


def _config_of_file(weights: Weights, saved: Any, game: str | None) -> Config:
    """The settings of the file's run if it has them, else the paper's for its agent."""
    if saved is not None and game in (None, saved.get("game")):
        return from_dict(saved, Config)
    if game is None:
        raise UserError(f"{weights.path} does not name its game: give it, for example --game Pong")
    sizes = config_from_dict(weights.agent_config)
    default = Config(game=game, preset="none")
    resolution = sizes.tokenizer.autoencoder.resolution
    env = replace(
        default.env,
        train=replace(default.env.train, size=resolution),
        test=replace(default.env.test, size=resolution),
    )
    return replace(
        default,
        env=env,
        tokenizer=sizes.tokenizer,
        world_model=sizes.world_model,
        actor_critic=sizes.actor_critic,
    )
