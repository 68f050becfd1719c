#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "float_environment.hpp"
#include "iris_fast/policy.hpp"
#include "linear_packing.hpp"
#include "process.hpp"

namespace iris_fast {
namespace {

constexpr std::size_t kLeastPanels = 4;  // of a thread: fewer take less than waking it

// At least this many floats, zero if new: the last rows of a tile are never read, but must be defined.
float* room_for(AlignedBuffer<float>& buffer, std::size_t count) {
  if (buffer.size() < count) buffer = zeros(count);
  return buffer.data();
}

// Rows of `width` numbers into columns `first` and on of a tiled matrix.
void tile(const float* rows, std::size_t count, std::size_t width, std::size_t first, std::size_t columns,
          float* tiled) {
  for (std::size_t r = 0; r < count; ++r)
    for (std::size_t c = 0; c < width; c += kLanes)
      std::copy_n(rows + r * width + c, std::min(kLanes, width - c),
                  tiled + tiled_offset(r, first + c, columns));
}

// Zeros the padding after the `width` columns of a state. An input that is not finite does not give zero with
// the padding's zero weights; from the padding it would reach the heads and, through the cells, later calls.
void clear_padding(std::size_t rows, std::size_t width, std::size_t padded, float* cells, float* hidden) {
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = width; c < padded; ++c)
      cells[r * padded + c] = hidden[tiled_offset(r, c / kLanes * kLanes, padded) + c % kLanes] = 0.0f;
}

}  // namespace

struct PolicyRecurrence::Work {
  struct Scratch {
    AlignedBuffer<float> inputs, gates, cells, hidden, heads;
  };

  const PolicyRecurrenceConfig& config_;
  const KernelTable& kernels_;
  std::shared_ptr<ThreadPool> pool_;
  PackedLinear gates_;  // of features and hidden state side by side
  PackedLinear heads_;  // the value, then from column 16 on the actions' logits
  InUse in_use_;
  Scratch scratch_;  // of the call that holds it

  void run_in(Scratch& scratch, const RecurrenceStep& step, const std::function<bool()>& stop) const;
};

void PolicyRecurrenceConfig::validate() const {
  constexpr std::size_t kLargestSize = std::size_t{1} << 20;
  const std::pair<const char*, std::size_t> sizes[] = {
      {"features", features}, {"the LSTM's width", width}, {"actions", actions}};
  for (const auto& [name, size] : sizes)
    if (size < 1 || size > kLargestSize)
      throw std::invalid_argument(std::string(name) + " must be in [1, " + std::to_string(kLargestSize) +
                                  "], not " + std::to_string(size));
}

PolicyRecurrence::PolicyRecurrence(const PolicyRecurrenceConfig& config, const KernelTable& kernels,
                                   const FindWeight& find, std::shared_ptr<ThreadPool> pool)
    : config_(config), work_(new Work{config_, kernels, std::move(pool), {}, {}, {}, {}}) {
  const DefaultFloatEnvironment environment;
  config.validate();
  const std::size_t width = config.width, padded = round_up(width, kLanes);
  const std::size_t inputs = round_up(config.features, kLanes);
  const float* of_features = find("lstm.weight_ih", {4 * width, config.features});
  const float* of_hidden = find("lstm.weight_hh", {4 * width, width});
  const float* bias_features = find("lstm.bias_ih", {4 * width});
  const float* bias_hidden = find("lstm.bias_hh", {4 * width});
  std::vector<float> bias(4 * width);
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = bias_features[i] + bias_hidden[i];
  const Padding gate{width, padded}, dense{1, 1};
  Packer gates(kernels.panel_vectors, inputs + padded, 4 * padded);
  gates.add(of_features, bias.data(), 4 * width, config.features, 0, gate, dense);
  gates.add(of_hidden, bias.data(), 4 * width, width, 0, gate, {1, 1, inputs});
  work_->gates_ = gates.take(kernels, Precision::kFloat);
  Packer heads(kernels.panel_vectors, padded, kLanes + round_up(config.actions, kLanes));
  heads.add(find("critic_linear.weight", {1, width}), find("critic_linear.bias", {1}), 1, width, 0, dense,
            dense);
  heads.add(find("actor_linear.weight", {config.actions, width}), find("actor_linear.bias", {config.actions}),
            config.actions, width, kLanes, dense, dense);
  work_->heads_ = heads.take(kernels, Precision::kFloat);
}

PolicyRecurrence::~PolicyRecurrence() = default;

void PolicyRecurrence::run(const RecurrenceStep& step, const std::function<bool()>& stop) {
  if (step.batch == 0) return;
  const Turn turn(work_->in_use_);
  if (turn.from_parent()) abandon(work_->scratch_);
  Work::Scratch own;
  work_->run_in(turn.mine() ? work_->scratch_ : own, step, stop);
}

void PolicyRecurrence::Work::run_in(Scratch& scratch, const RecurrenceStep& step,
                                    const std::function<bool()>& stop) const {
  const std::size_t batch = step.batch, width = config_.width, padded = round_up(width, kLanes);
  float* inputs = room_for(scratch.inputs, tiled_size(batch, gates_.inner));
  float* gates = room_for(scratch.gates, batch * gates_.columns);
  float* cells = room_for(scratch.cells, batch * padded);
  float* hidden = room_for(scratch.hidden, tiled_size(batch, padded));
  float* heads = room_for(scratch.heads, batch * heads_.columns);
  tile(step.features, batch, config_.features, 0, gates_.inner, inputs);
  tile(step.hidden, batch, width, gates_.inner - padded, gates_.inner, inputs);
  for (std::size_t r = 0; r < batch; ++r) std::copy_n(step.cells + r * width, width, cells + r * padded);
  const std::size_t vectors = gates_.columns / kLanes, panel = kernels_.panel_vectors;
  const std::size_t panels = (vectors + panel - 1) / panel;
  const std::size_t parts = std::clamp<std::size_t>(panels / kLeastPanels, 1, pool_->threads());
  const auto multiply = [&](std::size_t part, std::size_t, TaskContext& context) {
    context.check();
    const std::size_t first = panels * part / parts * panel;
    const std::size_t end = std::min(panels * (part + 1) / parts * panel, vectors);
    kernels_.linear_float(
        {inputs, batch, gates_.inner, gates_.weights.data() + first * kLanes * gates_.inner * sizeof(float),
         gates_.bias.data() + first * kLanes, (end - first) * kLanes, Activation::kNone, nullptr,
         gates + first * kLanes, kTileRows * gates_.columns, gates_.columns, kLanes});
  };
  pool_->run(parts, multiply, stop);
  const auto finish = [&](std::size_t, std::size_t, TaskContext&) {
    kernels_.lstm_cell({gates, batch, padded, cells, hidden});
    clear_padding(batch, width, padded, cells, hidden);
    kernels_.linear_float({hidden, batch, padded, heads_.weights.data(), heads_.bias.data(), heads_.columns,
                           Activation::kNone, nullptr, heads, kTileRows * heads_.columns, heads_.columns,
                           kLanes});
  };
  pool_->run(1, finish, stop);
  for (std::size_t r = 0; r < batch; ++r) {
    std::copy_n(cells + r * padded, width, step.next_cells + r * width);
    for (std::size_t c = 0; c < width; c += kLanes)
      std::copy_n(hidden + tiled_offset(r, c, padded), std::min(kLanes, width - c),
                  step.next_hidden + r * width + c);
    step.values[r] = heads[r * heads_.columns];
    std::copy_n(heads + r * heads_.columns + kLanes, config_.actions, step.logits + r * config_.actions);
  }
}

}  // namespace iris_fast
