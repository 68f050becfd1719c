// The kernels over feature maps: every SIMD level of this machine against plain loops in double precision,
// and bit for bit against the portable one.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>
#include <vector>

#include "check.hpp"
#include "levels.hpp"
#include "philox.hpp"
#include "simd_level.hpp"

using namespace iris_fast;

namespace {

constexpr double kRounding = 0x1p-24;

// `weight` (inner, columns) by panels.
std::vector<float> packed(const FrameKernels& kernels, const float* weight, std::size_t inner,
                          std::size_t columns) {
  const std::size_t panel = kernels.panel_vectors * kLanes;
  std::vector<float> result(inner * columns);
  for (std::size_t c = 0; c < columns; ++c) {
    const std::size_t start = c / panel * panel, width = std::min(panel, columns - start);
    for (std::size_t k = 0; k < inner; ++k)
      result[start * inner + k * width + c % panel] = weight[k * columns + c];
  }
  return result;
}

// Rows that overlap and lie out of order, and taps apart, as a convolution reads them.
void check_product(std::size_t rows, std::size_t taps, std::size_t inner, std::size_t columns, bool added) {
  std::vector<std::size_t> row_offsets(rows), tap_offsets(taps);
  for (std::size_t r = 0; r < rows; ++r) row_offsets[r] = (r * 7) % rows * 3;
  for (std::size_t t = 0; t < taps; ++t) tap_offsets[t] = t * (inner + 5);
  const auto a = noise(3 * rows + taps * (inner + 5), 1), weight = noise(taps * inner * columns, 2);
  const auto bias = noise(columns, 3);
  const std::size_t stride = columns + 8;
  const auto before = added ? noise(rows * stride, 4) : std::vector<float>(rows * stride, kPoison);
  const auto out = at_every_frame_level([&](const FrameKernels& kernels) {
    const auto weights = packed(kernels, weight.data(), taps * inner, columns);
    auto result = before;
    kernels.product({a.data(), row_offsets.data(), rows, tap_offsets.data(), taps, inner, weights.data(),
                     columns, added ? bias.data() : nullptr, added ? result.data() : nullptr, result.data(),
                     stride});
    return result;
  });
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < stride; ++c) {
      if (c >= columns) {
        CHECK(out[r * stride + c] == before[r * stride + c]);
        continue;
      }
      double sum = added ? static_cast<double>(bias[c]) + before[r * stride + c] : 0.0, size = std::fabs(sum);
      for (std::size_t t = 0; t < taps; ++t)
        for (std::size_t k = 0; k < inner; ++k) {
          const double term = static_cast<double>(a[row_offsets[r] + tap_offsets[t] + k]) *
                              weight[(t * inner + k) * columns + c];
          sum += term;
          size += std::fabs(term);
        }
      CHECK(std::fabs(out[r * stride + c] - sum) <=
            4 * kRounding * std::sqrt(static_cast<double>(taps * inner)) * (size + 1.0));
    }
}

void products_are_exact_to_rounding() {
  for (const std::size_t rows : {1, 2, 5, 6, 7, 8, 11, 12, 13, 29}) check_product(rows, 1, 16, 64, false);
  for (const std::size_t columns : {16, 32, 48, 80, 144}) check_product(9, 1, 24, columns, true);
  check_product(10, 3, 9, 64, true);
  check_product(7, 3, 48, 16, true);
  check_product(3, 1, 1, 16, false);
}

// The rows of G: the points' powers over the product of the point's differences from the others.
std::vector<std::array<double, 3>> filter_lines(Winograd kind) {
  if (kind == Winograd::kEnlarged) return {{1, 0, 0}, {0.5, 0.5, 0.5}, {0, 0, 1}};
  std::vector<double> points{0, 1, -1};
  constexpr double kRoot = kSquareRootOfHalf;
  if (kind == Winograd::kFour) points = {0, kRoot, -kRoot, 2 * kRoot, -2 * kRoot};
  std::vector<std::array<double, 3>> lines;
  for (const double point : points) {
    double factor = 1.0;
    for (const double other : points)
      if (other != point) factor *= point - other;
    // F(2, 3) is usually written with the first component, and its input, negated.
    if (kind == Winograd::kTwo) factor = std::fabs(factor);
    lines.push_back({1 / factor, point / factor, point * point / factor});
  }
  lines.push_back({0, 0, 1});
  return lines;
}

struct Convolution {
  Winograd kind;
  std::size_t height, width, in_channels, out_channels;  // of the output

  std::size_t scale() const { return kind == Winograd::kEnlarged ? 2 : 1; }
  std::size_t padded_width() const { return width / scale() + 6; }
  std::size_t padded_size() const { return (height / scale() + 6) * padded_width() * in_channels; }

  // The input with zeros around it.
  std::vector<float> padded() const {
    auto x = noise(padded_size(), 11);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t position = i / in_channels, y = position / padded_width(),
                        col = position % padded_width();
      if (y == 0 || col == 0 || y > height / scale() || col > width / scale()) x[i] = 0.0f;
    }
    return x;
  }

  std::vector<float> filters() const { return noise(out_channels * in_channels * 9, 12); }  // (out, in, 3, 3)

  std::vector<float> run(const FrameKernels& kernels, bool residual) const {
    const WinogradSizes sizes = winograd_sizes(kind);
    const auto lines = filter_lines(kind);
    const auto x = padded(), g = filters(), bias = noise(out_channels, 13);
    std::vector<WinogradTile> tiles;
    for (std::size_t y = 0; y < height; y += sizes.outputs)
      for (std::size_t col = 0; col < width; col += sizes.outputs)
        tiles.push_back({(y / scale() * padded_width() + col / scale()) * in_channels,
                         (y * width + col) * out_channels,
                         static_cast<std::uint8_t>(std::min(sizes.outputs, height - y)),
                         static_cast<std::uint8_t>(std::min(sizes.outputs, width - col))});
    const std::size_t count = tiles.size(), in_stride = count * in_channels + 16;
    const std::size_t out_stride = count * out_channels + 16;
    const std::size_t components = sizes.components * sizes.components;
    std::vector<float> inputs(components * in_stride, kPoison), products(components * out_stride, kPoison);
    std::vector<std::size_t> rows(count);
    for (std::size_t t = 0; t < count; ++t) rows[t] = t * in_channels;
    const WinogradTransforms& transforms = kernels.winograd[static_cast<std::size_t>(kind)];
    transforms.input(
        {x.data(), tiles.data(), count, padded_width() * in_channels, in_channels, inputs.data(), in_stride});
    for (std::size_t i = 0; i < components; ++i) {
      std::vector<float> weight(in_channels * out_channels);
      for (std::size_t k = 0; k < in_channels; ++k)
        for (std::size_t o = 0; o < out_channels; ++o) {
          double sum = 0.0;
          for (std::size_t tap = 0; tap < 9; ++tap)
            sum += lines[i / sizes.components][tap / 3] * lines[i % sizes.components][tap % 3] *
                   g[(o * in_channels + k) * 9 + tap];
          weight[k * out_channels + o] = static_cast<float>(sum);
        }
      const auto weights = packed(kernels, weight.data(), in_channels, out_channels);
      const std::size_t tap = 0;
      kernels.product({inputs.data() + i * in_stride, rows.data(), count, &tap, 1, in_channels,
                       weights.data(), out_channels, nullptr, nullptr, products.data() + i * out_stride,
                       out_channels});
    }
    auto out = residual ? noise(height * width * out_channels, 14)
                        : std::vector<float>(height * width * out_channels, kPoison);
    transforms.output({products.data(), out_stride, tiles.data(), count, width * out_channels, out_channels,
                       bias.data(), residual ? out.data() : nullptr, out.data()});
    return out;
  }

  void check(bool residual) const {
    const auto out =
        at_every_frame_level([&](const FrameKernels& kernels) { return run(kernels, residual); });
    const auto x = padded(), g = filters(), bias = noise(out_channels, 13);
    const auto before = noise(out.size(), 14);
    for (std::size_t y = 0; y < height; ++y)
      for (std::size_t col = 0; col < width; ++col)
        for (std::size_t o = 0; o < out_channels; ++o) {
          const std::size_t at = (y * width + col) * out_channels + o;
          double sum = static_cast<double>(bias[o]) + (residual ? before[at] : 0.0f);
          for (std::size_t tap = 0; tap < 9; ++tap) {
            // Positions are counted from the padding on; enlarged ones map back to those they are copies of.
            const std::size_t from_y = (y + tap / 3 + scale() - 1) / scale();
            const std::size_t from_x = (col + tap % 3 + scale() - 1) / scale();
            for (std::size_t k = 0; k < in_channels; ++k)
              sum += static_cast<double>(x[(from_y * padded_width() + from_x) * in_channels + k]) *
                     g[(o * in_channels + k) * 9 + tap];
          }
          CHECK(std::fabs(out[at] - sum) <=
                64 * kRounding * std::sqrt(9.0 * static_cast<double>(in_channels)));
        }
  }
};

void winograd_convolutions_are_exact_to_rounding() {
  for (const Winograd kind : {Winograd::kTwo, Winograd::kFour, Winograd::kEnlarged}) {
    Convolution{kind, 8, 12, 16, 16}.check(false);
    Convolution{kind, 8, 4, 32, 80}.check(true);
  }
  Convolution{Winograd::kTwo, 5, 7, 16, 32}.check(true);  // tiles that stick out
  Convolution{Winograd::kTwo, 1, 1, 16, 16}.check(false);
  Convolution{Winograd::kFour, 5, 6, 16, 16}.check(false);
}

void channel_sums_are_exact_to_rounding() {
  for (const std::size_t positions : {1, 3, 64, 65, 300}) {
    const std::size_t channels = 48;
    const auto x = noise(positions * channels, 21), center = noise(channels, 22);
    for (const bool centered : {false, true}) {
      const auto sums = at_every_frame_level([&](const FrameKernels& kernels) {
        std::vector<float> result(channels, kPoison);
        kernels.norm.channel_sums(x.data(), positions, channels, centered ? center.data() : nullptr,
                                  result.data());
        return result;
      });
      for (std::size_t c = 0; c < channels; ++c) {
        double sum = 0.0, size = 0.0;
        for (std::size_t p = 0; p < positions; ++p) {
          const double value = x[p * channels + c], apart = value - center[c];
          sum += centered ? apart * apart : value;
          size += centered ? apart * apart : std::fabs(value);
        }
        CHECK(std::fabs(sums[c] - sum) <= 8 * kRounding * (size + 1.0));
      }
    }
  }
}

// Nearest bfloat16, to even on ties, of numbers in range.
BFloat16 to_bfloat16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return {static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

float from_bfloat16(BFloat16 x) {
  const std::uint32_t bits = static_cast<std::uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// With no groups and nothing to scale, apply and gradient only load and store.
void bfloat16_is_stored_to_nearest() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float numbers[] = {0.0f,           -0.0f,        1.0f,      0x1.01p0f, 0x1.03p0f,
                           -0x1.010001p0f, 0x1.fffp127f, 0x1p-140f, kInfinity, -kInfinity};
  std::vector<float> shift(kLanes, 0.0f);
  std::copy(std::begin(numbers), std::end(numbers), shift.begin());
  shift[15] = std::nanf("");
  const std::vector<BFloat16> x(kLanes, BFloat16{0});
  const std::vector<float> none(kLanes, 0.0f);
  const auto out = at_every_frame_level([&](const FrameKernels& kernels) {
    std::vector<BFloat16> result(kLanes);
    kernels.norm_bfloat16.apply({x.data(), 1, kLanes, none.data(), none.data(), shift.data(), false},
                                result.data());
    return result;
  });
  for (std::size_t i = 0; i < std::size(numbers); ++i) {
    // fma(0, 0, -0) is 0.
    CHECK(out[i].bits == to_bfloat16(numbers[i] == 0.0f ? 0.0f : numbers[i]).bits);
  }
  CHECK(std::isnan(from_bfloat16(out[15])));
}

void group_norm_of_bfloat16_is_that_of_float_rounded() {
  const std::size_t positions = 65, channels = 48;
  const auto noisy = noise(2 * positions * channels, 28);
  const auto center = noise(channels, 25), scale = noise(channels, 26), shift = noise(channels, 27);
  std::vector<BFloat16> x;
  std::vector<float> wide;
  for (const float value : noisy) {
    x.push_back(to_bfloat16(value));
    wide.push_back(from_bfloat16(x.back()));
  }
  const std::size_t size = positions * channels;
  for (const bool swish : {false, true}) {
    const auto all = at_every_frame_level([&](const FrameKernels& kernels) {
      const GroupNormArgs<BFloat16> args{x.data(),     positions,    channels, center.data(),
                                         scale.data(), shift.data(), swish};
      const GroupNormArgs<float> same{wide.data(),  positions,    channels, center.data(),
                                      scale.data(), shift.data(), swish};
      std::vector<BFloat16> out(size), inner(size);
      std::vector<float> exact(size), sums(8 * channels);
      kernels.norm_bfloat16.apply(args, out.data());
      kernels.norm.apply(same, exact.data());
      for (std::size_t i = 0; i < size; ++i) CHECK(out[i].bits == to_bfloat16(exact[i]).bits);
      kernels.norm_bfloat16.gradient(args, &x[size], scale.data(), shift.data(), out.data());
      kernels.norm.gradient(same, &wide[size], scale.data(), shift.data(), exact.data());
      for (std::size_t i = 0; i < size; ++i) CHECK(out[i].bits == to_bfloat16(exact[i]).bits);
      float *ours = sums.data(), *theirs = ours + 4 * channels;
      kernels.norm_bfloat16.gradient_sums(args, &x[size], inner.data(), ours, ours + channels);
      kernels.norm.gradient_sums(same, &wide[size], exact.data(), theirs, theirs + channels);
      kernels.norm_bfloat16.channel_moments(x.data(), positions, channels, center.data(), ours + 2 * channels,
                                            ours + 3 * channels);
      kernels.norm.channel_moments(wide.data(), positions, channels, center.data(), theirs + 2 * channels,
                                   theirs + 3 * channels);
      for (std::size_t i = 0; i < 4 * channels; ++i) CHECK(ours[i] == theirs[i]);
      if (swish)
        for (std::size_t i = 0; i < size; ++i) CHECK(inner[i].bits == to_bfloat16(exact[i]).bits);
      return sums;
    });
    CHECK(all.size() == 8 * channels);
  }
}

void group_norm_gives_equal_bits_at_every_level() {
  for (const std::size_t positions : {1, 3, 64, 65, 300}) {
    const std::size_t channels = 48;
    const auto x = noise(positions * channels, 23), grad = noise(positions * channels, 24);
    const auto center = noise(channels, 25), scale = noise(channels, 26), shift = noise(channels, 27);
    for (const bool swish : {false, true}) {
      const GroupNormArgs<float> args{x.data(),     positions,    channels, center.data(),
                                      scale.data(), shift.data(), swish};
      const auto all = at_every_frame_level([&](const FrameKernels& kernels) {
        std::vector<float> result(3 * x.size() + 4 * channels, 0.0f);
        float *inner = &result[x.size()], *out = inner + x.size(), *sums = out + x.size();
        kernels.norm.apply(args, result.data());
        kernels.norm.gradient_sums(args, grad.data(), inner, sums, sums + channels);
        kernels.norm.channel_moments(x.data(), positions, channels, center.data(), sums + 2 * channels,
                                     sums + 3 * channels);
        kernels.norm.gradient(args, grad.data(), scale.data(), shift.data(), out);
        return result;
      });
      for (std::size_t i = 0; i < x.size(); ++i) {
        const std::size_t c = i % channels;
        const double apart = static_cast<double>(x[i]) - center[c], normed = apart * scale[c] + shift[c];
        const double expected = swish ? normed / (1.0 + std::exp(-normed)) : normed;
        const double gradient = static_cast<double>(grad[i]) * scale[c] + apart * scale[c] + shift[c];
        CHECK(std::fabs(all[i] - expected) <= 16 * kRounding);
        CHECK(std::fabs(all[2 * x.size() + i] - gradient) <= 16 * kRounding);
      }
    }
  }
}

void normalize_is_exact_to_rounding() {
  const std::size_t positions = 7, channels = 32;
  auto x = noise(positions * channels, 31), scale = noise(channels, 32);
  const auto shift = noise(channels, 33);
  for (float& value : scale) value *= 20.0f;
  for (const bool swish : {false, true}) {
    const auto out = at_every_frame_level([&](const FrameKernels& kernels) {
      std::vector<float> result(x.size(), kPoison);
      kernels.normalize(x.data(), positions, channels, scale.data(), shift.data(), swish, result.data());
      return result;
    });
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double normed = static_cast<double>(x[i]) * scale[i % channels] + shift[i % channels];
      const double expected = swish ? normed / (1.0 + std::exp(-normed)) : normed;
      CHECK(std::fabs(out[i] - expected) <= 8 * kRounding * (std::fabs(normed) + 0.1));
    }
  }
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> special(kLanes, 0.0f), ones(kLanes, 1.0f), zeros(kLanes, 0.0f);
  special[1] = infinity;
  special[2] = std::numeric_limits<float>::quiet_NaN();
  special[3] = -200.0f;
  special[4] = 200.0f;
  const auto found = at_every_frame_level([&](const FrameKernels& kernels) {
    std::vector<float> result(kLanes, kPoison);
    kernels.normalize(special.data(), 1, kLanes, ones.data(), zeros.data(), true, result.data());
    result[2] = std::isnan(result[2]) ? 1.0f : 0.0f;  // a NaN's bits are the processor's affair
    return result;
  });
  CHECK(found[0] == 0.0f && found[1] == infinity && found[2] == 1.0f && found[3] == 0.0f &&
        found[4] == 200.0f);
}

void pool_takes_the_largest_of_four_and_zero() {
  const std::size_t channels = 32;
  for (const std::size_t size : {1, 2, 6, 7}) {
    const auto x = noise(size * size * channels, 51);
    const std::size_t half = size / 2;
    const auto out = at_every_frame_level([&](const FrameKernels& kernels) {
      std::vector<float> result(half * half * channels, kPoison);
      kernels.pool(x.data(), size, channels, result.data());
      return result;
    });
    for (std::size_t i = 0; i < out.size(); ++i) {
      const std::size_t c = i % channels, y = i / channels / half, col = i / channels % half;
      float largest = 0.0f;
      for (std::size_t at : {2 * y * size + 2 * col, (2 * y + 1) * size + 2 * col})
        largest = std::max({largest, x[at * channels + c], x[(at + 1) * channels + c]});
      CHECK(out[i] == largest);
    }
  }
}

void softmax_is_exact_to_rounding() {
  constexpr float kScale = 0.25f;
  for (const std::size_t valid : {1, 9, 16, 25, 48}) {
    const std::size_t rows = 3, columns = round_up(valid, kLanes);
    auto x = noise(rows * columns, 41);
    for (float& value : x) value *= 30.0f;
    const auto out = at_every_frame_level([&](const FrameKernels& kernels) {
      auto result = x;
      kernels.softmax(result.data(), rows, columns, valid, kScale);
      return result;
    });
    for (std::size_t r = 0; r < rows; ++r) {
      double total = 0.0;
      for (std::size_t i = 0; i < valid; ++i)
        total += std::exp(static_cast<double>(kScale * x[r * columns + i]));
      for (std::size_t i = 0; i < columns; ++i) {
        const double share = std::exp(static_cast<double>(kScale * x[r * columns + i])) / total;
        CHECK(std::fabs(out[r * columns + i] - (i < valid ? share : 0.0)) <= 32 * kRounding);
      }
    }
  }
}

}  // namespace

int main() {
  products_are_exact_to_rounding();
  winograd_convolutions_are_exact_to_rounding();
  channel_sums_are_exact_to_rounding();
  group_norm_gives_equal_bits_at_every_level();
  bfloat16_is_stored_to_nearest();
  group_norm_of_bfloat16_is_that_of_float_rounded();
  normalize_is_exact_to_rounding();
  pool_takes_the_largest_of_four_and_zero();
  softmax_is_exact_to_rounding();
}
