#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "frame_memo.hpp"
#include "frame_pass.hpp"
#include "frame_weights.hpp"
#include "grouped_work.hpp"
#include "iris_fast/frames.hpp"

namespace iris_fast {
namespace {

constexpr std::size_t kMostTogether = 4;  // by then the small maps' weights are read seldom enough

}  // namespace

struct FrameCodec::Work {
  const FrameWeights& model;
  GroupedWork<FramePass> passes;
  FrameMemo memo;

  // Calls work(pass, first frame, frames, context) for all groups of a batch; all threads share a frame
  // alone.
  template <typename Each>
  void run(std::size_t batch, const Each& each, const std::function<bool()>& stop) {
    const auto make = [this] { return std::make_unique<FramePass>(model); };
    if (batch == 1)
      passes.run_together(
          make,
          [&](FramePass& pass, Crew& crew, TaskContext& context) {
            pass.lead(&crew);
            each(pass, 0, 1, context);
          },
          stop);
    else
      passes.run(
          batch, make,
          [&](FramePass& pass, std::size_t first, std::size_t count, TaskContext& context) {
            pass.lead(nullptr);
            each(pass, first, count, context);
          },
          stop);
  }
};

FrameCodec::FrameCodec(std::shared_ptr<const FrameModel> model, std::shared_ptr<ThreadPool> pool,
                       std::size_t group, std::size_t memo_bytes)
    : model_(std::move(model)),
      work_(new Work{model_->weights(),
                     {std::move(pool), group, kMostTogether},
                     {model_->config().tokens_per_frame(), model_->config().frame_floats(), memo_bytes}}) {}

FrameCodec::~FrameCodec() = default;

std::size_t FrameCodec::remembered() const { return work_->memo.held(); }

std::size_t FrameCodec::decode_remembered(const std::int64_t* tokens, std::size_t batch, float* frames,
                                          const std::function<bool()>& stop) {
  const std::vector<std::int64_t> copy(tokens, tokens + batch * model_->config().tokens_per_frame());
  return work_->memo.find(copy, frames, [&](const std::int64_t* rows, std::size_t count, float* decoded) {
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
  work_->run(batch, decode_group, stop);
}

void FrameCodec::encode(const float* frames, std::size_t batch, float* latents,
                        const std::function<bool()>& stop) {
  const FrameModelConfig& config = model_->config();
  const std::size_t latent_floats = config.tokens_per_frame() * config.embed_dim;
  const auto encode_group = [&](FramePass& pass, std::size_t first, std::size_t count, TaskContext& context) {
    pass.encode(frames + first * config.frame_floats(), count, latents + first * latent_floats, context);
  };
  work_->run(batch, encode_group, stop);
}

void FrameCodec::tokenize(const float* frames, std::size_t batch, std::int64_t* tokens,
                          const std::function<bool()>& stop) {
  const FrameModelConfig& config = model_->config();
  const auto tokenize_group = [&](FramePass& pass, std::size_t first, std::size_t count,
                                  TaskContext& context) {
    pass.tokenize(frames + first * config.frame_floats(), count, tokens + first * config.tokens_per_frame(),
                  context);
  };
  work_->run(batch, tokenize_group, stop);
}

}  // namespace iris_fast
