// The kernels for processors with AVX-512 F, BW, DQ, VL and VNNI, which is for products of int8.
#define IRIS_FAST_LEVEL simd_avx512_vnni

// clang-format off: the rest is written in terms of the first
#include "vec16_avx512.hpp"
#include "table.hpp"
// clang-format on

namespace iris_fast {
extern const KernelTable kernels_avx512_vnni;
const KernelTable kernels_avx512_vnni = IRIS_FAST_LEVEL::make_table("avx512_vnni");
}  // namespace iris_fast
