"""Frames remembered by their tokens are those that decoding gives, within the room there is."""

from __future__ import annotations

import pytest
import torch

from iris_fast.agent import Agent
from iris_fast.imagination import frame_memo
from iris_fast.imagination.frame_memo import FrameMemo
from iris_fast.models.tokenizer import in_pieces
from tests.support.agents import micro_agent

FRAME_BYTES = 4 * 3 * 64 * 64


@pytest.fixture(scope="module")
def agent() -> Agent:
    return micro_agent()


def some_tokens(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(16, (rows, 16), generator=torch.Generator().manual_seed(seed))


def held_bytes(memo: FrameMemo) -> int:
    """Memory that the remembered frames keep alive."""
    storages = {frame.untyped_storage().data_ptr(): frame.untyped_storage() for frame in memo._frames}
    return sum(storage.nbytes() for storage in storages.values())


def test_the_same_frames_as_decoding_bit_for_bit(agent: Agent) -> None:
    memo = FrameMemo(agent.tokenizer)
    tokens = some_tokens(11)
    plain = in_pieces(agent.tokenizer.frames_of, tokens, pad=True)
    assert torch.equal(memo.frames_of(tokens), plain)
    torch.testing.assert_close(plain, agent.tokenizer.frames_of(tokens))
    # Known and new ones, in another order and twice over.
    order = torch.tensor([3, 0, 11, 3, 10, 12, 12])
    more = torch.cat([tokens, some_tokens(2, seed=1)])[order]
    assert torch.equal(memo.frames_of(more), in_pieces(agent.tokenizer.frames_of, more, pad=True))


def test_each_distinct_row_is_decoded_once(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    memo, decoded = FrameMemo(agent.tokenizer), []
    decode = agent.tokenizer.frames_of

    def counting(tokens: torch.Tensor) -> torch.Tensor:
        decoded.append(len(tokens))
        return decode(tokens)

    monkeypatch.setattr(agent.tokenizer, "frames_of", counting)
    tokens = some_tokens(3)
    memo.frames_of(tokens[[0, 1, 0, 1]])
    memo.frames_of(tokens[[1, 0]])
    assert len(decoded) == 1
    memo.frames_of(tokens)
    assert len(decoded) == 2
    assert memo.misses == 3


def test_forgets() -> None:
    agent = micro_agent()
    memo, tokens = FrameMemo(agent.tokenizer), some_tokens(3)
    old = memo.frames_of(tokens)
    with torch.no_grad():
        agent.tokenizer.decoder.conv_out.weight.neg_()
    assert torch.equal(memo.frames_of(tokens), old)
    agent.weights_changed("tokenizer")
    memo.bring_up_to_date()
    assert held_bytes(memo) == 0
    torch.testing.assert_close(memo.frames_of(tokens), agent.tokenizer.frames_of(tokens))


def test_keeps_within_its_room(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    room = 5
    monkeypatch.setattr(frame_memo, "MAX_BYTES", room * FRAME_BYTES + 1)
    memo = FrameMemo(agent.tokenizer)
    for seed in range(12):  # one new row at a time, as a rollout late in an epoch brings them
        tokens = some_tokens(1, seed)
        expected = in_pieces(agent.tokenizer.frames_of, tokens, pad=True)
        assert torch.equal(memo.frames_of(tokens), expected)
        assert held_bytes(memo) <= room * FRAME_BYTES
    assert held_bytes(memo) == room * FRAME_BYTES
    many = some_tokens(9, seed=20)
    assert torch.equal(memo.frames_of(many), in_pieces(agent.tokenizer.frames_of, many, pad=True))
    assert held_bytes(memo) == room * FRAME_BYTES


def test_what_was_given_out_can_be_written_on(agent: Agent) -> None:
    memo, tokens = FrameMemo(agent.tokenizer), some_tokens(2)
    first = memo.frames_of(tokens)
    kept = first.clone()
    first.zero_()
    assert torch.equal(memo.frames_of(tokens), kept)
