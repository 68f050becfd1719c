#include "token_pass.hpp"

#include <algorithm>
#include <cmath>

namespace iris_fast {
namespace {

// Rows of the last tile that do not exist are never read, but stay defined.
AlignedBuffer<float> tiled(std::size_t rows, std::size_t columns) { return zeros(tiled_size(rows, columns)); }

}  // namespace

TokenPass::TokenPass(const TokenWeights& model, std::size_t max_rows, std::size_t members)
    : max_rows_(max_rows), scratch_(members) {
  const TokenModelConfig& config = model.config();
  const std::size_t width = padded_dim(config);
  const std::size_t classes =
      std::max({config.vocabulary, config.reward_classes, config.end_classes, std::size_t{1}});
  x_ = tiled(max_rows, width);
  qkv_ = tiled(max_rows, 3 * attention_dim(config));
  attended_ = tiled(max_rows, attention_dim(config));
  hidden_ = tiled(max_rows, hidden_dim(config));
  logits_ = tiled(max_rows, classes);
  for (Scratch& scratch : scratch_) {
    scratch.normed = tiled(max_rows, width);
    scratch.scores = tiled(1, round_up(config.max_tokens(), kLanes));
    if (model.precision() == Precision::kInt8) {
      scratch.integers = AlignedBuffer<unsigned char>(
          max_rows * round_up(std::max(hidden_dim(config), attention_dim(config)), kLanes));
      scratch.scales = AlignedBuffer<float>(max_rows);
    }
    scratch.caches.resize(max_rows);
    scratch.tokens.resize(max_rows);
  }
}

void TokenPass::run(const TokenWeights& model, const std::vector<Row>& rows, KeyValueCache& cache,
                    bool want_features, const Member& member) {
  const TokenModelConfig& config = model.config();
  const std::size_t count = rows.size();
  const auto tiles = [](float* data, std::size_t columns) {
    return Output{data, columns * kTileRows, kLanes, kTileFloats};
  };
  const Output x = tiles(x_.data(), padded_dim(config));
  embed(model, rows, member);
  for (std::size_t layer = 0; layer < model.blocks().size(); ++layer) {
    const PackedBlock& block = model.blocks()[layer];
    const bool want_output = want_features || layer + 1 < model.blocks().size();
    const float* normed = normalise(model, block.attention_norm, count, member);
    linear(model, block.qkv, count, normed, Activation::kNone, nullptr, tiles(qkv_.data(), block.qkv.columns),
           member);
    attend(model, layer, rows, cache, want_output, member);
    if (!want_output) return;
    linear(model, block.projection, count, attended_.data(), Activation::kNone, x.data, x, member);
    normed = normalise(model, block.mlp_norm, count, member);
    linear(model, block.expand, count, normed, Activation::kGelu, nullptr,
           tiles(hidden_.data(), block.expand.columns), member);
    linear(model, block.contract, count, hidden_.data(), Activation::kNone, x.data, x, member);
  }
  normalise(model, model.final_norm(), count, member);
}

const float* TokenPass::logits(const TokenWeights& model, const PackedHead& head, std::size_t rows,
                               std::size_t& stride, const Member& member) {
  linear(model, head.hidden, rows, scratch_[member.rank].normed.data(), Activation::kRelu, nullptr,
         {hidden_.data(), head.hidden.columns * kTileRows, kLanes, kTileFloats}, member);
  stride = head.logits.columns;
  linear(model, head.logits, rows, hidden_.data(), Activation::kNone, nullptr,
         {logits_.data(), kTileRows * stride, stride, kLanes}, member);
  return logits_.data();
}

void TokenPass::embed(const TokenWeights& model, const std::vector<Row>& rows, const Member& member) {
  const std::size_t width = padded_dim(model.config());
  const Share share = member.share(rows.size());
  for (std::size_t r = share.begin; r < share.end; ++r) {
    const float* position = model.position_embedding(rows[r].position);
    for (std::size_t c = 0; c < width; c += kLanes) {
      float* x = x_.data() + tiled_offset(r, c, width);
      for (std::size_t i = 0; i < kLanes; ++i) x[i] = rows[r].embedding[c + i] + position[c + i];
    }
  }
  member.wait();
}

void TokenPass::attend(const TokenWeights& model, std::size_t layer, const std::vector<Row>& rows,
                       KeyValueCache& cache, bool want_output, const Member& member) {
  const TokenModelConfig& config = model.config();
  const CacheShape shape = cache_shape(config);
  const bool half = cache.type() == Precision::kHalf;
  Scratch& scratch = scratch_[member.rank];
  for (std::size_t r = 0; r < rows.size(); ++r) {
    scratch.caches[r] = cache.layer(rows[r].sequence, layer);
    scratch.tokens[r] = rows[r].position;
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  const Share heads = member.share(shape.heads);
  const AttentionArgs args{qkv_.data(), rows.size(), shape, scratch.caches.data(), scratch.tokens.data(),
                           heads.begin, heads.end,   scale, scratch.scores.data(), attended_.data()};
  (half ? model.kernels().append_half : model.kernels().append_float)(args);
  if (want_output) {
    for (std::size_t r = 0; r < rows.size(); ++r) scratch.tokens[r] = rows[r].seen;
    (half ? model.kernels().attend_half : model.kernels().attend_float)(args);
  }
  member.wait();
}

void TokenPass::linear(const TokenWeights& model, const PackedLinear& layer, std::size_t rows, const float* a,
                       Activation activation, const float* residual, Output out, const Member& member) {
  const KernelTable& kernels = model.kernels();
  const std::size_t panel = kernels.panel_vectors;
  const Share panels = member.share((layer.columns / kLanes + panel - 1) / panel);
  const std::size_t first = panels.begin * panel, end = std::min(panels.end * panel, layer.columns / kLanes);
  if (first < end) {
    const std::size_t skipped = first * out.vector_stride, column = first * kLanes;
    const LinearArgs args{a,
                          rows,
                          layer.inner,
                          layer.weights.data() + column * layer.inner * bytes_of(layer.precision),
                          layer.bias.data() + column,
                          (end - first) * kLanes,
                          activation,
                          residual == nullptr ? nullptr : residual + skipped,
                          out.data + skipped,
                          out.tile_stride,
                          out.row_stride,
                          out.vector_stride};
    if (layer.precision == Precision::kInt8) {
      Scratch& scratch = scratch_[member.rank];
      kernels.quantize_rows({a, rows, layer.inner, scratch.integers.data(), scratch.scales.data()});
      kernels.linear_int8({args, scratch.integers.data(), scratch.scales.data(), layer.scales.data() + column,
                           layer.corrections.data() + column});
    } else {
      (layer.precision == Precision::kHalf ? kernels.linear_half : kernels.linear_float)(args);
    }
  }
  member.wait();
}

const float* TokenPass::normalise(const TokenWeights& model, const PackedNorm& norm, std::size_t rows,
                                  const Member& member) {
  const TokenModelConfig& config = model.config();
  float* normed = scratch_[member.rank].normed.data();
  model.kernels().layer_norm({x_.data(), rows, config.embed_dim, norm.weight.data(), norm.bias.data(),
                              config.layer_norm_epsilon, normed});
  return normed;
}

}  // namespace iris_fast
