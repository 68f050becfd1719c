#include "iris_fast/sample_categorical.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "categorical_tokens.hpp"
#include "float_environment.hpp"
#include "philox.hpp"

namespace iris_fast {

void sample_categorical(const KernelTable& kernels, const float* logits, std::size_t rows,
                        std::size_t classes, float temperature, std::uint64_t seed,
                        const std::int64_t* row_ids, const std::int64_t* positions, std::uint32_t purpose,
                        std::int64_t* tokens) {
  const DefaultFloatEnvironment environment;
  if (classes == 0) throw std::invalid_argument("logits need at least one class, got shape (rows, 0)");
  if (!(temperature > 0.0f) || !std::isfinite(temperature))
    throw std::invalid_argument("temperature must be positive and finite, got " +
                                std::to_string(temperature));
  DrawScratch scratch(classes);
  float u[kRowsTogether];
  for (std::size_t first = 0; first < rows; first += kRowsTogether) {
    const std::size_t count = std::min(kRowsTogether, rows - first);
    for (std::size_t r = 0; r < count; ++r)
      u[r] = philox_uniform(seed, static_cast<std::uint32_t>(row_ids[first + r]),
                            static_cast<std::uint32_t>(positions[first + r]), purpose);
    categorical_tokens(kernels, logits + first * classes, classes, count, classes, temperature, u,
                       tokens + first, 1, scratch);
  }
}

}  // namespace iris_fast
