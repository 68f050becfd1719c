"""Addressed random numbers: Philox-4x32-10 in plain PyTorch.

A draw is a pure function of its address (seed; row, position, purpose), so it is the same whatever the
batch split, the order of the draws, the device or the engine. The generator is that of Salmon, Moraes, Dror
and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011): here about 120 elementwise int64
operations a draw. `philox_4x32_device`, `philox_word_device` and `philox_uniform_device` are the same for use
inside Triton kernels, bit by bit: 10 rounds of two wide products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .common.arguments import as_int, with_checked_types
from .common.spec import Call, Numbers, OpSpec
from .common.triton import jit, tl

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


@jit
def philox_4x32_device(c0, c1, c2, c3, k0, k1):
    """Device function: the four output words of Philox-4x32-10; all words are uint32 tensors of one shape."""
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, tl.zeros_like(c0) + 0xD2511F53)
        low0 = c0 * 0xD2511F53
        high1 = tl.umulhi(c2, tl.zeros_like(c2) + 0xCD9E8D57)
        low1 = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@jit
def philox_word_device(seed, row, position, purpose):
    """Device function: the first output word (uint32) at the address (seed; row, position, purpose).

    `row` is an integer tensor, to whose shape the others broadcast; `seed` is int64 and holds 64 bits, and of the
    others the low 32 bits count.
    """
    zero = tl.zeros_like(row).to(tl.uint32)
    key_low = zero + (seed & 0xFFFFFFFF).to(tl.uint32)
    key_high = zero + ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    c1 = zero + position.to(tl.uint32)
    c2 = zero + (tl.full((), 0, tl.int64) + purpose).to(tl.uint32)
    word, _, _, _ = philox_4x32_device(row.to(tl.uint32), c1, c2, zero, key_low, key_high)
    return word


@jit
def philox_uniform_device(seed, row, position, purpose):
    """Device function: the number in [0, 1) that `philox_uniform` gives at this address, bit by bit."""
    return (philox_word_device(seed, row, position, purpose) >> 8).to(tl.float32) * (2.0**-24)


Word = int | Tensor
"""32 bits: an int, or an int64 tensor, in [0, 2^32)."""


def philox_4x32(
    counter: tuple[Word, Word, Word, Word], key: tuple[Word, Word]
) -> tuple[Word, Word, Word, Word]:
    """The four output words of Philox-4x32-10 at `counter` under `key`.

    Every word is an int or an int64 tensor in [0, 2^32), and tensors broadcast against each other. The
    words of the result are ints if all of these are, and otherwise int64 tensors.

    Raises as `philox_uniform`.
    """
    words = [_word(f"counter[{i}]", word) for i, word in enumerate(counter)]
    return _rounds(*words, *(_word(f"key[{i}]", word) for i, word in enumerate(key)))


def _rounds(c0: Word, c1: Word, c2: Word, c3: Word, k0: Word, k1: Word) -> tuple[Word, Word, Word, Word]:
    for _ in range(_ROUNDS):
        # A product may pass 2^63: int64 tensors then wrap modulo 2^64, which leaves its bits right, and the
        # mask after the arithmetic shift drops the copies of the sign.
        product0 = c0 * _MULTIPLIERS[0]
        product1 = c2 * _MULTIPLIERS[1]
        c0 = ((product1 >> 32) & _MASK) ^ c1 ^ k0
        c1 = product1 & _MASK
        c2 = ((product0 >> 32) & _MASK) ^ c3 ^ k1
        c3 = product0 & _MASK
        k0 = (k0 + _WEYL[0]) & _MASK
        k1 = (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


@with_checked_types
def philox_uniform(seed: int | Tensor, row: Word, position: Word, purpose: Word) -> Tensor:
    """Uniform float32 numbers in [0, 1), on a grid of 2^-24, at the address (seed; row, position, purpose).

    `row`, `position` and `purpose` are ints in [0, 2^32) or integer tensors, of which the low 32 bits
    count; they broadcast, and the result has their common shape. `seed` is an int in [0, 2^64), or an int64
    tensor holding its 64 bits: a captured CUDA graph repeats an int, but reads a tensor's current value. The
    counter is (row, position, purpose, 0), the key (low, high half of seed), and the number (first output
    word >> 8) * 2^-24.

    Raises ValueError for an int out of its range and TypeError for a tensor that is not of integers.
    """
    if not isinstance(seed, Tensor) and not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an int from 0 to 2**64 - 1, got {seed}")
    seed = _integers("seed", seed)
    key = (seed & _MASK, (seed >> 32) & _MASK)
    counter = (_word("row", row), _word("position", position), _word("purpose", purpose), 0)
    word = _rounds(*counter, *key)[0]
    if not isinstance(word, Tensor):
        word = torch.full((), word, dtype=torch.int64)
    return (word >> 8).to(torch.float32) * 2.0**-24


def _word(name: str, value: Word) -> Word:
    if not isinstance(value, Tensor):
        value = as_int(name, value, (int, Tensor))
        if not 0 <= value <= _MASK:
            raise ValueError(f"{name} must be an int from 0 to 2**32 - 1, got {value}")
        return value
    return _integers(name, value) & _MASK


def _integers(name: str, value: Word) -> Word:
    if not isinstance(value, Tensor):
        return value
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be an int or a tensor of integers, got dtype {value.dtype}")
    return value.to(torch.int64)


def _calls(device: str) -> dict[str, Call]:
    numbers = Numbers(device, alike=True)
    given = (numbers.integers(99), numbers.integers(99, 5))
    return {"philox_uniform": Call(lambda seed, row: philox_uniform(seed, row, 1, 2), given, {1: 0})}


SPEC = OpSpec(
    philox_uniform,
    _calls,
    lambda: {"philox_uniform": {"seed": 1, "position": 2, "purpose": 3, "row": 4}},
)
