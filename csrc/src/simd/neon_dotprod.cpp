// The kernels for 64-bit Arm with the dot products of int8 (Armv8.2).
#define IRIS_FAST_LEVEL simd_neon_dotprod

// clang-format off: the rest is written in terms of the first
#include "vec16_neon.hpp"
#include "table.hpp"
// clang-format on

namespace iris_fast {
extern const KernelTable kernels_neon_dotprod;
const KernelTable kernels_neon_dotprod = IRIS_FAST_LEVEL::make_table("neon_dotprod");
}  // namespace iris_fast
