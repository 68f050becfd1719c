// The convolutional part of the policy (docs/iris.md, part 5): 3 x 3 convolution, 2 x 2 max-pool and ReLU,
// repeated.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "iris_fast/kernel_table.hpp"
#include "iris_fast/packed_layers.hpp"
#include "iris_fast/thread_pool.hpp"

namespace iris_fast {

struct PolicyFeaturesConfig {
  std::size_t resolution;           // height and width of frames; halved, rounded down, by each convolution
  std::size_t frame_channels;       //
  std::vector<std::size_t> widths;  // channels after each convolution

  std::size_t frame_floats() const { return frame_channels * resolution * resolution; }
  std::size_t last_resolution() const { return resolution >> widths.size(); }
  std::size_t feature_count() const { return widths.back() * last_resolution() * last_resolution(); }

  // Throws std::invalid_argument naming the first size that cannot be.
  void validate() const;
};

// A frame's features depend only on the frame. Calls from several threads are safe.
class PolicyFeatures {
 public:
  // Copies the weights conv1.weight, conv1.bias and so on. Throws std::invalid_argument.
  PolicyFeatures(const PolicyFeaturesConfig& config, const KernelTable& kernels, const FindWeight& find,
                 std::shared_ptr<ThreadPool> pool, std::size_t group);
  ~PolicyFeatures();

  const PolicyFeaturesConfig& config() const { return config_; }

  // Features (batch, feature_count), in the order (channels, height, width), of frames (batch, frame
  // channels, resolution, resolution) in [0, 1]. Throws Interrupted when `stop` returned true.
  void compute(const float* frames, std::size_t batch, float* features, const std::function<bool()>& stop);

 private:
  struct Work;

  PolicyFeaturesConfig config_;
  std::unique_ptr<Work> work_;
};

}  // namespace iris_fast
