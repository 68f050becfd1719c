// The draws of some rows of logits at given uniform numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernel_table.hpp"

namespace iris_fast {

// Rows whose running sums are added up side by side: a sum is one chain of additions, which wait for each
// other.
constexpr std::size_t kRowsTogether = 4;

// Work space for a draw of some rows.
class DrawScratch {
 public:
  explicit DrawScratch(std::size_t classes)
      : numerators(kRowsTogether * classes), running(kRowsTogether * classes) {}

  std::vector<float> numerators;
  std::vector<double> running;
};

// The tokens of `rows` rows, at most kRowsTogether, at the uniform numbers `u` in [0, 1): with p_i = exp((l_i
// - max l) / temperature) in float32, the first i whose running sum of p (in float64) exceeds u * sum(p). 0
// for a row that is no distribution: one that holds a NaN or plus infinity, or minus infinity alone. Rows
// begin `stride` floats apart; row r's token goes to tokens[r * tokens_stride]. A row's token depends only on
// that row.
inline void categorical_tokens(const KernelTable& kernels, const float* logits, std::size_t stride,
                               std::size_t rows, std::size_t classes, float temperature, const float* u,
                               std::int64_t* tokens, std::size_t tokens_stride,
                               DrawScratch& scratch) noexcept {
  double totals[kRowsTogether] = {};
  for (std::size_t r = 0; r < rows; ++r)
    kernels.softmax_numerators(logits + r * stride, classes, temperature,
                               scratch.numerators.data() + r * classes);
  const float* p = scratch.numerators.data();
  double* running = scratch.running.data();
  if (rows == kRowsTogether) {
    for (std::size_t i = 0; i < classes; ++i)
      for (std::size_t r = 0; r < kRowsTogether; ++r)
        running[r * classes + i] = totals[r] += p[r * classes + i];
  } else {
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t i = 0; i < classes; ++i) running[r * classes + i] = totals[r] += p[r * classes + i];
  }
  for (std::size_t r = 0; r < rows; ++r) {
    const double* sums = running + r * classes;
    const double total = totals[r];
    // u <= 1 - 2^-24, so u * total < total = the last running sum: the search always ends inside the row, and
    // on a class whose p is positive, because only such a class raises the running sum.
    tokens[r * tokens_stride] =
        total > 0.0 && std::isfinite(total)
            ? std::upper_bound(sums, sums + classes, static_cast<double>(u[r]) * total) - sums
            : 0;
  }
}

}  // namespace iris_fast
