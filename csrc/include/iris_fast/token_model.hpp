// The world model's weights, packed once for one SIMD level.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "iris_fast/aligned_buffer.hpp"
#include "iris_fast/kernel_table.hpp"
#include "iris_fast/packed_layers.hpp"

namespace iris_fast {

// Sizes of the world model (docs/iris.md, part 4).
struct TokenModelConfig {
  std::size_t tokens_per_block;  // frame tokens and one action
  std::size_t max_blocks;
  std::size_t layers;
  std::size_t heads;
  std::size_t embed_dim;
  std::size_t vocabulary;
  std::size_t actions;
  std::size_t reward_classes;
  std::size_t end_classes;
  bool block_causal;  // a frame fed at once sees itself whole
  float layer_norm_epsilon;

  std::size_t slots() const { return tokens_per_block - 1; }
  std::size_t max_tokens() const { return tokens_per_block * max_blocks; }
  std::size_t hidden_dim() const { return 4 * embed_dim; }
  std::size_t padded_dim() const { return round_up(embed_dim, kLanes); }
  CacheShape cache_shape() const { return {heads, embed_dim / heads, max_tokens()}; }
  // Columns of the attention's queries (or keys, or values, or outputs): each head padded to whole vectors.
  std::size_t attention_dim() const { return heads * cache_shape().padded_dim(); }

  // Throws std::invalid_argument naming the first size that cannot be.
  void validate() const;
};

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

// Immutable once made, so that any number of dreams and threads may share it.
class TokenModel {
 public:
  // Copies the weights, by the names of the world model's state dict; `precision` is that of the linear
  // layers' matrices. Throws std::invalid_argument, also for a finite weight that half precision cannot hold.
  TokenModel(const TokenModelConfig& config, const KernelTable& kernels, Precision precision,
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
    return table.data() + index * config_.padded_dim();
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
