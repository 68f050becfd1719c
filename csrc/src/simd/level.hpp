// The SIMD levels of this build. Each is one translation unit with compiler flags of its own; everything that
// such a unit defines lives in a namespace named after the level, so that the linker never gives another unit
// code that the machine may lack. For the same reason nothing below src/simd includes the standard library's
// templates.
#pragma once

#include "kernel_table.hpp"

#if !defined(IRIS_FAST_LEVEL)
#error "define IRIS_FAST_LEVEL and include a vec16_*.hpp before anything else of src/simd"
#endif
