// Vec16 as two AVX2 registers.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "iris_fast/bfloat16.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

// The tile of a product: 8 sums, 2 columns and a row's factor in 16 registers.
constexpr int kLinearRows = 4;
constexpr int kLinearVectors = 1;
// The tile of a convolution's product: 12 sums, 2 columns and a row's factor in 16 registers.
constexpr int kProductRows = 6;
constexpr int kProductVectors = 1;

struct Vec16 {
  __m256 low, high;
};

inline Vec16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec16 broadcast(float x) {
  const __m256 v = _mm256_set1_ps(x);
  return {v, v};
}
inline Vec16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec16 x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
inline Vec16 add(Vec16 a, Vec16 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Vec16 subtract(Vec16 a, Vec16 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Vec16 multiply(Vec16 a, Vec16 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Vec16 divide(Vec16 a, Vec16 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Vec16 fma(Vec16 a, Vec16 b, Vec16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Vec16 maximum(Vec16 a, Vec16 b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Vec16 minimum(Vec16 a, Vec16 b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Vec16 absolute(Vec16 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}

inline Vec16 zero_where_less(Vec16 a, Vec16 bound, Vec16 x) {
  return {_mm256_and_ps(_mm256_cmp_ps(a.low, bound.low, _CMP_NLT_UQ), x.low),
          _mm256_and_ps(_mm256_cmp_ps(a.high, bound.high, _CMP_NLT_UQ), x.high)};
}

inline __m256 power_of_two(__m256 shifted) {
  const __m256i biased = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline Vec16 power_of_two(Vec16 shifted) { return {power_of_two(shifted.low), power_of_two(shifted.high)}; }

inline float reduce_add(Vec16 x) {
  const __m256 eight = _mm256_add_ps(x.low, x.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline float reduce_max(Vec16 x) {
  const __m256 eight = _mm256_max_ps(x.low, x.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline Vec16 load(const std::uint16_t* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}

inline void store(std::uint16_t* p, Vec16 x) {
  auto* halves = reinterpret_cast<__m128i*>(p);
  constexpr int kNearestEven = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(halves, _mm256_cvtps_ph(x.low, kNearestEven));
  _mm_storeu_si128(halves + 1, _mm256_cvtps_ph(x.high, kNearestEven));
}

inline __m256 from_bfloat16(__m128i halves) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

inline Vec16 load(const BFloat16* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {from_bfloat16(_mm_loadu_si128(halves)), from_bfloat16(_mm_loadu_si128(halves + 1))};
}

inline __m256i to_bfloat16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x), upper = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}

inline void store(BFloat16* p, Vec16 x) {
  // Packing works within halves of a register: (low 0-3, high 0-3 | low 4-7, high 4-7).
  const __m256i packed = _mm256_packus_epi32(to_bfloat16(x.low), to_bfloat16(x.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0b11'01'10'00));
}

inline void store_low_bytes(unsigned char* p, Vec16 x) {
  const __m256i mask = _mm256_set1_epi32(255);
  const __m256i low = _mm256_and_si256(_mm256_castps_si256(x.low), mask);
  const __m256i high = _mm256_and_si256(_mm256_castps_si256(x.high), mask);
  // Packing works within halves of a register: (low 0-3, high 0-3 | low 4-7, high 4-7).
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0b11'01'10'00);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

// Products of int8 (int8_linear.hpp).
struct Sums16 {
  __m256i low, high;
};
struct Weights16 {
  __m256i low, high;
};
struct Factor {
  __m256i size, sign;  // the integers' absolute values, and the integers
};

inline Weights16 load_weights(const signed char* p) {
  const auto* halves = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
inline Vec16 to_float(Sums16 x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }
inline Sums16 sums_from(const std::int32_t*) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline Factor factor(const unsigned char* p) {
  std::int32_t four;
  std::memcpy(&four, p, sizeof four);
  const __m256i with_sign = _mm256_xor_si256(_mm256_set1_epi32(four), _mm256_set1_epi8(-128));
  return {_mm256_abs_epi8(with_sign), with_sign};
}
// Two products of at most 127 each fit 16 bits, so that the instruction which would saturate does not.
inline __m256i add_products(__m256i sums, Factor a, __m256i b) {
  const __m256i pairs = _mm256_maddubs_epi16(a.size, _mm256_sign_epi8(b, a.sign));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Sums16 add_products(Sums16 sums, Factor a, Weights16 b) {
  return {add_products(sums.low, a, b.low), add_products(sums.high, a, b.high)};
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
