#include <cstdint>
#include <functional>
#include <type_traits>

#include "arguments.hpp"
#include "bindings.hpp"
#include "iris_fast/group_norm.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace iris_fast {
namespace {

// The type of NumPy's elements: it has no bfloat16, whose bits come as uint16.
template <typename T>
using Element = std::conditional_t<std::is_same_v<T, float>, float, std::uint16_t>;

// Buffers of one call on maps of T, all checked, which live as long as this.
template <typename T>
struct Buffers {
  py::array_t<Element<T>> x;
  py::array_t<float> weight, bias, means, scales;
  GroupNormSizes sizes;

  Buffers(const py::array& maps, const py::array& gain, const py::array& shift, const py::array& mean,
          const py::array& scale, bool swish)
      : x(require<Element<T>>(maps, "x", 3)), means(require<float>(mean, "means", 2)) {
    const auto size = [](const py::array& array, py::ssize_t axis) {
      return static_cast<std::size_t>(array.shape(axis));
    };
    sizes = {size(x, 0), size(x, 1), size(x, 2), size(means, 1), swish};
    weight = require_shape<float>(gain, "weight", {sizes.channels});
    bias = require_shape<float>(shift, "bias", {sizes.channels});
    means = require_shape<float>(mean, "means", {sizes.batch, sizes.groups});
    scales = require_shape<float>(scale, "scales", {sizes.batch, sizes.groups});
  }

  GroupNormInputs<T> inputs() const {
    return {reinterpret_cast<const T*>(x.data()), weight.data(), bias.data()};
  }
  py::array_t<Element<T>> as_x(const py::array& array, const char* name) const {
    return require_shape<Element<T>>(array, name, {sizes.batch, sizes.positions, sizes.channels});
  }
};

const KernelTable& fastest() {
  static const KernelTable& found = kernels_for("auto");  // all give the same bits
  return found;
}

template <typename T>
void forward(ThreadPool& pool, const py::array& x, const py::array& weight, const py::array& bias,
             double epsilon, bool swish, const py::array& means, const py::array& scales,
             const py::array& out) {
  Buffers<T> buffers(x, weight, bias, means, scales, swish);
  auto found = buffers.as_x(out, "out");
  const GroupNormInputs<T> inputs = buffers.inputs();
  const GroupNormStatistics statistics{buffers.means.mutable_data(), buffers.scales.mutable_data()};
  T* to = reinterpret_cast<T*>(found.mutable_data());
  without_gil([&](const std::function<bool()>& stop) {
    group_norm(fastest(), pool, buffers.sizes, inputs, epsilon, statistics, to, stop);
  });
}

template <typename T>
void backward(ThreadPool& pool, const py::array& grad, const py::array& x, const py::array& weight,
              const py::array& bias, bool swish, const py::array& means, const py::array& scales,
              const py::array& grad_x, const py::array& grad_weight, const py::array& grad_bias) {
  Buffers<T> buffers(x, weight, bias, means, scales, swish);
  const auto from = buffers.as_x(grad, "grad");
  auto of_x = buffers.as_x(grad_x, "grad_x");
  auto of_weight = require_shape<float>(grad_weight, "grad_weight", {buffers.sizes.channels});
  auto of_bias = require_shape<float>(grad_bias, "grad_bias", {buffers.sizes.channels});
  const GroupNormInputs<T> inputs = buffers.inputs();
  const GroupNormStatistics statistics{buffers.means.mutable_data(), buffers.scales.mutable_data()};
  const T* gradient = reinterpret_cast<const T*>(from.data());
  T* to_x = reinterpret_cast<T*>(of_x.mutable_data());
  float *to_weight = of_weight.mutable_data(), *to_bias = of_bias.mutable_data();
  without_gil([&](const std::function<bool()>& stop) {
    group_norm_backward(fastest(), pool, buffers.sizes, inputs, statistics, gradient, to_x, to_weight,
                        to_bias, stop);
  });
}

bool holds_bfloat16(const py::array& x) { return py::isinstance<py::array_t<std::uint16_t>>(x); }

}  // namespace
}  // namespace iris_fast

void bind_norms(py::module_& module) {
  using namespace pybind11::literals;
  using iris_fast::BFloat16;
  using iris_fast::ThreadPool;
  module.def(
      "group_norm",
      [](ThreadPool& pool, const py::array& x, const py::array& weight, const py::array& bias, double epsilon,
         bool swish, const py::array& means, const py::array& scales, const py::array& out) {
        const auto run =
            iris_fast::holds_bfloat16(x) ? iris_fast::forward<BFloat16> : iris_fast::forward<float>;
        run(pool, x, weight, bias, epsilon, swish, means, scales, out);
      },
      "pool"_a, "x"_a, "weight"_a, "bias"_a, "epsilon"_a, "swish"_a, "means"_a, "scales"_a, "out"_a,
      "GroupNorm of x (batch, positions, channels), float32 or the bits of bfloat16 as uint16, into `out`\n"
      "of the same dtype, with swish if asked for; means and 1 / sqrt(variance + epsilon) into `means` and\n"
      "`scales` (batch, groups) float32. Channels must be a multiple of 16.");
  module.def(
      "group_norm_backward",
      [](ThreadPool& pool, const py::array& grad, const py::array& x, const py::array& weight,
         const py::array& bias, bool swish, const py::array& means, const py::array& scales,
         const py::array& grad_x, const py::array& grad_weight, const py::array& grad_bias) {
        const auto run =
            iris_fast::holds_bfloat16(x) ? iris_fast::backward<BFloat16> : iris_fast::backward<float>;
        run(pool, grad, x, weight, bias, swish, means, scales, grad_x, grad_weight, grad_bias);
      },
      "pool"_a, "grad"_a, "x"_a, "weight"_a, "bias"_a, "swish"_a, "means"_a, "scales"_a, "grad_x"_a,
      "grad_weight"_a, "grad_bias"_a,
      "The gradients of x, weight and bias from `grad`, that of group_norm's `out`, into the last three;\n"
      "`grad` and `grad_x` in the dtype of x, the others in float32.");
}
