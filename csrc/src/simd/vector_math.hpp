// exp, GELU, the logistic function and tanh over Vec16.
#pragma once

#include "level.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

// exp(x) for x <= 0: the steps of exp.hpp with fused multiply-adds. 0 below -87, NaN for NaN.
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

// `negative` for the lanes of x below 0, else `other`; their sum, a NaN, for NaN.
inline Vec16 by_sign(Vec16 x, Vec16 negative, Vec16 other) {
  constexpr float kLeast = 1.40129846e-45f;  // the least number above 0
  return add(zero_where_less(x, zero(), other),
             zero_where_less(subtract(zero(), x), broadcast(kLeast), negative));
}

// 1 / (1 + exp(-x)), relatively exact to rounding on both sides. NaN for NaN.
inline Vec16 sigmoid(Vec16 x) {
  const Vec16 power = exp_nonpositive(subtract(zero(), absolute(x)));
  const Vec16 share = divide(broadcast(1.0f), add(broadcast(1.0f), power));
  return by_sign(x, multiply(power, share), share);
}

// tanh(x): below 5/8 as x + x^3 P(x^2), with P fitted so that the largest relative error is least (4.2e-9),
// above as ±(1 - e) / (1 + e) with e = exp(-2|x|). NaN for NaN.
inline Vec16 hyperbolic_tangent(Vec16 x) {
  constexpr float kBelow = -0.624999940f;  // minus the number before 5/8
  const Vec16 size = absolute(x), square = multiply(x, x);
  Vec16 polynomial = broadcast(-5.717042341e-03f);
  polynomial = fma(polynomial, square, broadcast(2.065058493e-02f));
  polynomial = fma(polynomial, square, broadcast(-5.374349738e-02f));
  polynomial = fma(polynomial, square, broadcast(1.333149128e-01f));
  polynomial = fma(polynomial, square, broadcast(-3.333328392e-01f));
  const Vec16 small = fma(multiply(polynomial, square), x, x);
  const Vec16 power = exp_nonpositive(multiply(size, broadcast(-2.0f)));
  const Vec16 large = divide(subtract(broadcast(1.0f), power), add(broadcast(1.0f), power));
  return add(zero_where_less(size, broadcast(0.625f), by_sign(x, subtract(zero(), large), large)),
             zero_where_less(subtract(zero(), size), broadcast(kBelow), small));
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
