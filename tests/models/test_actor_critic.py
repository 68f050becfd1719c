"""The actor-critic over a sequence is the actor-critic step by step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.models.actor_critic import ActorCritic, LSTMState
from tests.support.agents import NUM_ACTIONS, micro_agent

BATCH, TIME = 3, 5


@pytest.fixture(scope="module")
def policy() -> ActorCritic:
    return micro_agent().actor_critic


def some_frames(time: int = TIME) -> Tensor:
    return torch.rand(BATCH, time, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def plain_step(policy: ActorCritic, frames: Tensor, state: LSTMState) -> tuple[Tensor, Tensor, LSTMState]:
    """Logits, values and state of one frame each, with PyTorch's own LSTM cell."""
    x = frames * 2 - 1
    for name in ("conv1", "conv2", "conv3", "conv4"):
        x = F.relu(F.max_pool2d(policy.get_submodule(name)(x), 2))
    hx, cx = policy.lstm(x.reshape(len(x), -1), tuple(state))
    return policy.actor_linear(hx), policy.critic_linear(hx).squeeze(1), LSTMState(hx, cx)


def test_a_sequence_is_its_steps(policy: ActorCritic) -> None:
    frames = some_frames()
    start = LSTMState(*torch.randn(2, BATCH, 8, generator=torch.Generator().manual_seed(1)))
    output = policy(frames, start)
    assert output.logits_actions.shape == (BATCH, TIME, NUM_ACTIONS)
    assert output.values.shape == (BATCH, TIME)
    state = start
    for step in range(TIME):
        logits, values, state = plain_step(policy, frames[:, step], state)
        torch.testing.assert_close(output.logits_actions[:, step], logits)
        torch.testing.assert_close(output.values[:, step], values)
    for found, expected in zip(output.state, state, strict=True):
        torch.testing.assert_close(found, expected)


def test_masked_burn_in_keeps_the_state(policy: ActorCritic) -> None:
    """Left-padded rows end where a burn-in on their own frames alone ends."""
    frames, lengths = some_frames(), (TIME, 2, 0)
    mask = torch.stack([torch.arange(TIME) >= TIME - length for length in lengths])
    state = policy.burn_in(frames, mask)
    for row, length in enumerate(lengths):
        alone = policy.initial_state(1)
        for step in range(TIME - length, TIME):
            _, _, alone = plain_step(policy, frames[row : row + 1, step], alone)
        for found, expected in zip(state, alone, strict=True):
            torch.testing.assert_close(found[row : row + 1], expected)
    assert (state.hx[2] == 0).all()
    assert (state.cx[2] == 0).all()


def test_what_is_masked_is_not_seen(policy: ActorCritic) -> None:
    frames, mask = some_frames(), torch.tensor([[False, True, False, True, True]] * BATCH)
    other = torch.where(mask[:, :, None, None, None], frames, 1 - frames)
    for found, expected in zip(policy.burn_in(other, mask), policy.burn_in(frames, mask), strict=True):
        assert torch.equal(found, expected)


def test_burn_in_has_no_gradient(policy: ActorCritic) -> None:
    state = policy.burn_in(some_frames(), torch.ones(BATCH, TIME, dtype=torch.bool))
    assert not any(part.requires_grad for part in state)
    assert any((part != 0).any() for part in state)


def test_burn_in_on_no_frames_is_the_initial_state(policy: ActorCritic) -> None:
    state = policy.burn_in(some_frames(0), torch.zeros(BATCH, 0, dtype=torch.bool))
    assert all(part.shape == (BATCH, 8) and (part == 0).all() for part in state)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("time", [1, 4])
def test_the_recurrence_for_a_gpu_is_the_same(time: int, masked: bool) -> None:
    """Its operations on the CPU: hidden states, last state and gradients."""
    agent = micro_agent()
    model = agent.actor_critic
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(3, time, model.lstm.input_size, generator=generator)
    start = LSTMState(*torch.randn(2, 3, model.config.lstm_dim, generator=generator).unbind())
    mask = torch.rand(3, time, generator=generator) > 0.5 if masked else None
    found = []
    for recurrence in (model._recurrence_on_gpu, model._recurrence):
        model.zero_grad()
        outputs, state = recurrence(features, start, mask)
        (outputs.square().sum() + state.cx.sum()).backward()
        gradients = [parameter.grad.clone() for parameter in model.lstm.parameters()]  # type: ignore[union-attr]
        found.append([outputs, *state, *gradients])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
