// The policy's convolutions against plain loops in double precision, and against themselves.
#include <algorithm>
#include <cmath>
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

constexpr std::size_t kBatch = 5;

std::vector<float> noise(std::size_t count, std::uint32_t purpose, float size) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = size * (2.0f * philox_uniform(1, static_cast<std::uint32_t>(i), 0, purpose) - 1.0f);
  return values;
}

// Weights and biases by name.
std::map<std::string, std::vector<float>> made_up_weights(const PolicyFeaturesConfig& config) {
  std::map<std::string, std::vector<float>> weights;
  std::size_t inputs = config.frame_channels;
  std::uint32_t purpose = 0;
  for (std::size_t i = 0; i < config.widths.size(); ++i) {
    const std::string name = "conv" + std::to_string(i + 1);
    const std::size_t outputs = config.widths[i];
    weights[name + ".weight"] =
        noise(outputs * inputs * 9, ++purpose, 1.0f / std::sqrt(3.0f * static_cast<float>(inputs)));
    weights[name + ".bias"] = noise(outputs, ++purpose, 0.3f);
    inputs = outputs;
  }
  return weights;
}

std::vector<float> computed(const PolicyFeaturesConfig& config, const std::string& level, std::size_t threads,
                            std::size_t group, const std::vector<float>& frames) {
  const auto weights = made_up_weights(config);
  const auto find = [&](const std::string& name, const std::vector<std::size_t>& shape) {
    std::size_t count = 1;
    for (const std::size_t size : shape) count *= size;
    CHECK(weights.at(name).size() == count);
    return weights.at(name).data();
  };
  PolicyFeatures features(config, kernels_for(level), find, std::make_shared<ThreadPool>(threads), group);
  std::vector<float> out(kBatch * config.feature_count(), -1.0f);
  for (int again = 0; again < 2; ++again) features.compute(frames.data(), kBatch, out.data(), {});
  return out;
}

// One frame's features in double precision: every map is (channels, size, size).
std::vector<double> plain(const PolicyFeaturesConfig& config, const float* frame) {
  const auto weights = made_up_weights(config);
  std::size_t inputs = config.frame_channels, size = config.resolution;
  std::vector<double> x(frame, frame + config.frame_floats());
  for (double& value : x) value = 2.0 * value - 1.0;
  for (std::size_t layer = 0; layer < config.widths.size(); ++layer) {
    const std::string name = "conv" + std::to_string(layer + 1);
    const auto &weight = weights.at(name + ".weight"), &bias = weights.at(name + ".bias");
    const std::size_t outputs = config.widths[layer], half = size / 2;
    std::vector<double> pooled(outputs * half * half, 0.0);
    for (std::size_t o = 0; o < outputs; ++o)
      for (std::size_t y = 0; y < 2 * half; ++y)
        for (std::size_t col = 0; col < 2 * half; ++col) {
          double sum = bias[o];
          for (std::size_t i = 0; i < inputs; ++i)
            for (std::size_t tap = 0; tap < 9; ++tap) {
              const std::size_t from_y = y + tap / 3 - 1, from_x = col + tap % 3 - 1;  // wraps below zero
              if (from_y < size && from_x < size)
                sum += weight[(o * inputs + i) * 9 + tap] * x[(i * size + from_y) * size + from_x];
            }
          double& target = pooled[(o * half + y / 2) * half + col / 2];
          target = std::max(target, sum);
        }
    x = std::move(pooled);
    inputs = outputs;
    size = half;
  }
  return x;
}

void check(const PolicyFeaturesConfig& config) {
  const auto frames = noise(kBatch * config.frame_floats(), 100, 1.0f);
  const auto found = computed(config, "portable", 1, 1, frames);
  for (const KernelTable* table : supported_levels())
    for (const std::size_t group : {std::size_t{0}, std::size_t{3}, std::size_t{8}})
      CHECK(computed(config, table->name, 3, group, frames) == found);
  double largest = 0.0;
  for (std::size_t row = 0; row < kBatch; ++row) {
    const auto expected = plain(config, &frames[row * config.frame_floats()]);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CHECK(std::fabs(found[row * expected.size() + i] - expected[i]) < 1e-5);
      largest = std::max(largest, expected[i]);
    }
  }
  CHECK(largest > 0.1);
}

void sizes_that_cannot_be_are_refused() {
  for (const PolicyFeaturesConfig& config :
       {PolicyFeaturesConfig{7, 3, {8, 8, 8}}, PolicyFeaturesConfig{0, 3, {8}},
        PolicyFeaturesConfig{4096, 3, {8}}, PolicyFeaturesConfig{8, 0, {8}}, PolicyFeaturesConfig{8, 3, {}},
        PolicyFeaturesConfig{8, 3, {8, 0}}})
    CHECK_THROWS(config.validate(), std::invalid_argument);
}

}  // namespace

int main() {
  check({32, 3, {16, 20, 8}});
  check({23, 1, {5, 33, 7, 16}});
  check({4, 3, {64}});
  sizes_that_cannot_be_are_refused();
}
