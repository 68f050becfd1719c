// GroupNorm with swish as training takes it, forward and backward, over one sample in channels-last memory.
#pragma once

#include "frame_kernels.hpp"
#include "level.hpp"
#include "normalize.hpp"
#include "vector_math.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

inline void add_to(float* sums, Vec16 values) { store(sums, add(load(sums), values)); }

inline void clear(float* values, std::size_t count) {
  for (std::size_t i = 0; i < count; i += kLanes) store(values + i, zero());
}

template <typename T>
inline void channel_moments(const T* x, std::size_t positions, std::size_t channels, const float* center,
                            float* sums, float* squares) {
  clear(sums, channels);
  clear(squares, channels);
  for (std::size_t first = 0; first < positions; first += kSumBlock) {
    const std::size_t end = first + kSumBlock < positions ? first + kSumBlock : positions;
    for (std::size_t c = 0; c < channels; c += kLanes) {
      const Vec16 middle = load(center + c);
      Vec16 sum[2] = {zero(), zero()}, square[2] = {zero(), zero()};
      for (std::size_t p = first; p < end; ++p) {
        const Vec16 apart = subtract(load(x + p * channels + c), middle);
        sum[p % 2] = add(sum[p % 2], apart);
        square[p % 2] = fma(apart, apart, square[p % 2]);
      }
      add_to(sums + c, add(sum[0], sum[1]));
      add_to(squares + c, add(square[0], square[1]));
    }
  }
}

template <typename T>
inline void group_norm(const GroupNormArgs<T>& args, T* out) {
  for (std::size_t c = 0; c < args.channels; c += kLanes) {
    const Vec16 middle = load(args.center + c), factor = load(args.scale + c), offset = load(args.shift + c);
    for (std::size_t at = c; at < args.positions * args.channels; at += args.channels) {
      const Vec16 normed = fma(subtract(load(args.x + at), middle), factor, offset);
      store(out + at, args.swish ? multiply(normed, sigmoid(normed)) : normed);
    }
  }
}

// The gradient of swish times `grad`.
inline Vec16 through_swish(Vec16 grad, Vec16 normed) {
  const Vec16 share = sigmoid(normed), one = broadcast(1.0f);
  return multiply(multiply(grad, share), fma(normed, subtract(one, share), one));
}

template <typename T>
inline void group_norm_sums(const GroupNormArgs<T>& args, const T* grad, T* inner, float* totals,
                            float* products) {
  const std::size_t channels = args.channels;
  clear(totals, channels);
  clear(products, channels);
  for (std::size_t first = 0; first < args.positions; first += kSumBlock) {
    const std::size_t end = first + kSumBlock < args.positions ? first + kSumBlock : args.positions;
    for (std::size_t c = 0; c < channels; c += kLanes) {
      const Vec16 middle = load(args.center + c), factor = load(args.scale + c),
                  offset = load(args.shift + c);
      Vec16 total = zero(), product = zero();
      for (std::size_t at = first * channels + c; at < end * channels; at += channels) {
        const Vec16 apart = subtract(load(args.x + at), middle);
        Vec16 slope = load(grad + at);
        if (args.swish) {
          slope = through_swish(slope, fma(apart, factor, offset));
          store(inner + at, slope);
        }
        total = add(total, slope);
        product = fma(slope, apart, product);
      }
      add_to(totals + c, total);
      add_to(products + c, product);
    }
  }
}

template <typename T>
inline void group_norm_gradient(const GroupNormArgs<T>& args, const T* inner, const float* slope,
                                const float* offset, T* out) {
  for (std::size_t c = 0; c < args.channels; c += kLanes) {
    const Vec16 middle = load(args.center + c), factor = load(args.scale + c);
    const Vec16 of_x = load(slope + c), constant = load(offset + c);
    for (std::size_t at = c; at < args.positions * args.channels; at += args.channels) {
      const Vec16 apart = subtract(load(args.x + at), middle);
      store(out + at, fma(load(inner + at), factor, fma(apart, of_x, constant)));
    }
  }
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
