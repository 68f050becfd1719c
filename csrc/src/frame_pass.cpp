#include "iris_fast/frame_pass.hpp"

#include <algorithm>
#include <cmath>
#include <variant>

namespace iris_fast {
namespace {

constexpr std::size_t kMostGroupedFloats = 32 * 1024;  // of a frame's map; larger ones go one frame at a time
constexpr std::size_t kScoresTogether = 24;            // rows of attention's scores

// Tiles whose components stay in the second-level cache with the weights.
std::size_t tiles_together(Winograd kind) { return kind == Winograd::kFour ? 12 : 24; }

// Positions a side of a padded map: one around it, and one more where a tile of two sticks out.
std::size_t padded_side(std::size_t resolution) { return round_up(resolution, 2) + 2; }

bool is_large(const FrameLayer& layer) {
  return std::max(layer.in_floats(), layer.out_floats()) > kMostGroupedFloats;
}

}  // namespace

float* FramePass::room_for(AlignedBuffer<float>& buffer, std::size_t floats) {
  if (buffer.size() < floats) buffer = AlignedBuffer<float>(floats);
  return buffer.data();
}

void FramePass::decode(const std::int64_t* tokens, std::size_t count, float* frames, TaskContext& context) {
  const FrameModelConfig& config = model_.config();
  const auto& layers = model_.decoder().layers;
  const auto split =
      static_cast<std::size_t>(std::find_if(layers.begin(), layers.end(), is_large) - layers.begin());
  const Map small = run(layers, 0, split, look_up(tokens, count), group_, context);
  for (std::size_t f = 0; f < count; ++f) {
    const Map one{small.data + f * small.frame_floats(), 1, small.resolution, small.channels};
    finish_frame(run(layers, split, layers.size(), one, single_, context),
                 frames + f * config.frame_channels * config.resolution * config.resolution);
  }
}

void FramePass::encode(const float* frames, std::size_t count, float* latents, TaskContext& context) {
  const FrameModelConfig& config = model_.config();
  const auto& layers = model_.encoder().layers;
  const auto split =
      static_cast<std::size_t>(layers.rend() - std::find_if(layers.rbegin(), layers.rend(), is_large));
  Map small{nullptr, count, config.resolution, round_up(config.stem_width, kLanes)};
  if (split > 0) {
    small.resolution = layers[split - 1].out_resolution;
    small.channels = layers[split - 1].out_channels;
  }
  small.data = room_for(group_.first, count * small.frame_floats());
  for (std::size_t f = 0; f < count; ++f) {
    const float* frame = frames + f * config.frame_channels * config.resolution * config.resolution;
    const Map one = run(layers, 0, split, stem(frame), single_, context);
    std::copy_n(one.data, one.frame_floats(), small.data + f * small.frame_floats());
  }
  finish_latents(run(layers, split, layers.size(), small, group_, context), latents);
}

FramePass::Map FramePass::run(const std::vector<FrameLayer>& layers, std::size_t begin, std::size_t end,
                              Map map, Room& room, TaskContext& context) {
  for (std::size_t i = begin; i < end; ++i) {
    context.check();
    map = std::visit([&](const auto& layer) { return apply(layers[i], layer, map, room); }, layers[i].layer);
  }
  return map;
}

FramePass::Map FramePass::apply(const FrameLayer& sizes, const ResidualLayer& layer, Map map, Room& room) {
  Map hidden{nullptr, map.frames, map.resolution, sizes.out_channels};
  hidden.data = room_for(room.hidden, map.frames * hidden.frame_floats());
  convolve(layer.conv1, pad(map, &layer.norm1, room), map, nullptr, hidden);
  Map out = map;
  if (layer.shortcut) {
    out = {room_for(room.other(map.data), map.frames * sizes.out_floats()), map.frames, map.resolution,
           sizes.out_channels};
    multiply(*layer.shortcut, map.data, map.frames * map.positions(), map.channels, nullptr, out.data);
  }
  convolve(layer.conv2, pad(hidden, &layer.norm2, room), hidden, out.data, out);
  return out;
}

FramePass::Map FramePass::apply(const FrameLayer&, const AttentionLayer& layer, Map map, Room&) {
  for (std::size_t f = 0; f < map.frames; ++f)
    attend(layer, map.data + f * map.frame_floats(), map.positions(), map.channels);
  return map;
}

FramePass::Map FramePass::apply(const FrameLayer& sizes, const HalvingLayer& layer, Map map, Room& room) {
  const float* padded = pad(map, nullptr, room);
  const Map out{room_for(room.other(map.data), map.frames * sizes.out_floats()), map.frames,
                sizes.out_resolution, sizes.out_channels};
  convolve(layer.conv, padded, map, 1, 2, out);  // padding on the right and at the bottom alone
  return out;
}

FramePass::Map FramePass::apply(const FrameLayer& sizes, const DoublingLayer& layer, Map map, Room& room) {
  const float* padded = pad(map, nullptr, room);
  const Map out{room_for(room.other(map.data), map.frames * sizes.out_floats()), map.frames,
                sizes.out_resolution, sizes.out_channels};
  convolve(layer.conv, padded, map, nullptr, out);
  return out;
}

// The first 3 x 3 convolution of the decoder, out of the table of what each token adds to its neighbours.
FramePass::Map FramePass::look_up(const std::int64_t* tokens, std::size_t count) {
  const PackedDecoder& decoder = model_.decoder();
  const std::size_t side = model_.config().latent_resolution(), width = decoder.width;
  Map map{nullptr, count, side, width};
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

FramePass::Map FramePass::stem(const float* frame) {
  const FrameModelConfig& config = model_.config();
  const std::size_t size = config.resolution, channels = config.frame_channels, side = padded_side(size);
  float* padded = room_for(single_.padded, side * side * channels);
  clear_border(padded, size, channels);
  const float* background = model_.background();
  for (std::size_t c = 0; c < channels; ++c)
    for (std::size_t y = 0; y < size; ++y)
      for (std::size_t x = 0; x < size; ++x) {
        const std::size_t at = (c * size + y) * size + x;
        const float value = background == nullptr ? frame[at] : frame[at] - background[at] + 0.5f;
        padded[((y + 1) * side + x + 1) * channels + c] = value * 2.0f - 1.0f;
      }
  Map map{nullptr, 1, size, round_up(config.stem_width, kLanes)};
  map.data = room_for(single_.first, map.frame_floats());
  convolve(model_.encoder().conv_in, padded, {nullptr, 1, size, channels}, 0, 1, map);
  return map;
}

// The last 3 x 3 convolution of the decoder: every position's share in those around it, then their sums.
void FramePass::finish_frame(Map map, float* frame) {
  const PackedDecoder& decoder = model_.decoder();
  const std::size_t size = map.resolution, side = padded_side(size);
  const std::size_t channels = decoder.conv_out_bias.size(), columns = decoder.conv_out.columns;
  const float* padded = pad(map, &decoder.norm_out, single_);
  float* shares = room_for(shares_, side * side * columns);
  const float* background = model_.background();
  multiply(decoder.conv_out, padded, side * side, map.channels, nullptr, shares);
  for (std::size_t y = 0; y < size; ++y)
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
}

void FramePass::finish_latents(Map map, float* latents) {
  const PackedEncoder& encoder = model_.encoder();
  const std::size_t positions = map.frames * map.positions(), dim = model_.config().embed_dim;
  const float* padded = pad(map, &encoder.norm_out, group_);
  Map out{nullptr, map.frames, map.resolution, encoder.conv_out.columns};
  out.data = room_for(group_.hidden, positions * out.channels);
  convolve(encoder.conv_out, padded, map, 0, 1, out);
  float* found = room_for(latents_, positions * encoder.pre_quant.columns);
  multiply(encoder.pre_quant, out.data, positions, out.channels, nullptr, found);
  for (std::size_t p = 0; p < positions; ++p)
    std::copy_n(found + p * encoder.pre_quant.columns, dim, latents + p * dim);
}

// GroupNorm of one frame as a factor and an offset of each channel.
void FramePass::find_scale_and_shift(const PackedGroupNorm& norm, const float* x, std::size_t positions) {
  const std::size_t groups = model_.config().norm_groups, width = norm.channels / groups;
  const std::size_t channels = round_up(norm.channels, kLanes);
  const double count = static_cast<double>(positions) * static_cast<double>(width);
  sums_.resize(channels);
  scale_.assign(channels, 0.0f);
  shift_.assign(channels, 0.0f);  // holds the means until the variances are known
  const auto mean_of_group = [&](std::size_t group) {
    double sum = 0.0;
    for (std::size_t c = group * width; c < (group + 1) * width; ++c) sum += sums_[c];
    return sum / count;
  };
  kernels_.channel_sums(x, positions, channels, nullptr, sums_.data());
  for (std::size_t g = 0; g < groups; ++g)
    std::fill_n(&shift_[g * width], width, static_cast<float>(mean_of_group(g)));
  kernels_.channel_sums(x, positions, channels, shift_.data(), sums_.data());
  for (std::size_t g = 0; g < groups; ++g) {
    const double factor =
        1.0 / std::sqrt(mean_of_group(g) + static_cast<double>(model_.config().norm_epsilon));
    for (std::size_t c = g * width; c < (g + 1) * width; ++c) {
      const double scale = factor * static_cast<double>(norm.weight.data()[c]);
      scale_[c] = static_cast<float>(scale);
      shift_[c] = static_cast<float>(static_cast<double>(norm.bias.data()[c]) - scale * shift_[c]);
    }
  }
}

const float* FramePass::pad(const Map& map, const PackedGroupNorm* norm, Room& room) {
  const std::size_t side = padded_side(map.resolution), line = map.resolution * map.channels;
  float* padded = room_for(room.padded, map.frames * side * side * map.channels);
  for (std::size_t f = 0; f < map.frames; ++f) {
    const float* x = map.data + f * map.frame_floats();
    float* frame = padded + f * side * side * map.channels;
    clear_border(frame, map.resolution, map.channels);
    if (norm != nullptr) find_scale_and_shift(*norm, x, map.positions());
    for (std::size_t y = 0; y < map.resolution; ++y) {
      float* out = frame + ((y + 1) * side + 1) * map.channels;
      if (norm == nullptr)
        std::copy_n(x + y * line, line, out);
      else
        kernels_.normalize(x + y * line, map.resolution, map.channels, scale_.data(), shift_.data(), true,
                           out);
    }
  }
  return padded;
}

void FramePass::clear_border(float* padded, std::size_t resolution, std::size_t channels) {
  const std::size_t side = padded_side(resolution), right = (side - resolution - 1) * channels;
  std::fill_n(padded, side * channels, 0.0f);
  for (std::size_t y = 1; y <= resolution; ++y) {
    float* line = padded + y * side * channels;
    std::fill_n(line, channels, 0.0f);
    std::fill_n(line + (resolution + 1) * channels, right, 0.0f);
  }
  std::fill_n(padded + (resolution + 1) * side * channels, (side - resolution - 1) * side * channels, 0.0f);
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
  float* scores = room_for(scores_, kScoresTogether * keys);
  const float scale = 1.0f / std::sqrt(static_cast<float>(width));
  for (std::size_t first = 0; first < positions; first += kScoresTogether) {
    const std::size_t rows = std::min(kScoresTogether, positions - first);
    kernels_.product({qkv + first * 3 * channels, row_offsets(rows, 3 * channels), rows, &tap, 1, width,
                      packed_keys, keys, nullptr, nullptr, scores, keys});
    kernels_.softmax(scores, rows, keys, positions, scale);
    kernels_.product({scores, row_offsets(rows, keys), rows, &tap, 1, positions, packed_values, channels,
                      nullptr, nullptr, attended + first * channels, channels});
  }
  multiply(layer.projection, attended, positions, channels, x, x);
}

void FramePass::convolve(const PackedWinograd& conv, const float* padded, const Map& in,
                         const float* residual, Map out) {
  const WinogradSizes sizes = winograd_sizes(conv.kind);
  const WinogradTransforms& transforms = kernels_.winograd[static_cast<std::size_t>(conv.kind)];
  const std::size_t components = sizes.components * sizes.components, together = tiles_together(conv.kind);
  const std::size_t a_side = (out.resolution + sizes.outputs - 1) / sizes.outputs;
  const std::size_t tiles = in.frames * a_side * a_side, side = padded_side(in.resolution);
  // Not a power of two, or all components of a tile would compete for the same lines of the cache.
  const std::size_t in_stride = together * in.channels + kLanes,
                    out_stride = together * out.channels + kLanes;
  float* inputs = room_for(components_, components * in_stride);
  float* products = room_for(products_, components * out_stride);
  const std::size_t tap = 0, *offsets = row_offsets(together, in.channels);
  tiles_.resize(together);
  for (std::size_t first = 0; first < tiles; first += together) {
    const std::size_t count = std::min(together, tiles - first);
    for (std::size_t t = 0; t < count; ++t) {
      const std::size_t f = (first + t) / (a_side * a_side), within = (first + t) % (a_side * a_side);
      const std::size_t y = within / a_side, x = within % a_side;
      const std::size_t out_y = y * sizes.outputs, out_x = x * sizes.outputs;
      tiles_[t] = {((f * side + sizes.step * y) * side + sizes.step * x) * in.channels,
                   ((f * out.resolution + out_y) * out.resolution + out_x) * out.channels,
                   static_cast<std::uint8_t>(std::min(sizes.outputs, out.resolution - out_y)),
                   static_cast<std::uint8_t>(std::min(sizes.outputs, out.resolution - out_x))};
    }
    transforms.input({padded, tiles_.data(), count, side * in.channels, in.channels, inputs, in_stride});
    for (std::size_t i = 0; i < components; ++i)
      kernels_.product({inputs + i * in_stride, offsets, count, &tap, 1, conv.inner,
                        conv.weights.data() + i * conv.inner * conv.columns, conv.columns, nullptr, nullptr,
                        products + i * out_stride, out.channels});
    transforms.output({products, out_stride, tiles_.data(), count, out.resolution * out.channels,
                       out.channels, conv.bias.data(), residual, out.data});
  }
}

void FramePass::convolve(const PackedProduct& conv, const float* padded, const Map& in, std::size_t start,
                         std::size_t stride, Map out) {
  const std::size_t side = padded_side(in.resolution);
  const std::size_t line = side * in.channels, taps[3] = {0, line, 2 * line};
  rows_.clear();
  for (std::size_t f = 0; f < in.frames; ++f)
    for (std::size_t y = 0; y < out.resolution; ++y)
      for (std::size_t x = 0; x < out.resolution; ++x)
        rows_.push_back(((f * side + y * stride + start) * side + x * stride + start) * in.channels);
  kernels_.product({padded, rows_.data(), rows_.size(), taps, conv.taps, conv.inner, conv.weights.data(),
                    conv.columns, conv.bias.data(), nullptr, out.data, out.channels});
}

void FramePass::multiply(const PackedProduct& layer, const float* x, std::size_t rows, std::size_t stride,
                         const float* residual, float* out) {
  const std::size_t tap = 0;
  kernels_.product({x, row_offsets(rows, stride), rows, &tap, 1, layer.inner, layer.weights.data(),
                    layer.columns, layer.bias.data(), residual, out, layer.columns});
}

const std::size_t* FramePass::row_offsets(std::size_t rows, std::size_t stride) {
  rows_.resize(rows);
  for (std::size_t r = 0; r < rows; ++r) rows_[r] = r * stride;
  return rows_.data();
}

}  // namespace iris_fast
