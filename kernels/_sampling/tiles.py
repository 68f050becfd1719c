"""Device functions for drawing from a categorical distribution whose logits are in registers.

A tile is (rows, classes), both powers of two, padded by logits of -inf. In it p_i = exp((l_i - max l) / temperature)
is float32, and masses are integers: p_i in units of 1 / scale, rounded down. Sums of integers are exact, so that
running sums grow, and a chunk's masses add up to what was found for it before, in any order of addition. The
rounding moves no boundary by more than `classes` units, 2^-45 of the largest p each up to 65,536 classes, which is
less than float32 exponentials do; a p below one unit is never drawn. (Doubles would do as well where they are
fast, but their sums depend on the order, and a search could end past the last class.)
"""

from __future__ import annotations

from ..common.triton import jit, tl
from ..philox import philox_word_device


def mass_scale(classes: int) -> float:
    """Units in a p of 1: a power of two by which the masses of `classes` classes add up to less than 2^62."""
    return 2.0 ** (61 - max(16, (classes - 1).bit_length()))


def tile_warps(elements: int) -> int:
    """Warps of a tile: 16 elements a thread, and 32 of large tiles, where exchanges between threads cost as much."""
    return min(16, max(1, elements // (512 if elements < 4096 else 1024)))


@jit
def readable(logits):
    """The logits as float32, a NaN as +inf: one test for infinity then finds rows that are no distribution."""
    logits = logits.to(tl.float32)
    return tl.where(logits != logits, float("inf"), logits)


@jit
def is_finite(largest):
    return tl.abs(largest) < float("inf")


@jit
def scaled_distance(logits, largest, temperature, HAS_TEMPERATURE: tl.constexpr):
    """(l - max l) / temperature, at least -1e30 and never NaN; `largest` broadcasts.

    At most 0 where `largest` is finite. Where it is not the row is no distribution, and nothing made of this is used.
    """
    anchor = tl.where(is_finite(largest), largest, 3.0e38)
    distance = logits - anchor
    if HAS_TEMPERATURE:
        distance = tl.div_rn(distance, tl.zeros_like(distance) + temperature)
    # Finite, so that x p is 0 where p is.
    return tl.maximum(distance, -1.0e30)


@jit
def exp_nonpositive(x):
    """exp(x) for x <= 0 by the hardware's exp2, with what the product x log2(e) loses to rounding put back."""
    x = tl.maximum(x, -120.0)
    log2_e = tl.zeros_like(x) + 1.4426950216293335
    high = x * log2_e
    low = tl.fma(x, log2_e, -high) + x * 1.9259629911e-8
    power = tl.exp2(high)
    return power + power * (low * 0.6931471805599453)


@jit
def masses_of(probabilities, scale):
    return (probabilities * scale).to(tl.int64)


@jit
def fraction_of(total, word):
    """floor(u * total) for u = (word >> 8) / 2^24, exactly: `total` int64 >= 0, `word` uint32."""
    fraction = (word >> 8).to(tl.uint64) << 40
    return tl.umulhi(total.to(tl.uint64), fraction).to(tl.int64)


@jit
def order_keys(logits):
    """uint32 in the order of the float32 logits, equal for equal ones (so for both zeros); at least 2^22."""
    bits = tl.where(logits == 0.0, 0.0, logits).to(tl.uint32, bitcast=True)
    return tl.where(bits >= 0x80000000, ~bits, bits | 0x80000000)


@jit
def tail_sums(keys, weights, found, shift):
    """Sums (rows,) of the weights whose key reaches found + 1, 2 and 3 times 2^shift; found is (rows,)."""
    unit = tl.zeros_like(found) + (tl.full((), 1, tl.uint32) << shift.to(tl.uint32))
    first = tl.sum(tl.where(keys >= (found + unit)[:, None], weights, 0), axis=1)
    second = tl.sum(tl.where(keys >= (found + 2 * unit)[:, None], weights, 0), axis=1)
    third = tl.sum(tl.where(keys >= (found + 3 * unit)[:, None], weights, 0), axis=1)
    return first, second, third


@jit
def next_found(found, shift, first, second, third, target):
    """`found` with its two bits at `shift` as large as leaves the sum at or above `target`."""
    digit = (
        (first >= target).to(tl.uint32) + (second >= target).to(tl.uint32) + (third >= target).to(tl.uint32)
    )
    return found + (digit << shift.to(tl.uint32))


@jit
def top_p_target(total, top_p):
    """The mass, at least one unit, that the most probable classes must reach: all but 2^-20 of `top_p` of `total`.

    So a mass that is `top_p` but for the rounding of float32 logits reaches it.
    """
    wanted = total.to(tl.float64) * tl.full((), 1.0 - 2.0**-20, tl.float64) * top_p
    return tl.maximum(tl.ceil(wanted).to(tl.int64), 1)


@jit
def reaching_key(keys, weights, target, KEY_BITS: tl.constexpr):
    """The largest key (rows,) such that the weights of keys at or above it sum to `target`: two bits a step.

    Of a key, `KEY_BITS` high bits differ between logits of the dtype that was loaded.
    """
    found = tl.zeros([keys.shape[0]], tl.uint32)
    for step in range(KEY_BITS // 2):
        shift = 30 - 2 * step
        first, second, third = tail_sums(keys, weights, found, tl.full((), 0, tl.int32) + shift)
        found = next_found(found, tl.full((), 0, tl.int32) + shift, first, second, third, target)
    return found


@jit
def truncated(
    logits,  # (rows, classes) float32
    probabilities,  # (rows, classes) float32
    top_k,
    top_p,
    scale,
    HAS_TOP_K: tl.constexpr,
    HAS_TOP_P: tl.constexpr,
    KEY_BITS: tl.constexpr,
):
    """The probabilities, those of classes outside the top k and then the top p as 0."""
    keys = order_keys(logits)
    if HAS_TOP_K:
        ones = tl.full(keys.shape, 1, tl.int32)
        kth = reaching_key(keys, ones, top_k, KEY_BITS)
        probabilities = tl.where(keys >= kth[:, None], probabilities, 0.0)
    if HAS_TOP_P:
        masses = masses_of(probabilities, scale)
        target = top_p_target(tl.sum(masses, axis=1), top_p)
        crossing = reaching_key(keys, masses, target, KEY_BITS)
        probabilities = tl.where(keys >= crossing[:, None], probabilities, 0.0)
    return probabilities


@jit
def group_masses(probabilities, scale, SPAN: tl.constexpr):
    """Masses (rows, classes / SPAN) of runs of SPAN classes."""
    rows: tl.constexpr = probabilities.shape[0]
    groups: tl.constexpr = probabilities.shape[1] // SPAN
    return tl.sum(masses_of(tl.reshape(probabilities, (rows, groups, SPAN)), scale), axis=2)


@jit
def first_beyond(probabilities, groups, threshold, scale, SPAN: tl.constexpr):
    """The first class (rows,) int32 whose running mass exceeds `threshold` (rows,), by way of its run of SPAN.

    One past the last class where none does.
    """
    rows: tl.constexpr = probabilities.shape[0]
    num_groups: tl.constexpr = probabilities.shape[1] // SPAN
    passed = tl.cumsum(groups, axis=1) <= threshold[:, None]
    group = tl.sum(passed.to(tl.int32), axis=1)
    before = tl.sum(tl.where(passed, groups, 0), axis=1)
    chosen = tl.arange(0, num_groups)[None, :, None] == group[:, None, None]
    grouped = tl.reshape(probabilities, (rows, num_groups, SPAN))
    within = masses_of(tl.sum(tl.where(chosen, grouped, 0.0), axis=1), scale)
    running = before[:, None] + tl.cumsum(within, axis=1)
    return tl.minimum(group, num_groups - 1) * SPAN + tl.sum(
        (running <= threshold[:, None]).to(tl.int32), axis=1
    )


@jit
def search_chunk(probabilities, threshold, scale, SPAN: tl.constexpr):
    """`first_beyond`, inside the tile even where its masses are a little less than when its sum was found.

    They are only if the compiler contracts other products in this kernel than in that which found the sum.
    """
    groups = group_masses(probabilities, scale, SPAN)
    threshold = tl.minimum(threshold, tl.sum(groups, axis=1) - 1)
    return first_beyond(probabilities, groups, threshold, scale, SPAN)


@jit
def draw_from_tile(
    logits,  # (rows, classes) float32, as `readable` gives them
    word,  # (rows,) uint32: Philox's first word
    temperature,
    top_k,
    top_p,
    scale,
    HAS_TEMPERATURE: tl.constexpr,
    HAS_TOP_K: tl.constexpr,
    HAS_TOP_P: tl.constexpr,
    WITH_INFO: tl.constexpr,
    KEY_BITS: tl.constexpr,
    SPAN: tl.constexpr,
):
    """Token, log-probability and entropy (rows,) of one draw a row; without WITH_INFO the last two are 0."""
    largest = tl.max(logits, axis=1)
    distance = scaled_distance(logits, largest[:, None], temperature, HAS_TEMPERATURE)
    probabilities = exp_nonpositive(distance)
    if HAS_TOP_K or HAS_TOP_P:
        probabilities = truncated(logits, probabilities, top_k, top_p, scale, HAS_TOP_K, HAS_TOP_P, KEY_BITS)
    groups = group_masses(probabilities, scale, SPAN)
    total = tl.sum(groups, axis=1)
    token = first_beyond(probabilities, groups, fraction_of(total, word), scale, SPAN)
    valid = is_finite(largest)
    token = tl.where(valid, token, 0)
    log_prob = tl.zeros_like(largest)
    entropy = tl.zeros_like(largest)
    if WITH_INFO:
        moment = tl.sum(probabilities * distance, axis=1)
        columns = tl.arange(0, logits.shape[1])[None, :]
        drawn = tl.sum(tl.where(columns == token[:, None], distance, 0.0), axis=1)
        log_prob, entropy = information(drawn, moment, total.to(tl.float32) / scale, valid)
    return token, log_prob, entropy


@jit
def information(drawn, moment, total, valid):
    """Log-probability and entropy from the drawn class's x = log p, the sum of p x, and the sum of p."""
    log_total = tl.log(tl.where(valid, total, 1.0))
    entropy = tl.maximum(log_total - moment / tl.where(valid, total, 1.0), 0.0)
    return tl.where(valid, drawn - log_total, float("nan")), tl.where(valid, entropy, float("nan"))


@jit
def choose_chunk(
    maxima,  # (rows, chunks) float32: the largest logit of each chunk, -inf past the last
    sums,  # (rows, chunks) int64: its mass, relative to that logit
    word,  # (rows,) uint32
    temperature,
    HAS_TEMPERATURE: tl.constexpr,
):
    """The chunk (rows,) that holds the draw, and the mass (rows,) inside it, relative to its own largest logit.

    That mass is below the chunk's, so a search of the chunk ends inside it. Further: the shift x and the
    factor exp(x) (rows, chunks) from each chunk's largest logit to the row's, the chosen chunk's shift, and whether
    the row is a distribution.
    """
    largest = tl.max(maxima, axis=1)
    shift = scaled_distance(maxima, largest[:, None], temperature, HAS_TEMPERATURE)
    factor = exp_nonpositive(shift)
    weights = (sums.to(tl.float64) * factor.to(tl.float64)).to(tl.int64)
    threshold = fraction_of(tl.sum(weights, axis=1), word)
    passed = tl.cumsum(weights, axis=1) <= threshold[:, None]
    chunk = tl.minimum(tl.sum(passed.to(tl.int32), axis=1), maxima.shape[1] - 1)
    before = tl.sum(tl.where(passed, weights, 0), axis=1)
    chosen = tl.arange(0, maxima.shape[1])[None, :] == chunk[:, None]
    own_factor = tl.sum(tl.where(chosen, factor, 0.0), axis=1)
    own_last = tl.maximum(tl.sum(tl.where(chosen, sums, 0), axis=1) - 1, 0)
    inside = (threshold - before).to(tl.float64) / tl.maximum(own_factor, 1.0e-30).to(tl.float64)
    inside = tl.minimum(tl.minimum(inside, own_last.to(tl.float64)).to(tl.int64), own_last)
    own_shift = tl.sum(tl.where(chosen, shift, 0.0), axis=1)
    return chunk, inside, shift, factor, own_shift, is_finite(largest)


@jit
def chunk_information(drawn, own_shift, sums, moments, shift, factor, scale, valid):
    """Log-probability and entropy (rows,) from what each chunk holds, relative to its own largest logit.

    `drawn` (rows,) is the drawn class's x in its chunk, `moments` (rows, chunks) are the sums of p x.
    """
    portions = sums.to(tl.float32) / scale
    total = tl.sum(portions * factor, axis=1)
    moment = tl.sum(factor * (moments + shift * portions), axis=1)
    return information(drawn + own_shift, moment, total, valid)


@jit
def address_words(
    seed,  # () int64
    row,  # (rows,) int64, or None for the index itself
    position,  # (rows,) int64
    position_stride,
    purpose,
    index,  # (rows,): which rows
    mask,  # (rows,)
    HAS_ROW: tl.constexpr,
):
    """Philox's first words (rows,) uint32 at the addresses of the rows `index`."""
    index = index.to(tl.int64)
    address = index
    if HAS_ROW:
        address = tl.load(row + index, mask=mask, other=0)
    positions = tl.load(position + index * position_stride, mask=mask, other=0)
    return philox_word_device(tl.load(seed), address, positions, purpose)
