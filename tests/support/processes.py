"""Several processes of one run, started as torchrun starts them, without its minutes of patience."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def start_processes(size: int, arguments: Sequence[object]) -> list[subprocess.Popen[str]]:
    """Starts `python ARGUMENTS` as `size` processes of one group on this machine, one thread each."""
    everyone: dict[str, object] = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    everyone |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, *map(str, arguments)]
    return [
        subprocess.Popen(
            command,
            env=os.environ
            | {"OMP_NUM_THREADS": "1"}
            | {name: str(value) for name, value in (everyone | {"RANK": rank, "LOCAL_RANK": rank}).items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def ends(processes: Sequence[subprocess.Popen[str]], seconds: float = 240) -> list[tuple[int, str]]:
    """The exit code and standard error of each process."""
    try:
        said = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, error) for process, error in zip(processes, said, strict=True)]
