"""Draws from rows too long for registers: the part of `sample_categorical` that works on chunks of a row.

One program finds the largest logit and the mass of one chunk; then one program a row chooses a chunk by the masses,
brought to the row's largest logit, and searches that chunk alone. The first launch moves the logits once, the second
one chunk a row. The mass at which the chunk is searched is relative to the chunk's own largest logit, as its sum was,
so the search ends inside the chunk whatever the rounding of exp. A truncation first finds the least logit that each
row keeps: it reads the row once for two bits of that logit, from the cache where the rows in flight fit it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.triton import jit, tl, triton
from .tiles import (
    address_words,
    choose_chunk,
    chunk_information,
    exp_nonpositive,
    masses_of,
    next_found,
    order_keys,
    readable,
    scaled_distance,
    search_chunk,
    tail_sums,
    tile_warps,
    top_p_target,
)

_SPAN = 32


@jit
def _load_chunk(logits, row_stride, index, chunk, classes, BLOCK_CLASSES: tl.constexpr):
    """Logits (1, BLOCK_CLASSES) of a chunk of the row `index`, a number."""
    column = chunk.to(tl.int64) * BLOCK_CLASSES + tl.arange(0, BLOCK_CLASSES)[None, :]
    start = logits + index.to(tl.int64) * row_stride
    return readable(tl.load(start + column, mask=column < classes, other=-float("inf")))


@jit
def _chunk_tail_sums(
    logits,
    row_stride,
    index,
    classes,
    largest,  # (1,) float32
    kept,  # (1,) uint32: a class counts only if its key reaches this
    found,  # (1,) uint32
    shift,
    temperature,
    scale,
    HAS_TEMPERATURE: tl.constexpr,
    OF_MASS: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    """`tail_sums` of a row, chunk after chunk: of masses, or of ones."""
    first = tl.zeros([1], tl.int64)
    second = tl.zeros([1], tl.int64)
    third = tl.zeros([1], tl.int64)
    for chunk in range(tl.cdiv(classes, BLOCK_CLASSES)):
        tile = _load_chunk(
            logits, row_stride, index, tl.full((), 0, tl.int64) + chunk, classes, BLOCK_CLASSES
        )
        keys = order_keys(tile)
        weights = tl.full(keys.shape, 1, tl.int64)
        if OF_MASS:
            distance = scaled_distance(tile, largest[:, None], temperature, HAS_TEMPERATURE)
            weights = tl.where(keys >= kept[:, None], masses_of(exp_nonpositive(distance), scale), 0)
        sums = tail_sums(keys, weights, found, shift)
        first += sums[0]
        second += sums[1]
        third += sums[2]
    return first, second, third


@jit(do_not_specialize=["top_k"])
def _chunk_threshold_kernel(
    logits,  # (rows, classes), classes adjacent
    row_stride,
    thresholds,  # out: (rows,) int32 holding uint32: the least key that is kept
    classes,
    temperature,
    top_k,
    top_p,
    scale,
    HAS_TEMPERATURE: tl.constexpr,
    HAS_TOP_K: tl.constexpr,
    HAS_TOP_P: tl.constexpr,
    KEY_BITS: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    index = tl.program_id(0)
    nothing = tl.full((), 0, tl.int32)
    kept = tl.zeros([1], tl.uint32)
    largest = tl.full([1], -float("inf"), tl.float32)
    if HAS_TOP_K:
        for step in range(KEY_BITS // 2):
            shift = nothing + 30 - 2 * step
            first, second, third = _chunk_tail_sums(
                logits,
                row_stride,
                index,
                classes,
                largest,
                kept,
                kept,
                shift,
                temperature,
                scale,
                HAS_TEMPERATURE,
                False,
                BLOCK_CLASSES,
            )
            kept = next_found(kept, shift, first, second, third, top_k)
    if HAS_TOP_P:
        for chunk in range(tl.cdiv(classes, BLOCK_CLASSES)):
            tile = _load_chunk(
                logits, row_stride, index, tl.full((), 0, tl.int64) + chunk, classes, BLOCK_CLASSES
            )
            largest = tl.maximum(largest, tl.max(tile, axis=1))
        found = tl.zeros([1], tl.uint32)
        target = tl.zeros([1], tl.int64)
        for step in range(KEY_BITS // 2 + 1):
            # Before the first step, the sum at a key of 1 is that of all: what the target is a part of.
            shift = tl.where(step == 0, 0, nothing + 32 - 2 * step)
            first, second, third = _chunk_tail_sums(
                logits,
                row_stride,
                index,
                classes,
                largest,
                kept,
                found,
                shift,
                temperature,
                scale,
                HAS_TEMPERATURE,
                True,
                BLOCK_CLASSES,
            )
            if step == 0:
                target = top_p_target(first, top_p)
            else:
                found = next_found(found, shift, first, second, third, target)
        kept = tl.maximum(kept, found)
    tl.store(thresholds + index + tl.arange(0, 1), kept.to(tl.int32, bitcast=True))


@jit
def _load_kept(
    logits,
    row_stride,
    thresholds,
    index,
    chunk,
    classes,
    temperature,
    HAS_TEMPERATURE: tl.constexpr,
    TRUNCATED: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    """Of one chunk of a row: the largest logit (1,), x and p (1, BLOCK_CLASSES), p as 0 below the threshold."""
    tile = _load_chunk(logits, row_stride, index, chunk, classes, BLOCK_CLASSES)
    largest = tl.max(tile, axis=1)
    distance = scaled_distance(tile, largest[:, None], temperature, HAS_TEMPERATURE)
    probabilities = exp_nonpositive(distance)
    if TRUNCATED:
        kept = tl.load(thresholds + index + tl.arange(0, 1)).to(tl.uint32, bitcast=True)
        probabilities = tl.where(order_keys(tile) >= kept[:, None], probabilities, 0.0)
    return largest, distance, probabilities


@jit
def _chunk_sums_kernel(
    logits,  # (rows, classes), classes adjacent
    row_stride,
    thresholds,  # (rows,) int32 holding uint32, or None
    maxima,  # out: (rows, chunks) float32: the largest logit of each chunk
    sums,  # out: (rows, chunks) int64: its mass, relative to that
    moments,  # out: (rows, chunks) float32: its sum of p x, relative to that, or None
    classes,
    temperature,
    scale,
    HAS_TEMPERATURE: tl.constexpr,
    TRUNCATED: tl.constexpr,
    WITH_INFO: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
):
    index = tl.program_id(0)
    chunk = tl.program_id(1)
    largest, distance, probabilities = _load_kept(
        logits,
        row_stride,
        thresholds,
        index,
        chunk,
        classes,
        temperature,
        HAS_TEMPERATURE,
        TRUNCATED,
        BLOCK_CLASSES,
    )
    slot = index.to(tl.int64) * tl.num_programs(1) + chunk + tl.arange(0, 1)
    tl.store(maxima + slot, largest)
    tl.store(sums + slot, tl.sum(masses_of(probabilities, scale), axis=1))
    if WITH_INFO:
        tl.store(moments + slot, tl.sum(probabilities * distance, axis=1))


@jit(do_not_specialize=["purpose"])
def _sample_chunk_kernel(
    logits,  # (rows, classes), classes adjacent
    row_stride,
    thresholds,  # (rows,) int32 holding uint32, or None
    maxima,  # (rows, chunks) float32
    sums,  # (rows, chunks) int64
    moments,  # (rows, chunks) float32, or None
    seed,  # () int64
    row,  # (rows,) int64, or None
    position,  # (rows,) int64
    position_stride,
    tokens,  # out: (rows,) int64
    log_probs,  # out: (rows,) float32, or None
    entropies,  # out: (rows,) float32, or None
    classes,
    num_chunks,
    purpose,
    temperature,
    scale,
    HAS_ROW: tl.constexpr,
    HAS_TEMPERATURE: tl.constexpr,
    TRUNCATED: tl.constexpr,
    WITH_INFO: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_CHUNKS: tl.constexpr,
    SPAN: tl.constexpr,
):
    index = tl.program_id(0) + tl.arange(0, 1)
    slot = tl.arange(0, BLOCK_CHUNKS)[None, :]
    start = index.to(tl.int64)[:, None] * num_chunks
    chunk_maxima = tl.load(maxima + start + slot, mask=slot < num_chunks, other=-float("inf"))
    chunk_sums = tl.load(sums + start + slot, mask=slot < num_chunks, other=0)
    word = address_words(seed, row, position, position_stride, purpose, index, index >= 0, HAS_ROW)
    chunk, threshold, shift, factor, own_shift, valid = choose_chunk(
        chunk_maxima, chunk_sums, word, temperature, HAS_TEMPERATURE
    )
    chunk = tl.minimum(chunk, num_chunks - 1)
    _, distance, probabilities = _load_kept(
        logits,
        row_stride,
        thresholds,
        tl.program_id(0),
        tl.sum(chunk, axis=0),
        classes,
        temperature,
        HAS_TEMPERATURE,
        TRUNCATED,
        BLOCK_CLASSES,
    )
    within = search_chunk(probabilities, threshold, scale, SPAN)
    token = chunk.to(tl.int64) * BLOCK_CLASSES + within
    tl.store(tokens + index, tl.where(valid, token, 0))
    if WITH_INFO:
        chunk_moments = tl.load(moments + start + slot, mask=slot < num_chunks, other=0.0)
        drawn = tl.sum(
            tl.where(tl.arange(0, BLOCK_CLASSES)[None, :] == within[:, None], distance, 0.0), axis=1
        )
        log_prob, entropy = chunk_information(
            drawn, own_shift, chunk_sums, chunk_moments, shift, factor, scale, valid
        )
        tl.store(log_probs + index, log_prob)
        tl.store(entropies + index, entropy)


def search_warps(num_warps: int) -> int:
    """Warps of a program that truncates or searches: its sums and runs take the registers of twice the threads.

    (With fewer, the assembler of Triton 3.6 gives the search with information 7 KB of stack on sm_90.)
    """
    return min(16, 2 * num_warps)


def launch_long_rows(
    logits: Tensor,
    address: tuple,
    outputs: tuple,
    truncation: tuple[float, int, float, float],
    purpose: int,
    flags: dict[str, bool],
    limits: dict[str, int],
    chunk_classes: int,
    num_warps: int | None,
) -> None:
    """Fills `outputs` for logits (rows, classes), classes adjacent; the other arguments are as the caller has them.

    `address` is seed, row, position and its stride, `truncation` temperature, top_k, top_p and scale.
    """
    rows, classes = logits.shape
    num_chunks = triton.cdiv(classes, chunk_classes)
    num_warps = num_warps or tile_warps(chunk_classes)
    temperature, _, _, scale = truncation
    truncated = bool(limits["HAS_TOP_K"] or limits["HAS_TOP_P"])
    maxima, moments = torch.empty(2, rows, num_chunks, dtype=torch.float32, device=logits.device).unbind()
    sums = torch.empty(rows, num_chunks, dtype=torch.int64, device=logits.device)
    thresholds = torch.empty(rows, dtype=torch.int32, device=logits.device) if truncated else None
    if truncated:
        _chunk_threshold_kernel[(rows,)](
            logits,
            logits.stride(0),
            thresholds,
            classes,
            *truncation,
            HAS_TEMPERATURE=flags["HAS_TEMPERATURE"],
            BLOCK_CLASSES=chunk_classes,
            num_warps=search_warps(num_warps),
            **limits,
        )
    parts = (maxima, sums, moments if flags["WITH_INFO"] else None)
    _chunk_sums_kernel[(rows, num_chunks)](
        logits,
        logits.stride(0),
        thresholds,
        *parts,
        classes,
        temperature,
        scale,
        TRUNCATED=truncated,
        BLOCK_CLASSES=chunk_classes,
        num_warps=num_warps,
        **flags,
    )
    _sample_chunk_kernel[(rows,)](
        logits,
        logits.stride(0),
        thresholds,
        *parts,
        *address,
        *outputs,
        classes,
        num_chunks,
        purpose,
        temperature,
        scale,
        HAS_ROW=address[1] is not None,
        TRUNCATED=truncated,
        BLOCK_CLASSES=chunk_classes,
        BLOCK_CHUNKS=triton.next_power_of_2(num_chunks),
        SPAN=_SPAN,
        num_warps=search_warps(num_warps),
        **flags,
    )
