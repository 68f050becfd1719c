// A linear layer, packed for one SIMD level.
#pragma once

#include <cstddef>

#include "iris_fast/aligned_buffer.hpp"

namespace iris_fast {

// A linear layer with padded rows and columns, packed by panels.
struct PackedLinear {
  std::size_t inner, columns;            // multiples of 16
  AlignedBuffer<unsigned char> weights;  // of the model's precision
  AlignedBuffer<float> bias;
};

}  // namespace iris_fast
