// A rollout of the policy in the world model, from the burn-in to the last reward, in one call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "iris_fast/frames.hpp"
#include "iris_fast/policy.hpp"
#include "iris_fast/tokens.hpp"

namespace iris_fast {

// The parts of the agent. All use one frame size and one number of tokens.
struct RolloutParts {
  TokenDream& dream;
  FrameCodec& codec;
  PolicyFeatures& features;
  PolicyRecurrence& recurrence;

  // Throws std::invalid_argument if their sizes differ.
  void validate() const;
};

// The start of a batch of rollouts, row-major; the batch size is the dream's.
struct RolloutStart {
  const std::int64_t* tokens;   // (batch, slots): of the first frames
  const float* burn_in_frames;  // (batch, burn_in, a frame)
  const bool* burn_in_mask;     // (batch, burn_in): false where the policy keeps its state
  std::size_t burn_in;
};

// The address of a rollout's draws: row r of the batch draws at row `first_row` + r.
struct RolloutDraws {
  std::uint64_t seed;
  std::uint32_t first_row;
  std::uint32_t action_purpose;  // the third word of the Philox counters of actions
};

// Outputs, row-major; for each step, what the policy saw, its action and its reward.
struct RolloutOutput {
  float* start_hidden;    // (batch, width): the policy's state after the burn-in
  float* start_cells;     // (batch, width)
  float* frames;          // (batch, horizon, a frame)
  std::int64_t* tokens;   // (batch, horizon, slots)
  std::int64_t* actions;  // (batch, horizon)
  float* rewards;         // (batch, horizon): the class less 1
  bool* ends;             // (batch, horizon)
  float* logits;          // (batch, horizon, actions)
  float* values;          // (batch, horizon)
};

// Rolls out `horizon` steps, with the numbers of iris_fast/imagination/oracle.py; the last one generates no
// frame. Returns the number of frames remembered instead of decoded. Throws as `TokenDream` does; Interrupted
// when `stop`, called at least before each step, returned true.
std::size_t roll_out(const RolloutParts& parts, const RolloutStart& start, std::size_t horizon,
                     const RolloutDraws& draws, const RolloutOutput& output,
                     const std::function<bool()>& stop);

}  // namespace iris_fast
