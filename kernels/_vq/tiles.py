"""The tiles of a codebook lookup: how the search in `vq_lookup` cuts rows and codes, and the minimum of a tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch

from ..common.rounding import INTERPRETING
from ..common.triton import jit, tl, triton

Precision = Literal["ieee", "tf32x3", "tf32", "bf16"]


@dataclass(frozen=True)
class SearchConfig:
    """Tiles of one launch of the search kernel, its warps, its pipeline's stages, programs a multiprocessor."""

    block_rows: int
    block_codes: int
    block_dim: int
    num_warps: int
    num_stages: int
    programs: int = 1


# What a multiprocessor does in a cycle, roughly: operations of products, and bytes from the L2 cache.
_OPERATIONS = {"bf16": 4096, "tf32": 2048, "tf32x3": 680, "ieee": 256}
_L2_BYTES = 30
_START = 1500  # cycles until a program's first product, and of its end


@lru_cache(maxsize=1024)
def search_config(
    rows: int,
    num_codes: int,
    dim: int,
    dtype: torch.dtype,
    precision: Precision,
    capability: int = 9,
    multiprocessors: int = 132,
) -> SearchConfig:
    """The tiles for a lookup of `rows` vectors held in `dtype`, on a GPU of compute capability `capability`.x.

    Reasoned and compiled, not measured: see the benchmark's sweep. A tile of R rows and C codewords reads
    (R + C) / (R C) numbers of the L2 cache a multiply-add, which bounds tf32 and bf16: so large tiles, unless they
    would be too few. Of the tiles in question those are taken that end soonest, if each multiprocessor does one tile
    after the other.
    """
    tiles = _tiles(dim, dtype, precision, capability)
    if rows <= 32:
        small = replace(tiles[-1], block_rows=min(tiles[-1].block_rows, 16 if rows <= 16 else 32))
        return _no_wider(small, dim)
    name = "bf16" if dtype != torch.float32 else precision

    def cycles(config: SearchConfig) -> float:
        count = -(-rows // config.block_rows) * -(-num_codes // config.block_codes)
        products = 2 * config.block_rows * config.block_codes * dim / _OPERATIONS[name]
        loads = (config.block_rows + config.block_codes) * dim * dtype.itemsize / _L2_BYTES
        # What is made for several programs a multiprocessor waits more often when it is alone.
        alone = 1.5 if config.programs > 1 and count <= multiprocessors else 1.0
        return -(-count // multiprocessors) * (alone * max(products, loads) + _START)

    return _no_wider(min(tiles, key=cycles), dim)


def _no_wider(config: SearchConfig, dim: int) -> SearchConfig:
    return replace(config, block_dim=max(16, min(config.block_dim, triton.next_power_of_2(dim))))


def _tiles(dim: int, dtype: torch.dtype, precision: Precision, capability: int) -> list[SearchConfig]:
    """The tiles in question, the largest first: as large as registers hold without spills, and fractions of that.

    On Hopper the largest have a stage more, with which the cache is read while the minimum is taken. Where dim is one
    chunk the rows stay, only codewords stream, and a minimum costs as much as the products: so two programs share a
    multiprocessor, one multiplying while the other takes its minimum. `tf32x3` does three products for each number
    read. Without matrix units (`ieee` of float32) a thread holds its operands in registers, and tiles are small.
    """
    roomy = capability in (9, 10)  # in shared memory: GPUs of 12.x have 99 KB a block, as most of 8.x
    halves = dtype != torch.float32
    chunk = 64 if halves else 32  # 128 bytes
    if halves or precision == "tf32":
        small = SearchConfig(64, 32, 2 * chunk, 4, 3, 3)
        if dim <= 2 * chunk:
            return [SearchConfig(128, 64, 2 * chunk, 8, 2, 2), small]
        large = SearchConfig(128, 256 if roomy else 128, chunk, 8, 4 if capability == 9 else 3)
        return [large, SearchConfig(64, 64, chunk, 4, 4, 3), small]
    if precision == "tf32x3":
        middle, small = SearchConfig(64, 64, chunk, 4, 3, 2), SearchConfig(64, 32, chunk, 4, 3, 3)
        return [SearchConfig(64, 128, chunk, 4, 3, 2), middle, small] if roomy else [middle, small]
    large = SearchConfig(64, 64, 16, 4 if capability < 10 else 8, 3, 3)
    return [large, SearchConfig(32, 32, 32, 4, 3, 4)]


def search_lanes(config: SearchConfig, matrix_units: bool, capability: int) -> int:
    """How many minima each row has while the search runs: codewords that many columns apart share one.

    Where those are in the registers of one thread, a tile's minimum needs no other thread: 8 columns apart in a
    product as Hopper has it, 8 for each of the warps side by side as `mma.sync` has it. Otherwise 1, a minimum over
    the tile: for products without matrix units, small tiles, and capability 10, where a thread has a whole row.
    """
    if not matrix_units or capability == 10 or config.block_rows * config.block_codes < 4096:
        return 1
    return min(config.block_codes, 8 if capability == 9 else 8 * config.num_warps // 2)


@lru_cache(maxsize=1024)
def search_splits(row_tiles: int, code_tiles: int, slots: int) -> int:
    """Ranges that the codewords are cut into: the number for which the last of `slots` programs ends soonest.

    A program's time is its tiles, and half a tile for its beginning and end.
    """

    def ends(splits: int) -> float:
        return -(-row_tiles * splits // slots) * (-(-code_tiles // splits) + 0.5)

    splits = min(range(1, min(code_tiles, 256) + 1), key=ends)
    tiles_a_split = -(-code_tiles // splits)
    return -(-code_tiles // tiles_a_split)


@jit
def _even_and_odd(tile, LANES: tl.constexpr):
    """(rows, 2 n) as its runs of LANES columns with even and with odd numbers, (rows, n) each."""
    rows: tl.constexpr = tile.shape[0]
    half: tl.constexpr = tile.shape[1] // 2
    runs = tl.permute(tl.reshape(tile, (rows, half // LANES, 2, LANES)), (0, 1, 3, 2))
    even, odd = tl.split(runs)
    return tl.reshape(even, (rows, half)), tl.reshape(odd, (rows, half))


@jit
def least_of_tile(
    score,  # (rows, codes) float32
    LANES: tl.constexpr,
    LEVELS: tl.constexpr,  # log2(codes / LANES), which is not looked at where LANES is 1
):
    """The least score of each lane, (rows, LANES), the first column that has it, less the lane's number, the second.

    The second least score may equal the least. A NaN is never the least unless a lane has nothing else. Neighbours
    are merged first, so that what is merged stays in the order of columns. Operations a score are what a search waits
    for beside its products: these are two minima, a maximum, a comparison and a selection, where `tl.min` with
    indices takes seven, and exchanges between threads besides.
    """
    if INTERPRETING:  # its minimum of a number and NaN is NaN in some versions
        score = tl.where(score == score, score, float("inf"))
    column = (tl.arange(0, score.shape[1]) & -LANES)[None, :] + tl.zeros_like(score).to(tl.int32)
    if LANES == 1:
        least = tl.min(score, axis=1)[:, None]
        first = tl.min(tl.where(score == least, column, score.shape[1]), axis=1)[:, None]
        second = tl.min(tl.where(column == first, float("inf"), score), axis=1)[:, None]
        return least, first, second
    even, odd = _even_and_odd(score, LANES)
    even_column, odd_column = _even_and_odd(column, LANES)
    score = tl.minimum(even, odd)
    second = tl.maximum(even, odd)
    column = tl.where(score == even, even_column, odd_column)
    for _ in tl.static_range(LEVELS - 1):
        even, odd = _even_and_odd(score, LANES)
        even_column, odd_column = _even_and_odd(column, LANES)
        even_second, odd_second = _even_and_odd(second, LANES)
        score = tl.minimum(even, odd)
        second = tl.minimum(tl.minimum(even_second, odd_second), tl.maximum(even, odd))
        column = tl.where(score == even, even_column, odd_column)
    return score, column, second


@jit
def least_of_lanes(best, best_code, second, LANES: tl.constexpr):
    """The least of each row's lanes, (rows,), the lowest codeword that has it, and the second least."""
    least = tl.min(best, axis=1)
    code = best_code + tl.arange(0, LANES)[None, :]
    first = tl.min(tl.where(best == least[:, None], code, 2147483647), axis=1)
    others = tl.minimum(second, tl.where(code == first[:, None], float("inf"), best))
    return least, first, tl.min(others, axis=1)
