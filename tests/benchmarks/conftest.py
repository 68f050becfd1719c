"""A run of small models with all systems in this process, so that tests need not start processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.agreement import weights_of
from benchmarks.registry import Run
from benchmarks.systems.client import Systems
from benchmarks.systems.worker import make_system, to_cpu


class LocalWorker:
    """A `Worker` without a process."""

    def __init__(self, kind: str, checkout: Path | None):
        self.system = make_system(kind, torch.device("cpu"), checkout)

    def call(self, method: str, *arguments: Any) -> Any:
        target = getattr(self.system, method)
        return to_cpu(target(*arguments) if callable(target) else target)

    def close(self) -> None:
        pass


class LocalSystems(Systems):
    """`Systems` in this process; glibc is what it is for all of them."""

    def start(self, kind: str, checkout: Path | None, environment: dict[str, str] | None) -> Any:
        return LocalWorker(kind, checkout)


def local_run(
    checkout: Path | None = None,
    peers: tuple[str, ...] = (),
    compiled: bool = False,
    like: Run | None = None,
) -> Run:
    """A run of its own; with the machine and the weights of another where one is given."""
    found = Run(True, LocalSystems(torch.device("cpu"), 1, checkout, peers, compiled))
    if like is not None:
        weights_of(like)
        found.shared |= {name: like.shared[name] for name in ("machine", "weights") if name in like.shared}
    return found


@pytest.fixture(scope="module")
def run() -> Run:
    return local_run()
