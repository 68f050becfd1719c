#include <pybind11/stl.h>

#include <memory>

#include "bindings.hpp"
#include "iris_fast/packing.hpp"
#include "iris_fast/thread_pool.hpp"

namespace py = pybind11;

void bind_pool(py::module_& module) {
  using namespace iris_fast;
  using namespace pybind11::literals;
  module.def("simd_levels", &level_names, "The SIMD levels that this machine runs, fastest first.");

  py::class_<ThreadPool, std::shared_ptr<ThreadPool>>(
      module, "ThreadPool",
      "Threads for the token engine, the calling one among them; started when first used.")
      .def(py::init<std::size_t>(), "threads"_a)
      .def_property_readonly("threads", &ThreadPool::threads)
      // Copied and pickled as its number of threads.
      .def("__reduce__", [](const py::object& self) {
        return py::make_tuple(py::type::of(self), py::make_tuple(self.attr("threads")));
      });
}
