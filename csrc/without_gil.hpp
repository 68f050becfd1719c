// Long computations from Python: other threads run meanwhile, and signals reach the caller.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <functional>
#include <thread>

#include "iris_fast/thread_pool.hpp"

namespace iris_fast {

// Waits for ever where the interpreter is ending: a daemon thread must not ask it for the GIL any more, which
// would end the thread in the middle of what others still use.
inline void end_with_interpreter() {
#if PY_VERSION_HEX >= 0x030D0000
  const bool ending = Py_IsFinalizing() != 0;
#else
  const bool ending = _Py_IsFinalizing() != 0;
#endif
  while (ending) std::this_thread::sleep_for(std::chrono::hours(1));
}

// Calls compute(stop) without the GIL; a signal's exception comes out as itself.
template <typename Compute>
void without_gil(const Compute& compute) {
  namespace py = pybind11;
  bool signalled = false;
  const std::function<bool()> stop = [&signalled] {
    end_with_interpreter();
    const py::gil_scoped_acquire acquire;
    if (!signalled) signalled = PyErr_CheckSignals() != 0;  // asked again while threads come to their end
    return signalled;
  };
  try {
    const py::gil_scoped_release release;
    compute(stop);
    end_with_interpreter();
  } catch (...) {  // also where a task failed before the signal was seen: its exception must not be lost
    if (signalled) throw py::error_already_set();
    throw;
  }
}

}  // namespace iris_fast
