// Products whose rows are read where they lie: convolutions and small matrix products.
#pragma once

#include "frame_kernels.hpp"
#include "level.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

// One tile: kRows rows from row `first` on, kVectors vectors of 16 columns from vector `vector` on.
template <int kRows, int kVectors>
[[gnu::noinline]] void product_tile(const ProductArgs& args, std::size_t first, std::size_t vector) {
  const float* weights = args.weights + vector * kLanes * args.tap_count * args.inner;
  Vec16 sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) sums[r][c] = zero();
  for (std::size_t tap = 0; tap < args.tap_count; ++tap) {
    const float* a[kRows];
    for (int r = 0; r < kRows; ++r) a[r] = args.a + args.rows[first + r] + args.taps[tap];
    for (std::size_t k = 0; k < args.inner; ++k, weights += kVectors * kLanes) {
      Vec16 columns[kVectors];
      for (int c = 0; c < kVectors; ++c) columns[c] = load(weights + c * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Vec16 left = broadcast(a[r][k]);
        for (int c = 0; c < kVectors; ++c) sums[r][c] = fma(left, columns[c], sums[r][c]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) {
      const std::size_t column = (vector + c) * kLanes, at = (first + r) * args.out_stride + column;
      Vec16 result = sums[r][c];
      if (args.bias != nullptr) result = add(result, load(args.bias + column));
      if (args.residual != nullptr) result = add(load(args.residual + at), result);
      store(args.out + at, result);
    }
}

// The rows that are left, in one tile.
template <int kRows, int kVectors>
inline void product_rest(const ProductArgs& args, std::size_t first, std::size_t rows, std::size_t vector) {
  if constexpr (kRows > 0) {
    if (rows == kRows)
      product_tile<kRows, kVectors>(args, first, vector);
    else
      product_rest<kRows - 1, kVectors>(args, first, rows, vector);
  }
}

template <int kVectors>
inline void product_panel(const ProductArgs& args, std::size_t vector) {
  constexpr int kRows = kVectors == kProductVectors ? kProductRows : 8;
  std::size_t first = 0;
  for (; first + kRows <= args.row_count; first += kRows) product_tile<kRows, kVectors>(args, first, vector);
  product_rest<kRows - 1, kVectors>(args, first, args.row_count - first, vector);
}

// Panels of kVectors; what is left of the columns is one narrower panel.
template <int kVectors>
inline void product_rest_panel(const ProductArgs& args, std::size_t vector, std::size_t left) {
  if constexpr (kVectors > 0) {
    if (left == kVectors)
      product_panel<kVectors>(args, vector);
    else
      product_rest_panel<kVectors - 1>(args, vector, left);
  }
}

inline void product(const ProductArgs& args) {
  const std::size_t vectors = args.columns / kLanes;
  std::size_t vector = 0;
  for (; vector + kProductVectors <= vectors; vector += kProductVectors)
    product_panel<kProductVectors>(args, vector);
  product_rest_panel<kProductVectors - 1>(args, vector, vectors - vector);
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
