// What weights are packed from and for: their names, a precision and a SIMD level of this machine.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace iris_fast {

// Storage of numbers. Arithmetic is in float32, except for products of int8 weights.
enum class Precision { kFloat, kHalf, kInt8 };

// The row-major float32 weight of that name; throws unless it has exactly that shape.
using FindWeight =
    std::function<const float*(const std::string& name, const std::vector<std::size_t>& shape)>;

// The functions of one SIMD level. All levels give the same bits.
struct KernelTable;

// The levels that were compiled in and that this processor and operating system run, fastest first; the last
// is always "portable".
std::vector<std::string> level_names();

// The named level, or the fastest for "auto". Throws std::invalid_argument with the available levels.
const KernelTable& kernels_for(const std::string& level);

// Whether this processor multiplies bfloat16 itself (AVX512-BF16 or AMX), and so faster than float32.
bool multiplies_bfloat16();

}  // namespace iris_fast
