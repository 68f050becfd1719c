#include "frame_bindings.hpp"

#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "iris_fast/float_environment.hpp"
#include "iris_fast/frame_codec.hpp"
#include "iris_fast/policy_features.hpp"
#include "iris_fast/policy_recurrence.hpp"
#include "iris_fast/simd_level.hpp"
#include "weight_arguments.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace iris_fast {
namespace {

using Shape = std::vector<std::size_t>;

std::shared_ptr<FrameModel> make_model(const py::dict& weights, std::size_t resolution,
                                       const std::vector<std::size_t>& widths, std::size_t residual_blocks,
                                       const std::vector<std::size_t>& attention_resolutions,
                                       std::size_t norm_groups, float norm_epsilon, const std::string& simd,
                                       const std::string& decoder_dtype) {
  const DefaultFloatEnvironment environment;
  if (decoder_dtype != "float32" && decoder_dtype != "int8")
    throw py::value_error("decoder_dtype must be \"float32\" or \"int8\", not \"" + decoder_dtype + "\"");
  const Precision decoder = decoder_dtype == "int8" ? Precision::kInt8 : Precision::kFloat;
  WeightArguments named(weights);
  const FrameModelConfig config{resolution,
                                named.axis("encoder.conv_in.weight", 4, 1),
                                named.axis("encoder.conv_in.weight", 4, 0),
                                widths,
                                residual_blocks,
                                attention_resolutions,
                                named.axis("pre_quant_conv.weight", 4, 1),
                                named.axis("embedding.weight", 2, 1),
                                named.axis("embedding.weight", 2, 0),
                                norm_groups,
                                norm_epsilon,
                                named.contains("background")};
  config.validate();
  auto model = std::make_shared<FrameModel>(
      config, kernels_for(simd), decoder,
      [&](const std::string& name, const Shape& shape) { return named.data(name, shape); });
  named.require_all_used();
  return model;
}

std::size_t batch_of(const py::array& array, const char* name) {
  if (array.ndim() == 0) throw py::value_error(std::string(name) + " must have a batch dimension");
  return static_cast<std::size_t>(array.shape(0));
}

py::array_t<float> decode(FrameCodec& codec, const py::array& tokens) {
  const FrameModelConfig& config = codec.model().config();
  const std::size_t batch = batch_of(tokens, "tokens");
  const auto checked = require_shape<std::int64_t>(tokens, "tokens", {batch, config.tokens_per_frame()});
  py::array_t<float> frames(Shape{batch, config.frame_channels, config.resolution, config.resolution});
  const std::int64_t* from = checked.data();
  float* to = frames.mutable_data();
  without_gil([&](const std::function<bool()>& stop) { codec.decode(from, batch, to, stop); });
  return frames;
}

auto require_frames(const py::array& frames, const FrameModelConfig& config) {
  return require_shape<float>(
      frames, "frames",
      {batch_of(frames, "frames"), config.frame_channels, config.resolution, config.resolution});
}

py::array_t<float> encode(FrameCodec& codec, const py::array& frames) {
  const FrameModelConfig& config = codec.model().config();
  const auto checked = require_frames(frames, config);
  const auto batch = static_cast<std::size_t>(checked.shape(0));
  py::array_t<float> latents(Shape{batch, config.tokens_per_frame(), config.embed_dim});
  const float* from = checked.data();
  float* to = latents.mutable_data();
  without_gil([&](const std::function<bool()>& stop) { codec.encode(from, batch, to, stop); });
  return latents;
}

py::array_t<std::int64_t> tokenize(FrameCodec& codec, const py::array& frames) {
  const FrameModelConfig& config = codec.model().config();
  const auto checked = require_frames(frames, config);
  const auto batch = static_cast<std::size_t>(checked.shape(0));
  py::array_t<std::int64_t> tokens(Shape{batch, config.tokens_per_frame()});
  const float* from = checked.data();
  std::int64_t* to = tokens.mutable_data();
  without_gil([&](const std::function<bool()>& stop) { codec.tokenize(from, batch, to, stop); });
  return tokens;
}

std::unique_ptr<PolicyFeatures> make_policy(const py::dict& weights, std::shared_ptr<ThreadPool> pool,
                                            std::size_t resolution, std::size_t convolutions,
                                            std::size_t group_size, const std::string& simd) {
  if (convolutions < 1 || convolutions > 10)
    throw py::value_error("convolutions must be in [1, 10], not " + std::to_string(convolutions));
  const DefaultFloatEnvironment environment;
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
  const DefaultFloatEnvironment environment;
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

void bind_frame_codec(py::module_& module) {
  using namespace iris_fast;
  using namespace pybind11::literals;
  py::class_<FrameModel, std::shared_ptr<FrameModel>>(
      module, "FrameModel",
      "The tokenizer's weights (its state dict as float32 NumPy arrays), copied and packed for a SIMD level\n"
      "(\"auto\" for the fastest). KeyError, TypeError or ValueError naming a weight that is missing or of\n"
      "another dtype, layout or shape. `decoder_dtype` \"int8\" multiplies integers in the decoder's 3 x 3\n"
      "convolutions, of a scale for each frame's map and each output: ValueError for weights that are not "
      "finite.")
      .def(py::init(&make_model), "weights"_a, py::kw_only(), "resolution"_a, "widths"_a, "residual_blocks"_a,
           "attention_resolutions"_a, "norm_groups"_a, "norm_epsilon"_a, "simd"_a = "auto",
           "decoder_dtype"_a = "float32")
      .def_property_readonly("simd", [](const FrameModel& model) { return model.table().name; });

  py::class_<FrameCodec>(
      module, "FrameCodec",
      "Encodes and decodes batches of frames; nothing depends on threads or on group_size.")
      .def(py::init([](std::shared_ptr<FrameModel> model, std::shared_ptr<ThreadPool> pool,
                       std::size_t group_size) {
             return std::make_unique<FrameCodec>(std::move(model), std::move(pool), group_size);
           }),
           py::arg("model").none(false), py::arg("pool").none(false), py::kw_only(), "group_size"_a = 0)
      .def("decode", &decode, "tokens"_a,
           "Frames (batch, channels, resolution, resolution) float32 in [0, 1] of tokens (batch, slots) "
           "int64.")
      .def("encode", &encode, "frames"_a,
           "Latents (batch, slots, embed_dim) float32, before quantization, of frames (batch, channels,\n"
           "resolution, resolution) float32 in [0, 1].")
      .def("tokenize", &tokenize, "frames"_a,
           "Tokens (batch, slots) int64 of such frames: the codewords nearest to the latents, the first of "
           "several.");

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
