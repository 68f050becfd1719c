#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "bindings.hpp"
#include "iris_fast/frames.hpp"
#include "iris_fast/packing.hpp"
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
  auto model = std::make_shared<FrameModel>(
      config, kernels_for(simd), decoder,
      [&](const std::string& name, const Shape& shape) { return named.data(name, shape); });
  named.require_all_used();
  return model;
}

py::array_t<float> decode(FrameCodec& codec, const py::array& tokens, bool remember) {
  const FrameModelConfig& config = codec.model().config();
  const std::size_t batch = batch_of(tokens, "tokens");
  const auto checked = require_shape<std::int64_t>(tokens, "tokens", {batch, config.tokens_per_frame()});
  py::array_t<float> frames(Shape{batch, config.frame_channels, config.resolution, config.resolution});
  const std::int64_t* from = checked.data();
  float* to = frames.mutable_data();
  without_gil([&](const std::function<bool()>& stop) {
    if (remember)
      codec.decode_remembered(from, batch, to, stop);
    else
      codec.decode(from, batch, to, stop);
  });
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

}  // namespace
}  // namespace iris_fast

void bind_frames(py::module_& module) {
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
      .def_property_readonly("simd", &FrameModel::simd);

  py::class_<FrameCodec>(
      module, "FrameCodec",
      "Encodes and decodes batches of frames; nothing depends on threads or on group_size.")
      .def(py::init([](std::shared_ptr<FrameModel> model, std::shared_ptr<ThreadPool> pool,
                       std::size_t group_size, std::size_t memo_bytes) {
             return std::make_unique<FrameCodec>(std::move(model), std::move(pool), group_size, memo_bytes);
           }),
           py::arg("model").none(false), py::arg("pool").none(false), py::kw_only(), "group_size"_a = 0,
           "memo_bytes"_a = FrameCodec::kMemoBytes)
      .def("decode", &decode, "tokens"_a, py::kw_only(), "remember"_a = false,
           "Frames (batch, channels, resolution, resolution) float32 in [0, 1] of tokens (batch, slots)\n"
           "int64; with `remember`, each distinct row decoded once while its frame fits into memo_bytes.")
      .def_property_readonly("remembered", &FrameCodec::remembered, "Frames remembered.")
      .def("encode", &encode, "frames"_a,
           "Latents (batch, slots, embed_dim) float32, before quantization, of frames (batch, channels,\n"
           "resolution, resolution) float32 in [0, 1].")
      .def("tokenize", &tokenize, "frames"_a,
           "Tokens (batch, slots) int64 of such frames: the codewords nearest to the latents, the first of "
           "several.");
}
