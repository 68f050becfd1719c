// Philox-4x32-10, the counter-based generator of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers:
// As Easy as 1, 2, 3" (SC 2011). A draw is a pure function of its address, so it does not depend on the order
// in which draws are made, on the number of threads or on the engine that makes them.
#pragma once

#include <array>
#include <cstdint>

namespace iris_fast {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

// The four output words at `counter` under `key`.
constexpr PhiloxCounter philox_4x32(PhiloxCounter counter, PhiloxKey key) noexcept {
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53u;
  constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57u;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9u;
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85u;
  constexpr int kRounds = 10;
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = kMultiplier0 * counter[0];
    const std::uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

// A uniform number in [0, 1) on a grid of 2^-24 (exact in float32), addressed by (seed; row, position,
// purpose).
constexpr float philox_uniform(std::uint64_t seed, std::uint32_t row, std::uint32_t position,
                               std::uint32_t purpose) noexcept {
  const PhiloxKey key{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  const PhiloxCounter words = philox_4x32({row, position, purpose, 0u}, key);
  return static_cast<float>(words[0] >> 8) * 0x1p-24f;
}

}  // namespace iris_fast
