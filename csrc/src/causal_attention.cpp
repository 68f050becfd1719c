#include "iris_fast/causal_attention.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "float_environment.hpp"
#include "kernel_table.hpp"
#include "training_kernels.hpp"

namespace iris_fast {
namespace {

constexpr std::size_t kQueries = 64;  // queries that are computed together, a multiple of every level's panel

struct Rounded {  // dropout's probability on its grid
  explicit Rounded(double probability)
      : threshold(static_cast<std::uint32_t>(std::lround(probability * 65536.0))),
        kept(static_cast<float>(65536.0 / (65536.0 - threshold))) {}
  std::uint32_t threshold;
  float kept;
};

void check(const Dropout& dropout) {
  if (!(dropout.probability >= 0.0 && dropout.probability < 0.99999))
    throw std::invalid_argument("the probability of dropout must be at least 0 and below 0.99999, not " +
                                std::to_string(dropout.probability));
}

void check(const CausalAttentionSizes& sizes) {
  if (sizes.head_dim == 0 || sizes.head_dim % kLanes != 0)
    throw std::invalid_argument("head_dim must be a multiple of 16, not " + std::to_string(sizes.head_dim));
}

void widen(const TrainingKernels& kernels, const BFloat16* x, std::size_t count, float* out) {
  kernels.widen(x, count, out);
}
void widen(const TrainingKernels&, const float* x, std::size_t count, float* out) {
  std::copy_n(x, count, out);
}
void narrow(const TrainingKernels& kernels, const float* x, std::size_t count, BFloat16* out) {
  kernels.narrow(x, count, out);
}
void narrow(const TrainingKernels&, const float* x, std::size_t count, float* out) {
  std::copy_n(x, count, out);
}

// One head of one sequence: its matrices in float32, and products of blocks of queries with all keys before
// them.
//
// A block's scores are in panels of `columns` keys: (panel, kQueries, columns). So they are the right side of
// a product as they lie, and its left side with a tap for each panel.
class Head {
 public:
  Head(const KernelTable& kernels, const CausalAttentionSizes& sizes)
      : kernels_(kernels),
        sizes_(sizes),
        columns_(kernels.frames->panel_vectors * kLanes),
        padded_(round_up(sizes.tokens, kQueries)),
        scores_(kQueries * padded_),
        factors_(round_up(padded_, kDropoutBlock)) {}

  // (tokens, head_dim) of one head, as rows; zeros after the last token.
  template <typename T>
  std::vector<float> rows(const T* x) const {
    std::vector<float> found(padded_ * sizes_.head_dim, 0.0f);
    for (std::size_t t = 0; t < sizes_.tokens; ++t)
      widen(*kernels_.training, x + t * stride(), sizes_.head_dim, &found[t * sizes_.head_dim]);
    return found;
  }

  // Rows as panels of their columns, the right side of a product over tokens: (panel, token, columns).
  std::vector<float> by_token(const std::vector<float>& rows) const {
    const std::size_t dim = sizes_.head_dim;
    std::vector<float> found(rows.size());
    float* to = found.data();
    for (std::size_t first = 0; first < dim; first += columns_) {
      const std::size_t width = std::min(columns_, dim - first);
      for (std::size_t t = 0; t < padded_; ++t, to += width) std::copy_n(&rows[t * dim + first], width, to);
    }
    return found;
  }

  // Rows as panels of tokens, the right side of a product over the head's dimensions: (panel, dim, columns).
  std::vector<float> by_dimension(const std::vector<float>& rows) const {
    const std::size_t dim = sizes_.head_dim;
    std::vector<float> found(rows.size());
    float* to = found.data();
    for (std::size_t first = 0; first < padded_; first += columns_)
      for (std::size_t d = 0; d < dim; ++d)
        for (std::size_t t = first; t < first + columns_; ++t) *to++ = rows[t * dim + d];
    return found;
  }

  // Rows turned: (dim, tokens).
  std::vector<float> turned(const std::vector<float>& rows) const {
    const std::size_t dim = sizes_.head_dim;
    std::vector<float> found(rows.size());
    for (std::size_t t = 0; t < padded_; ++t)
      for (std::size_t d = 0; d < dim; ++d) found[d * padded_ + t] = rows[t * dim + d];
    return found;
  }

  // The block's rows times all tokens up to its end, into panels.
  void into_panels(const float* block, const std::vector<float>& by_dimension, std::size_t end,
                   float* panels) {
    const std::size_t dim = sizes_.head_dim;
    const std::size_t tap = 0;
    set_rows(kQueries, dim);
    for (std::size_t panel = 0; panel < end / columns_; ++panel)
      kernels_.frames->product({block, starts_.data(), kQueries, &tap, 1, dim,
                                &by_dimension[panel * dim * columns_], columns_, nullptr, nullptr,
                                panels + panel * kQueries * columns_, columns_});
  }

  // The panels times rows of all tokens up to their end, into (kQueries, dim).
  void from_panels(const float* panels, const std::vector<float>& by_token, std::size_t end, float* out) {
    const std::size_t dim = sizes_.head_dim;
    taps_.resize(end / columns_);
    for (std::size_t panel = 0; panel < taps_.size(); ++panel) taps_[panel] = panel * kQueries * columns_;
    set_rows(kQueries, columns_);
    for (std::size_t first = 0; first < dim; first += columns_)
      kernels_.frames->product({panels, starts_.data(), kQueries, taps_.data(), taps_.size(), columns_,
                                &by_token[first * padded_], std::min(columns_, dim - first), nullptr, nullptr,
                                out + first, dim});
  }

  // Adds the block's queries, turned, times the panels: (panel, dim, columns).
  void add_turned(const float* turned, const float* panels, std::size_t end, float* sums) {
    const std::size_t dim = sizes_.head_dim;
    const std::size_t tap = 0;
    set_rows(dim, padded_);
    for (std::size_t panel = 0; panel < end / columns_; ++panel) {
      float* out = sums + panel * dim * columns_;
      kernels_.frames->product({turned, starts_.data(), dim, &tap, 1, kQueries,
                                panels + panel * kQueries * columns_, columns_, nullptr, out, out, columns_});
    }
  }

  ScoreRow row(float* panels, std::size_t in_block, std::size_t query, std::size_t end,
               const Dropout& dropout, const Rounded& rounded, std::uint32_t batch_row, std::uint32_t head) {
    if (rounded.threshold != 0) {
      const DropoutAddress address{dropout.seed,
                                   dropout.first_row + batch_row,
                                   {static_cast<std::uint32_t>(query), head},
                                   rounded.threshold,
                                   rounded.kept};
      kernels_.training->dropout_factors(address, 0, query / kDropoutBlock + 1, factors_.data());
    }
    return {panels + in_block * columns_,
            kQueries * columns_,
            columns_,
            end,
            query + 1,
            sizes_.scale,
            rounded.threshold != 0 ? factors_.data() : nullptr};
  }

  // Zeros in a block's rows from `first` on.
  void clear(float* panels, std::size_t first, std::size_t end) const {
    for (std::size_t panel = 0; panel < end / columns_; ++panel)
      std::fill(panels + (panel * kQueries + first) * columns_, panels + (panel + 1) * kQueries * columns_,
                0.0f);
  }

  // Sums by `add_turned` as rows of T.
  template <typename T>
  void store_turned(const std::vector<float>& sums, T* out) const {
    const std::size_t dim = sizes_.head_dim;
    std::vector<float> row(dim);
    for (std::size_t t = 0; t < sizes_.tokens; ++t) {
      for (std::size_t d = 0; d < dim; ++d) row[d] = sums[(t / columns_ * dim + d) * columns_ + t % columns_];
      narrow(*kernels_.training, row.data(), dim, out + t * stride());
    }
  }

  template <typename T>
  void store_rows(const float* rows, std::size_t first, std::size_t count, T* out) const {
    for (std::size_t t = 0; t < count; ++t)
      narrow(*kernels_.training, rows + t * sizes_.head_dim, sizes_.head_dim, out + (first + t) * stride());
  }

  std::size_t padded() const { return padded_; }
  std::size_t stride() const { return sizes_.heads * sizes_.head_dim; }
  std::vector<float>& scores() { return scores_; }

 private:
  void set_rows(std::size_t count, std::size_t stride) {
    starts_.resize(count);
    for (std::size_t r = 0; r < count; ++r) starts_[r] = r * stride;
  }

  const KernelTable& kernels_;
  const CausalAttentionSizes sizes_;
  std::size_t columns_, padded_;
  std::vector<float> scores_, factors_;
  std::vector<std::size_t> starts_, taps_;
};

}  // namespace

template <typename T>
void causal_attention(const KernelTable& kernels, ThreadPool& pool, const CausalAttentionSizes& sizes,
                      const CausalAttentionInputs<T>& inputs, const Dropout& dropout,
                      const CausalAttentionSums& sums, T* out, const std::function<bool()>& stop) {
  check(sizes);
  check(dropout);
  const Rounded rounded(dropout.probability);
  const auto task = [&](std::size_t i, std::size_t, TaskContext& context) {
    const DefaultFloatEnvironment environment;
    Head head(kernels, sizes);
    const std::size_t batch = i / sizes.heads, h = i % sizes.heads, dim = sizes.head_dim;
    const std::size_t at = batch * sizes.tokens * head.stride() + h * dim;
    const auto query = head.rows(inputs.query + at), key = head.by_dimension(head.rows(inputs.key + at)),
               value = head.by_token(head.rows(inputs.value + at));
    std::vector<float> found(kQueries * dim);
    for (std::size_t first = 0; first < sizes.tokens; first += kQueries) {
      context.check();
      const std::size_t end = first + kQueries, count = std::min(kQueries, sizes.tokens - first);
      float* scores = head.scores().data();
      head.into_panels(&query[first * dim], key, end, scores);
      for (std::size_t q = 0; q < count; ++q) {
        const RowSums row = kernels.training->attention_row(
            head.row(scores, q, first + q, end, dropout, rounded, static_cast<std::uint32_t>(batch),
                     static_cast<std::uint32_t>(h)));
        sums.largest[i * sizes.tokens + first + q] = row.largest;
        sums.shares[i * sizes.tokens + first + q] = row.share;
      }
      head.from_panels(scores, value, end, found.data());
      head.store_rows(found.data(), first, count, out + at);
    }
  };
  pool.run(sizes.batch * sizes.heads, task, stop);
}

template <typename T>
void causal_attention_backward(const KernelTable& kernels, ThreadPool& pool,
                               const CausalAttentionSizes& sizes, const CausalAttentionInputs<T>& inputs,
                               const Dropout& dropout, const CausalAttentionSums& sums, const T* grad,
                               const CausalAttentionGradients<T>& gradients,
                               const std::function<bool()>& stop) {
  check(sizes);
  check(dropout);
  const Rounded rounded(dropout.probability);
  const auto task = [&](std::size_t i, std::size_t, TaskContext& context) {
    const DefaultFloatEnvironment environment;
    Head head(kernels, sizes);
    const std::size_t batch = i / sizes.heads, h = i % sizes.heads, dim = sizes.head_dim;
    const std::size_t at = batch * sizes.tokens * head.stride() + h * dim;
    const auto query = head.rows(inputs.query + at), key_rows = head.rows(inputs.key + at),
               slope = head.rows(grad + at);
    const auto key = head.by_dimension(key_rows), key_by_token = head.by_token(key_rows),
               value = head.by_dimension(head.rows(inputs.value + at)), query_turned = head.turned(query),
               slope_turned = head.turned(slope);
    std::vector<float> found(kQueries * dim), slopes(head.scores().size());
    std::vector<float> of_key(head.padded() * dim, 0.0f), of_value(head.padded() * dim, 0.0f);
    for (std::size_t first = 0; first < sizes.tokens; first += kQueries) {
      context.check();
      const std::size_t end = first + kQueries, count = std::min(kQueries, sizes.tokens - first);
      float* scores = head.scores().data();
      head.into_panels(&query[first * dim], key, end, scores);
      head.into_panels(&slope[first * dim], value, end, slopes.data());
      for (std::size_t q = 0; q < count; ++q) {
        const std::size_t place = i * sizes.tokens + first + q;
        const ScoreRow row = head.row(scores, q, first + q, end, dropout, rounded,
                                      static_cast<std::uint32_t>(batch), static_cast<std::uint32_t>(h));
        float* slopes_of_row = slopes.data() + (row.panels - scores);
        kernels.training->attention_gradient_row(row, {sums.largest[place], sums.shares[place]},
                                                 slopes_of_row);
      }
      head.clear(scores, count, end);
      head.clear(slopes.data(), count, end);
      head.from_panels(slopes.data(), key_by_token, end, found.data());
      head.store_rows(found.data(), first, count, gradients.query + at);
      head.add_turned(&query_turned[first], slopes.data(), end, of_key.data());
      head.add_turned(&slope_turned[first], scores, end, of_value.data());
    }
    head.store_turned(of_key, gradients.key + at);
    head.store_turned(of_value, gradients.value + at);
  };
  pool.run(sizes.batch * sizes.heads, task, stop);
}

template <typename T>
void dropout(const KernelTable& kernels, ThreadPool& pool, const Dropout& dropout, std::size_t rows,
             std::size_t columns, const T* x, T* out, const std::function<bool()>& stop) {
  check(dropout);
  const Rounded rounded(dropout.probability);
  const auto task = [&](std::size_t r, std::size_t, TaskContext& context) {
    const DefaultFloatEnvironment environment;
    const TrainingKernels& of_rows = *kernels.training;
    const DropoutAddress address{dropout.seed,
                                 dropout.first_row + static_cast<std::uint32_t>(r),
                                 {0, 0},
                                 rounded.threshold,
                                 rounded.kept};
    constexpr std::size_t kBlocks = 16, kChunk = kBlocks * kDropoutBlock;
    std::vector<float> factors(kChunk);
    const auto apply = [&](const T* from, std::size_t count, T* to) {
      if constexpr (std::is_same_v<T, float>)
        of_rows.dropout_float(from, count, factors.data(), to);
      else
        of_rows.dropout_bfloat16(from, count, factors.data(), to);
    };
    for (std::size_t first = 0; first < columns; first += kChunk) {
      context.check();
      const std::size_t count = std::min(kChunk, columns - first), whole = count / kLanes * kLanes;
      const std::size_t at = r * columns + first;
      of_rows.dropout_factors(address, first / kDropoutBlock, (count + kDropoutBlock - 1) / kDropoutBlock,
                              factors.data());
      apply(x + at, whole, out + at);
      if (whole == count) continue;
      std::vector<T> last(kLanes, T{});
      std::copy_n(x + at + whole, count - whole, last.data());
      std::copy_n(&factors[whole], kLanes, factors.data());
      apply(last.data(), kLanes, last.data());
      std::copy_n(last.data(), count - whole, out + at + whole);
    }
  };
  pool.run(rows, task, stop);
}

#define INSTANTIATE(T)                                                                                \
  template void causal_attention<T>(const KernelTable&, ThreadPool&, const CausalAttentionSizes&,     \
                                    const CausalAttentionInputs<T>&, const Dropout&,                  \
                                    const CausalAttentionSums&, T*, const std::function<bool()>&);    \
  template void causal_attention_backward<T>(                                                         \
      const KernelTable&, ThreadPool&, const CausalAttentionSizes&, const CausalAttentionInputs<T>&,  \
      const Dropout&, const CausalAttentionSums&, const T*, const CausalAttentionGradients<T>&,       \
      const std::function<bool()>&);                                                                  \
  template void dropout<T>(const KernelTable&, ThreadPool&, const Dropout&, std::size_t, std::size_t, \
                           const T*, T*, const std::function<bool()>&);
INSTANTIATE(float)
INSTANTIATE(BFloat16)
#undef INSTANTIATE

}  // namespace iris_fast
