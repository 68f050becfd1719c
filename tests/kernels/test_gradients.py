"""Outputs and gradients of every differentiable operation err at most twice as much as plain PyTorch in its dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.kernels import group_norm_swish, lambda_returns, layer_norm_linear, token_embedding, vq_lookup

from .harness import assert_as_exact_as

ON_BOTH = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@dataclass(frozen=True)
class Case:
    """An operation, and the same as people write it, as functions of tensors that have gradients and of `others`."""

    ours: Callable[..., Any]
    plain: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    others: tuple[Tensor, ...] = ()

    def run(
        self, function: Callable[..., Any], numbers: torch.dtype, dtype: torch.dtype, device: str
    ) -> list[Tensor]:
        """Outputs, then gradients by every input, computed in `dtype` from inputs that `numbers` can hold."""
        leaves = [tensor.to(numbers).to(device, dtype).requires_grad_() for tensor in self.inputs]
        result = function(*leaves, *(tensor.to(device) for tensor in self.others))
        outputs = [result] if isinstance(result, Tensor) else list(result)
        generator = torch.Generator().manual_seed(5)
        above = [torch.randn(one.shape, generator=generator).to(numbers) for one in outputs]
        given = [one.to(device, output.dtype) for one, output in zip(above, outputs, strict=True)]
        return [*(one.detach() for one in outputs), *torch.autograd.grad(outputs, leaves, given)]


def our_lookup(vectors: Tensor, codebook: Tensor) -> list[Tensor | None]:
    found = vq_lookup(vectors, codebook, commitment=True, reduction="rows")
    return [found.quantized, found.commitment_loss, found.codebook_loss]


def plain_lookup(vectors: Tensor, codebook: Tensor) -> list[Tensor]:
    indices = torch.cdist(vectors.detach().double(), codebook.detach().double()).argmin(-1)
    chosen = codebook[indices]
    wide = torch.promote_types(vectors.dtype, torch.float32)
    commitment = (vectors - chosen.detach()).square().mean(-1).to(wide)
    return [
        chosen.detach() + (vectors - vectors.detach()),
        commitment,
        (vectors.detach() - chosen).square().mean(-1).to(wide),
    ]


def our_layer(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, added: Tensor) -> Tensor:
    return layer_norm_linear(
        x, weight, bias, norm_weight=gain, norm_bias=shift, activation="gelu", residual=added
    )


def plain_layer(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, added: Tensor
) -> Tensor:
    return F.gelu(F.linear(F.layer_norm(x, x.shape[-1:], gain, shift), weight, bias)) + added


def plain_embedding(table: Tensor, places: Tensor, more: Tensor, tokens: Tensor) -> Tensor:
    return F.embedding(tokens, torch.cat([table, more])) + places[: tokens.shape[1]]


def plain_returns(rewards: Tensor, values: Tensor, ends: Tensor) -> Tensor:
    returns = [values[:, -1]]
    for t in range(values.shape[1] - 2, -1, -1):
        mixed = 0.05 * values[:, t + 1] + 0.95 * returns[-1]
        returns.append(rewards[:, t] + 0.99 * (1 - ends[:, t].to(values.dtype)) * mixed)
    return torch.stack(returns[::-1], 1).to(torch.promote_types(values.dtype, torch.float32))


def make_cases() -> dict[str, Case]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    tokens = torch.randint(14, (3, 9), generator=generator)
    ends = torch.rand(5, 70, generator=generator) < 0.1
    norm = (1 + 0.1 * normal(40), normal(40))
    return {
        "vq_lookup": Case(our_lookup, plain_lookup, (normal(60, 24), normal(12, 24))),
        "layer_norm_linear": Case(
            our_layer,
            plain_layer,
            (3 * normal(7, 40) + 1, normal(24, 40) / 6, normal(24), *norm, normal(7, 24)),
        ),
        "group_norm_swish": Case(
            lambda x, gain, shift: group_norm_swish(x, 4, gain, shift),
            lambda x, gain, shift: F.silu(F.group_norm(x, 4, gain, shift, 1e-6)),
            (2 * normal(3, 8, 5, 5) + 1, normal(8), normal(8)),
        ),
        "token_embedding": Case(
            lambda table, places, more, tokens: token_embedding(tokens, table, places, more_table=more),
            plain_embedding,
            (normal(11, 20), normal(9, 20), normal(3, 20)),
            (tokens,),
        ),
        "lambda_returns": Case(
            lambda rewards, values, ends: lambda_returns(rewards, values, ends, 0.99, 0.95),
            plain_returns,
            (normal(5, 70), normal(5, 70)),
            (ends,),
        ),
    }


@pytest.mark.parametrize("device", ON_BOTH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", list(make_cases()))
def test_outputs_and_gradients_are_as_exact_as_plain_pytorch(
    name: str, dtype: torch.dtype, device: str
) -> None:
    case = make_cases()[name]
    found = case.run(case.ours, dtype, dtype, device)
    plain = case.run(case.plain, dtype, dtype, device)
    exact = case.run(case.plain, dtype, torch.float64, "cpu")
    for one, rounded, target in zip(found, plain, exact, strict=True):
        # Sums in another order may differ by some roundings where plain PyTorch happens to be exact.
        assert_as_exact_as(one, rounded, target, rounding=4)
