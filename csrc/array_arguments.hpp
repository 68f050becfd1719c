// NumPy arguments, checked before anything reads them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

namespace iris_fast {

inline std::string shape_text(const pybind11::array& array) {
  return pybind11::str(array.attr("shape")).cast<std::string>();
}

// `array` as an aligned, C-contiguous array of T with `dimensions` axes, or an error naming what it is
// instead.
template <typename T>
pybind11::array_t<T> require(const pybind11::array& array, const std::string& name,
                             pybind11::ssize_t dimensions) {
  namespace py = pybind11;
  const std::string wanted = py::str(py::dtype::of<T>()).cast<std::string>();
  if (!py::isinstance<py::array_t<T>>(array))
    throw py::type_error(name + " must be " + wanted + ", got " + py::str(array.dtype()).cast<std::string>());
  if (array.ndim() != dimensions)
    throw py::value_error(name + " must have " + std::to_string(dimensions) + " dimension(s), got shape " +
                          shape_text(array));
  if ((array.flags() & py::array::c_style) == 0)
    throw py::value_error(name + " must be C-contiguous: pass numpy.ascontiguousarray of it");
  if ((array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0)
    throw py::value_error(name + " must be aligned in memory: pass a copy of it");
  return py::array_t<T>(array);
}

}  // namespace iris_fast
