// One pass of a few tokens through the world model's layers, and its heads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "team.hpp"
#include "token_weights.hpp"

namespace iris_fast {

// Keys and values of every layer of some sequences.
class KeyValueCache {
 public:
  KeyValueCache(const TokenModelConfig& config, std::size_t sequences, Precision type)
      : type_(type),
        layer_bytes_(cache_shape(config).layer_elements() * bytes_of(type)),
        sequence_bytes_(checked_product(config.layers, layer_bytes_)),
        storage_(checked_product(sequences, sequence_bytes_)) {}

  Precision type() const { return type_; }
  void* layer(std::size_t sequence, std::size_t layer) {
    return storage_.data() + sequence * sequence_bytes_ + layer * layer_bytes_;
  }

 private:
  Precision type_;
  std::size_t layer_bytes_, sequence_bytes_;
  AlignedBuffer<unsigned char> storage_;
};

// The activations of a team of threads, and the pass itself. Every member of the team calls the same
// functions with the same arguments, but for its own place in the team: members share the columns of products
// and the heads of the attention, so that each number is computed by one of them as a single thread would.
class TokenPass {
 public:
  TokenPass(const TokenWeights& model, std::size_t max_rows, std::size_t members);

  std::size_t max_rows() const { return max_rows_; }

  // Row r is a token of sequence `sequence` at `position`, and sees the first `seen` tokens of its sequence.
  struct Row {
    const float* embedding;  // without position
    std::size_t sequence, position, seen;
  };

  // Adds rows to the cache; then keeps their features for the heads, unless they are not needed (which saves
  // most of the last layer).
  void run(const TokenWeights& model, const std::vector<Row>& rows, KeyValueCache& cache, bool want_features,
           const Member& member);

  // Row-major logits of the last run's `rows` rows, `stride` floats a row; overwritten by the next call.
  const float* logits(const TokenWeights& model, const PackedHead& head, std::size_t rows,
                      std::size_t& stride, const Member& member);

 private:
  struct Scratch {  // a member's own
    AlignedBuffer<float> normed, scores;
    AlignedBuffer<unsigned char> integers;  // a product's rows, where weights are int8
    AlignedBuffer<float> scales;            // of those rows
    std::vector<void*> caches;
    std::vector<std::size_t> tokens;
  };
  struct Output {  // of a product; strides as in LinearArgs
    float* data;
    std::size_t tile_stride, row_stride, vector_stride;
  };

  void embed(const TokenWeights& model, const std::vector<Row>& rows, const Member& member);
  void attend(const TokenWeights& model, std::size_t layer, const std::vector<Row>& rows,
              KeyValueCache& cache, bool want_output, const Member& member);
  // A member's share of a product's columns, then the wait for the others.
  void linear(const TokenWeights& model, const PackedLinear& layer, std::size_t rows, const float* a,
              Activation activation, const float* residual, Output out, const Member& member);
  // Into the member's scratch: each member does all of it, which takes less time than waiting for the others.
  const float* normalise(const TokenWeights& model, const PackedNorm& norm, std::size_t rows,
                         const Member& member);

  std::size_t max_rows_;
  AlignedBuffer<float> x_, qkv_, attended_, hidden_, logits_;
  std::vector<Scratch> scratch_;
};

}  // namespace iris_fast
