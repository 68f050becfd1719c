"""From a configuration to a trainer: device, perceptual weights, environments, agent, initial weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from iris_fast.agent import PARTS, Agent
from iris_fast.config import Config, resolve, to_dict, validate
from iris_fast.envs import make_vector_env
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.errors import UserError
from iris_fast.imagination.engine import ImaginationEngine
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.imagination.randomness import derive_seed
from iris_fast.interop.files import Weights, check_fits, lpips_weights, read_weights
from iris_fast.interop.lpips_files import find_lpips
from iris_fast.kernels._extension import find_extension
from iris_fast.models.perceptual import LPIPS

from .estimate import estimate_seconds_per_unit
from .loggers import MetricLogger
from .precision import apply_precision, check_precision
from .run_folder import RunFolder
from .trainer import Trainer

Say = Callable[[str], None]


def choose_device(requested: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:N`; UserError when it is not there."""
    if requested == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(requested)
    except RuntimeError:
        raise UserError(f"--device {requested}: choose auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {requested}: iris_fast runs on cpu and cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"--device {requested}: this machine, or this build of PyTorch, has no CUDA; use --device cpu"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {requested}: there are {torch.cuda.device_count()} CUDA devices")
    return device


def choose_preset(game: str, device: torch.device) -> str:
    """The preset for a game and a device when none is named: the paper's where there is a GPU."""
    if game == "Catch":
        return "tiny"
    return "paper" if device.type == "cuda" else "small"


def prepare(config: Config) -> tuple[Config, torch.device]:
    """The configuration checked and complete, and the device, set up for its precision and threads."""
    validate(config)
    device = choose_device(config.common.device)
    check_precision(config.common.precision, device)
    apply_precision(config.common.precision)
    if config.common.threads:
        torch.set_num_threads(config.common.threads)
    extension = find_extension()
    if device.type == "cpu" and extension is not None:
        extension.keep_large_blocks()  # else PyTorch spends up to half its time in page faults
    return resolve(config), device


def attach_perceptual(
    agent: Agent, config: Config, initial: Mapping[str, torch.Tensor] | None, say: Say
) -> Config:
    """Gives the tokenizer the perceptual network its loss needs; where it is not to be had, says so once.

    Returns the configuration as it is: with `tokenizer.perceptual=none` when the weights are absent.
    """
    if config.tokenizer.perceptual != "lpips" or not config.training.should:
        return config
    carried = lpips_weights(initial) if initial is not None else None
    if carried is not None:
        lpips: LPIPS | None = LPIPS()
        lpips.load_state_dict(carried)  # type: ignore[union-attr]
    else:
        explicit = config.initialization.lpips_weights
        lpips = find_lpips(Path(explicit) if explicit else None, allow_download=explicit is None, say=say)
    if lpips is not None:
        agent.tokenizer.attach_lpips(lpips.to(agent.device).requires_grad_(False))
        return config
    say(
        "perceptual loss: off, since its VGG-16 and LPIPS weights are not on this machine; small moving objects may "
        "vanish from reconstructions (give the weights by initialization.lpips_weights=FILE, or choose "
        "tokenizer.perceptual=foreground, which needs none)"
    )
    tokenizer = replace(config.tokenizer, perceptual="none")
    agent.tokenizer.config = tokenizer
    return replace(config, tokenizer=tokenizer)


def initial_parts(config: Config) -> tuple[str, ...]:
    """The parts to load from `initialization.path_to_checkpoint`."""
    return tuple(part for part in PARTS if getattr(config.initialization, f"load_{part}"))


def load_initial_weights(agent: Agent, config: Config, say: Say) -> Weights | None:
    """Loads the chosen parts of the checkpoint that the run starts from, of either kind."""
    path, parts = config.initialization.path_to_checkpoint, initial_parts(config)
    if path is None or not parts:
        return None
    weights = read_weights(Path(path))
    check_fits(weights, agent, parts)
    agent.load_parts(weights.state_dict, parts)
    say(f"weights: {', '.join(parts)} from {path}")
    return weights


def make_train_env(config: Config) -> FrameVectorEnv:
    seed = derive_seed(config.common.seed, "environment") % 2**31
    num_envs = config.collection.train.num_envs
    return make_vector_env(
        config.game, config.env.train, num_envs=num_envs, seed=seed, backend=config.env.backend
    )


def make_engine(agent: Agent) -> ImaginationEngine:
    """The imagination engine for the agent's device."""
    return OracleEngine(agent)


def build_trainer(config: Config, device: torch.device, run: RunFolder, resume: bool, say: Say) -> Trainer:
    """A trainer in its run folder, which is made, with its configuration, after everything else has worked."""
    from .checkpoint import load_checkpoint

    content = load_checkpoint(run) if resume and run.checkpoint.is_file() else None
    env = make_train_env(config)
    num_actions = int(env.single_action_space.n)  # type: ignore[attr-defined]
    torch.manual_seed(derive_seed(config.common.seed, "initialisation"))
    agent = Agent(config.agent, num_actions).to(device)
    weights = load_initial_weights(agent, config, say) if content is None else None
    carried = content["agent"] if content is not None else weights.state_dict if weights is not None else None
    config = attach_perceptual(agent, config, carried, say)
    engine = make_engine(agent)
    priors = estimate_seconds_per_unit(agent, engine, config, env.num_envs)
    if not resume:
        run.create(config)
    wandb = to_dict(config.wandb) if config.wandb.mode != "disabled" else None
    logger = MetricLogger(
        run.path, tensorboard=config.logging.tensorboard, wandb=wandb, run_config=to_dict(config)
    )
    trainer = Trainer(config, agent, env, engine, run, logger, priors)
    if content is not None and not trainer.load(content):
        say(
            f"environments: {env.backend} cannot be restored, so the episodes under way were cut and new ones begun"
        )
    return trainer
