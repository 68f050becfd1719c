// A model's weights as a Python dictionary of NumPy arrays, and arrays of a required shape.
#pragma once

#include <string>
#include <vector>

#include "array_arguments.hpp"

namespace iris_fast {

inline pybind11::array weight_named(const pybind11::dict& weights, const std::string& name) {
  namespace py = pybind11;
  if (!weights.contains(name.c_str())) throw py::key_error("the weights lack " + name);
  const py::object found = weights[name.c_str()];
  if (!py::isinstance<py::array>(found)) throw py::type_error(name + " must be a NumPy array");
  return py::reinterpret_borrow<py::array>(found);
}

inline std::string text(const std::vector<std::size_t>& shape) {
  std::string result;
  for (const std::size_t size : shape) result += (result.empty() ? "(" : ", ") + std::to_string(size);
  return result + (shape.size() == 1 ? ",)" : ")");
}

template <typename T>
pybind11::array_t<T> require_shape(const pybind11::array& array, const std::string& name,
                                   const std::vector<std::size_t>& shape) {
  namespace py = pybind11;
  const auto checked = require<T>(array, name, static_cast<py::ssize_t>(shape.size()));
  for (std::size_t axis = 0; axis < shape.size(); ++axis)
    if (static_cast<std::size_t>(checked.shape(static_cast<py::ssize_t>(axis))) != shape[axis])
      throw py::value_error(name + " must have shape " + text(shape) + ", got " + shape_text(array));
  return checked;
}

// The named weight's data, of exactly that shape; the dictionary keeps it alive.
inline const float* weight_data(const pybind11::dict& weights, const std::string& name,
                                const std::vector<std::size_t>& shape) {
  return require_shape<float>(weight_named(weights, name), name, shape).data();
}

}  // namespace iris_fast
