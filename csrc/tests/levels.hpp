// Numbers to test with, and a computation at every SIMD level of this machine.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check.hpp"
#include "philox.hpp"
#include "simd_level.hpp"

namespace iris_fast {

constexpr float kPoison = -12345.0f;

inline std::vector<float> noise(std::size_t count, std::uint32_t purpose) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = 2.0f * philox_uniform(1, static_cast<std::uint32_t>(i), 0, purpose) - 1.0f;
  return values;
}

// Row-major (rows, columns) as tiles, and back.
inline std::vector<float> tiled(const std::vector<float>& matrix, std::size_t rows, std::size_t columns) {
  std::vector<float> tiles(tiled_size(rows, columns), kPoison);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < columns; c += kLanes)
      std::copy_n(&matrix[r * columns + c], kLanes, &tiles[tiled_offset(r, c, columns)]);
  return tiles;
}

template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// Calls compute(table) for every level: all must give the portable level's bits, which it returns.
template <typename Compute>
auto at_every_level(const Compute& compute) {
  const auto levels = supported_levels();
  const auto expected = compute(*levels.back());
  for (const KernelTable* table : levels) CHECK(same_bits(compute(*table), expected));
  return expected;
}

// The same with the kernels over feature maps.
template <typename Compute>
auto at_every_frame_level(const Compute& compute) {
  return at_every_level([&](const KernelTable& table) { return compute(*table.frames); });
}

}  // namespace iris_fast
