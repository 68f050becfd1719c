from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from iris_fast.kernels import philox_4x32, philox_uniform
from iris_fast.kernels.common.triton import jit, tl
from iris_fast.kernels.philox import philox_4x32_device, philox_uniform_device

from .harness import DEVICES

# Random123's published known-answer vectors for philox4x32 with 10 rounds: counter, key, output.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_known_answers_for_ints_and_tensors(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert philox_4x32(counter, key) == expected
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    words = philox_4x32((c0, c1, c2, c3), (torch.tensor([key[0]]), key[1]))
    assert tuple(int(word) for word in words) == expected


def test_uniform_is_the_top_24_bits_of_the_first_word_at_the_address() -> None:
    seed = 0x9ABCDEF012345678
    word = philox_4x32((3, 5, 7, 0), (0x12345678, 0x9ABCDEF0))[0]
    assert isinstance(word, int)
    uniform = philox_uniform(seed, 3, 5, 7)
    assert uniform.dtype == torch.float32
    assert uniform.shape == ()
    assert uniform.item() == (word >> 8) / 2**24


def test_addresses_broadcast_and_do_not_depend_on_the_batch() -> None:
    rows, positions = torch.arange(6)[:, None], torch.arange(4, dtype=torch.int32)
    together = philox_uniform(8, rows, positions, 2)
    assert together.shape == (6, 4)
    alone = torch.stack([torch.stack([philox_uniform(8, r, p, 2) for p in range(4)]) for r in range(6)])
    assert torch.equal(together, alone)
    assert torch.equal(together[2:5], philox_uniform(8, rows[2:5], positions, 2))
    assert together.unique().numel() == 24


def test_each_word_of_the_address_changes_the_draw() -> None:
    row = torch.arange(64)
    draws = [philox_uniform(*address) for address in ((1, row, 0, 0), (2**32 + 1, row, 0, 0), (1, row, 1, 0))]
    draws.append(philox_uniform(1, row, 0, 1))
    assert torch.stack(draws).unique().numel() == 4 * 64


def test_a_tensor_seed_holds_the_64_bits_of_the_int() -> None:
    seed = 2**64 - 12345
    row = torch.arange(5)
    assert torch.equal(philox_uniform(torch.tensor(-12345), row, 1, 2), philox_uniform(seed, row, 1, 2))


def test_draws_are_uniform() -> None:
    counts = torch.bincount((philox_uniform(4, torch.arange(64_000), 0, 0) * 64).long(), minlength=64)
    chi_squared = ((counts - 1000.0).square() / 1000.0).sum().item()
    assert 20 < chi_squared < 126  # 63 degrees of freedom: outside once in 10^6


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ((-1, 0, 0, 0), ValueError, "seed must be an int from 0 to 2\\*\\*64 - 1, got -1"),
        ((2**64, 0, 0, 0), ValueError, "seed must"),
        ((0, -3, 0, 0), ValueError, "row must be an int from 0 to 2\\*\\*32 - 1, got -3"),
        ((0, 0, 2**32, 0), ValueError, "position must"),
        (
            (0, 0, 0, torch.tensor(0.5)),
            TypeError,
            "purpose must be an int or a tensor of integers, got dtype",
        ),
    ],
)
def test_bad_addresses_are_refused(address: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        philox_uniform(*address)


@pytest.mark.gpu
def test_cuda_draws_the_same_numbers_as_the_cpu() -> None:
    row = torch.arange(10_000)
    assert torch.equal(
        philox_uniform(2**63 + 5, row.cuda(), 9, 1).cpu(), philox_uniform(2**63 + 5, row, 9, 1)
    )


@jit
def _words_kernel(words: Any, outputs: Any, BLOCK: tl.constexpr) -> None:
    """Six words a column of (6, BLOCK) int64 to four output words a column of (4, BLOCK)."""
    column = tl.arange(0, BLOCK)
    c0 = tl.load(words + column).to(tl.uint32)
    c1 = tl.load(words + BLOCK + column).to(tl.uint32)
    c2 = tl.load(words + 2 * BLOCK + column).to(tl.uint32)
    c3 = tl.load(words + 3 * BLOCK + column).to(tl.uint32)
    k0 = tl.load(words + 4 * BLOCK + column).to(tl.uint32)
    k1 = tl.load(words + 5 * BLOCK + column).to(tl.uint32)
    c0, c1, c2, c3 = philox_4x32_device(c0, c1, c2, c3, k0, k1)
    tl.store(outputs + column, c0.to(tl.int64))
    tl.store(outputs + BLOCK + column, c1.to(tl.int64))
    tl.store(outputs + 2 * BLOCK + column, c2.to(tl.int64))
    tl.store(outputs + 3 * BLOCK + column, c3.to(tl.int64))


@jit
def _uniform_kernel(
    seed: Any, row: Any, position: Any, purpose: Any, uniform: Any, BLOCK: tl.constexpr
) -> None:
    column = tl.arange(0, BLOCK)
    address = tl.load(seed), tl.load(row + column), tl.load(position + column), purpose
    tl.store(uniform + column, philox_uniform_device(*address))


@pytest.mark.parametrize("device", DEVICES)
def test_the_device_function_gives_the_known_answers(device: str) -> None:
    columns = [(*counter, *key) for counter, key, _ in KNOWN_ANSWERS] + [(1, 2, 3, 4, 5, 6)]
    words = torch.tensor(columns, device=device).t().contiguous()
    outputs = torch.full((4, 4), -1, device=device)
    _words_kernel[(1,)](words, outputs, 4)
    expected = [answer for _, _, answer in KNOWN_ANSWERS] + [philox_4x32((1, 2, 3, 4), (5, 6))]
    assert [tuple(column) for column in outputs.t().tolist()] == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("purpose", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("seed", [0, 7, -(2**63), -12345])
def test_the_device_function_draws_the_same_numbers_bit_by_bit(device: str, purpose: int, seed: int) -> None:
    row = torch.randint(-(2**62), 2**62, (64,))
    position = torch.arange(64) * 2**29
    uniform = torch.full((64,), float("nan"), device=device)
    seeds = torch.tensor(seed, device=device)
    _uniform_kernel[(1,)](seeds, row.to(device), position.to(device), purpose, uniform, 64)
    assert torch.equal(uniform.cpu(), philox_uniform(torch.tensor(seed), row, position, purpose))


@pytest.mark.parametrize("kind", [np.uint32, np.int64, np.uint64, lambda word: torch.tensor(word)])
def test_words_of_numpy_and_of_small_integer_tensors_are_words(kind: Any) -> None:
    counter, key = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
    found = philox_4x32(tuple(map(kind, counter)), tuple(map(kind, key)))  # type: ignore[arg-type]
    assert [int(word) for word in found] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    small = philox_4x32(
        (torch.tensor(200, dtype=torch.uint8), 0, 0, 0), (0, torch.tensor(7, dtype=torch.int32))
    )
    assert [int(word) for word in small] == list(philox_4x32((200, 0, 0, 0), (0, 7)))
    assert philox_uniform(np.uint64(5), np.int32(1), np.uint8(2), 3) == philox_uniform(5, 1, 2, 3)  # type: ignore[arg-type]
