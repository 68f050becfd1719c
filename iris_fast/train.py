"""`python -m iris_fast.train --game Pong`: trains an agent, from an empty folder or from where a run stopped."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from iris_fast.agent import PARTS
from iris_fast.config import PRESETS, Config, apply_overrides, config_keys, preset_config, resolve
from iris_fast.envs import choose_backend, list_games, resolve_game
from iris_fast.errors import UserError, nearest, run_command
from iris_fast.training.builder import build_trainer, choose_device, choose_preset, prepare
from iris_fast.training.estimate import estimated_run_time
from iris_fast.training.run_folder import RunFolder

EXAMPLES = """\
examples:
  python -m iris_fast.train --game Pong
  python -m iris_fast.train --game Catch --seed 1 --run-dir outputs/catch
  python -m iris_fast.train --game Breakout --preset small training.world_model.batch_num_samples=32
  python -m iris_fast.train --resume outputs/catch
  python -m iris_fast.train --game Pong --init last.pt --init-parts tokenizer,world_model
"""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m iris_fast.train",
        description="Train an IRIS agent on an Atari game, or on Catch. Ctrl-C finishes the step, saves and exits.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--game", help="plain name of the game: Pong, Breakout, Catch, … (see --list-games)")
    parser.add_argument(
        "--preset",
        help="paper: the published agent, unchanged (chosen on a GPU); small: Atari on a CPU; "
        "tiny: the smallest that learns (chosen for Catch)",
    )
    parser.add_argument("--device", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, help="seed of everything random (default 0)")
    parser.add_argument("--run-dir", type=Path, help="run folder to make (default outputs/GAME/DATE_TIME)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with the run in this folder")
    parser.add_argument(
        "--init", metavar="CHECKPOINT", help="start from these weights: ours or the public implementation's"
    )
    parser.add_argument(
        "--init-parts",
        metavar="PARTS",
        help=f"which to load, separated by commas (default {','.join(PARTS)})",
    )
    parser.add_argument("--wandb", action="store_true", help="log to Weights & Biases as well")
    parser.add_argument("--list-games", action="store_true", help="print the games and exit")
    parser.add_argument("--list-keys", action="store_true", help="print every configuration key and exit")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="configuration, for example common.epochs=100"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_intermixed_args(argv)
    if arguments.list_games:
        print("\n".join(list_games()))
        return 0
    if arguments.list_keys:
        print("\n".join(f"{key}: {getattr(hint, '__name__', hint)}" for key, hint in config_keys().items()))
        return 0
    config, run = _resumed(arguments) if arguments.resume else _fresh(arguments)
    config, device = prepare(config)
    backend = choose_backend(config.game, config.env.backend)
    _say(
        f"game: {config.game} ({backend}), preset: {config.preset}, device: {device}, seed: {config.common.seed}"
    )
    _say(f"precision: {config.common.precision}, perceptual loss: {config.tokenizer.perceptual}")
    trainer = build_trainer(config, device, run, resume=bool(arguments.resume), say=_say)
    epoch = trainer.position.epoch
    time_left = estimated_run_time(trainer.config, epoch, trainer.priors)
    _say(
        f"run folder: {run.path}, epochs {epoch} to {config.common.epochs}, about {time_left} (a rough estimate)"
    )
    try:
        trainer.run()
    finally:
        trainer.logger.close()
        trainer.env.close()
    _say(f"done: {run.path}; python -m iris_fast.evaluate {run.path} --episodes 100")
    return 0


def _fresh(arguments: argparse.Namespace) -> tuple[Config, RunFolder]:
    """The configuration of a new run and its folder, not yet made."""
    if arguments.game is None:
        raise UserError("name a game, for example --game Pong (--list-games shows all)")
    game = resolve_game(arguments.game)
    device = arguments.device or "auto"
    preset = arguments.preset or choose_preset(game, choose_device(device))
    if preset not in PRESETS:
        raise UserError(
            f"there is no preset '{preset}'{nearest(preset, list(PRESETS))}: choose {', '.join(PRESETS)}"
        )
    config = preset_config(preset, game)
    config = replace(config, common=replace(config.common, device=device))
    config = _apply_options(config, arguments)
    run = RunFolder(arguments.run_dir) if arguments.run_dir else RunFolder.default(game)
    run.check_new()
    return config, run


def _resumed(arguments: argparse.Namespace) -> tuple[Config, RunFolder]:
    """The configuration of the run to go on with; what would make it another run is refused."""
    for option in ("run_dir", "init", "init_parts", "preset"):
        if getattr(arguments, option) is not None:
            raise UserError(
                f"--{option.replace('_', '-')} does not go with --resume: the run folder has its own"
            )
    run = RunFolder(arguments.resume)
    saved = run.read_config()
    if arguments.game is not None and resolve_game(arguments.game) != saved.game:
        raise UserError(f"--game {arguments.game}: the run in {run.path} plays {saved.game}")
    config = saved
    if arguments.device:
        config = replace(config, common=replace(config.common, device=arguments.device))
    config = _apply_options(config, arguments)
    if resolve(config).agent != resolve(saved).agent:
        raise UserError(
            f"an override changes the architecture of the run in {run.path}: start a new run for other sizes"
        )
    for key in ("train", "test"):
        if getattr(config.env, key) != getattr(saved.env, key):
            raise UserError(f"an override changes env.{key} of the run in {run.path}: start a new run for it")
    if config.collection.train.num_envs != saved.collection.train.num_envs:
        raise UserError(
            f"collection.train.num_envs of the run in {run.path} cannot change: start a new run for it"
        )
    return config, run


def _apply_options(config: Config, arguments: argparse.Namespace) -> Config:
    config = apply_overrides(config, arguments.overrides)
    if arguments.seed is not None:
        config = replace(config, common=replace(config.common, seed=arguments.seed))
    if arguments.wandb:
        config = replace(config, wandb=replace(config.wandb, mode="online"))
    if arguments.init_parts and not arguments.init:
        raise UserError("--init-parts says what to load from --init CHECKPOINT, which is missing")
    if arguments.init:
        parts = (arguments.init_parts or ",".join(PARTS)).split(",")
        for part in parts:
            if part not in PARTS:
                raise UserError(f"--init-parts {part}: choose from {', '.join(PARTS)}")
        initialization = replace(
            config.initialization,
            path_to_checkpoint=str(arguments.init),
            load_tokenizer="tokenizer" in parts,
            load_world_model="world_model" in parts,
            load_actor_critic="actor_critic" in parts,
        )
        config = replace(config, initialization=initialization)
    return config


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
