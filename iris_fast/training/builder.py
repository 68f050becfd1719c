"""From a configuration to a trainer: device, perceptual weights, environments, agent, initial weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from iris_fast.agent import PARTS, Agent
from iris_fast.config import Config, resolve, to_dict, validate
from iris_fast.config.schema import memory_bytes
from iris_fast.envs import make_vector_env
from iris_fast.envs.factory import is_available
from iris_fast.envs.interface import FrameVectorEnv
from iris_fast.errors import RunStopped, UserError
from iris_fast.imagination.engine import ImaginationEngine
from iris_fast.imagination.factory import engine_of
from iris_fast.imagination.randomness import derive_seed
from iris_fast.interop.files import Weights, check_fits, lpips_weights, read_weights
from iris_fast.interop.lpips_files import find_lpips
from iris_fast.kernels.common.extension import find_extension
from iris_fast.models.perceptual import LPIPS
from iris_fast.replay.store import EpisodeStore

from .checkpoint import explained_disk_errors, load_checkpoint
from .collector import saved_backend
from .estimate import estimate_seconds_per_unit
from .loggers import MetricLogger
from .precision import apply_precision, check_precision
from .provenance import add_provenance
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
        last = torch.cuda.device_count() - 1
        raise UserError(f"--device {requested}: this machine has cuda:0 to cuda:{last}")
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
    agent: Agent, config: Config, carried: Mapping[str, torch.Tensor] | None, say: Say
) -> Config:
    """Gives the tokenizer the perceptual network its loss needs.

    It is that of `carried`, the state dict of a checkpoint, or comes from files, downloaded if need be.
    Returns the configuration as it is: with `tokenizer.perceptual=none` when the weights are absent.
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


def perceptual_announcement(wanted: str, used: str) -> str:
    """What a run says about its perceptual loss, once: which it is, and that it is not the paper's."""
    if used == "lpips":
        return "lpips, the paper's"
    if used == "foreground":
        return (
            "foreground, a substitute for the paper's LPIPS that needs no download and gives what moves "
            "more weight (the paper's: tokenizer.perceptual=lpips)"
        )
    if used == "objects":
        return (
            "objects, a substitute for the paper's LPIPS that needs no download and gives each thing that moves "
            "the same weight, however small (the paper's: tokenizer.perceptual=lpips)"
        )
    if wanted == "none":
        return "none, where the paper has LPIPS (tokenizer.perceptual=lpips)"
    return (
        "none, since the weights of the paper's (VGG-16 and LPIPS) are not on this machine: small moving "
        "objects may vanish from reconstructions (give the weights by initialization.lpips_weights=FILE, or "
        "choose what the preset small has, which needs none: tokenizer.perceptual=objects "
        "tokenizer.perceptual_weight=15 tokenizer.background=true tokenizer.restart_codes_every=10 "
        "tokenizer.restart_codes_at=far)"
    )


def steps_announcement(config: Config) -> str:
    """What a run on a GPU says about how its gradient steps are launched."""
    if config.training.cuda_graphs and config.common.precision != "fp16":
        return (
            "captured as CUDA graphs before the first epoch, once their kernels are compiled "
            "(training.cuda_graphs=false: one by one)"
        )
    if config.training.cuda_graphs:
        return "launched one by one, since fp16's are not captured (common.precision=bf16 has its steps captured)"
    return "launched one by one (training.cuda_graphs=false)"


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


def load_initial_weights(agent: Agent, config: Config) -> Weights | None:
    """Loads the chosen parts of the checkpoint that the run starts from, of either kind."""
    parts, path = initial_parts(config), config.initialization.path_to_checkpoint
    if path is None:
        return None
    weights = read_weights(Path(path))
    check_fits(weights, agent, parts)
    agent.load_parts(weights.state_dict, parts)
    return weights


def check_replay(config: Config, already_filled: bool) -> None:
    """UserError when there could be no frame to train on."""
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


def check_wandb(config: Config) -> None:
    """UserError when Weights & Biases is asked for and not installed."""
    if config.wandb.mode != "disabled" and find_spec("wandb") is None:
        raise UserError("wandb is not installed: pip install 'iris_fast[wandb]', or run without --wandb")


def make_train_env(config: Config) -> FrameVectorEnv:
    seed = derive_seed(config.common.seed, "environment") % 2**31
    num_envs = config.collection.train.num_envs
    return make_vector_env(
        config.game, config.env.train, num_envs=num_envs, seed=seed, backend=config.env.backend
    )


def _check_unfinished(content: Mapping[str, Any], config: Config, run: RunFolder) -> None:
    """Ends a run that is complete with a sentence and 0, before anything of it is built or changed."""
    epochs, done = config.common.epochs, content["position"]["epoch"] - 1
    if epochs < done:
        raise UserError(
            f"common.epochs={epochs}: the run in {run.path} has done {done} already; give more to go on"
        )
    if epochs == done:
        run.unlock()
        raise RunStopped(
            f"the run in {run.path} is complete ({epochs} epochs): to go on, add common.epochs={2 * epochs}",
            0,
        )


def _with_saved_backend(config: Config, content: Mapping[str, Any] | None) -> Config:
    """With env.backend=auto, a run goes on with the backend it began with, wherever that is still installed."""
    if content is None or config.env.backend != "auto":
        return config
    backend = saved_backend(content["collector"])
    if not is_available(backend):
        return config
    return replace(config, env=replace(config.env, backend=cast(Any, backend)))


def _cut_announcement(saved: str, backend: str) -> str:
    """What a resumed run says when its environments begin anew."""
    why = (
        f"{saved} cannot be restored"
        if backend == saved
        else f"the run's were {saved}'s, which {backend} cannot take up"
    )
    return f"environments: {why}, so the episodes under way were cut"


def build_trainer(config: Config, device: torch.device, run: RunFolder, resume: bool, say: Say) -> Trainer:
    """A trainer in its run folder, which stays this process's; free again when it is refused.

    What bad input can break comes first, before anything is written.
    """
    try:
        return _build_trainer(config, device, run, resume, say)
    except BaseException:
        run.unlock()
        raise


def _build_trainer(config: Config, device: torch.device, run: RunFolder, resume: bool, say: Say) -> Trainer:
    if resume:
        run.lock()
        run.remove_partials()
    content = load_checkpoint(run) if resume and run.checkpoint.is_file() else None
    if content is not None:
        _check_unfinished(content, config, run)
    check_replay(config, already_filled=content is not None)
    check_wandb(config)
    env = make_train_env(_with_saved_backend(config, content))
    num_actions = int(env.single_action_space.n)  # type: ignore[attr-defined]
    torch.manual_seed(derive_seed(config.common.seed, "initialisation"))
    agent = Agent(config.agent, num_actions).to(device)
    weights = load_initial_weights(agent, config) if content is None else None
    carried = content["agent"] if content is not None else weights.state_dict if weights is not None else None
    wanted = config.tokenizer.perceptual
    config = attach_perceptual(agent, config, carried, say)
    engine = engine_of(agent, config.common)
    with _written(run), nullcontext() if resume else run.creating(config):
        frames = sum(content["dataset"]["written"].values()) if content is not None else 0
        trainer = _assemble(config, agent, env, engine, run, frames)
        restored = content is None or trainer.load(content)
        if resume and content is None:
            trainer.logger.truncate_after(0)
        if resume:
            run.write_config(config)  # a later resume goes on with this one's overrides
        add_provenance(run.provenance, device, trainer.position.epoch)
    if run.lock_missing:
        say(
            f"lock: the file system of {run.path} has none ({run.lock_missing}), so take care that no other "
            "process trains there"
        )
    say(
        f"game: {config.game} ({env.backend}, {num_actions} actions), preset: {config.preset}, "
        f"device: {device}, precision: {config.common.precision}, "
        f"imagination: {trainer.engine.name}, seed: {config.common.seed}"
    )
    if device.type == "cuda":
        say(f"gradient steps: {steps_announcement(config)}")
    if config.training.should:
        say(f"perceptual loss: {perceptual_announcement(wanted, config.tokenizer.perceptual)}")
        if config.tokenizer.background:
            say(
                "tokenizer: sees and makes the difference to the median of the first frames, unlike the paper's "
                "(which is tokenizer.background=false)"
            )
    if weights is not None:
        say(f"weights: {', '.join(initial_parts(config))} from {weights.path}")
    if resume and content is None:
        say(f"checkpoint: none was written yet in {run.path}, so the run begins anew")
    if content is not None and not restored:
        say(_cut_announcement(saved_backend(content["collector"]), env.backend))
    trainer.priors = estimate_seconds_per_unit(trainer)
    return trainer


@contextmanager
def _written(run: RunFolder) -> Iterator[None]:
    """Says in a sentence why the run folder could not be written."""
    try:
        with explained_disk_errors(run):
            yield
    except OSError as error:
        raise UserError(
            f"{run.path} cannot be written ({error.strerror}): choose another --run-dir, or mend this one"
        ) from error


def _assemble(
    config: Config,
    agent: Agent,
    env: FrameVectorEnv,
    engine: ImaginationEngine,
    run: RunFolder,
    frames_saved: int,
) -> Trainer:
    wandb = to_dict(config.wandb) if config.wandb.mode != "disabled" else None
    logger = MetricLogger(
        run.path, tensorboard=config.logging.tensorboard, wandb=wandb, run_config=to_dict(config)
    )
    return Trainer(
        config,
        agent,
        env,
        engine,
        run,
        logger,
        frames_saved=frames_saved,
    )
