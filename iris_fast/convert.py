"""`python -m iris_fast.convert SOURCE TARGET --to public|iris_fast|pretrained`: a checkpoint in another form."""

from __future__ import annotations

import sys
from pathlib import Path

from iris_fast.command_line import CommandParser, checkpoint_argument, loading, path_argument, run_command
from iris_fast.errors import UserError
from iris_fast.files import check_ending
from iris_fast.hub import is_address

EXAMPLES = """\
examples:
  python -m iris_fast.convert outputs/Pong/2026-01-31_12-00-00 pong.pt --to public
  python -m iris_fast.convert hf://eloialonso/iris/pretrained_models/Pong.pt pong.pt --to iris_fast
  python -m iris_fast.convert outputs/catch hf://me/iris-catch --to pretrained --dtype float16
"""


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m iris_fast.convert",
        description="Convert a checkpoint of an IRIS agent between iris_fast and the public implementation\n"
        "(eloialonso/iris), or publish it with a model card. No code in the file is run.",
        epilog=EXAMPLES,
    )
    parser.add_argument(
        "source",
        type=checkpoint_argument,
        help="a checkpoint of either form, a run folder (its checkpoints/last.pt), or hf://OWNER/NAME[/FILE]",
    )
    parser.add_argument(
        "target",
        type=target_argument,
        help="the file to write (.pt); with --to pretrained a folder, or hf://OWNER/NAME to upload it",
    )
    parser.add_argument(
        "--to", choices=("public", "iris_fast", "pretrained"), required=True, help="the form of TARGET"
    )
    parser.add_argument(
        "--lpips",
        metavar="PATH|omit|download",
        help="where the perceptual network of TARGET comes from: PATH of an IRIS checkpoint or of the files "
        "of LPIPS (vgg16-397923af.pth with vgg.pth beside it, or their folder); download; or omit to leave "
        "it out. By default from SOURCE or, for --to public, else from ~/.cache/iris_fast or torch hub's "
        "folder: the public implementation loads a file without it only into a tokenizer built with "
        "with_lpips=False",
    )
    parser.add_argument(
        "--num-heads",
        type=int,
        metavar="N",
        help="attention heads of a public checkpoint, which its file does not give (default 4, the paper's)",
    )
    published = parser.add_argument_group("--to pretrained (extra hub)")
    published.add_argument("--game", help="the game, if SOURCE does not name it")
    published.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="of the weights (default float32)"
    )
    parser.add_argument("--force", action="store_true", help="replace TARGET when it exists")
    return parser


def target_argument(text: str) -> Path | str:
    """A path, or an address of the Hugging Face Hub as it is."""
    return text if is_address(text) else path_argument(text)


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.to == "pretrained":
        with loading("torch"):
            from iris_fast.training.publishing import publish

        return publish(arguments)
    for option in ("game", "dtype"):
        if getattr(arguments, option) != parser.get_default(option):
            raise UserError(f"--{option} goes with --to pretrained alone")
    if isinstance(arguments.target, str):
        raise UserError(f"{arguments.target}: uploading goes with --to pretrained")
    check_ending(arguments.target, (".pt", ".pth", ".ckpt", ".bin"))
    with loading("torch"):
        from iris_fast.interop.conversion import convert

    return convert(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
