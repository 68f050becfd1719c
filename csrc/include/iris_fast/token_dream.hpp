// A batch of imagined episodes: actions in; rewards, ends and the next frame's tokens out.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "iris_fast/process.hpp"
#include "iris_fast/thread_pool.hpp"
#include "iris_fast/token_model.hpp"
#include "iris_fast/token_pass.hpp"

namespace iris_fast {

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

  // Starts anew from frames' tokens (batch, slots). Row r of the batch draws at row `first_row` + r.
  void restart(const std::int64_t* tokens, std::uint64_t seed, std::uint32_t first_row);

  // Takes actions (batch,). Past the context the cache is rebuilt from the current frame first. Throws
  // std::invalid_argument for an action out of range, std::runtime_error when another thread is stepping this
  // dream or it was not restarted after a failed step, Interrupted when `stop` returned true.
  void step(const std::int64_t* actions, const DreamOutput& output, const std::function<bool()>& stop);

  const TokenModel& model() const { return *model_; }
  std::size_t batch() const { return batch_; }
  std::size_t group() const { return group_; }
  std::size_t team() const { return team_; }  // threads that take a group through a step together
  std::size_t steps() const { return steps_; }
  std::size_t length() const { return length_; }  // tokens that the cache holds
  const std::vector<std::int64_t>& tokens() const { return tokens_; }

 private:
  struct Step;  // shared by the groups of one step
  void make_anew();
  void make_pass(std::size_t index);
  void step_group(const Step& step, std::size_t first, std::size_t count, TokenPass& pass,
                  const Member& member);
  void rebuild(std::size_t first, std::size_t count, TokenPass& pass, const Member& member);
  void generate_frame(const Step& step, std::vector<TokenPass::Row>& rows, TokenPass& pass,
                      const Member& member);
  void sample(const PackedHead& head, std::size_t first, std::size_t count, std::uint64_t position,
              std::uint32_t purpose, TokenPass& pass, std::int64_t* drawn, std::size_t drawn_stride,
              float* logits, std::size_t logits_stride, const Member& member) const;

  std::shared_ptr<const TokenModel> model_;
  std::shared_ptr<ThreadPool> pool_;
  std::size_t batch_, group_, team_;
  DrawPurposes purposes_;
  KeyValueCache cache_;
  std::vector<std::unique_ptr<TokenPass>> passes_;  // one for each team at work
  std::vector<std::int64_t> tokens_;                // (batch, slots): the current frame
  std::vector<std::int64_t> actions_;               // (batch,): of the step under way
  std::uint64_t seed_ = 0;
  std::uint32_t first_row_ = 0;
  std::atomic<std::size_t> steps_{0}, length_{0};  // read while a step is under way
  bool empty_ = true;                              // the cache does not hold the current frame yet
  bool broken_ = true;                             // not started, or a step did not end
  InUse in_use_;
};

}  // namespace iris_fast
