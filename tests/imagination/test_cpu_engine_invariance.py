"""The C++ engine's rollouts have the same bits however their work is divided."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.imagination.cpu_engine import CpuEngine, CpuOptions
from iris_fast.imagination.engine import ImaginationStart, Rollout
from iris_fast.models.cpu_weights import require_extension
from tests.support.agents import micro_agent

EXTENSION = require_extension()

BATCH, HORIZON, SEED = 9, 5, 3
LEVELS: list[str] = EXTENSION.simd_levels()


@pytest.fixture(scope="module")
def agent() -> Agent:
    return micro_agent()


@pytest.fixture(scope="module")
def start() -> ImaginationStart:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(BATCH, 3, dtype=torch.bool)
    mask[2, :2] = False
    frames = torch.rand(BATCH, 3, 3, 64, 64, generator=generator)
    return ImaginationStart(frames, mask, torch.randint(16, (BATCH, 16), generator=generator))


@pytest.fixture(scope="module")
def expected(agent: Agent, start: ImaginationStart) -> Rollout:
    return CpuEngine(agent, CpuOptions(threads=1)).imagine(start, HORIZON, SEED)


@pytest.fixture
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def parts_of(rollout: Rollout) -> dict[str, Tensor]:
    """Every tensor of a rollout by name, rows first."""
    named = rollout._asdict()
    hidden, cells = named.pop("start_state")
    return named | {"hidden": hidden, "cells": cells}


def assert_equal(found: Rollout, expected: Rollout, rows: slice = slice(None)) -> None:
    for name, tensor in parts_of(expected).items():
        assert torch.equal(parts_of(found)[name], tensor[rows]), name


def test_a_rollout_has_what_is_compared(expected: Rollout) -> None:
    assert {"observations", "actions", "logits_actions", "values", "rewards", "ends"} <= set(
        parts_of(expected)
    )
    assert all(len(tensor) == BATCH for tensor in parts_of(expected).values())
    assert expected.values.std() > 0 and expected.observations.std() > 0


@pytest.mark.parametrize("threads", [2, 3])
def test_threads(agent: Agent, start: ImaginationStart, expected: Rollout, threads: int) -> None:
    assert_equal(CpuEngine(agent, CpuOptions(threads=threads)).imagine(start, HORIZON, SEED), expected)


@pytest.mark.usefixtures("torch_threads")
def test_pytorchs_threads(agent: Agent, start: ImaginationStart, expected: Rollout) -> None:
    torch.set_num_threads(2)
    assert_equal(CpuEngine(agent).imagine(start, HORIZON, SEED), expected)


@pytest.mark.parametrize("simd", LEVELS)
def test_simd_levels(agent: Agent, start: ImaginationStart, expected: Rollout, simd: str) -> None:
    assert_equal(CpuEngine(agent, CpuOptions(threads=2, simd=simd)).imagine(start, HORIZON, SEED), expected)


@pytest.mark.usefixtures("torch_threads")
@pytest.mark.parametrize(("rows", "threads"), [(slice(0, 4), 1), (slice(4, 9), 2), (slice(8, 9), 2)])
def test_parts_of_the_batch(
    agent: Agent, start: ImaginationStart, expected: Rollout, rows: slice, threads: int
) -> None:
    torch.set_num_threads(threads)
    part = ImaginationStart(
        start.burn_in_frames[rows], start.burn_in_mask[rows], start.first_tokens[rows], rows.start
    )
    assert_equal(CpuEngine(agent).imagine(part, HORIZON, SEED), expected, rows)


def test_rollouts_of_int8(agent: Agent, start: ImaginationStart, expected: Rollout) -> None:
    options = CpuOptions(threads=1, kv_dtype="float16", weights_dtype="int8", decoder_dtype="int8")
    rounded = CpuEngine(agent, options).imagine(start, HORIZON, SEED)
    assert not torch.equal(rounded.observations, expected.observations)
    for simd in LEVELS:
        other = CpuEngine(agent, replace(options, threads=3, group_size=2, simd=simd))
        assert_equal(other.imagine(start, HORIZON, SEED), rounded)
