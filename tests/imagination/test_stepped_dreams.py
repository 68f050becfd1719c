"""Dreams stepped from outside on the CUDA-graph engine's kernels, uncaptured on the CPU: they are the oracle's, with
frames given and replaced, and what is captured never leaves the device."""

from __future__ import annotations

import gc

import pytest
import torch

from iris_fast.graphs import CudaGraphs, Graphs, Uncaptured
from iris_fast.imagination.device_dream import DeviceStep, StepPlan
from iris_fast.imagination.graph_engine import CudaGraphEngine, GraphOptions
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.imagination.token_pass import InferenceWeights, TokenPasses
from iris_fast.randomness import PhiloxDraws
from tests.support.agents import micro_agent
from tests.support.fake_device import DEVICE, OnDeviceAlone, fake_cuda, without_data

BATCH, STEPS, SLOTS = 2, 9, 16


def assert_the_oracles(graphs: Graphs, options: GraphOptions, attention: str = "causal") -> None:
    """Nine steps over a context of four blocks."""
    device = graphs.device
    agent = micro_agent(f"world_model.attention={attention}", "world_model.num_layers=2").to(device)
    oracle, engine = OracleEngine(agent), CudaGraphEngine(agent, options, graphs)
    generator = torch.Generator().manual_seed(0)
    codes = agent.config.tokenizer.vocab_size
    frames = torch.randint(codes, (STEPS + 1, BATCH, SLOTS), generator=generator).to(device)
    actions = torch.randint(3, (STEPS, BATCH), generator=generator).to(device)
    plain, ours = (each.dream(frames[-1], PhiloxDraws(5)) for each in (oracle, engine))
    for step in range(STEPS):
        if step in (0, 2, 3, 7):
            for dream in (plain, ours):
                dream.replace(frames[step].roll(1, 1))
        given = frames[step] if step in (1, 2, 5) else None
        expected, wanted = plain.step_with_logits(actions[step], next_tokens=given)
        found, logits = ours.step_with_logits(actions[step], next_tokens=given)
        assert (ours.length, ours.steps) == (plain.length, plain.steps)
        for mine, theirs in zip(found, expected, strict=True):
            assert mine is not None and theirs is not None and torch.equal(mine, theirs)
        for mine, theirs in zip(logits, wanted, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            engine.frames_of(ours.tokens), oracle.frames_of(plain.tokens), atol=1e-5, rtol=1e-5
        )
    last, expected = (dream.step_with_logits(actions[0], False)[0] for dream in (ours, plain))
    assert last.tokens is None and torch.equal(last.rewards, expected.rewards)


@pytest.mark.parametrize("attention", ["causal", "block_causal"])
@pytest.mark.parametrize("launches", [2, 5])
def test_a_dream_is_the_oracles(launches: int, attention: str) -> None:
    options = GraphOptions(launches_per_layer=launches)  # type: ignore[arg-type]
    assert_the_oracles(Uncaptured(torch.device("cpu")), options, attention)


@pytest.mark.gpu
def test_on_a_gpu_a_dream_is_the_oracles() -> None:
    assert_the_oracles(CudaGraphs(torch.device("cuda", 0)), GraphOptions())


def test_dreams_at_once_do_not_disturb_each_other_and_a_later_one_takes_over_a_cache() -> None:
    agent = micro_agent()
    engine = CudaGraphEngine(agent, GraphOptions(), Uncaptured(torch.device("cpu")))
    first, action = torch.zeros(1, SLOTS, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
    alone = OracleEngine(agent).dream(first, PhiloxDraws(1))
    one, other = engine.dream(first, PhiloxDraws(1)), engine.dream(first + 1, PhiloxDraws(2))
    for _ in range(3):
        other.step_with_logits(action)
        found, expected = one.step_with_logits(action)[0], alone.step(action)
        assert found.tokens is not None and expected.tokens is not None
        assert torch.equal(found.tokens, expected.tokens)
    room = other._room
    del other
    gc.collect()
    assert engine.dream(first, PhiloxDraws(3))._room is room


def test_a_captured_step_never_looks_at_a_number_nor_leaves_the_device() -> None:
    agent = micro_agent()
    with fake_cuda():
        without_data(agent)
        passes = TokenPasses(InferenceWeights(agent.world_model, torch.float32), BATCH)
        whole = lambda *shape: torch.zeros(shape, dtype=torch.int64, device=DEVICE)  # noqa: E731
        inputs = {"seed": whole(), "step": whole(), "actions": whole(BATCH)}
        inputs |= {"tokens": whole(BATCH, SLOTS), "next_tokens": whole(BATCH, SLOTS)}
        for plan in (StepPlan(SLOTS, True, False, True), StepPlan(33, False, True, True)):
            step = DeviceStep(plan, passes)
            with OnDeviceAlone():
                assert step(inputs)["logits_observations"].shape[:2] == (BATCH, SLOTS)
