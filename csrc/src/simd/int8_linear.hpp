// Products of int8: activations as integers of their row, weights as integers of their column. Sums are
// integers and so exact, whatever the order, and what follows them is the same operations at every level.
//
// A level offers: Sums16 (16 sums of 32 bits), `sums_from(corrections)` to begin them with, `Factor
// factor(bytes)` of 4 of a row's integers + 128, `add_products(sums, factor, weights)` of 16 columns' 4
// integers each, `to_float` and `store_low_bytes`.
#pragma once

#include "level.hpp"
#include "linear.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

// 1.5 · 2^23: numbers below 2^22 added to it are rounded to integers, to even on ties, which are then its low
// bits.
constexpr float kRounding = 12582912.0f;

// Vectors of 16 that begin `stride` floats apart, as integers + 128 one after the other; returns their scale.
inline float quantize_vectors(const float* x, std::size_t vectors, std::size_t stride, unsigned char* out) {
  Vec16 most = zero(), poison = zero();  // zero, or NaN where a number is not finite
  for (std::size_t i = 0; i < vectors; ++i) {
    const Vec16 part = load(x + i * stride);
    most = maximum(absolute(part), most);
    poison = fma(part, zero(), poison);
  }
  const float largest = reduce_max(most), nan_or_zero = reduce_add(poison);
  const bool usable = nan_or_zero == 0.0f && largest >= 1e-30f;
  const Vec16 inverse = broadcast(usable ? 127.0f / largest : 0.0f);
  for (std::size_t i = 0; i < vectors; ++i) {
    // A product of zero and infinity is no number: the bounds make it one, whichever.
    const Vec16 scaled = multiply(load(x + i * stride), inverse);
    const Vec16 bounded = maximum(minimum(scaled, broadcast(127.0f)), broadcast(-127.0f));
    store_low_bytes(out + i * kLanes, add(bounded, broadcast(kRounding + 128.0f)));
  }
  return usable ? largest / 127.0f : nan_or_zero;
}

inline void quantize_rows(const QuantizeArgs& args) {
  for (std::size_t row = 0; row < args.rows; ++row)
    args.scales[row] = quantize_vectors(args.x + tiled_offset(row, 0, args.columns), args.columns / kLanes,
                                        kTileFloats, args.out + row * args.columns);
}

inline float quantize(const float* x, std::size_t count, unsigned char* out) {
  return quantize_vectors(x, count / kLanes, kLanes, out);
}

// Adds the products of `inner` integers of each row, from a[row] on, and of as many of 16 · kVectors columns;
// moves `weights` past those.
template <int kRows, int kVectors>
inline void add_int8_products(Sums16 (&sums)[kRows][kVectors], const unsigned char* const (&a)[kRows],
                              std::size_t inner, const signed char*& weights) {
  for (std::size_t k = 0; k < inner; k += 4, weights += 4 * kVectors * kLanes) {
    Weights16 columns[kVectors];
    for (int c = 0; c < kVectors; ++c) columns[c] = load_weights(weights + 4 * c * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Factor left = factor(a[r] + k);
      for (int c = 0; c < kVectors; ++c) sums[r][c] = add_products(sums[r][c], left, columns[c]);
    }
  }
}

// The sums of a tile before its first product, of columns from vector `vector` on.
template <int kRows, int kVectors>
inline void begin_int8_sums(Sums16 (&sums)[kRows][kVectors], const std::int32_t* corrections,
                            std::size_t vector) {
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) sums[r][c] = sums_from(corrections + (vector + c) * kLanes);
}

template <int kRows, int kVectors>
[[gnu::noinline]] void int8_tile(const Int8LinearArgs& args, std::size_t first, std::size_t vector) {
  const LinearArgs& linear = args.linear;
  const std::size_t inner = linear.inner;
  const unsigned char* a[kRows];
  for (int r = 0; r < kRows; ++r) a[r] = args.a + (first + r) * inner;
  const signed char* weights = static_cast<const signed char*>(linear.weights) + vector * kLanes * inner;
  Sums16 sums[kRows][kVectors];
  begin_int8_sums(sums, args.corrections, vector);
  add_int8_products(sums, a, inner, weights);
  Vec16 scaled[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) {
      const Vec16 scale =
          multiply(broadcast(args.row_scales[first + r]), load(args.column_scales + (vector + c) * kLanes));
      scaled[r][c] = multiply(to_float(sums[r][c]), scale);
    }
  finish_tile<kRows, kVectors>(linear, first, vector, scaled);
}

// The rows of a tile that fit: kRows, or what is left.
template <int kRows, int kVectors>
inline void int8_rows(const Int8LinearArgs& args, std::size_t first, std::size_t rows, std::size_t vector) {
  if constexpr (kRows > 0) {
    if (rows >= kRows)
      int8_tile<kRows, kVectors>(args, first, vector);
    else
      int8_rows<kRows - 1, kVectors>(args, first, rows, vector);
  }
}

// A panel of `left` vectors, kVectors at most.
template <int kVectors>
inline void int8_panel(const Int8LinearArgs& args, std::size_t vector, std::size_t left) {
  if constexpr (kVectors > 0) {
    if (left < kVectors) return int8_panel<kVectors - 1>(args, vector, left);
    for (std::size_t first = 0; first < args.linear.rows; first += kLinearRows)
      int8_rows<kLinearRows, kVectors>(args, first, args.linear.rows - first, vector);
  }
}

inline void int8_linear(const Int8LinearArgs& args) {
  const std::size_t vectors = args.linear.columns / kLanes;
  for (std::size_t vector = 0; vector < vectors; vector += kLinearVectors)
    int8_panel<kLinearVectors>(args, vector, vectors - vector);
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
