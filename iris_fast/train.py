"""`python -m iris_fast.train --game Pong`: trains an agent, in a new folder or from where a run stopped."""

from __future__ import annotations

import sys

from iris_fast.command_line import CommandParser, checkpoint_argument, loading, path_argument, run_command
from iris_fast.front import CommandModule

EXAMPLES = """\
examples:
  python -m iris_fast.train --game Pong
  python -m iris_fast.train --game Catch --seed 1 --run-dir outputs/catch
  python -m iris_fast.train --game Breakout --preset small training.world_model.batch_num_samples=32
  python -m iris_fast.train --resume outputs/catch
  python -m iris_fast.train --resume outputs/catch common.epochs=60
  python -m iris_fast.train --game Pong --init last.pt --init-parts tokenizer,world_model

It ends with 0 when the run is complete, 130 after Ctrl-C and 143 after SIGTERM (both saved), 2 for input that
cannot be used, 3 when a loss diverged, 4 when the disk is full (in both cases the last checkpoint is whole).
"""

# Of all settings those that are most often taken for options; the rest is known after PyTorch's import alone.
SETTINGS = (
    *(
        "common.epochs",
        "common.threads",
        "common.precision",
        "common.engine",
        "env.backend",
        "evaluation.every",
    ),
    *("training.learning_rate", "training.tokenizer.learning_rate", "collection.train.config.num_steps"),
    *("collection.train.num_envs", "collection.train.config.epsilon", "collection.test.config.num_episodes"),
    *(f"training.{part}.batch_num_samples" for part in ("tokenizer", "world_model", "actor_critic")),
    *(f"training.{part}.steps_per_epoch" for part in ("tokenizer", "world_model", "actor_critic")),
    *("training.actor_critic.imagine_horizon", "tokenizer.perceptual", "tokenizer.vocab_size"),
)


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m iris_fast.train",
        description="Train an IRIS agent on an Atari game, or on Catch.\n"
        "Ctrl-C finishes the step, saves and exits.",
        epilog=EXAMPLES,
        settings=SETTINGS,
    )
    run = parser.add_argument_group("the run")
    run.add_argument("--game", help="plain name of the game: Pong, Breakout, Catch, … (see --list-games)")
    run.add_argument(
        "--preset",
        help="paper: the published agent, unchanged (default on a GPU); small: Atari on a CPU (default there); "
        "tiny: the smallest agent that learns (default for Catch)",
    )
    run.add_argument("--device", help="auto (default), cpu, cuda or cuda:N")
    run.add_argument("--seed", type=int, help="seed of all randomness (default 0)")
    run.add_argument(
        "--run-dir",
        type=path_argument,
        metavar="RUN",
        help="run folder to make (default outputs/GAME/DATE_TIME)",
    )
    run.add_argument("--resume", type=path_argument, metavar="RUN", help="continue the run in this folder")
    run.add_argument("--wandb", action="store_true", help="also log to Weights & Biases")
    run.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="configuration, for example common.epochs=100"
    )
    weights = parser.add_argument_group("weights to start from")
    weights.add_argument(
        "--init",
        type=checkpoint_argument,
        metavar="CHECKPOINT",
        help="a checkpoint or run folder, ours or the public implementation's, or hf://OWNER/NAME[/FILE]",
    )
    weights.add_argument(
        "--init-parts",
        metavar="PARTS",
        help="parts to load, separated by commas (default tokenizer,world_model,actor_critic)",
    )
    lists = parser.add_argument_group("lists")
    lists.add_argument("--list-games", action="store_true", help="print the games and exit")
    lists.add_argument(
        "--list-keys",
        action="store_true",
        help="print every configuration key with its type and value (for the given options; without --game and "
        "--preset, the paper's) and exit",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_intermixed_args(argv)
    if arguments.list_games:
        from iris_fast.envs.games import list_games

        print("\n".join(list_games()))
        return 0
    with loading("torch"):
        from iris_fast.training import launch

    if arguments.list_keys:
        print("\n".join(launch.key_lines(launch.listed_config(arguments))))
        return 0
    launch.train(arguments)
    return 0


sys.modules[__name__].__class__ = CommandModule

if __name__ == "__main__":
    sys.exit(run_command(main))
