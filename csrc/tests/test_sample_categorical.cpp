#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

#include "categorical_tokens.hpp"
#include "check.hpp"
#include "exp.hpp"
#include "iris_fast/sample_categorical.hpp"
#include "philox.hpp"
#include "simd_level.hpp"

using namespace iris_fast;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// The token, which every level gives, alone and beside other rows.
std::int64_t token(const std::vector<float>& logits, float u, float temperature = 1.0f) {
  const std::size_t classes = logits.size();
  std::int64_t found = -1;
  DrawScratch scratch(classes);
  for (const KernelTable* table : supported_levels())
    for (std::size_t rows = 1; rows <= kRowsTogether; ++rows) {
      std::vector<float> batch(rows * (classes + 3), 0.25f), draws(rows, 0.5f);
      std::copy(logits.begin(), logits.end(),
                batch.begin() + static_cast<std::ptrdiff_t>((rows - 1) * (classes + 3)));
      draws.back() = u;
      std::vector<std::int64_t> tokens(2 * rows, -7);
      categorical_tokens(*table, batch.data(), classes + 3, rows, classes, temperature, draws.data(),
                         tokens.data(), 2, scratch);
      const std::int64_t last = tokens[2 * (rows - 1)];
      CHECK(found == -1 || found == last);
      found = last;
      CHECK(tokens[2 * rows - 1] == -7);
    }
  return found;
}

void inverts_the_cumulative_distribution() {
  const std::vector<float> logits{std::log(1.0f), std::log(2.0f), std::log(4.0f), std::log(1.0f)};
  CHECK(token(logits, 0.0f) == 0);
  CHECK(token(logits, 0.12f) == 0);
  CHECK(token(logits, 0.13f) == 1);
  CHECK(token(logits, 0.37f) == 1);
  CHECK(token(logits, 0.38f) == 2);
  CHECK(token(logits, 0.87f) == 2);
  CHECK(token(logits, 0.88f) == 3);
  CHECK(token(logits, 1.0f - 0x1p-24f) == 3);
}

void temperature_sharpens_and_flattens() {
  const std::vector<float> logits{0.0f, std::log(3.0f)};  // 1/4 and 3/4; at temperature 1/2, 1/10 and 9/10
  CHECK(token(logits, 0.24f) == 0 && token(logits, 0.26f) == 1);
  CHECK(token(logits, 0.09f, 0.5f) == 0 && token(logits, 0.11f, 0.5f) == 1);
}

void never_draws_an_impossible_class() {
  const std::vector<float> logits{-kInfinity, 0.0f, -kInfinity, 0.0f, -kInfinity};
  CHECK(token(logits, 0.0f) == 1);
  CHECK(token(logits, 0.49f) == 1);
  CHECK(token(logits, 0.51f) == 3);
  CHECK(token(logits, 1.0f - 0x1p-24f) == 3);
}

void rows_without_a_distribution_give_zero() {
  for (const float u : {0.0f, 0.9f}) {
    CHECK(token({0.0f, kNaN, 1.0f}, u) == 0);
    CHECK(token({kNaN, 0.0f}, u) == 0);
    CHECK(token({0.0f, kInfinity}, u) == 0);
    CHECK(token({-kInfinity, -kInfinity}, u) == 0);
  }
}

void large_and_odd_rows() {
  CHECK(token({-3e38f}, 0.7f) == 0);
  CHECK(token({3e38f, -3e38f}, 0.99f) == 0);
  const std::vector<float> flat(131, 5.0f);  // more than two blocks, not a multiple of one
  CHECK(token(flat, 130.5f / 131.0f) == 130);
  CHECK(token(flat, 64.5f / 131.0f) == 64);
}

void each_row_uses_its_own_draw() {
  constexpr std::size_t kRows = 200, kClasses = 1000;
  const std::vector<float> logits(kRows * kClasses, 0.0f);
  std::vector<std::int64_t> rows(kRows), positions(kRows), tokens(kRows, -1);
  for (std::size_t r = 0; r < kRows; ++r) {
    rows[r] = static_cast<std::int64_t>(3 * r);
    positions[r] = static_cast<std::int64_t>(r % 7);
  }
  sample_categorical(kernels_for("auto"), logits.data(), kRows, kClasses, 1.0f, 42, rows.data(),
                     positions.data(), 9, tokens.data());
  for (std::size_t r = 0; r < kRows; ++r) {
    const float u =
        philox_uniform(42, static_cast<std::uint32_t>(3 * r), static_cast<std::uint32_t>(r % 7), 9);
    CHECK(tokens[r] == static_cast<std::int64_t>(static_cast<double>(u) * kClasses));
  }
}

// The kernels' exponentials are those of exp.hpp to the bit.
void numerators_are_the_same_at_every_level() {
  std::vector<float> logits, found, expected;
  for (std::size_t i = 0; i < 1003; ++i)
    logits.push_back(120.0f * philox_uniform(1, static_cast<std::uint32_t>(i), 0, 0));
  const float largest = *std::max_element(logits.begin(), logits.end());
  for (const float temperature : {1.0f, 0.7f}) {
    expected.clear();
    for (const float x : logits) expected.push_back(exp_nonpositive((x - largest) / temperature));
    for (const KernelTable* table : supported_levels()) {
      found.assign(logits.size(), -1.0f);
      table->softmax_numerators(logits.data(), logits.size(), temperature, found.data());
      CHECK(found == expected);
    }
  }
}

void refuses_bad_arguments_before_reading_memory() {
  const auto draw = [](std::size_t classes, float temperature) {
    sample_categorical(kernels_for("auto"), nullptr, 4, classes, temperature, 0, nullptr, nullptr, 0,
                       nullptr);
  };
  CHECK_THROWS(draw(0, 1.0f), std::invalid_argument);
  CHECK_THROWS(draw(8, 0.0f), std::invalid_argument);
  CHECK_THROWS(draw(8, -1.0f), std::invalid_argument);
  CHECK_THROWS(draw(8, kInfinity), std::invalid_argument);
  CHECK_THROWS(draw(8, kNaN), std::invalid_argument);
  sample_categorical(kernels_for("auto"), nullptr, 0, 8, 1.0f, 0, nullptr, nullptr, 0, nullptr);
}

}  // namespace

int main() {
  inverts_the_cumulative_distribution();
  temperature_sharpens_and_flattens();
  never_draws_an_impossible_class();
  rows_without_a_distribution_give_zero();
  large_and_odd_rows();
  each_row_uses_its_own_draw();
  numerators_are_the_same_at_every_level();
  refuses_bad_arguments_before_reading_memory();
}
