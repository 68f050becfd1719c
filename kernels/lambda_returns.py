"""λ-returns of a rollout, by one scan backward over time.

G_t = r_t + γ (1 - e_t) [(1 - λ) V_{t+1} + λ G_{t+1}],  and G_T = V_T at the last step.

(Sutton and Barto, "Reinforcement Learning", 2018, section 12.1, cut off at the horizon by the value.) All
tensors are (batch, time). Each step is the affine map G_t = b_t + a_t G_{t+1}, and maps compose: (a, b) after
(a', b') is (a a', b + a b'), so that a step's return is the composition of all maps from it to the end.
The gradient is a scan of such maps too, forward in time: α_t = g_t + λ γ (1 - e_{t-1}) α_{t-1}, with g the gradient
of the returns, is what reaches G_t; r_t gets α_t, V_{t+1} gets γ (1 - e_t) (1 - λ) α_t, and V_T gets α_T besides.
Bytes moved: 4 numbers a step, each once, forward and backward. Work: 6 operations a step, 3 log2(time) more in the
scan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .common.arguments import check_range, with_checked_types
from .common.arithmetic import in_exact_float32
from .common.registration import operator
from .common.spec import Benchmark, Call, Derivatives, Function, Launch, Numbers, OpSpec, Problem, Row, Sizes
from .common.triton import jit, on_its_device, require_triton, tl, triton

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


@jit
def _compose_forward(a_left, b_left, a_right, b_right):
    """The map (a_right, b_right) after the map (a_left, b_left), which a forward scan met first."""
    return a_left * a_right, b_right + a_right * b_left


@jit
def _lambda_returns_backward_kernel(
    grad,  # (batch, time) float32, contiguous: of the returns
    ends,  # (batch, time) float32, contiguous: 0 or 1
    grad_rewards,  # out: (batch, time) float32, contiguous
    grad_values,  # out: (batch, time) float32, contiguous
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
    lane = tl.arange(0, BLOCK_TIME)
    before = tl.zeros((BLOCK_BATCH,), tl.float32)  # a of the step before the chunk
    for chunk in range((time + BLOCK_TIME - 1) // BLOCK_TIME):
        step = chunk * BLOCK_TIME + lane
        offset = row_start[:, None] + step[None, :]
        inside = row_mask[:, None] & (step < time)[None, :]
        inner = row_mask[:, None] & (step < time - 1)[None, :]
        later = row_mask[:, None] & ((step > 0) & (step < time))[None, :]
        end_before = tl.load(ends + offset - 1, mask=later, other=1.0)
        slope = tl.where(later, lambda_ * gamma * (1.0 - end_before), 0.0)
        here = tl.load(grad + offset, mask=inside, other=0.0)
        slope, adjoint = tl.associative_scan((slope, here), 1, _compose_forward)
        adjoint += slope * before[:, None]
        before = tl.sum(tl.where((lane == BLOCK_TIME - 1)[None, :], adjoint, 0.0), axis=1)
        tl.store(grad_rewards + offset, tl.where(inner, adjoint, 0.0), mask=inside)
        # The value of step t + 1 is written by the lane of step t.
        through = tl.where(
            inner, gamma * (1.0 - tl.load(ends + offset, mask=inner, other=1.0)) * adjoint, 0.0
        )
        last = inner & (step == time - 2)[None, :]
        reached = tl.load(grad + offset + 1, mask=last, other=0.0) + lambda_ * through
        found = (1.0 - lambda_) * through + tl.where(last, reached, 0.0)
        tl.store(grad_values + offset + 1, found, mask=inner)
        first = row_mask[:, None] & (step == 0)[None, :]
        tl.store(
            grad_values + offset, tl.where(inner, 0.0, here), mask=first
        )  # of one step alone: V_T is V_1


@on_its_device
def launch_lambda_returns_backward(
    grad: Tensor, ends: Tensor, gamma: float, lambda_: float
) -> tuple[Tensor, Tensor]:
    """Launches the backward kernel on (batch, time) float32 tensors; gradients of rewards and values."""
    require_triton("lambda_returns", grad, ends)
    grad, ends = grad.contiguous(), ends.contiguous()
    grad_rewards, grad_values = torch.empty_like(grad), torch.empty_like(grad)
    if grad.numel() == 0:
        return grad_rewards, grad_values
    arguments = (grad, ends, grad_rewards, grad_values, *grad.shape, gamma, lambda_)
    grid, sizes = _configuration(*grad.shape)
    _lambda_returns_backward_kernel[grid](*arguments, *sizes, num_warps=2)
    return grad_rewards, grad_values


def _configuration(batch: int, time: int) -> tuple[tuple[int], tuple[int, int]]:
    """The grid, and rows and steps of a block: 8 rows of 32 steps would spill registers."""
    block_time = min(_BLOCK_TIME, triton.next_power_of_2(time))
    block_batch = max(1, (256 if block_time == _BLOCK_TIME else 128) // block_time)
    return (triton.cdiv(batch, block_batch),), (block_batch, block_time)


@on_its_device
def launch_lambda_returns(
    rewards: Tensor, values: Tensor, ends: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """Launches the kernel on (batch, time) float32 tensors."""
    require_triton("lambda_returns", rewards, values, ends)
    rewards, values, ends = rewards.contiguous(), values.contiguous(), ends.contiguous()
    returns = torch.empty_like(values)
    if returns.numel() == 0:
        return returns
    grid, sizes = _configuration(*values.shape)
    arguments = (rewards, values, ends, returns, *values.shape, gamma, lambda_)
    _lambda_returns_kernel[grid](*arguments, *sizes, num_warps=2)
    return returns


@operator("lambda_returns")
def _lambda_returns(
    rewards: Tensor,  # (batch, time) float32
    values: Tensor,  # (batch, time) float32
    ends: Tensor,  # (batch, time) float32
    gamma: float,
    lambda_: float,
) -> Tensor:  # (batch, time) float32
    return _scan(rewards, values, ends, gamma, lambda_)


_lambda_returns.register_kernel("cuda")(launch_lambda_returns)


@_lambda_returns.register_fake
def _lambda_returns_fake(rewards: Tensor, values: Tensor, *_: object) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


@operator("lambda_returns_backward")
def _lambda_returns_backward(
    grad: Tensor,  # (batch, time) float32
    ends: Tensor,  # (batch, time) float32
    gamma: float,
    lambda_: float,
) -> tuple[Tensor, Tensor]:  # of rewards and of values, (batch, time) float32
    discount = gamma * (1.0 - ends)
    adjoint = [grad[:, 0]]
    for t in range(1, grad.shape[1]):
        adjoint.append(grad[:, t] + lambda_ * discount[:, t - 1] * adjoint[-1])
    through = torch.stack(adjoint, dim=1)
    grad_rewards, grad_values = torch.zeros_like(through), torch.zeros_like(through)
    grad_rewards[:, :-1] = through[:, :-1]
    grad_values[:, 1:] = (1.0 - lambda_) * discount[:, :-1] * through[:, :-1]
    grad_values[:, -1] += through[:, -1]
    return grad_rewards, grad_values


_lambda_returns_backward.register_kernel("cuda")(launch_lambda_returns_backward)


@_lambda_returns_backward.register_fake
def _lambda_returns_backward_fake(grad: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    rewards = torch.empty_like(grad, memory_format=torch.contiguous_format)
    return rewards, torch.empty_like(rewards)


def _setup_context(ctx, inputs, output) -> None:
    _, _, ends, ctx.gamma, ctx.lambda_ = inputs
    ctx.save_for_backward(ends)
    if not any(ctx.needs_input_grad[:2]):  # `ends` alone has a gradient, which the returns do not give it
        ctx.mark_non_differentiable(output)


def _backward(ctx, grad: Tensor):
    (ends,) = ctx.saved_tensors
    return *_lambda_returns_backward(grad, ends, ctx.gamma, ctx.lambda_), None, None, None


_lambda_returns.register_autograd(_backward, setup_context=_setup_context)


@with_checked_types
def lambda_returns(rewards: Tensor, values: Tensor, ends: Tensor, gamma: float, lambda_: float) -> Tensor:
    """The λ-returns (batch, time) float32 of `rewards`, `values` and `ends` (batch, time).

    `rewards[:, t]` and `ends[:, t]` (bool, or 0 and 1) follow the action of step t, `values[:, t]` is the
    critic's at step t, before it; the last step's reward and end do not count. `gamma` is the discount a
    step, `lambda_` the weight of longer returns. Any real dtype and device; differentiable once, by rewards and
    values. A NaN or infinity reaches the returns of its step and of those before it.

    Raises ValueError unless all have one shape (batch, time) and one device.
    """
    rewards, values, ends = _checked(rewards, values, ends, gamma, lambda_)
    if values.numel() == 0:
        return values.clone()
    return _lambda_returns(rewards, values, ends, gamma, lambda_)


@with_checked_types
@in_exact_float32
def lambda_returns_reference(
    rewards: Tensor, values: Tensor, ends: Tensor, gamma: float, lambda_: float
) -> Tensor:
    """`lambda_returns` in plain PyTorch, step by step."""
    rewards, values, ends = _checked(rewards, values, ends, gamma, lambda_)
    if values.numel() == 0:
        return values.clone()
    return _scan(rewards, values, ends, gamma, lambda_)


def _checked(
    rewards: Tensor, values: Tensor, ends: Tensor, gamma: float, lambda_: float
) -> tuple[Tensor, Tensor, Tensor]:
    check_range("gamma", gamma, -math.inf)
    check_range("lambda_", lambda_, -math.inf)
    if not rewards.shape == values.shape == ends.shape or values.dim() != 2:
        raise ValueError(
            "rewards, values and ends must have one shape (batch, time), got "
            f"{tuple(rewards.shape)}, {tuple(values.shape)} and {tuple(ends.shape)}"
        )
    if not rewards.device == values.device == ends.device:
        raise ValueError(
            "rewards, values and ends must be on one device, got "
            f"{rewards.device}, {values.device} and {ends.device}"
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


_SHAPES = ((64, 20), (1024, 20), (4096, 100), (65536, 256))  # (batch, time); the first is the paper's


def _calls(device: str) -> dict[str, Call]:
    numbers = Numbers(device, alike=True)
    inputs = (numbers.normal(3, 9), numbers.normal(3, 9), numbers.integers(2, 3, 9))
    call = partial(lambda_returns, gamma=0.99, lambda_=0.9)
    return {"lambda_returns": Call(call, inputs, {0: 0, 1: 0, 2: 0})}


def _arguments() -> dict[str, dict[str, Any]]:
    x = torch.linspace(-1, 1, 10).view(2, 5)
    given = {"rewards": x, "values": x, "ends": x > 0, "gamma": 0.5, "lambda_": 0.25}
    return {"lambda_returns": given}


def _launches(_: int) -> Iterator[Launch]:
    for shape in [(64, 20), (1, 1), (1, 2), (5, 300), (4096, 100)]:
        zeros = torch.zeros(shape)
        forward = partial(launch_lambda_returns, zeros, zeros, zeros, 0.995, 0.95)
        yield Launch(f"{shape}", forward, hot=True)
        backward = partial(launch_lambda_returns_backward, zeros, zeros, 0.995, 0.95)
        yield Launch(f"{shape}, backward", backward, hot=True)


def _derivatives() -> Derivatives:
    def plain(rewards: Tensor, values: Tensor, ends: Tensor) -> Tensor:
        returns = [values[:, -1]]
        for t in range(values.shape[1] - 2, -1, -1):
            mixed = 0.05 * values[:, t + 1] + 0.95 * returns[-1]
            returns.append(rewards[:, t] + 0.99 * (1 - ends[:, t].to(values.dtype)) * mixed)
        return torch.stack(returns[::-1], 1).to(torch.promote_types(values.dtype, torch.float32))

    numbers = Numbers("cpu")
    ends = numbers.integers(10, 5, 70) == 0
    inputs = (numbers.normal(5, 70), numbers.normal(5, 70))
    return Derivatives(partial(lambda_returns, gamma=0.99, lambda_=0.95), plain, inputs, (ends,))


def _sizes(cuda: bool, quick: bool) -> Sizes:
    shapes = _SHAPES[:1] if quick else _SHAPES if cuda else _SHAPES[:3]
    # On a CPU compiled at the paper's shape alone: a loop over time takes seconds to compile.
    return [{"batch": b, "time": t, "compile_it": cuda or (b, t) == _SHAPES[0]} for b, t in shapes]


def _problem(device: torch.device, batch: int, time: int) -> Problem:
    numbers = Numbers(device)
    rewards, values = numbers.normal(2, batch, time).unbind()
    ends = (numbers.integers(20, batch, time) == 0).float()

    def bind(function: Function, *given: Tensor) -> Function:
        return lambda: function(*(given or (rewards, values, ends)), 0.995, 0.95)

    exact = [tensor.double() for tensor in (rewards, values, ends)]
    return Problem(
        {"shape": [batch, time]},
        flops=7 * batch * time,  # gamma (1 - end) ((1 - lambda) v + lambda G) + r
        bytes=16 * batch * time,  # rewards, values, ends and returns, float32
        ours={"ours": bind(lambda_returns)},
        plain=lambda_returns_reference,
        bind=bind,
        expected=lambda: bind(lambda_returns_reference, *exact)(),
        tolerance=1e-5,
    )


SPEC = OpSpec(
    lambda_returns,
    _calls,
    _arguments,
    lambda_returns_reference,
    about="λ-returns of a rollout, as one scan backward over time.",
    example="""
import torch
from iris_fast.kernels import lambda_returns

rewards, values, ends = torch.rand(64, 20), torch.rand(64, 20), torch.zeros(64, 20)
returns = lambda_returns(rewards, values, ends, gamma=0.995, lambda_=0.95)  # (64, 20)
""",
    launches=_launches,
    derivatives=_derivatives,
    any_sign=("gamma", "lambda_"),
    benchmark=Benchmark(
        _sizes,
        _problem,
        {"batch": 64, "time": 20},
        Row(
            "3 × (batch, time) → (batch, time)",
            "float32",
            {"shape": [64, 20]},
            {"shape": [64, 20]},
            "{shape[0]} × {shape[1]}",
        ),
    ),
)
