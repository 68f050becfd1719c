// A linear layer, packed for one SIMD level.
#pragma once

#include <cstddef>
#include <cstdint>

#include "iris_fast/aligned_buffer.hpp"
#include "iris_fast/kernel_table.hpp"

namespace iris_fast {

// A linear layer with padded rows and columns, packed by panels.
struct PackedLinear {
  std::size_t inner, columns;            // multiples of 16
  Precision precision;                   // of the weights
  AlignedBuffer<unsigned char> weights;  // as LinearArgs, or Int8LinearArgs, want them
  AlignedBuffer<float> bias;
  AlignedBuffer<float> scales;              // of int8 weights' columns
  AlignedBuffer<std::int32_t> corrections;  // of int8 weights' columns
};

}  // namespace iris_fast
