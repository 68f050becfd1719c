// One thread's work on a group of frames: encoder or decoder, layer by layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "iris_fast/frame_model.hpp"
#include "iris_fast/thread_pool.hpp"

namespace iris_fast {

// Frames of high resolution go through one at a time, since one fills the processor's cache; small maps go
// through together, so that a layer's weights are read once for all of them.
class FramePass {
 public:
  explicit FramePass(const FrameModel& model) : model_(model), kernels_(model.kernels()) {}

  // Frames (count, frame channels, resolution, resolution) in [0, 1] of tokens (count, tokens of a frame),
  // each below the vocabulary's size.
  void decode(const std::int64_t* tokens, std::size_t count, float* frames, TaskContext& context);

  // Latents (count, tokens of a frame, embed_dim) of frames in [0, 1].
  void encode(const float* frames, std::size_t count, float* latents, TaskContext& context);

 private:
  // Feature maps (frames, resolution, resolution, channels), channels padded.
  struct Map {
    float* data;
    std::size_t frames, resolution, channels;

    std::size_t positions() const { return resolution * resolution; }
    std::size_t frame_floats() const { return positions() * channels; }
  };

  // Room for the layers that work on as many frames at a time. It grows, losing what it held.
  struct Room {
    AlignedBuffer<float> first, second;  // a layer reads its map from one and may write to the other
    AlignedBuffer<float> hidden, padded;

    AlignedBuffer<float>& other(const float* data) { return data == first.data() ? second : first; }
  };

  static float* room_for(AlignedBuffer<float>& buffer, std::size_t floats);

  Map run(const std::vector<FrameLayer>& layers, std::size_t begin, std::size_t end, Map map, Room& room,
          TaskContext& context);
  Map apply(const FrameLayer& sizes, const ResidualLayer& layer, Map map, Room& room);
  Map apply(const FrameLayer& sizes, const AttentionLayer& layer, Map map, Room& room);
  Map apply(const FrameLayer& sizes, const HalvingLayer& layer, Map map, Room& room);
  Map apply(const FrameLayer& sizes, const DoublingLayer& layer, Map map, Room& room);

  Map look_up(const std::int64_t* tokens, std::size_t count);
  Map stem(const float* frame);
  void finish_frame(Map map, float* frame);
  void finish_latents(Map map, float* latents);

  void find_scale_and_shift(const PackedGroupNorm& norm, const float* x, std::size_t positions);
  // The map with zeros around it, as it is or after GroupNorm and swish; `padded_side` positions a side.
  const float* pad(const Map& map, const PackedGroupNorm* norm, Room& room);
  static void clear_border(float* padded, std::size_t resolution, std::size_t channels);
  void attend(const AttentionLayer& layer, float* x, std::size_t positions, std::size_t channels);
  void convolve(const PackedWinograd& conv, const float* padded, const Map& in, const float* residual,
                Map out);
  // A 3 x 3 convolution by lines, from a position of the padded input on.
  void convolve(const PackedProduct& conv, const float* padded, const Map& in, std::size_t start,
                std::size_t stride, Map out);
  void multiply(const PackedProduct& layer, const float* x, std::size_t rows, std::size_t stride,
                const float* residual, float* out);
  const std::size_t* row_offsets(std::size_t rows, std::size_t stride);

  const FrameModel& model_;
  const FrameKernels& kernels_;
  Room single_, group_;
  std::vector<std::size_t> rows_;
  std::vector<float> sums_, scale_, shift_;
  std::vector<WinogradTile> tiles_;
  AlignedBuffer<float> components_, products_;                             // of Winograd's convolutions
  AlignedBuffer<float> normed_, qkv_, keys_, values_, scores_, attended_;  // of attention
  AlignedBuffer<float> shares_, latents_;
};

}  // namespace iris_fast
