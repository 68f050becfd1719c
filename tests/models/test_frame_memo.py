"""Frames remembered by their tokens equal decoded ones, within the memory limit."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.models.cpu_weights import require_extension
from iris_fast.models.frame_codec import FrameCodec
from tests.support.agents import micro_agent

FRAME_BYTES = 4 * 3 * 64 * 64


@pytest.fixture(scope="module")
def agent() -> Agent:
    return micro_agent()


def make_codec(agent: Agent, room: int = 1000) -> FrameCodec:
    """With room for so many frames."""
    pool = require_extension().ThreadPool(2)
    return FrameCodec(agent.tokenizer, pool, memo_bytes=room * FRAME_BYTES + 1)


def some_tokens(rows: int, seed: int = 0) -> Tensor:
    return torch.randint(16, (rows, 16), generator=torch.Generator().manual_seed(seed))


def test_the_same_frames_as_decoding_bit_for_bit(agent: Agent) -> None:
    codec, tokens = make_codec(agent), some_tokens(11)
    assert torch.equal(codec.frames_of(tokens, remember=True), codec.frames_of(tokens))
    assert codec.packed().remembered == 11
    # Known and new ones, in another order and twice over.
    order = torch.tensor([3, 0, 11, 3, 10, 12, 12])
    more = torch.cat([tokens, some_tokens(2, seed=1)])[order]
    assert torch.equal(codec.frames_of(more, remember=True), codec.frames_of(more))
    assert codec.packed().remembered == 13


def test_frames_of_other_weights_are_forgotten() -> None:
    agent = micro_agent()
    codec, tokens = make_codec(agent), some_tokens(3)
    old = codec.frames_of(tokens, remember=True)
    with torch.no_grad():
        agent.tokenizer.decoder.conv_out.weight.neg_()
    assert torch.equal(codec.frames_of(tokens, remember=True), old)
    agent.weights_changed("tokenizer")
    assert codec.packed().remembered == 0
    new = codec.frames_of(tokens, remember=True)
    assert not torch.equal(new, old) and torch.equal(new, codec.frames_of(tokens))
    codec.forget_frames()
    assert codec.packed().remembered == 0


def test_keeps_within_its_room(agent: Agent) -> None:
    room = 5
    codec = make_codec(agent, room)
    for seed in range(12):  # one new row at a time, as a rollout late in an epoch brings them
        tokens = some_tokens(1, seed)
        assert torch.equal(codec.frames_of(tokens, remember=True), codec.frames_of(tokens))
        assert codec.packed().remembered <= room
    assert codec.packed().remembered == room
    many = some_tokens(9, seed=20)
    assert torch.equal(codec.frames_of(many, remember=True), codec.frames_of(many))
    assert codec.packed().remembered == room


def test_what_was_given_out_can_be_written_on(agent: Agent) -> None:
    codec, tokens = make_codec(agent), some_tokens(2)
    first = codec.frames_of(tokens, remember=True)
    kept = first.clone()
    first.zero_()
    assert torch.equal(codec.frames_of(tokens, remember=True), kept)


def test_calls_from_several_threads_at_once(agent: Agent) -> None:
    codec, tokens = make_codec(agent), some_tokens(40)
    expected, found = codec.frames_of(tokens), dict[int, list[Tensor]]()

    def decode(rows: int) -> None:
        found[rows] = [codec.frames_of(tokens[:rows], remember=True) for _ in range(4)]

    threads = [threading.Thread(target=decode, args=(rows,)) for rows in (5, 20, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(frames, expected[:rows]) for rows, all_ in found.items() for frames in all_)
    assert len(found) == 3 and codec.packed().remembered <= 40


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_call_remembers_nothing_wrong(agent: Agent) -> None:
    codec = make_codec(agent, 10**6)
    many = some_tokens(100_000)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        codec.frames_of(many, remember=True)
    timer.join()
    assert torch.equal(codec.frames_of(many[:4], remember=True), codec.frames_of(many[:4]))
