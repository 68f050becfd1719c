"""Provenance of a run: command, versions, commit and machine of its start and of each resume."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import iris_fast
from iris_fast.files import write_atomically

PACKAGES = ("torch", "numpy", "triton", "gymnasium", "ale-py", "envpool", "av")


def add_provenance(path: Path, device: torch.device, epoch: int, processes: int = 1) -> None:
    """Adds a record of this process, from `epoch` on, to the run's provenance.json; `processes`: how many train."""
    records = [*read_provenance(path), {"epoch": epoch, "processes": processes} | circumstances(device)]
    write_atomically(path, (json.dumps(records, indent=1) + "\n").encode())


def read_provenance(path: Path) -> list[dict[str, Any]]:
    """The records of a run, its start first; empty if the file is missing or not such a list."""
    try:
        records = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    return records if isinstance(records, list) else []


def circumstances(device: torch.device) -> dict[str, Any]:
    """Command, versions, commit and machine of this process: plain data."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.orig_argv),
        "folder": os.getcwd(),
        "commit": _commit(),
        "versions": {
            "iris_fast": iris_fast.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        },
    }


def _commit() -> str | None:
    """The commit of the code, with `-dirty` if it was changed; None for an installed copy."""
    checkout = Path(iris_fast.__file__).parents[1]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, cwd=checkout, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
