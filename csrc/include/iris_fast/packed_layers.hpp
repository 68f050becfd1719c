// Layers over feature maps, packed for one SIMD level.
#pragma once

#include <cstddef>

#include "iris_fast/aligned_buffer.hpp"
#include "iris_fast/frame_kernels.hpp"

namespace iris_fast {

// GroupNorm's weight and bias, zero past `channels`.
struct PackedGroupNorm {
  std::size_t channels, groups;
  float epsilon;
  AlignedBuffer<float> weight, bias;
};

// A convolution as a product: `taps` runs of `inner` contiguous inputs. Weights as ProductArgs wants them.
struct PackedProduct {
  std::size_t taps, inner, columns;
  AlignedBuffer<float> weights, bias;
};

// A 3 x 3 convolution as one product for each component: (component, panel, inner, panel columns).
struct PackedWinograd {
  Winograd kind;
  std::size_t inner, columns;
  AlignedBuffer<float> weights, bias;
};

}  // namespace iris_fast
