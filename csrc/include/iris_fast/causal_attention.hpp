// Causal self-attention as training takes it, forward and backward, with dropout of its weights; and dropout
// alone. Dropout is addressed: whether an entry is kept depends on the seed, its row of the batch and its
// place alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "iris_fast/bfloat16.hpp"
#include "iris_fast/packing.hpp"
#include "iris_fast/thread_pool.hpp"

namespace iris_fast {

struct Dropout {
  double probability;       // of being dropped; rounded to a multiple of 2^-16
  std::uint64_t seed;       //
  std::uint32_t first_row;  // the address of the first row here
};

// Queries, keys, values and outputs are (batch, tokens, heads · head_dim).
struct CausalAttentionSizes {
  std::size_t batch, tokens, heads;
  std::size_t head_dim;  // a multiple of 16
  float scale;           // of the scores
};

template <typename T>
struct CausalAttentionInputs {
  const T *query, *key, *value;
};

// Of each query its largest scaled score, and the inverse of its sum of exponentials less that one:
// (batch, heads, tokens).
struct CausalAttentionSums {
  float *largest, *shares;
};

// Throws std::invalid_argument for sizes that are not as above. A sequence's result depends on that sequence
// and its address alone.
template <typename T>
void causal_attention(const KernelTable& kernels, ThreadPool& pool, const CausalAttentionSizes& sizes,
                      const CausalAttentionInputs<T>& inputs, const Dropout& dropout,
                      const CausalAttentionSums& sums, T* out, const std::function<bool()>& stop);

template <typename T>
struct CausalAttentionGradients {
  T *query, *key, *value;
};

// The gradients from `grad`, that of `out`, with the same dropout.
template <typename T>
void causal_attention_backward(const KernelTable& kernels, ThreadPool& pool,
                               const CausalAttentionSizes& sizes, const CausalAttentionInputs<T>& inputs,
                               const Dropout& dropout, const CausalAttentionSums& sums, const T* grad,
                               const CausalAttentionGradients<T>& gradients,
                               const std::function<bool()>& stop);

// out = x with entries dropped and the others divided by the probability of being kept; x is (rows, columns),
// and `out` may be x.
template <typename T>
void dropout(const KernelTable& kernels, ThreadPool& pool, const Dropout& dropout, std::size_t rows,
             std::size_t columns, const T* x, T* out, const std::function<bool()>& stop);

}  // namespace iris_fast
