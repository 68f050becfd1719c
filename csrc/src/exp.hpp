// A float32 exponential that compilers vectorise (the library's std::exp is one call per element).
#pragma once

#include <cstdint>
#include <cstring>

namespace iris_fast {

// exp(x) for x <= 0, within 0.7 units in the last place; 0 below -87 (where float32 nears its smallest normal
// number) and at minus infinity; NaN for NaN. Cody-Waite range reduction and the Cephes library's polynomial.
//
// Always inlined: each SIMD level compiles it with its own flags, to the same bits, since nothing is
// contracted.
#if defined(__GNUC__)
[[gnu::always_inline]]
#endif
inline float exp_nonpositive(float x) noexcept {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRoundToInteger = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  constexpr float kSmallestExponent = -87.0f;

  const float shifted = x * kLog2E + kRoundToInteger;
  const float power = shifted - kRoundToInteger;
  const float rest = (x - power * kLn2High) - power * kLn2Low;  // in [-ln(2)/2, ln(2)/2]
  float polynomial = 1.9875691500e-4f;
  polynomial = polynomial * rest + 1.3981999507e-3f;
  polynomial = polynomial * rest + 8.3334519073e-3f;
  polynomial = polynomial * rest + 4.1665795894e-2f;
  polynomial = polynomial * rest + 1.6666665459e-1f;
  polynomial = polynomial * rest + 5.0000001201e-1f;
  polynomial = polynomial * (rest * rest) + rest + 1.0f;

  std::uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits + 127u) << 23;  // the bits of 2^power
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  const float result = polynomial * scale;
  return x < kSmallestExponent ? 0.0f : result;
}

}  // namespace iris_fast
