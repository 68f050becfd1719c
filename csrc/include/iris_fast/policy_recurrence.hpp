// The recurrent part of the policy (docs/iris.md, part 5): an LSTM cell, and the heads of actions and values.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "iris_fast/aligned_buffer.hpp"
#include "iris_fast/kernel_table.hpp"
#include "iris_fast/packed_layers.hpp"
#include "iris_fast/process.hpp"
#include "iris_fast/thread_pool.hpp"

namespace iris_fast {

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

// Threads share the columns of the products, so that the weights are read once whatever the batch. Calls from
// several threads are safe.
class PolicyRecurrence {
 public:
  // Copies lstm.weight_ih and so on, actor_linear and critic_linear. Throws std::invalid_argument.
  PolicyRecurrence(const PolicyRecurrenceConfig& config, const KernelTable& kernels, const FindWeight& find,
                   std::shared_ptr<ThreadPool> pool);

  const PolicyRecurrenceConfig& config() const { return config_; }

  // Throws Interrupted when `stop` returned true.
  void run(const RecurrenceStep& step, const std::function<bool()>& stop);

 private:
  struct Scratch {
    AlignedBuffer<float> inputs, gates, cells, hidden, heads;
  };

  void run_in(Scratch& scratch, const RecurrenceStep& step, const std::function<bool()>& stop);

  PolicyRecurrenceConfig config_;
  const KernelTable& kernels_;
  std::shared_ptr<ThreadPool> pool_;
  PackedLinear gates_;  // of features and hidden state side by side
  PackedLinear heads_;  // the value, then from column 16 on the actions' logits
  InUse in_use_;
  Scratch scratch_;  // of the call that holds it
};

}  // namespace iris_fast
