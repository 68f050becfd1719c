#include "iris_fast/rollout.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "iris_fast/sample_categorical.hpp"
#include "iris_fast/thread_pool.hpp"
#include "token_weights.hpp"

namespace iris_fast {
namespace {

// Rows of `width` numbers into column `step` of (rows, steps, width).
template <typename T>
void put(const std::vector<T>& rows, std::size_t width, std::size_t step, std::size_t steps, T* into) {
  for (std::size_t r = 0; r * width < rows.size(); ++r)
    std::copy_n(rows.data() + r * width, width, into + (r * steps + step) * width);
}

// The policy of a batch, with its state.
class Acting {
 public:
  Acting(const RolloutParts& parts, const std::function<bool()>& stop)
      : parts_(parts),
        stop_(stop),
        batch_(parts.dream.batch()),
        hidden(batch_ * parts.recurrence.config().width),
        cells(hidden.size()),
        logits(batch_ * parts.recurrence.config().actions),
        values(batch_),
        next_hidden_(hidden.size()),
        next_cells_(hidden.size()),
        features_(batch_ * parts.features.config().feature_count()) {}

  void burn_in(const RolloutStart& start) {
    const std::size_t count = parts_.features.config().feature_count(), steps = start.burn_in;
    const std::size_t width = parts_.recurrence.config().width;
    std::vector<float> all(batch_ * steps * count);
    parts_.features.compute(start.burn_in_frames, batch_ * steps, all.data(), stop_);
    for (std::size_t step = 0; step < steps; ++step) {
      for (std::size_t r = 0; r < batch_; ++r)
        std::copy_n(all.data() + (r * steps + step) * count, count, features_.data() + r * count);
      recur();
      for (std::size_t r = 0; r < batch_; ++r) {
        if (!start.burn_in_mask[r * steps + step]) continue;
        std::copy_n(next_hidden_.data() + r * width, width, hidden.data() + r * width);
        std::copy_n(next_cells_.data() + r * width, width, cells.data() + r * width);
      }
    }
  }

  // Sees a frame of each row: logits, values and the next state.
  void see(const std::vector<float>& frames) {
    parts_.features.compute(frames.data(), batch_, features_.data(), stop_);
    recur();
    hidden.swap(next_hidden_);
    cells.swap(next_cells_);
  }

 private:
  void recur() {
    if (stop_()) throw Interrupted();
    parts_.recurrence.run({features_.data(), hidden.data(), cells.data(), batch_, next_hidden_.data(),
                           next_cells_.data(), logits.data(), values.data()},
                          stop_);
  }

  const RolloutParts& parts_;
  const std::function<bool()>& stop_;
  const std::size_t batch_;

 public:
  std::vector<float> hidden, cells, logits, values;

 private:
  std::vector<float> next_hidden_, next_cells_, features_;
};

}  // namespace

void RolloutParts::validate() const {
  const FrameModelConfig& frame = codec.model().config();
  const PolicyFeaturesConfig& seen = features.config();
  if (frame.tokens_per_frame() != dream.model().config().slots())
    throw std::invalid_argument("the world model and the tokenizer have frames of other numbers of tokens");
  if (frame.resolution != seen.resolution || frame.frame_channels != seen.frame_channels)
    throw std::invalid_argument("the tokenizer and the policy have frames of other sizes");
  if (seen.feature_count() != recurrence.config().features)
    throw std::invalid_argument("the policy's LSTM takes another number of features");
}

std::size_t roll_out(const RolloutParts& parts, const RolloutStart& start, std::size_t horizon,
                     const RolloutDraws& draws, const RolloutOutput& output,
                     const std::function<bool()>& stop) {
  parts.validate();
  TokenDream& dream = parts.dream;
  const std::size_t batch = dream.batch(), slots = dream.model().config().slots();
  const std::size_t frame_floats = parts.codec.model().config().frame_floats();
  const std::size_t actions_count = parts.recurrence.config().actions;
  std::vector<std::int64_t> tokens(start.tokens, start.tokens + batch * slots);
  dream.restart(tokens.data(), draws.seed, draws.first_row);
  Acting policy(parts, stop);
  policy.burn_in(start);
  std::copy(policy.hidden.begin(), policy.hidden.end(), output.start_hidden);
  std::copy(policy.cells.begin(), policy.cells.end(), output.start_cells);
  std::vector<float> frames(batch * frame_floats);
  std::vector<std::int64_t> actions(batch), rewards(batch), ends(batch), rows(batch), positions(batch);
  for (std::size_t r = 0; r < batch; ++r)
    rows[r] = std::int64_t{draws.first_row} + static_cast<std::int64_t>(r);
  std::size_t remembered = 0;
  for (std::size_t step = 0; step < horizon; ++step) {
    remembered += parts.codec.decode_remembered(tokens.data(), batch, frames.data(), stop);
    policy.see(frames);
    std::fill(positions.begin(), positions.end(), static_cast<std::int64_t>(step * (slots + 1) + slots));
    sample_categorical(dream.model().weights().kernels(), policy.logits.data(), batch, actions_count, 1.0f,
                       draws.seed, rows.data(), positions.data(), draws.action_purpose, actions.data());
    put(frames, frame_floats, step, horizon, output.frames);
    put(tokens, slots, step, horizon, output.tokens);
    put(actions, 1, step, horizon, output.actions);
    put(policy.logits, actions_count, step, horizon, output.logits);
    put(policy.values, 1, step, horizon, output.values);
    const bool last = step + 1 == horizon;
    dream.step(actions.data(),
               {rewards.data(), ends.data(), last ? nullptr : tokens.data(), nullptr, nullptr, nullptr},
               stop);
    for (std::size_t r = 0; r < batch; ++r) {
      output.rewards[r * horizon + step] = static_cast<float>(rewards[r]) - 1.0f;
      output.ends[r * horizon + step] = ends[r] != 0;
    }
  }
  return remembered;
}

}  // namespace iris_fast
