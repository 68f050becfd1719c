"""`python -m iris_fast.play RUN`: watch an agent and play, in the browser."""

from __future__ import annotations

import sys

from iris_fast.command_line import CommandParser, checkpoint_argument, file_argument, loading, run_command

DESCRIPTION = """\
Watch a trained agent in its game and in its dream, and play there yourself, in the browser. The
page is served on this machine alone and its address is printed. From another machine, open a
tunnel, then the printed address:
  ssh -L 8000:127.0.0.1:8000 MACHINE"""

EXAMPLES = """\
examples:
  python -m iris_fast.play outputs/catch
  python -m iris_fast.play outputs/catch --mode fork -r
  python -m iris_fast.play outputs/catch --mode dream --steps 500 --record dream.mp4 --record dream.npz
  python -m iris_fast.play last.pt --game Breakout --port 9000 --no-browser
"""


def make_parser() -> CommandParser:
    parser = CommandParser(prog="python -m iris_fast.play", description=DESCRIPTION, epilog=EXAMPLES)
    parser.add_argument(
        "run",
        type=checkpoint_argument,
        metavar="RUN",
        help="a run folder, a checkpoint of ours or of the public implementation, or hf://OWNER/NAME[/FILE]",
    )
    parser.add_argument("--game", help="the game, if the checkpoint does not name it")
    parser.add_argument(
        "--num-heads",
        type=int,
        metavar="N",
        help="attention heads of a public checkpoint, which its file does not give (default 4, the paper's)",
    )
    parser.add_argument(
        "--mode",
        choices=("real", "dream", "fork", "episodes"),
        default="real",
        help="begin in the game (real, the default), in the dream, in both side by side (fork), or with the\n"
        "run's films (episodes)",
    )
    parser.add_argument(
        "--controls", choices=("agent", "person"), default="agent", help="who plays (default agent)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of games, dreams and actions (default 0)")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="temperature of the policy (default the run's in tests, 0.5)",
    )
    parser.add_argument(
        "-r", "--panels", action="store_true", help="also show the emulator's screen and the reconstruction"
    )
    parser.add_argument(
        "-s", "--save", action="store_true", help="ask after each episode whether to keep a recording of it"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    page = parser.add_argument_group("the page")
    page.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to serve on (default 127.0.0.1, this machine alone); with another, the printed address\n"
        "carries a token that every page needs",
    )
    page.add_argument("--port", type=int, default=8000, help="port, or the next free one (default 8000)")
    page.add_argument("--no-browser", action="store_true", help="do not open the page here")
    film = parser.add_argument_group("without a page")
    film.add_argument(
        "--record",
        type=file_argument(".mp4", ".gif", ".npz", without=False),
        action="append",
        metavar="FILE",
        help="play without a page, faster than the game runs, and save a film (.mp4 or .gif) or the frames\n"
        "with actions, rewards, ends, tokens and values (.npz); may be given several times",
    )
    film.add_argument("--steps", type=int, metavar="N", help="steps that --record plays (default 500)")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    with loading("torch"):
        from .command import play

    return play(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
