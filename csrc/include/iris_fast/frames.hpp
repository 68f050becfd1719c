// The tokenizer's weights, and its two directions: frames to latents and tokens to frames, a whole batch at
// once on a pool of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "iris_fast/packing.hpp"
#include "iris_fast/thread_pool.hpp"

namespace iris_fast {

// Sizes of the tokenizer (docs/iris.md, part 3).
struct FrameModelConfig {
  std::size_t resolution;           // height and width of frames
  std::size_t frame_channels;       // 3 for colour
  std::size_t stem_width;           // channels after the encoder's first convolution
  std::vector<std::size_t> widths;  // channels of each level, the finest (whole frames) first
  std::size_t residual_blocks;      // of an encoder's level; a decoder's level has one more
  std::vector<std::size_t> attention_resolutions;
  std::size_t latent_channels;  // between the convolutional parts and the 1 x 1 convolutions
  std::size_t embed_dim;
  std::size_t vocabulary;
  std::size_t norm_groups;
  float norm_epsilon;
  bool has_background;  // frames are coded as their difference to the weight "background"

  std::size_t level_resolution(std::size_t level) const { return resolution >> level; }
  std::size_t latent_resolution() const { return level_resolution(widths.size() - 1); }
  std::size_t frame_floats() const { return frame_channels * resolution * resolution; }
  std::size_t tokens_per_frame() const { return latent_resolution() * latent_resolution(); }

  // Throws std::invalid_argument naming the first size that cannot be.
  void validate() const;
};

class FrameWeights;  // packed

// Immutable once made, so that any number of threads may share it.
class FrameModel {
 public:
  // Copies the weights, by the names of the tokenizer's state dict; `decoder` is the precision of the 3 x 3
  // convolutions of the decoder's layers: kFloat or kInt8. Throws std::invalid_argument, also for weights
  // that it cannot hold.
  FrameModel(const FrameModelConfig& config, const KernelTable& kernels, Precision decoder,
             const FindWeight& find);
  ~FrameModel();

  const FrameModelConfig& config() const;
  const char* simd() const;  // the level's name
  const FrameWeights& weights() const { return *weights_; }

 private:
  std::unique_ptr<const FrameWeights> weights_;
};

// A frame's result depends only on the frame. Calls from several threads are safe: one that another
// overlaps works in memory of its own.
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
