"""The agent sees its tokenizer's reconstruction of a frame, however it is computed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from iris_fast.acting import Policy
from iris_fast.agent import Agent
from iris_fast.graphs import Uncaptured
from iris_fast.imagination.engine import ImaginationStart
from iris_fast.models.frame_codec import FrameCodec
from tests.support.agents import micro_agent


@pytest.fixture
def agent() -> Agent:
    return micro_agent()


def some_frames(batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch, 3, 64, 64), generator=generator).to(torch.uint8)


def by_the_modules(agent: Agent, frames: Tensor) -> Tensor:
    return agent.tokenizer.frames_of(agent.tokenizer.tokens_of(frames.float() / 255))


def test_reconstructions_are_the_tokenizers(agent: Agent) -> None:
    frames = some_frames(5)
    torch.testing.assert_close(agent.reconstruct(frames), by_the_modules(agent, frames), rtol=0, atol=5e-5)
    with torch.no_grad():  # as a gradient step does
        agent.tokenizer.decoder.conv_out.weight.mul_(3)
    agent.weights_changed("tokenizer")
    torch.testing.assert_close(agent.reconstruct(frames), by_the_modules(agent, frames), rtol=0, atol=5e-5)


def test_a_copy_sees_by_its_own_weights(agent: Agent) -> None:
    frames = some_frames(2)
    before = agent.reconstruct(frames)
    other = copy.deepcopy(agent)
    with torch.no_grad():
        agent.tokenizer.decoder.conv_out.weight.neg_()
    agent.weights_changed("tokenizer")
    assert torch.equal(other.reconstruct(frames), before)
    assert not torch.equal(agent.reconstruct(frames), before)


def test_without_the_extension_or_in_another_precision_it_sees_by_the_modules(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = some_frames(2)
    expected = by_the_modules(agent, frames)

    def never(self: FrameCodec, rows: Tensor) -> Tensor:
        raise AssertionError("the codec was called")

    monkeypatch.setattr(FrameCodec, "frames_of", never)
    monkeypatch.setattr("iris_fast.models.frame_codec.find_extension", lambda: None)
    torch.testing.assert_close(agent.reconstruct(frames), expected)
    monkeypatch.undo()
    monkeypatch.setattr(FrameCodec, "frames_of", never)
    double = agent.double().reconstruct(frames.double() / 255)
    torch.testing.assert_close(double.float(), expected, rtol=0, atol=1e-4)


def act(agent: Agent, frames: Tensor) -> Tensor:
    return agent.policy(frames, agent.actor_critic.initial_state(len(frames))).logits_actions


def act_from_the_host(agent: Agent, frames: Tensor, graphs: Uncaptured | None = None) -> Tensor:
    return Policy(agent, graphs)(frames.numpy(), agent.actor_critic.initial_state(len(frames))).logits_actions


TAKES_FRAMES: dict[str, Callable[[Agent, Tensor], Tensor]] = {
    "reconstruct": Agent.reconstruct,
    "policy": act,
    "Policy": act_from_the_host,
    "Policy with graphs": lambda agent, frames: act_from_the_host(agent, frames, Uncaptured(agent.device)),
}


@pytest.mark.parametrize("name", TAKES_FRAMES)
def test_bytes_and_floats_in_zero_to_one_are_the_same_frames(agent: Agent, name: str) -> None:
    frames = some_frames(2)
    assert torch.equal(TAKES_FRAMES[name](agent, frames), TAKES_FRAMES[name](agent, frames.float() / 255))


@pytest.mark.parametrize("name", [*TAKES_FRAMES, "ImaginationStart"])
@pytest.mark.parametrize(
    ("frames", "refused"),
    [
        (torch.full((1, 3, 64, 64), 255.0), "not torch.float32 from 255 to 255"),
        (torch.full((1, 3, 64, 64), -1.0), "not torch.float32 from -1 to -1"),
        (torch.full((1, 3, 64, 64), float("nan")), "not torch.float32 from nan to nan"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.int64), "not torch.int64"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.bool), "not torch.bool"),
    ],
)
def test_other_frames_are_refused_by_dtype_or_range(
    agent: Agent, name: str, frames: Tensor, refused: str
) -> None:
    with pytest.raises(ValueError, match=f"^frames must be .*floats in .0, 1., {refused}"):
        if name == "ImaginationStart":
            ImaginationStart(frames[:, None], torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 16).long())
        else:
            TAKES_FRAMES[name](agent, frames)
