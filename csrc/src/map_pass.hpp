// One thread's layers over feature maps.
#pragma once

#include <cstddef>
#include <vector>

#include "packed_layers.hpp"

namespace iris_fast {

// Larger maps of a frame (in floats) go through layers one frame at a time, since one fills the processor's
// cache; smaller ones go through together, so that a layer's weights are read once for all of them.
constexpr std::size_t kMostGroupedFloats = 32 * 1024;

// Feature maps (frames, resolution, resolution, channels), channels padded.
struct FeatureMap {
  float* data;
  std::size_t frames, resolution, channels;

  std::size_t positions() const { return resolution * resolution; }
  std::size_t frame_floats() const { return positions() * channels; }
};

// `buffer`, with room for that many elements: it grows, losing what it held.
template <typename T>
T* room_for(AlignedBuffer<T>& buffer, std::size_t count) {
  if (buffer.size() < count) buffer = AlignedBuffer<T>(count);
  return buffer.data();
}

// Positions a side of a padded map: one around it, and one more where a tile of two sticks out.
std::size_t padded_side(std::size_t resolution);

class MapPass {
 protected:
  explicit MapPass(const FrameKernels& kernels) : kernels_(kernels) {}

  // GroupNorm of one frame as a factor and an offset of each channel, in scale_ and shift_.
  void find_scale_and_shift(const PackedGroupNorm& norm, const float* x, std::size_t positions);
  // The map with zeros around it, as it is or after GroupNorm and swish.
  const float* pad(const FeatureMap& map, const PackedGroupNorm* norm, AlignedBuffer<float>& padded);
  // A frame (channels, resolution, resolution) in [0, 1], less `background` plus 1/2 where there is one, as
  // (resolution, resolution, channels) in [-1, 1] with zeros around it.
  static const float* pad_frame(const float* frame, const float* background, std::size_t resolution,
                                std::size_t channels, AlignedBuffer<float>& padded);
  void convolve(const PackedWinograd& conv, const float* padded, const FeatureMap& in, const float* residual,
                const FeatureMap& out);
  void convolve(const PackedInt8Convolution& conv, const float* padded, const FeatureMap& in,
                const float* residual, const FeatureMap& out);
  void convolve(const Convolution& conv, const float* padded, const FeatureMap& in, const float* residual,
                const FeatureMap& out) {
    std::visit([&](const auto& one) { convolve(one, padded, in, residual, out); }, conv);
  }
  // A 3 x 3 convolution by lines, from position (start, start) of the padded input on.
  void convolve(const PackedProduct& conv, const float* padded, const FeatureMap& in, std::size_t start,
                std::size_t stride, const FeatureMap& out);
  void multiply(const PackedProduct& layer, const float* x, std::size_t rows, std::size_t stride,
                const float* residual, float* out);
  const std::size_t* row_offsets(std::size_t rows, std::size_t stride);

  const FrameKernels& kernels_;
  std::vector<float> sums_, scale_, shift_;

 private:
  std::vector<std::size_t> rows_, outs_;
  AlignedBuffer<unsigned char> integers_;
  std::vector<WinogradTile> tiles_;
  AlignedBuffer<float> components_, products_;  // of Winograd's convolutions
};

}  // namespace iris_fast
