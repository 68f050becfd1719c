#include <algorithm>
#include <atomic>
#include <deque>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "categorical_tokens.hpp"
#include "iris_fast/tokens.hpp"
#include "philox.hpp"
#include "process.hpp"
#include "team.hpp"
#include "token_pass.hpp"
#include "token_weights.hpp"

namespace iris_fast {
namespace {

constexpr std::size_t kLargestGroup = 32;
// A product takes as long for one row as for the rows of a tile, and has too few panels of columns for more
// members.
constexpr std::size_t kSmallestGroup = kTileRows, kLargestTeam = 8;
constexpr std::size_t kMostTogether = 1024;
constexpr std::size_t kLargestBatch = std::size_t{1} << 20;

std::size_t checked_batch(std::size_t batch) {
  if (batch < 1 || batch > kLargestBatch)
    throw std::invalid_argument("the batch must be in [1, " + std::to_string(kLargestBatch) + "], not " +
                                std::to_string(batch));
  return batch;
}

std::size_t chosen_group(std::size_t group, std::size_t batch, std::size_t threads) {
  if (group > kMostTogether)
    throw std::invalid_argument("group_size must be in [0, " + std::to_string(kMostTogether) + "], not " +
                                std::to_string(group));
  if (group != 0) return std::min(group, batch);
  const std::size_t most = std::clamp((batch + threads - 1) / threads, kSmallestGroup, kLargestGroup);
  const std::size_t groups = (batch + most - 1) / most;
  return (batch + groups - 1) / groups;
}

std::size_t chosen_team(std::size_t groups, std::size_t threads) {
  return std::clamp(threads / groups, std::size_t{1}, kLargestTeam);
}

void require_range(const char* what, const std::int64_t* values, std::size_t count, std::size_t limit) {
  for (std::size_t i = 0; i < count; ++i)
    if (values[i] < 0 || static_cast<std::uint64_t>(values[i]) >= limit)
      throw std::invalid_argument(std::string(what) + " must be in [0, " + std::to_string(limit) + "), got " +
                                  std::to_string(values[i]) + " at index " + std::to_string(i));
}

}  // namespace

struct TokenDream::State {
  State(const TokenWeights& model, std::shared_ptr<ThreadPool> pool, std::size_t batch, Precision cache_type,
        std::size_t group, DrawPurposes purposes)
      : model_(model),
        pool_(std::move(pool)),
        batch_(checked_batch(batch)),
        group_(chosen_group(group, batch, pool_->threads())),
        team_(chosen_team((batch + group_ - 1) / group_, pool_->threads())),
        purposes_(purposes),
        cache_(model_.config(), batch_, cache_type),
        passes_(pool_->threads()),
        tokens_(batch_ * model_.config().slots()) {}

  void restart(const std::int64_t* tokens, std::uint64_t seed, std::uint32_t first_row);
  void replace(const std::int64_t* tokens);
  void step(const std::int64_t* actions, const DreamOutput& output, const std::function<bool()>& stop,
            const std::int64_t* given);

  struct Step {  // shared by the groups of one step
    const DreamOutput& output;
    const std::int64_t* next;  // (batch, slots): the tokens of the next frame, in part being drawn
    bool rebuild;
    std::size_t length;  // of the cache before the action, once rebuilt
  };
  void take_over(const Turn& turn);
  void set_tokens(const char* what, const std::int64_t* tokens);
  void make_pass(std::size_t index);
  void step_group(const Step& step, std::size_t first, std::size_t count, TokenPass& pass,
                  const Member& member);
  void rebuild(std::size_t begin_at, std::size_t first, std::size_t count, TokenPass& pass,
               const Member& member);
  void generate_frame(const Step& step, std::vector<TokenPass::Row>& rows, TokenPass& pass,
                      const Member& member);
  void sample(const PackedHead& head, std::size_t first, std::size_t count, std::uint64_t position,
              std::uint32_t purpose, TokenPass& pass, std::int64_t* drawn, std::size_t drawn_stride,
              float* logits, std::size_t logits_stride, const Member& member) const;

  const TokenWeights& model_;
  std::shared_ptr<ThreadPool> pool_;
  std::size_t batch_, group_, team_;
  DrawPurposes purposes_;
  KeyValueCache cache_;
  std::vector<std::unique_ptr<TokenPass>> passes_;  // one for each team at work
  std::vector<std::int64_t> tokens_;                // (batch, slots): the current frame
  std::vector<std::int64_t> actions_;               // (batch,): of the step under way
  std::vector<std::int64_t> given_;                 // (batch, slots): the next frame, where it is not drawn
  std::uint64_t seed_ = 0;
  std::uint32_t first_row_ = 0;
  std::atomic<std::size_t> steps_{0}, length_{0};  // read while a step is under way
  bool empty_ = true;                              // the cache does not hold the current frame yet
  bool broken_ = true;                             // not started, or a step did not end
  InUse in_use_;
};

TokenDream::TokenDream(std::shared_ptr<const TokenModel> model, std::shared_ptr<ThreadPool> pool,
                       std::size_t batch, Precision cache_type, std::size_t group, DrawPurposes purposes)
    : model_(std::move(model)),
      state_(new State(model_->weights(), std::move(pool), batch, cache_type, group, purposes)) {}

TokenDream::~TokenDream() = default;

void TokenDream::restart(const std::int64_t* tokens, std::uint64_t seed, std::uint32_t first_row) {
  state_->restart(tokens, seed, first_row);
}

void TokenDream::replace(const std::int64_t* tokens) { state_->replace(tokens); }

void TokenDream::step(const std::int64_t* actions, const DreamOutput& output,
                      const std::function<bool()>& stop, const std::int64_t* given) {
  state_->step(actions, output, stop, given);
}

std::size_t TokenDream::batch() const { return state_->batch_; }
std::size_t TokenDream::group() const { return state_->group_; }
std::size_t TokenDream::team() const { return state_->team_; }
std::size_t TokenDream::steps() const { return state_->steps_; }
std::size_t TokenDream::length() const { return state_->length_; }

void TokenDream::State::restart(const std::int64_t* tokens, std::uint64_t seed, std::uint32_t first_row) {
  const Turn turn(in_use_);
  take_over(turn);
  set_tokens("first_tokens", tokens);
  seed_ = seed;
  first_row_ = first_row;
  steps_ = 0;
  length_ = model_.config().slots();
  empty_ = true;
  broken_ = false;
}

void TokenDream::State::replace(const std::int64_t* tokens) {
  const Turn turn(in_use_);
  take_over(turn);
  if (broken_)
    throw std::runtime_error("this dream was not started, or its last step was interrupted: restart it");
  set_tokens("tokens", tokens);
  empty_ = true;
}

void TokenDream::State::set_tokens(const char* what, const std::int64_t* tokens) {
  // A copy, so that the checked values are used: the caller's array may change while no lock is held.
  std::vector<std::int64_t> checked(tokens, tokens + tokens_.size());
  require_range(what, checked.data(), checked.size(), model_.config().vocabulary);
  tokens_.swap(checked);
}

void TokenDream::State::step(const std::int64_t* actions, const DreamOutput& output,
                             const std::function<bool()>& stop, const std::int64_t* given) {
  const Turn turn(in_use_);
  take_over(turn);
  const TokenModelConfig& config = model_.config();
  if (broken_)
    throw std::runtime_error("this dream was not started, or its last step was interrupted: restart it");
  actions_.assign(actions, actions + batch_);
  require_range("actions", actions_.data(), batch_, config.actions);
  if (given != nullptr) {
    given_.assign(given, given + tokens_.size());
    require_range("next_tokens", given_.data(), given_.size(), config.vocabulary);
  }
  if ((steps_ + 2) * config.tokens_per_block > std::numeric_limits<std::uint32_t>::max())
    throw std::overflow_error("a dream ends where its draws' positions exceed 32 bits, after " +
                              std::to_string(steps_) + " steps: restart it");
  const std::size_t passes = output.tokens != nullptr ? config.tokens_per_block : 1;
  const bool full = length_ + passes > config.max_tokens();
  const Step step{output, given != nullptr ? given_.data() : tokens_.data(), empty_ || full,
                  full ? config.slots() : length_.load()};
  broken_ = true;
  const std::size_t groups = (batch_ + group_ - 1) / group_;
  // Members of a team wait for each other, so all must run at once: there are no more of them than threads.
  std::deque<Team> teams;
  for (std::size_t index = 0; team_ > 1 && index < groups; ++index) {
    teams.emplace_back(team_);
    make_pass(index);
  }
  const auto task = [&](std::size_t index, std::size_t worker, TaskContext& context) {
    const std::size_t group = index / team_, first = group * group_;
    if (team_ == 1) make_pass(worker);
    Team alone(1);
    const Member member{team_ > 1 ? teams[group] : alone, index % team_, context};
    step_group(step, first, std::min(group_, batch_ - first), *passes_[team_ > 1 ? group : worker], member);
  };
  pool_->run(groups * team_, task, stop);
  if (given != nullptr && output.tokens != nullptr) tokens_.swap(given_);
  length_ = step.length + passes;
  ++steps_;
  empty_ = false;
  broken_ = false;
}

// Makes anew what another process's threads were writing at the fork; `broken_` says that their step did not
// end.
void TokenDream::State::take_over(const Turn& turn) {
  if (!turn.mine()) throw std::runtime_error("this dream is already in use by another thread");
  if (!turn.from_parent()) return;
  abandon(passes_);
  passes_.resize(pool_->threads());
  abandon(actions_);
  abandon(given_);
}

void TokenDream::State::make_pass(std::size_t index) {
  if (!passes_[index])
    passes_[index] = std::make_unique<TokenPass>(model_, std::max(group_, model_.config().slots()), team_);
}

void TokenDream::State::step_group(const Step& step, std::size_t first, std::size_t count, TokenPass& pass,
                                   const Member& member) {
  const TokenModelConfig& config = model_.config();
  const DreamOutput& output = step.output;
  if (step.rebuild) rebuild(step.length - config.slots(), first, count, pass, member);
  member.context.check();
  std::vector<TokenPass::Row> rows(count);
  for (std::size_t r = 0; r < count; ++r)
    rows[r] = {model_.action_embedding(static_cast<std::size_t>(actions_[first + r])), first + r, step.length,
               step.length + 1};
  pass.run(model_, rows, cache_, true, member);
  const std::uint64_t position = steps_ * config.tokens_per_block + config.slots();
  sample(model_.rewards(), first, count, position, purposes_.reward, pass, output.rewards + first, 1,
         output.logits_rewards, config.reward_classes, member);
  sample(model_.ends(), first, count, position, purposes_.end, pass, output.ends + first, 1,
         output.logits_ends, config.end_classes, member);
  if (output.tokens != nullptr) generate_frame(step, rows, pass, member);
}

void TokenDream::State::generate_frame(const Step& step, std::vector<TokenPass::Row>& rows, TokenPass& pass,
                                       const Member& member) {
  const TokenModelConfig& config = model_.config();
  const std::size_t slots = config.slots(), first = rows.front().sequence, vocabulary = config.vocabulary;
  for (std::size_t slot = 0; slot < slots; ++slot) {
    float* logits = step.output.logits_observations;
    if (logits != nullptr) logits += slot * vocabulary;
    sample(model_.observations(), first, rows.size(), (steps_ + 1) * config.tokens_per_block + slot,
           purposes_.token, pass, tokens_.data() + first * slots + slot, slots, logits, slots * vocabulary,
           member);
    member.context.check();
    member.wait();  // for the rows that others drew
    for (TokenPass::Row& row : rows) {
      const std::int64_t token = step.next[row.sequence * slots + slot];
      row.embedding = model_.token_embedding(static_cast<std::size_t>(token));
      row.position = step.length + 1 + slot;
      row.seen = row.position + 1;
    }
    pass.run(model_, rows, cache_, slot + 1 < slots, member);
  }
  if (member.rank == 0)
    std::copy_n(step.next + first * slots, rows.size() * slots, step.output.tokens + first * slots);
}

// Puts the current frame into the cache, from position `begin_at` on.
void TokenDream::State::rebuild(std::size_t begin_at, std::size_t first, std::size_t count, TokenPass& pass,
                                const Member& member) {
  const TokenModelConfig& config = model_.config();
  const std::size_t slots = config.slots(), together = pass.max_rows() / slots;
  std::vector<TokenPass::Row> rows;
  for (std::size_t begin = 0; begin < count; begin += together) {
    member.context.check();
    rows.clear();
    for (std::size_t s = first + begin; s < first + std::min(count, begin + together); ++s)
      for (std::size_t slot = 0; slot < slots; ++slot)
        rows.push_back({model_.token_embedding(static_cast<std::size_t>(tokens_[s * slots + slot])), s,
                        begin_at + slot, begin_at + (config.block_causal ? slots : slot + 1)});
    pass.run(model_, rows, cache_, false, member);
  }
}

void TokenDream::State::sample(const PackedHead& head, std::size_t first, std::size_t count,
                               std::uint64_t position, std::uint32_t purpose, TokenPass& pass,
                               std::int64_t* drawn, std::size_t drawn_stride, float* logits,
                               std::size_t logits_stride, const Member& member) const {
  constexpr float kTemperature = 1.0f;
  std::size_t stride = 0;
  const float* found = pass.logits(model_, head, count, stride, member);
  DrawScratch scratch(head.classes);
  float u[kRowsTogether];
  const Share share = member.share(count);
  for (std::size_t begin = share.begin; begin < share.end; begin += kRowsTogether) {
    const std::size_t rows = std::min(kRowsTogether, share.end - begin);
    for (std::size_t r = begin; r < begin + rows; ++r) {
      if (logits != nullptr)
        std::copy_n(found + r * stride, head.classes, logits + (first + r) * logits_stride);
      u[r - begin] = philox_uniform(seed_, first_row_ + static_cast<std::uint32_t>(first + r),
                                    static_cast<std::uint32_t>(position), purpose);
    }
    categorical_tokens(model_.kernels(), found + begin * stride, stride, rows, head.classes, kTemperature, u,
                       drawn + begin * drawn_stride, drawn_stride, scratch);
  }
}

}  // namespace iris_fast
