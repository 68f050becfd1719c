// Attention's rows and dropout as training takes them.
#pragma once

#if defined(_MSC_VER)
#include <limits>
#endif

#include "level.hpp"
#include "training_kernels.hpp"
#include "vector_math.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

#if !defined(IRIS_FAST_HAS_WORDS16)
struct Words16 {
  std::uint32_t v[kLanes];
};
inline Words16 every_word(std::uint32_t x) {
  Words16 found;
  for (std::uint32_t& word : found.v) word = x;
  return found;
}
inline Words16 words_from(std::uint32_t first) {
  Words16 found;
  for (std::uint32_t& word : found.v) word = first++;
  return found;
}
inline Words16 exclusive_or(Words16 a, Words16 b, std::uint32_t c) {
  for (std::size_t i = 0; i < kLanes; ++i) a.v[i] ^= b.v[i] ^ c;
  return a;
}
inline void multiply_words(std::uint32_t factor, Words16 x, Words16& low, Words16& high) {
  for (std::size_t i = 0; i < kLanes; ++i) {
    const std::uint64_t product = static_cast<std::uint64_t>(factor) * x.v[i];
    low.v[i] = static_cast<std::uint32_t>(product);
    high.v[i] = static_cast<std::uint32_t>(product >> 32);
  }
}
inline void store_kept(Words16 x, std::uint32_t threshold, float kept, float* lower, float* upper) {
  for (std::size_t i = 0; i < kLanes; ++i) {
    lower[i] = (x.v[i] & 0xffffu) < threshold ? 0.0f : kept;
    upper[i] = (x.v[i] >> 16) < threshold ? 0.0f : kept;
  }
}
#endif

// Philox-4x32-10 (philox.hpp) of 16 counters whose first words follow each other.
inline void philox16(const DropoutAddress& address, std::uint32_t first, Words16 (&words)[4]) {
  words[0] = words_from(first);
  words[1] = every_word(address.row);
  words[2] = every_word(address.place[0]);
  words[3] = every_word(address.place[1]);
  std::uint32_t key[2] = {static_cast<std::uint32_t>(address.seed),
                          static_cast<std::uint32_t>(address.seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    Words16 low[2], high[2];
    multiply_words(0xD2511F53u, words[0], low[0], high[0]);
    multiply_words(0xCD9E8D57u, words[2], low[1], high[1]);
    words[0] = exclusive_or(high[1], words[1], key[0]);
    words[1] = low[1];
    words[2] = exclusive_or(high[0], words[3], key[1]);
    words[3] = low[0];
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
}

inline void dropout_factors(const DropoutAddress& address, std::size_t first_block, std::size_t blocks,
                            float* out) {
  for (std::size_t block = 0; block < blocks; ++block) {
    Words16 drawn[4];
    philox16(address, static_cast<std::uint32_t>((first_block + block) * kLanes), drawn);
    for (const Words16& words : drawn) {
      store_kept(words, address.threshold, address.kept, out, out + kLanes);
      out += 2 * kLanes;
    }
  }
}

template <typename T>
inline void dropout(const T* x, std::size_t count, const float* factors, T* out) {
  for (std::size_t i = 0; i < count; i += kLanes) store(out + i, multiply(load(x + i), load(factors + i)));
}

#if defined(_MSC_VER)
inline constexpr float kHidden = -std::numeric_limits<float>::infinity();
#else
inline constexpr float kHidden = -__builtin_inff();  // without the library's templates: see level.hpp
#endif

// Calls of(offset, c) for the vector of entries from c on, which lies there after the row's start, for c in
// [first, end), both multiples of 16.
template <typename Function>
inline void for_vectors(const ScoreRow& row, std::size_t first, std::size_t end, Function of) {
  for (std::size_t panel = first / row.columns; panel * row.columns < end; ++panel) {
    const std::size_t start = panel * row.columns,
                      stop = start + row.columns < end ? start + row.columns : end;
    const std::size_t offset = panel * row.stride - start;  // modulo 2^64
    for (std::size_t c = start < first ? first : start; c < stop; c += kLanes) of(offset + c, c);
  }
}

// Scores that the query does not see become -infinity, which exp makes 0; returns the entries to look at.
inline std::size_t hide(const ScoreRow& row) {
  const std::size_t end = round_up(row.valid, kLanes), last = end - 1;
  float* panel = row.panels + last / row.columns * row.stride;
  for (std::size_t c = row.valid; c < end; ++c) panel[c % row.columns] = kHidden;
  return end;
}

inline RowSums attention_row(const ScoreRow& row) {
  const std::size_t end = hide(row);
  float* scores = row.panels;
  const Vec16 scale = broadcast(row.scale);
  Vec16 most = broadcast(kHidden), sum = zero();
  for_vectors(row, 0, end,
              [&](std::size_t at, std::size_t) { most = maximum(multiply(load(scores + at), scale), most); });
  const float largest = reduce_max(most);
  const Vec16 top = broadcast(largest);
  for_vectors(row, 0, end, [&](std::size_t at, std::size_t) {
    const Vec16 power = exp_nonpositive(subtract(multiply(load(scores + at), scale), top));
    store(scores + at, power);
    sum = add(sum, power);
  });
  const float share = 1.0f / reduce_add(sum);
  const Vec16 factor = broadcast(share);
  for_vectors(row, 0, end, [&](std::size_t at, std::size_t c) {
    const Vec16 weight = multiply(load(scores + at), factor);
    store(scores + at, row.factors == nullptr ? weight : multiply(weight, load(row.factors + c)));
  });
  for_vectors(row, end, row.count, [&](std::size_t at, std::size_t) { store(scores + at, zero()); });
  return {largest, share};
}

inline void attention_gradient_row(const ScoreRow& row, const RowSums& sums, float* gradients) {
  const std::size_t end = hide(row);
  float* scores = row.panels;
  const Vec16 scale = broadcast(row.scale), top = broadcast(sums.largest), share = broadcast(sums.share);
  Vec16 along = zero();
  for_vectors(row, 0, end, [&](std::size_t at, std::size_t c) {
    const Vec16 weight = multiply(exp_nonpositive(subtract(multiply(load(scores + at), scale), top)), share);
    Vec16 grad = load(gradients + at);
    if (row.factors != nullptr) {
      grad = multiply(grad, load(row.factors + c));
      store(gradients + at, grad);
    }
    store(scores + at, weight);
    along = fma(weight, grad, along);
  });
  const Vec16 mean = broadcast(reduce_add(along));
  for_vectors(row, 0, end, [&](std::size_t at, std::size_t c) {
    const Vec16 weight = load(scores + at);
    store(gradients + at, multiply(multiply(weight, subtract(load(gradients + at), mean)), scale));
    if (row.factors != nullptr) store(scores + at, multiply(weight, load(row.factors + c)));
  });
  for_vectors(row, end, row.count, [&](std::size_t at, std::size_t) {
    store(scores + at, zero());
    store(gradients + at, zero());
  });
}

template <typename From, typename To>
inline void convert_numbers(const From* x, std::size_t count, To* out) {
  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, load(x + i));
  if (i == count) return;
  From some[kLanes] = {};
  To found[kLanes];
  for (std::size_t k = i; k < count; ++k) some[k - i] = x[k];
  store(found, load(some));
  for (std::size_t k = i; k < count; ++k) out[k] = found[k - i];
}

inline constexpr TrainingKernels training_kernels = {dropout_factors,
                                                     dropout<float>,
                                                     dropout<BFloat16>,
                                                     attention_row,
                                                     attention_gradient_row,
                                                     convert_numbers<BFloat16, float>,
                                                     convert_numbers<float, BFloat16>};

}  // namespace iris_fast::IRIS_FAST_LEVEL
