#include "iris_fast/token_pass.hpp"

#include <algorithm>
#include <cmath>

namespace iris_fast {
namespace {

// Rows of the last tile that do not exist are never read, but stay defined.
AlignedBuffer<float> tiled(std::size_t rows, std::size_t columns) {
  AlignedBuffer<float> buffer(tiled_size(rows, columns));
  std::fill_n(buffer.data(), buffer.size(), 0.0f);
  return buffer;
}

}  // namespace

TokenPass::TokenPass(const TokenModel& model, std::size_t max_rows) : max_rows_(max_rows) {
  const TokenModelConfig& config = model.config();
  const std::size_t width = config.padded_dim();
  const std::size_t classes =
      std::max({config.vocabulary, config.reward_classes, config.end_classes, std::size_t{1}});
  x_ = tiled(max_rows, width);
  normed_ = tiled(max_rows, width);
  qkv_ = tiled(max_rows, 3 * config.attention_dim());
  attended_ = tiled(max_rows, config.attention_dim());
  hidden_ = tiled(max_rows, config.hidden_dim());
  logits_ = tiled(max_rows, classes);
  scores_ = tiled(1, round_up(config.max_tokens(), kLanes));
  caches_.resize(max_rows);
  tokens_.resize(max_rows);
}

void TokenPass::run(const TokenModel& model, const std::vector<Row>& rows, KeyValueCache& cache,
                    bool want_features) {
  const std::size_t width = model.config().padded_dim();
  rows_ = rows.size();
  for (std::size_t r = 0; r < rows_; ++r) {
    const float* position = model.position_embedding(rows[r].position);
    for (std::size_t c = 0; c < width; c += kLanes) {
      float* x = x_.data() + tiled_offset(r, c, width);
      for (std::size_t i = 0; i < kLanes; ++i) x[i] = rows[r].embedding[c + i] + position[c + i];
    }
  }
  for (std::size_t layer = 0; layer < model.blocks().size(); ++layer) {
    const PackedBlock& block = model.blocks()[layer];
    const bool want_output = want_features || layer + 1 < model.blocks().size();
    normalise(model, block.attention_norm);
    linear(model, block.qkv, normed_.data(), Activation::kNone, nullptr, qkv_.data());
    attend(model, layer, rows, cache, want_output);
    if (!want_output) return;
    linear(model, block.projection, attended_.data(), Activation::kNone, x_.data(), x_.data());
    normalise(model, block.mlp_norm);
    linear(model, block.expand, normed_.data(), Activation::kGelu, nullptr, hidden_.data());
    linear(model, block.contract, hidden_.data(), Activation::kNone, x_.data(), x_.data());
  }
  normalise(model, model.final_norm());
}

const float* TokenPass::logits(const TokenModel& model, const PackedHead& head, std::size_t& stride) {
  linear(model, head.hidden, normed_.data(), Activation::kRelu, nullptr, hidden_.data());
  stride = head.logits.columns;
  model.kernels().linear({hidden_.data(), rows_, head.logits.inner, head.logits.weights.data(),
                          head.logits.bias.data(), head.logits.columns, Activation::kNone, nullptr,
                          logits_.data(), kTileRows * stride, stride, kLanes});
  return logits_.data();
}

void TokenPass::attend(const TokenModel& model, std::size_t layer, const std::vector<Row>& rows,
                       KeyValueCache& cache, bool want_output) {
  const TokenModelConfig& config = model.config();
  const CacheShape shape = config.cache_shape();
  const bool half = cache.type() == CacheType::kHalf;
  for (std::size_t r = 0; r < rows_; ++r) {
    caches_[r] = cache.layer(rows[r].sequence, layer);
    tokens_[r] = rows[r].position;
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  const AttentionArgs args{qkv_.data(),    rows_, shape,          caches_.data(),
                           tokens_.data(), scale, scores_.data(), attended_.data()};
  (half ? model.kernels().append_half : model.kernels().append_float)(args);
  if (!want_output) return;
  for (std::size_t r = 0; r < rows_; ++r) tokens_[r] = rows[r].seen;
  (half ? model.kernels().attend_half : model.kernels().attend_float)(args);
}

void TokenPass::linear(const TokenModel& model, const PackedLinear& layer, const float* a,
                       Activation activation, const float* residual, float* out) const {
  model.kernels().linear({a, rows_, layer.inner, layer.weights.data(), layer.bias.data(), layer.columns,
                          activation, residual, out, layer.columns * kTileRows, kLanes, kTileFloats});
}

void TokenPass::normalise(const TokenModel& model, const PackedNorm& norm) {
  const TokenModelConfig& config = model.config();
  model.kernels().layer_norm({x_.data(), rows_, config.embed_dim, norm.weight.data(), norm.bias.data(),
                              config.layer_norm_epsilon, normed_.data()});
}

}  // namespace iris_fast
