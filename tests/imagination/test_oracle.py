"""The oracle: the content of a rollout, and what it may and may not depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.imagination.engine import ImaginationStart, Rollout
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.randomness import PhiloxDraws
from tests.support.agents import NUM_ACTIONS, micro_agent

BATCH, HORIZON, BURN_IN = 4, 6, 3


@pytest.fixture(scope="module")
def agent() -> Agent:
    return micro_agent()


def make_start(batch: int = BATCH, seed: int = 0) -> ImaginationStart:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(batch, BURN_IN, 3, 64, 64, generator=generator)
    mask = torch.arange(BURN_IN)[None] >= torch.arange(batch)[:, None] % (BURN_IN + 1)
    return ImaginationStart(frames, mask, torch.randint(16, (batch, 16), generator=generator))


def rows(start: ImaginationStart, which: slice) -> ImaginationStart:
    return ImaginationStart(
        start.burn_in_frames[which], start.burn_in_mask[which], start.first_tokens[which], which.start
    )


def tensors(rollout: Rollout) -> dict[str, Tensor]:
    return {name: value for name, value in rollout._asdict().items() if name != "start_state"}


def assert_same(first: Rollout, second: Rollout) -> None:
    for name, value in tensors(first).items():
        assert torch.equal(value, tensors(second)[name]), name


def test_shapes_and_dtypes(agent: Agent) -> None:
    rollout = OracleEngine(agent).imagine(make_start(), HORIZON, seed=0)
    expected = {
        "observations": ((3, 64, 64), torch.float32),
        "tokens": ((16,), torch.int64),
        "actions": ((), torch.int64),
        "rewards": ((), torch.float32),
        "ends": ((), torch.bool),
        "logits_actions": ((NUM_ACTIONS,), torch.float32),
        "values": ((), torch.float32),
    }
    found = tensors(rollout)
    assert found.keys() == expected.keys()
    for name, (shape, dtype) in expected.items():
        assert found[name].shape == (BATCH, HORIZON, *shape), name
        assert found[name].dtype == dtype, name
        assert not found[name].requires_grad
    assert all(part.shape == (BATCH, 8) and not part.requires_grad for part in rollout.start_state)
    assert rollout.observations.amin() >= 0
    assert rollout.observations.amax() <= 1
    assert set(rollout.rewards.unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_same_seed_same_rollout_other_seed_another(agent: Agent) -> None:
    start = make_start()
    first = OracleEngine(agent).imagine(start, HORIZON, seed=1)
    assert_same(first, OracleEngine(agent).imagine(start, HORIZON, seed=1))
    other = OracleEngine(agent).imagine(start, HORIZON, seed=2)
    assert not torch.equal(first.actions, other.actions)
    assert not torch.equal(first.tokens, other.tokens)
    assert torch.equal(first.tokens[:, 0], other.tokens[:, 0]), "both start from the same frame"


def test_pytorchs_random_state_is_neither_used_nor_changed(agent: Agent) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = OracleEngine(agent).imagine(make_start(), 2, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert_same(first, OracleEngine(agent).imagine(make_start(), 2, seed=1))


def test_the_policy_acts_on_the_frames_it_is_said_to_have_seen(agent: Agent) -> None:
    start = make_start()
    rollout = OracleEngine(agent).imagine(start, HORIZON, seed=3)
    assert torch.equal(rollout.tokens[:, 0], start.first_tokens)
    decoded = agent.tokenizer.frames_of(rollout.tokens.flatten(0, 1)).unflatten(0, (BATCH, HORIZON))
    torch.testing.assert_close(rollout.observations, decoded)
    state = agent.actor_critic.burn_in(start.burn_in_frames, start.burn_in_mask)
    for mine, theirs in zip(state, rollout.start_state, strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        policy = agent.actor_critic(rollout.observations, state)
    torch.testing.assert_close(rollout.logits_actions, policy.logits_actions)
    torch.testing.assert_close(rollout.values, policy.values)


def test_the_batch_split_does_not_matter(agent: Agent) -> None:
    """Rows with the same addresses imagine the same, whichever rows are beside them."""
    start, engine = make_start(), OracleEngine(agent)
    whole = tensors(engine.imagine_with(start, HORIZON, PhiloxDraws(4)))
    for which in (slice(0, 2), slice(2, 4), slice(1, 2)):
        part = tensors(engine.imagine(rows(start, which), HORIZON, seed=4))
        for name, value in part.items():
            torch.testing.assert_close(value, whole[name][which], msg=name)


def test_rows_at_other_addresses_imagine_something_else(agent: Agent) -> None:
    start, engine = make_start(), OracleEngine(agent)
    first = engine.imagine_with(start, HORIZON, PhiloxDraws(4))
    moved = engine.imagine_with(start, HORIZON, PhiloxDraws(4, first_row=BATCH))
    assert not torch.equal(first.tokens, moved.tokens)


def test_plays_on_past_the_context(agent: Agent) -> None:
    blocks = agent.world_model.config.max_blocks
    rollout = OracleEngine(agent).imagine(make_start(), 3 * blocks, seed=0)
    assert rollout.actions.shape == (BATCH, 3 * blocks)
    assert len(rollout.tokens[:, 2 * blocks :].unique()) > 4


def test_one_step_is_a_rollout(agent: Agent) -> None:
    rollout = OracleEngine(agent).imagine(make_start(), 1, seed=0)
    assert rollout.observations.shape == (BATCH, 1, 3, 64, 64)


@pytest.mark.parametrize("horizon", [0, -1])
def test_no_step_is_refused(agent: Agent, horizon: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1 step, not {horizon}"):
        OracleEngine(agent).imagine(make_start(), horizon, seed=0)


def test_training_mode_is_refused() -> None:
    agent = micro_agent().train()
    with pytest.raises(ValueError, match=r"evaluation mode: call agent\.eval\(\)"):
        OracleEngine(agent).imagine(make_start(), 1, seed=0)
