"""Objects give the same results when copied, pickled, and used from threads and worker processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from torch import Tensor

from iris_fast.acting import Policy
from iris_fast.agent import Agent
from iris_fast.errors import UserError
from iris_fast.graphs import GraphedCall, Uncaptured
from iris_fast.imagination.cpu_engine import CpuEngine, CpuOptions
from iris_fast.imagination.engine import ImaginationStart
from iris_fast.imagination.graph_engine import CudaGraphEngine, GraphOptions
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.kernels.common.extension import find_extension
from iris_fast.models.cpu_policy import CpuPolicy
from iris_fast.models.frame_codec import FrameCodec
from iris_fast.randomness import PhiloxDraws
from iris_fast.replay.cache import FrameCache
from iris_fast.replay.store import EpisodeStore
from iris_fast.training.loggers import MetricLogger
from iris_fast.training.run_folder import RunFolder
from iris_fast.training.trainer import Trainer
from tests.support.agents import micro_agent
from tests.support.micro import micro_config

needs_extension = pytest.mark.skipif(find_extension() is None, reason="the C++ extension is not built")

COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "cloudpickle": lambda thing: pickle.loads(cloudpickle.dumps(thing)),
}


def frames(batch: int = 2) -> Tensor:
    return torch.randint(256, (batch, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def pool(threads: int = 1) -> Any:
    extension = find_extension()
    assert extension is not None
    return extension.ThreadPool(threads)


@dataclass
class Case:
    """How a thing is made of an agent, and what it does."""

    make: Callable[[Agent], Any]
    use: Callable[[Any], Tensor]


def imagined(engine: Any) -> Tensor:
    seen = engine.agent.reconstruct(frames(4)).unflatten(0, (2, 2))
    start = ImaginationStart(seen, torch.ones(2, 2, dtype=torch.bool), torch.arange(32).view(2, 16) % 8)
    logits: Tensor = engine.imagine(start, 2, 3).logits_actions
    return logits


def acted(policy: Policy) -> Tensor:
    return policy(frames().numpy(), policy.agent.actor_critic.initial_state(2)).logits_actions


def coded(coder: Any) -> Tensor:
    found: Tensor = coder.frames_of(coder.tokens_of(frames().float() / 255))
    return found


def cache_of(agent: Agent) -> FrameCache:
    return FrameCache(agent.coder, EpisodeStore(4, 64, agent.device), max_bytes=2**20)


CASES: dict[str, Case] = {
    "Agent": Case(lambda agent: agent, lambda agent: agent.reconstruct(frames())),
    "Agent.coder": Case(lambda agent: agent.coder, coded),
    "Policy": Case(lambda agent: Policy(agent), acted),
    "Policy with graphs": Case(lambda agent: Policy(agent, Uncaptured(agent.device)), acted),
    "OracleEngine": Case(lambda agent: OracleEngine(agent), imagined),
    "CpuEngine": Case(lambda agent: CpuEngine(agent, CpuOptions(threads=2)), imagined),
    "CudaGraphEngine": Case(
        lambda agent: CudaGraphEngine(agent, GraphOptions(), Uncaptured(agent.device)), imagined
    ),
    "FrameCodec": Case(lambda agent: FrameCodec(agent.tokenizer, pool()), coded),
    "CpuPolicy": Case(
        lambda agent: CpuPolicy(agent.actor_critic, pool(), 64),
        lambda policy: policy.features(frames().float() / 255),
    ),
    "FrameCache": Case(cache_of, lambda cache: cache.tokens(np.zeros((1, 2), np.int64)).float()),
}


@needs_extension
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_what_was_used_does_the_same(name: str, way: str) -> None:
    case = CASES[name]
    thing = case.make(micro_agent())
    fresh = COPIES[way](thing)
    expected = case.use(thing)
    used = COPIES[way](thing)
    for other in (fresh, used):
        assert torch.equal(case.use(other), expected)


@needs_extension
def test_a_copy_has_weights_and_versions_of_its_own() -> None:
    engine = CpuEngine(micro_agent())
    expected = imagined(engine)
    other = copy.deepcopy(engine)
    with torch.no_grad():
        other.agent.actor_critic.actor_linear.weight.neg_()
    other.agent.weights_changed("actor_critic")
    assert not torch.equal(imagined(other), expected)
    assert torch.equal(imagined(engine), expected)
    assert other.codec.pool is not engine.codec.pool


@pytest.mark.parametrize("way", COPIES)
def test_configurations_are_copied(way: str) -> None:
    config = micro_config()
    assert COPIES[way](config) == config
    assert COPIES[way](CpuOptions(threads=3)) == CpuOptions(threads=3)
    assert COPIES[way](PhiloxDraws(7)).seed == 7


@pytest.mark.parametrize("way", COPIES)
def test_a_run_folder_is_copied_without_its_lock(way: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.lock()
    copied = COPIES[way](run)
    assert copied.path == run.path
    copied.unlock()
    with pytest.raises(UserError, match="another process is training"):
        copied.lock()
    run.unlock()
    copied.lock()
    copied.unlock()


@pytest.mark.parametrize("way", COPIES)
def test_what_writes_to_a_run_folder_cannot_be_copied(way: str, tmp_path: Path) -> None:
    logger = MetricLogger(tmp_path, run_config={})
    with pytest.raises(TypeError, match="one writer: a MetricLogger cannot be copied or pickled"):
        COPIES[way](logger)
    trainer = Trainer.__new__(Trainer)
    trainer.run_folder = RunFolder(tmp_path)
    with pytest.raises(
        TypeError, match=f"go on from its checkpoint with --resume {re.escape(str(tmp_path))}"
    ):
        COPIES[way](trainer)


@needs_extension
@pytest.mark.parametrize("way", COPIES)
def test_of_compiled_objects_the_threads_alone_can_be_copied(way: str) -> None:
    assert COPIES[way](pool(3)).threads == 3
    assert COPIES["cloudpickle"](find_extension()) is find_extension()
    engine = CpuEngine(micro_agent())
    dream = engine.dream(torch.zeros(1, 16, dtype=torch.int64), PhiloxDraws(0))
    for compiled in (engine._model, dream):
        with pytest.raises(TypeError, match=r"cannot pickle 'iris_fast\._C\.Token"):
            COPIES[way](compiled)


def test_a_captured_call_cannot_be_used_by_another_process_and_is_not_carried_there() -> None:
    policy = Policy(micro_agent(), Uncaptured(torch.device("cpu")))
    acted(policy)
    (call,) = policy._calls.values()
    assert isinstance(call, GraphedCall)
    assert not COPIES["pickle"](policy)._calls


@needs_extension
@pytest.mark.parametrize("name", ["Agent", "Policy", "OracleEngine", "CpuEngine", "FrameCodec"])
def test_threads_that_share_it_see_the_same(name: str) -> None:
    case = CASES[name]
    thing = case.make(micro_agent())
    expected = case.use(copy.deepcopy(thing))
    with ThreadPoolExecutor(4) as executor:
        for found in executor.map(lambda _: case.use(thing), range(12)):
            assert torch.equal(found, expected)


def work(payload: bytes) -> list[np.ndarray]:
    """What a worker does with what it was sent, twice, as an actor that keeps it would."""
    torch.set_num_threads(1)
    things: dict[str, Any] = pickle.loads(payload)
    found = [CASES[name].use(thing).detach().numpy() for name, thing in things.items() for _ in range(2)]
    return found


@needs_extension
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_worker_process_computes_the_same(method: str) -> None:
    agent = micro_agent()
    things = {name: CASES[name].make(agent) for name in ("Agent", "Policy", "CpuEngine")}
    expected = [CASES[name].use(thing).numpy() for name, thing in things.items() for _ in range(2)]
    with multiprocessing.get_context(method).Pool(1) as workers:
        found = workers.apply_async(work, (cloudpickle.dumps(things),)).get(timeout=120)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
