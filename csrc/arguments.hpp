// NumPy arguments, checked before anything reads them, and a model's weights as a dictionary of them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <map>
#include <string>
#include <vector>

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
  if (!py::isinstance<py::array_t<T>>(array))
    throw py::type_error(name + " must be " + py::str(py::dtype::of<T>()).cast<std::string>() + ", got " +
                         py::str(array.dtype()).cast<std::string>());
  if (array.ndim() != dimensions)
    throw py::value_error(name + " must have " + std::to_string(dimensions) + " dimension(s), got shape " +
                          shape_text(array));
  if ((array.flags() & py::array::c_style) == 0)
    throw py::value_error(name + " must be C-contiguous: pass numpy.ascontiguousarray of it");
  if ((array.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0)
    throw py::value_error(name + " must be aligned in memory: pass a copy of it");
  return py::array_t<T>(array);
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

inline std::size_t batch_of(const pybind11::array& array, const char* name) {
  if (array.ndim() == 0) throw pybind11::value_error(std::string(name) + " must have a batch dimension");
  return static_cast<std::size_t>(array.shape(0));
}

// The weights that a model is made from. What was asked for stays alive as long as this does, also where the
// dictionary makes its arrays when they are asked for.
class WeightArguments {
 public:
  explicit WeightArguments(const pybind11::dict& named) : named_(named) {}

  bool contains(const std::string& name) const { return named_.contains(name.c_str()); }

  // The size of an axis of the named weight, which must have so many. Throws Python's KeyError, TypeError or
  // ValueError, as `data` does.
  std::size_t axis(const std::string& name, pybind11::ssize_t dimensions, pybind11::ssize_t axis) {
    return static_cast<std::size_t>(require<float>(array(name), name, dimensions).shape(axis));
  }

  // The named weight's data, of exactly that shape.
  const float* data(const std::string& name, const std::vector<std::size_t>& shape) {
    return require_shape<float>(array(name), name, shape).data();
  }

  // Throws ValueError naming a weight that nobody asked for: these are another model's weights.
  void require_all_used() const {
    namespace py = pybind11;
    for (const auto& item : named_) {
      const std::string name = py::str(item.first).cast<std::string>();
      if (used_.count(name) == 0)
        throw py::value_error("the weights have " + name + ", which this model has not");
    }
  }

 private:
  const pybind11::array& array(const std::string& name) {
    namespace py = pybind11;
    const auto known = used_.find(name);
    if (known != used_.end()) return known->second;
    if (!contains(name)) throw py::key_error("the weights lack " + name);
    const py::object found = named_[name.c_str()];
    if (!py::isinstance<py::array>(found)) throw py::type_error(name + " must be a NumPy array");
    return used_.emplace(name, py::reinterpret_borrow<py::array>(found)).first->second;
  }

  const pybind11::dict& named_;
  std::map<std::string, pybind11::array> used_;
};

}  // namespace iris_fast
