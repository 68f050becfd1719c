// Vec16 in plain C++, for every other machine, and for tests of the levels above.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "iris_fast/bfloat16.hpp"

#if defined(_MSC_VER)
#include <cmath>
#endif

namespace iris_fast::IRIS_FAST_LEVEL {

// The tile of a product: small, for no machine in particular.
constexpr int kLinearRows = 4;
constexpr int kLinearVectors = 1;
// The tile of a convolution's product: small, for no machine in particular.
constexpr int kProductRows = 4;
constexpr int kProductVectors = 1;

struct Vec16 {
  float v[16];
};

template <typename Operation>
inline Vec16 by_lanes(Operation operation) {
  Vec16 result;
  for (int i = 0; i < 16; ++i) result.v[i] = operation(i);
  return result;
}

inline Vec16 broadcast(float x) {
  return by_lanes([&](int) { return x; });
}
inline Vec16 zero() { return broadcast(0.0f); }
inline Vec16 load(const float* p) {
  Vec16 result;
  std::memcpy(result.v, p, sizeof result.v);
  return result;
}
inline void store(float* p, Vec16 x) { std::memcpy(p, x.v, sizeof x.v); }
inline Vec16 add(Vec16 a, Vec16 b) {
  return by_lanes([&](int i) { return a.v[i] + b.v[i]; });
}
inline Vec16 subtract(Vec16 a, Vec16 b) {
  return by_lanes([&](int i) { return a.v[i] - b.v[i]; });
}
inline Vec16 multiply(Vec16 a, Vec16 b) {
  return by_lanes([&](int i) { return a.v[i] * b.v[i]; });
}
inline Vec16 divide(Vec16 a, Vec16 b) {
  return by_lanes([&](int i) { return a.v[i] / b.v[i]; });
}
inline float fma(float a, float b, float c) {
#if defined(_MSC_VER)
  return std::fma(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}
inline Vec16 fma(Vec16 a, Vec16 b, Vec16 c) {
  return by_lanes([&](int i) { return fma(a.v[i], b.v[i], c.v[i]); });
}
// As the x86 instructions: the second operand where either is NaN.
inline float maximum(float a, float b) { return a > b ? a : b; }
inline Vec16 maximum(Vec16 a, Vec16 b) {
  return by_lanes([&](int i) { return maximum(a.v[i], b.v[i]); });
}
inline Vec16 minimum(Vec16 a, Vec16 b) {
  return by_lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}

inline std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

inline Vec16 absolute(Vec16 a) {
  return by_lanes([&](int i) { return float_of(bits_of(a.v[i]) & 0x7fffffffu); });
}
inline Vec16 zero_where_less(Vec16 a, Vec16 bound, Vec16 x) {
  return by_lanes([&](int i) { return a.v[i] < bound.v[i] ? 0.0f : x.v[i]; });
}
inline Vec16 power_of_two(Vec16 shifted) {
  return by_lanes([&](int i) { return float_of((bits_of(shifted.v[i]) + 127u) << 23); });
}

inline float reduce_add(Vec16 x) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x.v[i] += x.v[i + half];
  return x.v[0];
}
inline float reduce_max(Vec16 x) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) x.v[i] = maximum(x.v[i], x.v[i + half]);
  return x.v[0];
}

// IEEE half precision to float32; exact.
inline float from_half(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7fffu;
  if (magnitude < 0x0400u)  // zero and subnormal numbers: multiples of 2^-24
    return float_of(sign | bits_of(static_cast<float>(magnitude) * 0x1p-24f));
  if (magnitude < 0x7c00u) return float_of(sign | ((magnitude << 13) + ((127u - 15u) << 23)));
  const std::uint32_t quiet = magnitude > 0x7c00u ? 0x00400000u : 0u;
  return float_of(sign | 0x7f800000u | quiet | (magnitude << 13));
}

// float32 to IEEE half precision, to the nearest and to even on ties; infinite from 65520 on.
inline std::uint16_t to_half(float x) {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x03ffu);  // a quiet NaN that keeps its leading payload
  } else if (magnitude >= 0x47800000u) {           // 65536 and above
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    // Below the normal halves: adding 1/2 leaves the rounded multiple of 2^-24 in the low bits.
    half = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    const std::uint32_t odd = magnitude >> 13 & 1u;
    half = (magnitude - ((127u - 15u) << 23) + 0x0fffu + odd) >> 13;
  }
  return static_cast<std::uint16_t>(sign | half);
}

inline Vec16 load(const std::uint16_t* p) {
  return by_lanes([&](int i) { return from_half(p[i]); });
}
inline void store(std::uint16_t* p, Vec16 x) {
  for (int i = 0; i < 16; ++i) p[i] = to_half(x.v[i]);
}

inline Vec16 load(const BFloat16* p) {
  return by_lanes([&](int i) { return float_of(static_cast<std::uint32_t>(p[i].bits) << 16); });
}

// To the nearest and to even on ties; a NaN stays one.
inline void store(BFloat16* p, Vec16 x) {
  for (int i = 0; i < 16; ++i) {
    const std::uint32_t bits = bits_of(x.v[i]), upper = bits >> 16;
    const bool number = (bits & 0x7fffffffu) <= 0x7f800000u;
    p[i].bits = static_cast<std::uint16_t>(number ? (bits + 0x7fffu + (upper & 1u)) >> 16 : upper | 0x40u);
  }
}

inline void store_low_bytes(unsigned char* p, Vec16 x) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<unsigned char>(bits_of(x.v[i]) & 0xffu);
}

// Products of int8 (int8_linear.hpp).
struct Sums16 {
  std::int32_t v[16];
};
struct Weights16 {
  signed char v[64];
};
struct Factor {
  std::int32_t v[4];
};

inline Weights16 load_weights(const signed char* p) {
  Weights16 weights;
  std::memcpy(weights.v, p, sizeof weights.v);
  return weights;
}
inline Vec16 to_float(Sums16 x) {
  return by_lanes([&](int i) { return static_cast<float>(x.v[i]); });
}
inline Sums16 sums_from(const std::int32_t*) { return {}; }
inline Factor factor(const unsigned char* p) {
  Factor four;
  for (int i = 0; i < 4; ++i) four.v[i] = static_cast<std::int32_t>(p[i]) - 128;
  return four;
}
inline Sums16 add_products(Sums16 sums, Factor a, Weights16 b) {
  for (int i = 0; i < 64; ++i) sums.v[i / 4] += a.v[i % 4] * b.v[i];
  return sums;
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
