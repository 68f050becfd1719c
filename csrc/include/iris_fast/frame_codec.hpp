// Frames to latents and tokens to frames, a whole batch at once on a pool of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "iris_fast/frame_model.hpp"
#include "iris_fast/thread_pool.hpp"

namespace iris_fast {

// A frame's result depends only on the frame. Calls from several threads are safe.
class FrameCodec {
 public:
  static constexpr std::size_t kMemoBytes = std::size_t{512} << 20;

  // `group`: frames that a thread takes at a time; 0 for an even share, at most 4. `memo_bytes`: room for
  // frames that are remembered. Throws std::invalid_argument.
  FrameCodec(std::shared_ptr<const FrameModel> model, std::shared_ptr<ThreadPool> pool, std::size_t group,
             std::size_t memo_bytes = kMemoBytes);
  ~FrameCodec();

  const FrameModel& model() const { return *model_; }

  // Frames (batch, frame channels, resolution, resolution), clamped to [0, 1], of tokens (batch, tokens of a
  // frame). Throws std::invalid_argument for a token out of range, Interrupted when `stop` returned true.
  void decode(const std::int64_t* tokens, std::size_t batch, float* frames,
              const std::function<bool()>& stop);

  // As `decode`, but decodes each distinct row only once, while its frame fits in the memo. Returns the
  // number of remembered rows.
  std::size_t decode_remembered(const std::int64_t* tokens, std::size_t batch, float* frames,
                                const std::function<bool()>& stop);
  std::size_t remembered() const;  // frames

  // Latents (batch, tokens of a frame, embed_dim) of frames in [0, 1].
  void encode(const float* frames, std::size_t batch, float* latents, const std::function<bool()>& stop);

  // Tokens (batch, tokens of a frame) of frames in [0, 1]: the codewords nearest to the latents.
  void tokenize(const float* frames, std::size_t batch, std::int64_t* tokens,
                const std::function<bool()>& stop);

 private:
  struct Work;

  std::shared_ptr<const FrameModel> model_;
  std::unique_ptr<Work> work_;
};

}  // namespace iris_fast
