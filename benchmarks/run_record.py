"""`python -m benchmarks.run_record FOLDER …`: a record of a training run, its result, and its metrics."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from iris_fast.training.loggers import read_metrics
from iris_fast.training.plots import BOTTLENECK, PANELS

from .record import Circumstances, Record, Result

# The axes of curves, and the other metrics in the documentation.
KEPT = ("epoch", "env_steps", "duration/epoch", "memory/host_peak_gigabytes")
DIGITS = 5


def shown(metrics: list[dict[str, float]]) -> list[dict[str, float]]:
    """The columns used by plots and tables, with the digits shown."""
    drawn = {metric for _, _, lines in (*PANELS, *BOTTLENECK) for metric, _, _ in lines}
    drawn |= {f"collection/{kind}/return" for kind in ("train", "test")}
    return [
        {
            name: value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
            for name, value in line.items()
            if name in drawn or name in KEPT
        }
        for line in metrics
    ]


def main() -> None:
    """Writes `NAME.json` with command, seed, seconds, evaluation, commit and machine, and `NAME_metrics.jsonl`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_record")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--command", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--commit", required=True, help="git describe --always --dirty, as the run began")
    parser.add_argument("--run", type=Path, required=True, help="the run's folder, whose metrics are kept")
    parser.add_argument("--evaluation", type=Path, help="what `evaluate --json` wrote")
    arguments = parser.parse_args()
    facts: dict[str, Any] = {name: getattr(arguments, name) for name in ("command", "seed", "seconds")}
    if arguments.evaluation is not None:
        facts["evaluation"] = json.loads(arguments.evaluation.read_text())["statistics"]
    circumstances = replace(Circumstances.here(), commit=arguments.commit)
    Record(arguments.name, Result(facts=facts), circumstances).write(arguments.folder)
    lines = "".join(json.dumps(line) + "\n" for line in shown(read_metrics(arguments.run)))
    (arguments.folder / f"{arguments.name}_metrics.jsonl").write_text(lines)


if __name__ == "__main__":
    main()
