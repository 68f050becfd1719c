#include "frame_packing.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "linear_packing.hpp"

namespace iris_fast {
namespace {

// The rows of G, which takes a filter's line to its components: the points' powers 0, 1 and 2, by the product
// of the point's differences from the others.
using FilterLines = std::vector<std::array<double, 3>>;

FilterLines filter_lines(Winograd kind) {
  if (kind == Winograd::kTwo) return {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};
  // Of an enlarged input the third component is zero.
  if (kind == Winograd::kEnlarged) return {{1, 0, 0}, {0.5, 0.5, 0.5}, {0, 0, 1}};
  constexpr double kPoint = kSquareRootOfHalf;
  FilterLines lines{{1, 0, 0}};
  for (const double point : {kPoint, -kPoint, 2 * kPoint, -2 * kPoint}) {
    const double factor = std::fabs(point) < 1 ? -1.5 : 6.0;
    lines.push_back({1 / factor, point / factor, point * point / factor});
  }
  lines.push_back({0, 0, 1});
  return lines;
}

// G g Gᵀ at (i, j) of the 3 x 3 filter `g`.
double component_of(const FilterLines& lines, std::size_t i, std::size_t j, const float* g) {
  double sum = 0.0;
  for (std::size_t y = 0; y < 3; ++y)
    for (std::size_t x = 0; x < 3; ++x) sum += lines[i][y] * lines[j][x] * static_cast<double>(g[3 * y + x]);
  return sum;
}

}  // namespace

std::size_t packed_index(std::size_t panel, std::size_t inner, std::size_t columns, std::size_t inner_index,
                         std::size_t column) {
  const std::size_t start = column / panel * panel, width = std::min(panel, columns - start);
  return start * inner + inner_index * width + column % panel;
}

PackedProduct FramePacker::empty(std::size_t taps, std::size_t inner, std::size_t columns) const {
  return {taps, inner, columns, zeros(taps * inner * columns), zeros(columns)};
}

float& FramePacker::at(PackedProduct& packed, std::size_t inner_index, std::size_t column) const {
  return packed.weights
      .data()[packed_index(panel_, packed.taps * packed.inner, packed.columns, inner_index, column)];
}

PackedGroupNorm FramePacker::norm(const std::string& name, std::size_t channels, std::size_t groups,
                                  float epsilon) const {
  PackedGroupNorm packed{channels, groups, epsilon, zeros(round_up(channels, kLanes)),
                         zeros(round_up(channels, kLanes))};
  std::copy_n(find_(name + ".weight", {channels}), channels, packed.weight.data());
  std::copy_n(find_(name + ".bias", {channels}), channels, packed.bias.data());
  return packed;
}

PackedProduct FramePacker::pointwise(const std::string& name, std::size_t outputs, std::size_t inputs) const {
  return pointwise(std::vector<std::string>{name}, outputs, inputs);
}

PackedProduct FramePacker::pointwise(const std::vector<std::string>& names, std::size_t outputs,
                                     std::size_t inputs) const {
  const std::size_t part = round_up(outputs, kLanes);
  PackedProduct packed = empty(1, inputs, names.size() * part);
  for (std::size_t p = 0; p < names.size(); ++p) {
    const float* weight = find_(names[p] + ".weight", {outputs, inputs, 1, 1});
    const float* bias = find_(names[p] + ".bias", {outputs});
    for (std::size_t o = 0; o < outputs; ++o) {
      for (std::size_t i = 0; i < inputs; ++i) at(packed, i, p * part + o) = weight[o * inputs + i];
      packed.bias.data()[p * part + o] = bias[o];
    }
  }
  return packed;
}

PackedProduct FramePacker::lines(const std::string& name, std::size_t outputs, std::size_t inputs,
                                 std::size_t stride) const {
  PackedProduct packed = empty(3, 3 * stride, round_up(outputs, kLanes));
  const float* weight = find_(name + ".weight", {outputs, inputs, 3, 3});
  const float* bias = find_(name + ".bias", {outputs});
  for (std::size_t o = 0; o < outputs; ++o) {
    for (std::size_t i = 0; i < inputs; ++i)
      for (std::size_t tap = 0; tap < 9; ++tap)
        at(packed, tap * stride + i, o) = weight[(o * inputs + i) * 9 + tap];
    packed.bias.data()[o] = bias[o];
  }
  return packed;
}

PackedProduct FramePacker::shares(const std::string& name, std::size_t outputs, std::size_t inputs,
                                  std::size_t tap_columns) const {
  PackedProduct packed = empty(1, inputs, round_up(9 * tap_columns, kLanes));
  const float* weight = find_(name + ".weight", {outputs, inputs, 3, 3});
  for (std::size_t o = 0; o < outputs; ++o)
    for (std::size_t i = 0; i < inputs; ++i)
      for (std::size_t tap = 0; tap < 9; ++tap)
        at(packed, i, tap * tap_columns + o) = weight[(o * inputs + i) * 9 + tap];
  return packed;
}

PackedCodebook FramePacker::codebook(const std::string& name, std::size_t outputs, std::size_t inputs) const {
  PackedCodebook packed{empty(1, inputs, round_up(outputs, kLanes)), zeros(inputs), zeros(outputs * inputs),
                        0.0f};
  const float* rows = find_(name, {outputs, inputs});
  std::copy_n(rows, outputs * inputs, packed.codewords.data());
  std::vector<double> sums(inputs, 0.0);
  std::size_t finite = 0;
  for (std::size_t o = 0; o < outputs; ++o) {
    const float* row = rows + o * inputs;
    if (!std::all_of(row, row + inputs, [](float value) { return std::isfinite(value); })) continue;
    ++finite;
    for (std::size_t i = 0; i < inputs; ++i) sums[i] += static_cast<double>(row[i]);
  }
  for (std::size_t i = 0; i < inputs && finite > 0; ++i)
    packed.centre.data()[i] = static_cast<float>(sums[i] / static_cast<double>(finite));
  for (std::size_t o = 0; o < outputs; ++o) {
    double square = 0.0;
    for (std::size_t i = 0; i < inputs; ++i) {
      const float value = rows[o * inputs + i] - packed.centre.data()[i];
      at(packed.scores, i, o) = -2.0f * value;
      square += static_cast<double>(value) * static_cast<double>(value);
    }
    packed.scores.bias.data()[o] = static_cast<float>(square);
    if (square > 0.0) packed.longest = std::max(packed.longest, static_cast<float>(std::sqrt(square)));
  }
  return packed;
}

Winograd FramePacker::kind_for(std::size_t resolution) {
  // On small maps the larger tiles' 2.25 times as many weights would be read for few tiles.
  constexpr std::size_t kLeastForFour = 16;
  return resolution >= kLeastForFour && resolution % 4 == 0 ? Winograd::kFour : Winograd::kTwo;
}

PackedWinograd FramePacker::winograd(const std::string& name, std::size_t outputs, std::size_t inputs,
                                     Winograd kind) const {
  const std::size_t side = winograd_sizes(kind).components, columns = round_up(outputs, kLanes);
  const FilterLines lines = filter_lines(kind);
  PackedWinograd packed{kind, inputs, columns, zeros(side * side * inputs * columns), zeros(columns)};
  const float* weight = find_(name + ".weight", {outputs, inputs, 3, 3});
  for (std::size_t i = 0; i < inputs; ++i)
    for (std::size_t o = 0; o < outputs; ++o) {
      float* target = packed.weights.data() + packed_index(panel_, inputs, columns, i, o);
      for (std::size_t component = 0; component < side * side; ++component)
        target[component * inputs * columns] = static_cast<float>(
            component_of(lines, component / side, component % side, weight + (o * inputs + i) * 9));
    }
  std::copy_n(find_(name + ".bias", {outputs}), outputs, packed.bias.data());
  return packed;
}

PackedInt8Convolution FramePacker::integers(const std::string& name, std::size_t outputs, std::size_t inputs,
                                            bool enlarged) const {
  const std::size_t side = enlarged ? 2 : 3, parts = enlarged ? 2 : 1;
  const std::size_t stride = round_up(inputs, kLanes), inner = side * side * stride;
  if (inner > kMostInt8Inputs)
    throw std::invalid_argument(name + " has too many inputs for int8: keep the decoder in float32");
  const float* weight = find_(name + ".weight", {outputs, inputs, 3, 3});
  const float* bias = find_(name + ".bias", {outputs});
  for (std::size_t i = 0; i < outputs * inputs * 9; ++i)
    if (!std::isfinite(weight[i]))
      throw std::invalid_argument(name + ".weight holds " + std::to_string(weight[i]) +
                                  ", which int8 cannot: keep the decoder in float32");
  // The line of the input, counted from the first that is read, that a filter's line falls on.
  const auto line = [&](std::size_t k, std::size_t part) { return enlarged ? (k + part + 1) / 2 - part : k; };
  PackedInt8Convolution packed{side, side * stride, {}};
  for (std::size_t part = 0; part < parts * parts; ++part) {
    std::vector<float> rows(outputs * inner, 0.0f);
    for (std::size_t o = 0; o < outputs; ++o)
      for (std::size_t i = 0; i < inputs; ++i)
        for (std::size_t k = 0; k < 9; ++k) {
          const std::size_t y = line(k / 3, part / parts), x = line(k % 3, part % parts);
          rows[o * inner + (y * side + x) * stride + i] += weight[(o * inputs + i) * 9 + k];
        }
    Packer packer(panel_ / kLanes, inner, outputs);
    packer.add(rows.data(), bias, outputs, inner, 0, {outputs, outputs}, {inner, inner});
    packed.products.push_back(packer.take_int8());
  }
  return packed;
}

}  // namespace iris_fast
