// Products of tiled activations and packed weights. Outputs lie across lanes and each is one chain of fused
// multiply-adds over the inner dimension in order, so the tile's shape changes no bit.
#pragma once

#include "level.hpp"
#include "vector_math.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

// Adds bias, activation and residual to a tile's sums, and stores them.
template <int kRows, int kVectors>
inline void finish_tile(const LinearArgs& args, std::size_t first, std::size_t vector,
                        const Vec16 (&sums)[kRows][kVectors]) {
  const std::size_t origin = first / kTileRows * args.out_tile_stride +
                             first % kTileRows * args.out_row_stride + vector * args.out_vector_stride;
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) {
      const std::size_t at = origin + r * args.out_row_stride + c * args.out_vector_stride;
      Vec16 result = add(sums[r][c], load(args.bias + (vector + c) * kLanes));
      if (args.activation == Activation::kRelu) result = maximum(zero(), result);
      if (args.residual != nullptr) result = add(load(args.residual + at), result);
      store(args.out + at, result);
    }
  if (args.activation != Activation::kGelu) return;
  for (int r = 0; r < kRows; ++r)  // in a loop of its own: here the sums need no registers any more
    for (int c = 0; c < kVectors; ++c) {
      float* out = args.out + origin + r * args.out_row_stride + c * args.out_vector_stride;
      store(out, gelu(load(out)));
    }
}

// One tile: kRows rows from row `first` on, kVectors vectors of 16 columns from vector `vector` on.
template <int kRows, int kVectors, typename Weight>
[[gnu::noinline]] void linear_tile(const LinearArgs& args, std::size_t first, std::size_t vector) {
  const float* a =
      args.a + first / kTileRows * args.inner * kTileRows + first % kTileRows * kLanes;  // row `first`
  const Weight* weights = static_cast<const Weight*>(args.weights) + vector * kLanes * args.inner;
  Vec16 sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) sums[r][c] = zero();
  for (std::size_t chunk = 0; chunk < args.inner; chunk += kLanes, a += kTileFloats) {
#pragma GCC unroll 2
    for (std::size_t k = 0; k < kLanes; ++k, weights += kVectors * kLanes) {
      Vec16 columns[kVectors];
      for (int c = 0; c < kVectors; ++c) columns[c] = load(weights + c * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Vec16 left = broadcast(a[r * kLanes + k]);
        for (int c = 0; c < kVectors; ++c) sums[r][c] = fma(left, columns[c], sums[r][c]);
      }
    }
  }
  finish_tile<kRows, kVectors>(args, first, vector, sums);
}

// The rows of a tile that fit: kRows, or what is left.
template <int kRows, int kVectors, typename Weight>
inline void linear_rows(const LinearArgs& args, std::size_t first, std::size_t rows, std::size_t vector) {
  if constexpr (kRows > 0) {
    if (rows >= kRows)
      linear_tile<kRows, kVectors, Weight>(args, first, vector);
    else
      linear_rows<kRows - 1, kVectors, Weight>(args, first, rows, vector);
  }
}

template <int kVectors, typename Weight>
inline void linear_panel(const LinearArgs& args, std::size_t vector) {
  constexpr int kRows = kLinearRows;
  static_assert(kTileRows % kRows == 0, "a tile of the product lies inside a tile of activations");
  for (std::size_t first = 0; first < args.rows; first += kRows)
    linear_rows<kRows, kVectors, Weight>(args, first, args.rows - first, vector);
}

// Panels of kVectors; what is left of the columns is one narrower panel.
template <int kVectors, typename Weight>
inline void linear_rest(const LinearArgs& args, std::size_t vector, std::size_t left) {
  if constexpr (kVectors > 0) {
    if (left == kVectors)
      linear_panel<kVectors, Weight>(args, vector);
    else
      linear_rest<kVectors - 1, Weight>(args, vector, left);
  }
}

template <typename Weight>
inline void linear(const LinearArgs& args) {
  const std::size_t vectors = args.columns / kLanes;
  std::size_t vector = 0;
  for (; vector + kLinearVectors <= vectors; vector += kLinearVectors)
    linear_panel<kLinearVectors, Weight>(args, vector);
  linear_rest<kLinearVectors - 1, Weight>(args, vector, vectors - vector);
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
