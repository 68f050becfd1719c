// Draws one token per row of logits by inverting the cumulative distribution at an addressed uniform number.
#pragma once

#include <cstddef>
#include <cstdint>

#include "iris_fast/packing.hpp"

namespace iris_fast {

// Draws tokens[r] for each of the `rows` rows of row-major `logits` (rows, classes). Row r's uniform number
// is philox_uniform(seed, low 32 bits of row_ids[r], low 32 bits of positions[r], purpose). Throws
// std::invalid_argument, before any memory is read, when a row has no class or the temperature is not
// positive and finite. It runs on the calling thread: 64 rows of 512 classes take about as long as starting
// two threads.
void sample_categorical(const KernelTable& kernels, const float* logits, std::size_t rows,
                        std::size_t classes, float temperature, std::uint64_t seed,
                        const std::int64_t* row_ids, const std::int64_t* positions, std::uint32_t purpose,
                        std::int64_t* tokens);

}  // namespace iris_fast
