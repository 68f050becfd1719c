// Statistics over positions, GroupNorm's application with swish, max-pooling, and softmax over rows.
#pragma once

#if defined(_MSC_VER)
#include <limits>
#endif

#include "frame_kernels.hpp"
#include "level.hpp"
#include "vector_math.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

template <typename T>
inline void channel_sums(const T* x, std::size_t positions, std::size_t channels, const float* center,
                         float* sums) {
  for (std::size_t c = 0; c < channels; c += kLanes) store(sums + c, zero());
  for (std::size_t first = 0; first < positions; first += kSumBlock) {
    const std::size_t end = first + kSumBlock < positions ? first + kSumBlock : positions;
    for (std::size_t c = 0; c < channels; c += kLanes) {
      const Vec16 middle = center == nullptr ? zero() : load(center + c);
      Vec16 total[4] = {zero(), zero(), zero(), zero()};  // 4, so that additions need not wait for each other
      for (std::size_t p = first; p < end; ++p) {
        const Vec16 value = subtract(load(x + p * channels + c), middle);
        Vec16& sum = total[p % 4];
        sum = center == nullptr ? add(sum, value) : fma(value, value, sum);
      }
      const Vec16 block = add(add(total[0], total[1]), add(total[2], total[3]));
      store(sums + c, add(load(sums + c), block));
    }
  }
}

// x / (1 + exp(-x)), from the exponential of a number that is not positive.
inline Vec16 swish(Vec16 x) {
  const Vec16 exponential = exp_nonpositive(subtract(zero(), absolute(x)));
  const Vec16 numerator = fma(minimum(x, zero()), exponential, maximum(zero(), x));
  return divide(numerator, add(exponential, broadcast(1.0f)));
}

inline void normalize(const float* x, std::size_t positions, std::size_t channels, const float* scale,
                      const float* shift, bool with_swish, float* out) {
  for (std::size_t c = 0; c < channels; c += kLanes) {
    const Vec16 factor = load(scale + c), offset = load(shift + c);
    for (std::size_t p = 0; p < positions; ++p) {
      const Vec16 normed = fma(load(x + p * channels + c), factor, offset);
      store(out + p * channels + c, with_swish ? swish(normed) : normed);
    }
  }
}

inline void pool(const float* x, std::size_t size, std::size_t channels, float* out) {
  const std::size_t row = size * channels;
  for (std::size_t y = 0; y < size / 2; ++y)
    for (std::size_t col = 0; col < size / 2; ++col)
      for (std::size_t c = 0; c < channels; c += kLanes, out += kLanes) {
        const float* corner = x + 2 * y * row + 2 * col * channels + c;
        const Vec16 upper = maximum(load(corner), load(corner + channels));
        const Vec16 lower = maximum(load(corner + row), load(corner + row + channels));
        store(out, maximum(zero(), maximum(upper, lower)));
      }
}

inline void softmax(float* x, std::size_t rows, std::size_t columns, std::size_t valid, float scale) {
#if defined(_MSC_VER)
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
#else
  constexpr float kInfinity = __builtin_inff();  // without the library's templates: see level.hpp
#endif
  const Vec16 factor = broadcast(scale);
  for (std::size_t r = 0; r < rows; ++r, x += columns) {
    for (std::size_t i = valid; i < columns; ++i) x[i] = -kInfinity;
    Vec16 largest = broadcast(-kInfinity), sum = zero();
    for (std::size_t i = 0; i < columns; i += kLanes) largest = maximum(load(x + i), largest);
    const Vec16 top = broadcast(reduce_max(largest));
    for (std::size_t i = 0; i < columns; i += kLanes) {
      const Vec16 exponential = exp_nonpositive(multiply(subtract(load(x + i), top), factor));
      store(x + i, exponential);
      sum = add(sum, exponential);
    }
    const Vec16 share = broadcast(1.0f / reduce_add(sum));
    for (std::size_t i = 0; i < columns; i += kLanes) store(x + i, multiply(load(x + i), share));
  }
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
