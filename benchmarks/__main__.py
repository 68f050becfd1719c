"""`python -m benchmarks`: runs the cases and writes their measurements."""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, which take seconds
    from iris_fast.terminal import end_at_interrupt

    end_at_interrupt()

import argparse
import fnmatch
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from iris_fast.command_line import CommandParser, path_argument, run_command
from iris_fast.errors import UserError, nearest

from . import cases  # noqa: F401  (registers the cases)
from .plan import Plan
from .record import Circumstances, Record, checkout_version
from .registry import CASES, FIRST, Run
from .report.page import projection_table
from .report.tables import text_of
from .systems.client import Systems


def make_parser() -> CommandParser:
    parser = CommandParser(
        prog="python -m benchmarks",
        description="Measure iris_fast on this machine, beside others. `python -m benchmarks report` makes tables\n"
        "and plots of results that are there.",
    )
    parser.add_argument(
        "--only",
        help="cases to run, separated by commas; `kernel_*` for a prefix (default: those with a star in --list)",
    )
    parser.add_argument(
        "--reference", type=path_argument, metavar="CHECKOUT", help="compare with this eloialonso/iris"
    )
    parser.add_argument("--peer", action="append", default=[], help="compare with a package: simulusion")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compare with plain PyTorch under torch.compile in rollouts, tokens and decoded frames too, which takes "
        "minutes to compile (kernels are compared with it in any case)",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPU where there is one)")
    parser.add_argument(
        "--threads", type=positive(int), help="threads of every side (default: the number of cores)"
    )
    parser.add_argument(
        "--json", type=path_argument, metavar="FOLDER", help="write one JSON file for each case there"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats and smaller sizes: a smoke test")
    parser.add_argument("--full", action="store_true", help="all sizes, however long they take")
    parser.add_argument(
        "--batches",
        type=sizes,
        metavar="N,N",
        help="of rollouts, tokens and decoded frames these sizes alone: 1,16",
    )
    parser.add_argument(
        "--rounds", type=positive(int), help="rounds of every comparison of systems (each has its own)"
    )
    parser.add_argument(
        "--minutes",
        type=positive(float),
        default=10.0,
        help="the time to fit in, with fewer rounds on a slow machine (10)",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bf16"),
        help="of captured steps and rollouts on a GPU (training_steps, layer_launches) this precision alone",
    )
    parser.add_argument(
        "--run",
        type=path_argument,
        metavar="FOLDER",
        help="a training run, for cases about what one has learned",
    )
    parser.add_argument("--list", action="store_true", help="print the cases and exit")
    return parser


def positive(kind: type[int] | type[float]) -> Callable[[str], Any]:
    """An argument parser for numbers above zero."""

    def parse(text: str) -> int | float:
        number = kind(text)
        if not number > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above zero")
        return number

    parse.__name__ = kind.__name__  # argparse shows this name in its errors
    return parse


def sizes(text: str) -> tuple[int, ...]:
    """Numbers above zero, separated by commas."""
    return tuple(positive(int)(part) for part in text.split(","))


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["report"]:
        from .report.page import main as report

        return report(argv[1:])
    arguments = make_parser().parse_args(argv)
    if arguments.list:
        for entry in CASES.values():
            star = "*" if entry.default else " "
            print(f"{entry.name:24} {star} about {entry.minutes:g} min  {entry.description}")
        return 0
    names = chosen_cases(arguments.only)
    device = choose_device(arguments.device)
    torch.set_num_threads(arguments.threads or os.cpu_count() or 1)
    threads, peers = torch.get_num_threads(), tuple(dict.fromkeys(arguments.peer))
    systems = Systems(device, threads, arguments.reference, peers, arguments.compile)
    expected = [CASES[name].expected(device) for name in names]
    plan = Plan(60 * arguments.minutes, expected, unlimited=arguments.full)
    run = Run(
        arguments.quick,
        systems,
        plan,
        arguments.batches,
        arguments.run,
        arguments.rounds,
        arguments.precision,
    )
    if arguments.json is not None:
        make_folder(arguments.json)
    failed = []
    try:
        for name in names:
            if not run_case(run, name, arguments.json):
                failed.append(name)
    finally:
        systems.close()
    if plan.reduced:
        print(
            f"for want of time ({arguments.minutes:g} min; --minutes) there were fewer rounds: "
            + ", ".join(dict.fromkeys(plan.reduced)),
            file=sys.stderr,
        )
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def chosen_cases(only: str | None) -> list[str]:
    """The named cases, or the default ones; UserError for an unknown name."""
    if only is None:
        others = [entry.name for entry in CASES.values() if entry.default and entry.name not in FIRST]
        return [*FIRST, *others]
    found = []
    for name in only.split(","):
        alike = fnmatch.filter(CASES, name)
        if not alike:
            raise UserError(
                f"there is no benchmark case '{name}'{nearest(name, list(CASES))}; --list shows all"
            )
        found += alike
    return found


def make_folder(folder: Path) -> None:
    """Makes the folder for results before anything is measured; UserError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--json {folder}: no folder for results can be made there ({error.strerror})"
        ) from None


def choose_device(name: str | None) -> torch.device:
    """The device; hides all other GPUs, so that every case uses this one."""
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif name is not None and name.startswith("cuda:"):
        os.environ["CUDA_VISIBLE_DEVICES"] = name.removeprefix("cuda:")
    elif name not in (None, "cuda"):
        raise UserError(f"--device {name}: choose cpu, cuda or cuda:N")
    available = torch.cuda.is_available()
    if not available and name not in (None, "cpu"):
        raise UserError(f"--device {name}: this machine, or this build of PyTorch, has no such device")
    return torch.device("cuda" if available else "cpu")


def run_case(run: Run, name: str, folder: Path | None) -> bool:
    """Runs one case, prints its table and writes its file; returns False if it failed, without ending the run."""
    entry = CASES[name]
    print(f"{name}: {entry.description}", file=sys.stderr, flush=True)
    began = time.monotonic()
    run.plan.begin(name)
    try:
        result = entry.run(run)
    except UserError:
        raise
    except Exception:  # the other cases may work
        traceback.print_exc()
        return False
    run.results[name] = result
    record = Record(
        name,
        result,
        Circumstances.here(),
        run.quick,
        round(time.monotonic() - began, 1),
        checkout_version(run.systems.checkout),
    )
    if record.circumstances.commit.endswith("-dirty") and folder is not None and not run.quick:
        print(f"{name}: measured with uncommitted changes", file=sys.stderr)
    table = projection_table(result.facts) if name == "projection" else ""
    print(table or text_of(name, result), flush=True)
    if folder is not None:
        record.write(folder)
    return True


if __name__ == "__main__":
    sys.exit(run_command(main))
