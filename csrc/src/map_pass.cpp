#include "map_pass.hpp"

#include <algorithm>
#include <cmath>

#include "kernel_table.hpp"

namespace iris_fast {
namespace {

// As kLinesTogether.
constexpr std::size_t kBlocksTogether = 8, kRowsTogether = 48;

// Tiles whose components stay in the second-level cache with the weights.
std::size_t tiles_together(Winograd kind) { return kind == Winograd::kFour ? 12 : 24; }

void clear_border(float* padded, std::size_t resolution, std::size_t channels) {
  const std::size_t side = padded_side(resolution), right = (side - resolution - 1) * channels;
  std::fill_n(padded, side * channels, 0.0f);
  for (std::size_t y = 1; y <= resolution; ++y) {
    float* line = padded + y * side * channels;
    std::fill_n(line, channels, 0.0f);
    std::fill_n(line + (resolution + 1) * channels, right, 0.0f);
  }
  std::fill_n(padded + (resolution + 1) * side * channels, (side - resolution - 1) * side * channels, 0.0f);
}

}  // namespace

std::size_t padded_side(std::size_t resolution) { return round_up(resolution, 2) + 2; }

const float* MapPass::pad_frame(const float* frame, const float* background, std::size_t resolution,
                                std::size_t channels, AlignedBuffer<float>& buffer) {
  const std::size_t side = padded_side(resolution);
  float* padded = room_for(buffer, side * side * channels);
  clear_border(padded, resolution, channels);
  for (std::size_t c = 0; c < channels; ++c)
    for (std::size_t y = 0; y < resolution; ++y)
      for (std::size_t x = 0; x < resolution; ++x) {
        const std::size_t at = (c * resolution + y) * resolution + x;
        const float value = background == nullptr ? frame[at] : frame[at] - background[at] + 0.5f;
        padded[((y + 1) * side + x + 1) * channels + c] = value * 2.0f - 1.0f;
      }
  return padded;
}

// GroupNorm of one frame as a factor and an offset of each channel.
void MapPass::find_scale_and_shift(const PackedGroupNorm& norm, const float* x, std::size_t positions) {
  const std::size_t groups = norm.groups, width = norm.channels / groups;
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
  sum_channels(x, positions, channels, nullptr);
  for (std::size_t g = 0; g < groups; ++g)
    std::fill_n(&shift_[g * width], width, static_cast<float>(mean_of_group(g)));
  sum_channels(x, positions, channels, shift_.data());
  for (std::size_t g = 0; g < groups; ++g) {
    const double factor = 1.0 / std::sqrt(mean_of_group(g) + static_cast<double>(norm.epsilon));
    for (std::size_t c = g * width; c < (g + 1) * width; ++c) {
      const double scale = factor * static_cast<double>(norm.weight.data()[c]);
      scale_[c] = static_cast<float>(scale);
      shift_[c] = static_cast<float>(static_cast<double>(norm.bias.data()[c]) - scale * shift_[c]);
    }
  }
}

// The kernel's sums, to the bit: a block's by itself, and the blocks' in order.
void MapPass::sum_channels(const float* x, std::size_t positions, std::size_t channels, const float* center) {
  const std::size_t blocks = (positions + kSumBlock - 1) / kSumBlock;
  if (crew_ == nullptr || blocks < 2) {
    kernels_.norm.channel_sums(x, positions, channels, center, sums_.data());
    return;
  }
  float* found = room_for(block_sums_, blocks * channels);
  split(blocks, kBlocksTogether, [&](std::size_t, Share share) {
    for (std::size_t b = share.begin; b < share.end; ++b)
      kernels_.norm.channel_sums(x + b * kSumBlock * channels, std::min(kSumBlock, positions - b * kSumBlock),
                                 channels, center, found + b * channels);
  });
  std::copy_n(found, channels, sums_.data());
  for (std::size_t b = 1; b < blocks; ++b)
    for (std::size_t c = 0; c < channels; ++c) sums_[c] += found[b * channels + c];
}

const float* MapPass::pad(const FeatureMap& map, const PackedGroupNorm* norm, AlignedBuffer<float>& buffer) {
  const std::size_t side = padded_side(map.resolution), line = map.resolution * map.channels;
  float* padded = room_for(buffer, map.frames * side * side * map.channels);
  for (std::size_t f = 0; f < map.frames; ++f) {
    const float* x = map.data + f * map.frame_floats();
    float* frame = padded + f * side * side * map.channels;
    clear_border(frame, map.resolution, map.channels);
    if (norm != nullptr) find_scale_and_shift(*norm, x, map.positions());
    split(map.resolution, kLinesTogether, [&](std::size_t, Share share) {
      for (std::size_t y = share.begin; y < share.end; ++y) {
        float* out = frame + ((y + 1) * side + 1) * map.channels;
        if (norm == nullptr)
          std::copy_n(x + y * line, line, out);
        else
          kernels_.normalize(x + y * line, map.resolution, map.channels, scale_.data(), shift_.data(), true,
                             out);
      }
    });
  }
  return padded;
}

void MapPass::convolve(const PackedWinograd& conv, const float* padded, const FeatureMap& in,
                       const float* residual, const FeatureMap& out) {
  const WinogradSizes sizes = winograd_sizes(conv.kind);
  const WinogradTransforms& transforms = kernels_.winograd[static_cast<std::size_t>(conv.kind)];
  const std::size_t components = sizes.components * sizes.components, together = tiles_together(conv.kind);
  const std::size_t a_side = (out.resolution + sizes.outputs - 1) / sizes.outputs;
  const std::size_t tiles = in.frames * a_side * a_side, side = padded_side(in.resolution);
  // Not a power of two, or all components of a tile would compete for the same lines of the cache.
  const std::size_t in_stride = together * in.channels + kLanes,
                    out_stride = together * out.channels + kLanes;
  const std::size_t tap = 0, *offsets = row_offsets(together, in.channels);
  tile_rooms_.resize(std::max(tile_rooms_.size(), helpers()));
  for (std::size_t rank = 0; rank < helpers(); ++rank) {
    TileRoom& room = tile_rooms_[rank];
    room.tiles.resize(std::max(room.tiles.size(), together));
    room_for(room.components, components * in_stride);
    room_for(room.products, components * out_stride);
  }
  split((tiles + together - 1) / together, 1, [&](std::size_t rank, Share share) {
    TileRoom& room = tile_rooms_[rank];
    float *inputs = room.components.data(), *products = room.products.data();
    const std::size_t end = std::min(share.end * together, tiles);
    for (std::size_t first = share.begin * together; first < end; first += together) {
      const std::size_t count = std::min(together, end - first);
      for (std::size_t t = 0; t < count; ++t) {
        const std::size_t f = (first + t) / (a_side * a_side), within = (first + t) % (a_side * a_side);
        const std::size_t y = within / a_side, x = within % a_side;
        const std::size_t out_y = y * sizes.outputs, out_x = x * sizes.outputs;
        room.tiles[t] = {((f * side + sizes.step * y) * side + sizes.step * x) * in.channels,
                         ((f * out.resolution + out_y) * out.resolution + out_x) * out.channels,
                         static_cast<std::uint8_t>(std::min(sizes.outputs, out.resolution - out_y)),
                         static_cast<std::uint8_t>(std::min(sizes.outputs, out.resolution - out_x))};
      }
      const WinogradTile* here = room.tiles.data();
      transforms.input({padded, here, count, side * in.channels, in.channels, inputs, in_stride});
      for (std::size_t i = 0; i < components; ++i)
        kernels_.product({inputs + i * in_stride, offsets, count, &tap, 1, conv.inner,
                          conv.weights.data() + i * conv.inner * conv.columns, conv.columns, nullptr, nullptr,
                          products + i * out_stride, out.channels});
      transforms.output({products, out_stride, here, count, out.resolution * out.channels, out.channels,
                         conv.bias.data(), residual, out.data});
    }
  });
}

// Each frame's numbers are integers of a scale of their own, so that no frame's result depends on another's.
void MapPass::convolve(const PackedInt8Convolution& conv, const float* padded, const FeatureMap& in,
                       const float* residual, const FeatureMap& out) {
  const std::size_t side = padded_side(in.resolution), line = side * in.channels;
  const std::size_t taps[3] = {0, line, 2 * line}, step = out.resolution / in.resolution;
  unsigned char* integers = room_for(integers_, side * line);
  rows_.resize(in.positions());
  outs_.resize(in.positions());
  for (std::size_t f = 0; f < in.frames; ++f) {
    const float scale = kernels_.quantize(padded + f * side * line, side * line, integers);
    const std::size_t at = f * out.frame_floats();
    for (std::size_t part = 0; part < conv.products.size(); ++part) {
      const PackedLinear& product = conv.products[part];
      const std::size_t right = part % step, down = part / step;
      for (std::size_t p = 0; p < in.positions(); ++p) {
        const std::size_t y = p / in.resolution, x = p % in.resolution;
        rows_[p] = ((y + down) * side + x + right) * in.channels;
        outs_[p] = ((y * step + down) * out.resolution + x * step + right) * out.channels;
      }
      split(in.positions(), kRowsTogether, [&](std::size_t, Share share) {
        kernels_.product_int8({integers, rows_.data() + share.begin, outs_.data() + share.begin,
                               share.end - share.begin, taps, conv.lines, conv.inner, product.weights.data(),
                               product.columns, scale, product.scales.data(), product.corrections.data(),
                               product.bias.data(), residual == nullptr ? nullptr : residual + at,
                               out.data + at});
      });
    }
  }
}

void MapPass::convolve(const PackedProduct& conv, const float* padded, const FeatureMap& in,
                       std::size_t start, std::size_t stride, const FeatureMap& out) {
  const std::size_t side = padded_side(in.resolution);
  const std::size_t line = side * in.channels, taps[3] = {0, line, 2 * line};
  rows_.clear();
  for (std::size_t f = 0; f < in.frames; ++f)
    for (std::size_t y = 0; y < out.resolution; ++y)
      for (std::size_t x = 0; x < out.resolution; ++x)
        rows_.push_back(((f * side + y * stride + start) * side + x * stride + start) * in.channels);
  split(rows_.size(), kRowsTogether, [&](std::size_t, Share share) {
    kernels_.product({padded, rows_.data() + share.begin, share.end - share.begin, taps, conv.taps,
                      conv.inner, conv.weights.data(), conv.columns, conv.bias.data(), nullptr,
                      out.data + share.begin * out.channels, out.channels});
  });
}

void MapPass::multiply(const PackedProduct& layer, const float* x, std::size_t rows, std::size_t stride,
                       const float* residual, float* out) {
  const std::size_t tap = 0, *offsets = row_offsets(rows, stride);
  split(rows, kRowsTogether, [&](std::size_t, Share share) {
    const std::size_t at = share.begin * layer.columns;
    kernels_.product({x, offsets + share.begin, share.end - share.begin, &tap, 1, layer.inner,
                      layer.weights.data(), layer.columns, layer.bias.data(),
                      residual == nullptr ? nullptr : residual + at, out + at, layer.columns});
  });
}

const std::size_t* MapPass::row_offsets(std::size_t rows, std::size_t stride) {
  rows_.resize(rows);
  for (std::size_t r = 0; r < rows; ++r) rows_[r] = r * stride;
  return rows_.data();
}

}  // namespace iris_fast
