"""Causal attention and dropout in C++ (`csrc/`), for gradient steps in bfloat16 on a CPU.

PyTorch's attention with dropout has no fused kernel on a CPU: it makes every score several times over, and a draw of
dropout takes it 10 nanoseconds. Here scores live in the processor's cache, and draws are addressed (by seed; row,
place), so that the gradient makes them again. Gradient steps in float32 keep PyTorch's own draws.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from iris_fast.kernels.common.extension import find_extension

from .cpu_weights import require_extension

_LANES = 16  # numbers that the extension takes at a time
_RANK: ContextVar[int] = ContextVar("rank", default=0)


@contextmanager
def rows_of(rank: int) -> Iterator[None]:
    """A block whose rows are those of process `rank` in a whole batch, which all processes draw alike."""
    token = _RANK.set(rank)
    try:
        yield
    finally:
        _RANK.reset(token)


def in_bfloat16(x: Tensor) -> bool:
    """Whether a gradient step of x on a CPU is in bfloat16, and the C++ extension there."""
    return (
        x.is_cpu
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and find_extension() is not None
    )


def for_products(x: Tensor) -> Tensor:
    """x in bfloat16 where a gradient step is in bfloat16 on a CPU, so that several products round it once."""
    return x.bfloat16() if in_bfloat16(x) else x


def takes(query: Tensor, heads: int) -> bool:
    """Whether `causal_attention` takes a query `(batch, tokens, heads * head_dim)`."""
    return in_bfloat16(query) and query.dtype == torch.bfloat16 and query.shape[2] % (heads * _LANES) == 0


def causal_attention(query: Tensor, key: Tensor, value: Tensor, heads: int, probability: float) -> Tensor:
    """Causal attention of `(batch, tokens, heads * head_dim)`, whose weights are dropped with a probability.

    Arithmetic is in float32. Draws come from PyTorch's default generator, as one seed.
    """
    return _Attention.apply(query, key, value, heads, probability, _seed(probability))


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """PyTorch's dropout of x `(batch, …)`; where a gradient step is in bfloat16 on a CPU, by addressed draws."""
    if not training or probability == 0 or not x.numel() or not in_bfloat16(x) or x.dtype not in _DTYPES:
        return F.dropout(x, probability, training)
    return _Dropout.apply(x, probability, _seed(probability))


class Dropout(nn.Dropout):
    """`nn.Dropout` by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


_DTYPES = (torch.float32, torch.bfloat16)


def _seed(probability: float) -> int:
    return int(torch.randint(2**63 - 1, ())) if probability else 0


@functools.lru_cache(maxsize=1)
def _pool_of(threads: int) -> Any:
    return require_extension().ThreadPool(threads)


def _pool() -> Any:
    return _pool_of(torch.get_num_threads())


def _buffer(tensor: Tensor) -> Any:
    """NumPy's view of a contiguous tensor; it has no bfloat16, whose bits are uint16."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, heads: int, probability: float, seed: int
    ) -> Tensor:
        inputs = [tensor.contiguous() for tensor in (query, key, value)]
        batch, tokens, width = query.shape
        scale, first_row = (width // heads) ** -0.5, _RANK.get() * batch
        sums = torch.empty(2, batch, heads, tokens)
        out = torch.empty_like(inputs[0])
        ctx.settings = (heads, scale, probability, seed, first_row)
        buffers = map(_buffer, (*inputs, *sums, out))
        require_extension().causal_attention(_pool(), *ctx.settings, *buffers)
        ctx.save_for_backward(*inputs, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        *inputs, sums = ctx.saved_tensors
        gradients = [torch.empty_like(tensor) for tensor in inputs]
        buffers = map(_buffer, (grad.to(inputs[0].dtype).contiguous(), *inputs, *sums, *gradients))
        require_extension().causal_attention_backward(_pool(), *ctx.settings, *buffers)
        return *gradients, None, None, None


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, probability: float, seed: int) -> Tensor:
        ctx.settings = (probability, seed, _RANK.get() * len(x))
        return _dropped(x, ctx.settings)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _dropped(grad, ctx.settings), None, None


def _dropped(x: Tensor, settings: tuple[float, int, int]) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    require_extension().dropout(_pool(), *settings, _buffer(x.flatten(1)), _buffer(out.flatten(1)))
    return out
