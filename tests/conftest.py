"""Settings of all tests: one thread and, without a CUDA device, tests marked `gpu` are skipped and Triton interprets
its kernels (set before its first import)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.interpreter import patch_language_once

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    patch_language_once()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference", type=Path, default=None, help="a checkout of the public implementation to test against"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread for PyTorch: on a busy machine two that wait for each other are ten times slower.

    Before each test, since a command that a test has called may have set more.
    """
    torch.set_num_threads(1)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a shell started the tests in the background and has it ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)
