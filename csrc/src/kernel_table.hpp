// The functions of one SIMD level, on plain structures.
//
// Every level does the same operations in the same order (fused multiply-adds named one by one, sums in a
// fixed order), so results are equal bit for bit at every level, for every number of threads and split of the
// batch.
//
// Activations are *tiled*: a matrix (rows, columns), columns a multiple of 16, is stored as
// (rows / 8 rounded up, columns / 16, 8, 16). A product reads 8 rows of it with constant offsets, and every
// writer stores whole vectors of 16.
#pragma once

#include <cstddef>
#include <cstdint>

#include "frame_kernels.hpp"
#include "training_kernels.hpp"

// Always inlined, also in a debug build: otherwise the linker might give a unit code that another unit
// compiled with instructions this machine lacks.
#if defined(__GNUC__)
#define IRIS_FAST_INLINE [[gnu::always_inline]]
#else
#define IRIS_FAST_INLINE
#endif

namespace iris_fast {

constexpr std::size_t kLanes = 16;    // floats in the vector that all levels share
constexpr std::size_t kTileRows = 8;  // rows of a tile of activations
constexpr std::size_t kTileFloats = kTileRows * kLanes;
constexpr std::size_t kMaxHeadDim = 256;  // the kernels keep one query on the stack

IRIS_FAST_INLINE constexpr std::size_t round_up(std::size_t value, std::size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Floats of a tiled matrix.
IRIS_FAST_INLINE constexpr std::size_t tiled_size(std::size_t rows, std::size_t columns) {
  return round_up(rows, kTileRows) * round_up(columns, kLanes);
}

// Where the 16 floats of `row` that begin at `column` (a multiple of 16) lie in a tiled matrix.
IRIS_FAST_INLINE constexpr std::size_t tiled_offset(std::size_t row, std::size_t column,
                                                    std::size_t columns) {
  return (row / kTileRows * (columns / kLanes) + column / kLanes) * kTileFloats + row % kTileRows * kLanes;
}

enum class Activation : int { kNone, kRelu, kGelu };

// out = activation(a · weights + bias), plus `residual` where there is one: after ReLU, but before GELU.
struct LinearArgs {
  const float* a;         // (rows, inner), tiled
  std::size_t rows;       //
  std::size_t inner;      // a multiple of 16
  const void* weights;    // packed by panels of the level's `panel_vectors`: (panel, inner, panel columns)
  const float* bias;      // (columns,)
  std::size_t columns;    // a multiple of 16
  Activation activation;  //
  const float* residual;  // laid out as `out`, which it may be; null for none
  float* out;             // (rows, columns): vector (r, c) at r / 8 · tile + r % 8 · row + c / 16 · vector
  std::size_t out_tile_stride;    // floats
  std::size_t out_row_stride;     // floats
  std::size_t out_vector_stride;  // floats
};

// Rows as int8, each with a scale of its own: x is about scale · (out - 128), where scale is max |x| / 127
// and `out` from 1 to 255. A row below 1e-30 is zero; one with a number that is infinite or no number has the
// scale NaN.
struct QuantizeArgs {
  const float* x;       // (rows, columns), tiled
  std::size_t rows;     //
  std::size_t columns;  // a multiple of 16
  unsigned char* out;   // (rows, columns), row-major
  float* scales;        // (rows,)
};

// The same product as of LinearArgs from int8: sums are exact integers, and each is multiplied once by its
// row's and column's scales.
struct Int8LinearArgs {
  LinearArgs linear;           // `a` unused; `weights` int8, by panels: (panel, inner / 4, panel columns, 4)
  const unsigned char* a;      // (rows, inner), row-major: integers + 128
  const float* row_scales;     // (rows,)
  const float* column_scales;  // (columns,)
  const std::int32_t* corrections;  // (columns,): -128 times the sum of the column's integers
};

// The largest number of inputs of an int8 product without overflow.
constexpr std::size_t kMostInt8Inputs = std::size_t{1} << 16;

// out = (x - mean) / sqrt(variance + epsilon) · weight + bias, row by row over the first `width` columns.
struct LayerNormArgs {
  const float* x;       // (rows, width rounded up to 16), tiled, zero past `width`
  std::size_t rows;     //
  std::size_t width;    //
  const float* weight;  // (width rounded up,), zero past `width`
  const float* bias;    // (width rounded up,), zero past `width`
  float epsilon;        //
  float* out;           // as x
};

// One layer's keys and values of one sequence: for each head, keys as (token blocks of 16, head_dim, 16
// tokens), then values as (tokens, head_dim rounded up to 16). Elements are float, or IEEE half precision.
struct CacheShape {
  std::size_t heads;
  std::size_t head_dim;
  std::size_t max_tokens;  // rounded up to 16 inside

  IRIS_FAST_INLINE constexpr std::size_t padded_dim() const { return round_up(head_dim, kLanes); }
  IRIS_FAST_INLINE constexpr std::size_t key_elements() const {
    return round_up(max_tokens, kLanes) * head_dim;
  }
  IRIS_FAST_INLINE constexpr std::size_t head_elements() const {
    return key_elements() + max_tokens * padded_dim();
  }
  IRIS_FAST_INLINE constexpr std::size_t layer_elements() const { return heads * head_elements(); }
};

// Adds rows' keys and values to the caches, or attends to the caches.
struct AttentionArgs {
  const float* qkv;           // (rows, 3 · heads · padded_dim), tiled: queries, keys, values, each by heads
  std::size_t rows;           //
  CacheShape shape;           //
  void* const* caches;        // (rows,): the layer's cache of each row's sequence
  const std::size_t* tokens;  // (rows,): the row's own position, or how many tokens it sees
  std::size_t first_head;     // only heads from here on
  std::size_t end_head;       // and before this one
  float scale;                // of the scores
  float* scores;              // room for max_tokens rounded up to 16
  float* out;                 // (rows, heads · padded_dim), tiled
};

// An LSTM's cell from its gates: c = σ(forget) c + σ(input) tanh(cell), h = σ(output) tanh(c).
struct LstmCellArgs {
  const float* gates;  // (rows, 4 · width): input, forget, cell, output; width a multiple of 16
  std::size_t rows;    //
  std::size_t width;   //
  float* cells;        // (rows, width), in and out
  float* hidden;       // out: (rows, width), tiled
};

struct KernelTable {
  const char* name;
  std::size_t panel_vectors;  // columns / 16 of a full panel of packed weights
  void (*linear_float)(
      const LinearArgs&);  // by the type of the weights, which are float or IEEE half precision
  void (*linear_half)(const LinearArgs&);
  void (*linear_int8)(const Int8LinearArgs&);
  void (*quantize_rows)(const QuantizeArgs&);
  void (*layer_norm)(const LayerNormArgs&);
  void (*append_float)(const AttentionArgs&);  // `tokens`: positions, below max_tokens
  void (*append_half)(const AttentionArgs&);
  void (*attend_float)(const AttentionArgs&);  // `tokens`: tokens seen, at least 1
  void (*attend_half)(const AttentionArgs&);
  void (*lstm_cell)(const LstmCellArgs&);
  // out = exp((x - max x) / temperature), to the bit as exp.hpp has it; any count but 0. Where a
  // number of x is no number, or infinite, one of out is no number.
  void (*softmax_numerators)(const float* x, std::size_t count, float temperature, float* out);
  // Elementwise over a multiple of 16 elements; for tests.
  void (*exp_nonpositive)(const float* x, std::size_t count, float* out);
  void (*gelu)(const float* x, std::size_t count, float* out);
  void (*sigmoid)(const float* x, std::size_t count, float* out);
  void (*tanh)(const float* x, std::size_t count, float* out);
  void (*to_half)(const float* x, std::size_t count, std::uint16_t* out);
  void (*from_half)(const std::uint16_t* x, std::size_t count, float* out);
  const FrameKernels* frames;
  const TrainingKernels* training;
};

}  // namespace iris_fast
