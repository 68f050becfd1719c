// Products of int8 at every SIMD level of this machine: what is made of float32 rows, and exact sums.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "check.hpp"
#include "levels.hpp"
#include "simd_level.hpp"

using namespace iris_fast;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Quantized {
  std::vector<unsigned char> integers;
  std::vector<float> scales;
};

Quantized quantize(const KernelTable& table, const std::vector<float>& matrix, std::size_t rows,
                   std::size_t columns) {
  const auto tiles = tiled(matrix, rows, columns);
  Quantized found{std::vector<unsigned char>(rows * columns, 77), std::vector<float>(rows, kPoison)};
  table.quantize_rows({tiles.data(), rows, columns, found.integers.data(), found.scales.data()});
  return found;
}

void rows_are_quantized_to_the_nearest_integer() {
  constexpr std::size_t kRows = 9, kColumns = 48;
  auto matrix = noise(kRows * kColumns, 11);
  matrix[5] = 4.0f;                                       // the largest of row 0
  std::fill_n(&matrix[kColumns], kColumns, 0.0f);         // row 1
  std::fill_n(&matrix[2 * kColumns], kColumns, 1e-31f);   // row 2: too small for a finite inverse
  matrix[3 * kColumns + 7] = kNaN;                        // row 3
  matrix[4 * kColumns + 47] = -kInfinity;                 // row 4
  std::fill_n(&matrix[5 * kColumns], kColumns, 3.0e38f);  // row 5
  for (std::size_t c = 0; c < kColumns; ++c)              // row 6: ties, of a scale of 1
    matrix[6 * kColumns + c] = c == 0 ? -127.0f : static_cast<float>(c) - 20.5f;
  for (const KernelTable* table : supported_levels()) {
    const Quantized found = quantize(*table, matrix, kRows, kColumns);
    for (std::size_t r = 0; r < kRows; ++r) {
      if (r == 3 || r == 4) {
        CHECK(std::isnan(found.scales[r]));
        continue;
      }
      float largest = 0.0f;
      for (std::size_t c = 0; c < kColumns; ++c)
        largest = std::max(largest, std::fabs(matrix[r * kColumns + c]));
      const bool zero = largest < 1e-30f;
      CHECK(found.scales[r] == (zero ? 0.0f : largest / 127.0f));
      for (std::size_t c = 0; c < kColumns; ++c) {
        const double scaled = zero ? 0.0 : matrix[r * kColumns + c] * (127.0f / largest);
        CHECK(found.integers[r * kColumns + c] - 128 == std::nearbyint(scaled));
      }
    }
  }
}

// The panels of a level's int8 weights, of columns' integers (columns, inner).
std::vector<signed char> int8_panels(const KernelTable& table, const std::vector<signed char>& weight,
                                     std::size_t inner, std::size_t columns) {
  std::vector<signed char> packed(weight.size());
  const std::size_t panel = table.panel_vectors * kLanes;
  for (std::size_t c = 0; c < columns; ++c) {
    const std::size_t start = c / panel * panel, width = std::min(panel, columns - start);
    for (std::size_t k = 0; k < inner; ++k)
      packed[start * inner + (k / 4 * width + c % panel) * 4 + k % 4] = weight[c * inner + k];
  }
  return packed;
}

// Integers and scales such that every sum is what the formula says, to the bit; the largest integers among
// them.
void check_int8_linear(std::size_t rows, std::size_t inner, std::size_t columns, bool largest) {
  const auto random = noise(columns * inner, 12), rows_random = noise(rows * inner, 13);
  std::vector<signed char> weight(columns * inner);
  std::vector<unsigned char> a(rows * inner);
  for (std::size_t i = 0; i < weight.size(); ++i)
    weight[i] = static_cast<signed char>(largest ? (i % 3 != 0 ? 127 : -127) : std::lround(127 * random[i]));
  for (std::size_t i = 0; i < a.size(); ++i)
    a[i] = static_cast<unsigned char>(largest ? (i % 5 != 0 ? 255 : 1)
                                              : 128 + std::lround(127 * rows_random[i]));
  std::vector<std::int32_t> corrections(columns);
  for (std::size_t i = 0; i < weight.size(); ++i) corrections[i / inner] -= 128 * weight[i];
  const auto bias = noise(columns, 3), column_scales = noise(columns, 14), row_scales = noise(rows, 15);
  const auto out = at_every_level([&](const KernelTable& table) {
    const auto packed = int8_panels(table, weight, inner, columns);
    std::vector<float> result(rows * columns, kPoison);
    table.linear_int8({{nullptr, rows, inner, packed.data(), bias.data(), columns, Activation::kRelu, nullptr,
                        result.data(), columns * kTileRows, columns, kLanes},
                       a.data(),
                       row_scales.data(),
                       column_scales.data(),
                       corrections.data()});
    return result;
  });
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < columns; ++c) {
      std::int32_t sum = 0;
      for (std::size_t k = 0; k < inner; ++k) sum += (a[r * inner + k] - 128) * weight[c * inner + k];
      const float scale = row_scales[r] * column_scales[c];
      const float scaled = static_cast<float>(sum) * scale;
      CHECK(out[r * columns + c] == std::max(scaled + bias[c], 0.0f));
    }
}

void int8_linear_is_exact() {
  for (const std::size_t rows : {1, 2, 3, 5, 7, 8, 9, 31})
    for (const std::size_t columns : {16, 32, 48, 80}) check_int8_linear(rows, 32, columns, rows % 2 == 0);
  check_int8_linear(2, kMostInt8Inputs, 32, true);
}

// Of the largest integers, and of any; rows overlap, and outputs lie out of order.
void check_int8_product(std::size_t rows, std::size_t taps, std::size_t inner, std::size_t columns,
                        bool added) {
  std::vector<std::size_t> row_offsets(rows), outs(rows), tap_offsets(taps);
  for (std::size_t r = 0; r < rows; ++r) row_offsets[r] = (r * 7) % rows * 3;
  for (std::size_t r = 0; r < rows; ++r) outs[r] = (rows - 1 - r) * (columns + 8);
  for (std::size_t t = 0; t < taps; ++t) tap_offsets[t] = t * (inner + 5);
  const std::size_t total = taps * inner;
  const auto random_a = noise(3 * rows + taps * (inner + 5), 1), random_weight = noise(total * columns, 2);
  std::vector<unsigned char> a(random_a.size());
  std::vector<signed char> weight(random_weight.size());  // (inner, columns)
  for (std::size_t i = 0; i < a.size(); ++i)
    a[i] = static_cast<unsigned char>(i % 3 == 0 ? 255 : 128 + std::lround(127 * random_a[i]));
  for (std::size_t i = 0; i < weight.size(); ++i)
    weight[i] = static_cast<signed char>(i % 5 == 0 ? -127 : std::lround(127 * random_weight[i]));
  std::vector<std::int32_t> corrections(columns);
  for (std::size_t i = 0; i < weight.size(); ++i) corrections[i % columns] -= 128 * weight[i];
  const auto bias = noise(columns, 3), scales = noise(columns, 5);
  const float scale = 0.37f;
  const auto before = noise(rows * (columns + 8), 4);
  const auto out = at_every_frame_level([&](const FrameKernels& kernels) {
    const std::size_t panel = kernels.panel_vectors * kLanes;
    std::vector<unsigned char> packed(weight.size());
    for (std::size_t c = 0; c < columns; ++c) {
      const std::size_t start = c / panel * panel, width = std::min(panel, columns - start);
      for (std::size_t k = 0; k < total; ++k)
        packed[start * total + (k / 4 * width + c % panel) * 4 + k % 4] =
            static_cast<unsigned char>(weight[k * columns + c]);
    }
    auto result = before;
    kernels.product_int8({a.data(), row_offsets.data(), outs.data(), rows, tap_offsets.data(), taps, inner,
                          packed.data(), columns, scale, scales.data(), corrections.data(), bias.data(),
                          added ? result.data() : nullptr, result.data()});
    return result;
  });
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < columns + 8; ++c) {
      const std::size_t at = outs[r] + c;
      if (c >= columns) {
        CHECK(out[at] == before[at]);
        continue;
      }
      std::int32_t sum = 0;
      for (std::size_t t = 0; t < taps; ++t)
        for (std::size_t k = 0; k < inner; ++k)
          sum += (a[row_offsets[r] + tap_offsets[t] + k] - 128) * weight[(t * inner + k) * columns + c];
      const float factor = scale * scales[c];
      float expected = std::fma(static_cast<float>(sum), factor, bias[c]);
      if (added) expected = before[at] + expected;
      CHECK(out[at] == expected);
    }
}

void int8_products_are_exact() {
  for (const std::size_t rows : {1, 2, 5, 6, 7, 8, 11, 12, 13, 29})
    check_int8_product(rows, 1, 16, 64, false);
  for (const std::size_t columns : {16, 32, 48, 80, 144}) check_int8_product(9, 2, 24, columns, true);
  check_int8_product(10, 3, 192, 64, true);
}

}  // namespace

int main() {
  rows_are_quantized_to_the_nearest_integer();
  int8_linear_is_exact();
  int8_products_are_exact();
}
