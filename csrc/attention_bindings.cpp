#include <cstdint>
#include <functional>
#include <type_traits>

#include "arguments.hpp"
#include "bindings.hpp"
#include "iris_fast/causal_attention.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace iris_fast {
namespace {

const KernelTable& fastest() {
  static const KernelTable& found = kernels_for("auto");  // all give the same bits
  return found;
}

// NumPy has no bfloat16, whose bits come as uint16.
template <typename T>
using Element = std::conditional_t<std::is_same_v<T, float>, float, std::uint16_t>;

// An array of T and of a shape, which lives as long as this.
template <typename T>
class Buffer {
 public:
  Buffer(const py::array& array, const char* name, const std::vector<std::size_t>& shape)
      : array_(require_shape<Element<T>>(array, name, shape)) {}
  const T* data() const { return reinterpret_cast<const T*>(array_.data()); }
  T* mutable_data() { return reinterpret_cast<T*>(array_.mutable_data()); }

 private:
  py::array_t<Element<T>> array_;
};

struct Shape {
  CausalAttentionSizes sizes;
  std::vector<std::size_t> maps, sums;

  Shape(const py::array& query, std::size_t heads, float scale) {
    if (query.ndim() != 3)
      throw py::value_error("query must have 3 dimensions, got shape " + shape_text(query));
    const auto size = [&](py::ssize_t axis) { return static_cast<std::size_t>(query.shape(axis)); };
    if (heads == 0 || size(2) % heads != 0)
      throw py::value_error("heads must divide the " + std::to_string(size(2)) + " columns of query, not " +
                            std::to_string(heads));
    sizes = {size(0), size(1), heads, size(2) / heads, scale};
    maps = {size(0), size(1), size(2)};
    sums = {size(0), heads, size(1)};
  }
};

template <typename T>
void forward(ThreadPool& pool, const Shape& shape, const Dropout& dropped, const py::array& query,
             const py::array& key, const py::array& value, const py::array& largest, const py::array& shares,
             const py::array& out) {
  const Buffer<T> q(query, "query", shape.maps), k(key, "key", shape.maps), v(value, "value", shape.maps);
  Buffer<T> found(out, "out", shape.maps);
  Buffer<float> most(largest, "largest", shape.sums), share(shares, "shares", shape.sums);
  const CausalAttentionInputs<T> inputs{q.data(), k.data(), v.data()};
  const CausalAttentionSums sums{most.mutable_data(), share.mutable_data()};
  T* to = found.mutable_data();
  without_gil([&](const std::function<bool()>& stop) {
    causal_attention(fastest(), pool, shape.sizes, inputs, dropped, sums, to, stop);
  });
}

template <typename T>
void backward(ThreadPool& pool, const Shape& shape, const Dropout& dropped, const py::array& grad,
              const py::array& query, const py::array& key, const py::array& value, const py::array& largest,
              const py::array& shares, const py::array& grad_query, const py::array& grad_key,
              const py::array& grad_value) {
  const Buffer<T> q(query, "query", shape.maps), k(key, "key", shape.maps), v(value, "value", shape.maps),
      slope(grad, "grad", shape.maps);
  Buffer<T> of_q(grad_query, "grad_query", shape.maps), of_k(grad_key, "grad_key", shape.maps),
      of_v(grad_value, "grad_value", shape.maps);
  Buffer<float> most(largest, "largest", shape.sums), share(shares, "shares", shape.sums);
  const CausalAttentionInputs<T> inputs{q.data(), k.data(), v.data()};
  const CausalAttentionSums sums{most.mutable_data(), share.mutable_data()};
  const CausalAttentionGradients<T> gradients{of_q.mutable_data(), of_k.mutable_data(), of_v.mutable_data()};
  const T* from = slope.data();
  without_gil([&](const std::function<bool()>& stop) {
    causal_attention_backward(fastest(), pool, shape.sizes, inputs, dropped, sums, from, gradients, stop);
  });
}

template <typename T>
void drop(ThreadPool& pool, const Dropout& dropped, const py::array& x, const py::array& out) {
  const std::vector<std::size_t> shape{batch_of(x, "x"),
                                       static_cast<std::size_t>(x.ndim() == 2 ? x.shape(1) : 0)};
  const Buffer<T> given(x, "x", shape);
  Buffer<T> found(out, "out", shape);
  const T* from = given.data();
  T* to = found.mutable_data();
  without_gil([&](const std::function<bool()>& stop) {
    dropout(fastest(), pool, dropped, shape[0], shape[1], from, to, stop);
  });
}

bool holds_bfloat16(const py::array& x) { return py::isinstance<py::array_t<std::uint16_t>>(x); }

}  // namespace
}  // namespace iris_fast

void bind_attention(py::module_& module) {
  using namespace pybind11::literals;
  using iris_fast::BFloat16;
  using iris_fast::Shape;
  using iris_fast::ThreadPool;
  using Array = const py::array&;
  module.def(
      "causal_attention",
      [](ThreadPool& pool, std::size_t heads, float scale, double probability, std::uint64_t seed,
         std::uint32_t first_row, Array query, Array key, Array value, Array largest, Array shares,
         Array out) {
        const auto run =
            iris_fast::holds_bfloat16(query) ? iris_fast::forward<BFloat16> : iris_fast::forward<float>;
        run(pool, Shape(query, heads, scale), {probability, seed, first_row}, query, key, value, largest,
            shares, out);
      },
      "pool"_a, "heads"_a, "scale"_a, "probability"_a, "seed"_a, "first_row"_a, "query"_a, "key"_a, "value"_a,
      "largest"_a, "shares"_a, "out"_a,
      "Causal attention of query, key and value (batch, tokens, heads * head_dim), float32 or the bits of\n"
      "bfloat16 as uint16, into `out`; head_dim must be a multiple of 16. Its weights are dropped with a\n"
      "probability, by draws at (seed; first_row + row of the batch, head, query, key). Each query's "
      "largest\n"
      "score and the inverse of its sum of exponentials go into `largest` and `shares` (batch, heads, "
      "tokens)\n"
      "float32.");
  module.def(
      "causal_attention_backward",
      [](ThreadPool& pool, std::size_t heads, float scale, double probability, std::uint64_t seed,
         std::uint32_t first_row, Array grad, Array query, Array key, Array value, Array largest,
         Array shares, Array grad_query, Array grad_key, Array grad_value) {
        const auto run =
            iris_fast::holds_bfloat16(query) ? iris_fast::backward<BFloat16> : iris_fast::backward<float>;
        run(pool, Shape(query, heads, scale), {probability, seed, first_row}, grad, query, key, value,
            largest, shares, grad_query, grad_key, grad_value);
      },
      "pool"_a, "heads"_a, "scale"_a, "probability"_a, "seed"_a, "first_row"_a, "grad"_a, "query"_a, "key"_a,
      "value"_a, "largest"_a, "shares"_a, "grad_query"_a, "grad_key"_a, "grad_value"_a,
      "The gradients of query, key and value from `grad`, that of causal_attention's `out`, into the last\n"
      "three.");
  module.def(
      "dropout",
      [](ThreadPool& pool, double probability, std::uint64_t seed, std::uint32_t first_row, Array x,
         Array out) {
        const auto run = iris_fast::holds_bfloat16(x) ? iris_fast::drop<BFloat16> : iris_fast::drop<float>;
        run(pool, {probability, seed, first_row}, x, out);
      },
      "pool"_a, "probability"_a, "seed"_a, "first_row"_a, "x"_a, "out"_a,
      "Dropout of x (rows, columns), float32 or the bits of bfloat16 as uint16, into `out`, which may be x, "
      "by\n"
      "draws at (seed; first_row + row, column).");
}
