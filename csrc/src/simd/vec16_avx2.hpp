// Vec16 as two AVX2 registers.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

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

}  // namespace iris_fast::IRIS_FAST_LEVEL
