// The kernels for processors with AVX-512 F, BW, DQ and VL.
#define IRIS_FAST_LEVEL simd_avx512

// clang-format off: the rest is written in terms of the first
#include "vec16_avx512.hpp"
#include "table.hpp"
// clang-format on

namespace iris_fast {
extern const KernelTable kernels_avx512;
const KernelTable kernels_avx512 = IRIS_FAST_LEVEL::make_table("avx512");
}  // namespace iris_fast
