// The kernels in plain C++.
#define IRIS_FAST_LEVEL simd_portable

// clang-format off: the rest is written in terms of the first
#include "vec16_portable.hpp"
#include "table.hpp"
// clang-format on

namespace iris_fast {
extern const KernelTable kernels_portable;
const KernelTable kernels_portable = IRIS_FAST_LEVEL::make_table("portable");
}  // namespace iris_fast
