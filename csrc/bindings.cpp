// The Python module iris_fast._C: NumPy buffers in and out. Everything it calls lives in headers without
// Python.
#include "bindings.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "arguments.hpp"
#include "iris_fast/allocator.hpp"
#include "iris_fast/packing.hpp"
#include "iris_fast/sample_categorical.hpp"

namespace py = pybind11;

namespace {

using iris_fast::require;
using iris_fast::shape_text;

py::array_t<std::int64_t> sample_categorical(const py::array& logits, std::uint64_t seed,
                                             const py::array& rows, const py::array& positions,
                                             std::uint32_t purpose, float temperature) {
  const auto logits_buffer = require<float>(logits, "logits", 2);
  const auto rows_buffer = require<std::int64_t>(rows, "rows", 1);
  const auto positions_buffer = require<std::int64_t>(positions, "positions", 1);
  const py::ssize_t count = logits.shape(0);
  if (rows.shape(0) != count || positions.shape(0) != count)
    throw py::value_error("rows and positions must have one entry for each of the " + std::to_string(count) +
                          " rows of logits, got shapes " + shape_text(rows) + " and " +
                          shape_text(positions));
  py::array_t<std::int64_t> tokens(count);
  const float* logits_data = logits_buffer.data();
  const std::int64_t* rows_data = rows_buffer.data();
  const std::int64_t* positions_data = positions_buffer.data();
  std::int64_t* tokens_data = tokens.mutable_data();
  const auto classes = static_cast<std::size_t>(logits.shape(1));
  static const iris_fast::KernelTable& fastest = iris_fast::kernels_for("auto");  // all give the same bits
  {
    const py::gil_scoped_release release;
    iris_fast::sample_categorical(fastest, logits_data, static_cast<std::size_t>(count), classes, temperature,
                                  seed, rows_data, positions_data, purpose, tokens_data);
  }
  return tokens;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  // Many packages have a `_C`: this tells ours from that of a package that kernels/ was copied into.
  module.attr("iris_fast") = true;
  module.doc() =
      "C++ kernels of iris_fast: NumPy buffers in, NumPy buffers out, no GIL held while computing.";
  module.def(
      "keep_large_blocks", &iris_fast::keep_large_blocks,
      "Keeps large freed blocks inside the process, for its whole life (glibc; resident memory then stays\n"
      "at its high-water mark), so that a training loop does not fault the same pages in at every step.\n"
      "Returns whether it applied.");
  module.def("multiplies_bfloat16", &iris_fast::multiplies_bfloat16,
             "Whether this processor has instructions for products of bfloat16 (AVX512-BF16 or AMX).");
  module.def(
      "sample_categorical", &sample_categorical, py::arg("logits"), py::arg("seed"), py::arg("rows"),
      py::arg("positions"), py::arg("purpose"), py::arg("temperature") = 1.0f,
      "Tokens (rows,) int64 drawn from logits (rows, classes) float32 by the Philox draws at\n"
      "(seed; rows[r], positions[r], purpose), rows and positions int64. ValueError or TypeError for a\n"
      "wrong shape, dtype or temperature; 0 for a row holding NaN or inf, or -inf alone.");
  bind_pool(module);
  bind_tokens(module);
  bind_frames(module);
  bind_policy(module);
  bind_attention(module);
  bind_norms(module);
  bind_rollout(module);
}
