"""Ray: the connection, and runs as its tasks."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from iris_fast.errors import UserError

from .plan import Plan
from .runner import Outcome, do_run
from .runs import PlannedRun

ANSWER_SECONDS = 10.0  # for a TCP connection to the address
START_SECONDS = 30.0  # for Ray to answer there, which it looks for in pieces of as long
OBJECT_STORE = 80 * 2**20  # the smallest of Ray's; runs exchange nothing through it
LOST = -9  # the code of an attempt whose worker or machine is gone


def chosen_address(asked: str | None) -> str:
    """The address that was asked for, or else Ray's own variable; `local` for a Ray of this command alone."""
    return asked or os.environ.get("RAY_ADDRESS") or "local"


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected; a local Ray ends with the block. UserError where nothing answers in time."""
    _check_answer(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local Ray tells nobody
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        options |= {"include_dashboard": False, "num_cpus": cores, "object_store_memory": OBJECT_STORE}
    try:
        with _limit(address):
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"Ray at {address} cannot be used ({reason}): {_remedy(address)}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _remedy(address: str) -> str:
    if address == "local":
        return "start one with `ray start --head` and give --address auto"
    return "start it with `ray start --head`, or leave --address out for a Ray of this command alone"


def _check_answer(address: str) -> None:
    """UserError unless something listens at HOST:PORT; Ray itself would try for minutes, or end the process."""
    if address in ("local", "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise UserError(f"--address {address}: give HOST:PORT, or auto for the Ray that runs on this machine")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "no answer"
        raise UserError(f"nothing answers at --address {address} ({reason}): {_remedy(address)}") from None


class _Late(BaseException):
    """Ray tries again after any Exception."""


@contextmanager
def _limit(address: str) -> Iterator[None]:
    """A block that ends with UserError when it takes too long, for example because another program than Ray listens.

    Keeps the handler of SIGTERM, which Ray replaces. Without limit outside the main thread, where no signals arrive.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        raise _Late

    before = {number: signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGTERM)}
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, START_SECONDS, 1.0)
    try:
        yield
    except _Late:
        raise UserError(f"no Ray answers at {address}, where something listens: {_remedy(address)}") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


class Tasks:
    """Runs as Ray tasks, each with its share of a machine; those without room wait in Ray's queue."""

    def __init__(self, ray: Any, plan: Plan):
        self._ray = ray
        self._plan = plan
        self._task = ray.remote(do_run)
        self._runs: dict[Any, PlannedRun] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def submit(self, run: PlannedRun) -> None:
        options = {"num_cpus": self._plan.cpus, "num_gpus": self._plan.gpus, "max_retries": 0}
        self._runs[self._task.options(name=run.name, **options).remote(run)] = run

    def ended(self, seconds: float) -> dict[PlannedRun, Outcome | None]:
        """The attempts that end within so many seconds; None for one that was stopped before it began."""
        ready, _ = self._ray.wait(list(self._runs), num_returns=1, timeout=seconds)
        return {self._runs.pop(task): self._outcome(task) for task in ready}

    def _outcome(self, task: Any) -> Outcome | None:
        errors = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(task)
            return outcome
        except errors.TaskCancelledError:
            return None
        except errors.RayTaskError as error:  # of this package's code on the worker
            return Outcome(1, str(error).strip().splitlines()[-1])
        except errors.RayError as error:
            return Outcome(LOST, f"its worker is gone ({type(error).__name__})")

    def stop(self) -> None:
        """Asks each run to stop at its next step, and takes the others from the queue."""
        for task in self._runs:
            self._ray.cancel(task, force=False, recursive=False)

    def lacking(self) -> str | None:
        """What each run needs and no machine of the cluster has; None if one has it all."""
        best = {"CPU": 0.0, "GPU": 0.0}
        for node in self._ray.nodes():
            if node["Alive"]:
                found = node["Resources"]
                if all(found.get(kind, 0) >= need for kind, need in self._needs().items()):
                    return None
                best = {kind: max(most, found.get(kind, 0)) for kind, most in best.items()}
        need = " and ".join(f"{need:g} {kind}" for kind, need in self._needs().items())
        has = " and ".join(f"{best[kind]:g} {kind}" for kind in self._needs())
        return f"a run needs {need}, and the machines of Ray have {has} at most"

    def _needs(self) -> dict[str, float]:
        needs = {"CPU": self._plan.cpus, "GPU": self._plan.gpus}
        return {kind: need for kind, need in needs.items() if need}
