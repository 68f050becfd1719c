// How models get at their weights.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

namespace iris_fast {

// The row-major float32 weight of that name, which must have exactly that shape: throws if it has not.
using FindWeight =
    std::function<const float*(const std::string& name, const std::vector<std::size_t>& shape)>;

}  // namespace iris_fast
