"""`python -m iris_fast.plot RUN [RUN ...]`: the learning curve and the losses of runs, as pictures."""

from __future__ import annotations

import sys
from pathlib import Path

from iris_fast.command_line import CommandParser, file_argument, loading, path_argument, run_command
from iris_fast.errors import UserError
from iris_fast.training.curves import PICTURE_ENDINGS, load_run


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m iris_fast.plot",
        description="Draws the learning curve (returns against environment steps) and the losses of a run, and the\n"
        "metrics that say which part is the bottleneck.\n"
        "Several runs of one game are drawn as their mean and range, with a thin line for each.",
    )
    parser.add_argument("runs", type=path_argument, metavar="RUN", nargs="+", help="folder of a run")
    parser.add_argument(
        "--out",
        type=picture_place,
        help="a folder for the pictures, or one file (.png, .pdf, .svg) for all of them "
        "(default: RUN/media/plots, or the current folder when there are several runs)",
    )
    parser.add_argument(
        "--smooth",
        type=int,
        metavar="N",
        help="draw running means over N points (default: a fiftieth of the points; 1: no smoothing)",
    )
    parser.add_argument(
        "--against",
        choices=("env_steps", "minutes"),
        default="env_steps",
        help="horizontal axis of the learning curve: steps in the game (default), or minutes of training",
    )
    return parser


def picture_place(text: str) -> Path:
    """The folder or the picture file that `--out` names."""
    path = path_argument(text)
    return path if path.is_dir() or text.endswith("/") else file_argument(*PICTURE_ENDINGS)(text)


def main(argv: list[str] | None = None) -> int:
    """Draws the pictures and prints where they are."""
    arguments = make_parser().parse_args(argv)
    if arguments.smooth is not None and arguments.smooth < 1:
        raise UserError(
            f"--smooth {arguments.smooth} is not a number of points: give 1 (no smoothing) or more"
        )
    runs = [load_run(folder) for folder in arguments.runs]
    with loading("matplotlib"):
        from iris_fast.training.plots import draw_runs

    for path in draw_runs(runs, out=arguments.out, smooth=arguments.smooth, against=arguments.against):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
