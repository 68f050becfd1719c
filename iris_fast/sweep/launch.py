"""The work of `sweep` after its arguments are read: the list of runs, and what is asked of it."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from iris_fast.errors import RunStopped, UserError, quoted
from iris_fast.files import check_writable, explained_writing, write_atomically
from iris_fast.terminal import interrupted_code

from .plan import Plan, check_folder, command, make_plan
from .queue import Attempts, run_all, say, told
from .runner import do_run
from .runs import PlannedRun
from .state import RunState, Watched, read_state


def sweep(arguments: argparse.Namespace) -> int:
    """Does what the command's arguments ask."""
    plan = make_plan(arguments)
    if arguments.number is not None:
        return _do_one(plan, arguments.number)
    states = {}
    for run in plan.runs:
        check_folder(plan, run)
        states[run] = read_state(run, plan.configs[run])
    if arguments.dry_run:
        print("\n".join(listed(plan, states)))
        return 0
    if arguments.slurm is not None:
        return _write_script(plan, arguments.slurm)
    return run_all(plan, states, arguments.address)


def listed(plan: Plan, states: dict[PlannedRun, RunState]) -> list[str]:
    """A line a run: its number, its state, and the commands that `sweep` would start."""
    width = len(str(len(plan.runs) - 1))
    lines = []
    for number, (run, state) in enumerate(states.items()):
        how_far = state.stage if state.stage == "new" else f"{state.stage}, {state.words()}"
        begin = "" if state.stage == "done" else f": {command(run)}"
        lines.append(f"{number:>{width}} {run.name}: {how_far}{begin}")
    return [*lines, counted(states)]


def counted(states: dict[PlannedRun, RunState]) -> str:
    """`10 runs: 2 done, 1 begun, 7 new`."""
    stages = Counter(state.stage for state in states.values())
    found = [f"{stages[stage]} {stage}" for stage in ("done", "trained", "begun", "new") if stages[stage]]
    return f"{len(states)} {'run' if len(states) == 1 else 'runs'}: {', '.join(found)}"


def _write_script(plan: Plan, path: Path) -> int:
    from .slurm import script

    check_writable(path)
    with explained_writing(plan.output, "choose another folder with --output"):
        (plan.output / "logs").mkdir(
            parents=True, exist_ok=True
        )  # Slurm opens its logs there before a run begins
    with explained_writing(path):
        write_atomically(path, script(plan).encode())
    if 0 < plan.gpus < 1:
        say(f"--gpus-per-run {plan.gpus:g}: under Slurm each run has a whole GPU")
    say(f"wrote {path}: submit it with `{quoted('sbatch', path)}`")
    return 0


def _do_one(plan: Plan, number: int) -> int:
    """Does run `number` of the list in this process, with the retries of a sweep."""
    if not 0 <= number < len(plan.runs):
        raise UserError(f"--run {number}: the list has runs 0 to {len(plan.runs) - 1} (--dry-run prints it)")
    run = plan.runs[number]
    check_folder(plan, run)
    config = plan.configs[run]
    watched = Watched(run, config, read_state(run, config))
    if watched.state.stage == "done":
        say(f"{run.name} is done: {watched.state.words()}")
        return 0
    plan.make_output()
    say(f"{run.name}: {run.folder}, log {run.log}")
    attempts = Attempts(plan.retries, watched.state.epoch)
    while True:
        try:
            outcome = do_run(run)
        except KeyboardInterrupt as interrupt:
            raise RunStopped(f"{run.name} before it began", interrupted_code(interrupt)) from None
        state = watched.refresh()
        if outcome.code == 0:
            say(f"{run.name} is done: {state.words()}")
            return 0
        again = attempts.again(outcome, state.epoch)
        say(f"{run.name}: {told(outcome, run)}{again or ''}")
        if again is None:
            return outcome.code if outcome.code > 0 else 128 - outcome.code
