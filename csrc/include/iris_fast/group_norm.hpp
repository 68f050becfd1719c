// GroupNorm with swish, forward and backward, of channels-last maps of float or BFloat16. Statistics, weight,
// bias and arithmetic are in float32.
#pragma once

#include <cstddef>
#include <functional>

#include "iris_fast/bfloat16.hpp"
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
template <typename T>
struct GroupNormInputs {
  const T* x;
  const float *weight, *bias;
};

// Of each group its mean and 1 / sqrt(variance + eps), (batch, groups).
struct GroupNormStatistics {
  float *means, *scales;
};

// Throws std::invalid_argument for sizes that are not as above. A sample's result depends on that sample
// alone.
template <typename T>
void group_norm(const KernelTable& kernels, ThreadPool& pool, const GroupNormSizes& sizes,
                const GroupNormInputs<T>& inputs, double epsilon, const GroupNormStatistics& statistics,
                T* out, const std::function<bool()>& stop);

// The gradients of x, weight and bias from `grad`, that of the output. Samples are added up in their order.
template <typename T>
void group_norm_backward(const KernelTable& kernels, ThreadPool& pool, const GroupNormSizes& sizes,
                         const GroupNormInputs<T>& inputs, const GroupNormStatistics& statistics,
                         const T* grad, T* grad_x, float* grad_weight, float* grad_bias,
                         const std::function<bool()>& stop);

}  // namespace iris_fast
