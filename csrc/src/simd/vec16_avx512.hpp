// Vec16 as one AVX-512 register.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "iris_fast/bfloat16.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

// The tile of a product: 24 sums, 3 columns and a row's factor in 32 registers.
constexpr int kLinearRows = 8;
constexpr int kLinearVectors = 3;
// The tile of a convolution's product: 24 sums, 4 columns and a row's factor.
constexpr int kProductRows = 6;
constexpr int kProductVectors = 4;

struct Vec16 {
  __m512 v;
};

inline Vec16 zero() { return {_mm512_setzero_ps()}; }
inline Vec16 broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Vec16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec16 x) { _mm512_storeu_ps(p, x.v); }
inline Vec16 add(Vec16 a, Vec16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec16 subtract(Vec16 a, Vec16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec16 multiply(Vec16 a, Vec16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec16 divide(Vec16 a, Vec16 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec16 fma(Vec16 a, Vec16 b, Vec16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Vec16 maximum(Vec16 a, Vec16 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec16 minimum(Vec16 a, Vec16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec16 absolute(Vec16 a) { return {_mm512_abs_ps(a.v)}; }

inline Vec16 zero_where_less(Vec16 a, Vec16 bound, Vec16 x) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a.v, bound.v, _CMP_NLT_UQ), x.v)};
}

inline Vec16 power_of_two(Vec16 shifted) {
  const __m512i biased = _mm512_add_epi32(_mm512_castps_si512(shifted.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23))};
}

inline float reduce_add(Vec16 x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline float reduce_max(Vec16 x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x.v), _mm512_extractf32x8_ps(x.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline Vec16 load(const std::uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}

inline void store(std::uint16_t* p, Vec16 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline Vec16 load(const BFloat16* p) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}

inline void store(BFloat16* p, Vec16 x) {
  const __m512i bits = _mm512_castps_si512(x.v), upper = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __m512i quiet = _mm512_or_si512(upper, _mm512_set1_epi32(0x40));
  const __mmask16 no_number = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, no_number, quiet)));
}

// 16 unsigned words, for draws (training.hpp).
#define IRIS_FAST_HAS_WORDS16
struct Words16 {
  __m512i v;
};
inline Words16 every_word(std::uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
inline Words16 words_from(std::uint32_t first) {
  const __m512i steps = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_add_epi32(every_word(first).v, steps)};
}
inline Words16 exclusive_or(Words16 a, Words16 b, std::uint32_t c) {
  return {_mm512_ternarylogic_epi32(a.v, b.v, every_word(c).v, 0x96)};
}
inline void multiply_words(std::uint32_t factor, Words16 x, Words16& low, Words16& high) {
  const __m512i by = every_word(factor).v;
  const __m512i even = _mm512_mul_epu32(x.v, by), odd = _mm512_mul_epu32(_mm512_srli_epi64(x.v, 32), by);
  constexpr __mmask16 kOdd = 0xaaaa;
  low.v = _mm512_mask_mov_epi32(even, kOdd, _mm512_slli_epi64(odd, 32));
  high.v = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), kOdd, odd);
}
// `kept` where the lower, or the upper, half of a word is not below `threshold`, else 0.
inline void store_kept(Words16 x, std::uint32_t threshold, float kept, float* lower, float* upper) {
  const __m512i bound = every_word(threshold).v;
  const __m512 value = _mm512_set1_ps(kept);
  const __m512i low = _mm512_and_si512(x.v, _mm512_set1_epi32(0xffff)), high = _mm512_srli_epi32(x.v, 16);
  _mm512_storeu_ps(lower, _mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(low, bound), value));
  _mm512_storeu_ps(upper, _mm512_maskz_mov_ps(_mm512_cmpge_epu32_mask(high, bound), value));
}

inline void store_low_bytes(unsigned char* p, Vec16 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_castps_si512(x.v)));
}

// Products of int8 (int8_linear.hpp).
struct Sums16 {
  __m512i v;
};
struct Weights16 {
  __m512i v;
};

inline Weights16 load_weights(const signed char* p) { return {_mm512_loadu_si512(p)}; }
inline Vec16 to_float(Sums16 x) { return {_mm512_cvtepi32_ps(x.v)}; }
inline __m512i broadcast4(const unsigned char* p) {
  std::int32_t four;
  std::memcpy(&four, p, sizeof four);
  return _mm512_set1_epi32(four);
}

#if defined(__AVX512VNNI__)
// One instruction for 64 products, of unsigned factors: 128 too large, which the corrections take back.
struct Factor {
  __m512i v;
};
inline Factor factor(const unsigned char* p) { return {broadcast4(p)}; }
inline Sums16 sums_from(const std::int32_t* corrections) { return {_mm512_loadu_si512(corrections)}; }
inline Sums16 add_products(Sums16 sums, Factor a, Weights16 b) {
  return {_mm512_dpbusd_epi32(sums.v, a.v, b.v)};
}
#else
// Even and odd bytes as 16 bits each, whose products are added in pairs.
struct Factor {
  __m512i even, odd;
};
inline __m512i even_bytes(__m512i x) { return _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8); }
inline __m512i odd_bytes(__m512i x) { return _mm512_srai_epi16(x, 8); }
inline Factor factor(const unsigned char* p) {
  const __m512i with_sign = _mm512_xor_si512(broadcast4(p), _mm512_set1_epi8(-128));
  return {even_bytes(with_sign), odd_bytes(with_sign)};
}
inline Sums16 sums_from(const std::int32_t*) { return {_mm512_setzero_si512()}; }
inline Sums16 add_products(Sums16 sums, Factor a, Weights16 b) {
  const __m512i even = _mm512_madd_epi16(a.even, even_bytes(b.v));
  const __m512i odd = _mm512_madd_epi16(a.odd, odd_bytes(b.v));
  return {_mm512_add_epi32(sums.v, _mm512_add_epi32(even, odd))};
}
#endif

}  // namespace iris_fast::IRIS_FAST_LEVEL
