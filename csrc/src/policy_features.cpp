#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "float_environment.hpp"
#include "frame_packing.hpp"
#include "grouped_work.hpp"
#include "iris_fast/policy.hpp"
#include "map_pass.hpp"

namespace iris_fast {
namespace {

constexpr std::size_t kMostTogether = 8;  // frames; by then the later layers' weights are read seldom enough

struct Layers {
  const FrameKernels& kernels;
  PackedProduct first;  // by lines, input channels not padded
  std::vector<PackedWinograd> others;
};

// One thread's work on a group of frames.
class Pass : private MapPass {
 public:
  Pass(const PolicyFeaturesConfig& config, const Layers& layers)
      : MapPass(layers.kernels), config_(config), layers_(layers) {}
  void run(const float* frames, std::size_t count, float* features, TaskContext& context);

 private:
  void first_layer(const float* frame, float* out);
  void pool(const FeatureMap& map, const FeatureMap& out);

  const PolicyFeaturesConfig& config_;
  const Layers& layers_;
  AlignedBuffer<float> padded_, convolved_, first_, second_;
};

}  // namespace

struct PolicyFeatures::Work {
  Layers layers;
  GroupedWork<Pass> passes;
};

void PolicyFeaturesConfig::validate() const {
  constexpr std::size_t kLargestResolution = 1024, kLargestWidth = std::size_t{1} << 14;
  if (resolution < 1 || resolution > kLargestResolution)
    throw std::invalid_argument("resolution must be in [1, " + std::to_string(kLargestResolution) +
                                "], not " + std::to_string(resolution));
  if (frame_channels < 1 || frame_channels > kLanes)
    throw std::invalid_argument("frame_channels must be in [1, 16], not " + std::to_string(frame_channels));
  if (widths.empty() || widths.size() > 10 || last_resolution() == 0)
    throw std::invalid_argument("a resolution of " + std::to_string(resolution) + " cannot be halved " +
                                std::to_string(widths.size()) + " times");
  for (const std::size_t width : widths)
    if (width < 1 || width > kLargestWidth)
      throw std::invalid_argument("a convolution's width must be in [1, " + std::to_string(kLargestWidth) +
                                  "], not " + std::to_string(width));
}

PolicyFeatures::PolicyFeatures(const PolicyFeaturesConfig& config, const KernelTable& kernels,
                               const FindWeight& find, std::shared_ptr<ThreadPool> pool, std::size_t group)
    : config_(config), work_(new Work{{*kernels.frames, {}, {}}, {std::move(pool), group, kMostTogether}}) {
  const DefaultFloatEnvironment environment;
  config.validate();
  Layers& layers = work_->layers;
  const FramePacker pack(layers.kernels.panel_vectors, find);
  layers.first = pack.lines("conv1", config.widths[0], config.frame_channels, config.frame_channels);
  for (std::size_t i = 1; i < config.widths.size(); ++i)
    layers.others.push_back(pack.winograd("conv" + std::to_string(i + 1), config.widths[i],
                                          config.widths[i - 1],
                                          FramePacker::kind_for(config.resolution >> i)));
}

PolicyFeatures::~PolicyFeatures() = default;

void PolicyFeatures::compute(const float* frames, std::size_t batch, float* features,
                             const std::function<bool()>& stop) {
  const auto compute_group = [&](Pass& pass, std::size_t first, std::size_t count, TaskContext& context) {
    pass.run(frames + first * config_.frame_floats(), count, features + first * config_.feature_count(),
             context);
  };
  const auto make = [this] { return std::make_unique<Pass>(config_, work_->layers); };
  work_->passes.run(batch, make, compute_group, stop);
}

namespace {

void Pass::run(const float* frames, std::size_t count, float* features, TaskContext& context) {
  FeatureMap map{nullptr, count, config_.resolution / 2, layers_.first.columns};
  map.data = room_for(first_, count * map.frame_floats());
  for (std::size_t f = 0; f < count; ++f) {
    context.check();
    first_layer(frames + f * config_.frame_floats(), map.data + f * map.frame_floats());
  }
  for (const PackedWinograd& conv : layers_.others) {
    context.check();
    FeatureMap convolved{nullptr, count, map.resolution, conv.columns};
    convolved.data = room_for(convolved_, count * convolved.frame_floats());
    convolve(conv, pad(map, nullptr, padded_), map, nullptr, convolved);
    FeatureMap pooled{nullptr, count, map.resolution / 2, conv.columns};
    pooled.data = room_for(map.data == first_.data() ? second_ : first_, count * pooled.frame_floats());
    pool(convolved, pooled);
    map = pooled;
  }
  const std::size_t positions = map.positions(), channels = config_.widths.back();
  for (std::size_t f = 0; f < count; ++f)
    for (std::size_t c = 0; c < channels; ++c)
      for (std::size_t p = 0; p < positions; ++p)
        *features++ = map.data[f * map.frame_floats() + p * map.channels + c];
}

void Pass::first_layer(const float* frame, float* out) {
  const float* padded = pad_frame(frame, nullptr, config_.resolution, config_.frame_channels, padded_);
  FeatureMap convolved{nullptr, 1, config_.resolution, layers_.first.columns};
  convolved.data = room_for(convolved_, convolved.frame_floats());
  convolve(layers_.first, padded, {nullptr, 1, config_.resolution, config_.frame_channels}, 0, 1, convolved);
  pool(convolved, {out, 1, config_.resolution / 2, convolved.channels});
}

void Pass::pool(const FeatureMap& map, const FeatureMap& out) {
  for (std::size_t f = 0; f < map.frames; ++f)
    kernels_.pool(map.data + f * map.frame_floats(), map.resolution, map.channels,
                  out.data + f * out.frame_floats());
}

}  // namespace
}  // namespace iris_fast
