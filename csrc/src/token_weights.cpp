#include "token_weights.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "float_environment.hpp"
#include "linear_packing.hpp"

namespace iris_fast {
namespace {

// Far above any model in use, and low enough that no product of a layer's sizes overflows.
constexpr std::size_t kLargestSize = std::size_t{1} << 20;
constexpr std::size_t kMostLayers = 1024;

void require_size(const char* name, std::size_t value, std::size_t least, std::size_t most = kLargestSize) {
  if (value < least || value > most)
    throw std::invalid_argument(std::string(name) + " must be in [" + std::to_string(least) + ", " +
                                std::to_string(most) + "], not " + std::to_string(value));
}

// Reads and packs the layers of one model.
class Loader {
 public:
  Loader(const TokenModelConfig& config, const KernelTable& kernels, Precision precision,
         const FindWeight& find)
      : config_(config), kernels_(kernels), precision_(precision), find_(find) {}

  AlignedBuffer<float> table(const std::string& name, std::size_t rows, std::size_t width) const {
    const float* source = find_(name, {rows, width});
    const std::size_t padded = round_up(width, kLanes);
    AlignedBuffer<float> copy = zeros(rows * padded);
    for (std::size_t r = 0; r < rows; ++r) std::copy_n(source + r * width, width, copy.data() + r * padded);
    return copy;
  }

  PackedNorm norm(const std::string& name) const {
    return {vector(name + ".weight"), vector(name + ".bias")};
  }

  PackedLinear linear(const std::string& name, std::size_t outputs, std::size_t inputs,
                      Precision precision) const {
    return linear(name, outputs, inputs, {outputs, outputs}, {inputs, inputs}, outputs, inputs, precision);
  }

  PackedHead head(const std::string& name, std::size_t classes) const {
    const std::string module = name + ".head_module.";
    // A fortieth of the products, and what is drawn from: never of int8.
    const Precision precision = precision_ == Precision::kInt8 ? Precision::kFloat : precision_;
    return {linear(module + "0", config_.embed_dim, config_.embed_dim, precision),
            linear(module + "2", classes, config_.embed_dim, precision), classes};
  }

  PackedBlock block(const std::string& name) const {
    const std::size_t width = config_.embed_dim, hidden = hidden_dim(config_);
    const std::size_t attention = attention_dim(config_);
    const Padding by_heads{cache_shape(config_).head_dim, cache_shape(config_).padded_dim()};
    const Padding dense{width, width};
    Packer qkv(kernels_.panel_vectors, width, 3 * attention);
    std::size_t first = 0;
    for (const char* part : {".attn.query", ".attn.key", ".attn.value"}) {
      qkv.add(matrix(name + part + ".weight", width, width), find_(name + part + ".bias", {width}), width,
              width, first, by_heads, dense);
      first += attention;
    }
    return {norm(name + ".ln1"),
            norm(name + ".ln2"),
            qkv.take(kernels_, precision_),
            linear(name + ".attn.proj", width, width, dense, by_heads, width, attention, precision_),
            linear(name + ".mlp.0", hidden, width, precision_),
            linear(name + ".mlp.2", width, hidden, precision_)};
  }

 private:
  // A linear layer's weight; refused where the precision would make a number infinite.
  const float* matrix(const std::string& name, std::size_t outputs, std::size_t inputs) const {
    constexpr float kBeyondHalf = 65520.0f;  // which rounds to infinity
    const float* weight = find_(name, {outputs, inputs});
    for (std::size_t i = 0; precision_ != Precision::kFloat && i < outputs * inputs; ++i)
      if (precision_ == Precision::kHalf ? std::isfinite(weight[i]) && std::fabs(weight[i]) >= kBeyondHalf
                                         : !std::isfinite(weight[i]))
        throw std::invalid_argument(name + " holds " + std::to_string(weight[i]) + ", which " +
                                    (precision_ == Precision::kHalf ? "half precision" : "int8") +
                                    " cannot: keep these weights in float32");
    return weight;
  }

  AlignedBuffer<float> vector(const std::string& name) const {
    const float* source = find_(name, {config_.embed_dim});
    AlignedBuffer<float> copy = zeros(padded_dim(config_));
    std::copy_n(source, config_.embed_dim, copy.data());
    return copy;
  }

  PackedLinear linear(const std::string& name, std::size_t outputs, std::size_t inputs, Padding out,
                      Padding in, std::size_t padded_outputs, std::size_t padded_inputs,
                      Precision precision) const {
    Packer packer(kernels_.panel_vectors, padded_inputs, padded_outputs);
    packer.add(matrix(name + ".weight", outputs, inputs), find_(name + ".bias", {outputs}), outputs, inputs,
               0, out, in);
    return packer.take(kernels_, precision);
  }

  const TokenModelConfig& config_;
  const KernelTable& kernels_;
  Precision precision_;
  const FindWeight& find_;
};

}  // namespace

void TokenModelConfig::validate() const {
  require_size("tokens_per_block", tokens_per_block, 2);
  require_size("max_blocks", max_blocks, 2);
  require_size("max_tokens", max_tokens(), 4);
  require_size("layers", layers, 1, kMostLayers);
  require_size("heads", heads, 1);
  require_size("embed_dim", embed_dim, 1, std::size_t{1} << 16);
  require_size("vocabulary", vocabulary, 1);
  require_size("actions", actions, 1);
  require_size("reward_classes", reward_classes, 1);
  require_size("end_classes", end_classes, 1);
  if (embed_dim % heads != 0)
    throw std::invalid_argument("embed_dim must be a multiple of heads, got " + std::to_string(embed_dim) +
                                " and " + std::to_string(heads));
  require_size("embed_dim / heads", embed_dim / heads, 1, kMaxHeadDim);
  if (!(layer_norm_epsilon >= 0.0f) || !std::isfinite(layer_norm_epsilon))
    throw std::invalid_argument("layer_norm_epsilon must be finite and not negative, got " +
                                std::to_string(layer_norm_epsilon));
}

TokenWeights::TokenWeights(const TokenModelConfig& config, const KernelTable& kernels, Precision precision,
                           const FindWeight& find)
    : config_(config), kernels_(kernels), precision_(precision) {
  config.validate();
  if (precision == Precision::kInt8)
    require_size("embed_dim, for int8 weights,", config.embed_dim, 1, kMostInt8Inputs / 4);
  const Loader load(config_, kernels, precision, find);
  const std::size_t width = config.embed_dim;
  actions_ = load.table("embedder.embedding_tables.0.weight", config.actions, width);
  tokens_ = load.table("embedder.embedding_tables.1.weight", config.vocabulary, width);
  positions_ = load.table("pos_emb.weight", config.max_tokens(), width);
  for (std::size_t layer = 0; layer < config.layers; ++layer)
    blocks_.push_back(load.block("transformer.blocks." + std::to_string(layer)));
  final_norm_ = load.norm("transformer.ln_f");
  observations_ = load.head("head_observations", config.vocabulary);
  rewards_ = load.head("head_rewards", config.reward_classes);
  ends_ = load.head("head_ends", config.end_classes);
}

TokenModel::TokenModel(const TokenModelConfig& config, const KernelTable& kernels, Precision precision,
                       const FindWeight& find) {
  const DefaultFloatEnvironment environment;
  weights_ = std::make_unique<const TokenWeights>(config, kernels, precision, find);
}

TokenModel::~TokenModel() = default;

const TokenModelConfig& TokenModel::config() const { return weights_->config(); }

const char* TokenModel::simd() const { return weights_->kernels().name; }

}  // namespace iris_fast
