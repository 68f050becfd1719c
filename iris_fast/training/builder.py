"""Builds a trainer from a configuration: environments, agent, initial and perceptual weights, run folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from iris_fast.agent import Agent
from iris_fast.config import Config
from iris_fast.envs import make_vector_env
from iris_fast.envs.factory import is_available
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.errors import UserError
from iris_fast.interop.files import Weights, check_fits, lpips_weights, read_weights
from iris_fast.interop.lpips_files import find_lpips
from iris_fast.models.perceptual import LPIPS
from iris_fast.randomness import derive_seed
from iris_fast.training.device import engine_of

from .announcements import announced_start
from .checkpoint import explained_disk_errors, load_checkpoint
from .checks import check_run, initial_parts
from .collector import saved_backend
from .distributed import ALONE, Group
from .estimate import estimate_seconds_per_unit
from .provenance import add_provenance
from .run_folder import RunFolder
from .trainer import Trainer

Say = Callable[[str], None]


def attach_perceptual(
    agent: Agent, config: Config, carried: Mapping[str, torch.Tensor] | None, say: Say
) -> Config:
    """Gives the tokenizer the perceptual network its loss needs.

    It comes from `carried`, the state dict of a checkpoint, or from files, which are downloaded if necessary.
    Returns the resulting configuration, with `tokenizer.perceptual=none` if the weights are absent.
    """
    if config.tokenizer.perceptual != "lpips" or not config.training.should:
        return config
    weights = lpips_weights(carried) if carried is not None else None
    if weights is not None:
        lpips: LPIPS | None = LPIPS()
        lpips.load_state_dict(weights)  # type: ignore[union-attr]
    else:
        explicit = config.initialization.lpips_weights
        lpips = find_lpips(Path(explicit) if explicit else None, allow_download=explicit is None, say=say)
    if lpips is not None:
        agent.tokenizer.attach_lpips(lpips.to(agent.device).requires_grad_(False))
        return config
    tokenizer = replace(config.tokenizer, perceptual="none")
    agent.tokenizer.config = tokenizer
    return replace(config, tokenizer=tokenizer)


def build_trainer(
    config: Config, device: torch.device, run: RunFolder, resume: bool, say: Say, group: Group = ALONE
) -> Trainer:
    """A trainer in its run folder, locked for this process; a refused run releases the lock.

    Bad input is refused first, before anything is written. Of several processes the first alone reads and writes
    files.
    """
    with ExitStack() as refused:
        refused.callback(run.unlock)
        content = group.from_first(lambda: _resumed_content(run) if resume else None)
        check_run(config, run, content)
        env = make_train_env(config, content)
        agent, weights = make_agent(config, device, env, fresh=content is None and group.first)
        carried = weights.state_dict if weights is not None else content and content["agent"]
        found = group.from_first(lambda: attach_perceptual(agent, config, carried, say))
        if group.size > 1:
            share_weights(agent, found, group)
        with _written(run), run.creating(found) if group.first and not resume else nullcontext():
            frames = 0 if content is None else sum(content["dataset"]["written"].values())
            run.path = group.from_first(lambda: run.path)  # under the name that it got
            trainer = Trainer(found, agent, env, engine_of(agent, found.common), run, frames, group)
            restored = content is None or trainer.load(content)
            if group.first:
                if resume:
                    run.write_config(found)  # so that a later resume keeps these overrides
                    if content is None:
                        trainer.logger.truncate_after(0)
                add_provenance(run.provenance, device, trainer.position.epoch, group.size)
        backend_before = saved_backend(content["collector"]) if content is not None and not restored else None
        started_from = None if weights is None else weights.path
        begins_anew = resume and content is None
        for line in announced_start(trainer, config, started_from, begins_anew, backend_before):
            say(line)
        trainer.priors = estimate_seconds_per_unit(trainer)
        refused.pop_all()
    return trainer


def share_weights(agent: Agent, found: Config, group: Group) -> None:
    """Gives the agents of the other processes the first one's weights, and the perceptual network of `found`."""
    if not group.first:
        agent.tokenizer.config = found.tokenizer
        if found.tokenizer.perceptual == "lpips" and found.training.should:
            agent.tokenizer.attach_lpips(LPIPS().to(agent.device))
    group.copy_from_first([*agent.parameters(), *agent.buffers()])
    agent.weights_changed(in_place=True)


def _resumed_content(run: RunFolder) -> dict[str, Any] | None:
    """The checkpoint of a run to resume, whose folder is locked from here on; None if it has none yet."""
    run.lock()
    run.remove_partials()
    return load_checkpoint(run) if run.checkpoint.is_file() else None


def make_train_env(config: Config, content: Mapping[str, Any] | None) -> FrameVectorEnv:
    """The training environments.

    With env.backend=auto, a resumed run keeps its first backend if that is still installed.
    """
    backend = config.env.backend
    if content is not None and backend == "auto":
        saved = saved_backend(content["collector"])
        backend = cast(Any, saved) if is_available(saved) else backend
    seed = derive_seed(config.common.seed, "environment") % 2**31
    num_envs = config.collection.train.num_envs
    return make_vector_env(config.game, config.env.train, num_envs=num_envs, seed=seed, backend=backend)


def make_agent(
    config: Config, device: torch.device, env: FrameVectorEnv, fresh: bool
) -> tuple[Agent, Weights | None]:
    """The agent, and the initial weights of a `fresh` run, with the chosen parts loaded."""
    torch.manual_seed(derive_seed(config.common.seed, "initialisation"))
    agent = Agent(config.agent, int(env.single_action_space.n)).to(device)  # type: ignore[attr-defined]
    parts, path = initial_parts(config), config.initialization.path_to_checkpoint
    if not fresh or path is None:
        return agent, None
    weights = read_weights(Path(path))
    check_fits(weights, agent, parts)
    agent.load_parts(weights.state_dict, parts)
    return agent, weights


@contextmanager
def _written(run: RunFolder) -> Iterator[None]:
    """Turns an error of writing the run folder into one sentence."""
    try:
        with explained_disk_errors(run):
            yield
    except OSError as error:
        raise UserError(
            f"{run.path} cannot be written ({error.strerror}): choose another --run-dir, or repair this one"
        ) from error
