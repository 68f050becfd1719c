// The policy's LSTM cell and heads against plain loops in double precision, and against themselves.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "iris_fast/policy.hpp"
#include "philox.hpp"
#include "simd_level.hpp"

using namespace iris_fast;

namespace {

std::vector<float> noise(std::size_t count, std::uint32_t purpose, float size) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = size * (2.0f * philox_uniform(1, static_cast<std::uint32_t>(i), 0, purpose) - 1.0f);
  return values;
}

using Weights = std::map<std::string, std::vector<float>>;

Weights made_up_weights(const PolicyRecurrenceConfig& config) {
  const std::size_t width = config.width;
  const float small = 1.5f / std::sqrt(static_cast<float>(width));
  return {{"lstm.weight_ih", noise(4 * width * config.features, 1, small)},
          {"lstm.weight_hh", noise(4 * width * width, 2, small)},
          {"lstm.bias_ih", noise(4 * width, 3, 0.5f)},
          {"lstm.bias_hh", noise(4 * width, 4, 0.5f)},
          {"actor_linear.weight", noise(config.actions * width, 5, 1.0f)},
          {"actor_linear.bias", noise(config.actions, 6, 1.0f)},
          {"critic_linear.weight", noise(width, 7, 1.0f)},
          {"critic_linear.bias", noise(1, 8, 1.0f)}};
}

struct Inputs {
  std::size_t batch;
  std::vector<float> features, hidden, cells;

  Inputs(const PolicyRecurrenceConfig& config, std::size_t batch)
      : batch(batch),
        features(noise(batch * config.features, 20, 1.0f)),
        hidden(noise(batch * config.width, 21, 1.0f)),
        cells(noise(batch * config.width, 22, 2.0f)) {}
};

std::unique_ptr<PolicyRecurrence> made(const PolicyRecurrenceConfig& config, const std::string& level,
                                       std::size_t threads) {
  const Weights weights = made_up_weights(config);
  const auto find = [&](const std::string& name, const std::vector<std::size_t>& shape) {
    std::size_t size = 1;
    for (const std::size_t axis : shape) size *= axis;
    CHECK(weights.at(name).size() == size);
    return weights.at(name).data();
  };
  return std::make_unique<PolicyRecurrence>(config, kernels_for(level), find,
                                            std::make_shared<ThreadPool>(threads));
}

// Hidden and cell states, logits, values, one row of the batch after the other.
std::vector<float> stepped(PolicyRecurrence& recurrence, const Inputs& inputs, std::size_t first,
                           std::size_t count) {
  const PolicyRecurrenceConfig& config = recurrence.config();
  const std::size_t width = config.width, actions = config.actions;
  std::vector<float> hidden(count * width, -9.0f), cells(hidden), logits(count * actions, -9.0f),
      values(count, -9.0f);
  const RecurrenceStep step{&inputs.features[first * config.features],
                            &inputs.hidden[first * width],
                            &inputs.cells[first * width],
                            count,
                            hidden.data(),
                            cells.data(),
                            logits.data(),
                            values.data()};
  recurrence.run(step, {});
  std::vector<float> all;
  for (std::size_t r = 0; r < count; ++r) {
    all.insert(all.end(), &hidden[r * width], &hidden[r * width] + width);
    all.insert(all.end(), &cells[r * width], &cells[r * width] + width);
    all.insert(all.end(), &logits[r * actions], &logits[r * actions] + actions);
    all.push_back(values[r]);
  }
  return all;
}

std::vector<float> computed(const PolicyRecurrenceConfig& config, const std::string& level,
                            std::size_t threads, const Inputs& inputs, std::size_t first, std::size_t count) {
  const auto recurrence = made(config, level, threads);
  const auto once = stepped(*recurrence, inputs, first, count);
  CHECK(stepped(*recurrence, inputs, first, count) == once);
  return once;
}

double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

std::vector<double> plain(const PolicyRecurrenceConfig& config, const Inputs& inputs, std::size_t row) {
  const Weights weights = made_up_weights(config);
  const std::size_t width = config.width;
  const auto linear = [&](const std::string& name, const std::string& suffix, std::size_t out, const auto& x,
                          std::size_t count) {
    double sum = weights.at(name + ".bias" + suffix)[out];
    for (std::size_t i = 0; i < count; ++i)
      sum += double(weights.at(name + ".weight" + suffix)[out * count + i]) * x[i];
    return sum;
  };
  const auto gate = [&](std::size_t index) {
    return linear("lstm", "_ih", index, &inputs.features[row * config.features], config.features) +
           linear("lstm", "_hh", index, &inputs.hidden[row * width], width);
  };
  std::vector<double> hidden, cells;
  for (std::size_t i = 0; i < width; ++i) {
    cells.push_back(sigmoid(gate(width + i)) * inputs.cells[row * width + i] +
                    sigmoid(gate(i)) * std::tanh(gate(2 * width + i)));
    hidden.push_back(sigmoid(gate(3 * width + i)) * std::tanh(cells.back()));
  }
  std::vector<double> all(hidden);
  all.insert(all.end(), cells.begin(), cells.end());
  for (std::size_t a = 0; a < config.actions; ++a)
    all.push_back(linear("actor_linear", "", a, hidden, width));
  all.push_back(linear("critic_linear", "", 0, hidden, width));
  return all;
}

void check(const PolicyRecurrenceConfig& config) {
  constexpr std::size_t kBatch = 21;
  const Inputs inputs(config, kBatch);
  const auto found = computed(config, "portable", 1, inputs, 0, kBatch);
  const std::size_t row = found.size() / kBatch;
  for (const KernelTable* table : supported_levels())
    for (const std::size_t threads : {std::size_t{1}, std::size_t{3}}) {
      CHECK(computed(config, table->name, threads, inputs, 0, kBatch) == found);
      const auto alone = computed(config, table->name, threads, inputs, 17, 1);
      CHECK(std::equal(alone.begin(), alone.end(), found.begin() + static_cast<std::ptrdiff_t>(17 * row)));
    }
  for (std::size_t r = 0; r < kBatch; ++r) {
    const auto expected = plain(config, inputs, r);
    for (std::size_t i = 0; i < row; ++i) CHECK(std::fabs(found[r * row + i] - expected[i]) < 2e-5);
  }
  CHECK(computed(config, "auto", 2, inputs, 0, 0).empty());
}

// Relative errors over the whole range, in units of 2^-24, and the same bits at every level.
void functions_are_exact_to_rounding() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<float> x;
  for (float size = 1e-30f; size < 100.0f; size *= 1.003f) {
    x.push_back(size);
    x.push_back(-size);
  }
  for (const float special : {0.0f, -0.0f, 0.625f, -0.625f, 0.62499994f, 87.0f, -87.0f, 1e30f, -1e30f,
                              kInfinity, -kInfinity, std::numeric_limits<float>::quiet_NaN()})
    x.push_back(special);
  while (x.size() % kLanes != 0) x.push_back(0.5f);
  for (const KernelTable* table : supported_levels()) {
    std::vector<float> logistic(x.size()), tangent(x.size()), portable(x.size());
    table->sigmoid(x.data(), x.size(), logistic.data());
    table->tanh(x.data(), x.size(), tangent.data());
    const auto same = [&](const std::vector<float>& found) {
      for (std::size_t i = 0; i < x.size(); ++i)
        CHECK(found[i] == portable[i] ||
              (std::isnan(found[i]) && std::isnan(portable[i]) && std::isnan(x[i])));
    };
    kernels_for("portable").sigmoid(x.data(), x.size(), portable.data());
    same(logistic);
    kernels_for("portable").tanh(x.data(), x.size(), portable.data());
    same(tangent);
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (std::isnan(x[i])) {
        CHECK(std::isnan(logistic[i]) && std::isnan(tangent[i]));
        continue;
      }
      constexpr double kUnit = 1.0 / (1 << 24), kTiny = 1e-37;  // exp ends at -87
      const double of_sigmoid = sigmoid(x[i]), of_tanh = std::tanh(double(x[i]));
      CHECK(std::fabs(logistic[i] - of_sigmoid) <= 6 * kUnit * of_sigmoid + kTiny);
      CHECK(std::fabs(tangent[i] - of_tanh) <= 6 * kUnit * std::fabs(of_tanh));
    }
  }
}

// Nor does it stay in the padding of widths that are no whole vectors: later calls know nothing of it.
void what_is_not_a_number_stays_in_its_row_and_call(const PolicyRecurrenceConfig& config) {
  const Inputs clean(config, 3);
  Inputs spoilt(clean), unbounded(clean);
  spoilt.features[config.features] = std::numeric_limits<float>::quiet_NaN();  // of row 1
  unbounded.features[config.features] = std::numeric_limits<float>::infinity();
  const auto saturated = plain(config, unbounded, 1);  // finite: its gates are all open or shut
  for (const KernelTable* table : supported_levels()) {
    const auto recurrence = made(config, table->name, 1);
    const auto before = stepped(*recurrence, clean, 0, 3);
    const std::size_t row = before.size() / 3;
    const auto not_numbers = stepped(*recurrence, spoilt, 0, 3);
    for (std::size_t i = 0; i < before.size(); ++i)
      CHECK(i / row == 1 ? std::isnan(not_numbers[i]) : not_numbers[i] == before[i]);
    CHECK(stepped(*recurrence, clean, 0, 3) == before);
    const auto infinite = stepped(*recurrence, unbounded, 0, 3);
    for (std::size_t i = 0; i < before.size(); ++i)
      CHECK(i / row == 1 ? std::fabs(infinite[i] - saturated[i - row]) < 2e-5 : infinite[i] == before[i]);
    CHECK(stepped(*recurrence, clean, 0, 3) == before);
  }
}

void sizes_that_cannot_be_are_refused() {
  for (const PolicyRecurrenceConfig& config :
       {PolicyRecurrenceConfig{0, 3, 8}, PolicyRecurrenceConfig{3, 0, 8}, PolicyRecurrenceConfig{3, 3, 0},
        PolicyRecurrenceConfig{3, std::size_t{1} << 21, 3}})
    CHECK_THROWS(config.validate(), std::invalid_argument);
}

}  // namespace

int main() {
  check({64, 32, 6});
  check({33, 12, 4});
  check({200, 130, 18});
  check({1, 1, 1});
  functions_are_exact_to_rounding();
  what_is_not_a_number_stays_in_its_row_and_call({20, 12, 3});
  what_is_not_a_number_stays_in_its_row_and_call({20, 16, 3});
  sizes_that_cannot_be_are_refused();
}
