// Frames to latents and tokens to frames, a whole batch at once on a pool of threads.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "iris_fast/frame_model.hpp"
#include "iris_fast/frame_pass.hpp"
#include "iris_fast/thread_pool.hpp"

namespace iris_fast {

// A frame's result depends on nothing but the frame. Calls from several threads are safe; a call that another
// one overlaps works in memory of its own.
class FrameCodec {
 public:
  // `group`: frames that a thread takes at a time; 0 for an even share, at most 4. Throws
  // std::invalid_argument.
  FrameCodec(std::shared_ptr<const FrameModel> model, std::shared_ptr<ThreadPool> pool, std::size_t group);

  const FrameModel& model() const { return *model_; }

  // Frames (batch, frame channels, resolution, resolution), clamped to [0, 1], of tokens (batch, tokens of a
  // frame). Throws std::invalid_argument for a token out of range, Interrupted when `stop` said so.
  void decode(const std::int64_t* tokens, std::size_t batch, float* frames,
              const std::function<bool()>& stop);

  // Latents (batch, tokens of a frame, embed_dim) of frames in [0, 1].
  void encode(const float* frames, std::size_t batch, float* latents, const std::function<bool()>& stop);

 private:
  using Passes = std::vector<std::unique_ptr<FramePass>>;  // one a worker
  using Work = std::function<void(FramePass&, std::size_t first, std::size_t count, TaskContext&)>;
  void in_groups(std::size_t batch, const Work& work, const std::function<bool()>& stop);

  std::shared_ptr<const FrameModel> model_;
  std::shared_ptr<ThreadPool> pool_;
  std::size_t group_;
  std::atomic<bool> busy_{false};
  Passes passes_;  // the call's that set `busy_`
};

}  // namespace iris_fast
