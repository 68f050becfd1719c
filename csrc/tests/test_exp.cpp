#include <cmath>
#include <limits>

#include "check.hpp"
#include "exp.hpp"

using iris_fast::exp_nonpositive;

namespace {

void within_one_unit_in_the_last_place() {
  for (int i = 0; i <= 870000; ++i) {
    const float x = static_cast<float>(-i) * 1e-4f;
    const double expected = std::exp(static_cast<double>(x));
    if (x < -87.0f) continue;
    const float rounded = static_cast<float>(expected);
    const double unit = std::nextafter(rounded, 1.0f) - rounded;
    CHECK(std::fabs(exp_nonpositive(x) - expected) <= unit);
  }
}

void special_values() {
  CHECK(exp_nonpositive(0.0f) == 1.0f);
  CHECK(exp_nonpositive(-88.0f) == 0.0f);
  CHECK(exp_nonpositive(-std::numeric_limits<float>::max()) == 0.0f);
  CHECK(exp_nonpositive(-std::numeric_limits<float>::infinity()) == 0.0f);
  CHECK(std::isnan(exp_nonpositive(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace

int main() {
  within_one_unit_in_the_last_place();
  special_values();
}
