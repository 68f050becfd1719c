// The functions of one SIMD level for convolutions over feature maps, on plain structures.
//
// A feature map is (frames, height, width, channels) float32, channels padded with zeros to a multiple of 16.
// As in kernel_table.hpp, every level does the same operations in the same order, and a position's result
// depends on its own frame alone: equal bits at every level, thread count and split of the batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "iris_fast/bfloat16.hpp"

namespace iris_fast {

// out[r] = Σ_t a[rows[r] + taps[t] + 0 … inner - 1] · weights[t], plus bias and residual where there are any:
// a matrix product, or a convolution read where its input lies. Each output is one chain of fused
// multiply-adds over taps and inner in order.
struct ProductArgs {
  const float* a;           //
  const std::size_t* rows;  // (row_count,): floats from `a` to the row's inputs
  std::size_t row_count;    //
  const std::size_t* taps;  // (tap_count,): floats from there to the tap's inputs
  std::size_t tap_count;    //
  std::size_t inner;        // inputs of a tap, contiguous
  const float* weights;     // packed by panels of `panel_vectors`: (panel, tap, inner, panel columns)
  std::size_t columns;      // a multiple of 16
  const float* bias;        // (columns,); null for none
  const float* residual;    // laid out as `out`, which it may be; null for none
  float* out;               // row r from r · out_stride on; may be `a` only where a row reads itself alone
  std::size_t out_stride;   // floats
};

// The same sums from int8: exact integers, each multiplied once by the scale of `a` and its column's scale.
struct Int8ProductArgs {
  const unsigned char* a;   // integers + 128
  const std::size_t* rows;  // (row_count,): bytes from `a` to the row's inputs
  const std::size_t* outs;  // (row_count,): floats from `out` to the row's outputs
  std::size_t row_count;    //
  const std::size_t* taps;  // (tap_count,): bytes from there to the tap's inputs
  std::size_t tap_count;    //
  std::size_t inner;        // inputs of a tap, contiguous; a multiple of 4
  const unsigned char*
      weights;                 // int8 by panels of `panel_vectors`: (panel, tap, inner / 4, panel columns, 4)
  std::size_t columns;         // a multiple of 16
  float scale;                 // of `a`
  const float* column_scales;  // (columns,)
  const std::int32_t* corrections;  // (columns,): -128 times the sum of the column's integers
  const float* bias;                // (columns,)
  const float* residual;            // laid out as `out`, which it may be; null for none
  float* out;                       //
};

// Winograd's methods for a 3 x 3 convolution, by tiles of outputs (Lavin & Gray 2016).
enum class Winograd : std::uint8_t {
  kTwo,       // tiles of 2 x 2 outputs from 4 x 4 inputs by 16 products
  kFour,      // tiles of 4 x 4 outputs from 6 x 6 inputs by 36 products
  kEnlarged,  // tiles of 2 x 2 outputs from 3 x 3 inputs, which are enlarged twice, by 9 products
};

struct WinogradSizes {
  std::size_t step;        // positions of the input from a tile to the next one
  std::size_t outputs;     // a side
  std::size_t components;  // a side
};

constexpr WinogradSizes winograd_sizes(Winograd kind) {
  if (kind == Winograd::kFour) return {4, 4, 6};
  return kind == Winograd::kTwo ? WinogradSizes{2, 2, 4} : WinogradSizes{1, 2, 3};
}

// Half of the points at which kFour evaluates are ± this, the others ± twice this.
constexpr float kSquareRootOfHalf = 0.707106781f;

struct WinogradTile {
  std::size_t in;        // floats from the padded input's start to the tile's top left position
  std::size_t out;       // floats from the output's start to the tile's top left position
  std::uint8_t rows;     // of outputs that exist
  std::uint8_t columns;  //
};

// The tiles' inputs, transformed: component i of tile t at out + i · component_stride + t · channels.
struct WinogradInputArgs {
  const float* x;                // padded feature maps
  const WinogradTile* tiles;     //
  std::size_t tile_count;        //
  std::size_t row_stride;        // floats from a position to the one below
  std::size_t channels;          // a multiple of 16
  float* out;                    //
  std::size_t component_stride;  // floats
};

// Back from components to positions, plus bias and residual.
struct WinogradOutputArgs {
  const float* components;       //
  std::size_t component_stride;  // floats
  const WinogradTile* tiles;     //
  std::size_t tile_count;        //
  std::size_t row_stride;        // of `out`, floats
  std::size_t channels;          // a multiple of 16
  const float* bias;             // (channels,)
  const float* residual;         // laid out as `out`, which it may be; null for none
  float* out;                    //
};

struct WinogradTransforms {
  void (*input)(const WinogradInputArgs&);
  void (*output)(const WinogradOutputArgs&);
};

// GroupNorm of one sample: (x - center[c]) · scale[c] + shift[c], then swish where asked for.
template <typename T>
struct GroupNormArgs {
  const T* x;             // (positions, channels)
  std::size_t positions;  //
  std::size_t channels;   // a multiple of 16
  const float* center;    // (channels,), as scale and shift
  const float* scale;     //
  const float* shift;     //
  bool swish;             //
};

// GroupNorm as training takes it, of one sample of maps of T, float or BFloat16. Sums are in float32.
template <typename T>
struct GroupNormKernels {
  // sums[c] = Σ_p x[p][c], or Σ_p (x[p][c] - center[c])² where `center` is not null: the sums of kSumBlock
  // positions each, added up in order.
  void (*channel_sums)(const T* x, std::size_t positions, std::size_t channels, const float* center,
                       float* sums);
  // sums[c] = Σ_p (x[p][c] - center[c]), squares[c] = Σ_p (x[p][c] - center[c])².
  void (*channel_moments)(const T* x, std::size_t positions, std::size_t channels, const float* center,
                          float* sums, float* squares);
  void (*apply)(const GroupNormArgs<T>& args, T* out);
  // From `grad`, the gradient of `out`, that before swish as `inner` (written only with swish), and of it
  // totals[c] = Σ_p inner[p][c], products[c] = Σ_p inner[p][c] (x[p][c] - center[c]), before it is rounded to
  // T.
  void (*gradient_sums)(const GroupNormArgs<T>& args, const T* grad, T* inner, float* totals,
                        float* products);
  // out = inner · scale[c] + (x - center[c]) · slope[c] + offset[c]; `out` may be `inner`.
  void (*gradient)(const GroupNormArgs<T>& args, const T* inner, const float* slope, const float* offset,
                   T* out);
};

constexpr std::size_t kSumBlock = 64;  // positions; those of a block join the total, which keeps rounding low

struct FrameKernels {
  std::size_t panel_vectors;  // columns / 16 of a full panel of packed weights
  void (*product)(const ProductArgs&);
  void (*product_int8)(const Int8ProductArgs&);
  // Integers of one scale, which it returns, as QuantizeArgs has those of a row; `count` a multiple of 16.
  float (*quantize)(const float* x, std::size_t count, unsigned char* out);
  WinogradTransforms winograd[3];  // by Winograd
  GroupNormKernels<float> norm;
  GroupNormKernels<BFloat16> norm_bfloat16;
  // out = x · scale[c] + shift[c], then x / (1 + exp(-x)) where `swish`.
  void (*normalize)(const float* x, std::size_t positions, std::size_t channels, const float* scale,
                    const float* shift, bool swish, float* out);
  // The largest of 0 and of each 2 x 2 positions of (size, size, channels), to (size / 2, size / 2,
  // channels); a last row and column without a partner are left out.
  void (*pool)(const float* x, std::size_t size, std::size_t channels, float* out);
  // In each row of (rows, columns), columns a multiple of 16: softmax of scale · x over the first `valid`
  // entries; 0 in the others.
  void (*softmax)(float* x, std::size_t rows, std::size_t columns, std::size_t valid, float scale);
};

}  // namespace iris_fast
