"""The C++ engine beside signals, forks and the settings of other threads."""

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

from iris_fast.imagination.cpu_engine import CpuDream, CpuEngine, CpuOptions, pack_world_model
from iris_fast.imagination.engine import Rollout
from iris_fast.models.cpu_weights import require_extension
from iris_fast.models.transformer import TransformerConfig
from iris_fast.randomness import PhiloxDraws
from tests.imagination.forks import forked
from tests.imagination.test_cpu_engine import VOCABULARY, inputs, make_dream
from tests.imagination.test_cpu_rollouts import assert_same_rollout, make_start
from tests.support.agents import make_world_model, micro_agent, small_transformer

ROOT = Path(__file__).parents[2]
SLOW = TransformerConfig(num_layers=4, num_heads=2, embed_dim=256)
"""Of a world model whose steps take a while."""


class Stepping:
    """Steps a dream in a thread of its own until it is told to stop."""

    def __init__(self, dream: CpuDream, actions: torch.Tensor):
        self.dream = dream
        self.actions = actions
        self.ending = False
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.ending:
            self.dream.step(self.actions)

    def __enter__(self) -> Stepping:
        self.thread.start()
        time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.ending = True
        self.thread.join()


@pytest.mark.usefixtures("interruptible")
def test_a_signal_ends_the_wait_for_threads_that_another_call_has() -> None:
    """The other call goes on; this one's dream is restarted."""
    model = make_world_model(SLOW, VOCABULARY)
    first, actions = inputs(model, 16, 1)
    pool, packed = require_extension().ThreadPool(2), pack_world_model(model, "portable")
    busy, waiting = (CpuDream(model, packed, pool, first, PhiloxDraws(seed)) for seed in (0, 1))
    with Stepping(busy, actions[:, 0]):
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            for _ in range(10_000):
                waiting.step(actions[:, 0])
        timer.join()
    waiting.restart(first, PhiloxDraws(1))
    assert waiting.step(actions[:, 0]).tokens is not None


def test_a_signal_handler_cannot_use_the_threads_that_it_interrupts() -> None:
    model = make_world_model(SLOW, VOCABULARY)
    first, actions = inputs(model, 16, 1)
    pool, packed = require_extension().ThreadPool(2), pack_world_model(model, "portable")
    dream, other = (CpuDream(model, packed, pool, first, PhiloxDraws(seed)) for seed in (0, 1))
    previous = signal.signal(signal.SIGUSR1, lambda *_: other.step(actions[:, 0]))
    try:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(RuntimeError, match="already at work for this thread"):
            for _ in range(10_000):
                dream.step(actions[:, 0])
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_steps_and_length_can_be_read_while_a_step_is_under_way() -> None:
    model = make_world_model(small_transformer(), VOCABULARY)
    first, actions = inputs(model, 8, 1)
    dream = make_dream(model, first, threads=2)
    seen: set[int] = set()
    with Stepping(dream, actions[:, 0]):
        deadline = time.monotonic() + 30
        while len(seen) < 3 and time.monotonic() < deadline:
            seen.add(dream.cpp.steps)
            assert 0 < dream.cpp.length <= model.config.max_tokens
    assert len(seen) >= 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_forked_during_a_step_starts_its_dream_anew() -> None:
    """In the child nobody steps it any more: its unfinished step is said to be so, and `restart` mends it."""
    model = make_world_model(SLOW, VOCABULARY)
    first, actions = inputs(model, 16, 1)
    dream = make_dream(model, first, threads=2, simd="portable")
    expected = make_dream(model, first).step(actions[:, 0]).tokens
    assert expected is not None

    def start_anew() -> None:
        with pytest.raises(RuntimeError, match="restart it"):
            dream.step(actions[:, 0])
        dream.restart(first, PhiloxDraws(0))
        tokens = dream.step(actions[:, 0]).tokens
        assert tokens is not None and torch.equal(tokens, expected)

    with Stepping(dream, actions[:, 0]), forked(start_anew):
        pass


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this processor has no such setting")
def test_denormal_numbers_are_kept_whatever_the_calling_thread_does_with_its_own() -> None:
    model = make_world_model(small_transformer(), VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-40)  # below the least normal number
    first, actions = inputs(model, 4, 1)
    expected = make_dream(model, first).step_with_logits(actions[:, 0])[1].rewards
    assert (expected != 0).any() and expected.abs().max() < torch.finfo(torch.float32).tiny
    for threads in (1, 2):
        torch.set_flush_denormal(True)
        try:
            found = make_dream(model, first, threads=threads).step_with_logits(actions[:, 0])[1].rewards
        finally:
            torch.set_flush_denormal(False)
        assert found.numpy().tobytes() == expected.numpy().tobytes()


def test_rollouts_of_one_engine_from_several_threads_are_each_their_own() -> None:
    engine, start = CpuEngine(micro_agent(), CpuOptions(threads=2)), make_start(micro_agent(), 3)
    expected = {seed: engine.imagine(start, 6, seed) for seed in range(4)}
    found: dict[int, Rollout] = {}

    def run(seed: int) -> None:
        found[seed] = engine.imagine(start, 6, seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for seed, rollout in expected.items():
        assert_same_rollout(found[seed], rollout)


def test_a_program_ends_while_a_daemon_thread_is_in_a_step() -> None:
    program = """
import threading, time
from tests.imagination.test_cpu_engine import VOCABULARY, inputs, make_dream
from tests.imagination.test_cpu_engine_processes import SLOW
from tests.support.agents import make_world_model
model = make_world_model(SLOW, VOCABULARY)
first, actions = inputs(model, 64, 1)
dream, array = make_dream(model, first, threads=2, simd="portable").cpp, actions[:, 0].contiguous().numpy()
def run():
    while True:
        dream.step(array)
threading.Thread(target=run, daemon=True).start()
time.sleep(0.5)
print("ends")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "ends\n"), ended.stderr


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("slow", ["dream", "burn-in"])
def test_a_signal_ends_a_rollout_and_the_next_one_is_whole(slow: str) -> None:
    """Steps of a few milliseconds each, thousands of them, in one call."""
    agent = micro_agent()
    engine, start = CpuEngine(agent, CpuOptions(threads=2)), make_start(agent, 2)
    long = make_start(agent, 2, burn_in=4000) if slow == "burn-in" else start
    expected = engine.imagine(start, 3, 1)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    began = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        engine.imagine(long, 1 if slow == "burn-in" else 2000, 0)
    assert time.monotonic() - began < 3
    timer.join()
    assert_same_rollout(engine.imagine(start, 3, 1), expected)


def test_weights_that_were_loaded_after_the_engine_was_made_are_those_that_imagine() -> None:
    agent = micro_agent(seed=1)
    engine, start = CpuEngine(agent, CpuOptions(threads=1)), make_start(agent, 3)
    before = engine.imagine(start, 4, 0)
    agent.load_state_dict(micro_agent(seed=2).state_dict())
    after = engine.imagine(start, 4, 0)
    assert_same_rollout(after, CpuEngine(micro_agent(seed=2), CpuOptions(threads=1)).imagine(start, 4, 0))
    assert not torch.equal(after.tokens, before.tokens)
