"""`python -m benchmarks.report.captured_projection FOLDER`: hours of a whole run from the steps measured there.

The case `projection` compares systems whose steps are launched one by one. This one projects our captured training on
a GPU, for each side of `FOLDER/training_steps.json`, with the environments of `FOLDER/environments.json`; it writes
`FOLDER/captured_projection.json`. It uses the paper's schedule and batches, so nothing is scaled. Its assumptions
about episodes and the cache are those of `projection`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iris_fast.agent import PARTS
from iris_fast.command_line import run_command
from iris_fast.errors import UserError, quoted
from iris_fast.training.estimate import ATARI_EPISODE_STEPS

from ..record import Circumstances, Record, Result
from .projection import FINAL_EPISODES, NotMeasured, environments_of, paper_units, size_of


def seconds_by_phase(side: Mapping[str, Any], environment: Mapping[int, float]) -> dict[str, float]:
    """Of a whole run, by one entry of `training_steps`; `environment`: seconds of a vector step by environments."""
    config, units = paper_units()
    training, tests = environments_of(config)
    vector_step = {
        count: environment[count] + side["acting"][str(count)]["median"] for count in (training, tests)
    }
    return {
        "collection": units.agent_steps / training * vector_step[training],
        **{part: units.steps[part] * side[part]["median"] for part in PARTS},
        "cache": max(units.frames_cached, units.frames_decoded) * side["coding_a_frame"],
        "evaluation": (units.test_vector_steps + units.final_vector_steps) * vector_step[tests],
    }


def project_captured(steps: Mapping[str, Any], environments: Result) -> dict[str, Any]:
    """Seconds by phase and hours for each side of `training_steps` that was measured; UserError where none was."""
    config, units = paper_units()
    results = {"environments": environments}
    try:
        sizes = {
            count: size_of(results, "environments", environments=count) for count in environments_of(config)
        }
    except NotMeasured as reason:
        raise UserError(f"nothing can be projected: {reason}") from None
    environment = {
        count: min(spread.median for spread in size.seconds.values()) / size.number("steps")
        for count, size in sizes.items()
    }
    needed = {"acting", "coding_a_frame", *PARTS}
    sides = {
        name: side for name, side in steps.items() if isinstance(side, Mapping) and needed <= side.keys()
    }
    sides = {name: side for name, side in sides.items() if side["preset"] == "paper"}
    if not sides:
        raise UserError("nothing can be projected: training_steps has no step of the paper's agent")
    seconds = {name: seconds_by_phase(side, environment) for name, side in sides.items()}
    return {
        "units": vars(units),
        "assumed": {"episode_steps": ATARI_EPISODE_STEPS, "final_episodes": FINAL_EPISODES},
        "environment_seconds": {str(count): value for count, value in environment.items()},
        "seconds": seconds,
        "hours": {name: sum(phases.values()) / 3600 for name, phases in seconds.items()},
    }


def main(argv: list[str] | None = None) -> int:
    (folder,) = map(Path, sys.argv[1:] if argv is None else argv)
    found = {}
    for case in ("training_steps", "environments"):
        file = folder / f"{case}.json"
        if not file.is_file():
            raise UserError(
                f"{file} is not there: run {quoted('python', '-m', 'benchmarks', '--only', case, '--json', folder)}"
            )
        found[case] = Record.read(file).result
    facts = project_captured(found["training_steps"].facts, found["environments"])
    Record("captured_projection", Result(facts=facts), Circumstances.here()).write(folder)
    for name, hours in facts["hours"].items():
        print(f"{name:12} {hours:6.2f} h")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
