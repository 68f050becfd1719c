from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from iris_fast.kernels.common.triton import INTERPRETED
from iris_fast.kernels.token_embedding import (
    launch_token_embedding,
    token_embedding,
    token_embedding_reference,
)
from tests.support.properties import given, settings, st

from .harness import DEVICES, assert_as_exact_as, poisoned_outputs

launch: Any = launch_token_embedding
HERE = "cpu" if INTERPRETED else "cuda"


def random_tables(
    vocab: int, more: int, positions: int, dim: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Tables of tokens, of more tokens and of positions."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (vocab, more, positions)
    table, more_table, position_table = (torch.randn(n, dim, generator=generator).to(dtype) for n in sizes)
    return table, more_table, position_table


def by_indexing(
    tokens: Tensor, table: Tensor, position_table: Tensor, positions: Tensor, more_table: Tensor | None
) -> Tensor:
    """The definition, token by token, in the dtype of the tables."""
    found = []
    for token, position in zip(tokens.flatten().tolist(), positions.flatten().tolist(), strict=True):
        second = more_table is not None and token >= len(table)
        row = more_table[token - len(table)] if second else table[token]  # type: ignore[index]
        found.append(row + position_table[position])
    return torch.stack(found).reshape(*tokens.shape, table.shape[1])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 17, 40), (1, 1, 256), (3, 5, 7), (1, 3, 1500)])
@pytest.mark.parametrize("given_positions", [True, False])
def test_the_kernel_is_as_exact_as_plain_pytorch(
    device: str, dtype: torch.dtype, shape: tuple[int, int, int], given_positions: bool
) -> None:
    rows, time, dim = shape
    table, more, place = random_tables(11, 3, 20, dim, dtype)
    tokens = torch.randint(14, (rows, time))
    positions = torch.randint(20, (rows, time)) if given_positions else torch.arange(time).expand(rows, time)
    with poisoned_outputs():
        found = launch(
            tokens.to(device),
            table.to(device),
            place.to(device),
            positions.to(device) if given_positions else None,
            more.to(device),
            dtype,
        )
    exact = by_indexing(tokens, table.double(), place.double(), positions, more.double())
    assert_as_exact_as(found, by_indexing(tokens, table, place, positions, more), exact, rounding=0)


@pytest.mark.parametrize("device", DEVICES)
def test_the_sum_is_rounded_to_the_dtype_asked_for(device: str) -> None:
    table, _, place = random_tables(11, 1, 20, 12)
    tokens = torch.randint(11, (3, 6), dtype=torch.int32)
    found = launch(tokens.to(device), table.to(device), place.to(device), None, None, torch.bfloat16)
    expected = token_embedding_reference(tokens, table, place).bfloat16()
    assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("block", [(1, 16), (8, 8), (4, 64)])
def test_every_block_gives_the_same(device: str, block: tuple[int, int]) -> None:
    table, more, place = random_tables(5, 2, 9, 21)
    tokens = torch.randint(7, (2, 9))
    arguments: list[Any] = [tensor.to(device) for tensor in (tokens, table, place)]
    found = launch(*arguments, None, more.to(device), torch.float32, block=block)
    assert torch.equal(found.cpu(), token_embedding_reference(tokens, table, place, more_table=more))


@pytest.mark.parametrize("device", DEVICES)
def test_out_of_range_gives_rows_of_nan(device: str) -> None:
    table, more, place = random_tables(5, 2, 3, 8)
    tokens = torch.tensor([[0, 6, 7, -1, 2**40, 4, 4, -(2**62)]])
    positions = torch.tensor([[0, 2, 0, 0, 0, 3, -1, 0]])
    tensors: list[Any] = [tensor.to(device) for tensor in (tokens, table, place, positions)]
    found = launch(*tensors, more.to(device), torch.float32).cpu()
    assert torch.isfinite(found[0, :2]).all() and torch.isnan(found[0, 2:]).all()
    without = launch(*tensors, None, torch.float32).cpu()
    assert torch.isfinite(without[0, 0]).all() and torch.isnan(without[0, 1:]).all()


def test_out_of_range_raises_on_a_cpu() -> None:
    table, more, place = random_tables(5, 2, 3, 8)
    for token, position in ((7, 0), (-1, 0), (0, 3)):
        with pytest.raises(IndexError):
            token_embedding(torch.tensor([token]), table, place, torch.tensor([position]), more_table=more)


def test_nan_in_a_table_reaches_the_tokens_that_use_it() -> None:
    table, _, place = random_tables(4, 1, 4, 3)
    table[2, 1] = float("nan")
    tokens = torch.tensor([[2, 1, 2]], device=HERE)
    found = launch(tokens, table.to(HERE), place.to(HERE), None, None, torch.float32)
    assert torch.isnan(found[0, :, 1]).tolist() == [True, False, True]
    assert torch.isfinite(found[0, :, [0, 2]]).all()


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_shape_stride_and_dtype(data: st.DataObject) -> None:
    rows, time, dim = (data.draw(st.integers(0, 5)) for _ in range(3))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    table, more, place = random_tables(6, 2, 7, dim, dtype, seed=data.draw(st.integers(0, 99)))
    kind = data.draw(st.sampled_from([torch.int64, torch.int32]))
    tokens = torch.randint(8, (rows, time)).to(kind)
    positions = data.draw(st.sampled_from([None, (), (1,), (rows, 1), (rows, time)]))
    where = None if positions is None else torch.randint(7, positions).to(kind)
    if data.draw(st.booleans()):
        tokens = tokens.t().contiguous().t()
        table = table.t().contiguous().t()
    expected = token_embedding_reference(tokens, table, place, where, more_table=more)
    assert expected.shape == (rows, time, dim)
    assert torch.equal(token_embedding(tokens, table, place, where, more_table=more), expected)
    spread = None if where is None else where.expand(rows, time).to(HERE)
    tensors: list[Any] = [tensor.to(HERE) for tensor in (tokens, table, place)]
    found = launch(*tensors, spread, more.to(HERE), dtype)
    assert_as_exact_as(found, expected, expected) if found.numel() else None


def test_leading_dimensions_and_a_position_on_the_device() -> None:
    table, more, place = random_tables(6, 2, 7, 4)
    tokens = torch.randint(8, (2, 3, 5))
    found = token_embedding(tokens, table, place, more_table=more)
    assert torch.equal(found, by_indexing(tokens, table, place, torch.arange(5).expand(2, 3, 5), more))
    found = token_embedding(tokens[:, 0, 0], table, place, torch.tensor(6), more_table=more)
    assert torch.equal(found, by_indexing(tokens[:, 0, 0], table, place, torch.full((2,), 6), more))
    one = token_embedding(torch.tensor(3), table, place, torch.tensor(6))
    assert torch.equal(one, table[3] + place[6])


@pytest.mark.parametrize("given_positions", [True, False])
@pytest.mark.parametrize("with_more", [True, False])
def test_gradients_are_those_of_indexing_and_repeat(given_positions: bool, with_more: bool) -> None:
    tables = random_tables(5, 3, 9, 4, torch.float64)
    tokens = torch.randint(8 if with_more else 5, (6, 7))
    positions = torch.randint(9, (6, 7)) if given_positions else None
    weight = torch.randn(6, 7, 4, dtype=torch.float64)

    def gradients(function: str) -> list[Tensor]:
        table, more, place = (tensor.clone().requires_grad_() for tensor in tables)
        second = more if with_more else None
        if function == "ours":
            y = token_embedding(tokens, table, place, positions, more_table=second)
        else:
            where = torch.arange(7).expand(6, 7) if positions is None else positions
            y = by_indexing(tokens, table, place, where, second)
        return list(torch.autograd.grad((y * weight).sum(), [table, place, *([more] if with_more else [])]))

    found = gradients("ours")
    for gradient, expected in zip(found, gradients("indexing"), strict=True):
        torch.testing.assert_close(gradient, expected)
    assert all(torch.equal(a, b) for a, b in zip(found, gradients("ours"), strict=True))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"table": torch.ones(3)}, ValueError, r"table must be \(rows, 3\), got \(3,\)"),
        (
            {"position_table": torch.ones(4, 5)},
            ValueError,
            r"position_table must be \(rows, 2\), got \(4, 5\)",
        ),
        ({"more_table": torch.ones(4, 2).double()}, TypeError, "more_table must have the dtype of table"),
        ({"tokens": torch.zeros(1, 5, dtype=torch.int64)}, ValueError, "at most the 4 positions, got 5"),
        ({"positions": torch.zeros(3, dtype=torch.int64)}, ValueError, r"tokens, \(1, 2\), got \(3,\)"),
        (
            {"tokens": torch.zeros(1, 2)},
            TypeError,
            r"tokens must be int64 or int32, got dtype torch\.float32",
        ),
        (
            {"position_table": torch.ones(4, 2, device="meta")},
            ValueError,
            "on the device of table, cpu, got meta",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {
        "tokens": torch.zeros(1, 2, dtype=torch.int64),
        "table": torch.ones(3, 2),
        "position_table": torch.ones(4, 2),
    } | changes
    for function in (token_embedding, token_embedding_reference):
        with pytest.raises(error, match=message):
            function(**arguments)


def test_is_a_well_formed_operator_and_compiles_whole() -> None:
    table, more, place = (tensor.requires_grad_() for tensor in random_tables(5, 3, 9, 4))
    tokens = torch.randint(8, (2, 7))
    operator = torch.ops.iris_fast_kernels.token_embedding.default
    torch.library.opcheck(operator, (tokens, table, place, None, more, torch.float32))
    torch.library.opcheck(operator, (tokens, table, place, tokens, more, torch.bfloat16))
    compiled = torch.compile(token_embedding, backend="aot_eager", fullgraph=True)
    found = compiled(tokens, table, place, more_table=more)
    assert torch.equal(found, token_embedding(tokens, table, place, more_table=more))
