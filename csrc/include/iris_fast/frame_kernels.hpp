// What one SIMD level offers for convolutions over feature maps, as plain functions over plain structures.
//
// A feature map is (frames, height, width, channels) float32, channels padded with zeros to a multiple of 16.
// As in kernel_table.hpp, every level does the same operations in the same order, and a position's result
// depends on its own frame alone: equal bits at every level, thread count and split of the batch.
#pragma once

#include <cstddef>
#include <cstdint>

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

// A tile of 2 x 2 outputs of a 3 x 3 convolution: F(2x2, 3x3) of Winograd's convolutions (Lavin & Gray 2016).
struct WinogradTile {
  std::size_t in;        // floats from the padded input's start to the tile's top left position
  std::size_t out;       // floats from the output's start to the tile's top left position
  std::uint8_t rows;     // of outputs that exist: 1 or 2
  std::uint8_t columns;  //
};

// The tiles' inputs, transformed: component i of tile t at out + i · component_stride + t · channels.
struct WinogradInputArgs {
  const float* x;                // padded feature maps, 4 x 4 positions a tile
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

struct FrameKernels {
  std::size_t panel_vectors;  // columns / 16 of a full panel of packed weights
  void (*product)(const ProductArgs&);
  // 16 components of any 3 x 3 convolution; 9 of one on an input enlarged twice, each tile reading 3 x 3
  // positions of the input before enlargement (the other components are zero).
  void (*winograd_input)(const WinogradInputArgs&);
  void (*winograd_output)(const WinogradOutputArgs&);
  void (*enlarged_input)(const WinogradInputArgs&);
  void (*enlarged_output)(const WinogradOutputArgs&);
  // sums[c] = Σ_p x[p][c], or Σ_p (x[p][c] - center[c])² where `center` is not null.
  void (*channel_sums)(const float* x, std::size_t positions, std::size_t channels, const float* center,
                       float* sums);
  // out = x · scale[c] + shift[c], then x / (1 + exp(-x)) where `swish`.
  void (*normalize)(const float* x, std::size_t positions, std::size_t channels, const float* scale,
                    const float* shift, bool swish, float* out);
  // In each row of (rows, columns), columns a multiple of 16: softmax of scale · x over the first `valid`
  // entries; 0 in the others.
  void (*softmax)(float* x, std::size_t rows, std::size_t columns, std::size_t valid, float scale);
};

}  // namespace iris_fast
