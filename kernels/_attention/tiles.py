"""Device code of `cached_attention`: tiles of keys and values, and softmax kept up to date tile by tile.

A row's state after some keys is (maximum, total, attended): the largest score, the sum of 2^(score - maximum) and
the sum of 2^(score - maximum) times the value. Scores are in units of log 2. States over parts of the keys merge,
so that the order and the split of the keys do not matter (Dao et al., "FlashAttention", 2022, section 3.1).
"""

from __future__ import annotations

from ..common.triton import jit, tl


@jit
def as_cached(
    tile,  # keys or values in the dtype of the inputs
    scale,  # float32: the value that one unit of an fp8 cache stands for
    CACHE_DTYPE: tl.constexpr,
    FP8: tl.constexpr,
):
    """`tile` as stored in a cache of CACHE_DTYPE: rounded to nearest even, and saturated at ±448 for e4m3.

    The rounding is spelt out so that every device, and the interpreter, writes the same numbers.
    """
    if not FP8:
        return tile.to(CACHE_DTYPE)
    x = tile.to(tl.float32)
    x = tl.div_rn(x, tl.zeros_like(x) + scale)
    x = tl.where(x > 448.0, 448.0, tl.where(x < -448.0, -448.0, x))  # a NaN stays
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000  # 3 bits of mantissa
    normal = bits.to(tl.float32, bitcast=True)
    small = (x + 24576.0) - 24576.0  # below 2^-6, a multiple of 2^-9: the unit in the last place of 24576
    rounded = tl.where(tl.abs(x) < 0.015625, small, normal)
    return tl.where(x == x, rounded, x).to(CACHE_DTYPE)


@jit
def load_tile(
    base,  # pointer to token 0 of one sequence and head; the head dimension is contiguous
    token,  # (BLOCK_KEYS,) int32
    stride,  # elements from one token to the next
    bound,  # tokens at and after it are not read: zeros
    head_dim,
    BLOCK_DIM: tl.constexpr,
):
    """A tile (BLOCK_KEYS, BLOCK_DIM)."""
    dim = tl.arange(0, BLOCK_DIM)
    pointer = base + token.to(tl.int64)[:, None] * stride + dim[None, :]
    return tl.load(pointer, mask=(token < bound)[:, None] & (dim < head_dim)[None, :], other=0.0)


@jit
def finite_or_zero(maximum):
    """`maximum`, but 0 where no key was seen: then 2^(-inf - 0) is 0, where 2^(-inf + inf) would be NaN."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@jit
def after_another(maximum, total, attended, score, value):
    """States (LANES,), (LANES,), (LANES, BLOCK_DIM) after one more key each: its score (LANES,) and value."""
    raised = tl.maximum(maximum, score)
    shift = finite_or_zero(raised)
    decay = tl.exp2(maximum - shift)
    weight = tl.exp2(score - shift)
    return raised, total * decay + weight, attended * decay[:, None] + weight[:, None] * value


@jit
def attend_row(
    query,  # (BLOCK_DIM,) float32, times the scale of the scores
    keys,  # pointers to token 0 of the sequence and head in the caches
    values,
    stride_key,
    stride_value,
    begin,  # tokens from `begin` to before `end` are seen
    end,
    head_dim,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The state (), (), (BLOCK_DIM,) of one query row after the cached tokens.

    Each of BLOCK_KEYS lanes keeps a separate state over the tiles, so the loop reduces only over the head dimension;
    the lanes merge at the end.
    """
    lane = tl.arange(0, BLOCK_KEYS)
    maximum = tl.full((BLOCK_KEYS,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_KEYS,), tl.float32)
    attended = tl.zeros((BLOCK_KEYS, BLOCK_DIM), tl.float32)
    for start in tl.range(begin, end, BLOCK_KEYS, num_stages=STAGES):
        token = start + lane
        key = load_tile(keys, token, stride_key, end, head_dim, BLOCK_DIM).to(tl.float32)
        value = load_tile(values, token, stride_value, end, head_dim, BLOCK_DIM).to(tl.float32)
        score = tl.where(token < end, tl.sum(key * query[None, :], axis=1), float("-inf"))
        maximum, total, attended = after_another(maximum, total, attended, score, value)
    top = tl.max(maximum, axis=0)
    decay = tl.exp2(maximum - finite_or_zero(top))
    return top, tl.sum(total * decay, axis=0), tl.sum(attended * decay[:, None], axis=0)


@jit
def attend_new_token(
    maximum,  # the state before: (), (), (BLOCK_DIM,) float32
    total,
    attended,
    query,  # (BLOCK_DIM,) float32, times the scale of the scores
    key,  # pointers to the new token of the sequence and head
    value,
    unit_key,
    unit_value,
    included,  # whether it is seen
    head_dim,
    CACHE_DTYPE: tl.constexpr,
    FP8: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """The state of one query row after the new token too, which is rounded as the cache rounds it."""
    dim = tl.arange(0, BLOCK_DIM)
    new_key = tl.load(key + dim, mask=dim < head_dim, other=0.0)
    new_value = tl.load(value + dim, mask=dim < head_dim, other=0.0)
    new_key = as_cached(new_key, unit_key, CACHE_DTYPE, FP8).to(tl.float32)
    new_value = as_cached(new_value, unit_value, CACHE_DTYPE, FP8).to(tl.float32)
    score = tl.where(included, tl.sum(new_key * query, axis=0), float("-inf"))
    raised = tl.maximum(maximum, score)
    decay = tl.exp2(maximum - finite_or_zero(raised))
    weight = tl.exp2(score - finite_or_zero(raised))
    attended = attended * decay + tl.where(included, weight * new_value, 0.0)
    return raised, total * decay + weight, attended


@jit
def repeated(numbers, ROWS: tl.constexpr, LANES: tl.constexpr):
    """`numbers` (ROWS,) LANES times one after the other: (LANES * ROWS,)."""
    return tl.reshape(tl.broadcast_to(numbers[None, :], (LANES, ROWS)), (LANES * ROWS,))


@jit
def attend_sequences(
    query,  # (ROWS, BLOCK_DIM) float32, times the scale of the scores
    keys,  # pointers to token 0 of each sequence (ROWS,), of one head in the caches
    values,
    stride_key,
    stride_value,
    held,  # (ROWS,) int32: tokens that each sequence holds, all of which are seen
    head_dim,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,  # a sequence
    BLOCK_DIM: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The states (ROWS,), (ROWS,), (ROWS, BLOCK_DIM) of a query row of each of ROWS sequences after their tokens.

    As `attend_row`, but the lanes are dealt out to the sequences, which go through their tokens in step: so one
    loop keeps loads of all of them in flight.
    """
    lane = tl.arange(0, LANES * ROWS) // ROWS
    dim = tl.arange(0, BLOCK_DIM)
    end = repeated(held, ROWS, LANES)
    keys, values = repeated(keys, ROWS, LANES), repeated(values, ROWS, LANES)
    queries = tl.broadcast_to(query[None, :, :], (LANES, ROWS, BLOCK_DIM))
    queries = tl.reshape(queries, (LANES * ROWS, BLOCK_DIM))
    maximum = tl.full((LANES * ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((LANES * ROWS,), tl.float32)
    attended = tl.zeros((LANES * ROWS, BLOCK_DIM), tl.float32)
    for start in tl.range(0, tl.max(held, axis=0), LANES, num_stages=STAGES):
        token = start + lane
        inside = (token < end)[:, None] & (dim < head_dim)[None, :]
        place = token.to(tl.int64)
        key = tl.load((keys + place * stride_key)[:, None] + dim[None, :], mask=inside, other=0.0)
        value = tl.load((values + place * stride_value)[:, None] + dim[None, :], mask=inside, other=0.0)
        score = tl.sum(key.to(tl.float32) * queries, axis=1)
        score = tl.where(token < end, score, float("-inf"))
        maximum, total, attended = after_another(maximum, total, attended, score, value.to(tl.float32))
    maximum = tl.reshape(maximum, (LANES, ROWS))
    top = tl.max(maximum, axis=0)
    decay = tl.exp2(maximum - finite_or_zero(top)[None, :])
    total = tl.sum(tl.reshape(total, (LANES, ROWS)) * decay, axis=0)
    attended = tl.reshape(attended, (LANES, ROWS, BLOCK_DIM)) * decay[:, :, None]
    return top, total, tl.sum(attended, axis=0)


@jit
def attend_rows(
    maximum,  # the state before: (ROWS,), (ROWS,), (ROWS, BLOCK_DIM) float32
    total,
    attended,
    query,  # (ROWS, BLOCK_DIM) in the dtype of the products
    keys,  # pointers to token 0 of the sequence and head, in the caches or among the new ones
    values,
    stride_key,
    stride_value,
    begin,  # tokens from `begin` to before `end` are seen,
    end,
    horizon,  # (ROWS,) int32: by each row those before its own
    score_scale,
    unit_key,
    unit_value,
    head_dim,
    CACHE_DTYPE: tl.constexpr,
    ROUND: tl.constexpr,  # whether to round to e4m3 first, as an fp8 cache does to new tokens
    PRECISION: tl.constexpr,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The state of ROWS query rows after more tokens, by matrix products in the dtype of the query."""
    lane = tl.arange(0, BLOCK_KEYS)
    for start in tl.range(begin, end, BLOCK_KEYS, num_stages=STAGES):
        token = start + lane
        key = load_tile(keys, token, stride_key, end, head_dim, BLOCK_DIM)
        value = load_tile(values, token, stride_value, end, head_dim, BLOCK_DIM)
        key = as_cached(key, unit_key, CACHE_DTYPE, ROUND).to(query.dtype)
        value = as_cached(value, unit_value, CACHE_DTYPE, ROUND).to(query.dtype)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * score_scale
        visible = (token[None, :] < horizon[:, None]) & (token < end)[None, :]
        score = tl.where(visible, score, float("-inf"))
        raised = tl.maximum(maximum, tl.max(score, axis=1))
        shift = finite_or_zero(raised)
        decay = tl.exp2(maximum - shift)
        weight = tl.exp2(score - shift[:, None])
        total = total * decay + tl.sum(weight, axis=1)
        attended = tl.dot(
            weight.to(value.dtype), value, acc=attended * decay[:, None], input_precision=PRECISION
        )
        maximum = raised
    return maximum, total, attended


@jit
def append(
    new_tokens,  # pointer to new token 0 of the sequence and head: keys or values
    cache,  # pointer to cached token 0 of the same
    stride_new,
    stride_cache,
    first,  # new tokens from `first` to before `last` are written
    last,
    held,  # where new token 0 goes
    scale,
    head_dim,
    BLOCK_KEYS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    FP8: tl.constexpr,
):
    """Writes new tokens after the tokens held."""
    dim = tl.arange(0, BLOCK_DIM)
    for start in range(first, last, BLOCK_KEYS):
        token = start + tl.arange(0, BLOCK_KEYS)
        tile = load_tile(new_tokens, token, stride_new, last, head_dim, BLOCK_DIM)
        pointer = cache + (held + token).to(tl.int64)[:, None] * stride_cache + dim[None, :]
        inside = (token < last)[:, None] & (dim < head_dim)[None, :]
        tl.store(pointer, as_cached(tile, scale, cache.dtype.element_ty, FP8), mask=inside)
