#include "frame_weights.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "float_environment.hpp"
#include "frame_packing.hpp"

namespace iris_fast {
namespace {

// Far above any model in use, and low enough that no product of sizes overflows.
constexpr std::size_t kLargestWidth = std::size_t{1} << 14;
constexpr std::size_t kLargestResolution = 1024;
constexpr std::size_t kMostLevels = 10;

void require_size(const std::string& name, std::size_t value, std::size_t most) {
  if (value < 1 || value > most)
    throw std::invalid_argument(name + " must be in [1, " + std::to_string(most) + "], not " +
                                std::to_string(value));
}

std::size_t padded(std::size_t channels) { return round_up(channels, kLanes); }

// Adds the layers of an encoder or a decoder one after the other.
class LayerBuilder {
 public:
  LayerBuilder(const FrameModelConfig& config, const FramePacker& pack, Precision precision,
               std::size_t resolution, std::size_t channels)
      : config_(config), pack_(pack), precision_(precision), resolution_(resolution), channels_(channels) {}

  void residual(const std::string& name, std::size_t width) {
    const Winograd kind = FramePacker::kind_for(resolution_);
    ResidualLayer layer{norm(name + ".norm1", channels_),
                        convolution(name + ".conv1", width, channels_, kind), norm(name + ".norm2", width),
                        convolution(name + ".conv2", width, width, kind), std::nullopt};
    if (width != channels_) layer.shortcut = pack_.pointwise(name + ".nin_shortcut", width, channels_);
    add(std::move(layer), resolution_, width);
  }

  void attention(const std::string& name) {
    const std::vector<std::string> qkv{name + ".q", name + ".k", name + ".v"};
    add(AttentionLayer{norm(name + ".norm", channels_), pack_.pointwise(qkv, channels_, channels_),
                       pack_.pointwise(name + ".proj_out", channels_, channels_)},
        resolution_, channels_);
  }

  void halving(const std::string& name) {
    add(HalvingLayer{pack_.lines(name + ".conv", channels_, channels_, padded(channels_))}, resolution_ / 2,
        channels_);
  }

  void doubling(const std::string& name) {
    add(DoublingLayer{convolution(name + ".conv", channels_, channels_, Winograd::kEnlarged)},
        2 * resolution_, channels_);
  }

  void level(const std::string& name, std::size_t level, std::size_t blocks) {
    const auto& attends = config_.attention_resolutions;
    const bool attention_here = std::find(attends.begin(), attends.end(), resolution_) != attends.end();
    for (std::size_t i = 0; i < blocks; ++i) {
      residual(name + ".block." + std::to_string(i), config_.widths[level]);
      if (attention_here) attention(name + ".attn." + std::to_string(i));
    }
  }

  void middle(const std::string& name) {
    residual(name + ".block_1", channels_);
    attention(name + ".attn_1");
    residual(name + ".block_2", channels_);
  }

  std::vector<FrameLayer> take() { return std::move(layers_); }

 private:
  Convolution convolution(const std::string& name, std::size_t outputs, std::size_t inputs,
                          Winograd kind) const {
    if (precision_ == Precision::kInt8)
      return pack_.integers(name, outputs, inputs, kind == Winograd::kEnlarged);
    return pack_.winograd(name, outputs, inputs, kind);
  }

  PackedGroupNorm norm(const std::string& name, std::size_t channels) const {
    return pack_.norm(name, channels, config_.norm_groups, config_.norm_epsilon);
  }

  template <typename Layer>
  void add(Layer layer, std::size_t resolution, std::size_t channels) {
    layers_.push_back({std::move(layer), resolution_, padded(channels_), resolution, padded(channels)});
    resolution_ = resolution;
    channels_ = channels;
  }

  const FrameModelConfig& config_;
  const FramePacker& pack_;
  Precision precision_;
  std::size_t resolution_, channels_;
  std::vector<FrameLayer> layers_;
};

PackedEncoder pack_encoder(const FrameModelConfig& config, const FramePacker& pack) {
  const std::size_t levels = config.widths.size(), last = config.widths.back();
  LayerBuilder builder(config, pack, Precision::kFloat, config.resolution, config.stem_width);
  for (std::size_t level = 0; level < levels; ++level) {
    const std::string name = "encoder.down." + std::to_string(level);
    builder.level(name, level, config.residual_blocks);
    if (level + 1 < levels) builder.halving(name + ".downsample");
  }
  builder.middle("encoder.mid");
  return {pack.lines("encoder.conv_in", config.stem_width, config.frame_channels, config.frame_channels),
          builder.take(),
          pack.norm("encoder.norm_out", last, config.norm_groups, config.norm_epsilon),
          pack.lines("encoder.conv_out", config.latent_channels, last, padded(last)),
          pack.pointwise("pre_quant_conv", config.embed_dim, config.latent_channels),
          pack.codebook("embedding.weight", config.vocabulary, config.embed_dim)};
}

// out (rows, columns of `layer`) = x (rows, stride) · weights + bias.
AlignedBuffer<float> product(const FrameKernels& kernels, const PackedProduct& layer, const float* x,
                             std::size_t rows, std::size_t stride) {
  std::vector<std::size_t> offsets(rows);
  for (std::size_t r = 0; r < rows; ++r) offsets[r] = r * stride;
  const std::size_t tap = 0;
  AlignedBuffer<float> out(rows * layer.columns);
  kernels.product({x, offsets.data(), rows, &tap, 1, layer.inner, layer.weights.data(), layer.columns,
                   layer.bias.data(), nullptr, out.data(), layer.columns});
  return out;
}

PackedDecoder pack_decoder(const FrameModelConfig& config, const FramePacker& pack, Precision precision,
                           const FrameKernels& kernels, const FindWeight& find) {
  const std::size_t last = config.widths.back(), channels = config.frame_channels;
  PackedDecoder decoder;
  decoder.width = padded(last);
  const PackedProduct post_quant =
      pack.pointwise("post_quant_conv", config.latent_channels, config.embed_dim);
  const auto latents =
      product(kernels, post_quant, find("embedding.weight", {config.vocabulary, config.embed_dim}),
              config.vocabulary, config.embed_dim);
  const PackedProduct taps = pack.shares("decoder.conv_in", last, config.latent_channels, decoder.width);
  decoder.table = product(kernels, taps, latents.data(), config.vocabulary, post_quant.columns);
  decoder.bias = zeros(decoder.width);
  std::copy_n(find("decoder.conv_in.bias", {last}), last, decoder.bias.data());
  LayerBuilder builder(config, pack, precision, config.latent_resolution(), last);
  builder.middle("decoder.mid");
  for (std::size_t level = config.widths.size(); level-- > 0;) {
    const std::string name = "decoder.up." + std::to_string(level);
    builder.level(name, level, config.residual_blocks + 1);
    if (level > 0) builder.doubling(name + ".upsample");
  }
  decoder.layers = builder.take();
  decoder.norm_out =
      pack.norm("decoder.norm_out", config.widths.front(), config.norm_groups, config.norm_epsilon);
  decoder.conv_out = pack.shares("decoder.conv_out", channels, config.widths.front(), channels);
  const float* bias = find("decoder.conv_out.bias", {channels});
  decoder.conv_out_bias.assign(bias, bias + channels);
  return decoder;
}

}  // namespace

void FrameModelConfig::validate() const {
  require_size("resolution", resolution, kLargestResolution);
  require_size("frame_channels", frame_channels, kLanes);
  require_size("the number of levels", widths.size(), kMostLevels);
  require_size("residual_blocks", residual_blocks, 64);
  require_size("latent_channels", latent_channels, kLargestWidth);
  require_size("embed_dim", embed_dim, kLargestWidth);
  require_size("vocabulary", vocabulary, std::size_t{1} << 20);
  require_size("norm_groups", norm_groups, kLargestWidth);
  if (resolution % (std::size_t{1} << (widths.size() - 1)) != 0)
    throw std::invalid_argument("resolution must be a multiple of 2 to the number of levels less one, got " +
                                std::to_string(resolution) + " and " + std::to_string(widths.size()) +
                                " levels");
  std::vector<std::size_t> all = widths;
  all.push_back(stem_width);
  for (const std::size_t width : all) {
    require_size("a level's width", width, kLargestWidth);
    if (width % norm_groups != 0)
      throw std::invalid_argument("a level's width must be a multiple of norm_groups, got " +
                                  std::to_string(width) + " and " + std::to_string(norm_groups));
  }
  if (!(norm_epsilon >= 0.0f) || !std::isfinite(norm_epsilon))
    throw std::invalid_argument("norm_epsilon must be finite and not negative, got " +
                                std::to_string(norm_epsilon));
}

FrameWeights::FrameWeights(const FrameModelConfig& config, const KernelTable& kernels, Precision decoder,
                           const FindWeight& find)
    : config_(config), table_(kernels) {
  config.validate();
  const FramePacker pack(kernels.frames->panel_vectors, find);
  encoder_ = pack_encoder(config_, pack);
  decoder_ = pack_decoder(config_, pack, decoder, *kernels.frames, find);
  if (config_.has_background) {
    const std::size_t size = config_.resolution;
    const float* background = find("background", {config_.frame_channels, size, size});
    background_.assign(background, background + config_.frame_channels * size * size);
  }
}

FrameModel::FrameModel(const FrameModelConfig& config, const KernelTable& kernels, Precision decoder,
                       const FindWeight& find) {
  const DefaultFloatEnvironment environment;
  weights_ = std::make_unique<const FrameWeights>(config, kernels, decoder, find);
}

FrameModel::~FrameModel() = default;

const FrameModelConfig& FrameModel::config() const { return weights_->config(); }

const char* FrameModel::simd() const { return weights_->table().name; }

}  // namespace iris_fast
