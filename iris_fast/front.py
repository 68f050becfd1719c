"""The package from Python: train, evaluate, load an agent, imagine. The commands do the same."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .files import user_path
from .hub import fetched, is_address

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from .agent import Agent
    from .imagination.engine import ImaginationEngine, Rollout

    FilePath = str | os.PathLike[str]


def train(
    game: str | None = None,
    *,
    preset: str | None = None,
    device: str | None = None,
    seed: int | None = None,
    run_dir: FilePath | None = None,
    resume: FilePath | None = None,
    init: FilePath | None = None,
    init_parts: Sequence[str] | None = None,
    wandb: bool = False,
    overrides: Mapping[str, Any] | Sequence[str] = (),
) -> Path:
    """Trains an agent to the end of its run, or goes on with the run `resume`. Returns the run's folder.

    The arguments are the options of `python -m iris_fast.train`. `overrides`: settings by their dotted names, as
    `{"common.epochs": 100}` or `["common.epochs=100"]`. Progress goes to standard error.

    Raises:
        UserError: an argument that cannot be used; nothing is written then.
        RunStopped: the run was interrupted, diverged, or found the disk full; its last checkpoint is whole.
    """
    from .training import launch

    settings = (
        [_setting(*pair) for pair in overrides.items()] if isinstance(overrides, Mapping) else overrides
    )
    arguments = Namespace(
        game=game,
        preset=preset,
        device=device,
        seed=seed,
        run_dir=_path(run_dir),
        resume=_path(resume),
        init=None if init is None else _checkpoint(init),
        init_parts=None if init_parts is None else ",".join(init_parts),
        wandb=wandb,
        overrides=list(settings),
    )
    return launch.train(arguments)


def evaluate(
    run: FilePath,
    *,
    game: str | None = None,
    num_heads: int | None = None,
    episodes: int = 100,
    envs: int = 8,
    temperature: float | None = None,
    epsilon: float | None = None,
    greedy: bool = False,
    seed: int = 0,
    device: str = "auto",
    video: FilePath | None = None,
    json: FilePath | None = None,
) -> dict[str, Any]:
    """Plays whole episodes with a trained agent, and returns the result, which is also saved in the run.

    The arguments are those of `python -m iris_fast.evaluate`. The result is plain data: `returns` and `lengths`, an
    entry an episode; `statistics` with `return` (the mean), `standard_error`, `human_normalized_score`; and the
    settings.

    Raises:
        UserError: no such run, or an argument that cannot be used.
        RunStopped: interrupted; nothing is saved then.
    """
    from .training import final_evaluation

    arguments = Namespace(
        run=_checkpoint(run),
        game=game,
        num_heads=num_heads,
        episodes=episodes,
        envs=envs,
        temperature=temperature,
        epsilon=epsilon,
        greedy=greedy,
        seed=seed,
        device=device,
        video=_path(video),
        json=_path(json),
    )
    return final_evaluation.evaluate(arguments)


def load_agent(
    run: FilePath, *, game: str | None = None, num_heads: int | None = None, device: str = "auto"
) -> Agent:
    """The trained agent of a run folder or of a checkpoint, ours or the public implementation's, ready to act.

    `run` may be a file or an agent of the Hugging Face Hub too: `hf://OWNER/NAME[/FILE]`.

    `game`: where the file does not name it. `num_heads`: of a public checkpoint (default 4, the paper's).

    Raises:
        UserError: no such run, a broken file, or a device that this machine lacks.
    """
    from .training.device import choose_device
    from .training.subject import read_subject

    place = choose_device(device)
    subject = read_subject(_checkpoint(run), game, num_heads, place)
    return subject.agent(subject.weights.num_actions, place)


def imagine(
    agent: Agent, frames: Tensor, horizon: int, *, seed: int = 0, engine: ImaginationEngine | None = None
) -> Rollout:
    """Rolls the policy out in the world model for `horizon` steps, each row from its last frame.

    `frames`: `(batch, time, 3, 64, 64)`, uint8 or floats in [0, 1]; the policy first sees all but the last of them,
    as in training (`time` may be 1). `engine`: of this agent, from `make_engine`; without one the fastest is made,
    which packs the weights at each call. The same seed gives the same rollout in every engine.

    Raises ValueError for frames of another shape or range, a horizon below 1, or an agent in training mode.
    """
    import torch

    from .imagination.engine import ImaginationStart
    from .imagination.factory import make_engine
    from .models.frames import unit_frames

    size = agent.config.tokenizer.autoencoder.resolution
    if frames.ndim != 5 or frames.shape[2:] != (3, size, size) or not frames.shape[1]:
        raise ValueError(f"frames {tuple(frames.shape)}: give (batch, time, 3, {size}, {size})")
    frames = unit_frames(frames.to(agent.device))
    before = frames[:, :-1]
    with torch.no_grad():
        seen = agent.reconstruct(before.flatten(0, 1)).view(before.shape) if before.numel() else before
        start = ImaginationStart(
            burn_in_frames=seen,
            burn_in_mask=torch.ones(before.shape[:2], dtype=torch.bool, device=agent.device),
            first_tokens=agent.coder.tokens_of(frames[:, -1]),
        )
        return (engine or make_engine(agent)).imagine(start, horizon, seed)


class CommandModule(ModuleType):
    """A command's module that can be called as the function of its name here."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return globals()[self.__name__.rpartition(".")[2]](*arguments, **options)


def _checkpoint(path: FilePath) -> Path:
    """A path, or the place of a file of the Hub."""
    text = os.fspath(path)
    return fetched(text) if is_address(text) else user_path(text)


def _path(path: FilePath | None) -> Path | None:
    return None if path is None else user_path(os.fspath(path))


def _setting(key: str, value: Any) -> str:
    """An override as the command line has it."""
    if value is None:
        return f"{key}=null"
    if isinstance(value, (list, tuple)):
        return f"{key}=[{','.join(map(str, value))}]"
    return f"{key}={value}"
