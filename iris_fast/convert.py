"""`python -m iris_fast.convert SOURCE TARGET --to public|iris_fast`: a checkpoint in the other form."""

from __future__ import annotations

import sys

from iris_fast.command_line import CommandParser, file_argument, loading, path_argument, run_command


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m iris_fast.convert",
        description="Convert a checkpoint of an IRIS agent between iris_fast and the public implementation\n"
        "(eloialonso/iris). No code in the file is run.",
    )
    parser.add_argument(
        "source",
        type=path_argument,
        help="a checkpoint of either form, or a run folder (its checkpoints/last.pt)",
    )
    parser.add_argument(
        "target", type=file_argument(".pt", ".pth", ".ckpt", ".bin"), help="the file to write (.pt)"
    )
    parser.add_argument("--to", choices=("public", "iris_fast"), required=True, help="the form of TARGET")
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
    parser.add_argument("--force", action="store_true", help="replace TARGET when it exists")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    with loading("torch"):
        from iris_fast.interop.conversion import convert

    return convert(arguments)


if __name__ == "__main__":
    sys.exit(run_command(main))
