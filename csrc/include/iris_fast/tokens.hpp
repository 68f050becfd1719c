// The world model's weights, and a batch of imagined episodes: actions in; rewards, ends and the next frame's
// tokens out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "iris_fast/packing.hpp"
#include "iris_fast/thread_pool.hpp"

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

  // Throws std::invalid_argument naming the first size that cannot be.
  void validate() const;
};

class TokenWeights;  // packed

// Immutable once made, so that any number of dreams and threads may share it.
class TokenModel {
 public:
  // Copies the weights, by the names of the world model's state dict; `precision` is that of the linear
  // layers' matrices. Throws std::invalid_argument, also for a finite weight that half precision cannot hold.
  TokenModel(const TokenModelConfig& config, const KernelTable& kernels, Precision precision,
             const FindWeight& find);
  ~TokenModel();

  const TokenModelConfig& config() const;
  const char* simd() const;  // the level's name
  const TokenWeights& weights() const { return *weights_; }

 private:
  std::unique_ptr<const TokenWeights> weights_;
};

// The third words of the Philox counters (Purpose in iris_fast/imagination/randomness.py).
struct DrawPurposes {
  std::uint32_t reward, end, token;
};

// Outputs of a step, row-major. The logits are for tests, and may be null.
struct DreamOutput {
  std::int64_t* rewards;       // (batch,): classes
  std::int64_t* ends;          // (batch,): classes
  std::int64_t* tokens;        // (batch, slots), or null to generate no frame
  float* logits_rewards;       // (batch, reward_classes)
  float* logits_ends;          // (batch, end_classes)
  float* logits_observations;  // (batch, slots, vocabulary)
};

// Steps all episodes by groups of sequences: a product reads its weights once for a group, and a group goes
// through all passes of a step without waiting for others, on one thread and without barriers, or, where
// there are more threads than groups, on a team of them. Draws are addressed as in
// iris_fast/imagination/dream.py, so nothing depends on groups or threads.
class TokenDream {
 public:
  // `group`: sequences that go together, at most 1024; 0 for even shares of the batch, of at most 32. Throws
  // std::invalid_argument for sizes out of range, std::bad_alloc when the cache does not fit in memory.
  TokenDream(std::shared_ptr<const TokenModel> model, std::shared_ptr<ThreadPool> pool, std::size_t batch,
             Precision cache_type, std::size_t group, DrawPurposes purposes);
  ~TokenDream();

  // Starts anew from frames' tokens (batch, slots). Row r of the batch draws at row `first_row` + r.
  void restart(const std::int64_t* tokens, std::uint64_t seed, std::uint32_t first_row);

  // Exchanges the current frame's tokens (batch, slots), in the cache too; what came before it stays.
  void replace(const std::int64_t* tokens);

  // Takes actions (batch,). Past the context the cache is rebuilt from the current frame first. `given`: the
  // next frame's tokens (batch, slots), or null to draw them. Throws std::invalid_argument for an action or
  // token out of range, std::runtime_error when another thread is stepping this dream or it was not restarted
  // after a failed step, Interrupted when `stop` returned true.
  void step(const std::int64_t* actions, const DreamOutput& output, const std::function<bool()>& stop,
            const std::int64_t* given = nullptr);

  const TokenModel& model() const { return *model_; }
  std::size_t batch() const;
  std::size_t group() const;
  std::size_t team() const;  // threads that take a group through a step together
  std::size_t steps() const;
  std::size_t length() const;  // tokens that the cache holds

 private:
  struct State;

  std::shared_ptr<const TokenModel> model_;
  std::unique_ptr<State> state_;
};

}  // namespace iris_fast
