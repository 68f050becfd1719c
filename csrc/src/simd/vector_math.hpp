// exp and GELU over Vec16.
#pragma once

#include "level.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

// exp(x) for x <= 0: the steps of iris_fast/exp.hpp with fused multiply-adds. 0 below -87, NaN for NaN.
inline Vec16 exp_nonpositive(Vec16 x) {
  constexpr float kRoundToInteger = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  const Vec16 shifted = fma(x, broadcast(1.44269504f), broadcast(kRoundToInteger));
  const Vec16 power = subtract(shifted, broadcast(kRoundToInteger));
  Vec16 rest = fma(power, broadcast(-0.693359375f), x);  // ln 2 in two parts
  rest = fma(power, broadcast(2.12194440e-4f), rest);
  Vec16 polynomial = broadcast(1.9875691500e-4f);
  polynomial = fma(polynomial, rest, broadcast(1.3981999507e-3f));
  polynomial = fma(polynomial, rest, broadcast(8.3334519073e-3f));
  polynomial = fma(polynomial, rest, broadcast(4.1665795894e-2f));
  polynomial = fma(polynomial, rest, broadcast(1.6666665459e-1f));
  polynomial = fma(polynomial, rest, broadcast(5.0000001201e-1f));
  polynomial = add(fma(polynomial, multiply(rest, rest), rest), broadcast(1.0f));
  return zero_where_less(x, broadcast(-87.0f), multiply(polynomial, power_of_two(shifted)));
}

// x Φ(x) with the normal distribution function Φ, as max(x, 0) - |x| erfc(|x| / √2) / 2.
//
// log erfc(z) = -z P(z), with P fitted to z in [0, 5] so that the largest error of z erfc(z) is least
// (2.6e-9); from there on erfc(z) < 2e-12 counts as its value at 5. NaN for NaN.
inline Vec16 gelu(Vec16 x) {
  const Vec16 size = minimum(absolute(x), broadcast(7.07106781f));  // 5 √2: infinity times 0 is avoided
  const Vec16 z = multiply(size, broadcast(0.707106781f));
  Vec16 polynomial = broadcast(-6.446643056e-06f);
  polynomial = fma(polynomial, z, broadcast(8.978018013e-05f));
  polynomial = fma(polynomial, z, broadcast(-5.205575144e-04f));
  polynomial = fma(polynomial, z, broadcast(1.429287368e-03f));
  polynomial = fma(polynomial, z, broadcast(1.250447822e-04f));
  polynomial = fma(polynomial, z, broadcast(-1.934844255e-02f));
  polynomial = fma(polynomial, z, broadcast(1.028503031e-01f));
  polynomial = fma(polynomial, z, broadcast(6.366066337e-01f));
  polynomial = fma(polynomial, z, broadcast(1.128379941e+00f));
  const Vec16 complement = exp_nonpositive(multiply(polynomial, subtract(zero(), z)));
  const Vec16 half_size = multiply(size, broadcast(-0.5f));
  return fma(half_size, complement, maximum(zero(), x));
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
