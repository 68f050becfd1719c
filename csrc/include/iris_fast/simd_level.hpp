// The SIMD levels of this machine.
#pragma once

#include <string>
#include <vector>

#include "iris_fast/kernel_table.hpp"

namespace iris_fast {

// The levels that were compiled in and that this processor and operating system run, fastest first; the last
// is always "portable".
std::vector<const KernelTable*> supported_levels();

// The named level, or the fastest for "auto". Throws std::invalid_argument with the available levels.
const KernelTable& kernels_for(const std::string& level);

}  // namespace iris_fast
