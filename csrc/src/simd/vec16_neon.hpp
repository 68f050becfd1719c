// Vec16 as four NEON registers (64-bit Arm, where they are always present).
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "iris_fast/bfloat16.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

// The tile of a product: 16 sums, 4 columns and a row's factor in 32 registers.
constexpr int kLinearRows = 4;
constexpr int kLinearVectors = 1;
// The tile of a convolution's product: 24 sums, 4 columns and a row's factor in 32 registers.
constexpr int kProductRows = 6;
constexpr int kProductVectors = 1;

struct Vec16 {
  float32x4_t v[4];
};

template <typename Operation>
inline Vec16 by_parts(Operation operation) {
  return {{operation(0), operation(1), operation(2), operation(3)}};
}

inline Vec16 broadcast(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {{v, v, v, v}};
}
inline Vec16 zero() { return broadcast(0.0f); }
inline Vec16 load(const float* p) {
  return by_parts([&](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float* p, Vec16 x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.v[i]);
}
inline Vec16 add(Vec16 a, Vec16 b) {
  return by_parts([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline Vec16 subtract(Vec16 a, Vec16 b) {
  return by_parts([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
inline Vec16 multiply(Vec16 a, Vec16 b) {
  return by_parts([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline Vec16 divide(Vec16 a, Vec16 b) {
  return by_parts([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
inline Vec16 fma(Vec16 a, Vec16 b, Vec16 c) {
  return by_parts([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
// As on x86: the second operand where either is NaN.
inline float32x4_t maximum(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline Vec16 maximum(Vec16 a, Vec16 b) {
  return by_parts([&](int i) { return maximum(a.v[i], b.v[i]); });
}
inline Vec16 minimum(Vec16 a, Vec16 b) {
  return by_parts([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline Vec16 absolute(Vec16 a) {
  return by_parts([&](int i) { return vabsq_f32(a.v[i]); });
}

inline Vec16 zero_where_less(Vec16 a, Vec16 bound, Vec16 x) {
  return by_parts([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], bound.v[i]), vdupq_n_f32(0.0f), x.v[i]); });
}

inline Vec16 power_of_two(Vec16 shifted) {
  return by_parts([&](int i) {
    const uint32x4_t biased = vaddq_u32(vreinterpretq_u32_f32(shifted.v[i]), vdupq_n_u32(127));
    return vreinterpretq_f32_u32(vshlq_n_u32(biased, 23));
  });
}

inline float reduce_add(Vec16 x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.v[0], x.v[2]), vaddq_f32(x.v[1], x.v[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

inline float reduce_max(Vec16 x) {
  const float32x4_t four = maximum(maximum(x.v[0], x.v[2]), maximum(x.v[1], x.v[3]));
  const float a0 = vgetq_lane_f32(four, 0), a1 = vgetq_lane_f32(four, 1);
  const float a2 = vgetq_lane_f32(four, 2), a3 = vgetq_lane_f32(four, 3);
  const float even = a0 > a2 ? a0 : a2, odd = a1 > a3 ? a1 : a3;
  return even > odd ? even : odd;
}

inline Vec16 load(const std::uint16_t* p) {
  return by_parts([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}

inline void store(std::uint16_t* p, Vec16 x) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i])));
}

inline Vec16 load(const BFloat16* p) {
  return by_parts([&](int i) {
    return vreinterpretq_f32_u32(
        vshll_n_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(p) + 4 * i), 16));
  });
}

inline void store(BFloat16* p, Vec16 x) {
  for (int i = 0; i < 4; ++i) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x.v[i]), upper = vshrq_n_u32(bits, 16);
    const uint32x4_t odd = vandq_u32(upper, vdupq_n_u32(1));
    const uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff))), 16);
    const uint32x4_t quiet = vorrq_u32(upper, vdupq_n_u32(0x40));
    const uint32x4_t found = vbslq_u32(vceqq_f32(x.v[i], x.v[i]), rounded, quiet);
    vst1_u16(reinterpret_cast<std::uint16_t*>(p) + 4 * i, vmovn_u32(found));
  }
}

inline void store_low_bytes(unsigned char* p, Vec16 x) {
  const auto words = [&](int i) {
    return vcombine_u16(vmovn_u32(vreinterpretq_u32_f32(x.v[i])),
                        vmovn_u32(vreinterpretq_u32_f32(x.v[i + 1])));
  };
  vst1q_u8(p, vcombine_u8(vmovn_u16(words(0)), vmovn_u16(words(2))));
}

// Products of int8 (int8_linear.hpp).
struct Sums16 {
  int32x4_t v[4];
};
struct Weights16 {
  int8x16_t v[4];
};
struct Factor {
  int8x16_t v;
};

inline Weights16 load_weights(const signed char* p) {
  return {{vld1q_s8(p), vld1q_s8(p + 16), vld1q_s8(p + 32), vld1q_s8(p + 48)}};
}
inline Vec16 to_float(Sums16 x) {
  return by_parts([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
inline Sums16 sums_from(const std::int32_t*) {
  const int32x4_t zeros = vdupq_n_s32(0);
  return {{zeros, zeros, zeros, zeros}};
}
inline Factor factor(const unsigned char* p) {
  std::uint32_t four;
  std::memcpy(&four, p, sizeof four);
  return {vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u))};
}
inline int32x4_t add_products(int32x4_t sums, int8x16_t a, int8x16_t b) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sums, a, b);
#else
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(b)));
  const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(a), vget_high_s8(b)));
  return vaddq_s32(sums, vpaddq_s32(low, high));
#endif
}
inline Sums16 add_products(Sums16 sums, Factor a, Weights16 b) {
  for (int i = 0; i < 4; ++i) sums.v[i] = add_products(sums.v[i], a.v, b.v[i]);
  return sums;
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
