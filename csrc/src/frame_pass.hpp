// One thread's work on a group of frames: encoder or decoder, layer by layer. A crew helps with each layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "frame_weights.hpp"
#include "iris_fast/thread_pool.hpp"
#include "map_pass.hpp"

namespace iris_fast {

class FramePass : private MapPass {
 public:
  explicit FramePass(const FrameWeights& model) : MapPass(model.kernels()), model_(model) {}

  // Of all that follows; null for none.
  void lead(Crew* crew) { crew_ = crew; }

  // Frames (count, frame channels, resolution, resolution) in [0, 1] of tokens (count, tokens of a frame),
  // each below the vocabulary's size.
  void decode(const std::int64_t* tokens, std::size_t count, float* frames, TaskContext& context);

  // Latents (count, tokens of a frame, embed_dim) of frames in [0, 1].
  void encode(const float* frames, std::size_t count, float* latents, TaskContext& context);

  // Tokens (count, tokens of a frame) of frames in [0, 1]: the codewords nearest to the latents by distances
  // in double precision, the first of several; 0 where no distance is finite.
  void tokenize(const float* frames, std::size_t count, std::int64_t* tokens, TaskContext& context);

 private:
  // Room for the layers that work on as many frames at a time. It grows, losing what it held.
  struct Room {
    AlignedBuffer<float> first, second;  // a layer reads its map from one and may write to the other
    AlignedBuffer<float> hidden, padded;

    AlignedBuffer<float>& other(const float* data) { return data == first.data() ? second : first; }
  };

  FeatureMap run(const std::vector<FrameLayer>& layers, std::size_t begin, std::size_t end, FeatureMap map,
                 Room& room, TaskContext& context);
  FeatureMap apply(const FrameLayer& sizes, const ResidualLayer& layer, FeatureMap map, Room& room);
  FeatureMap apply(const FrameLayer& sizes, const AttentionLayer& layer, FeatureMap map, Room& room);
  FeatureMap apply(const FrameLayer& sizes, const HalvingLayer& layer, FeatureMap map, Room& room);
  FeatureMap apply(const FrameLayer& sizes, const DoublingLayer& layer, FeatureMap map, Room& room);

  FeatureMap look_up(const std::int64_t* tokens, std::size_t count);
  FeatureMap stem(const float* frame);
  void finish_frame(FeatureMap map, float* frame);
  // Latents (count, tokens of a frame, columns of `pre_quant`), valid until the next call.
  const float* find_latents(const float* frames, std::size_t count, TaskContext& context);
  const float* finish_latents(FeatureMap map);

  std::int64_t nearest(const float* x, const float* shifted, const float* scores) const;

  void attend(const AttentionLayer& layer, float* x, std::size_t positions, std::size_t channels);

  const FrameWeights& model_;
  Room single_, group_;
  AlignedBuffer<float> normed_, qkv_, keys_, values_, scores_, attended_;  // of attention
  AlignedBuffer<float> shares_, latents_, distances_, shifted_;
};

}  // namespace iris_fast
