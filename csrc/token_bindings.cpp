#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "bindings.hpp"
#include "iris_fast/packing.hpp"
#include "iris_fast/thread_pool.hpp"
#include "iris_fast/tokens.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace iris_fast {
namespace {

Precision precision_of_weights(const std::string& dtype) {
  if (dtype == "float32") return Precision::kFloat;
  if (dtype == "float16") return Precision::kHalf;
  if (dtype == "int8") return Precision::kInt8;
  throw py::value_error("weights_dtype must be \"float32\", \"float16\" or \"int8\", not \"" + dtype + "\"");
}

Precision precision_of_cache(const std::string& dtype) {
  if (dtype == "float32") return Precision::kFloat;
  if (dtype == "float16") return Precision::kHalf;
  throw py::value_error("kv_dtype must be \"float32\" or \"float16\", not \"" + dtype + "\"");
}

std::shared_ptr<TokenModel> make_model(const py::dict& weights, std::size_t layers, std::size_t heads,
                                       std::size_t tokens_per_block, std::size_t max_blocks,
                                       bool block_causal, float layer_norm_epsilon, const std::string& simd,
                                       const std::string& weights_dtype) {
  WeightArguments named(weights);
  const auto rows = [&](const std::string& name, py::ssize_t axis = 0) { return named.axis(name, 2, axis); };
  const TokenModelConfig config{tokens_per_block,
                                max_blocks,
                                layers,
                                heads,
                                rows("pos_emb.weight", 1),
                                rows("embedder.embedding_tables.1.weight"),
                                rows("embedder.embedding_tables.0.weight"),
                                rows("head_rewards.head_module.2.weight"),
                                rows("head_ends.head_module.2.weight"),
                                block_causal,
                                layer_norm_epsilon};
  auto model =
      std::make_shared<TokenModel>(config, kernels_for(simd), precision_of_weights(weights_dtype),
                                   [&](const std::string& name, const std::vector<std::size_t>& shape) {
                                     return named.data(name, shape);
                                   });
  named.require_all_used();
  return model;
}

void restart(TokenDream& dream, const py::array& first_tokens, std::uint64_t seed, std::uint32_t first_row) {
  const auto tokens = require_shape<std::int64_t>(first_tokens, "first_tokens",
                                                  {dream.batch(), dream.model().config().slots()});
  dream.restart(tokens.data(), seed, first_row);
}

std::unique_ptr<TokenDream> make_dream(std::shared_ptr<const TokenModel> model,
                                       std::shared_ptr<ThreadPool> pool, const py::array& first_tokens,
                                       std::uint64_t seed, std::uint32_t first_row,
                                       const DrawPurposes& purposes, const std::string& kv_dtype,
                                       std::size_t group_size) {
  const py::ssize_t dimensions = 2;
  const auto batch =
      static_cast<std::size_t>(require<std::int64_t>(first_tokens, "first_tokens", dimensions).shape(0));
  auto dream = std::make_unique<TokenDream>(std::move(model), std::move(pool), batch,
                                            precision_of_cache(kv_dtype), group_size, purposes);
  restart(*dream, first_tokens, seed, first_row);
  return dream;
}

template <typename T>
T* data_of(std::optional<py::array_t<T>>& array) {
  return array ? array->mutable_data() : nullptr;
}

void replace(TokenDream& dream, const py::array& tokens) {
  dream.replace(
      require_shape<std::int64_t>(tokens, "tokens", {dream.batch(), dream.model().config().slots()}).data());
}

py::tuple step(TokenDream& dream, const py::array& actions, bool generate_frame, bool want_logits,
               const std::optional<py::array>& next_tokens) {
  const TokenModelConfig& config = dream.model().config();
  const std::size_t batch = dream.batch();
  const auto actions_buffer = require_shape<std::int64_t>(actions, "actions", {batch});
  std::optional<py::array_t<std::int64_t>> given;
  if (next_tokens)
    given.emplace(require_shape<std::int64_t>(*next_tokens, "next_tokens", {batch, config.slots()}));
  py::array_t<std::int64_t> rewards(batch), ends(batch);
  std::optional<py::array_t<std::int64_t>> tokens;
  std::optional<py::array_t<float>> logits_rewards, logits_ends, logits_observations;
  using Shape = std::vector<std::size_t>;
  if (generate_frame) tokens.emplace(Shape{batch, config.slots()});
  if (want_logits) {
    logits_rewards.emplace(Shape{batch, config.reward_classes});
    logits_ends.emplace(Shape{batch, config.end_classes});
    if (generate_frame) logits_observations.emplace(Shape{batch, config.slots(), config.vocabulary});
  }
  const DreamOutput output{rewards.mutable_data(),  ends.mutable_data(),  data_of(tokens),
                           data_of(logits_rewards), data_of(logits_ends), data_of(logits_observations)};
  const std::int64_t* actions_data = actions_buffer.data();
  const std::int64_t* given_data = given ? given->data() : nullptr;
  without_gil([&](const std::function<bool()>& stop) { dream.step(actions_data, output, stop, given_data); });
  return py::make_tuple(rewards, ends, tokens, logits_rewards, logits_ends, logits_observations);
}

}  // namespace
}  // namespace iris_fast

void bind_tokens(py::module_& module) {
  using namespace iris_fast;
  using namespace pybind11::literals;
  py::class_<TokenModel, std::shared_ptr<TokenModel>>(
      module, "TokenModel",
      "The world model's weights (its state dict as float32 NumPy arrays), copied and packed for a SIMD "
      "level\n"
      "(\"auto\" for the fastest). KeyError, TypeError or ValueError naming a weight that is missing or of\n"
      "another dtype, layout or shape. `weights_dtype` \"float16\" keeps the linear layers' matrices in "
      "half\n"
      "precision: ValueError for one that it cannot hold. \"int8\" keeps those of the Transformer's blocks "
      "as\n"
      "integers of a scale for each output, and multiplies them with integers of a scale for each row.")
      .def(py::init(&make_model), "weights"_a, py::kw_only(), "num_layers"_a, "num_heads"_a,
           "tokens_per_block"_a, "max_blocks"_a, "block_causal"_a, "layer_norm_epsilon"_a, "simd"_a = "auto",
           "weights_dtype"_a = "float32")
      .def_property_readonly("simd", &TokenModel::simd);

  py::class_<TokenDream>(
      module, "TokenDream",
      "A batch of imagined episodes; nothing depends on threads or on group_size (0: chosen).")
      .def(py::init([](std::shared_ptr<TokenModel> model, std::shared_ptr<ThreadPool> pool,
                       const py::array& first_tokens, std::uint64_t seed, std::uint32_t first_row,
                       std::uint32_t purpose_reward, std::uint32_t purpose_end, std::uint32_t purpose_token,
                       const std::string& kv_dtype, std::size_t group_size) {
             return make_dream(std::move(model), std::move(pool), first_tokens, seed, first_row,
                               {purpose_reward, purpose_end, purpose_token}, kv_dtype, group_size);
           }),
           py::arg("model").none(false), py::arg("pool").none(false), "first_tokens"_a, py::kw_only(),
           "seed"_a, "first_row"_a = 0, "purpose_reward"_a, "purpose_end"_a, "purpose_token"_a,
           "kv_dtype"_a = "float32", "group_size"_a = 0)
      .def("restart", &restart, "first_tokens"_a, py::kw_only(), "seed"_a, "first_row"_a = 0,
           "Starts anew from first_tokens (batch, slots) int64, in the memory that there is.")
      .def("replace", &replace, "tokens"_a,
           "Exchanges the current frame for tokens (batch, slots) int64; what came before it stays.")
      .def(
          "step", &step, "actions"_a, py::kw_only(), "generate_frame"_a = true, "want_logits"_a = false,
          "next_tokens"_a = std::nullopt,
          "Takes actions (batch,) int64, and next_tokens (batch, slots) int64 in place of a drawn frame. "
          "Gives reward classes (batch,), end classes (batch,), tokens "
          "(batch,\n"
          "slots) or None, and, where wanted, the logits drawn from: rewards (batch, classes), ends (batch,\n"
          "classes), observations (batch, slots, vocabulary), or None. After KeyboardInterrupt: restart.")
      .def_property_readonly("steps", &TokenDream::steps)
      .def_property_readonly("length", &TokenDream::length)
      .def_property_readonly("batch", &TokenDream::batch)
      .def_property_readonly("group_size", &TokenDream::group);
}
