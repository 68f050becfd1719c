"""`python -m benchmarks`: runs the cases and writes what they measured."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from iris_fast.errors import UserError, nearest, run_command

from . import cases  # noqa: F401  (registers the cases)
from .registry import CASES, circumstances


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure iris_fast on this machine."
    )
    parser.add_argument("--only", help="cases to run, separated by commas (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and smaller sizes: a smoke test")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write one JSON file for each case there")
    parser.add_argument("--list", action="store_true", help="print the cases and exit")
    arguments = parser.parse_args(argv)
    if arguments.list:
        for entry in CASES.values():
            print(f"{entry.name:24} about {entry.minutes:g} min  {entry.description}")
        return 0
    names = arguments.only.split(",") if arguments.only else list(CASES)
    for name in names:
        if name not in CASES:
            raise UserError(
                f"there is no benchmark case '{name}'{nearest(name, list(CASES))}; --list shows all"
            )
    for name in names:
        print(f"{name}: {CASES[name].description}", file=sys.stderr, flush=True)
        result = {
            "case": name,
            "quick": arguments.quick,
            **circumstances(),
            "result": CASES[name].run(arguments.quick),
        }
        print(json.dumps(result["result"], indent=1))
        if arguments.json:
            arguments.json.mkdir(parents=True, exist_ok=True)
            (arguments.json / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
