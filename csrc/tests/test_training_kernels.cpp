// Attention's rows and dropout in training: the same bits at every SIMD level, and against plain loops.
#include <cmath>
#include <cstdint>
#include <vector>

#include "check.hpp"
#include "levels.hpp"
#include "philox.hpp"
#include "training_kernels.hpp"

using namespace iris_fast;

namespace {

void draws_are_those_at_their_addresses() {
  const std::uint64_t seed = 0x0123456789abcdefu;
  for (const std::uint32_t threshold : {0u, 1u, 6554u, 65535u}) {
    const DropoutAddress address{seed, 3, {5, 7}, threshold, 1.5f};
    const std::size_t first = 2, blocks = 3;
    const auto factors = at_every_level([&](const KernelTable& table) {
      std::vector<float> result(blocks * kDropoutBlock, kPoison);
      table.training->dropout_factors(address, first, blocks, result.data());
      return result;
    });
    for (std::size_t i = 0; i < factors.size(); ++i) {
      const std::size_t block = first + i / kDropoutBlock, in_block = i % kDropoutBlock, lane = in_block % 16;
      const PhiloxCounter words =
          philox_4x32({static_cast<std::uint32_t>(block * 16 + lane), 3u, 5u, 7u},
                      {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
      const std::uint32_t word = words[in_block / 32],
                          bits = in_block % 32 < 16 ? word & 0xffffu : word >> 16;
      CHECK(factors[i] == (bits < threshold ? 0.0f : 1.5f));
    }
  }
}

void attention_rows_are_exact_to_rounding() {
  constexpr std::size_t kRows = 4, kCount = 192;
  const auto scores = noise(kRows * kCount, 31), slopes = noise(kRows * kCount, 32),
             drawn = noise(kCount, 33);
  std::vector<float> factors(kCount);
  for (std::size_t i = 0; i < kCount; ++i) factors[i] = drawn[i] < -0.5f ? 0.0f : 1.25f;
  for (const std::size_t valid : {1, 16, 70, 128, 192})
    for (const bool dropped : {false, true}) {
      const float scale = 3.0f;
      const auto all = at_every_level([&](const KernelTable& table) {
        const std::size_t columns = 64;  // a panel's, whatever the level's own
        std::vector<float> x = scores, again = scores, gradients = slopes;
        const auto row = [&](std::vector<float>& panels) {
          return ScoreRow{&panels[columns],
                          kRows * columns,
                          columns,
                          kCount,
                          valid,
                          scale,
                          dropped ? factors.data() : nullptr};
        };
        const RowSums sums = table.training->attention_row(row(x));
        table.training->attention_gradient_row(row(again), sums, &gradients[columns]);
        CHECK(same_bits(x, again));
        std::vector<float> result = x;
        result.insert(result.end(), gradients.begin(), gradients.end());
        return result;
      });
      const auto at = [&](std::size_t c) { return (c / 64 * kRows + 1) * 64 + c % 64; };
      double sum = 0.0, along = 0.0;
      std::vector<double> weight(kCount, 0.0);
      for (std::size_t c = 0; c < valid; ++c) sum += weight[c] = std::exp(scale * scores[at(c)]);
      const auto factor = [&](std::size_t c) { return dropped ? static_cast<double>(factors[c]) : 1.0; };
      for (std::size_t c = 0; c < valid; ++c) along += (weight[c] /= sum) * factor(c) * slopes[at(c)];
      for (std::size_t c = 0; c < kCount; ++c) {
        CHECK(std::fabs(all[at(c)] - weight[c] * factor(c)) <= 1e-6);
        const double gradient = c < valid ? weight[c] * (factor(c) * slopes[at(c)] - along) * scale : 0.0;
        CHECK(std::fabs(all[kRows * kCount + at(c)] - gradient) <= 1e-5);
      }
      CHECK(all[0] == scores[0] && all[kRows * kCount] == slopes[0]);  // other rows stay
    }
}

}  // namespace

int main() {
  draws_are_those_at_their_addresses();
  attention_rows_are_exact_to_rounding();
}
