"""What a Hopper GPU says to the choice of kernels for token passes: `chip.cu`, compiled and run fact by fact."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import which

SOURCE = Path(__file__).with_suffix(".cu")
FACTS = ("launches", "clusters_of_8", "clusters_of_16", "grid", "l2")
ALL = "launches, clusters, barriers, L2"
COMMAND = ("nvcc", "-O3", "-std=c++17", "-gencode=arch=compute_90a,code=sm_90a")


def facts(seconds: float = 8.0) -> Iterator[tuple[str, str]]:
    """Every fact and its value, in words. One that fails, or takes more than so many seconds, costs itself alone."""
    if which(COMMAND[0]) is None:
        yield ALL, "not measured: there is no nvcc here"
        return
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "chip"
        made = subprocess.run([*COMMAND, "-o", str(program), str(SOURCE)], capture_output=True, text=True)
        if made.returncode:
            yield ALL, f"FAILED nvcc: {made.stderr[-300:]}"
            return
        for fact in FACTS:
            yield from measured([str(program), fact], seconds)


def measured(command: list[str], seconds: float) -> Iterator[tuple[str, str]]:
    """The lines "fact: value" that a command prints; what it has printed stays where it fails or hangs."""
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        printed, code = ended.stdout, ended.returncode
    except subprocess.TimeoutExpired as error:
        printed, code = (error.stdout or b"").decode(), 124
    lines = printed.splitlines()
    why = f"more than {seconds:g} s" if code == 124 else lines.pop() if code and lines else f"exit {code}"
    for line in lines:
        fact, _, value = line.rpartition(": ")
        yield fact, value
    if code:
        yield command[-1], f"FAILED {why}"
