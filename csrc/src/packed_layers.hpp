// Layers packed for one SIMD level.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "aligned_buffer.hpp"
#include "frame_kernels.hpp"
#include "iris_fast/packing.hpp"
#include "kernel_table.hpp"

namespace iris_fast {

// Bytes of a number.
constexpr std::size_t bytes_of(Precision precision) {
  return precision == Precision::kFloat ? 4 : precision == Precision::kHalf ? 2 : 1;
}

// A linear layer with padded rows and columns, packed by panels.
struct PackedLinear {
  std::size_t inner, columns;            // multiples of 16
  Precision precision;                   // of the weights
  AlignedBuffer<unsigned char> weights;  // as LinearArgs, or Int8LinearArgs, want them
  AlignedBuffer<float> bias;
  AlignedBuffer<float> scales;              // of int8 weights' columns
  AlignedBuffer<std::int32_t> corrections;  // of int8 weights' columns
};

// GroupNorm's weight and bias, zero past `channels`.
struct PackedGroupNorm {
  std::size_t channels, groups;
  float epsilon;
  AlignedBuffer<float> weight, bias;
};

// A convolution as a product: `taps` runs of `inner` contiguous inputs. Weights as ProductArgs wants them.
struct PackedProduct {
  std::size_t taps, inner, columns;
  AlignedBuffer<float> weights, bias;
};

// The codewords e for a search of the nearest to a latent x: products find candidates, differences decide.
struct PackedCodebook {
  PackedProduct scores;            // of x - centre to |x - e|² - |x - centre|²
  AlignedBuffer<float> centre;     // the mean of the codewords
  AlignedBuffer<float> codewords;  // (vocabulary, embed_dim)
  float longest;                   // the largest |e - centre|
};

// A 3 x 3 convolution as one product for each component: (component, panel, inner, panel columns).
struct PackedWinograd {
  Winograd kind;
  std::size_t inner, columns;
  AlignedBuffer<float> weights, bias;
};

// A 3 x 3 convolution of int8, read line by line: `lines` lines of `inner` contiguous inputs. One product,
// or, on an input enlarged twice, one for each of the 4 positions that a position of the input becomes: each
// sees 2 x 2 positions of the input, by sums of the filter's weights.
struct PackedInt8Convolution {
  std::size_t lines, inner;
  std::vector<PackedLinear> products;
};

using Convolution = std::variant<PackedWinograd, PackedInt8Convolution>;

}  // namespace iris_fast
