#include "check.hpp"
#include "philox.hpp"

using iris_fast::philox_4x32;
using iris_fast::philox_uniform;
using iris_fast::PhiloxCounter;
using iris_fast::PhiloxKey;

namespace {

// Random123's published known-answer vectors for philox4x32 with 10 rounds.
void known_answers() {
  CHECK((philox_4x32(PhiloxCounter{0, 0, 0, 0}, PhiloxKey{0, 0}) ==
         PhiloxCounter{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  CHECK((philox_4x32(PhiloxCounter{~0u, ~0u, ~0u, ~0u}, PhiloxKey{~0u, ~0u}) ==
         PhiloxCounter{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  CHECK((philox_4x32(PhiloxCounter{0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u},
                     PhiloxKey{0xa4093822u, 0x299f31d0u}) ==
         PhiloxCounter{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

void uniform_is_the_top_24_bits_of_the_first_word() {
  CHECK(philox_uniform(0, 0, 0, 0) == static_cast<float>(0x6627e8d5u >> 8) / 16777216.0f);
  const PhiloxCounter words = philox_4x32({3, 5, 7, 0}, {0x9abcdef0u, 0x12345678u});
  CHECK(philox_uniform(0x123456789abcdef0u, 3, 5, 7) == static_cast<float>(words[0] >> 8) / 16777216.0f);
}

void uniform_has_the_moments_of_the_uniform_distribution() {
  constexpr int kDraws = 1 << 16;
  double sum = 0.0, sum_of_squares = 0.0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = philox_uniform(11, static_cast<unsigned>(i), 0, 0);
    CHECK(u >= 0.0 && u < 1.0);
    sum += u;
    sum_of_squares += u * u;
  }
  // Five standard errors: sqrt(1/12/n) and sqrt(4/45/n).
  CHECK(sum / kDraws > 0.5 - 0.0057 && sum / kDraws < 0.5 + 0.0057);
  CHECK(sum_of_squares / kDraws > 1.0 / 3 - 0.0059 && sum_of_squares / kDraws < 1.0 / 3 + 0.0059);
}

}  // namespace

int main() {
  known_answers();
  uniform_is_the_top_24_bits_of_the_first_word();
  uniform_has_the_moments_of_the_uniform_distribution();
}
