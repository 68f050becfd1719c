"""Training operations that PyTorch already does well, compared with their parts; they have no kernel of ours.

Attention over 340 tokens (SDPA), the cross-entropy, the LSTM of the actor-critic (cuDNN) and 3 x 3 convolutions
(cuDNN, by memory layout). "ours" is what iris_fast uses.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import Function, dtype_name
from benchmarks.kernels.table import Comparison, measured
from benchmarks.record import Label, Result
from benchmarks.registry import Run, case
from iris_fast.kernels.common.spec import Problem
from iris_fast.models.actor_critic import ActorCritic, ActorCriticConfig

Computed = Callable[..., Tensor]
BF16, FLOAT32 = torch.bfloat16, torch.float32


def of_mean_square(function: Computed, leaves: Sequence[Tensor]) -> Function:
    """A side that gives the result of `function(*leaves)` and the gradients of its mean square."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]

    def side() -> list[Tensor]:
        with torch.enable_grad():
            y = function(*leaves)
            return [y.detach(), *torch.autograd.grad(y.float().square().mean(), leaves)]

    return side


def comparison_of(
    what: str,
    ours: Computed,
    other: tuple[str, Computed],
    leaves: list[Tensor],
    bytes_and_flops: tuple[float, float],
    compile_it: bool = False,
    ours_leaves: list[Tensor] | None = None,
    **label: Label,
) -> Comparison:
    """Result and gradients of ours and of another way, in whose float64 both are compared; that is compiled too.

    `ours_leaves`: the same numbers in our memory layout.
    """
    dtype = leaves[0].dtype
    name, plain = other
    moved, flops = bytes_and_flops
    timed = Problem(
        {"what": what, "dtype": dtype_name(dtype), **label},
        flops,
        moved,
        ours={"ours": of_mean_square(ours, ours_leaves or leaves)},
        plain=plain,
        bind=lambda function: of_mean_square(function, leaves),
        expected=lambda: of_mean_square(plain, [leaf.double() for leaf in leaves])(),
        # A float32 convolution may be in TF32, as PyTorch allows by default.
        tolerance=5e-2 if dtype == BF16 else 5e-3,
        dtype=dtype,
    )
    return Comparison(timed, compile_it, name)


def naive_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    time = query.shape[-2]
    future = torch.ones(time, time, dtype=torch.bool, device=query.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ value


def attention(device: torch.device, batch: int, dtype: torch.dtype, compile_it: bool) -> Comparison:
    """Causal attention of a training step: 4 heads of 64 over 340 tokens."""
    leaves = list(torch.randn(3, batch, 4, 340, 64, device=device).to(dtype).unbind())
    size = leaves[0].numel()
    causal = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    # Forward two products of time x time x dim, backward five; causal: half of each.
    work = (8 * size * dtype.itemsize, 7 * size * 340)
    return comparison_of(
        "attention", causal, ("naive", naive_attention), leaves, work, compile_it, batch=batch
    )


def cross_entropy(device: torch.device, rows: int, dtype: torch.dtype, compile_it: bool) -> Comparison:
    """The observation loss of a training step: 512 classes at 16 of 17 positions."""
    labels = torch.randint(512, (rows,), device=device)
    leaves = [torch.randn(rows, 512, device=device).to(dtype)]
    naive = lambda logits: -logits.softmax(1).log().gather(1, labels[:, None]).mean()  # noqa: E731
    work = (3 * leaves[0].nbytes, 8 * leaves[0].numel())
    ours = lambda logits: F.cross_entropy(logits, labels)  # noqa: E731
    return comparison_of("cross_entropy", ours, ("naive", naive), leaves, work, compile_it, rows=rows)


def lstm(device: torch.device, batch: int, time: int) -> Comparison:
    """The actor-critic's recurrence over a rollout: cuDNN's LSTM beside our loop over its steps."""
    model = ActorCritic(ActorCriticConfig(), 6).to(device)
    cell = model.lstm
    whole = torch.nn.LSTM(cell.input_size, cell.hidden_size, batch_first=True).to(device)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(whole, f"{name}_l0").copy_(getattr(cell, name))
    by_dtype = {FLOAT32: (model, whole)}
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

    def cudnn(features: Tensor) -> Tensor:
        found: Tensor = by_dtype[features.dtype][1](features)[0]
        return found

    leaves = [torch.randn(batch, time, cell.input_size, device=device)]
    weights = 4 * cell.hidden_size * (cell.input_size + cell.hidden_size)
    work = (4 * (3 * leaves[0].numel() + 2 * weights), 4 * batch * time * weights)
    return comparison_of("lstm", loop, ("cudnn", cudnn), leaves, work, batch=batch, time=time)


def convolution(device: torch.device, batch: int, side: int, dtype: torch.dtype) -> Comparison:
    """3 x 3, 64 channels: channels last, as the autoencoder runs, beside channels first."""
    x = torch.randn(batch, 64, side, side, device=device).to(dtype)
    weight = torch.randn(64, 64, 3, 3, device=device).to(dtype) / 24
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight)]
    convolve = lambda x, w: F.conv2d(x, w, padding=1)  # noqa: E731
    work = ((5 * x.numel() + 4 * weight.numel()) * dtype.itemsize, 6 * x.numel() * 64 * 9)
    return comparison_of(
        *("convolution", convolve, ("channels_first", convolve), [x, weight], work),
        ours_leaves=last,
        batch=batch,
        side=side,
    )


KINDS: dict[str, Callable[..., Comparison]] = {
    "attention": attention,
    "cross_entropy": cross_entropy,
    "lstm": lstm,
    "convolution": convolution,
}


def comparison(device: torch.device, kind: str, **size: Any) -> Comparison:
    return KINDS[kind](device, **size)


@case("kernel_torch_limits", minutes=0.15, default=True)
def kernel_torch_limits(run: Run) -> Result:
    """Training operations left to PyTorch, beside their parts: attention, cross-entropy, LSTM, convolution."""
    machine = run.machine()
    full = machine.cuda and not run.quick
    batch = 64 if full else 1 if run.quick else 4
    dtypes = [FLOAT32, BF16] if full else [FLOAT32]
    maps = batch * (4 if full else 1)
    sizes: list[dict[str, Any]] = [
        *({"kind": "attention", "batch": batch, "dtype": d, "compile_it": full} for d in dtypes),
        *({"kind": "cross_entropy", "rows": batch * 320, "dtype": d, "compile_it": full} for d in dtypes),
        {"kind": "lstm", "batch": batch, "time": 20},
        *({"kind": "convolution", "batch": maps, "side": s, "dtype": d} for s in (64, 8) for d in dtypes),
    ]
    return measured(machine, run.quick, sizes, comparison)
