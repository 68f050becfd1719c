#include "iris_fast/frame_codec.hpp"

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "frame_memo.hpp"

namespace iris_fast {
namespace {

constexpr std::size_t kMostTogether = 4;  // by then the small maps' weights are read seldom enough

}  // namespace

FrameCodec::FrameCodec(std::shared_ptr<const FrameModel> model, std::shared_ptr<ThreadPool> pool,
                       std::size_t group, std::size_t memo_bytes)
    : model_(std::move(model)),
      work_(std::move(pool), group, kMostTogether),
      memo_(std::make_unique<FrameMemo>(model_->config().tokens_per_frame(), model_->config().frame_floats(),
                                        memo_bytes)) {}

FrameCodec::~FrameCodec() = default;

std::size_t FrameCodec::remembered() const { return memo_->held(); }

std::size_t FrameCodec::decode_remembered(const std::int64_t* tokens, std::size_t batch, float* frames,
                                          const std::function<bool()>& stop) {
  const std::vector<std::int64_t> copy(tokens, tokens + batch * model_->config().tokens_per_frame());
  return memo_->find(copy, frames, [&](const std::int64_t* rows, std::size_t count, float* decoded) {
    decode(rows, count, decoded, stop);
  });
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
  const auto decode_group = [&](FramePass& pass, std::size_t first, std::size_t count, TaskContext& context) {
    pass.decode(copy.data() + first * slots, count, frames + first * config.frame_floats(), context);
  };
  work_.run(batch, [this] { return make_pass(); }, decode_group, stop);
}

void FrameCodec::encode(const float* frames, std::size_t batch, float* latents,
                        const std::function<bool()>& stop) {
  const FrameModelConfig& config = model_->config();
  const std::size_t latent_floats = config.tokens_per_frame() * config.embed_dim;
  const auto encode_group = [&](FramePass& pass, std::size_t first, std::size_t count, TaskContext& context) {
    pass.encode(frames + first * config.frame_floats(), count, latents + first * latent_floats, context);
  };
  work_.run(batch, [this] { return make_pass(); }, encode_group, stop);
}

void FrameCodec::tokenize(const float* frames, std::size_t batch, std::int64_t* tokens,
                          const std::function<bool()>& stop) {
  const FrameModelConfig& config = model_->config();
  const auto tokenize_group = [&](FramePass& pass, std::size_t first, std::size_t count,
                                  TaskContext& context) {
    pass.tokenize(frames + first * config.frame_floats(), count, tokens + first * config.tokens_per_frame(),
                  context);
  };
  work_.run(batch, [this] { return make_pass(); }, tokenize_group, stop);
}

}  // namespace iris_fast
