"""One batched pass has the losses and the gradient of the loop over imagined steps, written plainly here."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.config.schema import ActorCriticPartConfig
from iris_fast.imagination.engine import ImaginationStart, Rollout
from iris_fast.imagination.oracle import OracleEngine
from iris_fast.models.actor_critic import ActorCritic
from iris_fast.training.parts import actor_critic_losses
from tests.support.agents import NUM_ACTIONS, assert_same_gradients, gradients, micro_agent

BATCH, HORIZON, BURN_IN = 3, 5, 2
CONFIG = ActorCriticPartConfig(gamma=0.9, lambda_=0.8, entropy_weight=0.05)
Losses = dict[str, Tensor]


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    """Imagined by the oracle, with rewards and ends that occur."""
    agent, generator = micro_agent(), torch.Generator().manual_seed(0)
    frames = torch.rand(BATCH, BURN_IN, 3, 64, 64, generator=generator)
    mask = torch.tensor([[True, True], [False, True], [False, False]])
    first = torch.randint(16, (BATCH, 16), generator=generator)
    imagined = OracleEngine(agent).imagine(ImaginationStart(frames, mask, first), HORIZON, seed=0)
    rewards = torch.randn(BATCH, HORIZON, generator=generator)
    return imagined._replace(rewards=rewards, ends=torch.rand(BATCH, HORIZON, generator=generator) < 0.3)


def policy() -> ActorCritic:
    return micro_agent().actor_critic.train()


def looped_losses(model: ActorCritic, rollout: Rollout, config: ActorCriticPartConfig) -> Losses:
    """Frames fed one at a time through PyTorch's LSTM cell; returns and terms by hand."""
    hx, cx = rollout.start_state
    logits, values = [], []
    for step in range(rollout.actions.shape[1]):
        x = rollout.observations[:, step] * 2 - 1
        for name in ("conv1", "conv2", "conv3", "conv4"):
            x = F.relu(F.max_pool2d(model.get_submodule(name)(x), 2))
        hx, cx = model.lstm(x.reshape(len(x), -1), (hx, cx))
        logits.append(model.actor_linear(hx))
        values.append(model.critic_linear(hx)[:, 0])
    last = rollout.actions.shape[1] - 1
    action_terms, value_terms, entropies = [], [], []
    for row in range(len(rollout.actions)):
        target = values[last][row].detach()
        for step in reversed(range(last)):
            goes_on = 0.0 if rollout.ends[row, step] else 1.0
            following = values[step + 1][row].detach()
            mixed = (1 - config.lambda_) * following + config.lambda_ * target
            target = rollout.rewards[row, step] + config.gamma * goes_on * mixed
            distribution = torch.distributions.Categorical(logits=logits[step][row])
            advantage = target - values[step][row].detach()
            action_terms.append(-distribution.log_prob(rollout.actions[row, step]) * advantage)
            value_terms.append((values[step][row] - target) ** 2)
            entropies.append(distribution.entropy())
    return {
        "loss_actions": torch.stack(action_terms).mean(),
        "loss_values": torch.stack(value_terms).mean(),
        "loss_entropy": -config.entropy_weight * torch.stack(entropies).mean(),
    }


@pytest.mark.parametrize("name", ["loss_actions", "loss_values", "loss_entropy", "total"])
def test_the_gradient_is_that_of_the_loop(rollout: Rollout, name: str) -> None:
    found_model, plain_model = policy(), policy()
    found = actor_critic_losses(found_model, rollout, CONFIG)
    plain = looped_losses(plain_model, rollout, CONFIG)
    for losses in (found, plain):
        loss = torch.stack(list(losses.values())).sum() if name == "total" else losses[name]
        loss.backward()
    expected = gradients(plain_model.named_parameters())
    if name == "total":
        assert expected.keys() == dict(plain_model.named_parameters()).keys(), "every parameter learns"
    assert_same_gradients(gradients(found_model.named_parameters()), expected, tolerance=1e-5)


def test_the_losses_are_those_of_the_loop(rollout: Rollout) -> None:
    model = policy()
    found, plain = actor_critic_losses(model, rollout, CONFIG), looped_losses(model, rollout, CONFIG)
    assert found.keys() == plain.keys()
    for name, loss in plain.items():
        torch.testing.assert_close(found[name], loss)


def test_the_policy_is_recomputed_as_it_acted(rollout: Rollout) -> None:
    """On policy: what the losses differentiate is what was sampled from."""
    output = policy()(rollout.observations, rollout.start_state)
    torch.testing.assert_close(output.logits_actions, rollout.logits_actions)
    torch.testing.assert_close(output.values, rollout.values)


def detached(losses: Losses) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


def test_the_last_step_gives_no_term(rollout: Rollout) -> None:
    model = policy()
    before = detached(actor_critic_losses(model, rollout, CONFIG))
    changed = rollout._replace(
        rewards=torch.cat([rollout.rewards[:, :-1], rollout.rewards[:, -1:] + 5], dim=1),
        ends=torch.cat([rollout.ends[:, :-1], ~rollout.ends[:, -1:]], dim=1),
        actions=torch.cat([rollout.actions[:, :-1], (rollout.actions[:, -1:] + 1) % NUM_ACTIONS], dim=1),
    )
    assert detached(actor_critic_losses(model, changed, CONFIG)) == before


def test_the_last_steps_value_is_the_bootstrap(rollout: Rollout) -> None:
    """A last frame of another value changes the returns, unless every row ended before it."""
    model = policy()
    other = rollout.observations.clone()
    other[:, -1] = 1 - other[:, -1]
    for ends, matters in ((False, True), (True, False)):
        fixed = rollout._replace(ends=torch.full_like(rollout.ends, ends))
        before = detached(actor_critic_losses(model, fixed, CONFIG))
        after = detached(actor_critic_losses(model, fixed._replace(observations=other), CONFIG))
        assert (before["loss_values"] != after["loss_values"]) == matters
        assert before["loss_entropy"] == after["loss_entropy"]


def test_discount_and_weight_of_longer_returns_count(rollout: Rollout) -> None:
    model = policy()
    values = {
        (gamma, lambda_): actor_critic_losses(
            model, rollout, ActorCriticPartConfig(gamma=gamma, lambda_=lambda_)
        )["loss_values"].item()
        for gamma in (0.5, 0.9)
        for lambda_ in (0.2, 0.9)
    }
    assert len(set(values.values())) == 4


def test_entropy_weight_scales_its_loss_alone(rollout: Rollout) -> None:
    model = policy()
    once = detached(actor_critic_losses(model, rollout, ActorCriticPartConfig(entropy_weight=0.001)))
    thrice = detached(actor_critic_losses(model, rollout, ActorCriticPartConfig(entropy_weight=0.003)))
    assert thrice["loss_entropy"] == pytest.approx(3 * once["loss_entropy"])
    assert thrice["loss_actions"] == once["loss_actions"]
    assert -0.001 * torch.tensor(float(NUM_ACTIONS)).log().item() <= once["loss_entropy"] < 0
