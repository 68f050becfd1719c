"""What `evaluate` does once its arguments are read: whole episodes with a trained agent, and what is kept of them."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from iris_fast import __version__
from iris_fast.acting import Policy
from iris_fast.agent import Agent
from iris_fast.config import Config
from iris_fast.envs import human_normalized_score, make_vector_env, resolve_game
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.errors import RunStopped, UserError
from iris_fast.files import write_atomically
from iris_fast.graphs import graphs_of
from iris_fast.imagination.randomness import derive_seed
from iris_fast.interop.files import (
    Weights,
    check_fits,
    config_from_dict,
    heads_assumption,
    read_payload,
    read_weights,
)

from .builder import choose_device, prepare
from .collector import ActingConfig, PlayedSteps
from .evaluation import MAX_VIDEO_FRAMES, save_steps
from .run_folder import RunFolder
from .tester import PlayedEpisode, play_episodes, return_statistics

RESULT_FILE = Path("logs") / "evaluation.json"


@dataclass(frozen=True)
class Subject:
    """What is evaluated: weights, and the configuration of the run that they come from."""

    weights: Weights
    config: Config
    run: RunFolder | None  # None for a file on its own
    epoch: int | None  # whole epochs that it was trained for, where the file tells


def evaluate(arguments: argparse.Namespace) -> int:
    """Plays as the command's arguments say, prints the result and writes it."""
    _check_numbers(arguments)
    device = choose_device(arguments.device)
    subject = _subject(arguments, device)
    agent, env = _agent_and_env(subject, arguments, device)
    outputs = [arguments.json] if arguments.json else []
    outputs += [subject.run.path / RESULT_FILE] if subject.run else []
    for path in [*outputs, *([arguments.video] if arguments.video else [])]:
        _check_writable(path)
    acting = _acting(subject.config, arguments)
    assumption = heads_assumption(subject.weights, arguments.num_heads)
    if assumption:
        print(assumption, file=sys.stderr)
    graphs = graphs_of(device) if subject.config.training.cuda_graphs else None
    try:
        episodes = _play(Policy(agent, graphs), env, acting, arguments)
    finally:
        env.close()
    result = summarize(subject, episodes, _settings(subject, env, acting, arguments, device))
    print(table(result), flush=True)
    _write(result, outputs, episodes, env, arguments.video)
    return 0


def _check_numbers(arguments: argparse.Namespace) -> None:
    for name, value in (("episodes", arguments.episodes), ("envs", arguments.envs)):
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: give at least 1")
    if arguments.temperature is not None and not 0 < arguments.temperature < math.inf:
        raise UserError(f"--temperature {arguments.temperature:g}: it must be above 0 (or use --greedy)")
    if arguments.epsilon is not None and not 0 <= arguments.epsilon <= 1:
        raise UserError(f"--epsilon {arguments.epsilon:g}: it must lie between 0 and 1")
    if arguments.seed < 0:
        raise UserError(f"--seed {arguments.seed}: it must not be negative")


def _subject(arguments: argparse.Namespace, device: torch.device) -> Subject:
    """Reads the checkpoint, and the run's configuration where there is a run of ours."""
    path = arguments.run
    run = RunFolder(path) if path.is_dir() else None
    if run is not None and not run.checkpoint.is_file():
        run.check_is_run()
        raise UserError(f"{path} has no checkpoint yet: wait for the end of its first epoch")
    weights = read_weights(path, arguments.num_heads)
    game = None if arguments.game is None else resolve_game(arguments.game)
    if run is not None and weights.kind == "iris_fast":
        config = run.read_config()
        if game not in (None, config.game):
            raise UserError(
                f"--game {arguments.game}: the run in {path} plays {config.game}; leave --game out"
            )
    elif game is None:
        raise UserError(f"{path} does not say which game it plays: name it, for example --game Pong")
    else:
        run, config = None, _config_of_file(weights, game)
    # A run trained in half precision still acts in float32; TF32 is left to devices that have it.
    precision = config.common.precision if device.type == "cuda" else "float32"
    common = replace(config.common, device=arguments.device, precision=precision)
    config, _ = prepare(replace(config, common=common))
    return Subject(weights, config, run, _epoch(weights))


def _config_of_file(weights: Weights, game: str) -> Config:
    """The paper's settings for the agent of a file."""
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


def _epoch(weights: Weights) -> int | None:
    position = read_payload(weights.path).get("position") if weights.kind == "iris_fast" else None
    return None if position is None else int(position["epoch"]) - 1


def _agent_and_env(
    subject: Subject, arguments: argparse.Namespace, device: torch.device
) -> tuple[Agent, FrameVectorEnv]:
    """The agent with its weights, and the test environments; UserError when they do not fit."""
    config, weights = subject.config, subject.weights
    num_envs = min(arguments.envs, arguments.episodes)
    seed = derive_seed(arguments.seed, "final evaluation") % 2**31
    env = make_vector_env(
        config.game, config.env.test, num_envs=num_envs, seed=seed, backend=config.env.backend
    )
    num_actions = len(env.action_meanings)
    if weights.num_actions != num_actions:
        env.close()
        raise UserError(
            f"{weights.path} was trained with {weights.num_actions} actions and {config.game} has "
            f"{num_actions}: name the game it was trained on with --game"
        )
    agent = Agent(config_from_dict(weights.agent_config), num_actions)
    check_fits(weights, agent)
    agent.load_parts(weights.state_dict)
    return agent.to(device).eval(), env


def _acting(config: Config, arguments: argparse.Namespace) -> ActingConfig:
    """The run's own way of acting in tests, except where the options say otherwise."""
    test = config.collection.test.config
    return ActingConfig(
        test.epsilon if arguments.epsilon is None else arguments.epsilon,
        test.should_sample and not arguments.greedy,
        test.temperature if arguments.temperature is None else arguments.temperature,
        burn_in=0,
    )


def _play(
    policy: Policy, env: FrameVectorEnv, acting: ActingConfig, arguments: argparse.Namespace
) -> list[PlayedEpisode]:
    """Plays the episodes behind a bar; with --video, the first to end keeps its frames."""
    total = arguments.episodes
    returns: list[float] = []
    with tqdm(total=total, unit=" episode", file=sys.stderr, disable=None, leave=False) as bar:

        def on_episode(episode: PlayedEpisode) -> None:
            if returns:
                episode.steps = PlayedSteps()
            returns.append(episode.episode_return)
            bar.set_postfix_str(f"mean return {_number(float(np.mean(returns)))}", refresh=False)
            bar.update()

        try:
            return play_episodes(
                policy.agent,
                env,
                acting,
                total,
                derive_seed(arguments.seed, "final evaluation"),
                keep_frames=MAX_VIDEO_FRAMES * env.num_envs if arguments.video else 0,
                on_episode=on_episode,
                policy=policy,
            )
        except KeyboardInterrupt:
            raise RunStopped(
                f"interrupted after {len(returns)} of {total} episodes; nothing was written", 130
            ) from None


def _settings(
    subject: Subject,
    env: FrameVectorEnv,
    acting: ActingConfig,
    arguments: argparse.Namespace,
    device: torch.device,
) -> dict[str, Any]:
    return {
        "episodes": arguments.episodes,
        "envs": env.num_envs,
        "temperature": acting.temperature,
        "epsilon": acting.epsilon,
        "greedy": not acting.should_sample,
        "seed": arguments.seed,
        "device": str(device),
        "backend": env.backend,
        "env": asdict(subject.config.env.test),
    }


def summarize(subject: Subject, episodes: list[PlayedEpisode], settings: dict[str, Any]) -> dict[str, Any]:
    """All that is written of an evaluation: plain data.

    `standard_error` is that of the mean return (None for one episode); `human_normalized_score` is None where
    the game has none; `returns` and `lengths` (agent steps) are in the order in which episodes ended.
    """
    returns = np.array([episode.episode_return for episode in episodes])
    error = float(returns.std(ddof=1) / math.sqrt(len(returns))) if len(returns) > 1 else None
    statistics: dict[str, float | None] = dict(return_statistics(episodes))
    statistics["standard_error"] = error
    score = human_normalized_score(subject.config.game, float(returns.mean()))
    statistics["human_normalized_score"] = score
    return {
        "game": subject.config.game,
        "checkpoint": str(subject.weights.path),
        "epoch": subject.epoch,
        "settings": settings,
        "statistics": statistics,
        "returns": returns.tolist(),
        "lengths": [episode.length for episode in episodes],
        "versions": {"iris_fast": __version__, "torch": torch.__version__},
    }


def table(result: dict[str, Any]) -> str:
    """The result as a few aligned lines."""
    settings, found = result["settings"], result["statistics"]
    acting = "greedy" if settings["greedy"] else f"temperature {settings['temperature']:g}"
    epoch = "" if result["epoch"] is None else f" after epoch {result['epoch']}"
    error = (
        "" if found["standard_error"] is None else f" ± {_number(found['standard_error'])} (standard error)"
    )
    rows = [
        ("game", f"{result['game']} ({settings['backend']})"),
        ("checkpoint", f"{result['checkpoint']}{epoch}"),
        ("acting", f"{acting}, epsilon {settings['epsilon']:g}, seed {settings['seed']}"),
        ("episodes", f"{settings['episodes']}"),
        ("mean return", f"{_number(found['return'])}{error}"),
        ("standard deviation", f"{_number(found['return_std'])}"),
        ("median", f"{_number(found['return_median'])}"),
        ("min, max", f"{_number(found['return_min'])}, {_number(found['return_max'])}"),
        ("mean length", f"{_number(found['length'])} steps"),
    ]
    if found["human_normalized_score"] is not None:
        rows.append(("human-normalised", f"{found['human_normalized_score']:.3f} (0 random, 1 human)"))
    return "\n".join(f"{name:<20}{value}" for name, value in rows)


def _number(value: float) -> str:
    """Four digits, or one after the point of a large number: never an exponent."""
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.1f}".removesuffix(".0")


def _check_writable(path: Path) -> None:
    """UserError now rather than when the episodes have been played."""
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file to write")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{path} cannot be written: choose a folder that is yours to write to")


def _write(
    result: dict[str, Any],
    outputs: list[Path],
    episodes: list[PlayedEpisode],
    env: FrameVectorEnv,
    video: Path | None,
) -> None:
    try:
        for path in outputs:
            write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())
        if video is not None:
            steps = episodes[0].steps
            save_steps(video, steps.frames, steps.actions, steps.rewards, env.action_meanings)
    except OSError as error:
        raise UserError(
            f"{error.filename or outputs} cannot be written ({error.strerror}): make room"
        ) from None
    for path in [*outputs, *([video] if video else [])]:
        print(f"wrote {path}")
