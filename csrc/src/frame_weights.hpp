// The tokenizer's weights (docs/iris.md, part 3), packed once for one SIMD level.
#pragma once

#include <cstddef>
#include <optional>
#include <variant>
#include <vector>

#include "aligned_buffer.hpp"
#include "iris_fast/frames.hpp"
#include "kernel_table.hpp"
#include "packed_layers.hpp"

namespace iris_fast {

struct ResidualLayer {
  PackedGroupNorm norm1;
  Convolution conv1;
  PackedGroupNorm norm2;
  Convolution conv2;
  std::optional<PackedProduct> shortcut;  // where the width changes
};

struct AttentionLayer {
  PackedGroupNorm norm;
  PackedProduct qkv, projection;
};

struct HalvingLayer {
  PackedProduct conv;  // 3 x 3, stride 2
};

struct DoublingLayer {
  Convolution conv;  // 3 x 3 on the enlarged input
};

// One layer and the size of the maps that it reads; a map has height = width = `resolution`.
struct FrameLayer {
  std::variant<ResidualLayer, AttentionLayer, HalvingLayer, DoublingLayer> layer;
  std::size_t resolution;
  std::size_t channels;  // padded
  std::size_t out_resolution;
  std::size_t out_channels;  // padded

  std::size_t in_floats() const { return resolution * resolution * channels; }
  std::size_t out_floats() const { return out_resolution * out_resolution * out_channels; }
};

// Frames to latents and tokens.
struct PackedEncoder {
  PackedProduct conv_in;  // 3 x 3, input channels not padded
  std::vector<FrameLayer> layers;
  PackedGroupNorm norm_out;
  PackedProduct conv_out;   // 3 x 3
  PackedProduct pre_quant;  // 1 x 1
  PackedCodebook codebook;
};

// Tokens to frames.
struct PackedDecoder {
  // A codeword through the 1 x 1 convolution and one tap of the first 3 x 3 convolution: (vocabulary, 9,
  // width).
  AlignedBuffer<float> table;
  AlignedBuffer<float> bias;  // of the 3 x 3 convolution
  std::size_t width;          // padded
  std::vector<FrameLayer> layers;
  PackedGroupNorm norm_out;
  PackedProduct conv_out;  // of one position to its share in the 9 around it: columns (tap, channel)
  std::vector<float> conv_out_bias;
};

class FrameWeights {
 public:
  // As of FrameModel.
  FrameWeights(const FrameModelConfig& config, const KernelTable& kernels, Precision decoder,
               const FindWeight& find);

  const FrameModelConfig& config() const { return config_; }
  const KernelTable& table() const { return table_; }
  const FrameKernels& kernels() const { return *table_.frames; }
  const PackedEncoder& encoder() const { return encoder_; }
  const PackedDecoder& decoder() const { return decoder_; }
  // (frame channels, resolution, resolution) in [0, 1]; null where there is none.
  const float* background() const { return background_.empty() ? nullptr : background_.data(); }

 private:
  FrameModelConfig config_;
  const KernelTable& table_;
  PackedEncoder encoder_;
  PackedDecoder decoder_;
  std::vector<float> background_;
};

}  // namespace iris_fast
