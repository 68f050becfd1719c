// Attention of single tokens to cached keys and values. Scores: lanes are tokens, the sum over head_dim is in
// order; outputs: lanes are head_dim, the sum over tokens is in order.
#pragma once

#include "level.hpp"
#include "vector_math.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

constexpr std::size_t kPrefetchTokens = 16;  // how far ahead values are asked for

inline void prefetch([[maybe_unused]] const void* address) {
#if !defined(_MSC_VER)
  __builtin_prefetch(address, 0, 2);
#endif
}

// Writes one token's key and value of one head. The first token of a block zeroes the lanes of those to come.
template <typename Element>
inline void append_head(const AttentionArgs& args, std::size_t row, std::size_t head) {
  const CacheShape& shape = args.shape;
  const std::size_t padded = shape.padded_dim(), columns = 3 * shape.heads * padded;
  const std::size_t position = args.tokens[row], lane = position % kLanes;
  auto* cache = static_cast<Element*>(args.caches[row]) + head * shape.head_elements();
  Element* keys = cache + (position - lane) * shape.head_dim;
  Element* values = cache + shape.key_elements() + position * padded;
  for (std::size_t d = 0; d < padded; d += kLanes) {
    const float* key = args.qkv + tiled_offset(row, (shape.heads + head) * padded + d, columns);
    const float* value = args.qkv + tiled_offset(row, (2 * shape.heads + head) * padded + d, columns);
    Element converted[kLanes];
    store(converted, load(key));
    for (std::size_t i = 0; i < kLanes && d + i < shape.head_dim; ++i) {
      if (lane == 0) store(keys + (d + i) * kLanes, zero());
      keys[(d + i) * kLanes + lane] = converted[i];
    }
    store(values + d, load(value));
  }
}

template <typename Element>
inline void append(const AttentionArgs& args) {
  for (std::size_t row = 0; row < args.rows; ++row)
    for (std::size_t head = args.first_head; head < args.end_head; ++head)
      append_head<Element>(args, row, head);
}

// Scores of kBlocks blocks of 16 tokens.
template <int kBlocks, typename Element>
inline void score_blocks(const Element* keys, const float* query, std::size_t head_dim, float* scores) {
  Vec16 sums[kBlocks];
  for (int b = 0; b < kBlocks; ++b) sums[b] = zero();
  for (std::size_t d = 0; d < head_dim; ++d) {
    const Vec16 left = broadcast(query[d]);
    for (int b = 0; b < kBlocks; ++b) {
      const Element* key = keys + (b * head_dim + d) * kLanes;
      prefetch(key + kBlocks * head_dim * kLanes);
      sums[b] = fma(left, load(key), sums[b]);
    }
  }
  for (int b = 0; b < kBlocks; ++b) store(scores + b * kLanes, sums[b]);
}

// exp(score - largest) over the tokens seen, in place and 0 in the lanes past them; gives the sum.
inline float exponentials(float* scores, std::size_t seen) {
  const std::size_t blocks = round_up(seen, kLanes) / kLanes;
  float last[kLanes];  // of the last block, the lanes past `seen` do not count
  const std::size_t start = (blocks - 1) * kLanes;
  for (std::size_t i = 0; i < kLanes; ++i) last[i] = scores[start + i < seen ? start + i : start];
  store(scores + start, load(last));
  Vec16 largest = load(scores);
  for (std::size_t b = 1; b < blocks; ++b) largest = maximum(largest, load(scores + b * kLanes));
  const Vec16 offset = broadcast(reduce_max(largest));
  Vec16 sum = zero();
  for (std::size_t b = 0; b < blocks; ++b) {
    Vec16 weight = exp_nonpositive(subtract(load(scores + b * kLanes), offset));
    if (b + 1 == blocks) {
      store(last, weight);
      for (std::size_t i = 0; i < kLanes; ++i) last[i] = start + i < seen ? last[i] : 0.0f;
      weight = load(last);
    }
    store(scores + b * kLanes, weight);
    sum = add(sum, weight);
  }
  return reduce_add(sum);
}

// kVectors vectors of the sum of values, weighted.
template <int kVectors, typename Element>
inline void weighted_values(const Element* values, std::size_t padded, const float* weights, std::size_t seen,
                            float total, float* out) {
  Vec16 sums[kVectors];
  for (int c = 0; c < kVectors; ++c) sums[c] = zero();
  for (std::size_t token = 0; token < seen; ++token) {
    const Vec16 weight = broadcast(weights[token]);
    for (int c = 0; c < kVectors; ++c) {
      const Element* value = values + token * padded + c * kLanes;
      prefetch(value + kPrefetchTokens * padded);
      sums[c] = fma(weight, load(value), sums[c]);
    }
  }
  for (int c = 0; c < kVectors; ++c) store(out + c * kTileFloats, divide(sums[c], broadcast(total)));
}

template <typename Element>
inline void attend_head(const AttentionArgs& args, std::size_t row, std::size_t head) {
  const CacheShape& shape = args.shape;
  const std::size_t padded = shape.padded_dim(), seen = args.tokens[row];
  const auto* keys = static_cast<const Element*>(args.caches[row]) + head * shape.head_elements();
  const Element* values = keys + shape.key_elements();
  float query[kMaxHeadDim];
  for (std::size_t d = 0; d < padded; d += kLanes) {
    const std::size_t at = tiled_offset(row, head * padded + d, 3 * shape.heads * padded);
    store(query + d, multiply(load(args.qkv + at), broadcast(args.scale)));
  }
  const std::size_t blocks = round_up(seen, kLanes) / kLanes;
  std::size_t b = 0;
  for (; b + 4 <= blocks; b += 4)
    score_blocks<4>(keys + b * kLanes * shape.head_dim, query, shape.head_dim, args.scores + b * kLanes);
  for (; b < blocks; ++b)
    score_blocks<1>(keys + b * kLanes * shape.head_dim, query, shape.head_dim, args.scores + b * kLanes);
  const float total = exponentials(args.scores, seen);
  std::size_t d = 0;
  for (; d + 4 * kLanes <= padded; d += 4 * kLanes) {
    float* out = args.out + tiled_offset(row, head * padded + d, shape.heads * padded);
    weighted_values<4>(values + d, padded, args.scores, seen, total, out);
  }
  for (; d < padded; d += kLanes) {
    float* out = args.out + tiled_offset(row, head * padded + d, shape.heads * padded);
    weighted_values<1>(values + d, padded, args.scores, seen, total, out);
  }
}

template <typename Element>
inline void attend(const AttentionArgs& args) {
  for (std::size_t row = 0; row < args.rows; ++row)
    for (std::size_t head = args.first_head; head < args.end_head; ++head)
      attend_head<Element>(args, row, head);
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
