"""The actor-critic's losses on an imagined rollout (docs/iris.md, part 6)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from iris_fast.imagination.engine import Rollout
from iris_fast.kernels import lambda_returns
from iris_fast.models.actor_critic import ActorCritic


@dataclass(frozen=True)
class ReturnsConfig:
    """`gamma`: discount a step; `lambda_`: weight of longer returns; `entropy_weight`: of the entropy bonus."""

    gamma: float = 0.995
    lambda_: float = 0.95
    entropy_weight: float = 0.001


def actor_critic_losses(
    actor_critic: ActorCritic, rollout: Rollout, config: ReturnsConfig
) -> dict[str, Tensor]:
    """Policy, value and entropy losses; their sum is minimised. The last step gives no term.

    One batched pass recomputes the policy on the rollout's frames with a gradient: convolutions over all
    frames at once, the LSTM over the sequence. The gradient is that of differentiating the step-by-step loop.
    """
    output = actor_critic(rollout.observations, rollout.start_state)
    values = output.values
    returns = lambda_returns(rollout.rewards, values.detach(), rollout.ends, config.gamma, config.lambda_)[
        :, :-1
    ]
    log_probabilities = output.logits_actions[:, :-1].log_softmax(dim=2)
    of_actions = log_probabilities.gather(2, rollout.actions[:, :-1, None]).squeeze(2)
    values = values[:, :-1]
    entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=2).mean()
    return {
        "loss_actions": -(of_actions * (returns - values.detach())).mean(),
        "loss_values": (values - returns).square().mean(),
        "loss_entropy": -config.entropy_weight * entropy,
    }
