"""Attention and dropout of gradient steps in bfloat16 on a CPU: against PyTorch's, and their draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from iris_fast.models import cpu_training
from iris_fast.models.cpu_training import _Attention, _Dropout, rows_of
from iris_fast.models.transformer import Transformer, TransformerConfig

SHAPES = ((1, 1, 1, 16), (2, 17, 2, 16), (1, 64, 1, 64), (2, 65, 3, 32), (1, 340, 2, 64), (1, 130, 1, 80))
"""Sequences, tokens, heads, head's dimensions."""


def make(shape: tuple[int, int, int, int], size: float = 1.0) -> list[Tensor]:
    """Query, key, value and the gradient of the output."""
    batch, tokens, heads, dim = shape
    generator = torch.Generator().manual_seed(tokens)
    return list(size * torch.randn(4, batch, tokens, heads * dim, generator=generator))


def plain(inputs: list[Tensor], heads: int, factors: Tensor | None = None) -> list[Tensor]:
    """The output and the gradients by PyTorch; `factors` (batch, heads, tokens, tokens) of dropout."""
    *leaves, grad = (tensor.clone() for tensor in inputs)
    query, key, value = (leaf.requires_grad_().unflatten(2, (heads, -1)).transpose(1, 2) for leaf in leaves)
    if factors is None:
        out = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    else:
        scores = query @ key.mT * query.shape[3] ** -0.5
        hidden = torch.ones(scores.shape[2:], dtype=torch.bool).triu(1)
        out = (scores.masked_fill(hidden, -torch.inf).softmax(3) * factors) @ value
    out = out.transpose(1, 2).flatten(2)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def ours(inputs: list[Tensor], heads: int, probability: float = 0.0, seed: int = 0) -> list[Tensor]:
    *leaves, grad = (tensor.clone() for tensor in inputs)
    out = _Attention.apply(*(leaf.requires_grad_() for leaf in leaves), heads, probability, seed)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def factors_of(batch: int, tokens: int, heads: int, probability: float, seed: int) -> Tensor:
    """What each weight is multiplied by, seen through values that are one at one token."""
    found = torch.zeros(batch, heads, tokens, tokens)
    zeros = torch.zeros(batch, tokens, heads * 16)
    for first in range(0, tokens, 16):
        value = torch.zeros(batch, tokens, heads, 16)
        for token in range(first, min(first + 16, tokens)):
            value[:, token, :, token - first] = token + 1.0  # of equal weights, a query's are 1 / tokens seen
        out = _Attention.apply(zeros, zeros, value.flatten(2), heads, probability, seed)
        seen = torch.arange(1, tokens + 1)[:, None, None] / torch.arange(first + 1, first + 17)
        part = out.unflatten(2, (heads, 16)) * seen
        found[..., first : first + 16] = part.transpose(1, 2)[..., : tokens - first]
    return found


@pytest.mark.parametrize("size", [1.0, 8.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_as_exact_as_pytorchs(shape: tuple[int, int, int, int], size: float) -> None:
    inputs, heads = make(shape, size), shape[2]
    for dtype in (torch.float32, torch.bfloat16):
        given = [tensor.to(dtype) for tensor in inputs]
        exact = plain([tensor.double() for tensor in given], heads)
        for found, other, wanted in zip(ours(given, heads), plain(given, heads), exact, strict=True):
            assert found.dtype == dtype
            error, allowed = (found - wanted).norm(), (other - wanted).norm()
            assert error <= 2 * allowed + torch.finfo(dtype).eps * wanted.norm()


def test_dropped_weights_are_those_of_the_gradient() -> None:
    for shape in ((2, 40, 2, 16), (1, 150, 1, 32)):
        batch, tokens, heads, _ = shape
        factors = factors_of(batch, tokens, heads, 0.25, seed=7)
        hidden = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        seen = factors.masked_select(~hidden)
        torch.testing.assert_close(seen, torch.where(seen > 0.5, 4 / 3, 0.0))
        assert abs(float((seen == 0).float().mean()) - 0.25) < 4 * (0.25 * 0.75 / len(seen)) ** 0.5
        inputs = make(shape)
        exact = plain([tensor.double() for tensor in inputs], heads, factors.double())
        for found, wanted in zip(ours(inputs, heads, 0.25, seed=7), exact, strict=True):
            assert (found - wanted).norm() <= 1e-4 * wanted.norm()


def test_draws_differ_by_head_row_and_seed() -> None:
    first, second = factors_of(2, 48, 2, 0.5, seed=1), factors_of(2, 48, 2, 0.5, seed=2)
    masks = [first[0, 0], first[0, 1], first[1, 0], second[0, 0]]
    pairs = [(a, b) for i, a in enumerate(masks) for b in masks[:i]]
    hidden = torch.ones(48, 48, dtype=torch.bool).triu(1)
    for a, b in pairs:
        assert 0.4 < float((a == b).masked_select(~hidden).float().mean()) < 0.6


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox-4x32-10 as its authors write it."""
    for _ in range(10):
        products = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (products[1] >> 32) ^ counter[1] ^ key[0],
            products[1] & 0xFFFFFFFF,
            (products[0] >> 32) ^ counter[3] ^ key[1],
            products[0] & 0xFFFFFFFF,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 300), (2, 2100), (1, 5), (2, 3, 7)])
def test_dropout_draws_at_its_addresses(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, seed = torch.ones(shape, dtype=dtype).requires_grad_(), 123456789012345678
    y = _Dropout.apply(x, 0.3, seed)
    (slope,) = torch.autograd.grad(y.sum(), x)
    threshold = round(0.3 * 65536)
    kept = torch.tensor(65536 / (65536 - threshold)).to(dtype)
    rows = x.detach().flatten(1)
    wanted = np.empty((len(rows), -(-rows.shape[1] // 128) * 128))
    for row in range(len(rows)):
        for block in range(wanted.shape[1] // 128):
            for lane in range(16):
                words = philox([block * 16 + lane, row, 0, 0], [seed & 0xFFFFFFFF, seed >> 32])
                for index, word in enumerate(words):
                    at = block * 128 + index * 32 + lane
                    wanted[row, at] = (word & 0xFFFF) >= threshold
                    wanted[row, at + 16] = (word >> 16) >= threshold
    expected = torch.from_numpy(wanted[:, : rows.shape[1]]).view(shape).to(dtype) * kept
    assert torch.equal(y, expected) and torch.equal(slope, expected)


def test_a_process_draws_for_its_own_rows() -> None:
    x = torch.ones(4, 33)
    query, key, value, _ = make((4, 20, 1, 16))
    whole = _Dropout.apply(x, 0.5, 1), _Attention.apply(query, key, value, 1, 0.5, 1)
    with rows_of(1):
        own = (
            _Dropout.apply(x[2:], 0.5, 1),
            _Attention.apply(query[2:], key[2:], value[2:], 1, 0.5, 1),
        )
    assert all(torch.equal(a[2:], b) for a, b in zip(whole, own, strict=True))
    assert not torch.equal(_Dropout.apply(x[2:], 0.5, 1), own[0])


def test_threads_change_no_bit() -> None:
    inputs, threads, found = make((3, 70, 2, 16)), torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append([*ours(inputs, 2, 0.2, 5), _Dropout.apply(inputs[0], 0.2, 5)])
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))


def test_only_gradient_steps_in_bfloat16_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noting(name: str, apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def noted(*arguments: Any) -> Tensor:
            calls.append(name)
            return apply(*arguments)

        return noted

    for name in ("_Attention", "_Dropout"):
        function = getattr(cpu_training, name)
        monkeypatch.setattr(function, "apply", noting(name, function.apply))
    model = Transformer(TransformerConfig(5, 4, num_layers=1, num_heads=2, embed_dim=32)).train()
    x = torch.randn(2, 20, 32)
    model(x)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        model(x)
    with torch.autocast("cpu", torch.float16):
        model(x)
    assert calls == []
    with torch.autocast("cpu", torch.bfloat16):
        model.eval()(x)
        assert calls == ["_Attention"]
        torch.manual_seed(0)
        first = model.train()(x)
        assert calls == ["_Attention", "_Dropout", "_Attention", "_Dropout", "_Dropout"]
        torch.manual_seed(0)
        assert torch.equal(first, model(x)), "draws are those of PyTorch's seed"
        assert not torch.equal(first, model(x))
    narrow = Transformer(TransformerConfig(5, 4, num_layers=1, num_heads=4, embed_dim=32)).train()
    calls.clear()
    with torch.autocast("cpu", torch.bfloat16):
        narrow(x)
    assert "_Attention" not in calls, "a head's dimensions are no multiple of 16"


@pytest.mark.parametrize("probability", [-0.1, 1.0, float("nan")])
def test_impossible_probabilities_are_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="probability of dropout"):
        _Dropout.apply(torch.ones(2, 2), probability, 0)
