// Long computations from Python: other threads run meanwhile, and signals reach the caller.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>

#include "iris_fast/thread_pool.hpp"

namespace iris_fast {

// Calls compute(stop) without the GIL; a signal's exception comes out as itself.
template <typename Compute>
void without_gil(const Compute& compute) {
  namespace py = pybind11;
  bool signalled = false;
  const std::function<bool()> stop = [&signalled] {
    const py::gil_scoped_acquire acquire;
    if (!signalled) signalled = PyErr_CheckSignals() != 0;  // asked again while threads come to their end
    return signalled;
  };
  try {
    const py::gil_scoped_release release;
    compute(stop);
  } catch (const Interrupted&) {
    if (signalled) throw py::error_already_set();
    throw;
  }
}

}  // namespace iris_fast
