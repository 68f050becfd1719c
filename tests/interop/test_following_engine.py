"""The engine of `accelerate`: the device's default, always with the current weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from iris_fast.agent import PARTS, Agent
from iris_fast.errors import UserError
from iris_fast.graphs import Uncaptured
from iris_fast.imagination.cpu_engine import CpuEngine
from iris_fast.imagination.engine import EngineName, Rollout
from iris_fast.imagination.graph_engine import CudaGraphEngine, GraphOptions
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.interop import following_engine
from iris_fast.interop.following_engine import FollowingEngine
from iris_fast.kernels.common.extension import find_extension
from iris_fast.models.tokenizer import in_pieces
from tests.imagination.test_oracle import tensors
from tests.support.agents import micro_agent

BATCH, BURN_IN, HORIZON = 2, 2, 3
needs_extension = pytest.mark.skipif(find_extension() is None, reason="the C++ extension is not built")


def segments() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.ones(BATCH, BURN_IN + 1, dtype=torch.bool)
    mask[1, 0] = False
    return torch.rand(BATCH, BURN_IN + 1, 3, 64, 64, generator=torch.Generator().manual_seed(0)), mask


def following(agent: Agent, name: EngineName = "auto") -> FollowingEngine:
    return FollowingEngine(agent, {part: agent.get_submodule(part) for part in PARTS}, name)


def imagined(engine: FollowingEngine) -> Rollout:
    return engine.imagine(engine.start(*segments()), HORIZON, seed=3)


def oracles(agent: Agent) -> Rollout:
    return OracleEngine(agent).imagine(following(agent, "oracle").start(*segments()), HORIZON, seed=3)


def assert_same(found: Rollout, expected: Rollout) -> None:
    for name, value in tensors(found).items():
        torch.testing.assert_close(value, tensors(expected)[name], rtol=1e-4, atol=1e-5, msg=name)


def change(module: nn.Module) -> None:
    """As a fused optimizer does: in place, and PyTorch counts nothing."""
    for parameter in module.parameters():
        version = parameter._version
        parameter.data.mul_(1.1)
        assert parameter._version == version


def change_but_the_last(module: nn.Module) -> None:
    """Uncounted as well, and by a look at one element of each not to be seen."""
    for parameter in module.parameters():
        flat = parameter.data.as_strided((parameter.numel(),), (1,))  # the memory, in whatever layout
        flat[:-1] = flat[:-1].flip(0)


def assign(module: nn.Module) -> None:
    scaled = {name: 1.1 * tensor for name, tensor in module.state_dict().items()}
    module.load_state_dict(scaled, assign=True)


def replace_parameters(module: nn.Module) -> None:
    for child in list(module.modules()):
        for name, parameter in list(child.named_parameters(recurse=False)):
            setattr(child, name, nn.Parameter(1.1 * parameter.detach()))


CHANGES = [change, change_but_the_last, assign, replace_parameters]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("how", CHANGES)
def test_new_weights_are_seen_untold(part: str, how: Callable[[nn.Module], None]) -> None:
    see_new_weights(following(micro_agent()), how, part)


@pytest.mark.parametrize("how", CHANGES)
def test_new_weights_are_seen_untold_on_a_gpu(
    how: Callable[[nn.Module], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a GPU's engine, uncaptured, which is told of every part each time."""
    made = lambda agent, *_: CudaGraphEngine(agent, GraphOptions(), Uncaptured(agent.device))  # noqa: E731
    monkeypatch.setattr(following_engine, "make_engine", made)
    monkeypatch.setattr(FollowingEngine, "_changed_parts", lambda self: list(PARTS))
    see_new_weights(following(micro_agent()), how, *PARTS)


def see_new_weights(followed: FollowingEngine, how: Callable[[nn.Module], None], *parts: str) -> None:
    agent = followed.agent
    before = imagined(followed)
    assert_same(before, oracles(agent))
    for part in parts:
        how(agent.get_submodule(part))
    after = imagined(followed)
    assert not torch.equal(after.logits_actions, before.logits_actions)
    assert_same(after, oracles(agent))


@needs_extension
def test_what_has_not_changed_is_not_packed_nor_decoded_anew() -> None:
    followed = following(micro_agent())
    engine = followed.engine
    assert isinstance(engine, CpuEngine)
    imagined(followed)
    model, codec = engine._model, engine.codec.packed()
    imagined(followed)
    assert engine._model is model and engine.codec.packed() is codec and engine.frames_remembered > BATCH
    change(followed.agent.actor_critic)
    imagined(followed)
    assert engine._model is model


@needs_extension
def test_the_engine_is_the_devices_or_the_one_asked_for() -> None:
    agent = micro_agent()
    assert type(following(agent).engine) is CpuEngine
    assert type(following(agent, "oracle").engine) is OracleEngine
    with pytest.raises(UserError, match="runs on a GPU, not on cpu"):
        following(agent, "cuda_graph")


@needs_extension
def test_an_agent_that_was_moved_gets_an_engine_anew() -> None:
    followed = following(micro_agent())
    imagined(followed)
    followed.agent.double()
    frames, mask = segments()
    followed.start(frames.double(), mask)
    assert type(followed.engine) is OracleEngine
    followed.agent.float()
    assert_same(imagined(followed), oracles(followed.agent))
    assert type(followed.engine) is CpuEngine


def test_the_start_is_what_the_tokenizer_sees() -> None:
    agent = micro_agent()
    frames, mask = segments()
    start = following(agent).start(frames, mask)
    tokenizer = agent.tokenizer
    before = frames[:, :-1].flatten(0, 1)
    seen = in_pieces(lambda rows: tokenizer.frames_of(tokenizer.tokens_of(rows)), before, pad=True)
    torch.testing.assert_close(start.burn_in_frames.flatten(0, 1), seen, rtol=1e-4, atol=1e-5)
    assert torch.equal(start.first_tokens, tokenizer.tokens_of(frames[:, -1]))
    assert torch.equal(start.burn_in_mask, mask[:, :-1])
