"""`python -m iris_fast.results [RUN ...]`: scores on Atari 100k, of published methods and of runs."""

from __future__ import annotations

import sys

from iris_fast.command_line import CommandParser, loading, path_argument, run_command
from iris_fast.files import explained_writing, write_atomically

from .statistics import rliable
from .summary import DEFAULT_METHODS, DEFAULT_NAME, DEFAULT_REPS, DEFAULT_SEED, summarize
from .tables import FORMATS, tables

EXAMPLES = """\
examples:
  python -m iris_fast.results
  python -m iris_fast.results outputs/Pong/* outputs/Breakout/* --name ours --output results
  python -m iris_fast.results --methods IRIS,DIAMOND,Simulus --format latex
"""


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m iris_fast.results",
        description="Print and draw scores on Atari 100k, of published methods and of runs: mean, median, IQM and\n"
        "optimality gap with 95 % stratified bootstrap intervals, superhuman games, the probability of\n"
        "improvement, and a table a game. All methods are compared on the games that the runs have.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "runs",
        type=path_argument,
        metavar="RUN",
        nargs="*",
        help="folder of a run that `evaluate` has played (logs/evaluation.json); several of a game are its seeds",
    )
    parser.add_argument(
        "--name", default=DEFAULT_NAME, help=f"what the runs are called (default '{DEFAULT_NAME}')"
    )
    parser.add_argument(
        "--methods",
        metavar="A,B",
        default=",".join(DEFAULT_METHODS),
        help=f"published methods, with commas between (default {','.join(DEFAULT_METHODS)}; "
        "also MuZero, EfficientZero)",
    )
    parser.add_argument(
        "--format", choices=list(FORMATS), default="markdown", help="of the tables (default markdown)"
    )
    parser.add_argument(
        "--output",
        type=path_argument,
        metavar="FOLDER",
        help="also write the tables, in the format, and the figures, as PNG, into this folder",
    )
    parser.add_argument(
        "--reps",
        type=int,
        metavar="N",
        default=DEFAULT_REPS,
        help=f"bootstrap resamples (default {DEFAULT_REPS})",
    )
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_SEED, help="seed of the resamples (default 0): the same intervals"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    with loading("rliable"):
        rliable()
    summary = summarize(
        arguments.runs,
        methods=[name for name in arguments.methods.split(",") if name.strip()],
        name=arguments.name,
        reps=arguments.reps,
        seed=arguments.seed,
        show=False,
    )
    for note in summary.notes:
        print(note, file=sys.stderr)
    made = tables(summary, arguments.format)
    print("\n\n".join(made.values()), flush=True)
    if arguments.output is not None:
        for name, text in made.items():
            path = arguments.output / f"{name}{FORMATS[arguments.format]}"
            with explained_writing(path, "choose another folder with --output"):
                write_atomically(path, f"{text}\n".encode())
            print(f"wrote {path}", file=sys.stderr)
        from .figures import draw

        for path in draw(summary, arguments.output):
            print(f"wrote {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
