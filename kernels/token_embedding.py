"""Token and position embedding of a GPT in one launch, from one or two tables.

y[..., t] = table[tokens[..., t]] + position_table[positions[..., t]]. Tokens of two kinds, such as a world model's
frame tokens and actions, share one range of numbers: those from `len(table)` up are rows of a second table. Nothing
is concatenated for this.

`tokens` is (..., time), the tables (vocab, dim), (more, dim) and (positions, dim), the result (..., time, dim).
Bytes moved: y and the tokens once, a row of each table a token (from L2: a vocabulary of 512 × 256 fits). Work:
one addition a number. Gradients of the tables are PyTorch's embedding gradient, which sorts the tokens and adds
in a fixed order; where positions count up from 0, that of their table is a sum over the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .common.arguments import as_rows, with_checked_types
from .common.arithmetic import in_exact_float32
from .common.registration import operator
from .common.rounding import rounded_to
from .common.spec import (
    Benchmark,
    Call,
    Derivatives,
    Function,
    Launch,
    Numbers,
    OpSpec,
    Problem,
    Row,
    Sizes,
    dtype_name,
    with_gradients,
)
from .common.triton import jit, on_its_device, require_triton, tl, triton

_TILE = 2048  # numbers of the result that a block writes


@jit
def _load_rows(
    table,  # (count, dim), rows contiguous
    row,  # (BLOCK_TOKENS,) int64
    count,
    stride,  # elements between rows
    column,  # (BLOCK_DIM,)
    wanted,  # (BLOCK_TOKENS,): rows to be read, where they exist
    column_mask,
):
    """Rows (BLOCK_TOKENS, BLOCK_DIM) float32 of a table, 0 for those not wanted, NaN where there is no such row."""
    exists = (row >= 0) & (row < count)
    values = tl.load(
        table + row[:, None] * stride + column[None, :],
        mask=(wanted & exists)[:, None] & column_mask[None, :],
        other=0.0,
    ).to(tl.float32)
    return tl.where((wanted & ~exists)[:, None], float("nan"), values)


@jit
def _token_embedding_kernel(
    tokens,  # (rows, time) of an integer type, any strides
    table,  # (vocab, dim), rows contiguous
    more_table,  # (more, dim), rows contiguous; read if HAS_MORE
    position_table,  # (num_positions, dim), rows contiguous
    positions,  # (rows, time) of an integer type, any strides; read if HAS_POSITIONS, otherwise 0, 1, 2, ...
    result,  # out: (rows, time, dim), contiguous
    count,  # rows * time
    time,
    dim,
    vocab,
    more,
    num_positions,
    stride_tokens_row,
    stride_tokens_time,
    stride_positions_row,
    stride_positions_time,
    stride_table,  # elements between rows
    stride_more,
    stride_position_table,
    HAS_MORE: tl.constexpr,
    HAS_POSITIONS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    dim_blocks = (dim + BLOCK_DIM - 1) // BLOCK_DIM
    index = (tl.program_id(0) // dim_blocks).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
    column = (tl.program_id(0) % dim_blocks) * BLOCK_DIM + tl.arange(0, BLOCK_DIM)
    here, column_mask = index < count, column < dim
    row, step = index // time, index % time
    token = tl.load(tokens + row * stride_tokens_row + step * stride_tokens_time, mask=here, other=0).to(
        tl.int64
    )
    if HAS_POSITIONS:
        offset = row * stride_positions_row + step * stride_positions_time
        step = tl.load(positions + offset, mask=here, other=0).to(tl.int64)
    total = _load_rows(position_table, step, num_positions, stride_position_table, column, here, column_mask)
    if HAS_MORE:
        second = here & (token >= vocab)
        total += _load_rows(more_table, token - vocab, more, stride_more, column, second, column_mask)
        here = here & (token < vocab)
    total += _load_rows(table, token, vocab, stride_table, column, here, column_mask)
    offset = index[:, None] * dim + column[None, :]
    inside = (index < count)[:, None] & column_mask[None, :]
    tl.store(result + offset, rounded_to(total, result.dtype.element_ty), mask=inside)


@on_its_device
def launch_token_embedding(
    tokens: Tensor,
    table: Tensor,
    position_table: Tensor,
    positions: Tensor | None,
    more_table: Tensor | None,
    dtype: torch.dtype,
    *,
    block: tuple[int, int] | None = None,
) -> Tensor:
    """Launches the kernel on tokens and positions (rows, time); the result (rows, time, dim) in `dtype`.

    `block` is (tokens, columns) of a block, powers of two.
    """
    given = [t for t in (tokens, table, position_table, positions, more_table) if t is not None]
    require_triton("token_embedding", *given)
    (rows, time), dim = tokens.shape, table.shape[1]
    result = torch.empty((rows, time, dim), device=table.device, dtype=dtype)
    if result.numel() == 0:
        return result
    table, position_table = _rows_contiguous(table), _rows_contiguous(position_table)
    more_table = None if more_table is None else _rows_contiguous(more_table)
    block_tokens, block_dim = block or choose_block(rows * time, dim)
    grid = (triton.cdiv(rows * time, block_tokens) * triton.cdiv(dim, block_dim),)
    _token_embedding_kernel[grid](
        tokens,
        table,
        table if more_table is None else more_table,
        position_table,
        tokens if positions is None else positions,
        result,
        rows * time,
        time,
        dim,
        len(table),
        0 if more_table is None else len(more_table),
        len(position_table),
        *tokens.stride(),
        *(tokens if positions is None else positions).stride(),
        table.stride(0),
        table.stride(0) if more_table is None else more_table.stride(0),
        position_table.stride(0),
        HAS_MORE=more_table is not None,
        HAS_POSITIONS=positions is not None,
        BLOCK_TOKENS=block_tokens,
        BLOCK_DIM=block_dim,
        num_warps=4,
    )
    return result


def choose_block(count: int, dim: int) -> tuple[int, int]:
    """Tokens and columns of a block: whole rows up to 1024 columns, fewer of them where there are few tokens."""
    block_dim = min(1024, triton.next_power_of_2(dim))
    most = max(1, _TILE // block_dim)
    return min(most, triton.next_power_of_2(triton.cdiv(count, 128))), block_dim


def _rows_contiguous(table: Tensor) -> Tensor:
    return table if table.stride(1) == 1 else table.contiguous()


def _plain(
    tokens: Tensor,
    table: Tensor,
    position_table: Tensor,
    positions: Tensor | None,
    more_table: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    if positions is None:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
    rows = table if more_table is None else torch.cat([table, more_table])
    return F.embedding(tokens, rows).to(dtype).add_(F.embedding(positions, position_table).to(dtype))


@operator("token_embedding")
def _token_embedding(
    tokens: Tensor,  # (rows, time) int64 or int32
    table: Tensor,  # (vocab, dim)
    position_table: Tensor,  # (num_positions, dim)
    positions: Tensor | None,  # (rows, time) int64 or int32
    more_table: Tensor | None,  # (more, dim)
    dtype: torch.dtype,
) -> Tensor:  # (rows, time, dim) of `dtype`
    return _plain(tokens, table, position_table, positions, more_table, dtype)


_token_embedding.register_kernel("cuda")(launch_token_embedding)


@_token_embedding.register_fake
def _token_embedding_fake(tokens: Tensor, table: Tensor, *others: Any) -> Tensor:
    return table.new_empty((*tokens.shape, table.shape[1]), dtype=others[-1])


def _setup_context(ctx, inputs, output) -> None:
    tokens, table, position_table, positions, more_table, _ = inputs
    ctx.save_for_backward(tokens, positions)
    tables = (table, position_table, more_table)
    ctx.shapes = [None if t is None else (t.shape[0], t.dtype) for t in tables]


def _grad_of_table(grad: Tensor, rows: Tensor, count: int) -> Tensor:
    """Σ of grad (..., dim) over the places where `rows` (...) names a row of (count, dim), in a fixed order.

    Numbers that name no row go to one more, which is dropped: nothing is written out of range.
    """
    rows = torch.where((rows >= 0) & (rows < count), rows, count)
    return torch.ops.aten.embedding_dense_backward(grad, rows, count + 1, -1, False)[:count]


def _backward(ctx, grad: Tensor):
    tokens, positions = ctx.saved_tensors
    (vocab, table_dtype), (num_positions, position_dtype), more = ctx.shapes
    if positions is None:
        summed = grad.sum(0, dtype=torch.promote_types(position_dtype, torch.float32))
        grad_positions = F.pad(summed, (0, 0, 0, num_positions - grad.shape[1]))
    else:
        grad_positions = _grad_of_table(grad, positions, num_positions)
    grad_rows = _grad_of_table(grad, tokens, vocab + (more[0] if more else 0))
    grad_more = grad_rows[vocab:].to(more[1], copy=True) if more else None
    return (
        None,
        grad_rows[:vocab].to(table_dtype),
        grad_positions.to(position_dtype),
        None,
        grad_more,
        None,
    )


_token_embedding.register_autograd(_backward, setup_context=_setup_context)


@with_checked_types
def token_embedding(
    tokens: Tensor,
    table: Tensor,
    position_table: Tensor,
    positions: Tensor | None = None,
    *,
    more_table: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`table[tokens] + position_table[positions]` (..., time, dim).

    Args:
        tokens: (..., time) or () int64 or int32, from 0 to vocab - 1, or, with `more_table`, on to
            vocab + more - 1: token vocab + i is row i of `more_table`.
        table: (vocab, dim), any float dtype.
        position_table: (positions, dim), any float dtype.
        positions: int64 or int32 that broadcasts to the shape of tokens; a () tensor on the device is what a
            captured CUDA graph of a decoding step wants. By default 0, 1, 2, ... along time.
        more_table: (more, dim), of the dtype of `table`.
        dtype: of the result, by default that of `table`. The sum is rounded to it once on a GPU.

    Differentiable by the tables, and deterministic. A token or position out of range raises IndexError on a
    CPU; on a GPU, where looking would make the host wait, its row of the result is NaN, and its gradient is
    dropped.

    Raises ValueError or TypeError naming an argument of a wrong shape or dtype.
    """
    tokens2, positions2, dtype = _checked(tokens, table, position_table, positions, more_table, dtype)
    result = _token_embedding(tokens2, table, position_table, positions2, more_table, dtype)
    return result.reshape(*tokens.shape, table.shape[1])


@with_checked_types
@in_exact_float32
def token_embedding_reference(
    tokens: Tensor,
    table: Tensor,
    position_table: Tensor,
    positions: Tensor | None = None,
    *,
    more_table: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`token_embedding` in plain PyTorch; tokens out of range raise as PyTorch does on the device."""
    tokens2, positions2, dtype = _checked(tokens, table, position_table, positions, more_table, dtype)
    result = _plain(tokens2, table, position_table, positions2, more_table, dtype)
    return result.reshape(*tokens.shape, table.shape[1])


def _checked(
    tokens: Tensor,
    table: Tensor,
    position_table: Tensor,
    positions: Tensor | None,
    more_table: Tensor | None,
    dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor | None, torch.dtype]:
    """Tokens and positions as (rows, time), and the dtype of the result."""
    tables = {"table": table, "position_table": position_table, "more_table": more_table}
    for name, found in tables.items():
        if found is None:
            continue
        if found.dim() != 2 or found.shape[1] != table.shape[-1]:
            raise ValueError(f"{name} must be (rows, {table.shape[-1]}), got {tuple(found.shape)}")
        if not found.is_floating_point():
            raise TypeError(f"{name} must be floating point, got dtype {found.dtype}")
        if found.device != table.device:
            raise ValueError(f"{name} must be on the device of table, {table.device}, got {found.device}")
    if more_table is not None and more_table.dtype != table.dtype:
        raise TypeError(f"more_table must have the dtype of table, {table.dtype}, got {more_table.dtype}")
    for name, found in (("tokens", tokens), ("positions", positions)):
        if found is not None and found.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"{name} must be int64 or int32, got dtype {found.dtype}")
        if found is not None and found.device != table.device:
            raise ValueError(f"{name} must be on the device of table, {table.device}, got {found.device}")
    time = tokens.shape[-1] if tokens.dim() else 1
    if positions is None and time > position_table.shape[0]:
        raise ValueError(f"time must be at most the {position_table.shape[0]} positions, got {time}")
    if positions is not None:
        try:
            positions = as_rows(positions.expand(tokens.shape))
        except RuntimeError:
            shapes = f"{tuple(tokens.shape)}, got {tuple(positions.shape)}"
            raise ValueError(f"positions must broadcast to the shape of tokens, {shapes}") from None
    return as_rows(tokens), positions, dtype or table.dtype


def _calls(device: str) -> dict[str, Call]:
    numbers = Numbers(device, alike=True)
    tables = (numbers.normal(10, 8), numbers.normal(9, 8), numbers.normal(3, 8))
    return {
        "token_embedding": Call(
            lambda tokens, table, places, more: token_embedding(tokens, table, places, more_table=more),
            (numbers.integers(13, 4, 7), *tables),
            {0: 0},
        )
    }


def _arguments() -> dict[str, dict[str, Any]]:
    tokens, square = torch.zeros(2, 3, dtype=torch.long), torch.eye(5)
    return {"token_embedding": {"tokens": tokens, "table": square, "position_table": square}}


def _launches(_: int) -> Iterator[Launch]:
    for rows, time, dim, vocab in [(64, 1, 256, 512), (64, 340, 256, 512), (1, 1, 1, 1), (1, 7, 33, 5)]:
        tokens = torch.zeros(rows, time, dtype=torch.int64)
        small, same = tokens.int(), tokens[:1, :1].expand_as(tokens)
        for dtype in (torch.float32, torch.bfloat16):
            table, places = torch.zeros(vocab, dim, dtype=dtype), torch.zeros(max(time, 2), dim, dtype=dtype)
            for given in (
                (tokens, table, places, None, places[:1], dtype),
                (small, table, places, same, None, dtype),
            ):
                what = f"{rows} x {time} x {dim} {dtype_name(dtype)}"
                yield Launch(what, partial(launch_token_embedding, *given), hot=True)


def _derivatives() -> Derivatives:
    def ours(table: Tensor, places: Tensor, more: Tensor, tokens: Tensor) -> Tensor:
        return token_embedding(tokens, table, places, more_table=more)

    def plain(table: Tensor, places: Tensor, more: Tensor, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, torch.cat([table, more])) + places[: tokens.shape[1]]

    numbers = Numbers("cpu")
    inputs = (numbers.normal(11, 20), numbers.normal(9, 20), numbers.normal(3, 20))
    return Derivatives(ours, plain, inputs, (numbers.integers(14, 3, 9),))


def _sizes(cuda: bool, quick: bool) -> Sizes:
    """One token of each sequence, then the paper's training batch, then a larger model."""
    if quick:
        return [{"batch": 2, "time": 17, "dim": 32, "gradients": gradients} for gradients in (False, True)]
    found: Sizes = [{"batch": 64, "time": 340, "gradients": gradients} for gradients in (False, True)]
    if cuda:
        found = [{"batch": batch, "dtype": torch.bfloat16} for batch in (64, 1024)] + found
        found.append({"batch": 16, "time": 1024, "dim": 1024, "dtype": torch.bfloat16})
    else:
        found = [{"batch": 64}, *found]
    return [size | {"compile_it": True} for size in found]


def _problem(
    device: torch.device,
    batch: int,
    time: int = 1,
    dim: int = 256,
    dtype: torch.dtype = torch.float32,
    gradients: bool = False,
) -> Problem:
    """`batch` sequences of `time` tokens of width `dim`, with tables of 512 tokens, positions and 18 actions."""
    numbers = Numbers(device)
    vocab, actions, positions = 512, 18, 1024
    tokens = numbers.integers(vocab + actions, batch, time)
    tables = [numbers.normal(n, dim, dtype=dtype) for n in (vocab, positions, actions)]
    grad = numbers.normal(batch, time, dim, dtype=dtype)

    def bind(function: Function, tables: list[Tensor] = tables) -> Function:
        def call(*tables: Tensor) -> Tensor:
            return function(tokens, *tables[:2], more_table=tables[2])

        return with_gradients(call, tables, grad.to(tables[0].dtype)) if gradients else lambda: call(*tables)

    count = batch * time
    rows = min(count, vocab + actions) + min(time, positions)
    written = (count + (rows + count if gradients else 0)) * dim
    return Problem(
        {"batch": batch, "time": time, "dim": dim, "dtype": dtype_name(dtype), "gradients": gradients},
        flops=count * dim * (3 if gradients else 1),
        bytes=8 * count + dtype.itemsize * (rows * dim + written),
        ours={"ours": bind(token_embedding)},
        plain=token_embedding_reference,
        bind=bind,
        expected=lambda: bind(token_embedding_reference, [table.double() for table in tables])(),
        tolerance=1e-4 if dtype == torch.float32 else 2e-2,
    )


SPEC = OpSpec(
    token_embedding,
    _calls,
    _arguments,
    token_embedding_reference,
    about="Token plus position embedding from one table or two (frame tokens and actions, say), in one launch.",
    example="""
import torch
from iris_fast.kernels import token_embedding

frames, actions, positions = torch.randn(512, 256), torch.randn(18, 256), torch.randn(340, 256)
x = token_embedding(torch.randint(530, (64, 340)), frames, positions, more_table=actions)  # (64, 340, 256)
""",
    launches=_launches,
    derivatives=_derivatives,
    benchmark=Benchmark(
        _sizes,
        _problem,
        {"batch": 64},
        Row(
            "(…, time), (vocab, dim), (positions, dim) → (…, time, dim)",
            "int64 or int32 tokens",
            {"batch": 64, "time": 340, "gradients": False},
            {"batch": 64, "time": 340, "gradients": False},
            "{batch} × {time} × {dim}",
        ),
        minutes=0.15,
    ),
)
