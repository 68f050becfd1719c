// The kernel table of one level.
#pragma once

#include "attention.hpp"
#include "exp.hpp"
#include "group_norm.hpp"
#include "int8_linear.hpp"
#include "int8_product.hpp"
#include "layer_norm.hpp"
#include "level.hpp"
#include "linear.hpp"
#include "lstm_cell.hpp"
#include "normalize.hpp"
#include "product.hpp"
#include "training.hpp"
#include "vector_math.hpp"
#include "winograd.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

inline void exp_nonpositive_all(const float* x, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; i += kLanes) store(out + i, exp_nonpositive(load(x + i)));
}

inline void gelu_all(const float* x, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; i += kLanes) store(out + i, gelu(load(x + i)));
}

inline void sigmoid_all(const float* x, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; i += kLanes) store(out + i, sigmoid(load(x + i)));
}

inline void tanh_all(const float* x, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; i += kLanes) store(out + i, hyperbolic_tangent(load(x + i)));
}

// Conversion between float32 and half precision, either way.
template <typename From, typename To>
inline void convert_all(const From* x, std::size_t count, To* out) {
  for (std::size_t i = 0; i < count; i += kLanes) store(out + i, load(x + i));
}

inline void softmax_numerators(const float* x, std::size_t count, float temperature, float* out) {
  Vec16 most = broadcast(x[0]);
  std::size_t whole = 0;
  for (; whole + kLanes <= count; whole += kLanes) most = maximum(most, load(x + whole));
  float largest = reduce_max(most);
  for (std::size_t i = whole; i < count; ++i) largest = largest < x[i] ? x[i] : largest;
  if (temperature == 1.0f)  // a division by one changes no bit
    for (std::size_t i = 0; i < count; ++i) out[i] = iris_fast::exp_nonpositive(x[i] - largest);
  else
    for (std::size_t i = 0; i < count; ++i)
      out[i] = iris_fast::exp_nonpositive((x[i] - largest) / temperature);
}

template <typename T>
inline constexpr GroupNormKernels<T> group_norm_kernels = {channel_sums<T>, channel_moments<T>, group_norm<T>,
                                                           group_norm_sums<T>, group_norm_gradient<T>};

// Those over feature maps.
inline constexpr FrameKernels frame_kernels = {
    kProductVectors,
    product,
    int8_product,
    quantize,
    {winograd_transforms<TwoOutputs>(), winograd_transforms<FourOutputs>(),
     winograd_transforms<TwoOutputsEnlarged>()},
    group_norm_kernels<float>,
    group_norm_kernels<BFloat16>,
    normalize,
    pool,
    softmax};

constexpr KernelTable make_table(const char* name) {
  return {name,
          kLinearVectors,
          linear<float>,
          linear<std::uint16_t>,
          int8_linear,
          quantize_rows,
          layer_norm,
          append<float>,
          append<std::uint16_t>,
          attend<float>,
          attend<std::uint16_t>,
          lstm_cell,
          softmax_numerators,
          exp_nonpositive_all,
          gelu_all,
          sigmoid_all,
          tanh_all,
          convert_all<float, std::uint16_t>,
          convert_all<std::uint16_t, float>,
          &frame_kernels,
          &training_kernels};
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
