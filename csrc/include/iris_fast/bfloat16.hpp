// The storage of a bfloat16 number: the upper half of a float32's bits. Arithmetic is in float32.
#pragma once

#include <cstdint>

namespace iris_fast {

struct BFloat16 {
  std::uint16_t bits;
};

}  // namespace iris_fast
