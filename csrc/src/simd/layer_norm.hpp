// LayerNorm of tiled activations: the mean first, then the mean square of what is left of it.
#pragma once

#include "level.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

inline float square_root(float x) {
#if defined(_MSC_VER)
  return std::sqrt(x);
#else
  return __builtin_sqrtf(x);
#endif
}

inline void layer_norm_row(const LayerNormArgs& args, const float* x, float* out, const float* inside) {
  const std::size_t vectors = round_up(args.width, kLanes) / kLanes;
  const float width = static_cast<float>(args.width);
  Vec16 sum = zero();
  for (std::size_t i = 0; i < vectors; ++i) sum = add(sum, load(x + i * kTileFloats));
  const Vec16 mean = broadcast(reduce_add(sum) / width);
  Vec16 squares = zero();
  for (std::size_t i = 0; i < vectors; ++i) {
    Vec16 rest = subtract(load(x + i * kTileFloats), mean);
    if (i + 1 == vectors) rest = multiply(rest, load(inside));
    squares = fma(rest, rest, squares);
  }
  const Vec16 scale = broadcast(1.0f / square_root(reduce_add(squares) / width + args.epsilon));
  for (std::size_t i = 0; i < vectors; ++i) {
    const Vec16 rest = multiply(subtract(load(x + i * kTileFloats), mean), scale);
    store(out + i * kTileFloats, fma(rest, load(args.weight + i * kLanes), load(args.bias + i * kLanes)));
  }
}

inline void layer_norm(const LayerNormArgs& args) {
  const std::size_t padded = round_up(args.width, kLanes);
  float inside[kLanes];  // 1 for the columns of the last vector that exist
  for (std::size_t i = 0; i < kLanes; ++i) inside[i] = padded - kLanes + i < args.width ? 1.0f : 0.0f;
  for (std::size_t row = 0; row < args.rows; ++row) {
    const std::size_t at = tiled_offset(row, 0, padded);
    layer_norm_row(args, args.x + at, args.out + at, inside);
  }
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
