// Frames already decoded, by their tokens.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "process.hpp"

namespace iris_fast {

// Remembers the frame of each distinct row of tokens while there is room, because a rollout of a game with
// few states shows the same frames again and again. Overlapping calls remember nothing.
class FrameMemo {
 public:
  FrameMemo(std::size_t slots, std::size_t frame_floats, std::size_t max_bytes)
      : slots_(slots),
        floats_(frame_floats),
        room_(std::max<std::size_t>(1, max_bytes / (frame_floats * sizeof(float)))) {}

  std::size_t held() const { return held_; }

  // Frames (batch, frame floats) of tokens (batch, slots), which must not change during the call;
  // decode(tokens, rows, frames) makes the missing ones. Returns the number of remembered rows.
  template <typename Decode>
  std::size_t find(const std::vector<std::int64_t>& tokens, float* frames, const Decode& decode) {
    const std::size_t batch = tokens.size() / slots_;
    const Turn turn(in_use_);
    if (turn.from_parent()) abandon(frames_);
    std::vector<std::string> keys;
    std::vector<std::size_t> missing;
    std::unordered_set<std::string> fresh;
    for (std::size_t r = 0; turn.mine() && r < batch; ++r) {
      keys.emplace_back(reinterpret_cast<const char*>(tokens.data() + r * slots_),
                        slots_ * sizeof(std::int64_t));
      if (frames_.count(keys[r]) == 0 && fresh.insert(keys[r]).second) missing.push_back(r);
    }
    if (!turn.mine() || frames_.size() + missing.size() > room_) {
      decode(tokens.data(), batch, frames);
      return 0;
    }
    add(keys, missing, tokens, decode);
    for (std::size_t r = 0; r < batch; ++r)
      std::copy_n(frames_.find(keys[r])->second.data(), floats_, frames + r * floats_);
    return batch - missing.size();
  }

 private:
  template <typename Decode>
  void add(const std::vector<std::string>& keys, const std::vector<std::size_t>& missing,
           const std::vector<std::int64_t>& tokens, const Decode& decode) {
    if (missing.empty()) return;
    std::vector<std::int64_t> rows;
    for (const std::size_t r : missing)
      rows.insert(rows.end(), tokens.begin() + static_cast<std::ptrdiff_t>(r * slots_),
                  tokens.begin() + static_cast<std::ptrdiff_t>((r + 1) * slots_));
    std::vector<float> decoded(missing.size() * floats_);
    decode(rows.data(), missing.size(), decoded.data());
    for (std::size_t i = 0; i < missing.size(); ++i) {
      const float* frame = decoded.data() + i * floats_;
      frames_.emplace(keys[missing[i]], std::vector<float>(frame, frame + floats_));
      held_ = frames_.size();
    }
  }

  std::size_t slots_, floats_, room_;
  std::unordered_map<std::string, std::vector<float>> frames_;
  std::atomic<std::size_t> held_{0};
  InUse in_use_;
};

}  // namespace iris_fast
