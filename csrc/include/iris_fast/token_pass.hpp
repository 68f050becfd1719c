// One pass of a few tokens through the world model's layers, and its heads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "iris_fast/token_model.hpp"

namespace iris_fast {

enum class CacheType { kFloat, kHalf };

// Keys and values of every layer of some sequences.
class KeyValueCache {
 public:
  KeyValueCache(const TokenModelConfig& config, std::size_t sequences, CacheType type)
      : type_(type),
        layer_bytes_(config.cache_shape().layer_elements() * (type == CacheType::kHalf ? 2 : 4)),
        sequence_bytes_(config.layers * layer_bytes_),
        storage_(sequences * sequence_bytes_) {}

  CacheType type() const { return type_; }
  void* layer(std::size_t sequence, std::size_t layer) {
    return storage_.data() + sequence * sequence_bytes_ + layer * layer_bytes_;
  }

 private:
  CacheType type_;
  std::size_t layer_bytes_, sequence_bytes_;
  AlignedBuffer<unsigned char> storage_;
};

// A thread's activations and scratch, and the pass itself.
class TokenPass {
 public:
  TokenPass(const TokenModel& model, std::size_t max_rows);

  std::size_t max_rows() const { return max_rows_; }

  // Row r is a token of sequence `sequence` at `position`, and sees the first `seen` tokens of its sequence.
  struct Row {
    const float* embedding;  // without position
    std::size_t sequence, position, seen;
  };

  // Adds rows to the cache; then leaves their features for the heads, unless nobody will ask (which saves
  // most of the last layer).
  void run(const TokenModel& model, const std::vector<Row>& rows, KeyValueCache& cache, bool want_features);

  // Row-major logits of the last run's rows, `stride` floats a row; overwritten by the next call.
  const float* logits(const TokenModel& model, const PackedHead& head, std::size_t& stride);

 private:
  void attend(const TokenModel& model, std::size_t layer, const std::vector<Row>& rows, KeyValueCache& cache,
              bool want_output);
  void linear(const TokenModel& model, const PackedLinear& layer, const float* a, Activation activation,
              const float* residual, float* out) const;
  void normalise(const TokenModel& model, const PackedNorm& norm);

  std::size_t max_rows_, rows_ = 0;
  AlignedBuffer<float> x_, normed_, qkv_, attended_, hidden_, logits_, scores_;
  std::vector<void*> caches_;
  std::vector<std::size_t> tokens_;
};

}  // namespace iris_fast
