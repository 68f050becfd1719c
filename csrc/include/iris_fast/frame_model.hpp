// The tokenizer's weights (docs/iris.md, part 3), packed once for one SIMD level.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "iris_fast/aligned_buffer.hpp"
#include "iris_fast/kernel_table.hpp"
#include "iris_fast/packed_layers.hpp"

namespace iris_fast {

struct FrameModelConfig {
  std::size_t resolution;           // height and width of frames
  std::size_t frame_channels;       // 3 for colour
  std::size_t stem_width;           // channels after the encoder's first convolution
  std::vector<std::size_t> widths;  // channels of each level, the finest (whole frames) first
  std::size_t residual_blocks;      // of an encoder's level; a decoder's level has one more
  std::vector<std::size_t> attention_resolutions;
  std::size_t latent_channels;  // between the convolutional parts and the 1 x 1 convolutions
  std::size_t embed_dim;
  std::size_t vocabulary;
  std::size_t norm_groups;
  float norm_epsilon;
  bool has_background;  // frames are coded as their difference to the weight "background"

  std::size_t level_resolution(std::size_t level) const { return resolution >> level; }
  std::size_t latent_resolution() const { return level_resolution(widths.size() - 1); }
  std::size_t frame_floats() const { return frame_channels * resolution * resolution; }
  std::size_t tokens_per_frame() const { return latent_resolution() * latent_resolution(); }

  // Throws std::invalid_argument naming the first size that cannot be.
  void validate() const;
};

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

// Immutable once made, so that any number of threads may share it.
class FrameModel {
 public:
  // Copies the weights, by the names of the tokenizer's state dict; `decoder` is the precision of the 3 x 3
  // convolutions of the decoder's layers: kFloat or kInt8. Throws std::invalid_argument, also for weights
  // that it cannot hold.
  FrameModel(const FrameModelConfig& config, const KernelTable& kernels, Precision decoder,
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
