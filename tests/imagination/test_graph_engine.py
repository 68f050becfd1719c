"""The CUDA-graph engine: what it captures, run uncaptured on the CPU, in the interpreter and without data."""

from __future__ import annotations

import importlib
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from iris_fast.agent import Agent
from iris_fast.graphs import Uncaptured
from iris_fast.imagination.device_rollout import DeviceRollout, Stretch, stretches
from iris_fast.imagination.engine import ImaginationStart, Rollout
from iris_fast.imagination.frame_decoder import FrameDecoder
from iris_fast.imagination.graph_engine import CudaGraphEngine, GraphOptions
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.imagination.token_pass import InferenceWeights, TokenPasses
from iris_fast.kernels.common.triton import INTERPRETED
from iris_fast.models.actor_critic import LSTMState
from iris_fast.randomness import Purpose
from tests.support.agents import micro_agent
from tests.support.fake_device import DEVICE, LeavesTheDevice, OnDeviceAlone, fake_cuda, without_data

from .test_oracle import BATCH, HORIZON, make_start, rows, tensors

CPU = torch.device("cpu")
FLOAT32, BF16 = GraphOptions(), GraphOptions(dtype="bfloat16")
TWO, BF16_TWO = (replace(options, launches_per_layer=2) for options in (FLOAT32, BF16))
FORMS = pytest.mark.parametrize("options", [FLOAT32, TWO], ids=["five launches a layer", "two"])
EXACT = ("tokens", "actions", "rewards", "ends")


def uncaptured(agent: Agent, options: GraphOptions = FLOAT32) -> CudaGraphEngine:
    return CudaGraphEngine(agent, options, Uncaptured(CPU))


def assert_same_trajectory(found: Rollout, expected: Rollout) -> None:
    theirs = tensors(expected)
    for name, value in tensors(found).items():
        assert value.dtype == theirs[name].dtype, name
        if name in EXACT:
            assert torch.equal(value, theirs[name]), name
        else:
            torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-5, msg=name)
    for ours, theirs_state in zip(found.start_state, expected.start_state, strict=True):
        torch.testing.assert_close(ours, theirs_state)


@pytest.mark.parametrize("horizon", [1, 2, 4, 5, HORIZON, 13])  # the context has four blocks
@pytest.mark.parametrize("attention", ["causal", "block_causal"])
@FORMS
def test_same_seed_same_trajectory_as_the_oracle(options: GraphOptions, horizon: int, attention: str) -> None:
    agent = micro_agent(f"world_model.attention={attention}", "world_model.num_layers=2")
    expected = OracleEngine(agent).imagine(make_start(), horizon, seed=7)
    assert_same_trajectory(uncaptured(agent, options).imagine(make_start(), horizon, seed=7), expected)


@pytest.mark.parametrize("horizon", [HORIZON, 13])
def test_a_part_of_a_batch_is_imagined_as_in_the_whole(horizon: int) -> None:
    agent = micro_agent()
    engine, start = uncaptured(agent), make_start()
    whole = OracleEngine(agent).imagine(start, horizon, seed=7)
    for which in (slice(0, 2), slice(2, 4)):
        expected = Rollout._make(
            [*(value[which] for value in whole[:-1]), LSTMState(*(s[which] for s in whole[-1]))]
        )
        assert_same_trajectory(engine.imagine(rows(start, which), horizon, seed=7), expected)


@pytest.mark.parametrize("streams", [2, 3, BATCH + 1])
@pytest.mark.parametrize("horizon", [1, 13])
def test_parts_side_by_side_imagine_what_the_whole_batch_does(streams: int, horizon: int) -> None:
    agent = micro_agent()
    expected = OracleEngine(agent).imagine(make_start(), horizon, seed=7)
    engine = uncaptured(agent, replace(FLOAT32, streams=streams))
    assert_same_trajectory(engine.imagine(make_start(), horizon, seed=7), expected)


@pytest.mark.parametrize("seed", [0, 2**40 + 3, 2**63 - 1])
def test_one_capture_serves_every_seed_and_start(seed: int) -> None:
    agent = micro_agent()
    engine = uncaptured(agent)
    engine.imagine(make_start(), HORIZON, seed=1)
    start = make_start(seed=3)
    found = engine.imagine(start, HORIZON, seed=seed)
    assert_same_trajectory(found, OracleEngine(agent).imagine(start, HORIZON, seed=seed))


def test_a_rollout_is_the_callers_to_keep() -> None:
    agent = micro_agent()
    engine = uncaptured(agent)
    first = engine.imagine(make_start(), HORIZON, seed=1)
    kept = {name: value.clone() for name, value in tensors(first).items()}
    engine.imagine(make_start(seed=5), HORIZON, seed=2)
    assert all(torch.equal(value, kept[name]) for name, value in tensors(first).items())


@pytest.mark.parametrize("options", [FLOAT32, BF16, BF16_TWO], ids=["float32", "bfloat16", "bfloat16, two"])
@pytest.mark.parametrize("part", ["tokenizer", "world_model", "actor_critic"])
def test_new_weights_are_seen(options: GraphOptions, part: str) -> None:
    agent, other = micro_agent(), micro_agent(seed=1)
    engine = uncaptured(agent, options)
    old = engine.imagine(make_start(), 3, seed=0)
    agent.get_submodule(part).load_state_dict(other.get_submodule(part).state_dict())
    new = engine.imagine(make_start(), 3, seed=0)
    fresh = uncaptured(agent, options).imagine(make_start(), 3, seed=0)
    assert not torch.equal(new.logits_actions, old.logits_actions)
    for name, value in tensors(fresh).items():
        assert torch.equal(tensors(new)[name], value), name


def test_nothing_is_allocated_anew_for_new_weights_or_a_new_seed() -> None:
    agent = micro_agent()
    engine = uncaptured(agent, BF16)
    engine.imagine(make_start(), 3, seed=0)
    calls, passes = dict(engine._calls), dict(engine._passes)
    layer = engine._weights.layers[0]
    agent.weights_changed(in_place=True)
    engine.imagine(make_start(), 3, seed=1)
    assert engine._calls == calls and engine._passes == passes and engine._weights.layers[0] is layer


def test_parameters_that_were_moved_are_captured_anew() -> None:
    agent = micro_agent()
    engine = uncaptured(agent)
    engine.imagine(make_start(), 2, seed=0)
    for parameter in agent.parameters():
        parameter.data = parameter.data * 1.5
    agent.weights_changed()
    expected = OracleEngine(agent).imagine(make_start(), 2, seed=0)
    assert_same_trajectory(engine.imagine(make_start(), 2, seed=0), expected)


def test_stretches_rebuild_the_cache_where_the_oracle_does() -> None:
    config = micro_agent().world_model.config
    assert stretches(4, 2, 3, config) == [Stretch(2, 4, 3, True)]
    assert stretches(5, 2, 3, config) == [Stretch(2, 3, 3, False), Stretch(2, 2, None, True)]
    assert [s.steps for s in stretches(13, 2, 3, config)] == [3, 3, 3, 4]
    assert [(s.batch, s.first_row) for s in Stretch(7, 1, None, True, 5).parts(3)] == [
        (3, 5),
        (2, 8),
        (2, 10),
    ]
    with pytest.raises(ValueError, match="at least 1 step, not 0"):
        stretches(0, 2, 3, config)


def test_training_mode_and_a_device_without_graphs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"agent\.eval\(\)"):
        uncaptured(micro_agent().train()).imagine(make_start(), 1, seed=0)
    with pytest.raises(ValueError, match="needs a CUDA device, not cpu"):
        CudaGraphEngine(micro_agent())


def token_frequencies(
    agent: Agent, dtype: torch.dtype, seed: int, count: int, launches: Literal[2, 5] = 5
) -> torch.Tensor:
    """How often each of the second frame's first two tokens is drawn in `count` dreams from one frame and action."""
    passes = TokenPasses(InferenceWeights(agent.world_model, dtype), count, launches_per_layer=launches)
    first = make_start(1).first_tokens.expand(count, -1)
    drawn, address = [], torch.tensor(seed)
    with torch.no_grad():
        passes.feed(first, 0)
        x = passes.feed(torch.full((count, 1), agent.config.tokenizer.vocab_size + 1), 16)[:, 0]
        for slot in range(2):
            head = passes.weights.observations
            token = passes.draw(head, x, address, torch.tensor(17 + slot), Purpose.TOKEN)
            x = passes.feed(token[:, None], 17 + slot)[:, 0]
            drawn.append(torch.bincount(token, minlength=agent.config.tokenizer.vocab_size) / count)
    return torch.stack(drawn)


@pytest.mark.parametrize("launches", [5, 2])
def test_bfloat16_draws_from_the_same_distribution(launches: Literal[2, 5]) -> None:
    """Frequencies of 4,096 dreams lie as near to float32's as those of another seed do."""
    agent, count = micro_agent(), 4096
    one, other = (token_frequencies(agent, torch.float32, seed, count) for seed in (0, 1))
    low = token_frequencies(agent, torch.bfloat16, 2, count, launches)
    spread = float((one - other).abs().mean())
    assert 0 < spread < 0.01
    assert float((low - (one + other) / 2).abs().mean()) < 2 * spread
    uniform = 1 / agent.config.tokenizer.vocab_size
    assert float((low - uniform).abs().mean()) > 4 * spread, "the test could not tell a wrong distribution"


def test_bfloat16_decodes_the_same_frames() -> None:
    agent = micro_agent()
    tokens = make_start().first_tokens
    low = FrameDecoder(agent.tokenizer, torch.bfloat16).frames_of(tokens)
    exact = agent.tokenizer.frames_of(tokens)
    assert low.dtype == torch.float32
    assert float((low - exact).abs().mean()) < 0.02 * float(exact.std())


KERNELS = (
    *("layer_norm_linear", "cached_attention", "layer_norm_attention", "layer_norm_mlp"),
    *("linear_sample", "token_embedding", "sample_categorical"),
)


@pytest.mark.skipif(not INTERPRETED, reason="a GPU is used instead of the interpreter")
@FORMS
def test_with_every_kernel_in_the_interpreter(options: GraphOptions) -> None:
    """The launchers that a GPU would run, in Triton's interpreter, in place of the CPU references."""
    agent = micro_agent()
    start = make_start(2)
    launched: Counter[str] = Counter()
    with ExitStack() as patches:
        for name in KERNELS:
            module = importlib.import_module(f"iris_fast.kernels.{name}")
            on_cuda = getattr(module, f"_{name}")._operator._backend_fns["cuda"]

            def counted(*arguments: Any, name: str = name, on_cuda: Any = on_cuda) -> Any:
                launched[name] += 1
                return on_cuda(*arguments)

            patches.enter_context(mock.patch.object(getattr(module, f"_{name}"), "_operator", counted))
        found = uncaptured(agent, options).imagine(start, 2, seed=4)
    assert_same_trajectory(found, OracleEngine(agent).imagine(start, 2, seed=4))
    passes = 1 + 1 + 16 + 1
    runs = 2  # the capture and its replay
    whole = passes - 1 if options.launches_per_layer == 2 else 0  # but the first frame's 16 tokens at once
    assert launched["layer_norm_attention"] == launched["layer_norm_mlp"] == runs * whole
    assert launched["token_embedding"] == runs * passes
    assert launched["cached_attention"] == runs * (passes - whole)
    assert launched["layer_norm_linear"] == runs * ((passes - whole) * 4 + 16 + 4)
    assert launched["linear_sample"] == runs * (16 + 4) and launched["sample_categorical"] == runs * 2


def run_without_data(agent: Agent, options: GraphOptions, stretch: Stretch) -> dict[str, torch.Tensor]:
    without_data(agent)
    dtype = getattr(torch, options.dtype)
    passes = TokenPasses(
        InferenceWeights(agent.world_model, dtype),
        stretch.batch,
        options.precision,
        options.launches_per_layer,
    )
    rollout = DeviceRollout(stretch, agent.actor_critic, FrameDecoder(agent.tokenizer, dtype), passes)
    batch, width = stretch.batch, agent.config.actor_critic.lstm_dim
    inputs = {
        "seed": torch.zeros((), dtype=torch.int64, device=DEVICE),
        "first_step": torch.zeros((), dtype=torch.int64, device=DEVICE),
        "tokens": torch.zeros((batch, 16), dtype=torch.int64, device=DEVICE),
    }
    if stretch.burn_in is None:
        inputs |= {name: torch.zeros(batch, width, device=DEVICE) for name in ("hx", "cx")}
    else:
        inputs["burn_in_frames"] = torch.zeros(batch, stretch.burn_in, 3, 64, 64, device=DEVICE)
        inputs["burn_in_mask"] = torch.ones(batch, stretch.burn_in, dtype=torch.bool, device=DEVICE)
    with OnDeviceAlone():
        return rollout(inputs)


@pytest.mark.parametrize("options", [FLOAT32, BF16, TWO], ids=["float32", "bfloat16", "two launches"])
@pytest.mark.parametrize("stretch", [Stretch(2, 3, 3, True), Stretch(2, 2, None, False)])
def test_what_is_captured_never_looks_at_a_number_nor_leaves_the_device(
    options: GraphOptions, stretch: Stretch
) -> None:
    agent = micro_agent()
    with fake_cuda():
        outputs = run_without_data(agent, options, stretch)
        assert outputs["observations"].shape == (2, stretch.steps, 3, 64, 64)
        assert all(tensor.device == DEVICE for tensor in outputs.values())


def test_the_check_finds_looks_and_copies() -> None:
    with fake_cuda():
        x = torch.zeros(3, device=DEVICE)
        with pytest.raises(LeavesTheDevice), OnDeviceAlone():
            x.cpu()
        with pytest.raises(LeavesTheDevice), OnDeviceAlone():
            x + torch.ones(())
        for look in (lambda: x.sum().item(), lambda: bool(x[0] > 0)):
            with pytest.raises(DataDependentOutputException), OnDeviceAlone():
                look()


def on_gpu(start: ImaginationStart) -> ImaginationStart:
    return ImaginationStart(
        start.burn_in_frames.cuda(), start.burn_in_mask.cuda(), start.first_tokens.cuda(), start.first_row
    )


@pytest.mark.gpu
@pytest.mark.parametrize("horizon", [4, 9])
@pytest.mark.parametrize(
    "options", [FLOAT32, TWO, replace(FLOAT32, streams=2)], ids=["five", "two", "streams"]
)
def test_on_a_gpu_the_captured_rollout_is_the_oracles(options: GraphOptions, horizon: int) -> None:
    agent = micro_agent("world_model.num_layers=2").to("cuda")
    engine = CudaGraphEngine(agent, options)
    for seed in (0, 1):
        host = make_start(seed=seed)
        start = on_gpu(host)
        expected = OracleEngine(agent).imagine(start, horizon, seed)
        assert_same_trajectory(engine.imagine(start, horizon, seed), expected)


@pytest.mark.gpu
def test_on_a_gpu_replays_do_not_wait_for_the_host() -> None:
    agent = micro_agent().to("cuda")
    engine = CudaGraphEngine(agent, BF16)
    start = on_gpu(make_start(BATCH))
    engine.imagine(start, 4, seed=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        first, second = (engine.imagine(start, 4, seed=seed) for seed in (1, 2))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not torch.equal(first.tokens, second.tokens)
