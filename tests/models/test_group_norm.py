"""GroupNorm's backward pass in channels-last memory computes what PyTorch's does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.models.autoencoder import GroupNormSwish
from iris_fast.models.group_norm import EPS, GroupNorm

SHAPES = [(4, 8, 6, 6), (1, 16, 1, 1), (3, 6, 5, 7), (2, 32, 16, 16)]
Results = dict[str, Tensor]


def inputs(shape: tuple[int, ...], channels_last: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(shape, generator=generator) for _ in range(2))
    x = 3 * x + 5
    weight, bias = (torch.randn(shape[1], generator=generator) for _ in range(2))
    if channels_last:
        x, upstream = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, upstream))
    return x, weight, bias, upstream


def ours(x: Tensor, weight: Tensor, bias: Tensor, upstream: Tensor) -> Results:
    module = GroupNorm(2, x.shape[1]).to(x.dtype)
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias)
    x = x.detach().requires_grad_()
    y = module(x)
    y.backward(upstream)
    assert x.grad is not None and module.weight.grad is not None and module.bias.grad is not None
    return {"y": y.detach(), "x": x.grad, "weight": module.weight.grad, "bias": module.bias.grad}


def torchs(dtype: torch.dtype, *tensors: Tensor) -> Results:
    x, weight, bias, upstream = (tensor.detach().to(dtype) for tensor in tensors)
    leaves = {"x": x.requires_grad_(), "weight": weight.requires_grad_(), "bias": bias.requires_grad_()}
    y = F.group_norm(x, 2, weight, bias, EPS)
    y.backward(upstream)
    return {"y": y.detach()} | {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_as_exact_as_pytorchs(shape: tuple[int, ...], channels_last: bool) -> None:
    tensors = inputs(shape, channels_last)
    found, plain, exact = ours(*tensors), torchs(torch.float32, *tensors), torchs(torch.float64, *tensors)
    assert found.keys() == exact.keys()
    for name, reference in exact.items():
        allowed = 2 * float((plain[name] - reference).abs().max()) + 1e-6 * float(reference.abs().max())
        assert float((found[name] - reference).abs().max()) <= allowed, name


def test_gradients_by_finite_differences() -> None:
    module = GroupNorm(2, 4).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(module, (x,))


def test_without_gradients_it_is_pytorchs() -> None:
    x, *_ = inputs(SHAPES[0], channels_last=True)
    module = GroupNorm(2, x.shape[1])
    with torch.no_grad():
        plain = F.group_norm(x, 2, module.weight, module.bias, EPS)
        assert torch.equal(module(x), plain)
    torch.testing.assert_close(module(x), plain)


def test_no_rows() -> None:
    assert GroupNorm(2, 4)(torch.zeros(0, 4, 3, 3)).shape == (0, 4, 3, 3)


def test_the_layout_is_kept() -> None:
    x, *_ = inputs(SHAPES[0], channels_last=True)
    assert GroupNorm(2, x.shape[1])(x).is_contiguous(memory_format=torch.channels_last)


def test_followed_by_swish() -> None:
    x, *_ = inputs(SHAPES[0], channels_last=True)
    normed = F.group_norm(x, 2, eps=EPS)
    torch.testing.assert_close(GroupNormSwish(2, x.shape[1])(x), normed * normed.sigmoid())
