// The policy (docs/iris.md, part 5): convolutions, then an LSTM cell and the heads of actions and values.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "iris_fast/packing.hpp"
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

// 3 x 3 convolution, 2 x 2 max-pool and ReLU, repeated. A frame's features depend only on the frame.
// Calls from several threads are safe.
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

struct PolicyRecurrenceConfig {
  std::size_t features;  // of a frame
  std::size_t width;     // of the hidden and the cell state
  std::size_t actions;

  // Throws std::invalid_argument naming the first size that cannot be.
  void validate() const;
};

// One step of the recurrence for a batch. All arrays are row-major, and rows are independent.
struct RecurrenceStep {
  const float* features;  // (batch, features)
  const float* hidden;    // (batch, width)
  const float* cells;     // (batch, width)
  std::size_t batch;
  float* next_hidden;  // out: (batch, width)
  float* next_cells;   // out: (batch, width)
  float* logits;       // out: (batch, actions)
  float* values;       // out: (batch,)
};

// An LSTM cell and two heads. Threads share the columns of the products, so that the weights are read once
// whatever the batch. Calls from several threads are safe.
class PolicyRecurrence {
 public:
  // Copies lstm.weight_ih and so on, actor_linear and critic_linear. Throws std::invalid_argument.
  PolicyRecurrence(const PolicyRecurrenceConfig& config, const KernelTable& kernels, const FindWeight& find,
                   std::shared_ptr<ThreadPool> pool);
  ~PolicyRecurrence();

  const PolicyRecurrenceConfig& config() const { return config_; }

  // Throws Interrupted when `stop` returned true.
  void run(const RecurrenceStep& step, const std::function<bool()>& stop);

 private:
  struct Work;

  PolicyRecurrenceConfig config_;
  std::unique_ptr<Work> work_;
};

}  // namespace iris_fast
