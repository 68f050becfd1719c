// Layers packed for one SIMD level, and access to models' weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "iris_fast/aligned_buffer.hpp"
#include "iris_fast/frame_kernels.hpp"
#include "iris_fast/kernel_table.hpp"

namespace iris_fast {

// The row-major float32 weight of that name; throws unless it has exactly that shape.
using FindWeight =
    std::function<const float*(const std::string& name, const std::vector<std::size_t>& shape)>;

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
