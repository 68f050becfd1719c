// The world model's weights, packed once for one SIMD level.
#pragma once

#include <cstddef>
#include <vector>

#include "aligned_buffer.hpp"
#include "iris_fast/tokens.hpp"
#include "kernel_table.hpp"
#include "packed_layers.hpp"

namespace iris_fast {

// Sizes that follow from a world model's, by what they are of.
inline std::size_t hidden_dim(const TokenModelConfig& config) { return 4 * config.embed_dim; }
inline std::size_t padded_dim(const TokenModelConfig& config) { return round_up(config.embed_dim, kLanes); }
inline CacheShape cache_shape(const TokenModelConfig& config) {
  return {config.heads, config.embed_dim / config.heads, config.max_tokens()};
}
// Columns of the attention's queries (or keys, or values, or outputs): each head padded to whole vectors.
inline std::size_t attention_dim(const TokenModelConfig& config) {
  return config.heads * cache_shape(config).padded_dim();
}

struct PackedNorm {
  AlignedBuffer<float> weight, bias;
};

struct PackedBlock {
  PackedNorm attention_norm, mlp_norm;
  PackedLinear qkv, projection, expand, contract;
};

// Linear, ReLU, linear.
struct PackedHead {
  PackedLinear hidden, logits;
  std::size_t classes;
};

class TokenWeights {
 public:
  // As of TokenModel.
  TokenWeights(const TokenModelConfig& config, const KernelTable& kernels, Precision precision,
               const FindWeight& find);

  const TokenModelConfig& config() const { return config_; }
  const KernelTable& kernels() const { return kernels_; }
  Precision precision() const { return precision_; }
  const std::vector<PackedBlock>& blocks() const { return blocks_; }
  const PackedNorm& final_norm() const { return final_norm_; }
  const PackedHead& observations() const { return observations_; }
  const PackedHead& rewards() const { return rewards_; }
  const PackedHead& ends() const { return ends_; }

  // Rows of `padded_dim` floats, zero past embed_dim.
  const float* token_embedding(std::size_t token) const { return row(tokens_, token); }
  const float* action_embedding(std::size_t action) const { return row(actions_, action); }
  const float* position_embedding(std::size_t position) const { return row(positions_, position); }

 private:
  const float* row(const AlignedBuffer<float>& table, std::size_t index) const {
    return table.data() + index * padded_dim(config_);
  }

  TokenModelConfig config_;
  const KernelTable& kernels_;
  Precision precision_;
  std::vector<PackedBlock> blocks_;
  PackedNorm final_norm_;
  PackedHead observations_, rewards_, ends_;
  AlignedBuffer<float> tokens_, actions_, positions_;
};

}  // namespace iris_fast
