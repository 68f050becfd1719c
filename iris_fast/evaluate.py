"""`python -m iris_fast.evaluate RUN --episodes 100`: plays whole episodes with a trained agent."""

from __future__ import annotations

import sys
from functools import partial

from iris_fast.command_line import CommandParser, checkpoint_argument, file_argument, loading, run_command
from iris_fast.front import CommandModule

EXAMPLES = """\
examples:
  python -m iris_fast.evaluate outputs/Pong/2026-01-31_12-00-00
  python -m iris_fast.evaluate outputs/catch --episodes 20 --greedy --video catch.mp4
  python -m iris_fast.evaluate last.pt --game Breakout --json breakout.json
"""


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m iris_fast.evaluate",
        description="Play whole episodes with a trained agent, under the rules of the test environment: one\n"
        "no-op, no end at a lost life, 108,000 raw frames at most. The result is printed and saved in\n"
        "RUN/logs/evaluation.json, or beside it if that file has more episodes.",
        epilog=EXAMPLES,
    )
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
        "--episodes", type=int, default=100, metavar="N", help="number of episodes (default 100)"
    )
    parser.add_argument(
        "--envs",
        type=int,
        default=8,
        metavar="N",
        help="number of environments played at once (default 8, or the episodes)",
    )
    acting = parser.add_argument_group("how actions are chosen")
    acting.add_argument(
        "--temperature", type=float, metavar="T", help="temperature of the policy (default the run's, 0.5)"
    )
    acting.add_argument(
        "--epsilon",
        type=float,
        metavar="E",
        help="probability of a uniformly random action (default the run's, 0)",
    )
    acting.add_argument("--greedy", action="store_true", help="the likeliest action instead of a sampled one")
    acting.add_argument("--seed", type=int, default=0, help="seed of the games and the actions (default 0)")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument(
        "--video",
        type=file_argument(".mp4", without=False),
        metavar="FILE.mp4",
        help="save a video of the first episode to end",
    )
    parser.add_argument(
        "--json", type=file_argument(".json"), metavar="FILE", help="also write the result here"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    with loading("torch"):
        from iris_fast.training.final_evaluation import evaluate

    evaluate(arguments, say=partial(print, flush=True))
    return 0


sys.modules[__name__].__class__ = CommandModule

if __name__ == "__main__":
    sys.exit(run_command(main))
