"""The registry of benchmark cases, and the facts that go with every result."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .systems.client import Systems

Result = dict[str, Any]
PACKAGES = ("torch", "triton", "numpy", "gymnasium", "ale-py", "envpool", "simulusion")


@dataclass
class Run:
    """One call of the command: what was asked for, and what its cases share.

    `full` lifts the limit of time and adds the sizes that do not fit in it; `batches`, where given, are the only
    batch sizes to take, and `rounds` stands for those that the comparisons have of their own; `trained`, where given,
    is the folder of a training run, for cases about what one has learned; `results` are those of the cases so far;
    `shared` holds what is measured once a run.
    """

    quick: bool
    systems: Systems
    full: bool = False
    seconds: float = 600.0
    batches: tuple[int, ...] | None = None
    trained: Path | None = None
    rounds: int | None = None
    began: float = field(default_factory=time.monotonic)
    results: dict[str, Result] = field(default_factory=dict)
    shared: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return self.systems.device

    def has_time_for(self, seconds: float) -> bool:
        """Whether something that takes so long ends in time."""
        return self.full or time.monotonic() - self.began + seconds <= self.seconds

    def rounds_or(self, usual: int) -> int:
        """The rounds that were asked for, or the usual ones of a case; two at the most with `quick`."""
        found = self.rounds or usual
        return min(found, 2) if self.quick else found

    def takes(self, batch: int) -> bool:
        """Whether this batch size was asked for."""
        return self.batches is None or batch in self.batches

    def once(self, name: str, make: Callable[[Run], Any]) -> Any:
        """What `make` gives, called at the first time."""
        if name not in self.shared:
            self.shared[name] = make(self)
        return self.shared[name]


@dataclass(frozen=True)
class Case:
    """A measurement: `run(Run)` gives plain data; `minutes` is what it takes on two CPU cores.

    `default`: whether it runs where no cases are named.
    """

    name: str
    run: Callable[[Run], Result]
    description: str
    minutes: float
    default: bool


CASES: dict[str, Case] = {}
Quick = Callable[[bool], Result]
Compared = Callable[[Run], Result]


def case(name: str, minutes: float, default: bool = False) -> Callable[[Quick], Quick]:
    """Registers a function of `quick` as a case; the first line of its docstring describes it."""

    def register(run: Quick) -> Quick:
        CASES[name] = Case(name, lambda of: run(of.quick), _first_line(run), minutes, default)
        return run

    return register


def compared_case(name: str, minutes: float, default: bool = True) -> Callable[[Compared], Compared]:
    """Registers a function of the `Run`, which compares the run's systems."""

    def register(run: Compared) -> Compared:
        CASES[name] = Case(name, run, _first_line(run), minutes, default)
        return run

    return register


def _first_line(function: Callable[..., Any]) -> str:
    return (function.__doc__ or "").strip().splitlines()[0]


def circumstances() -> Result:
    """Commit, machine, versions and time of a measurement."""
    return {
        "commit": _commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": platform.platform(),
        },
        "threads": torch.get_num_threads(),
        "python": sys.version.split()[0],
        "versions": {name: _version(name) for name in PACKAGES},
    }


def checkout_version(checkout: Path | None) -> str | None:
    """The commit of a checkout, or where it is no repository a digest of its sources; None without a checkout."""
    if checkout is None:
        return None
    if (checkout / ".git").exists():
        return _commit(checkout)
    digest = hashlib.sha256()
    for path in sorted((checkout / "src").rglob("*.py")):
        digest.update(path.relative_to(checkout).as_posix().encode() + b"\0" + path.read_bytes())
    return f"sources {digest.hexdigest()[:12]}"


def _commit(folder: Path = Path(__file__).parent) -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return result.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
