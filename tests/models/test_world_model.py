"""The inputs of each prediction of the world model, and the steps its losses ignore."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.models.transformer import TransformerConfig
from iris_fast.models.world_model import WorldModel
from tests.support.agents import NUM_ACTIONS, make_world_model, small_transformer

BATCH, TIME, SLOTS, VOCABULARY = 3, 4, 4, 11
LENGTHS = (4, 2, 1)  # steps that are not padding in each row
Batch = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return make_world_model(small_transformer(), VOCABULARY).double()


def make_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return {
        "tokens": torch.randint(VOCABULARY, (BATCH, TIME, SLOTS), generator=generator),
        "actions": torch.randint(NUM_ACTIONS, (BATCH, TIME), generator=generator),
        "rewards": 7 * torch.randn(BATCH, TIME, generator=generator),
        "ends": torch.rand(BATCH, TIME, generator=generator) < 0.5,
        "mask_padding": torch.arange(TIME)[None] < torch.tensor(LENGTHS)[:, None],
    }


def test_the_losses_by_their_definition(model: WorldModel) -> None:
    """Every prediction that has a target which is not padding, one at a time."""
    batch = make_batch()
    output = model(batch["tokens"], batch["actions"])
    observations, rewards, ends = [], [], []
    for row, length in enumerate(LENGTHS):
        flat = batch["tokens"][row, :length].flatten()
        for token in range(1, len(flat)):
            observations.append(F.cross_entropy(output.logits_observations[row, token - 1], flat[token]))
        for step in range(length):
            sign = int(torch.sign(batch["rewards"][row, step])) + 1
            rewards.append(F.cross_entropy(output.logits_rewards[row, step], torch.tensor(sign)))
            ends.append(F.cross_entropy(output.logits_ends[row, step], batch["ends"][row, step].long()))
    found = model.losses(**batch)
    assert set(found) == {"loss_obs", "loss_rewards", "loss_ends"}
    for name, terms in (("loss_obs", observations), ("loss_rewards", rewards), ("loss_ends", ends)):
        torch.testing.assert_close(found[name], torch.stack(terms).mean(), rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing(model: WorldModel) -> None:
    batch, other = make_batch(0), make_batch(1)
    padded = ~batch["mask_padding"]
    changed = {
        name: torch.where(padded.view(BATCH, TIME, *[1] * (value.dim() - 2)), other[name], value)
        for name, value in batch.items()
        if name != "mask_padding"
    }
    assert any(not torch.equal(changed[name], batch[name]) for name in changed)
    before = model.losses(**batch)
    after = model.losses(**changed, mask_padding=batch["mask_padding"])
    for name, loss in before.items():
        assert torch.equal(after[name], loss), name


def test_the_last_actions_observation_has_no_target(model: WorldModel) -> None:
    batch = make_batch()
    batch["mask_padding"] = torch.ones(BATCH, TIME, dtype=torch.bool)
    changed = dict(batch, actions=batch["actions"].clone())
    changed["actions"][:, -1] = (batch["actions"][:, -1] + 1) % NUM_ACTIONS
    before, after = model.losses(**batch), model.losses(**changed)
    assert torch.equal(before["loss_obs"], after["loss_obs"])
    assert not torch.equal(before["loss_rewards"], after["loss_rewards"])
    assert not torch.equal(before["loss_ends"], after["loss_ends"])
    changed["actions"][:, -2] = (batch["actions"][:, -2] + 1) % NUM_ACTIONS
    assert not torch.equal(before["loss_obs"], model.losses(**changed)["loss_obs"])


def test_what_predicts_what(model: WorldModel) -> None:
    """Prediction i is made from all before flat frame token i + 1, and from nothing at or after it."""
    batch = make_batch()
    before = model(batch["tokens"], batch["actions"])
    assert before.logits_observations.shape == (BATCH, TIME * SLOTS, VOCABULARY)
    for target in (1, 3, 4, 9):
        tokens = batch["tokens"].clone()
        changed_token = tokens[:, target // SLOTS, target % SLOTS]  # a view
        changed_token.copy_((changed_token + 1) % VOCABULARY)
        after = model(tokens, batch["actions"])
        changed = (after.logits_observations != before.logits_observations).any(dim=2).any(dim=0)
        # The last token of a frame predicts nothing itself: the action after it does.
        first = target if target % SLOTS < SLOTS - 1 else target // SLOTS * SLOTS + SLOTS - 1
        assert changed.tolist() == [index >= first for index in range(TIME * SLOTS)]
        at_action = (after.logits_rewards != before.logits_rewards).any(dim=2).any(dim=0)
        assert at_action.tolist() == [step >= target // SLOTS for step in range(TIME)]


def test_an_action_predicts_reward_end_and_the_next_frames_first_token(model: WorldModel) -> None:
    batch = make_batch()
    before = model(batch["tokens"], batch["actions"])
    actions = batch["actions"].clone()
    actions[:, 1] = (actions[:, 1] + 1) % NUM_ACTIONS
    after = model(batch["tokens"], actions)
    changed = (after.logits_observations != before.logits_observations).any(dim=2).any(dim=0)
    assert changed.tolist() == [index >= 2 * SLOTS - 1 for index in range(TIME * SLOTS)]
    for name in ("logits_rewards", "logits_ends"):
        steps = (getattr(after, name) != getattr(before, name)).any(dim=2).any(dim=0)
        assert steps.tolist() == [False, True, True, True]


@torch.no_grad()
def test_cached_steps_are_the_full_pass(model: WorldModel) -> None:
    batch = make_batch()
    cache, features = model.new_cache(BATCH), []
    for step in range(TIME):
        tokens = model.embedder.tokens(batch["tokens"][:, step])
        for part in (*tokens.split(1, dim=1), model.embedder.actions(batch["actions"][:, step])[:, None]):
            features.append(model.step(part, cache))
    full = model(batch["tokens"], batch["actions"]).features
    torch.testing.assert_close(torch.cat(features, dim=1), full)
    cache.reset()
    whole_frame = model.step(model.embedder.tokens(batch["tokens"][:, 0]), cache)
    torch.testing.assert_close(whole_frame, full[:, :SLOTS])


def test_initialisation() -> None:
    torch.manual_seed(0)
    model = WorldModel(TransformerConfig(num_layers=2, embed_dim=64, max_blocks=4), 64, 6)
    matrices = [p for name, p in model.named_parameters() if p.dim() == 2]
    for parameter in matrices:
        if parameter.numel() > 2000:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1)
            assert abs(parameter.mean().item()) < 0.002
    flat = {name: p.detach() for name, p in model.named_parameters() if p.dim() == 1}
    for name, values in flat.items():
        is_norm_weight = ".ln" in name and name.endswith("weight")
        assert (values == float(is_norm_weight)).all(), name
    assert model.num_actions == 6
    assert model.frame_tokens == 16
