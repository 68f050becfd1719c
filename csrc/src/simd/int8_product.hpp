// Products of int8 whose rows are read where they lie: convolutions.
#pragma once

#include "int8_linear.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

// One tile: kRows rows from row `first` on, kVectors vectors of 16 columns from vector `vector` on.
template <int kRows, int kVectors>
[[gnu::noinline]] void int8_product_tile(const Int8ProductArgs& args, std::size_t first, std::size_t vector) {
  const signed char* weights =
      reinterpret_cast<const signed char*>(args.weights) + vector * kLanes * args.tap_count * args.inner;
  Sums16 sums[kRows][kVectors];
  begin_int8_sums(sums, args.corrections, vector);
  for (std::size_t tap = 0; tap < args.tap_count; ++tap) {
    const unsigned char* a[kRows];
    for (int r = 0; r < kRows; ++r) a[r] = args.a + args.rows[first + r] + args.taps[tap];
    add_int8_products(sums, a, args.inner, weights);
  }
  for (int c = 0; c < kVectors; ++c) {
    const std::size_t column = (vector + c) * kLanes;
    const Vec16 scale = multiply(broadcast(args.scale), load(args.column_scales + column));
    const Vec16 bias = load(args.bias + column);
    for (int r = 0; r < kRows; ++r) {
      const std::size_t at = args.outs[first + r] + column;
      Vec16 result = fma(to_float(sums[r][c]), scale, bias);
      if (args.residual != nullptr) result = add(load(args.residual + at), result);
      store(args.out + at, result);
    }
  }
}

// The rows that are left, in one tile.
template <int kRows, int kVectors>
inline void int8_product_rest(const Int8ProductArgs& args, std::size_t first, std::size_t rows,
                              std::size_t vector) {
  if constexpr (kRows > 0) {
    if (rows == kRows)
      int8_product_tile<kRows, kVectors>(args, first, vector);
    else
      int8_product_rest<kRows - 1, kVectors>(args, first, rows, vector);
  }
}

// A panel of `left` vectors, kVectors at most.
template <int kVectors>
inline void int8_product_panel(const Int8ProductArgs& args, std::size_t vector, std::size_t left) {
  if constexpr (kVectors > 0) {
    if (left < kVectors) return int8_product_panel<kVectors - 1>(args, vector, left);
    constexpr int kRows = kVectors == kProductVectors ? kProductRows : 8;
    std::size_t first = 0;
    for (; first + kRows <= args.row_count; first += kRows)
      int8_product_tile<kRows, kVectors>(args, first, vector);
    int8_product_rest<kRows - 1, kVectors>(args, first, args.row_count - first, vector);
  }
}

inline void int8_product(const Int8ProductArgs& args) {
  const std::size_t vectors = args.columns / kLanes;
  for (std::size_t vector = 0; vector < vectors; vector += kProductVectors)
    int8_product_panel<kProductVectors>(args, vector, vectors - vector);
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
