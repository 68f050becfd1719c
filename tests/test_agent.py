"""What the agent sees of a frame is what its tokenizer makes of it, by whichever way is the fastest."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from iris_fast.agent import Agent
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
    double = agent.double().seen(frames.double() / 255)
    torch.testing.assert_close(double.float(), expected, rtol=0, atol=1e-4)
