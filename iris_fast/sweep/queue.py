"""All runs of a sweep until none is left: attempts and retries, stopping, what is said, the results at the end."""

from __future__ import annotations

import sys

from iris_fast.envs.games import ATARI_100K_SCORES
from iris_fast.errors import RunStopped, UserError
from iris_fast.training.interrupts import StopRequest

from .cluster import Tasks, chosen_address, connected
from .plan import Plan
from .runner import Outcome
from .runs import PlannedRun
from .state import RunState, Watched
from .table import Board, Row, board

POLL_SECONDS = 1.0


def run_all(plan: Plan, states: dict[PlannedRun, RunState], address: str | None) -> int:
    """Does every run that is not done, as many at once as there is room for; 0 if all are done in the end."""
    if all(state.stage == "done" for state in states.values()):
        say(f"all {len(states)} runs are done")
        _results(states)
        return 0
    plan.make_output()
    place = chosen_address(address)
    say("starting Ray on this machine …" if place == "local" else f"connecting to Ray at {place} …")
    with connected(place) as ray:
        tasks = Tasks(ray, plan)
        if (lacking := tasks.lacking()) is not None:
            if place == "local":
                raise UserError(f"{lacking}: give a smaller --cpus-per-run or --gpus-per-run")
            say(f"{lacking}: the runs wait until one with more joins")
        say(
            f"runs in {plan.output}, each with {plan.cpus:g} CPU and {plan.gpus:g} GPU; Ctrl-C stops and saves them"
        )
        queue = Queue(plan, states, tasks)
        try:
            queue.work()
        except KeyboardInterrupt:  # the second Ctrl-C
            raise RunStopped(
                "at once: the same command goes on from each run's last checkpoint", queue.stop.exit_code
            ) from None
    return _ended(queue)


class Queue:
    """The runs that are not done, as tasks, and what is known of each."""

    def __init__(self, plan: Plan, states: dict[PlannedRun, RunState], tasks: Tasks):
        self.watched = {run: Watched(run, plan.configs[run], state) for run, state in states.items()}
        self.rows = {run: Row(run, state, state.stage) for run, state in states.items()}
        self.attempts = {run: Attempts(plan.retries, state.epoch) for run, state in states.items()}
        self.tasks = tasks
        self.stop = StopRequest("every run finishes its step and saves")
        self._log_sizes: dict[PlannedRun, int] = {}

    def work(self) -> None:
        """Until no run is left or all have stopped. Raises KeyboardInterrupt at a second Ctrl-C."""
        with self.stop, board(self.rows.values()) as shown:
            for run, watched in self.watched.items():
                if watched.state.stage != "done":
                    self._submit(run)
            stopping = False
            while len(self.tasks):
                shown.show()
                for run, outcome in self.tasks.ended(POLL_SECONDS).items():
                    self._ended(run, outcome, shown)
                if self.stop.requested and not stopping:
                    stopping = True
                    self.tasks.stop()
                self._look()
            shown.show()

    def _submit(self, run: PlannedRun) -> None:
        self._log_sizes[run] = _size(run)
        self.rows[run].status = "waiting"
        self.tasks.submit(run)

    def _look(self) -> None:
        """Reads how far the runs are; one is running once it has written to its log."""
        for run, row in self.rows.items():
            if row.status == "waiting" and _size(run) > self._log_sizes[run]:
                row.status = "running"
            if row.status == "running":
                row.state = self.watched[run].refresh()

    def _ended(self, run: PlannedRun, outcome: Outcome | None, shown: Board) -> None:
        row = self.rows[run]
        row.state = self.watched[run].refresh()
        if outcome is None or outcome.stopped or (outcome.code and self.stop.requested and outcome.retry):
            row.status = "stopped"
            return
        if outcome.code == 0:
            row.status = "done"
            return
        again = None if self.stop.requested else self.attempts[run].again(outcome, row.state.epoch)
        shown.say(f"{run.name}: {told(outcome, run)}{again or ''}")
        if again is None:
            row.status = outcome.words
        else:
            self._submit(run)


class Attempts:
    """Counts the failed attempts at a run since its last finished epoch."""

    def __init__(self, retries: int, epoch: int):
        self.retries, self.epoch, self.failed = retries, epoch, 0

    def again(self, outcome: Outcome, epoch: int) -> str | None:
        """After a failed attempt: the words that say that it is tried again; None if it is not."""
        if epoch > self.epoch:
            self.epoch, self.failed = epoch, 0
        self.failed += 1
        if not outcome.retry or self.failed > self.retries:
            return None
        return f"; going on from its folder (retry {self.failed} of {self.retries} at epoch {epoch})"


def told(outcome: Outcome, run: PlannedRun) -> str:
    """How an attempt ended: its last sentence, and the log that has more."""
    sentence = f": {outcome.sentence}" if outcome.sentence else ""
    return f"{outcome.words}{sentence} (log: {run.log})"


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _ended(queue: Queue) -> int:
    """Ends the command: prints the results and what is not done, and gives the exit code."""
    states = {run: row.state for run, row in queue.rows.items()}
    done = sum(row.status == "done" for row in queue.rows.values())
    if queue.stop.requested:
        raise RunStopped(
            f"{done} of {len(states)} runs are done, the others saved: the same command goes on with them",
            queue.stop.exit_code,
        )
    _results(states)
    if done < len(states):
        failed = ", ".join(
            f"{run.name} ({row.status})" for run, row in queue.rows.items() if row.status != "done"
        )
        raise RunStopped(
            f"{done} of {len(states)} runs are done; not {failed}: the same command tries again", 1
        )
    say(f"all {len(states)} runs are done")
    return 0


def _results(states: dict[PlannedRun, RunState]) -> None:
    """The mean returns of all runs that are done, and their scores beside published ones; a sentence where those
    cannot be had."""
    done = [run for run, state in states.items() if state.stage == "done"]
    if not done:
        return
    from iris_fast.results import summarize
    from iris_fast.results.tables import returns_table

    returns: dict[str, list[float]] = {}
    for run in done:
        if (mean := states[run].last_return) is not None:
            returns.setdefault(run.game, []).append(mean)
    print(returns_table(returns, "markdown"), flush=True)
    scored = [run.folder for run in done if run.game in ATARI_100K_SCORES]
    if not scored:
        return
    try:
        summarize(scored, name="this sweep")
    except UserError as error:
        say(f"no results: {error}")


def _size(run: PlannedRun) -> int:
    try:
        return run.log.stat().st_size
    except OSError:
        return 0
