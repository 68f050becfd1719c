"""What PyTorch already does well in training, each beside its parts: the reason why it has no kernel of ours.

Attention over 340 tokens (SDPA), the cross-entropy, the LSTM of the actor-critic (cuDNN) and 3 x 3 convolutions
(cuDNN, by memory layout). "ours" is what iris_fast uses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.compiling import NAME, compiled_side
from benchmarks.registry import case
from benchmarks.side_by_side import Machine, Side, compare_and_time, dtype_name, measured_machine
from iris_fast.models.actor_critic import ActorCritic, ActorCriticConfig

Function = Callable[..., Tensor]


def with_gradients(function: Function, leaves: list[Tensor]) -> Side:
    """The result of `function(*leaves)` and the gradients of its mean square."""

    def side() -> list[Tensor]:
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y.float().square().mean(), leaves)]

    return side


def compare(
    machine: Machine,
    name: str,
    functions: dict[str, Function],
    leaves: list[Tensor],
    numbers: dict[str, Any],
    compile_it: bool = False,
) -> dict[str, Any]:
    """Result and gradients of each function, and of the last one compiled, compared with the last in float64."""
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = with_gradients(list(functions.values())[-1], exact)()
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    dtype = leaves[0].dtype
    last, function = list(functions.items())[-1]
    whole, absent = compiled_side(function, machine.device, compile_it)
    functions = functions | {f"{last}, {NAME}": found for found in whole.values()}
    absent = {f"{last}, {side}": why for side, why in absent.items()}
    facts = {"what": name, "dtype": dtype_name(dtype), "absent": absent} | numbers
    sides = {side: with_gradients(function, leaves) for side, function in functions.items()}
    # A float32 convolution may be in TF32, as PyTorch allows by default.
    tolerance = 5e-2 if dtype == torch.bfloat16 else 5e-3
    return compare_and_time(machine, sides, expected, tolerance, facts, dtype)


def naive_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    time = query.shape[-2]
    future = torch.ones(time, time, dtype=torch.bool, device=query.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ value


def attention(machine: Machine, batch: int, dtype: torch.dtype, compile_it: bool) -> dict[str, Any]:
    """Causal attention of a training step: 4 heads of 64 over 340 tokens."""
    shape = (batch, 4, 340, 64)
    leaves = list(torch.randn(3, *shape, device=machine.device).to(dtype).unbind())
    size = leaves[0].numel()
    # Forward two products of time x time x dim, backward five; causal: half of each.
    numbers = {"batch": batch, "bytes": 8 * size * dtype.itemsize, "flops": 7 * size * 340}
    causal = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    return compare(
        machine, "attention", {"ours": causal, "naive": naive_attention}, leaves, numbers, compile_it
    )


def cross_entropy(machine: Machine, count: int, dtype: torch.dtype, compile_it: bool) -> dict[str, Any]:
    """The observation loss of a training step: 512 classes at 16 of 17 positions."""
    labels = torch.randint(512, (count,), device=machine.device)
    leaves = [torch.randn(count, 512, device=machine.device).to(dtype)]
    functions: dict[str, Function] = {
        "ours": lambda logits: F.cross_entropy(logits, labels),
        "naive": lambda logits: -logits.softmax(1).log().gather(1, labels[:, None]).mean(),
    }
    numbers = {"rows": count, "bytes": 3 * leaves[0].nbytes, "flops": 8 * leaves[0].numel()}
    return compare(machine, "cross_entropy", functions, leaves, numbers, compile_it)


def lstm(machine: Machine, batch: int, time: int) -> dict[str, Any]:
    """The actor-critic's recurrence over a rollout: cuDNN's LSTM beside our loop over its steps."""
    model = ActorCritic(ActorCriticConfig(), 6).to(machine.device)
    cell = model.lstm
    whole = torch.nn.LSTM(cell.input_size, cell.hidden_size, batch_first=True).to(machine.device)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(whole, f"{name}_l0").copy_(getattr(cell, name))
    by_dtype = {torch.float32: (model, whole)}
    by_dtype[torch.float64] = (copy.deepcopy(model).double(), copy.deepcopy(whole).double())

    def loop(features: Tensor) -> Tensor:
        actor_critic = by_dtype[features.dtype][0]
        weights = actor_critic.lstm
        projected = F.linear(features, weights.weight_ih, weights.bias_ih)
        state, hidden = actor_critic.initial_state(len(features)), []
        for step in range(features.shape[1]):
            state = actor_critic._recur(projected[:, step], state, None)
            hidden.append(state.hx)
        return torch.stack(hidden, dim=1)

    leaves = [torch.randn(batch, time, cell.input_size, device=machine.device)]
    weights = 4 * cell.hidden_size * (cell.input_size + cell.hidden_size)
    numbers = {
        "batch": batch,
        "time": time,
        "bytes": 4 * (3 * leaves[0].numel() + 2 * weights),
        "flops": 4 * batch * time * weights,
    }
    functions: dict[str, Function] = {
        "ours": loop,
        "cudnn": lambda features: by_dtype[features.dtype][1](features)[0],
    }
    return compare(machine, "lstm", functions, leaves, numbers)


def convolution(machine: Machine, batch: int, side: int, dtype: torch.dtype) -> dict[str, Any]:
    """3 x 3, 64 channels: channels last, as the autoencoder runs, beside channels first."""
    x = torch.randn(batch, 64, side, side, device=machine.device).to(dtype)
    weight = torch.randn(64, 64, 3, 3, device=machine.device).to(dtype) / 24
    leaves = [
        x.contiguous(memory_format=torch.channels_last),
        weight.contiguous(memory_format=torch.channels_last),
    ]
    first = [x, weight]
    numbers = {
        "batch": batch,
        "side": side,
        "bytes": (5 * x.numel() + 4 * weight.numel()) * dtype.itemsize,
        "flops": 6 * x.numel() * 64 * 9,
    }
    exact = [leaf.detach().double().requires_grad_() for leaf in first]
    convolve: Function = lambda x, w: F.conv2d(x, w, padding=1)  # noqa: E731
    sides = {
        "ours": with_gradients(convolve, [leaf.detach().requires_grad_() for leaf in leaves]),
        "channels_first": with_gradients(convolve, [leaf.detach().requires_grad_() for leaf in first]),
    }
    facts = {"what": "convolution", "dtype": dtype_name(dtype)} | numbers
    tolerance = 5e-2 if dtype == torch.bfloat16 else 5e-3
    return compare_and_time(machine, sides, with_gradients(convolve, exact)(), tolerance, facts, dtype)


@case("kernel_torch_limits", minutes=0.2, default=True)
def kernel_torch_limits(quick: bool) -> dict[str, Any]:
    """Training operations left to PyTorch, beside their parts: attention, cross-entropy, LSTM, convolution."""
    machine = measured_machine(quick)
    full = machine.cuda and not quick
    batch = 64 if full else 1 if quick else 4
    dtypes = [torch.float32, torch.bfloat16] if full else [torch.float32]
    found = [attention(machine, batch, dtype, full) for dtype in dtypes]
    found += [cross_entropy(machine, batch * 320, dtype, full) for dtype in dtypes]
    found += [lstm(machine, batch, 20)]
    found += [
        convolution(machine, batch * (4 if full else 1), side, dtype) for side in (64, 8) for dtype in dtypes
    ]
    return machine.facts() | {"sizes": found}
