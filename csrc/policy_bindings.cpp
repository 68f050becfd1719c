#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "bindings.hpp"
#include "iris_fast/packing.hpp"
#include "iris_fast/policy.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace iris_fast {
namespace {

using Shape = std::vector<std::size_t>;

std::unique_ptr<PolicyFeatures> make_policy(const py::dict& weights, std::shared_ptr<ThreadPool> pool,
                                            std::size_t resolution, std::size_t convolutions,
                                            std::size_t group_size, const std::string& simd) {
  if (convolutions < 1 || convolutions > 10)
    throw py::value_error("convolutions must be in [1, 10], not " + std::to_string(convolutions));
  WeightArguments named(weights);
  PolicyFeaturesConfig config{resolution, named.axis("conv1.weight", 4, 1), {}};
  for (std::size_t i = 1; i <= convolutions; ++i)
    config.widths.push_back(named.axis("conv" + std::to_string(i) + ".weight", 4, 0));
  const auto find = [&](const std::string& name, const Shape& shape) { return named.data(name, shape); };
  auto policy =
      std::make_unique<PolicyFeatures>(config, kernels_for(simd), find, std::move(pool), group_size);
  named.require_all_used();
  return policy;
}

py::array_t<float> policy_features(PolicyFeatures& policy, const py::array& frames) {
  const PolicyFeaturesConfig& config = policy.config();
  const std::size_t batch = batch_of(frames, "frames");
  const auto checked = require_shape<float>(
      frames, "frames", {batch, config.frame_channels, config.resolution, config.resolution});
  py::array_t<float> features(Shape{batch, config.feature_count()});
  const float* from = checked.data();
  float* to = features.mutable_data();
  without_gil([&](const std::function<bool()>& stop) { policy.compute(from, batch, to, stop); });
  return features;
}

std::unique_ptr<PolicyRecurrence> make_recurrence(const py::dict& weights, std::shared_ptr<ThreadPool> pool,
                                                  const std::string& simd) {
  WeightArguments named(weights);
  const PolicyRecurrenceConfig config{named.axis("lstm.weight_ih", 2, 1), named.axis("lstm.weight_hh", 2, 1),
                                      named.axis("actor_linear.weight", 2, 0)};
  const auto find = [&](const std::string& name, const Shape& shape) { return named.data(name, shape); };
  auto recurrence = std::make_unique<PolicyRecurrence>(config, kernels_for(simd), find, std::move(pool));
  named.require_all_used();
  return recurrence;
}

py::tuple recur(PolicyRecurrence& recurrence, const py::array& features, const py::array& hidden,
                const py::array& cells) {
  const PolicyRecurrenceConfig& config = recurrence.config();
  const std::size_t batch = batch_of(features, "features");
  const auto checked = require_shape<float>(features, "features", {batch, config.features});
  const auto checked_hidden = require_shape<float>(hidden, "hidden", {batch, config.width});
  const auto checked_cells = require_shape<float>(cells, "cells", {batch, config.width});
  py::array_t<float> next_hidden(Shape{batch, config.width}), next_cells(Shape{batch, config.width});
  py::array_t<float> logits(Shape{batch, config.actions}), values(Shape{batch});
  const RecurrenceStep step{checked.data(),
                            checked_hidden.data(),
                            checked_cells.data(),
                            batch,
                            next_hidden.mutable_data(),
                            next_cells.mutable_data(),
                            logits.mutable_data(),
                            values.mutable_data()};
  without_gil([&](const std::function<bool()>& stop) { recurrence.run(step, stop); });
  return py::make_tuple(next_hidden, next_cells, logits, values);
}

}  // namespace
}  // namespace iris_fast

void bind_policy(py::module_& module) {
  using namespace iris_fast;
  using namespace pybind11::literals;
  py::class_<PolicyFeatures>(
      module, "PolicyFeatures",
      "The policy's convolutions (conv1 and so on of its state dict), copied and packed.\n"
      "KeyError, TypeError or ValueError naming a weight that does not fit.")
      .def(py::init(&make_policy), "weights"_a, py::arg("pool").none(false), py::kw_only(), "resolution"_a,
           "convolutions"_a = 4, "group_size"_a = 0, "simd"_a = "auto")
      .def("compute", &policy_features, "frames"_a,
           "Features (batch, count) float32 of frames (batch, channels, resolution, resolution) float32 in "
           "[0, 1].");

  py::class_<PolicyRecurrence>(
      module, "PolicyRecurrence",
      "The policy's LSTM cell and its two heads (lstm., actor_linear. and critic_linear. of its state dict), "
      "copied\n"
      "and packed. KeyError, TypeError or ValueError naming a weight that does not fit.")
      .def(py::init(&make_recurrence), "weights"_a, py::arg("pool").none(false), py::kw_only(),
           "simd"_a = "auto")
      .def("step", &recur, "features"_a, "hidden"_a, "cells"_a,
           "Next hidden and cell state (batch, width), logits (batch, actions) and values (batch,), float32, "
           "from\n"
           "features (batch, count) and the state.");
}
