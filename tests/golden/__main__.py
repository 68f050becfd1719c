"""`python -m tests.golden FILE`: checks every array of a golden file against the project."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from iris_fast.command_line import run_command

from .checks import Row, check_golden, read_golden
from .recipe import GOLDEN_FILE


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.golden",
        description="Check every array of a golden file (recorded outputs of the full-size agent, on CPU in "
        "float32) against this project. Prints a row for each; exits with 1 if any falls short.",
    )
    parser.add_argument("file", type=Path, nargs="?", default=GOLDEN_FILE, help="default: %(default)s")
    rows = check_golden(read_golden(parser.parse_args(argv).file))
    print(table(rows))
    failed = [row.name for row in rows if not row.ok]
    inputs = sum(row.is_input for row in rows)
    agree = len(rows) - inputs - len(failed)
    print(f"{len(rows)} arrays: {inputs} inputs, {agree} agree, {len(failed)} fall short")
    return 1 if failed else 0


def table(rows: list[Row]) -> str:
    """One line a row: name, shape, largest error, tolerance, verdict, how the tolerance came about."""
    lines = [f"{'array':<30} {'shape':<20} {'error':>9} {'tolerance':>9}"]
    for row in rows:
        numbers = f"{row.error:9.2e} {row.tolerance:9.2e}" if not row.is_input else f"{'':9} {'':9}"
        verdict = "" if row.is_input else "ok" if row.ok else "FAIL"
        lines.append(f"{row.name:<30} {row.shape!s:<20} {numbers} {verdict:<4} {row.note}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
