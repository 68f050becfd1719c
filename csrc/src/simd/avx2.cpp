// The kernels for processors with AVX2, FMA and F16C.
#define IRIS_FAST_LEVEL simd_avx2

// clang-format off: the rest is written in terms of the first
#include "vec16_avx2.hpp"
#include "table.hpp"
// clang-format on

namespace iris_fast {
extern const KernelTable kernels_avx2;
const KernelTable kernels_avx2 = IRIS_FAST_LEVEL::make_table("avx2");
}  // namespace iris_fast
