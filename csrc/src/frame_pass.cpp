#include "frame_pass.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <variant>

namespace iris_fast {
namespace {

constexpr std::size_t kScoresTogether = 24;  // rows of attention's scores, or of distances to codewords

bool is_large(const FrameLayer& layer) {
  return std::max(layer.in_floats(), layer.out_floats()) > kMostGroupedFloats;
}

// The largest error of the difference of two scores, relative to the magnitude of their terms.
float error_of_scores(std::size_t dim) {
  const float size = static_cast<float>(dim);
  return 2.0f * std::numeric_limits<float>::epsilon() * (8.0f + std::min(size, 8.0f * std::sqrt(size)));
}

double squared_distance(const float* x, const float* e, std::size_t dim) {
  double sum = 0.0;
  for (std::size_t i = 0; i < dim; ++i) {
    const double difference = static_cast<double>(x[i]) - static_cast<double>(e[i]);
    sum += difference * difference;
  }
  return sum;
}

}  // namespace

void FramePass::decode(const std::int64_t* tokens, std::size_t count, float* frames, TaskContext& context) {
  const FrameModelConfig& config = model_.config();
  const auto& layers = model_.decoder().layers;
  const auto split =
      static_cast<std::size_t>(std::find_if(layers.begin(), layers.end(), is_large) - layers.begin());
  const FeatureMap small = run(layers, 0, split, look_up(tokens, count), group_, context);
  for (std::size_t f = 0; f < count; ++f) {
    const FeatureMap one{small.data + f * small.frame_floats(), 1, small.resolution, small.channels};
    finish_frame(run(layers, split, layers.size(), one, single_, context),
                 frames + f * config.frame_floats());
  }
}

void FramePass::encode(const float* frames, std::size_t count, float* latents, TaskContext& context) {
  const std::size_t rows = count * model_.config().tokens_per_frame(), dim = model_.config().embed_dim;
  const float* found = find_latents(frames, count, context);
  for (std::size_t r = 0; r < rows; ++r)
    std::copy_n(found + r * model_.encoder().pre_quant.columns, dim, latents + r * dim);
}

void FramePass::tokenize(const float* frames, std::size_t count, std::int64_t* tokens, TaskContext& context) {
  const PackedCodebook& codebook = model_.encoder().codebook;
  const std::size_t rows = count * model_.config().tokens_per_frame(), dim = model_.config().embed_dim;
  const std::size_t stride = model_.encoder().pre_quant.columns, columns = codebook.scores.columns;
  const float* latents = find_latents(frames, count, context);
  float* scores = room_for(distances_, kScoresTogether * columns);
  float* shifted = room_for(shifted_, kScoresTogether * dim);
  for (std::size_t first = 0; first < rows; first += kScoresTogether) {
    const std::size_t together = std::min(kScoresTogether, rows - first);
    const float* here = latents + first * stride;
    for (std::size_t r = 0; r < together; ++r)
      for (std::size_t i = 0; i < dim; ++i)
        shifted[r * dim + i] = here[r * stride + i] - codebook.centre.data()[i];
    multiply(codebook.scores, shifted, together, dim, nullptr, scores);
    for (std::size_t r = 0; r < together; ++r)
      tokens[first + r] = nearest(here + r * stride, shifted + r * dim, scores + r * columns);
  }
}

// The codeword nearest to the latent `x` by its scores, and by differences where rounding leaves several.
// With overflow or NaN, every codeword stays a candidate.
std::int64_t FramePass::nearest(const float* x, const float* shifted, const float* scores) const {
  const PackedCodebook& codebook = model_.encoder().codebook;
  const std::size_t dim = model_.config().embed_dim, vocabulary = model_.config().vocabulary;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  float best = kInfinity, square = 0.0f;
  for (std::size_t k = 0; k < vocabulary; ++k) best = std::min(best, scores[k]);
  for (std::size_t i = 0; i < dim; ++i) square += shifted[i] * shifted[i];
  const float norm = std::sqrt(square), distance = std::sqrt(std::max(square + best, 0.0f));
  const float reach = 1.01f * std::min(norm + distance, codebook.longest);
  const float magnitude = reach * (reach + 2.0f * norm);
  const float limit =
      best + error_of_scores(dim) * magnitude + static_cast<float>(dim) * std::numeric_limits<float>::min();
  const bool bounded = std::isfinite(8.0f * magnitude) && std::isfinite(limit);
  std::int64_t found = 0;
  std::size_t candidates = 0;
  for (std::size_t k = 0; k < vocabulary; ++k)
    if (!bounded || scores[k] <= limit) {
      if (candidates++ == 0) found = static_cast<std::int64_t>(k);
    }
  if (candidates < 2) return found;
  double least = std::numeric_limits<double>::infinity();
  found = 0;
  for (std::size_t k = 0; k < vocabulary; ++k) {
    if (bounded && !(scores[k] <= limit)) continue;
    const double exact = squared_distance(x, codebook.codewords.data() + k * dim, dim);
    if (exact < least) {
      least = exact;
      found = static_cast<std::int64_t>(k);
    }
  }
  return found;
}

const float* FramePass::find_latents(const float* frames, std::size_t count, TaskContext& context) {
  const FrameModelConfig& config = model_.config();
  const auto& layers = model_.encoder().layers;
  const auto split =
      static_cast<std::size_t>(layers.rend() - std::find_if(layers.rbegin(), layers.rend(), is_large));
  FeatureMap small{nullptr, count, config.resolution, round_up(config.stem_width, kLanes)};
  if (split > 0) {
    small.resolution = layers[split - 1].out_resolution;
    small.channels = layers[split - 1].out_channels;
  }
  small.data = room_for(group_.first, count * small.frame_floats());
  for (std::size_t f = 0; f < count; ++f) {
    const float* frame = frames + f * config.frame_floats();
    const FeatureMap one = run(layers, 0, split, stem(frame), single_, context);
    std::copy_n(one.data, one.frame_floats(), small.data + f * small.frame_floats());
  }
  return finish_latents(run(layers, split, layers.size(), small, group_, context));
}

FeatureMap FramePass::run(const std::vector<FrameLayer>& layers, std::size_t begin, std::size_t end,
                          FeatureMap map, Room& room, TaskContext& context) {
  for (std::size_t i = begin; i < end; ++i) {
    context.check();
    map = std::visit([&](const auto& layer) { return apply(layers[i], layer, map, room); }, layers[i].layer);
  }
  return map;
}

FeatureMap FramePass::apply(const FrameLayer& sizes, const ResidualLayer& layer, FeatureMap map, Room& room) {
  FeatureMap hidden{nullptr, map.frames, map.resolution, sizes.out_channels};
  hidden.data = room_for(room.hidden, map.frames * hidden.frame_floats());
  convolve(layer.conv1, pad(map, &layer.norm1, room.padded), map, nullptr, hidden);
  FeatureMap out = map;
  if (layer.shortcut) {
    out = {room_for(room.other(map.data), map.frames * sizes.out_floats()), map.frames, map.resolution,
           sizes.out_channels};
    multiply(*layer.shortcut, map.data, map.frames * map.positions(), map.channels, nullptr, out.data);
  }
  convolve(layer.conv2, pad(hidden, &layer.norm2, room.padded), hidden, out.data, out);
  return out;
}

FeatureMap FramePass::apply(const FrameLayer&, const AttentionLayer& layer, FeatureMap map, Room&) {
  for (std::size_t f = 0; f < map.frames; ++f)
    attend(layer, map.data + f * map.frame_floats(), map.positions(), map.channels);
  return map;
}

FeatureMap FramePass::apply(const FrameLayer& sizes, const HalvingLayer& layer, FeatureMap map, Room& room) {
  const float* padded = pad(map, nullptr, room.padded);
  const FeatureMap out{room_for(room.other(map.data), map.frames * sizes.out_floats()), map.frames,
                       sizes.out_resolution, sizes.out_channels};
  convolve(layer.conv, padded, map, 1, 2, out);  // padding on the right and at the bottom alone
  return out;
}

FeatureMap FramePass::apply(const FrameLayer& sizes, const DoublingLayer& layer, FeatureMap map, Room& room) {
  const float* padded = pad(map, nullptr, room.padded);
  const FeatureMap out{room_for(room.other(map.data), map.frames * sizes.out_floats()), map.frames,
                       sizes.out_resolution, sizes.out_channels};
  convolve(layer.conv, padded, map, nullptr, out);
  return out;
}

// The first 3 x 3 convolution of the decoder, out of the table of what each token adds to its neighbours.
FeatureMap FramePass::look_up(const std::int64_t* tokens, std::size_t count) {
  const PackedDecoder& decoder = model_.decoder();
  const std::size_t side = model_.config().latent_resolution(), width = decoder.width;
  FeatureMap map{nullptr, count, side, width};
  map.data = room_for(group_.first, count * map.frame_floats());
  float* out = map.data;
  for (std::size_t f = 0; f < count; ++f, tokens += side * side)
    for (std::size_t y = 0; y < side; ++y)
      for (std::size_t x = 0; x < side; ++x, out += width) {
        std::copy_n(decoder.bias.data(), width, out);
        for (std::size_t tap = 0; tap < 9; ++tap) {
          const std::size_t from_y = y + tap / 3 - 1, from_x = x + tap % 3 - 1;  // wraps round below zero
          if (from_y >= side || from_x >= side) continue;
          const auto token = static_cast<std::size_t>(tokens[from_y * side + from_x]);
          const float* share = decoder.table.data() + (token * 9 + tap) * width;
          for (std::size_t c = 0; c < width; ++c) out[c] += share[c];
        }
      }
  return map;
}

FeatureMap FramePass::stem(const float* frame) {
  const FrameModelConfig& config = model_.config();
  const std::size_t size = config.resolution, channels = config.frame_channels;
  const float* padded = pad_frame(frame, model_.background(), size, channels, single_.padded);
  FeatureMap map{nullptr, 1, size, round_up(config.stem_width, kLanes)};
  map.data = room_for(single_.first, map.frame_floats());
  convolve(model_.encoder().conv_in, padded, {nullptr, 1, size, channels}, 0, 1, map);
  return map;
}

// The last 3 x 3 convolution of the decoder: every position's share in those around it, then their sums.
void FramePass::finish_frame(FeatureMap map, float* frame) {
  const PackedDecoder& decoder = model_.decoder();
  const std::size_t size = map.resolution, side = padded_side(size);
  const std::size_t channels = decoder.conv_out_bias.size(), columns = decoder.conv_out.columns;
  const float* padded = pad(map, &decoder.norm_out, single_.padded);
  float* shares = room_for(shares_, side * side * columns);
  const float* background = model_.background();
  multiply(decoder.conv_out, padded, side * side, map.channels, nullptr, shares);
  split(size, kLinesTogether, [&](std::size_t, Share lines) {
    for (std::size_t y = lines.begin; y < lines.end; ++y)
      for (std::size_t x = 0; x < size; ++x)
        for (std::size_t c = 0; c < channels; ++c) {
          const float* share = shares + (y * side + x) * columns + c;
          float sum = decoder.conv_out_bias[c];
          for (std::size_t tap = 0; tap < 9; ++tap)
            sum += share[(tap / 3 * side + tap % 3) * columns + tap * channels];
          const std::size_t at = (c * size + y) * size + x;
          float value = (sum + 1.0f) / 2.0f;
          if (background != nullptr) value = value - 0.5f + background[at];
          frame[at] = value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value;
        }
  });
}

const float* FramePass::finish_latents(FeatureMap map) {
  const PackedEncoder& encoder = model_.encoder();
  const std::size_t positions = map.frames * map.positions();
  const float* padded = pad(map, &encoder.norm_out, group_.padded);
  FeatureMap out{nullptr, map.frames, map.resolution, encoder.conv_out.columns};
  out.data = room_for(group_.hidden, positions * out.channels);
  convolve(encoder.conv_out, padded, map, 0, 1, out);
  float* found = room_for(latents_, positions * encoder.pre_quant.columns);
  multiply(encoder.pre_quant, out.data, positions, out.channels, nullptr, found);
  return found;
}

void FramePass::attend(const AttentionLayer& layer, float* x, std::size_t positions, std::size_t channels) {
  const std::size_t panel = kernels_.panel_vectors * kLanes, width = layer.norm.channels;
  const std::size_t keys = round_up(positions, kLanes), tap = 0;
  float* normed = room_for(normed_, positions * channels);
  find_scale_and_shift(layer.norm, x, positions);
  kernels_.normalize(x, positions, channels, scale_.data(), shift_.data(), false, normed);
  float* qkv = room_for(qkv_, positions * 3 * channels);
  multiply(layer.qkv, normed, positions, channels, nullptr, qkv);
  float* packed_keys = room_for(keys_, width * keys);
  float* packed_values = room_for(values_, positions * channels);
  std::fill_n(packed_keys, width * keys, 0.0f);
  for (std::size_t start = 0; start < keys; start += panel) {  // keys are columns
    const std::size_t columns = std::min(panel, keys - start);
    for (std::size_t p = start; p < std::min(start + columns, positions); ++p)
      for (std::size_t c = 0; c < width; ++c)
        packed_keys[start * width + c * columns + p - start] = qkv[p * 3 * channels + channels + c];
  }
  for (std::size_t start = 0; start < channels; start += panel) {  // channels are columns
    const std::size_t columns = std::min(panel, channels - start);
    for (std::size_t p = 0; p < positions; ++p)
      std::copy_n(qkv + p * 3 * channels + 2 * channels + start, columns,
                  packed_values + start * positions + p * columns);
  }
  float* attended = room_for(attended_, positions * channels);
  float* all_scores = room_for(scores_, helpers() * kScoresTogether * keys);
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  std::size_t query_rows[kScoresTogether], score_rows[kScoresTogether];
  for (std::size_t r = 0; r < kScoresTogether; ++r) {
    query_rows[r] = r * 3 * channels;
    score_rows[r] = r * keys;
  }
  split((positions + kScoresTogether - 1) / kScoresTogether, 1, [&](std::size_t rank, Share share) {
    float* scores = all_scores + rank * kScoresTogether * keys;
    const std::size_t end = std::min(share.end * kScoresTogether, positions);
    for (std::size_t first = share.begin * kScoresTogether; first < end; first += kScoresTogether) {
      const std::size_t rows = std::min(kScoresTogether, end - first);
      kernels_.product({qkv + first * 3 * channels, query_rows, rows, &tap, 1, width, packed_keys, keys,
                        nullptr, nullptr, scores, keys});
      kernels_.softmax(scores, rows, keys, positions, scale);
      kernels_.product({scores, score_rows, rows, &tap, 1, positions, packed_values, channels, nullptr,
                        nullptr, attended + first * channels, channels});
    }
  });
  multiply(layer.projection, attended, positions, channels, x, x);
}

}  // namespace iris_fast
