// The SIMD levels of this machine.
#pragma once

#include <vector>

#include "iris_fast/packing.hpp"
#include "kernel_table.hpp"

namespace iris_fast {

// As `level_names` has them.
std::vector<const KernelTable*> supported_levels();

}  // namespace iris_fast
