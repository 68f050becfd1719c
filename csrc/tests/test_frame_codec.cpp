// The frame codec on small configurations: against a tokenizer written plainly in double precision, and
// against itself.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "iris_fast/frames.hpp"
#include "philox.hpp"
#include "simd_level.hpp"

using namespace iris_fast;

namespace {

constexpr std::size_t kBatch = 5;

// Resolution, channels of frames and of the stem, widths, blocks, attention, latents, embedding, vocabulary,
// groups.
FrameModelConfig large_maps() { return {16, 3, 8, {8, 24}, 1, {8}, 12, 10, 9, 4, 1e-6f, false}; }
FrameModelConfig odd_maps() { return {10, 2, 18, {18, 6}, 2, {10, 5}, 7, 33, 4, 3, 1e-6f, true}; }

// Weights by name, made up when they are first asked for, about as large as keep a layer's output near 1.
class Weights {
 public:
  const float* find(const std::string& name, const std::vector<std::size_t>& shape) {
    std::size_t count = 1;
    for (const std::size_t size : shape) count *= size;
    auto& values = weights_[name];
    if (values.empty()) {
      const bool norm = name.find("norm") != std::string::npos && name.find("weight") != std::string::npos;
      const std::size_t inputs = shape.size() > 1 ? count / shape[0] : 1;
      const float size = shape.size() > 1 ? 3.0f / std::sqrt(static_cast<float>(inputs)) : 0.5f;
      const std::uint32_t purpose = next_++;
      for (std::size_t i = 0; i < count; ++i)
        values.push_back((norm ? 1.0f : 0.0f) +
                         size * (philox_uniform(2, static_cast<std::uint32_t>(i), 0, purpose) - 0.5f));
    }
    CHECK(values.size() == count);
    return values.data();
  }

  const std::vector<float>& operator[](const std::string& name) const { return weights_.at(name); }

 private:
  std::map<std::string, std::vector<float>> weights_;
  std::uint32_t next_ = 0;
};

struct Map {
  std::size_t channels, size;
  std::vector<double> values;  // (channels, size, size)

  Map(std::size_t channels, std::size_t size)
      : channels(channels), size(size), values(channels * size * size) {}
  double& at(std::size_t c, std::size_t y, std::size_t x) { return values[(c * size + y) * size + x]; }
  double padded(std::size_t c, std::ptrdiff_t y, std::ptrdiff_t x) const {
    const auto end = static_cast<std::ptrdiff_t>(size);
    if (y < 0 || x < 0 || y >= end || x >= end) return 0.0;
    return values[(c * size + static_cast<std::size_t>(y)) * size + static_cast<std::size_t>(x)];
  }
};

// The tokenizer in double precision.
struct Plain {
  const FrameModelConfig& config;
  const Weights& weights;

  // A convolution that reads from `before` positions above and to the left on.
  Map conv(const std::string& name, const Map& in, std::size_t kernel, std::size_t stride,
           std::ptrdiff_t before) const {
    const auto &weight = weights[name + ".weight"], &bias = weights[name + ".bias"];
    Map out(bias.size(), in.size / stride);
    for (std::size_t o = 0; o < out.channels; ++o)
      for (std::size_t y = 0; y < out.size; ++y)
        for (std::size_t x = 0; x < out.size; ++x) {
          double sum = bias[o];
          for (std::size_t i = 0; i < in.channels; ++i)
            for (std::size_t ky = 0; ky < kernel; ++ky)
              for (std::size_t kx = 0; kx < kernel; ++kx)
                sum += weight[((o * in.channels + i) * kernel + ky) * kernel + kx] *
                       in.padded(i, static_cast<std::ptrdiff_t>(y * stride + ky) - before,
                                 static_cast<std::ptrdiff_t>(x * stride + kx) - before);
          out.at(o, y, x) = sum;
        }
    return out;
  }
  Map conv3(const std::string& name, const Map& in) const { return conv(name, in, 3, 1, 1); }
  Map conv1(const std::string& name, const Map& in) const { return conv(name, in, 1, 1, 0); }

  Map norm(const std::string& name, Map map, bool swish) const {
    const auto &weight = weights[name + ".weight"], &bias = weights[name + ".bias"];
    const std::size_t area = map.size * map.size, count = map.channels / config.norm_groups * area;
    for (std::size_t g = 0; g < config.norm_groups; ++g) {
      double* values = map.values.data() + g * count;
      double mean = 0.0, variance = 0.0;
      for (std::size_t i = 0; i < count; ++i) mean += values[i] / static_cast<double>(count);
      for (std::size_t i = 0; i < count; ++i)
        variance += (values[i] - mean) * (values[i] - mean) / static_cast<double>(count);
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t c = (g * count + i) / area;
        const double y = (values[i] - mean) / std::sqrt(variance + config.norm_epsilon) * weight[c] + bias[c];
        values[i] = swish ? y / (1.0 + std::exp(-y)) : y;
      }
    }
    return map;
  }

  static Map sum(Map a, const Map& b) {
    for (std::size_t i = 0; i < a.values.size(); ++i) a.values[i] += b.values[i];
    return a;
  }

  Map residual(const std::string& name, const Map& x, std::size_t width) const {
    const Map hidden = conv3(name + ".conv1", norm(name + ".norm1", x, true));
    return sum(x.channels == width ? x : conv1(name + ".nin_shortcut", x),
               conv3(name + ".conv2", norm(name + ".norm2", hidden, true)));
  }

  Map attention(const std::string& name, const Map& x) const {
    const Map normed = norm(name + ".norm", x, false);
    const Map q = conv1(name + ".q", normed), k = conv1(name + ".k", normed), v = conv1(name + ".v", normed);
    const std::size_t area = x.size * x.size;
    Map mixed(x.channels, x.size);
    for (std::size_t p = 0; p < area; ++p) {
      std::vector<double> shares(area);
      double total = 0.0;
      for (std::size_t other = 0; other < area; ++other) {
        double score = 0.0;
        for (std::size_t c = 0; c < x.channels; ++c)
          score += q.values[c * area + p] * k.values[c * area + other];
        shares[other] = std::exp(score / std::sqrt(static_cast<double>(x.channels)));
        total += shares[other];
      }
      for (std::size_t c = 0; c < x.channels; ++c)
        for (std::size_t other = 0; other < area; ++other)
          mixed.values[c * area + p] += shares[other] / total * v.values[c * area + other];
    }
    return sum(x, conv1(name + ".proj_out", mixed));
  }

  Map middle(const std::string& name, const Map& x) const {
    return residual(name + ".block_2",
                    attention(name + ".attn_1", residual(name + ".block_1", x, x.channels)), x.channels);
  }

  Map level(const std::string& name, Map x, std::size_t width, std::size_t blocks) const {
    const auto& attends = config.attention_resolutions;
    for (std::size_t i = 0; i < blocks; ++i) {
      x = residual(name + ".block." + std::to_string(i), x, width);
      if (std::find(attends.begin(), attends.end(), x.size) != attends.end())
        x = attention(name + ".attn." + std::to_string(i), x);
    }
    return x;
  }

  // (slots, embed_dim) of a frame (channels, size, size) in [0, 1].
  std::vector<double> encode(const float* frame) const {
    Map x(config.frame_channels, config.resolution);
    for (std::size_t i = 0; i < x.values.size(); ++i) {
      const double shift = config.has_background ? 0.5 - weights["background"][i] : 0.0;
      x.values[i] = 2.0 * (static_cast<double>(frame[i]) + shift) - 1.0;
    }
    x = conv3("encoder.conv_in", x);
    for (std::size_t l = 0; l < config.widths.size(); ++l) {
      const std::string name = "encoder.down." + std::to_string(l);
      x = level(name, x, config.widths[l], config.residual_blocks);
      if (l + 1 < config.widths.size()) x = conv(name + ".downsample.conv", x, 3, 2, 0);
    }
    x = conv3("encoder.conv_out", norm("encoder.norm_out", middle("encoder.mid", x), true));
    x = conv1("pre_quant_conv", x);
    const std::size_t slots = config.tokens_per_frame();
    std::vector<double> latents(slots * x.channels);
    for (std::size_t p = 0; p < slots; ++p)
      for (std::size_t c = 0; c < x.channels; ++c) latents[p * x.channels + c] = x.values[c * slots + p];
    return latents;
  }

  std::vector<double> decode(const std::int64_t* tokens) const {
    const std::size_t slots = config.tokens_per_frame();
    Map x(config.embed_dim, config.latent_resolution());
    for (std::size_t p = 0; p < slots; ++p)
      for (std::size_t c = 0; c < x.channels; ++c)
        x.values[c * slots + p] =
            weights["embedding.weight"][static_cast<std::size_t>(tokens[p]) * x.channels + c];
    x = middle("decoder.mid", conv3("decoder.conv_in", conv1("post_quant_conv", x)));
    for (std::size_t l = config.widths.size(); l-- > 0;) {
      const std::string name = "decoder.up." + std::to_string(l);
      x = level(name, x, config.widths[l], config.residual_blocks + 1);
      if (l == 0) continue;
      Map enlarged(x.channels, 2 * x.size);
      for (std::size_t c = 0; c < x.channels; ++c)
        for (std::size_t y = 0; y < enlarged.size; ++y)
          for (std::size_t col = 0; col < enlarged.size; ++col)
            enlarged.at(c, y, col) = x.at(c, y / 2, col / 2);
      x = conv3(name + ".upsample.conv", enlarged);
    }
    x = conv3("decoder.conv_out", norm("decoder.norm_out", x, true));
    for (std::size_t i = 0; i < x.values.size(); ++i) {
      const double shift = config.has_background ? weights["background"][i] - 0.5 : 0.0;
      x.values[i] = std::clamp((x.values[i] + 1.0) / 2.0 + shift, 0.0, 1.0);
    }
    return x.values;
  }
};

struct Inputs {
  std::vector<std::int64_t> tokens;
  std::vector<float> frames;
};

Inputs inputs(const FrameModelConfig& config) {
  Inputs made;
  for (std::size_t i = 0; i < kBatch * config.tokens_per_frame(); ++i)
    made.tokens.push_back(static_cast<std::int64_t>(i * i % config.vocabulary));
  for (std::size_t i = 0; i < kBatch * config.frame_channels * config.resolution * config.resolution; ++i)
    made.frames.push_back(philox_uniform(3, static_cast<std::uint32_t>(i), 0, 0));
  return made;
}

std::unique_ptr<FrameCodec> make_codec(const FrameModelConfig& config, Weights& weights,
                                       const std::string& level, std::size_t threads, std::size_t group,
                                       Precision decoder = Precision::kFloat) {
  auto model =
      std::make_shared<FrameModel>(config, kernels_for(level), decoder,
                                   [&](const std::string& name, const std::vector<std::size_t>& shape) {
                                     return weights.find(name, shape);
                                   });
  return std::make_unique<FrameCodec>(std::move(model), std::make_shared<ThreadPool>(threads), group);
}

std::vector<float> decoded(FrameCodec& codec, const Inputs& in) {
  std::vector<float> out(in.frames.size(), -1.0f);
  codec.decode(in.tokens.data(), kBatch, out.data(), {});
  return out;
}

std::vector<float> encoded(FrameCodec& codec, const Inputs& in) {
  std::vector<float> out(in.tokens.size() * codec.model().config().embed_dim, -1.0f);
  codec.encode(in.frames.data(), kBatch, out.data(), {});
  return out;
}

std::vector<std::int64_t> tokenized(FrameCodec& codec, const Inputs& in) {
  std::vector<std::int64_t> out(in.tokens.size(), -1);
  codec.tokenize(in.frames.data(), kBatch, out.data(), {});
  return out;
}

// Tokens of the latents (slots, embed_dim) are codewords than which none is nearer by more than rounding.
void check_nearest(const FrameModelConfig& config, const Weights& weights, const std::int64_t* tokens,
                   const std::vector<double>& latents) {
  const std::vector<float>& codewords = weights["embedding.weight"];
  const std::size_t dim = config.embed_dim;
  for (std::size_t slot = 0; slot < config.tokens_per_frame(); ++slot) {
    std::vector<double> distances(config.vocabulary);
    for (std::size_t i = 0; i < config.vocabulary * dim; ++i) {
      const double difference = latents[slot * dim + i % dim] - codewords[i];
      distances[i / dim] += difference * difference;
    }
    CHECK(tokens[slot] >= 0 && static_cast<std::size_t>(tokens[slot]) < config.vocabulary);
    const double least = *std::min_element(distances.begin(), distances.end());
    CHECK(distances[static_cast<std::size_t>(tokens[slot])] <= least + 1e-4);
    CHECK(*std::max_element(distances.begin(), distances.end()) > least + 0.1);
  }
}

void check_close(const std::vector<float>& found, const std::vector<double>& expected, std::size_t first) {
  double spread = 0.0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(std::fabs(found[first + i] - expected[i]) < 2e-5);
    spread = std::max(spread, std::fabs(expected[i] - expected[0]));
  }
  CHECK(spread > 0.1);
}

void the_plain_tokenizer_says_the_same(const FrameModelConfig& config) {
  Weights weights;
  const auto codec = make_codec(config, weights, "auto", 2, 0);
  const Inputs in = inputs(config);
  const std::vector<float> frames = decoded(*codec, in), latents = encoded(*codec, in);
  const auto tokens = tokenized(*codec, in);
  const Plain plain{config, weights};
  for (const std::size_t row : {std::size_t{0}, kBatch - 1}) {
    const std::size_t floats = in.frames.size() / kBatch;
    check_close(frames, plain.decode(&in.tokens[row * config.tokens_per_frame()]), row * floats);
    const std::vector<double> exact = plain.encode(&in.frames[row * floats]);
    check_close(latents, exact, row * latents.size() / kBatch);
    check_nearest(config, weights, &tokens[row * config.tokens_per_frame()], exact);
  }
}

// Frames of a decoder whose convolutions are of integers: rounded, but the same.
void the_int8_decoder_is_close(const FrameModelConfig& config) {
  Weights weights;
  const Inputs in = inputs(config);
  const std::vector<float> frames = decoded(*make_codec(config, weights, "auto", 2, 0), in);
  const auto codec = make_codec(config, weights, "auto", 2, 0, Precision::kInt8);
  const std::vector<float> rounded = decoded(*codec, in);
  double squares = 0.0, mean = 0.0, spread = 0.0;
  for (const float value : frames) mean += value / static_cast<double>(frames.size());
  for (std::size_t i = 0; i < frames.size(); ++i) {
    squares += std::pow(static_cast<double>(rounded[i]) - frames[i], 2);
    spread += std::pow(frames[i] - mean, 2);
  }
  CHECK(squares > 0.0);
  CHECK(std::sqrt(squares / spread) < 0.08);
  CHECK(encoded(*codec, in) == encoded(*make_codec(config, weights, "auto", 1, 0), in));
}

void nothing_depends_on_threads_groups_or_level(const FrameModelConfig& config, Precision decoder) {
  Weights weights;
  const Inputs in = inputs(config);
  const auto plain = make_codec(config, weights, "portable", 1, 1, decoder);
  const std::vector<float> frames = decoded(*plain, in), latents = encoded(*plain, in);
  const auto tokens = tokenized(*plain, in);
  for (const KernelTable* table : supported_levels())
    for (const std::size_t group : {std::size_t{0}, std::size_t{2}, std::size_t{7}}) {
      const auto codec = make_codec(config, weights, table->name, 3, group, decoder);
      for (int again = 0; again < 2; ++again) {
        CHECK(decoded(*codec, in) == frames);
        CHECK(encoded(*codec, in) == latents);
        CHECK(tokenized(*codec, in) == tokens);
      }
    }
}

// Threads that share one frame's layers give the bits that it has in a batch; a batch in between changes
// nothing.
void a_frame_alone_is_as_in_a_batch(const FrameModelConfig& config, Precision decoder) {
  Weights weights;
  const Inputs in = inputs(config);
  const std::size_t slots = config.tokens_per_frame(), floats = config.frame_floats();
  const auto plain = make_codec(config, weights, "auto", 1, 1, decoder);
  const std::vector<float> frames = decoded(*plain, in), latents = encoded(*plain, in);
  const auto tokens = tokenized(*plain, in);
  for (const std::size_t threads : {1, 2, 3, 9}) {
    const auto codec = make_codec(config, weights, "auto", threads, 0, decoder);
    for (int again = 0; again < 2; ++again) {
      std::vector<float> alone(frames.size()), alone_latents(latents.size());
      std::vector<std::int64_t> alone_tokens(tokens.size());
      for (std::size_t f = 0; f < kBatch; ++f) {
        codec->decode(in.tokens.data() + f * slots, 1, alone.data() + f * floats, {});
        codec->encode(in.frames.data() + f * floats, 1, alone_latents.data() + f * slots * config.embed_dim,
                      {});
        codec->tokenize(in.frames.data() + f * floats, 1, alone_tokens.data() + f * slots, {});
      }
      CHECK(alone == frames && alone_latents == latents && alone_tokens == tokens);
      CHECK(decoded(*codec, in) == frames);
    }
  }
}

void calls_may_overlap() {
  Weights weights;
  const FrameModelConfig config = large_maps();
  const Inputs in = inputs(config);
  const auto codec = make_codec(config, weights, "auto", 2, 1);
  const std::vector<float> frames = decoded(*codec, in), latents = encoded(*codec, in);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller)
    callers.emplace_back([&] {
      for (int again = 0; again < 5; ++again)
        if (decoded(*codec, in) != frames || encoded(*codec, in) != latents) ++wrong;
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
}

void what_cannot_be_is_refused() {
  Weights weights;
  const FrameModelConfig config = large_maps();
  const auto codec = make_codec(config, weights, "auto", 1, 0);
  Inputs in = inputs(config);
  for (const std::int64_t token : {std::int64_t{-1}, static_cast<std::int64_t>(config.vocabulary)}) {
    in.tokens.back() = token;
    CHECK_THROWS(decoded(*codec, in), std::invalid_argument);
  }
  CHECK_THROWS(make_codec(config, weights, "auto", 1, 5000), std::invalid_argument);
  const auto refused = [&](auto change) {
    FrameModelConfig changed = config;
    change(changed);
    CHECK_THROWS(changed.validate(), std::invalid_argument);
  };
  refused([](FrameModelConfig& c) { c.resolution = 17; });
  refused([](FrameModelConfig& c) { c.widths.clear(); });
  refused([](FrameModelConfig& c) { c.widths[1] = 22; });
  refused([](FrameModelConfig& c) { c.stem_width = 6; });
  refused([](FrameModelConfig& c) { c.frame_channels = 17; });
  refused([](FrameModelConfig& c) { c.embed_dim = 0; });
  refused([](FrameModelConfig& c) { c.vocabulary = 0; });
  refused([](FrameModelConfig& c) { c.latent_channels = std::size_t{1} << 40; });
}

void an_interrupted_call_can_be_repeated() {
  Weights weights;
  const FrameModelConfig config = large_maps();
  const Inputs in = inputs(config);
  const auto codec = make_codec(config, weights, "portable", 2, 1);
  const std::vector<float> frames = decoded(*codec, in);
  std::vector<std::int64_t> tokens;
  for (int copy = 0; copy < 4000; ++copy) tokens.insert(tokens.end(), in.tokens.begin(), in.tokens.end());
  std::vector<float> out(4000 * frames.size());
  CHECK_THROWS(codec->decode(tokens.data(), 4000 * kBatch, out.data(), [] { return true; }), Interrupted);
  CHECK(decoded(*codec, in) == frames);
}

}  // namespace

int main() {
  for (const FrameModelConfig& config : {large_maps(), odd_maps()}) {
    the_plain_tokenizer_says_the_same(config);
    the_int8_decoder_is_close(config);
    for (const Precision decoder : {Precision::kFloat, Precision::kInt8}) {
      nothing_depends_on_threads_groups_or_level(config, decoder);
      a_frame_alone_is_as_in_a_batch(config, decoder);
    }
  }
  calls_may_overlap();
  what_cannot_be_is_refused();
  an_interrupted_call_can_be_repeated();
}
