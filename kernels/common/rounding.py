"""Device code that gives the same bfloat16 in Triton's interpreter as on a GPU.

The interpreter of Triton 3.6 to 3.9 rounds float32 to bfloat16 without the carry into the exponent (1.998 becomes
1.0), and multiplies matrices of bfloat16 as the integers that hold them. On a GPU these functions are a
conversion and a `tl.dot`, and nothing else.
"""

from __future__ import annotations

from .triton import INTERPRETED, jit, tl

# A `tl.constexpr` is what device code may read of a module.
INTERPRETING = INTERPRETED if tl is None else tl.constexpr(INTERPRETED)


@jit
def rounded_to(values, DTYPE: tl.constexpr):
    """`values` float32 in DTYPE, to nearest even."""
    if INTERPRETING and tl.bfloat16 == DTYPE:
        bits = values.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        values = tl.where(values == values, bits.to(tl.float32, bitcast=True), values)
    return values.to(DTYPE)


@jit
def dot_of(a, b, total, PRECISION: tl.constexpr):
    """`total` float32 + a b, with products of float32 in PRECISION."""
    if INTERPRETING:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision=PRECISION)
    return tl.dot(a, b, total, input_precision=PRECISION)
