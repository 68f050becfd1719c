"""The work of `evaluate` after its arguments are read: plays whole episodes with a trained agent, and saves the
result."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iris_fast import __version__
from iris_fast.acting import ActingConfig, Policy
from iris_fast.agent import Agent
from iris_fast.config import Config
from iris_fast.config.validation import check_number
from iris_fast.envs import human_normalized_score, make_vector_env
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.envs.playing import PlayedSteps
from iris_fast.errors import RunStopped, UserError
from iris_fast.files import check_writable, explained_writing, write_atomically
from iris_fast.graphs import graphs_of
from iris_fast.interop.files import heads_assumption
from iris_fast.randomness import derive_seed
from iris_fast.terminal import interrupted_code

from .device import choose_device, plain_defaults
from .evaluation import MAX_VIDEO_FRAMES, save_steps
from .progress import Bar
from .run_folder import RunFolder
from .subject import Subject, read_subject
from .tester import PlayedEpisode, play_episodes, return_statistics

RESULT_FILE = Path("logs") / "evaluation.json"


@plain_defaults()
def evaluate(arguments: argparse.Namespace, say: Callable[[str], object] | None = None) -> dict[str, Any]:
    """Plays according to the command's arguments, writes the result, and returns it; `say` is given its table."""
    _check_numbers(arguments)
    device = choose_device(arguments.device)
    for path in filter(None, (arguments.json, arguments.video)):
        check_writable(path)
    subject = read_subject(arguments.run, arguments.game, arguments.num_heads, device)
    agent, env = _agent_and_env(subject, arguments, device)
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
    said: list[str] = []
    try:  # files first, because a pager or a stopped terminal may block printing
        try:
            _write(result, arguments.json, arguments.video, episodes, env, said)
        finally:  # the result is kept in the run even if the user's files failed
            if subject.run is not None:
                said.append(_keep(result, subject.run))
    finally:
        if say is not None:
            say("\n".join([table(result), *said]))
    return result


def _check_numbers(arguments: argparse.Namespace) -> None:
    for option, key in (
        ("episodes", "num_episodes"),
        ("envs", "num_envs"),
        ("temperature", "temperature"),
        ("epsilon", "epsilon"),
        ("seed", "seed"),
    ):
        value = getattr(arguments, option)
        if value is not None:
            instead = " (or use --greedy)" if option == "temperature" else ""
            check_number(key, f"--{option} {value}", value, instead)


def _agent_and_env(
    subject: Subject, arguments: argparse.Namespace, device: torch.device
) -> tuple[Agent, FrameVectorEnv]:
    """The agent with its weights, and the test environments; UserError if they do not fit."""
    config = subject.config
    num_envs = min(arguments.envs, arguments.episodes)
    seed = derive_seed(arguments.seed, "final evaluation") % 2**31
    env = make_vector_env(
        config.game, config.env.test, num_envs=num_envs, seed=seed, backend=config.env.backend
    )
    try:
        return subject.agent(len(env.action_meanings), device), env
    except UserError:
        env.close()
        raise


def _acting(config: Config, arguments: argparse.Namespace) -> ActingConfig:
    """The run's settings for acting in tests, changed by the command's options."""
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
    """Plays the episodes with a progress bar; with --video, the first to end keeps its frames."""
    total, steps = arguments.episodes, 0
    returns: list[float] = []

    def describe() -> list[str]:
        mean = [f"mean return {_number(float(np.mean(returns)))}"] if returns else []
        return [*mean, f"{steps} steps"]

    title = "evaluation"
    bar = Bar(sys.stderr, (title, title), total, "episode", describe) if sys.stderr.isatty() else None

    def on_episode(episode: PlayedEpisode) -> None:
        if returns:
            episode.steps = PlayedSteps()
        returns.append(episode.episode_return)
        if bar is not None:
            bar.update(1)

    def on_step(count: int) -> bool:
        nonlocal steps
        steps += count
        if bar is not None:
            bar.update(0)
        return False

    try:
        return play_episodes(
            policy.agent,
            env,
            acting,
            total,
            derive_seed(arguments.seed, "final evaluation"),
            keep_frames=MAX_VIDEO_FRAMES * env.num_envs if arguments.video else 0,
            on_episode=on_episode,
            on_step=on_step,
            policy=policy,
        )
    except KeyboardInterrupt as interrupt:
        raise RunStopped(
            f"interrupted after {len(returns)} of {total} episodes; nothing was written",
            interrupted_code(interrupt),
        ) from None
    finally:
        if bar is not None:
            bar.close()


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
    """The record of an evaluation, as plain data.

    `standard_error` is that of the mean return (None for one episode); `human_normalized_score` is None if the game
    has none; `returns` and `lengths` (agent steps) are in the order of the episodes' ends.
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


def _write(
    result: dict[str, Any],
    copy: Path | None,
    video: Path | None,
    episodes: list[PlayedEpisode],
    env: FrameVectorEnv,
    said: list[str],
) -> None:
    """Writes the files that the user named, and adds a line about each to `said`."""
    if copy is not None:
        with explained_writing(copy):
            write_atomically(copy, _as_json(result))
        said.append(f"wrote {copy}")
    if video is not None:
        steps = episodes[0].steps
        with explained_writing(video):
            save_steps(video, steps.film, steps.actions, steps.rewards, env.action_meanings)
        said.append(f"wrote {video}")


def _keep(result: dict[str, Any], run: RunFolder) -> str:
    """Saves the result in the run, beside a longer one if there is one; returns a line with the place.

    In a read-only run the line says that it was not kept; that is not an error.
    """
    path, longer = run.path / RESULT_FILE, ""
    length, kept = len(result["returns"]), _episodes_kept(run.path / RESULT_FILE)
    if kept > length:
        longer = f" ({path.name} there has more episodes: {kept})"
        path = path.with_name(f"{path.stem}_{length}_episodes{path.suffix}")
    try:
        with explained_writing(path):
            write_atomically(path, _as_json(result))
    except UserError as error:
        return f"not kept in the run: {error} with --json FILE.json"
    return f"wrote {path}{longer}"


def _episodes_kept(path: Path) -> int:
    """The number of episodes of a result; 0 if there is no readable result."""
    try:
        return len(json.loads(path.read_bytes())["returns"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _as_json(result: dict[str, Any]) -> bytes:
    return (json.dumps(result, indent=1) + "\n").encode()
