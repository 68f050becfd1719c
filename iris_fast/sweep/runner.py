"""Does one run: `train` and then `evaluate` as processes of their own, so that a crash ends one run alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import iris_fast
from iris_fast.errors import quoted
from iris_fast.files import PARTIAL, lock_folder
from iris_fast.results.runs import EVALUATION
from iris_fast.terminal import interrupted_code

from .runs import PlannedRun

POLL_SECONDS = 0.2
LOCK_SECONDS = 300.0  # for the last process in the folder to finish its step and save
REFUSED, DIVERGED, DISK_FULL = 2, 3, 4  # exit codes of `train`


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a run ended: the exit code of its last command, and its last sentence."""

    code: int
    sentence: str = ""
    stopped: bool = False  # because it was asked to

    @property
    def retry(self) -> bool:
        """Whether another attempt may end otherwise. A resumed run has the same steps, so it would diverge again."""
        return not self.stopped and self.code not in (0, REFUSED, DIVERGED, DISK_FULL)

    @property
    def words(self) -> str:
        if self.code == DIVERGED:
            return "diverged"
        if self.code == DISK_FULL:
            return "disk full"
        if self.code < 0 or self.code > 128:
            return f"ended by {signal_name(self.code)}"
        return "refused" if self.code == REFUSED else f"failed with exit code {self.code}"


def signal_name(code: int) -> str:
    """The signal of an exit code: negative where a process did not handle the signal, above 128 where it did."""
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def do_run(run: PlannedRun) -> Outcome:
    """Trains the run, from its folder if that has been begun, and evaluates it. One that is trained ends at once.

    KeyboardInterrupt stops its command at the next step, saved; a second one at once.
    """
    if not run.output.is_dir():
        host = os.uname().nodename if hasattr(os, "uname") else "this machine"
        return Outcome(
            REFUSED, f"{host} does not see {run.output}: --output must be a folder that all machines share"
        )
    run.log.parent.mkdir(parents=True, exist_ok=True)
    with open(run.log, "ab", buffering=0) as log:
        outcome = _until_free(run, log)
        if outcome is None:
            outcome = _command("iris_fast.train", run.train_arguments(run.begun), log, run.log)
        if outcome.code == 0:
            outcome = _checked(run, _command("iris_fast.evaluate", run.evaluate_arguments(), log, run.log))
        log.write(f"-- {outcome.code} {time.strftime('%F %T')}\n".encode())
    return outcome


def _checked(run: PlannedRun, outcome: Outcome) -> Outcome:
    """Refuses a longer evaluation of an earlier epoch, which stays in its file and would count as this one."""
    found = run.evaluation()
    if outcome.code == 0 and (found is None or len(found[1]) != run.episodes):
        there = len(found[1]) if found else 0
        if there < run.episodes:
            return Outcome(1, f"{run.folder / EVALUATION} was not written: see {run.log}")
        return Outcome(
            REFUSED,
            f"{run.folder / EVALUATION} has {there} episodes of an earlier epoch: give --episodes {there}, or "
            "remove that file",
        )
    return outcome


def _until_free(run: PlannedRun, log: BinaryIO) -> Outcome | None:
    """Waits until no other process trains in the folder; removes a folder that a killed process had half made."""
    deadline, said = time.monotonic() + LOCK_SECONDS, False
    while run.folder.is_dir():
        try:
            lock = lock_folder(run.folder)
        except BlockingIOError:
            if time.monotonic() > deadline:
                break  # `train` says that another process is there
            if not said:
                log.write(b"another process is training in the folder: waiting for it\n")
                said = True
            try:
                time.sleep(POLL_SECONDS)
            except KeyboardInterrupt as interrupt:
                return Outcome(interrupted_code(interrupt), stopped=True)
            continue
        except OSError:  # the file system has no locks
            lock = None
        if not run.begun and not any(
            path.is_file() and path.suffix != PARTIAL for path in run.folder.rglob("*")
        ):
            shutil.rmtree(run.folder)
        if lock is not None:
            os.close(lock)
        break
    return None


def _command(module: str, arguments: list[str], log: BinaryIO, path: Path) -> Outcome:
    """Runs `python -m module arguments` with its output in the log; see `do_run` for KeyboardInterrupt."""
    host = os.uname().nodename if hasattr(os, "uname") else ""
    shown = quoted("python", "-m", module, *arguments)
    log.write(f"-- {time.strftime('%F %T')} {host}: {shown}\n".encode())
    root = str(Path(iris_fast.__file__).parents[1])
    paths = filter(None, [root, os.environ.get("PYTHONPATH")])
    child = subprocess.Popen(
        [sys.executable, "-m", "iris_fast.sweep.child", str(os.getpid()), module, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,  # the terminal's Ctrl-C comes through this process alone, once
    )
    stopped = False
    while True:
        try:
            code = child.wait(POLL_SECONDS)
            break
        except subprocess.TimeoutExpired:
            pass
        except KeyboardInterrupt:
            stopped = True
            child.terminate()
    return Outcome(code, "" if code == 0 else _last_sentence(path), stopped and code != 0)


def _last_sentence(log: Path) -> str:
    """What the command said last: its error, or the last line of a traceback."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("-- "):
            break
        if not line.startswith("[W"):  # a library's warning at exit
            return line.removeprefix("error: ").removeprefix("stopped: ")
    return ""
