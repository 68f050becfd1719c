"""Fuzzing, signals, forks and idle threads of the C++ token engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from iris_fast.imagination.cpu_engine import CpuDream, pack_world_model
from iris_fast.imagination.dream import DreamStep
from iris_fast.models.cpu_weights import require_extension
from iris_fast.models.transformer import TransformerConfig
from iris_fast.randomness import PhiloxDraws
from tests.imagination.forks import forked
from tests.imagination.test_cpu_engine import VOCABULARY, assert_bit_equal, inputs, make_dream, play
from tests.support.agents import make_world_model, small_transformer

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "limit", [pytest.param("--calls=600"), pytest.param("--seconds=60", marks=pytest.mark.slow)]
)
def test_random_calls_work_or_raise_and_crash_nothing(limit: str) -> None:
    """In a process of its own, whose crash would be seen."""
    command = [sys.executable, "-m", "tests.imagination.fuzz_cpu_engine", limit]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    tokens, frames = ("model", "dream", "step", "draw"), ("frame_model", "encode", "decode")
    for call in (*tokens, *frames, "policy", "features", "recurrence", "recur", "roll_out"):
        for outcome in ("worked", "refused"):
            assert f"\n{call} {outcome}" in "\n" + ended.stdout, ended.stdout


@pytest.mark.usefixtures("interruptible")
def test_a_signal_ends_a_step_that_threads_take_together() -> None:
    """Batch 1: the threads that wait for each other all stop."""
    config = TransformerConfig(num_layers=4, num_heads=2, embed_dim=256)
    model = make_world_model(config, VOCABULARY)
    first, actions = inputs(model, 1, 1)
    dream = make_dream(model, first, threads=2, simd="portable")
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        for _ in range(10_000):
            dream.step(actions[:, 0])
    timer.join()
    dream.restart(first, PhiloxDraws(0))
    assert dream.step(actions[:, 0]).tokens is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("batch", [1, 8])  # of one, threads go through each pass together
def test_a_forked_process_steps_on(batch: int) -> None:
    """Child and parent both, to the numbers of a dream that was never forked."""
    model = make_world_model(small_transformer(), VOCABULARY)
    first, actions = inputs(model, batch, 3)
    expected = play(make_dream(model, first), actions)[1:]
    dream = make_dream(model, first, threads=3, group_size=1)
    dream.step(actions[:, 0])  # starts the threads, which the child will lack

    def step_on() -> None:
        assert_bit_equal(play(dream, actions[:, 1:]), expected)

    with forked(step_on):
        step_on()


def test_threads_do_not_spin_between_steps() -> None:
    model = make_world_model(small_transformer(), VOCABULARY)
    first, actions = inputs(model, 1, 1)
    dream = make_dream(model, first, threads=3)
    dream.step(actions[:, 0])
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_dreams_that_share_threads_take_turns() -> None:
    """Stepped from several Python threads: nobody waits for ever, and each gets its own numbers."""
    model = make_world_model(small_transformer(), VOCABULARY)
    first, actions = inputs(model, 1, 12)
    actions = torch.randint(3, (1, 12), generator=torch.Generator().manual_seed(1))
    expected = []
    for seed in range(4):
        alone = make_dream(model, first, seed=seed)
        expected.append([alone.step(actions[:, step]) for step in range(12)])
    pool, packed = require_extension().ThreadPool(2), pack_world_model(model)
    dreams = [CpuDream(model, packed, pool, first, PhiloxDraws(seed)) for seed in range(4)]
    found: list[list[DreamStep]] = [[] for _ in range(4)]

    def run(index: int) -> None:
        for step in range(12):
            found[index].append(dreams[index].step(actions[:, step]))

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in threads)
    for mine, theirs in zip(found, expected, strict=True):
        for ours, other in zip(mine, theirs, strict=True):
            assert ours.tokens is not None and other.tokens is not None
            assert torch.equal(ours.tokens, other.tokens)
            assert torch.equal(ours.rewards, other.rewards) and torch.equal(ours.ends, other.ends)
