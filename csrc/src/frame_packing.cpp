#include "frame_packing.hpp"

#include <algorithm>

namespace iris_fast {
namespace {

// U = G g Gᵀ of one 3 x 3 filter, with G = [1 0 0; ½ ½ ½; ½ -½ ½; 0 0 1]; `u` is 4 x 4.
void transform_filter(const float* g, double* u) {
  double rows[4][3];
  for (int j = 0; j < 3; ++j) {
    const double a = g[j], b = g[3 + j], c = g[6 + j];
    rows[0][j] = a;
    rows[1][j] = (a + b + c) / 2;
    rows[2][j] = (a - b + c) / 2;
    rows[3][j] = c;
  }
  for (int i = 0; i < 4; ++i) {
    const double a = rows[i][0], b = rows[i][1], c = rows[i][2];
    u[4 * i] = a;
    u[4 * i + 1] = (a + b + c) / 2;
    u[4 * i + 2] = (a - b + c) / 2;
    u[4 * i + 3] = c;
  }
}

}  // namespace

AlignedBuffer<float> zeroed(std::size_t count) {
  AlignedBuffer<float> buffer(count);
  std::fill_n(buffer.data(), count, 0.0f);
  return buffer;
}

std::size_t packed_index(std::size_t panel, std::size_t inner, std::size_t columns, std::size_t inner_index,
                         std::size_t column) {
  const std::size_t start = column / panel * panel, width = std::min(panel, columns - start);
  return start * inner + inner_index * width + column % panel;
}

PackedProduct FramePacker::empty(std::size_t taps, std::size_t inner, std::size_t columns) const {
  return {taps, inner, columns, zeroed(taps * inner * columns), zeroed(columns)};
}

float& FramePacker::at(PackedProduct& packed, std::size_t inner_index, std::size_t column) const {
  return packed.weights
      .data()[packed_index(panel_, packed.taps * packed.inner, packed.columns, inner_index, column)];
}

PackedGroupNorm FramePacker::norm(const std::string& name, std::size_t channels) const {
  PackedGroupNorm packed{channels, zeroed(round_up(channels, kLanes)), zeroed(round_up(channels, kLanes))};
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

PackedWinograd FramePacker::winograd(const std::string& name, std::size_t outputs, std::size_t inputs,
                                     bool enlarged) const {
  const std::size_t side = enlarged ? 3 : 4, components = side * side, columns = round_up(outputs, kLanes);
  PackedWinograd packed{components, inputs, columns, zeroed(components * inputs * columns), zeroed(columns)};
  const float* weight = find_(name + ".weight", {outputs, inputs, 3, 3});
  for (std::size_t o = 0; o < outputs; ++o)
    for (std::size_t i = 0; i < inputs; ++i) {
      double u[16];
      transform_filter(weight + (o * inputs + i) * 9, u);
      for (std::size_t component = 0; component < components; ++component) {
        // Of an enlarged input the third of 4 components is zero in either direction.
        const std::size_t y = component / side, x = component % side;
        const std::size_t from = enlarged ? (y == 2 ? 3 : y) * 4 + (x == 2 ? 3 : x) : component;
        packed.weights.data()[component * inputs * columns + packed_index(panel_, inputs, columns, i, o)] =
            static_cast<float>(u[from]);
      }
    }
  std::copy_n(find_(name + ".bias", {outputs}), outputs, packed.bias.data());
  return packed;
}

}  // namespace iris_fast
