"""A run of small models with the sides that need nothing installed, kept over a module: its processes start once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from benchmarks.registry import Run
from benchmarks.systems.client import Systems

MakeRun = Callable[..., AbstractContextManager[Run]]


@contextmanager
def quick_run(checkout: Path | None = None, peers: tuple[str, ...] = ()) -> Iterator[Run]:
    systems = Systems(torch.device("cpu"), 1, checkout, peers)
    try:
        yield Run(quick=True, systems=systems)
    finally:
        systems.close()


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with quick_run() as found:
        yield found
