// Packing of linear layers: parts side by side, rows and columns padded.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "kernel_table.hpp"
#include "packed_layers.hpp"

namespace iris_fast {

// The place of a layer's input or output index: dense, or by heads padded to whole vectors; from `first` on.
struct Padding {
  std::size_t group, padded_group, first = 0;

  std::size_t operator()(std::size_t index) const {
    return first + index / group * padded_group + index % group;
  }
};

// Packs parts of a layer that share their input: part p fills the columns from p · columns / parts on.
class Packer {
 public:
  Packer(std::size_t panel_vectors, std::size_t inner, std::size_t columns)
      : panel_(panel_vectors * kLanes),
        linear_{round_up(inner, kLanes), round_up(columns, kLanes), Precision::kFloat, {}, {}, {}, {}} {
    weights_ = zeros(linear_.inner * linear_.columns);
    linear_.bias = zeros(linear_.columns);
  }

  // `weight` (outputs, inputs) row-major and `bias` (outputs,), columns from `first` on.
  void add(const float* weight, const float* bias, std::size_t outputs, std::size_t inputs, std::size_t first,
           Padding out, Padding in) {
    for (std::size_t o = 0; o < outputs; ++o) {
      const std::size_t column = first + out(o), panel_start = column / panel_ * panel_;
      const std::size_t width = std::min(panel_, linear_.columns - panel_start);
      float* target = weights_.data() + panel_start * linear_.inner + column % panel_;
      for (std::size_t i = 0; i < inputs; ++i) target[in(i) * width] = weight[o * inputs + i];
      linear_.bias.data()[column] = bias[o];
    }
  }

  PackedLinear take(const KernelTable& kernels, Precision precision) {
    if (precision == Precision::kInt8) return take_int8();
    linear_.precision = precision;
    linear_.weights = AlignedBuffer<unsigned char>(weights_.size() * bytes_of(precision));
    if (precision == Precision::kFloat)
      std::memcpy(linear_.weights.data(), weights_.data(), weights_.size() * sizeof(float));
    else
      kernels.to_half(weights_.data(), weights_.size(),
                      reinterpret_cast<std::uint16_t*>(linear_.weights.data()));
    return std::move(linear_);
  }

  PackedLinear take_int8() {
    linear_.precision = Precision::kInt8;
    linear_.weights = AlignedBuffer<unsigned char>(weights_.size());
    quantize();
    return std::move(linear_);
  }

 private:
  // Each column's weights as integers of its own scale, max |weight| / 127; 4 inputs side by side.
  void quantize() {
    linear_.scales = zeros(linear_.columns);
    linear_.corrections = AlignedBuffer<std::int32_t>(linear_.columns);
    for (std::size_t column = 0; column < linear_.columns; ++column) {
      const std::size_t start = column / panel_ * panel_, width = std::min(panel_, linear_.columns - start);
      const std::size_t place = column - start;
      const float* source = weights_.data() + start * linear_.inner + place;
      unsigned char* target = linear_.weights.data() + start * linear_.inner + place * 4;
      float largest = 0.0f;
      for (std::size_t k = 0; k < linear_.inner; ++k)
        largest = std::max(largest, std::fabs(source[k * width]));
      // Smaller ones are zero: their inverse would not be finite.
      const float inverse = largest >= kSmallest ? 127.0f / largest : 0.0f;
      std::int32_t sum = 0;
      for (std::size_t k = 0; k < linear_.inner; ++k) {
        const auto integer = static_cast<std::int32_t>(std::nearbyint(source[k * width] * inverse));
        target[k / 4 * 4 * width + k % 4] = static_cast<unsigned char>(integer & 0xff);
        sum += integer;
      }
      linear_.scales.data()[column] = largest >= kSmallest ? largest / 127.0f : 0.0f;
      linear_.corrections.data()[column] = -128 * sum;
    }
  }

  static constexpr float kSmallest = 1e-30f;
  std::size_t panel_;
  AlignedBuffer<float> weights_;
  PackedLinear linear_;
};

}  // namespace iris_fast
