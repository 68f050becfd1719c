"""λ-returns of a rollout, by one scan backward over time.

G_t = r_t + γ (1 - e_t) [(1 - λ) V_{t+1} + λ G_{t+1}],  and G_T = V_T at the last step.

(Sutton and Barto, "Reinforcement Learning", 2018, section 12.1, cut off at the horizon by the value.) All
tensors are (batch, time). Each step is the affine map G_t = b_t + a_t G_{t+1}, and maps compose: (a, b) after
(a', b') is (a a', b + a b'), so that a step's return is the composition of all maps from it to the end.
Bytes moved: 4 numbers a step, each once. Work: 6 operations a step, 3 log2(time) more in the scan.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._registration import NAMESPACE
from ._triton import jit, on_its_device, require_triton, tl, triton

_BLOCK_TIME = 64


@jit
def _compose(a_right, b_right, a_left, b_left):
    """The map (a_left, b_left) after the map (a_right, b_right), which a reverse scan met first."""
    return a_left * a_right, b_left + a_left * b_right


@jit
def _lambda_returns_kernel(
    rewards,  # (batch, time) float32, contiguous
    values,  # (batch, time) float32, contiguous
    ends,  # (batch, time) float32, contiguous: 0 or 1
    returns,  # out: (batch, time) float32, contiguous
    batch,
    time,
    gamma,
    lambda_,
    BLOCK_BATCH: tl.constexpr,
    BLOCK_TIME: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_BATCH + tl.arange(0, BLOCK_BATCH)
    row_mask = row < batch
    row_start = row.to(tl.int64) * time
    following = tl.load(values + row_start + time - 1, mask=row_mask, other=0.0)
    num_chunks = (time + BLOCK_TIME - 1) // BLOCK_TIME
    for chunk in range(num_chunks):
        step = (num_chunks - 1 - chunk) * BLOCK_TIME + tl.arange(0, BLOCK_TIME)
        offset = row_start[:, None] + step[None, :]
        inside = row_mask[:, None] & (step < time)[None, :]
        inner = row_mask[:, None] & (step < time - 1)[None, :]
        discount = gamma * (1.0 - tl.load(ends + offset, mask=inner, other=0.0))
        next_value = tl.load(values + offset + 1, mask=inner, other=0.0)
        reward = tl.load(rewards + offset, mask=inner, other=0.0)
        # The last step, and what lies past it, is the identity on `following`, which starts as V_T.
        slope = tl.where(inner, discount * lambda_, 1.0)
        offset_b = tl.where(inner, reward + discount * (1.0 - lambda_) * next_value, 0.0)
        slope, offset_b = tl.associative_scan((slope, offset_b), 1, _compose, reverse=True)
        found = offset_b + slope * following[:, None]
        tl.store(returns + offset, found, mask=inside)
        following = tl.sum(tl.where((tl.arange(0, BLOCK_TIME) == 0)[None, :], found, 0.0), axis=1)


@on_its_device
def launch_lambda_returns(
    rewards: Tensor, values: Tensor, ends: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """Launches the kernel on (batch, time) float32 tensors."""
    require_triton("lambda_returns", rewards, values, ends)
    rewards, values, ends = rewards.contiguous(), values.contiguous(), ends.contiguous()
    batch, time = values.shape
    returns = torch.empty_like(values)
    if returns.numel() == 0:
        return returns
    block_time = min(_BLOCK_TIME, triton.next_power_of_2(time))
    block_batch = max(1, 256 // block_time)
    grid = (triton.cdiv(batch, block_batch),)
    _lambda_returns_kernel[grid](
        rewards, values, ends, returns, batch, time, gamma, lambda_, block_batch, block_time, num_warps=2
    )
    return returns


@torch.library.custom_op(f"{NAMESPACE}::lambda_returns", mutates_args=())
def _lambda_returns(
    rewards: Tensor,  # (batch, time) float32
    values: Tensor,  # (batch, time) float32
    ends: Tensor,  # (batch, time) float32
    gamma: float,
    lambda_: float,
) -> Tensor:  # (batch, time) float32
    return _scan(rewards, values, ends, gamma, lambda_)


@_lambda_returns.register_kernel("cuda")
def _lambda_returns_cuda(
    rewards: Tensor, values: Tensor, ends: Tensor, gamma: float, lambda_: float
) -> Tensor:
    return launch_lambda_returns(rewards, values, ends, gamma, lambda_)


@_lambda_returns.register_fake
def _lambda_returns_fake(
    rewards: Tensor, values: Tensor, ends: Tensor, gamma: float, lambda_: float
) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output) -> None:
    _, _, ends, ctx.gamma, ctx.lambda_ = inputs
    ctx.save_for_backward(ends)


def _backward(ctx, grad: Tensor):
    """The adjoint a_t = g_t + λ γ (1 - e_{t-1}) a_{t-1} runs forward in time; rewards and values read it off."""
    (ends,) = ctx.saved_tensors
    discount = ctx.gamma * (1.0 - ends)
    adjoint = [grad[:, 0]]
    for t in range(1, grad.shape[1]):
        adjoint.append(grad[:, t] + ctx.lambda_ * discount[:, t - 1] * adjoint[-1])
    through = torch.stack(adjoint, dim=1)
    grad_rewards, grad_values = torch.zeros_like(grad), torch.zeros_like(grad)
    grad_rewards[:, :-1] = through[:, :-1]
    grad_values[:, 1:] = (1.0 - ctx.lambda_) * discount[:, :-1] * through[:, :-1]
    grad_values[:, -1] += through[:, -1]
    return grad_rewards, grad_values, None, None, None


_lambda_returns.register_autograd(_backward, setup_context=_setup_context)


def lambda_returns(rewards: Tensor, values: Tensor, ends: Tensor, gamma: float, lambda_: float) -> Tensor:
    """The λ-returns (batch, time) float32 of `rewards`, `values` and `ends` (batch, time).

    `rewards[:, t]` and `ends[:, t]` (bool, or 0 and 1) follow the action of step t, `values[:, t]` is the
    critic's at step t, before it; the last step's reward and end do not count. `gamma` is the discount a
    step, `lambda_` the weight of longer returns. Any real dtype and device; differentiable by rewards and
    values. A NaN or infinity reaches the returns of its step and of those before it.

    Raises ValueError where the shapes are not one shape (batch, time).
    """
    rewards, values, ends = _checked(rewards, values, ends)
    if values.numel() == 0:
        return values.clone()
    return _lambda_returns(rewards, values, ends, float(gamma), float(lambda_))


def lambda_returns_reference(
    rewards: Tensor, values: Tensor, ends: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """`lambda_returns` in plain PyTorch, step by step."""
    rewards, values, ends = _checked(rewards, values, ends)
    if values.numel() == 0:
        return values.clone()
    return _scan(rewards, values, ends, gamma, lambda_)


def _checked(rewards: Tensor, values: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not rewards.shape == values.shape == ends.shape or values.dim() != 2:
        raise ValueError(
            "rewards, values and ends must have one shape (batch, time), got "
            f"{tuple(rewards.shape)}, {tuple(values.shape)} and {tuple(ends.shape)}"
        )
    return rewards.to(torch.float32), values.to(torch.float32), ends.to(torch.float32)


def _scan(rewards: Tensor, values: Tensor, ends: Tensor, gamma: float, lambda_: float) -> Tensor:
    discounts = gamma * (1.0 - ends)
    following = values[:, -1]
    returns = [following]
    for t in range(values.shape[1] - 2, -1, -1):
        mixed = (1.0 - lambda_) * values[:, t + 1] + lambda_ * following
        following = rewards[:, t] + discounts[:, t] * mixed
        returns.append(following)
    return torch.stack(returns[::-1], dim=1)
