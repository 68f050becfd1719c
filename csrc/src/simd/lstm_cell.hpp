// The elementwise part of an LSTM.
#pragma once

#include "level.hpp"
#include "vector_math.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

inline void lstm_cell(const LstmCellArgs& args) {
  const std::size_t width = args.width;
  for (std::size_t row = 0; row < args.rows; ++row)
    for (std::size_t column = 0; column < width; column += kLanes) {
      const float* gates = args.gates + row * 4 * width + column;
      float* cells = args.cells + row * width + column;
      const Vec16 input = sigmoid(load(gates)), forget = sigmoid(load(gates + width));
      const Vec16 candidate = hyperbolic_tangent(load(gates + 2 * width));
      const Vec16 cell = fma(forget, load(cells), multiply(input, candidate));
      store(cells, cell);
      store(args.hidden + tiled_offset(row, column, width),
            multiply(sigmoid(load(gates + 3 * width)), hyperbolic_tangent(cell)));
    }
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
