"""`python -m iris_fast.sweep --games all --seeds 5`: trains and evaluates games × seeds, as many at once as fit."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec

from iris_fast.command_line import CommandParser, loading, path_argument, run_command
from iris_fast.errors import UserError
from iris_fast.train import SETTINGS

EXAMPLES = """\
examples:
  python -m iris_fast.sweep --games all --seeds 5 --preset paper --gpus-per-run 0.5
  python -m iris_fast.sweep --games Pong,Breakout --seeds 0,3 --preset small common.epochs=100 --dry-run
  python -m iris_fast.sweep --games all --address 10.0.0.1:6379 --output /shared/outputs/sweep
  python -m iris_fast.sweep --games all --preset paper --slurm sweep.sbatch

A run is the folder OUTPUT/GAME/seed_N; what it says goes to OUTPUT/logs. Runs that are done are skipped, others go
on from their folders. Ctrl-C stops every run at its next step, saved; the same command goes on later.

It ends with 0 when every run is done, 1 when one could not be finished, 130 after Ctrl-C and 143 after SIGTERM, 2 for
input that cannot be used.
"""


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m iris_fast.sweep",
        description="Train and evaluate games × seeds, as many runs at once as there is room for, on this machine\n"
        "or on a Ray cluster.",
        epilog=EXAMPLES,
        settings=SETTINGS,
    )
    runs = parser.add_argument_group("the runs")
    runs.add_argument(
        "--games",
        required=True,
        metavar="A,B",
        help="all (the 26 of Atari 100k), or names with commas between",
    )
    runs.add_argument(
        "--seeds", default="5", metavar="N", help="how many, from 0 on (default 5); or which: 0,3 or 5-9"
    )
    runs.add_argument(
        "--preset",
        help="as of `train`: paper, small or tiny (default by the game, and whether runs have a GPU)",
    )
    runs.add_argument(
        "--episodes",
        type=int,
        default=100,
        metavar="N",
        help="of each run's evaluation at its end (default 100)",
    )
    runs.add_argument(
        "--output",
        type=path_argument,
        default="outputs/sweep",
        metavar="FOLDER",
        help="folder of all runs, which all machines see under this path (default outputs/sweep)",
    )
    runs.add_argument("--wandb", action="store_true", help="also log to Weights & Biases")
    runs.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="configuration, as of `train`")
    where = parser.add_argument_group("where they run")
    where.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="a Ray cluster's, or auto for the one on this machine (default: RAY_ADDRESS, else a Ray of its own)",
    )
    where.add_argument(
        "--cpus-per-run",
        type=float,
        default=1.0,
        metavar="N",
        help="CPU cores, and threads, a run (default 1)",
    )
    where.add_argument(
        "--gpus-per-run",
        type=float,
        metavar="N",
        help="0, 1 or a share such as 0.5, two runs a GPU (default 1 if this machine has a GPU, else 0)",
    )
    where.add_argument(
        "--retries",
        type=int,
        default=3,
        metavar="N",
        help="attempts after a failed one, as long as none finishes another epoch (default 3)",
    )
    instead = parser.add_argument_group("instead of Ray").add_mutually_exclusive_group()
    instead.add_argument("--dry-run", action="store_true", help="print every run, its state and its commands")
    instead.add_argument(
        "--slurm", type=path_argument, metavar="FILE", help="write a script for `sbatch`, an array task a run"
    )
    instead.add_argument("--run", type=int, dest="number", metavar="N", help="do run N of the list alone")
    return parser


def check_ray(arguments: argparse.Namespace) -> None:
    """UserError where the sweep needs Ray and it is not installed."""
    if (
        find_spec("ray") is None
        and not arguments.dry_run
        and arguments.slurm is None
        and arguments.number is None
    ):
        raise UserError(
            "a sweep needs Ray: run `pip install 'iris_fast[sweep]'` (or give --slurm FILE, which needs none)"
        )


def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_intermixed_args(argv)
    check_ray(arguments)
    with loading("torch"):
        from iris_fast.sweep import launch

    return launch.sweep(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
