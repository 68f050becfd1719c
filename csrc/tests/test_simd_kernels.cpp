// Every SIMD level of this machine against double precision, and bit for bit against the portable one.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "levels.hpp"
#include "philox.hpp"
#include "simd_level.hpp"

using namespace iris_fast;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr double kRounding = 0x1p-24;

std::vector<float> untiled(const std::vector<float>& tiles, std::size_t rows, std::size_t columns) {
  std::vector<float> matrix(rows * columns);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < columns; c += kLanes)
      std::copy_n(&tiles[tiled_offset(r, c, columns)], kLanes, &matrix[r * columns + c]);
  return matrix;
}

double exact_gelu(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }

// Noise, where asked for of numbers that half precision holds.
std::vector<float> weights(std::size_t count, Precision precision) {
  auto values = noise(count, 2);
  if (precision == Precision::kFloat) return values;
  std::vector<std::uint16_t> halves(count);
  const KernelTable& table = kernels_for("portable");
  table.to_half(values.data(), count, halves.data());
  table.from_half(halves.data(), count, values.data());
  return values;
}

std::vector<float> run_linear(const KernelTable& table, std::size_t rows, std::size_t inner,
                              std::size_t columns, Activation activation, bool residual, bool row_major,
                              Precision precision) {
  const auto a = tiled(noise(rows * inner, 1), rows, inner);
  const auto weight = weights(columns * inner, precision), bias = noise(columns, 3);
  std::vector<float> packed(columns * inner);
  const std::size_t panel = table.panel_vectors * kLanes;
  for (std::size_t c = 0; c < columns; ++c) {
    const std::size_t start = c / panel * panel, width = std::min(panel, columns - start);
    for (std::size_t k = 0; k < inner; ++k)
      packed[start * inner + k * width + c % panel] = weight[c * inner + k];
  }
  auto out =
      residual ? noise(tiled_size(rows, columns), 4) : std::vector<float>(tiled_size(rows, columns), kPoison);
  LinearArgs args{a.data(),    rows,
                  inner,       packed.data(),
                  bias.data(), columns,
                  activation,  residual ? out.data() : nullptr,
                  out.data(),  columns * kTileRows,
                  kLanes,      kTileFloats};
  if (row_major) {
    args.out_row_stride = columns;
    args.out_vector_stride = kLanes;
  }
  std::vector<std::uint16_t> halves(packed.size());
  if (precision == Precision::kHalf) {
    table.to_half(packed.data(), packed.size(), halves.data());
    args.weights = halves.data();
  }
  (precision == Precision::kHalf ? table.linear_half : table.linear_float)(args);
  return out;
}

double activated(double x, Activation activation) {
  if (activation == Activation::kRelu) return std::max(x, 0.0);
  return activation == Activation::kGelu ? exact_gelu(x) : x;
}

void check_linear(std::size_t rows, std::size_t inner, std::size_t columns, Activation activation,
                  bool residual, bool row_major, Precision precision = Precision::kFloat) {
  const auto out = at_every_level([&](const KernelTable& table) {
    return run_linear(table, rows, inner, columns, activation, residual, row_major, precision);
  });
  const auto a = noise(rows * inner, 1), weight = weights(columns * inner, precision),
             bias = noise(columns, 3);
  const auto before = noise(tiled_size(rows, columns), 4);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < columns; ++c) {
      const std::size_t at =
          row_major ? r * columns + c : tiled_offset(r, c / kLanes * kLanes, columns) + c % kLanes;
      double sum = bias[c], size = std::fabs(bias[c]);
      for (std::size_t k = 0; k < inner; ++k) {
        sum += static_cast<double>(a[r * inner + k]) * weight[c * inner + k];
        size += std::fabs(static_cast<double>(a[r * inner + k]) * weight[c * inner + k]);
      }
      const double expected = activated(sum, activation) + (residual ? before[at] : 0.0);
      // Rounding errors of a chain of n additions are far below n roundings of the sum of sizes.
      CHECK(std::fabs(out[at] - expected) <=
            4 * kRounding * (std::sqrt(double(inner)) * size + std::fabs(expected)));
    }
}

void linear_is_exact_to_rounding() {
  for (const std::size_t rows : {1, 2, 3, 5, 7, 8, 9, 31})
    for (const std::size_t columns : {16, 32, 48, 80})
      for (const Precision precision : {Precision::kFloat, Precision::kHalf})
        check_linear(rows, 32, columns, Activation::kNone, false, false, precision);
  check_linear(9, 208, 112, Activation::kGelu, false, false);
  check_linear(9, 16, 64, Activation::kRelu, false, false);
  check_linear(11, 64, 96, Activation::kNone, true, false);
  check_linear(11, 64, 80, Activation::kNone, false, true);
}

void layer_norm_is_exact_to_rounding() {
  constexpr float kEpsilon = 1e-5f;
  for (const std::size_t width : {1, 15, 16, 40, 256}) {
    const std::size_t rows = 9, padded = round_up(width, kLanes);
    auto x = noise(rows * padded, 5), weight = noise(padded, 6), bias = noise(padded, 7);
    for (std::size_t c = width; c < padded; ++c) weight[c] = bias[c] = 0.0f;
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % padded < width ? 3.0f * x[i] + 1.0f : 0.0f;
    const auto out = untiled(
        at_every_level([&](const KernelTable& table) {
          const auto tiles = tiled(x, rows, padded);
          std::vector<float> result(tiles.size(), kPoison);
          table.layer_norm({tiles.data(), rows, width, weight.data(), bias.data(), kEpsilon, result.data()});
          return result;
        }),
        rows, padded);
    for (std::size_t r = 0; r < rows; ++r) {
      double mean = 0.0, variance = 0.0;
      for (std::size_t c = 0; c < width; ++c) mean += x[r * padded + c] / static_cast<double>(width);
      for (std::size_t c = 0; c < width; ++c)
        variance += std::pow(x[r * padded + c] - mean, 2) / static_cast<double>(width);
      for (std::size_t c = 0; c < padded; ++c) {
        const double expected =
            c < width ? (x[r * padded + c] - mean) / std::sqrt(variance + kEpsilon) * weight[c] + bias[c]
                      : 0.0;
        // With one column, the mean is the value: what is left is rounding, divided by sqrt(epsilon).
        CHECK(std::fabs(out[r * padded + c] - expected) <= 16 * kRounding * (width == 1 ? 316.0 : 4.0));
      }
    }
  }
}

std::vector<float> over(float first, float last, std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = first + (last - first) * static_cast<float>(i) / static_cast<float>(count - 1);
  return values;
}

template <typename Function>
std::vector<float> elementwise(const std::vector<float>& x, Function KernelTable::* function) {
  return at_every_level([&](const KernelTable& table) {
    std::vector<float> out(x.size(), kPoison);
    (table.*function)(x.data(), x.size(), out.data());
    return out;
  });
}

void exp_is_within_one_unit_in_the_last_place() {
  auto x = over(-87.0f, 0.0f, 1 << 16);
  const auto out = elementwise(x, &KernelTable::exp_nonpositive);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = std::exp(static_cast<double>(x[i]));
    const float rounded = static_cast<float>(expected);
    CHECK(std::fabs(out[i] - expected) <= std::nextafter(rounded, 2.0f) - rounded);
  }
  std::vector<float> special(kLanes, 0.0f);
  special[1] = -kInfinity;
  special[2] = -88.0f;
  special[3] = kNaN;
  const auto found = elementwise(special, &KernelTable::exp_nonpositive);
  CHECK(found[0] == 1.0f && found[1] == 0.0f && found[2] == 0.0f && std::isnan(found[3]));
}

void gelu_is_within_two_roundings_of_its_argument() {
  for (const float range : {0.01f, 1.0f, 12.0f}) {
    const auto x = over(-range, range, 1 << 16);
    const auto out = elementwise(x, &KernelTable::gelu);
    for (std::size_t i = 0; i < x.size(); ++i)
      CHECK(std::fabs(out[i] - exact_gelu(x[i])) <= 2 * kRounding * std::fabs(x[i]));
  }
  std::vector<float> special(kLanes, 0.0f);
  special[1] = kInfinity;
  special[2] = -kInfinity;
  special[3] = kNaN;
  special[4] = 3e38f;
  special[5] = -3e38f;
  const auto found = elementwise(special, &KernelTable::gelu);
  CHECK(found[0] == 0.0f && found[1] == kInfinity && std::fabs(found[2]) < 1e-10f && std::isnan(found[3]));
  CHECK(found[4] == 3e38f && std::fabs(found[5]) < 1e-10f);
}

double half_value(std::uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (half & 0x8000) != 0 ? -size : size;
}

void every_half_survives_the_round_trip() {
  std::vector<std::uint16_t> halves(1 << 16);
  for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<std::uint16_t>(i);
  const auto wide = at_every_level([&](const KernelTable& table) {
    std::vector<float> out(halves.size());
    table.from_half(halves.data(), halves.size(), out.data());
    return out;
  });
  const auto back = at_every_level([&](const KernelTable& table) {
    std::vector<std::uint16_t> out(wide.size());
    table.to_half(wide.data(), wide.size(), out.data());
    return out;
  });
  for (std::size_t i = 0; i < halves.size(); ++i) {
    const bool special = (i & 0x7c00) == 0x7c00, nan = special && (i & 0x3ff) != 0;
    CHECK(std::isnan(wide[i]) == nan);
    if (!special) CHECK(static_cast<double>(wide[i]) == half_value(halves[i]));
    CHECK(back[i] == (nan ? halves[i] | 0x200 : halves[i]));
  }
}

// Every half, the middle of it and the next one, and the floats beside that middle.
void halves_round_to_the_nearest_and_to_even() {
  std::vector<float> x;
  std::vector<std::uint16_t> expected;
  for (std::uint16_t half = 0; half < 0x7bff; ++half) {
    const auto next = static_cast<std::uint16_t>(half + 1);
    const auto middle = static_cast<float>((half_value(half) + half_value(next)) / 2);
    x.insert(x.end(), {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f), -middle});
    const std::uint16_t even = half % 2 == 0 ? half : next;
    expected.insert(expected.end(), {even, half, next, static_cast<std::uint16_t>(even | 0x8000)});
  }
  x.insert(x.end(), {65519.99f, 65520.0f, 1e30f, -kInfinity});
  expected.insert(expected.end(), {0x7bff, 0x7c00, 0x7c00, 0xfc00});
  while (x.size() % kLanes != 0) x.push_back(0.0f), expected.push_back(0);
  const auto found = at_every_level([&](const KernelTable& table) {
    std::vector<std::uint16_t> out(x.size());
    table.to_half(x.data(), x.size(), out.data());
    return out;
  });
  CHECK(found == expected);
}

struct Attention {
  CacheShape shape;
  std::size_t rows, tokens;

  std::size_t columns() const { return shape.heads * shape.padded_dim(); }
  // Queries, keys and values of the token at `position` of every row, zero in the padding of heads.
  std::vector<float> qkv(std::size_t position) const {
    auto values = noise(rows * 3 * columns(), static_cast<std::uint32_t>(100 + position));
    for (std::size_t i = 0; i < values.size(); ++i)
      if (i % shape.padded_dim() >= shape.head_dim) values[i] = 0.0f;
    return values;
  }

  // Feeds all tokens one by one; the output of the last. The caches start as NaN.
  template <typename Element>
  std::vector<float> run(const KernelTable& table) const {
    const Element poison = sizeof(Element) == 2 ? static_cast<Element>(0x7e00) : static_cast<Element>(kNaN);
    std::vector<std::vector<Element>> storage(rows, std::vector<Element>(shape.layer_elements(), poison));
    std::vector<void*> caches;
    for (auto& cache : storage) caches.push_back(cache.data());
    std::vector<float> scores(round_up(shape.max_tokens, kLanes)), out(tiled_size(rows, columns()), kPoison);
    for (std::size_t position = 0; position < tokens; ++position) {
      const auto tiles = tiled(qkv(position), rows, 3 * columns());
      std::vector<std::size_t> counts(rows, position);
      const AttentionArgs args{tiles.data(), rows,    shape,         caches.data(), counts.data(), 0,
                               shape.heads,  scale(), scores.data(), out.data()};
      (sizeof(Element) == 2 ? table.append_half : table.append_float)(args);
      for (std::size_t& count : counts) ++count;
      (sizeof(Element) == 2 ? table.attend_half : table.attend_float)(args);
    }
    return out;
  }

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape.head_dim)); }

  // In double precision.
  std::vector<double> exact(std::size_t row, std::size_t head) const {
    const std::size_t padded = shape.padded_dim();
    std::vector<double> weights, result(shape.head_dim, 0.0);
    const auto last = qkv(tokens - 1);
    double total = 0.0;
    for (std::size_t t = 0; t < tokens; ++t) {
      const auto values = qkv(t);
      const float* query = &last[row * 3 * columns() + head * padded];
      const float* key = &values[(row * 3 + 1) * columns() + head * padded];
      double score = 0.0;
      for (std::size_t d = 0; d < shape.head_dim; ++d) score += static_cast<double>(query[d]) * key[d];
      weights.push_back(std::exp(score * scale()));
      total += weights.back();
    }
    for (std::size_t t = 0; t < tokens; ++t) {
      const auto values = qkv(t);
      const float* value = &values[(row * 3 + 2) * columns() + head * padded];
      for (std::size_t d = 0; d < shape.head_dim; ++d) result[d] += weights[t] / total * value[d];
    }
    return result;
  }

  void check() const {
    const auto full = at_every_level([&](const KernelTable& table) { return run<float>(table); });
    const auto half = at_every_level([&](const KernelTable& table) { return run<std::uint16_t>(table); });
    for (std::size_t row = 0; row < rows; ++row)
      for (std::size_t head = 0; head < shape.heads; ++head) {
        const auto expected = exact(row, head);
        for (std::size_t d = 0; d < shape.padded_dim(); ++d) {
          const std::size_t column = head * shape.padded_dim() + d;
          const std::size_t at = tiled_offset(row, column / kLanes * kLanes, columns()) + d % kLanes;
          const double value = d < shape.head_dim ? expected[d] : 0.0;
          CHECK(std::fabs(full[at] - value) < 32 * kRounding);
          CHECK(std::fabs(half[at] - value) < 2 * 0x1p-11);
        }
      }
  }
};

void attention_is_exact_to_rounding() {
  for (const std::size_t tokens : {1, 2, 15, 16, 17, 70}) {
    Attention{{2, 8, 70}, 2, tokens}.check();
    Attention{{1, 64, 80}, 1, tokens}.check();
  }
  Attention{{3, 5, 37}, 9, 37}.check();
  Attention{{1, 80, 21}, 1, 21}.check();
  Attention{{1, kMaxHeadDim, 3}, 1, 3}.check();
}

void levels_are_named() {
  CHECK(std::string(supported_levels().back()->name) == "portable");
  CHECK(&kernels_for("auto") == supported_levels().front());
  CHECK(&kernels_for("portable") == supported_levels().back());
  CHECK_THROWS(kernels_for("mmx"), std::invalid_argument);
}

}  // namespace

int main() {
  levels_are_named();
  linear_is_exact_to_rounding();
  layer_norm_is_exact_to_rounding();
  exp_is_within_one_unit_in_the_last_place();
  gelu_is_within_two_roundings_of_its_argument();
  every_half_survives_the_round_trip();
  halves_round_to_the_nearest_and_to_even();
  attention_is_exact_to_rounding();
}
