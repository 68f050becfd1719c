// The transforms of F(2x2, 3x3): the input's is Bᵀ d B and the output's Aᵀ m A with
// Bᵀ = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1] and Aᵀ = [1 1 1 0; 0 1 -1 -1], columns first.
#pragma once

#include "iris_fast/frame_kernels.hpp"
#include "level.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

// Of an enlarged line (a, b, b, c) the third component is zero, and is left out.
template <bool kEnlarged>
struct WinogradSizes {
  static constexpr int kIn = kEnlarged ? 3 : 4;
  static constexpr int kComponents = kEnlarged ? 3 : 4;
};

template <bool kEnlarged>
inline void transform_line(const Vec16* d, std::size_t stride, Vec16* out, std::size_t out_stride) {
  if constexpr (kEnlarged) {
    const Vec16 a = d[0], b = d[stride], c = d[2 * stride];
    out[0] = subtract(a, b);
    out[out_stride] = add(b, b);
    out[2 * out_stride] = subtract(b, c);
  } else {
    const Vec16 a = d[0], b = d[stride], c = d[2 * stride], e = d[3 * stride];
    out[0] = subtract(a, c);
    out[out_stride] = add(b, c);
    out[2 * out_stride] = subtract(c, b);
    out[3 * out_stride] = subtract(b, e);
  }
}

template <bool kEnlarged>
inline void transform_input(const WinogradInputArgs& args) {
  constexpr int kSize = WinogradSizes<kEnlarged>::kIn;
  for (std::size_t t = 0; t < args.tile_count; ++t)
    for (std::size_t c = 0; c < args.channels; c += kLanes) {
      const float* x = args.x + args.tiles[t].in + c;
      Vec16 d[kSize * kSize], rows[kSize * kSize];
      for (int i = 0; i < kSize; ++i)
        for (int j = 0; j < kSize; ++j) d[i * kSize + j] = load(x + i * args.row_stride + j * args.channels);
      for (int j = 0; j < kSize; ++j) transform_line<kEnlarged>(d + j, kSize, rows + j, kSize);
      for (int i = 0; i < kSize; ++i) transform_line<kEnlarged>(rows + i * kSize, 1, d + i * kSize, 1);
      float* out = args.out + t * args.channels + c;
      for (int i = 0; i < kSize * kSize; ++i) store(out + i * args.component_stride, d[i]);
    }
}

template <bool kEnlarged>
inline void inverse_line(const Vec16* m, std::size_t stride, Vec16* out, std::size_t out_stride) {
  if constexpr (kEnlarged) {
    out[0] = add(m[0], m[stride]);
    out[out_stride] = subtract(m[stride], m[2 * stride]);
  } else {
    out[0] = add(add(m[0], m[stride]), m[2 * stride]);
    out[out_stride] = subtract(subtract(m[stride], m[2 * stride]), m[3 * stride]);
  }
}

template <bool kEnlarged>
inline void transform_output(const WinogradOutputArgs& args) {
  constexpr int kSize = WinogradSizes<kEnlarged>::kComponents;
  for (std::size_t t = 0; t < args.tile_count; ++t) {
    const WinogradTile& tile = args.tiles[t];
    for (std::size_t c = 0; c < args.channels; c += kLanes) {
      const float* components = args.components + t * args.channels + c;
      Vec16 m[kSize * kSize], rows[2 * kSize], y[4];
      for (int i = 0; i < kSize * kSize; ++i) m[i] = load(components + i * args.component_stride);
      for (int j = 0; j < kSize; ++j) inverse_line<kEnlarged>(m + j, kSize, rows + j, kSize);
      for (int i = 0; i < 2; ++i) inverse_line<kEnlarged>(rows + i * kSize, 1, y + 2 * i, 1);
      const Vec16 bias = load(args.bias + c);
      for (std::size_t i = 0; i < tile.rows; ++i)
        for (std::size_t j = 0; j < tile.columns; ++j) {
          const std::size_t at = tile.out + i * args.row_stride + j * args.channels + c;
          Vec16 result = add(y[2 * i + j], bias);
          if (args.residual != nullptr) result = add(load(args.residual + at), result);
          store(args.out + at, result);
        }
    }
  }
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
