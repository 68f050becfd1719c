"""Where a test of an operation runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .harness import cuda_code_on_the_cpu


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """A device for a test's tensors, one of `harness.ON_ALL`."""
    if request.param != "cuda's code":
        yield request.param
        return
    with cuda_code_on_the_cpu():
        yield "cpu"
