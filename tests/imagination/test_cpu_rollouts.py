"""The C++ engine's rollouts are the oracle's, and follow the weights."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from iris_fast.agent import Agent
from iris_fast.imagination.cpu_engine import (
    CpuEngine,
    CpuOptions,
)
from iris_fast.imagination.dream import Dream
from iris_fast.imagination.engine import ImaginationStart, Rollout
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.kernels import philox_uniform
from iris_fast.models.world_model import WorldModel
from iris_fast.randomness import PhiloxDraws, Purpose
from iris_fast.training.parts import adam
from tests.imagination.test_oracle import tensors
from tests.support.agents import NUM_ACTIONS, micro_agent

VOCABULARY = 16  # of the micro agent
STATE_ROUNDING = 1e-5  # of frames and of what the policy makes of them, all of the order of 1


def first_difference(ours: Rollout, theirs: Rollout, row: int) -> tuple[int, str] | None:
    """The first step at which a row's samples differ, and in what."""
    for step in range(ours.actions.shape[1]):
        for name in ("tokens", "actions", "rewards", "ends"):
            if not torch.equal(getattr(ours, name)[row, step], getattr(theirs, name)[row, step]):
                return step, name
    return None


def gap(
    logits: Tensor, choices: tuple[int, int], seed: int, row: int, position: int, purpose: Purpose
) -> float:
    """How far u is from the running sums of p between two choices: the furthest, as a share of the sum."""
    running = torch.softmax(logits.double(), dim=-1).cumsum(dim=-1)
    u = philox_uniform(seed, torch.tensor(row), position, int(purpose))
    between = running[min(choices) : max(choices)]
    return float((between - u.double()).abs().amax())


def assert_same_but_for_rounding(agent: Agent, ours: Rollout, theirs: Rollout, seed: int) -> int:
    """Rows are equal up to a first difference, where both choices lie within rounding. How many rows differ.

    Of what is not drawn, all that comes before the difference agrees to rounding.
    """
    differing = 0
    for mine, other in zip(ours.start_state, theirs.start_state, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=STATE_ROUNDING)
    model = agent.world_model
    block, slots = model.config.tokens_per_block, model.frame_tokens
    for row in range(ours.actions.shape[0]):
        found = first_difference(ours, theirs, row)
        step, name = found or (ours.actions.shape[1], "")
        same = step + (name not in ("", "tokens"))  # a step's frame and policy come before what it draws
        for field in ("observations", "logits_actions", "values"):
            mine, other = getattr(ours, field)[row, :same], getattr(theirs, field)[row, :same]
            torch.testing.assert_close(mine, other, rtol=0, atol=STATE_ROUNDING)
        if found is None:
            continue
        differing += 1
        assert step > 0 or name != "tokens", "both start from the same frame"
        mine, other = getattr(ours, name)[row, step], getattr(theirs, name)[row, step]
        slot = slots
        if name == "tokens":
            slot = int((mine != other).nonzero()[0])
            mine, other = mine[slot], other[slot]
        choices = (int(mine), int(other))
        if name == "rewards":
            choices = (choices[0] + 1, choices[1] + 1)
        if name == "actions":
            logits, position, purpose = theirs.logits_actions[row, step], step * block + slots, Purpose.ACTION
        else:
            purpose = {"tokens": Purpose.TOKEN, "rewards": Purpose.REWARD, "ends": Purpose.END}[name]
            position = step * block + slot
            logits = oracle_logits(model, theirs, row, seed)[purpose, position]
        assert gap(logits, choices, seed, row, position, purpose) < 1e-5
    return differing


def oracle_logits(
    model: WorldModel, rollout: Rollout, row: int, seed: int
) -> dict[tuple[Purpose, int], Tensor]:
    """What the oracle drew a row's samples from."""

    class Remembered(PhiloxDraws):
        def sample(self, logits: Tensor, position: int, purpose: Purpose) -> Tensor:
            found[purpose, position] = logits[0]
            return super().sample(logits, position, purpose)

    found: dict[tuple[Purpose, int], Tensor] = {}
    dream = Dream(model, rollout.tokens[row : row + 1, 0], Remembered(seed, first_row=row))
    for step in range(rollout.actions.shape[1]):
        dream.step(rollout.actions[row : row + 1, step], generate_frame=step < rollout.actions.shape[1] - 1)
    return found


def make_start(agent: Agent, batch: int, seed: int = 0, burn_in: int = 2) -> ImaginationStart:
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(batch, burn_in, 3, 64, 64, generator=generator)
    mask = torch.ones(batch, burn_in, dtype=torch.bool)
    return ImaginationStart(frames, mask, torch.randint(16, (batch, 16), generator=generator))


def assert_same_rollout(first: Rollout, second: Rollout) -> None:
    for name in Rollout._fields:
        mine, theirs = getattr(first, name), getattr(second, name)
        pairs = zip(mine, theirs, strict=True) if name == "start_state" else [(mine, theirs)]
        assert all(torch.equal(a, b) for a, b in pairs), name


@pytest.fixture(scope="module")
def agent() -> Agent:
    return micro_agent()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_oracles_rollout(agent: Agent, seed: int) -> None:
    """Longer than the context, with a batch that the groups do not divide."""
    horizon = agent.world_model.config.max_blocks + 2
    start = make_start(agent, 7, seed)
    theirs = OracleEngine(agent).imagine(start, horizon, seed)
    ours = CpuEngine(agent, CpuOptions(threads=2, group_size=3)).imagine(start, horizon, seed)
    assert assert_same_but_for_rounding(agent, ours, theirs, seed) <= 1
    for name, value in tensors(ours).items():
        assert value.dtype == getattr(theirs, name).dtype
        assert value.shape == getattr(theirs, name).shape


def changed(rollout: Rollout, name: str) -> Rollout:
    """The rollout with one number of one row changed."""
    other = copy.deepcopy(rollout)
    value = other.start_state.cx if name == "start_state" else getattr(other, name)
    place = (2, 1, *[0] * (value.dim() - 2))
    classes = {"tokens": VOCABULARY, "actions": NUM_ACTIONS, "ends": 2}
    if name == "rewards":
        value[place] = (value[place] + 2) % 3 - 1
    elif name in classes:
        value[place] = (value[place].long() + 1) % classes[name]
    else:
        value[place] += 1e-4
    return other


def test_a_difference_that_is_not_rounding_is_seen(agent: Agent) -> None:
    """The check of the test above fails for a rollout with one number changed, whichever it is."""
    start = make_start(agent, 4)
    theirs = OracleEngine(agent).imagine(start, 3, 0)
    ours = CpuEngine(agent, CpuOptions(threads=1)).imagine(start, 3, 0)
    assert_same_but_for_rounding(agent, ours, theirs, 0)
    for name in Rollout._fields:
        with pytest.raises(AssertionError):
            assert_same_but_for_rounding(agent, changed(ours, name), theirs, 0)


@pytest.mark.parametrize("burn_in", [0, 3])
def test_one_call_is_its_parts_called_step_by_step(agent: Agent, burn_in: int) -> None:
    """Bit for bit: past the context, with rows that start later, at addresses of 32 bits."""
    engine, start = CpuEngine(agent, CpuOptions(threads=2)), make_start(agent, 5, burn_in=burn_in)
    start.burn_in_mask[1, :1] = False
    start.burn_in_mask[3] = False
    draws, horizon = PhiloxDraws(2**63 + 9, first_row=2**31), agent.world_model.config.max_blocks + 2
    found = engine.imagine_with(start, horizon, draws)
    state = engine.policy.burn_in(start.burn_in_frames, start.burn_in_mask)
    assert all(map(torch.equal, found.start_state, state))
    dream, block = engine.dream(start.first_tokens, draws), agent.world_model.config.tokens_per_block
    for step in range(horizon):
        frames, tokens = engine.codec.frames_of(dream.tokens), dream.tokens
        policy = engine.policy(frames.unsqueeze(1), state)
        actions = draws.sample(policy.logits_actions[:, 0], step * block + block - 1, Purpose.ACTION)
        outcome = dream.step(actions, generate_frame=step < horizon - 1)
        state = policy.state
        one = (policy.logits_actions[:, 0], policy.values[:, 0])
        expected = (frames, tokens, actions, outcome.rewards, outcome.ends, *one)
        for name, value in zip(tensors(found), expected, strict=True):
            assert torch.equal(tensors(found)[name][:, step], value), (name, step)


def test_a_frame_is_decoded_once_in_all_rollouts_of_a_version() -> None:
    agent = micro_agent()
    engine, start = CpuEngine(agent, CpuOptions(threads=1)), make_start(agent, 3)
    distinct = len(engine.imagine(start, 4, 0).tokens.flatten(0, 1).unique(dim=0))
    assert engine.frames_remembered == 12 - distinct
    engine.imagine(start, 4, 0)
    assert engine.frames_remembered == 24 - distinct
    assert engine.codec.packed().remembered == distinct


def test_what_does_not_fit_is_named(agent: Agent) -> None:
    engine, start = CpuEngine(agent), make_start(agent, 2)
    for change, error, message in (
        ({"burn_in_mask": start.burn_in_mask[:1]}, ValueError, r"burn_in_mask must have shape \(2, 2\)"),
        ({"burn_in_mask": start.burn_in_mask.long()}, TypeError, "burn_in_mask must be bool"),
        (
            {"burn_in_frames": start.burn_in_frames[:, :1]},
            ValueError,
            r"burn_in_frames must have shape \(2, 2,",
        ),
        ({"burn_in_frames": start.burn_in_frames.double()}, TypeError, "burn_in_frames must be float32"),
        ({"first_tokens": start.first_tokens + 16}, ValueError, r"first_tokens must be in \[0, 16\)"),
    ):
        with pytest.raises(error, match=message):  # type: ignore[call-overload]
            engine.imagine(replace(start, **change), 2, 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"horizon must be in \[1, "):
        engine.imagine(start, 2**50, 0)


def test_an_engine_repeats_itself_whatever_it_ran_before(agent: Agent) -> None:
    engine = CpuEngine(agent, CpuOptions(threads=1))
    start = make_start(agent, 3)
    first = engine.imagine(start, 4, seed=1)
    engine.imagine(make_start(agent, 3, seed=5), 3, seed=2)
    engine.imagine(make_start(agent, 2, seed=6), 2, seed=3)
    assert_same_rollout(first, engine.imagine(start, 4, seed=1))
    assert not torch.equal(first.tokens, engine.imagine(start, 4, seed=2).tokens)


def test_weights_are_packed_again_when_they_changed() -> None:
    agent = micro_agent()
    engine = CpuEngine(agent, CpuOptions(threads=1))
    start = make_start(agent, 4)
    before = engine.imagine(start, 3, seed=1)
    with torch.no_grad():
        agent.world_model.pos_emb.weight.neg_()
    agent.weights_changed("world_model")
    after = engine.imagine(start, 3, seed=1)
    assert not torch.equal(before.tokens, after.tokens)
    assert_same_but_for_rounding(agent, after, OracleEngine(agent).imagine(start, 3, seed=1), seed=1)


def test_draws_of_another_kind_are_the_oracles(agent: Agent) -> None:
    class OtherDraws(PhiloxDraws):
        pass

    with pytest.raises(TypeError, match="draws by Philox, not by OtherDraws: use OracleEngine"):
        CpuEngine(agent).imagine_with(make_start(agent, 2), 2, OtherDraws(0))


def test_refuses_what_the_oracle_refuses(agent: Agent) -> None:
    engine, start = CpuEngine(agent), make_start(agent, 2)
    with pytest.raises(ValueError, match="horizon"):
        engine.imagine(start, 0, seed=0)
    agent.train()
    try:
        with pytest.raises(ValueError, match="evaluation mode"):
            engine.imagine(start, 1, seed=0)
    finally:
        agent.eval()


def test_training_steps_reach_the_engine() -> None:
    """The trainer's own optimizers between rollouts of one engine, which imagines as the oracle does."""
    agent = micro_agent()
    engine = CpuEngine(agent, CpuOptions(threads=1))
    start = make_start(agent, 2)
    engine.imagine(start, 3, seed=0)
    for part in ("tokenizer", "world_model", "actor_critic"):
        parameters = list(agent.get_submodule(part).parameters())
        optimizer = adam(parameters, 0.02)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        agent.weights_changed(part, in_place=True)
        found, expected = engine.imagine(start, 3, seed=1), OracleEngine(agent).imagine(start, 3, seed=1)
        torch.testing.assert_close(found.observations[:, 0], expected.observations[:, 0], rtol=0, atol=1e-4)
        torch.testing.assert_close(
            found.logits_actions[:, 0], expected.logits_actions[:, 0], rtol=0, atol=1e-4
        )
