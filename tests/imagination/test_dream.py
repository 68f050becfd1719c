"""The dream samples from the world model's predictions for the same tokens, and continues past the context."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iris_fast.imagination.dream import Dream
from iris_fast.models.transformer import TransformerConfig
from iris_fast.models.world_model import WorldModel, WorldModelOutput
from iris_fast.randomness import PhiloxDraws, Purpose
from tests.support.agents import NUM_ACTIONS, make_world_model, small_transformer

BATCH = 3
VOCABULARY = 11


class RememberedDraws(PhiloxDraws):
    """Addressed draws that keep the logits of each address."""

    def __init__(self, seed: int):
        super().__init__(seed)
        self.logits: dict[tuple[Purpose, int], Tensor] = {}

    def sample(self, logits: Tensor, position: int, purpose: Purpose) -> Tensor:
        assert (purpose, position) not in self.logits, "an address is used once"
        self.logits[purpose, position] = logits
        return super().sample(logits, position, purpose)


def play(model: WorldModel, steps: int, seed: int = 0) -> tuple[RememberedDraws, Tensor, Tensor, list[int]]:
    """Draws, frames' tokens `(batch, steps + 1, tokens)`, actions `(batch, steps)`, cache lengths."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(VOCABULARY, (BATCH, model.frame_tokens), generator=generator)
    actions = torch.randint(NUM_ACTIONS, (BATCH, steps), generator=generator)
    draws = RememberedDraws(seed)
    dream = Dream(model, first, draws)
    tokens, lengths = [first], []
    for step in range(steps):
        outcome = dream.step(actions[:, step])
        assert outcome.tokens is not None
        tokens.append(outcome.tokens)
        lengths.append(dream.cache.length)
    return draws, torch.stack(tokens, dim=1), actions, lengths


def double_model(**sizes: object) -> WorldModel:
    return make_world_model(small_transformer(**sizes), VOCABULARY).double()


def assert_step_predicted(
    model: WorldModel, draws: RememberedDraws, step: int, output: WorldModelOutput, time: int
) -> None:
    """The logits drawn from at `step` are the full pass's at its block `time`."""
    slots, block = model.frame_tokens, model.config.tokens_per_block
    position = step * block + slots
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-5)  # noqa: E731
    close(draws.logits[Purpose.REWARD, position], output.logits_rewards[:, time])
    close(draws.logits[Purpose.END, position], output.logits_ends[:, time])
    # A block's action predicts the next frame's first token, its positions 0 to slots - 2 its own next ones.
    for slot in range(slots):
        index = time * slots + slots - 1 + slot
        if index < output.logits_observations.shape[1]:
            drawn = draws.logits[Purpose.TOKEN, (step + 1) * block + slot]
            close(drawn, output.logits_observations[:, index])


def test_samples_come_from_the_full_pass_over_the_same_tokens() -> None:
    model = double_model()
    draws, tokens, actions, lengths = play(model, 3)
    assert lengths == [9, 14, 19]
    with torch.no_grad():
        output = model(tokens[:, :3], actions)
    for step in range(3):
        assert_step_predicted(model, draws, step, output, step)


def test_past_the_context_only_the_current_frame_is_remembered() -> None:
    model = double_model()
    draws, tokens, actions, lengths = play(model, 7)
    assert lengths == [9, 14, 19, 9, 14, 19, 9]
    with torch.no_grad():
        output = model(tokens[:, 3:6], actions[:, 3:6])
    for step in range(3, 6):
        assert_step_predicted(model, draws, step, output, step - 3)


def test_cache_lengths_of_the_papers_context() -> None:
    config = TransformerConfig(num_layers=1, num_heads=2, embed_dim=16)
    assert config.max_tokens == 340
    _, tokens, _, lengths = play(make_world_model(config, VOCABULARY), 22)
    once = list(range(33, 340, 17))
    assert lengths == [*once, 33, 50, 67]
    assert once[-1] == 339
    assert tokens.shape == (BATCH, 23, 16)


def test_the_last_step_fills_the_context_to_the_last_token() -> None:
    model = make_world_model(small_transformer(), VOCABULARY)
    dream = Dream(model, torch.zeros(BATCH, 4, dtype=torch.int64), PhiloxDraws(0))
    actions = torch.zeros(BATCH, dtype=torch.int64)
    for _ in range(3):
        dream.step(actions)
    outcome = dream.step(actions, generate_frame=False)
    assert outcome.tokens is None
    assert dream.cache.length == model.config.max_tokens == 20
    dream.step(actions)
    assert dream.cache.length == 9


def test_what_a_step_gives() -> None:
    model = make_world_model(small_transformer(), VOCABULARY)
    dream = Dream(model, torch.zeros(64, 4, dtype=torch.int64), PhiloxDraws(0))
    outcome = dream.step(torch.zeros(64, dtype=torch.int64))
    assert outcome.rewards.dtype == torch.float32
    assert set(outcome.rewards.tolist()) == {-1.0, 0.0, 1.0}
    assert outcome.ends.dtype == torch.bool
    assert outcome.tokens is not None
    assert outcome.tokens.dtype == torch.int64
    assert outcome.tokens.shape == (64, 4)
    assert len(outcome.tokens.unique()) > 2


@pytest.mark.parametrize("classes", [2, 5])
def test_draws_are_addressed_by_row_position_and_purpose(classes: int) -> None:
    logits = torch.zeros(400, classes)
    draws = PhiloxDraws(5)
    drawn = draws.sample(logits, 7, Purpose.TOKEN)
    assert torch.equal(drawn, PhiloxDraws(5).sample(logits, 7, Purpose.TOKEN))
    assert torch.equal(drawn[300:], PhiloxDraws(5, first_row=300).sample(logits[300:], 7, Purpose.TOKEN))
    for other in (
        draws.sample(logits, 8, Purpose.TOKEN),
        draws.sample(logits, 7, Purpose.ACTION),
        PhiloxDraws(6).sample(logits, 7, Purpose.TOKEN),
        PhiloxDraws(5, first_row=1).sample(logits, 7, Purpose.TOKEN),
    ):
        agreement = float((drawn == other).float().mean())
        assert abs(agreement - 1 / classes) < 4 / 400**0.5
