"""λ-returns of a rollout, by a scan backward over time.

G_t = r_t + γ (1 - e_t) [(1 - λ) V_{t+1} + λ G_{t+1}],  and G_T = V_T at the last step.

(Sutton and Barto, "Reinforcement Learning", 2018, section 12.1, cut off at the horizon by the value.) All
tensors are (batch, time). Bytes moved: 4 float32 numbers a step; work: 6 operations a step.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lambda_returns(rewards: Tensor, values: Tensor, ends: Tensor, gamma: float, lambda_: float) -> Tensor:
    """The λ-returns (batch, time) float32 of `rewards`, `values` and `ends` (batch, time).

    `rewards[:, t]` and `ends[:, t]` (bool, or 0 and 1) follow the action of step t, `values[:, t]` is the
    critic's at step t, before it; the last step's reward and end do not count. `gamma` is the discount a
    step, `lambda_` the weight of longer returns. Any real dtype and device; differentiable.

    Raises ValueError where the shapes are not one shape (batch, time).
    """
    if not rewards.shape == values.shape == ends.shape or values.dim() != 2:
        raise ValueError(
            "rewards, values and ends must have one shape (batch, time), got "
            f"{tuple(rewards.shape)}, {tuple(values.shape)} and {tuple(ends.shape)}"
        )
    values = values.to(torch.float32)
    if values.shape[1] == 0:
        return values.clone()
    rewards = rewards.to(torch.float32)
    discounts = gamma * (1.0 - ends.to(torch.float32))
    following = values[:, -1]
    returns = [following]
    for t in range(values.shape[1] - 2, -1, -1):
        mixed = (1.0 - lambda_) * values[:, t + 1] + lambda_ * following
        following = rewards[:, t] + discounts[:, t] * mixed
        returns.append(following)
    return torch.stack(returns[::-1], dim=1)
