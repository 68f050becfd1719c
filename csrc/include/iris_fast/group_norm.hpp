// GroupNorm with swish, forward and backward, of channels-last maps in float32.
#pragma once

#include <cstddef>
#include <functional>

#include "iris_fast/packing.hpp"
#include "iris_fast/thread_pool.hpp"

namespace iris_fast {

struct GroupNormSizes {
  std::size_t batch, positions;
  std::size_t channels;  // a multiple of 16
  std::size_t groups;    // divides the channels
  bool swish;
};

// What both directions read: x (batch, positions, channels), weight and bias (channels,).
struct GroupNormInputs {
  const float *x, *weight, *bias;
};

// Of each group its mean and 1 / sqrt(variance + eps), (batch, groups).
struct GroupNormStatistics {
  float *means, *scales;
};

// Throws std::invalid_argument for sizes that are not as above. A sample's result depends on that sample
// alone.
void group_norm(const KernelTable& kernels, ThreadPool& pool, const GroupNormSizes& sizes,
                const GroupNormInputs& inputs, double epsilon, const GroupNormStatistics& statistics,
                float* out, const std::function<bool()>& stop);

// The gradients of x, weight and bias from `grad`, that of the output. Samples are added up in their order.
void group_norm_backward(const KernelTable& kernels, ThreadPool& pool, const GroupNormSizes& sizes,
                         const GroupNormInputs& inputs, const GroupNormStatistics& statistics,
                         const float* grad, float* grad_x, float* grad_weight, float* grad_bias,
                         const std::function<bool()>& stop);

}  // namespace iris_fast
