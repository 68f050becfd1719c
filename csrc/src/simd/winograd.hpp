// Winograd's convolutions: the transforms of tiles of inputs and of products, line by line in either
// direction.
#pragma once

#include "frame_kernels.hpp"
#include "level.hpp"

namespace iris_fast::IRIS_FAST_LEVEL {

// Each of these has the positions that a line of a tile reads, its components and its outputs, the
// transform of inputs `d` to components, Bᵀ d, and of products `m` to outputs, Aᵀ m. Elements are `stride`
// apart; the results are too.

// F(2, 3) at the points 0, ±1 and infinity.
struct TwoOutputs {
  static constexpr int kInputs = 4, kComponents = 4, kOutputs = 2;

  static void forward(const Vec16* d, int stride, Vec16* out) {
    out[0] = subtract(d[0], d[2 * stride]);
    out[stride] = add(d[stride], d[2 * stride]);
    out[2 * stride] = subtract(d[2 * stride], d[stride]);
    out[3 * stride] = subtract(d[stride], d[3 * stride]);
  }

  static void inverse(const Vec16* m, int stride, Vec16* out) {
    out[0] = add(add(m[0], m[stride]), m[2 * stride]);
    out[stride] = subtract(subtract(m[stride], m[2 * stride]), m[3 * stride]);
  }
};

// F(2, 3) of a line enlarged twice, (a, b, b, c): the third component is zero, and left out.
struct TwoOutputsEnlarged {
  static constexpr int kInputs = 3, kComponents = 3, kOutputs = 2;

  static void forward(const Vec16* d, int stride, Vec16* out) {
    out[0] = subtract(d[0], d[stride]);
    out[stride] = add(d[stride], d[stride]);
    out[2 * stride] = subtract(d[stride], d[2 * stride]);
  }

  static void inverse(const Vec16* m, int stride, Vec16* out) {
    out[0] = add(m[0], m[stride]);
    out[stride] = subtract(m[stride], m[2 * stride]);
  }
};

// F(4, 3) at the points 0, ±√½, ±√2 and infinity: of the points tried, those with the least rounding.
struct FourOutputs {
  static constexpr int kInputs = 6, kComponents = 6, kOutputs = 4;

  static void forward(const Vec16* d, int stride, Vec16* out) {
    const Vec16 d1 = d[stride], d2 = d[2 * stride], d3 = d[3 * stride], d4 = d[4 * stride];
    const Vec16 last = broadcast(-2.5f), two = broadcast(-2.0f), half = broadcast(-0.5f);
    const Vec16 even = fma(two, d2, d4), odd = fma(two, d1, d3);
    const Vec16 other_even = fma(half, d2, d4), other_odd = fma(half, d1, d3);
    out[0] = fma(last, d2, add(d[0], d4));
    out[stride] = fma(broadcast(kSquareRootOfHalf), odd, even);
    out[2 * stride] = fma(broadcast(-kSquareRootOfHalf), odd, even);
    out[3 * stride] = fma(broadcast(2.0f * kSquareRootOfHalf), other_odd, other_even);
    out[4 * stride] = fma(broadcast(-2.0f * kSquareRootOfHalf), other_odd, other_even);
    out[5 * stride] = fma(last, d3, add(d1, d[5 * stride]));
  }

  static void inverse(const Vec16* m, int stride, Vec16* out) {
    const Vec16 m1 = m[stride], m2 = m[2 * stride], m3 = m[3 * stride], m4 = m[4 * stride];
    const Vec16 half = broadcast(0.5f), two = broadcast(2.0f), root = broadcast(kSquareRootOfHalf);
    const Vec16 even = add(m1, m2), odd = subtract(m1, m2);
    const Vec16 other_even = add(m3, m4), other_odd = subtract(m3, m4);
    out[0] = add(add(m[0], even), other_even);
    out[stride] = multiply(root, fma(two, other_odd, odd));
    out[2 * stride] = fma(two, other_even, multiply(half, even));
    out[3 * stride] = fma(root, fma(broadcast(4.0f), other_odd, multiply(half, odd)), m[5 * stride]);
  }
};

template <typename Lines>
inline void transform_input(const WinogradInputArgs& args) {
  constexpr int kInputs = Lines::kInputs, kComponents = Lines::kComponents;
  for (std::size_t t = 0; t < args.tile_count; ++t)
    for (std::size_t c = 0; c < args.channels; c += kLanes) {
      const float* x = args.x + args.tiles[t].in + c;
      Vec16 d[kInputs * kInputs], columns[kComponents * kInputs];
      for (int j = 0; j < kInputs; ++j) {
        for (int i = 0; i < kInputs; ++i)
          d[i * kInputs + j] = load(x + i * args.row_stride + j * args.channels);
        Lines::forward(d + j, kInputs, columns + j);
      }
      float* out = args.out + t * args.channels + c;
      for (int i = 0; i < kComponents; ++i) {
        Vec16 components[kComponents];
        Lines::forward(columns + i * kInputs, 1, components);
        for (int j = 0; j < kComponents; ++j)
          store(out + (i * kComponents + j) * args.component_stride, components[j]);
      }
    }
}

template <typename Lines>
inline void transform_output(const WinogradOutputArgs& args) {
  constexpr int kComponents = Lines::kComponents, kOutputs = Lines::kOutputs;
  for (std::size_t t = 0; t < args.tile_count; ++t) {
    const WinogradTile& tile = args.tiles[t];
    for (std::size_t c = 0; c < args.channels; c += kLanes) {
      const float* components = args.components + t * args.channels + c;
      Vec16 m[kComponents * kComponents], columns[kOutputs * kComponents];
      for (int j = 0; j < kComponents; ++j) {
        for (int i = 0; i < kComponents; ++i)
          m[i * kComponents + j] = load(components + (i * kComponents + j) * args.component_stride);
        Lines::inverse(m + j, kComponents, columns + j);
      }
      const Vec16 bias = load(args.bias + c);
      for (int i = 0; i < tile.rows; ++i) {
        Vec16 outputs[kOutputs];
        Lines::inverse(columns + i * kComponents, 1, outputs);
        for (int j = 0; j < tile.columns; ++j) {
          const std::size_t at = tile.out + i * args.row_stride + j * args.channels + c;
          Vec16 result = add(outputs[j], bias);
          if (args.residual != nullptr) result = add(load(args.residual + at), result);
          store(args.out + at, result);
        }
      }
    }
  }
}

template <typename Lines>
constexpr WinogradTransforms winograd_transforms() {
  return {transform_input<Lines>, transform_output<Lines>};
}

}  // namespace iris_fast::IRIS_FAST_LEVEL
