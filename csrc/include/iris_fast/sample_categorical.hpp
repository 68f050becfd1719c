// Draws one token per row of logits by inverting the cumulative distribution at an addressed uniform number.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "iris_fast/exp.hpp"
#include "iris_fast/philox.hpp"

namespace iris_fast {

// The token at the uniform number `u` in [0, 1): with p_i = exp((l_i - max l) / temperature) in float32, the
// first i whose running sum of p (in float64) exceeds u * sum(p). Returns 0 for a row that is no
// distribution: one that holds a NaN or plus infinity, or minus infinity alone. `running` is room for
// `classes` values.
inline std::int64_t categorical_token(const float* logits, std::size_t classes, float temperature, float u,
                                      double* running) noexcept {
  float largest = logits[0];
  for (std::size_t i = 1; i < classes; ++i) largest = largest < logits[i] ? logits[i] : largest;

  // Blocks keep the exponentials, which vectorise, apart from the running sum, which cannot.
  constexpr std::size_t kBlock = 64;
  float probabilities[kBlock];
  double total = 0.0;
  for (std::size_t start = 0; start < classes; start += kBlock) {
    const std::size_t count = std::min(kBlock, classes - start);
    for (std::size_t i = 0; i < count; ++i)
      probabilities[i] = exp_nonpositive((logits[start + i] - largest) / temperature);
    for (std::size_t i = 0; i < count; ++i) running[start + i] = total += probabilities[i];
  }
  if (!(total > 0.0) || !std::isfinite(total)) return 0;
  // u <= 1 - 2^-24, so u * total < total = the last running sum: the search always ends inside the row, and
  // on a class whose p is positive, because only such a class raises the running sum.
  return std::upper_bound(running, running + classes, static_cast<double>(u) * total) - running;
}

// Draws tokens[r] for each of the `rows` rows of row-major `logits` (rows, classes). Row r's uniform number
// is philox_uniform(seed, low 32 bits of row_ids[r], low 32 bits of positions[r], purpose). Throws
// std::invalid_argument, before any memory is read, when a row has no class or the temperature is not
// positive and finite. It runs on the calling thread: 64 rows of 512 classes take about as long as starting
// two threads.
inline void sample_categorical(const float* logits, std::size_t rows, std::size_t classes, float temperature,
                               std::uint64_t seed, const std::int64_t* row_ids, const std::int64_t* positions,
                               std::uint32_t purpose, std::int64_t* tokens) {
  if (classes == 0) throw std::invalid_argument("logits need at least one class, got shape (rows, 0)");
  if (!(temperature > 0.0f) || !std::isfinite(temperature))
    throw std::invalid_argument("temperature must be positive and finite, got " +
                                std::to_string(temperature));
  std::vector<double> running(classes);
  for (std::size_t r = 0; r < rows; ++r) {
    const float u = philox_uniform(seed, static_cast<std::uint32_t>(row_ids[r]),
                                   static_cast<std::uint32_t>(positions[r]), purpose);
    tokens[r] = categorical_token(logits + r * classes, classes, temperature, u, running.data());
  }
}

}  // namespace iris_fast
