// The kernels for 64-bit Arm.
#define IRIS_FAST_LEVEL simd_neon

// clang-format off: the rest is written in terms of the first
#include "vec16_neon.hpp"
#include "table.hpp"
// clang-format on

namespace iris_fast {
extern const KernelTable kernels_neon;
const KernelTable kernels_neon = IRIS_FAST_LEVEL::make_table("neon");
}  // namespace iris_fast
