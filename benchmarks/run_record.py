"""`python -m benchmarks.run_record FILE …`: the circumstances of a training run, beside its metrics."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from .registry import circumstances


def main() -> None:
    """Writes command, seed, seconds, commit and machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_record")
    parser.add_argument("file", type=Path)
    parser.add_argument("--command", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--commit", required=True, help="git describe --always --dirty, as the run began")
    arguments = parser.parse_args()
    record = {
        "command": arguments.command,
        "seed": arguments.seed,
        "seconds": arguments.seconds,
        **circumstances(),
        "commit": arguments.commit,
    }
    arguments.file.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
