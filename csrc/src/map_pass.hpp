// One thread's layers over feature maps, with the help of others where it leads a crew.
#pragma once

#include <cstddef>
#include <vector>

#include "crew.hpp"
#include "packed_layers.hpp"

namespace iris_fast {

// Larger maps of a frame (in floats) go through layers one frame at a time, since one fills the processor's
// cache; smaller ones go through together, so that a layer's weights are read once for all of them.
constexpr std::size_t kMostGroupedFloats = 32 * 1024;

// Lines of a map that a thread of a crew takes at a time: some microseconds of work.
constexpr std::size_t kLinesTogether = 4;

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
  // part(rank, share) for shares of `count`, with the crew's help where there is one. A part must not throw.
  template <typename Part>
  void split(std::size_t count, std::size_t grain, const Part& part) {
    if (crew_ != nullptr)
      crew_->split(count, grain, part);
    else if (count > 0)
      part(std::size_t{0}, Share{0, count});
  }
  std::size_t helpers() const { return crew_ == nullptr ? 1 : crew_->members(); }

  const FrameKernels& kernels_;
  Crew* crew_ = nullptr;
  std::vector<float> sums_, scale_, shift_;

 private:
  // Of Winograd's convolutions, a rank's.
  struct TileRoom {
    std::vector<WinogradTile> tiles;
    AlignedBuffer<float> components, products;
  };

  void sum_channels(const float* x, std::size_t positions, std::size_t channels, const float* center);

  std::vector<std::size_t> rows_, outs_;
  AlignedBuffer<unsigned char> integers_;
  AlignedBuffer<float> block_sums_;
  std::vector<TileRoom> tile_rooms_;
};

}  // namespace iris_fast
