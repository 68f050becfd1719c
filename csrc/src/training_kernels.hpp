// The functions of one SIMD level for attention and dropout in training, on plain structures. As in
// kernel_table.hpp, every level gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "iris_fast/bfloat16.hpp"

namespace iris_fast {

constexpr std::size_t kDropoutBlock = 128;  // entries that one address of dropout covers

// The factors of a block's entries: 0 for those dropped, else `kept`. An entry is dropped if its 16 random
// bits are below `threshold`. The bits are those of Philox at (block · 16 + 0 … 15, row, place[0], place[1]).
struct DropoutAddress {
  std::uint64_t seed;
  std::uint32_t row, place[2];
  std::uint32_t threshold;
  float kept;
};

// The scores of one query, in panels: entry c lies at panels[c / columns · stride + c % columns].
struct ScoreRow {
  float* panels;
  std::size_t stride, columns;  // `columns` a multiple of 16
  std::size_t count;            // entries, a multiple of 16
  std::size_t valid;            // the query sees the first `valid` of them
  float scale;
  const float* factors;  // (count,) of dropout; null for none
};

struct RowSums {
  float largest, share;
};

struct TrainingKernels {
  void (*dropout_factors)(const DropoutAddress& address, std::size_t first_block, std::size_t blocks,
                          float* out);
  void (*dropout_float)(const float* x, std::size_t count, const float* factors, float* out);
  void (*dropout_bfloat16)(const BFloat16* x, std::size_t count, const float* factors, BFloat16* out);
  // Scores into weights: softmax of scale · score, times the factors; 0 from `valid` on.
  RowSums (*attention_row)(const ScoreRow& row);
  // From scores and the gradients of the weights, laid out as the scores: the weights, and the gradients of
  // the scores.
  void (*attention_gradient_row)(const ScoreRow& row, const RowSums& sums, float* gradients);
  // `count` numbers, any, from and to float32.
  void (*widen)(const BFloat16* x, std::size_t count, float* out);
  void (*narrow)(const float* x, std::size_t count, BFloat16* out);
};

}  // namespace iris_fast
