#include "iris_fast/frame_codec.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace iris_fast {
namespace {

constexpr std::size_t kMostTogether = 4;  // by then the small maps' weights are read seldom enough
constexpr std::size_t kLargestGroup = 1024;

}  // namespace

FrameCodec::FrameCodec(std::shared_ptr<const FrameModel> model, std::shared_ptr<ThreadPool> pool,
                       std::size_t group)
    : model_(std::move(model)), pool_(std::move(pool)), group_(group), passes_(pool_->threads()) {
  if (group > kLargestGroup)
    throw std::invalid_argument("group_size must be in [0, " + std::to_string(kLargestGroup) + "], not " +
                                std::to_string(group));
}

void FrameCodec::decode(const std::int64_t* tokens, std::size_t batch, float* frames,
                        const std::function<bool()>& stop) {
  const FrameModelConfig& config = model_->config();
  const std::size_t slots = config.tokens_per_frame();
  // Checked in a copy, which nobody changes meanwhile.
  const std::vector<std::int64_t> copy(tokens, tokens + batch * slots);
  for (const std::int64_t token : copy)
    if (token < 0 || static_cast<std::size_t>(token) >= config.vocabulary)
      throw std::invalid_argument("tokens must be in [0, " + std::to_string(config.vocabulary) + "), not " +
                                  std::to_string(token));
  const std::size_t floats = config.frame_channels * config.resolution * config.resolution;
  in_groups(
      batch,
      [&](FramePass& pass, std::size_t first, std::size_t count, TaskContext& context) {
        pass.decode(copy.data() + first * slots, count, frames + first * floats, context);
      },
      stop);
}

void FrameCodec::encode(const float* frames, std::size_t batch, float* latents,
                        const std::function<bool()>& stop) {
  const FrameModelConfig& config = model_->config();
  const std::size_t floats = config.frame_channels * config.resolution * config.resolution;
  const std::size_t latent_floats = config.tokens_per_frame() * config.embed_dim;
  in_groups(
      batch,
      [&](FramePass& pass, std::size_t first, std::size_t count, TaskContext& context) {
        pass.encode(frames + first * floats, count, latents + first * latent_floats, context);
      },
      stop);
}

void FrameCodec::in_groups(std::size_t batch, const Work& work, const std::function<bool()>& stop) {
  const std::size_t threads = pool_->threads();
  const std::size_t group =
      group_ > 0 ? group_ : std::clamp<std::size_t>((batch + threads - 1) / threads, 1, kMostTogether);
  const bool owner = !busy_.exchange(true);
  Passes own(owner ? 0 : threads);
  Passes& passes = owner ? passes_ : own;
  struct Release {
    std::atomic<bool>* busy;
    ~Release() {
      if (busy != nullptr) busy->store(false);
    }
  } release{owner ? &busy_ : nullptr};
  const auto task = [&](std::size_t index, std::size_t worker, TaskContext& context) {
    if (!passes[worker]) passes[worker] = std::make_unique<FramePass>(*model_);
    const std::size_t first = index * group;
    work(*passes[worker], first, std::min(group, batch - first), context);
  };
  pool_->run((batch + group - 1) / group, task, stop);
}

}  // namespace iris_fast
