"""The registry of benchmark cases, and the facts that go with every result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

Result = dict[str, Any]
PACKAGES = ("torch", "triton", "numpy", "gymnasium", "ale-py", "envpool")


@dataclass(frozen=True)
class Case:
    """A measurement: `run(quick)` gives plain data; `minutes` is what it takes on two CPU cores."""

    name: str
    run: Callable[[bool], Result]
    description: str
    minutes: float


CASES: dict[str, Case] = {}


def case(name: str, minutes: float) -> Callable[[Callable[[bool], Result]], Callable[[bool], Result]]:
    """Registers a function as a case; the first line of its docstring describes it."""

    def register(run: Callable[[bool], Result]) -> Callable[[bool], Result]:
        CASES[name] = Case(name, run, (run.__doc__ or "").strip().splitlines()[0], minutes)
        return run

    return register


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


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=os.path.dirname(__file__))
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
