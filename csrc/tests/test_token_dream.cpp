// The engine on a tiny configuration: against a model written plainly in double precision, and against
// itself.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "check.hpp"
#include "iris_fast/tokens.hpp"
#include "philox.hpp"
#include "simd_level.hpp"

using namespace iris_fast;

namespace {

using Vector = std::vector<double>;

constexpr std::size_t kBatch = 5;
constexpr DrawPurposes kPurposes{1, 2, 3};

TokenModelConfig config() { return {4, 3, 2, 3, 15, 7, 3, 3, 2, false, 1e-5f}; }

// Weights by name, made up when they are first asked for.
class Weights {
 public:
  const float* find(const std::string& name, const std::vector<std::size_t>& shape) {
    std::size_t count = 1;
    for (const std::size_t size : shape) count *= size;
    auto& values = weights_[name];
    if (values.empty()) {
      const bool norm = name.find("ln") != std::string::npos && name.find("weight") != std::string::npos;
      const std::uint32_t purpose = next_++;
      for (std::size_t i = 0; i < count; ++i)
        values.push_back((norm ? 1.0f : 0.0f) + philox_uniform(2, static_cast<std::uint32_t>(i), 0, purpose) -
                         0.5f);
    }
    CHECK(values.size() == count);
    return values.data();
  }

  std::vector<float>& edit(const std::string& name) { return weights_.at(name); }
  const std::vector<float>& operator[](const std::string& name) const { return weights_.at(name); }

 private:
  std::map<std::string, std::vector<float>> weights_;
  std::uint32_t next_ = 0;
};

Weights& weights() {
  static Weights all;
  return all;
}

std::shared_ptr<TokenModel> make_model(const std::string& level, Precision precision = Precision::kFloat) {
  return std::make_shared<TokenModel>(config(), kernels_for(level), precision,
                                      [](const std::string& name, const std::vector<std::size_t>& shape) {
                                        return weights().find(name, shape);
                                      });
}

// The world model in double precision, over a whole sequence of embeddings.
struct PlainModel {
  // Whether the blocks' products are of integers, of a scale for each output and each token.
  static inline bool int8 = false;

  static void round_to_integers(double* values, std::size_t count) {
    double largest = 0.0;
    for (std::size_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(values[i]));
    for (std::size_t i = 0; i < count; ++i)
      values[i] = std::nearbyint(values[i] * (127.0 / largest)) * (largest / 127.0);
  }

  static Vector linear(const std::string& name, Vector x) {
    const auto &weight = weights()[name + ".weight"], &bias = weights()[name + ".bias"];
    const bool rounded = int8 && name.find("head_module") == std::string::npos;
    if (rounded) round_to_integers(x.data(), x.size());
    Vector out(bias.begin(), bias.end());
    for (std::size_t o = 0; o < out.size(); ++o) {
      Vector row(&weight[o * x.size()], &weight[o * x.size()] + x.size());
      if (rounded) round_to_integers(row.data(), row.size());
      for (std::size_t i = 0; i < x.size(); ++i) out[o] += row[i] * x[i];
    }
    return out;
  }

  static Vector norm(const std::string& name, const Vector& x) {
    double mean = 0.0, variance = 0.0;
    for (const double value : x) mean += value / static_cast<double>(x.size());
    for (const double value : x) variance += (value - mean) * (value - mean) / static_cast<double>(x.size());
    Vector out(x.size());
    for (std::size_t i = 0; i < x.size(); ++i)
      out[i] = (x[i] - mean) / std::sqrt(variance + 1e-5f) * weights()[name + ".weight"][i] +
               weights()[name + ".bias"][i];
    return out;
  }

  static Vector sum(Vector a, const Vector& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  }

  static Vector head(const std::string& name, const Vector& features) {
    Vector hidden = linear(name + ".head_module.0", features);
    for (double& value : hidden) value = std::max(value, 0.0);
    return linear(name + ".head_module.2", hidden);
  }

  static Vector attend(const std::vector<Vector>& queries, const std::vector<Vector>& keys,
                       const std::vector<Vector>& values, std::size_t at) {
    const std::size_t heads = config().heads, dim = config().embed_dim / heads;
    Vector out(config().embed_dim, 0.0);
    for (std::size_t h = 0; h < heads; ++h) {
      Vector weight(at + 1);
      double total = 0.0;
      for (std::size_t t = 0; t <= at; ++t) {
        double score = 0.0;
        for (std::size_t d = h * dim; d < (h + 1) * dim; ++d) score += queries[at][d] * keys[t][d];
        total += weight[t] = std::exp(score / std::sqrt(static_cast<double>(dim)));
      }
      for (std::size_t t = 0; t <= at; ++t)
        for (std::size_t d = h * dim; d < (h + 1) * dim; ++d) out[d] += weight[t] / total * values[t][d];
    }
    return out;
  }

  // Features of the last of the embeddings (without position).
  static Vector features(std::vector<Vector> x) {
    const std::size_t width = config().embed_dim;
    for (std::size_t t = 0; t < x.size(); ++t)
      for (std::size_t i = 0; i < width; ++i) x[t][i] += weights()["pos_emb.weight"][t * width + i];
    for (std::size_t layer = 0; layer < config().layers; ++layer) {
      const std::string block = "transformer.blocks." + std::to_string(layer);
      std::vector<Vector> queries, keys, values;
      for (const Vector& token : x) {
        const Vector normed = norm(block + ".ln1", token);
        queries.push_back(linear(block + ".attn.query", normed));
        keys.push_back(linear(block + ".attn.key", normed));
        values.push_back(linear(block + ".attn.value", normed));
      }
      for (std::size_t t = 0; t < x.size(); ++t) {
        x[t] = sum(x[t], linear(block + ".attn.proj", attend(queries, keys, values, t)));
        Vector hidden = linear(block + ".mlp.0", norm(block + ".ln2", x[t]));
        for (double& value : hidden) value = 0.5 * value * std::erfc(-value / std::sqrt(2.0));
        x[t] = sum(x[t], linear(block + ".mlp.2", hidden));
      }
    }
    return norm("transformer.ln_f", x.back());
  }

  static Vector embedding(int table, std::int64_t index) {
    const auto& rows = weights()["embedder.embedding_tables." + std::to_string(table) + ".weight"];
    const auto first = rows.begin() + index * static_cast<std::int64_t>(config().embed_dim);
    return {first, first + static_cast<std::int64_t>(config().embed_dim)};
  }
};

// Everything that a few steps give.
struct Played {
  std::vector<std::int64_t> rewards, ends, tokens;
  std::vector<float> logits_rewards, logits_ends, logits_observations;

  std::vector<unsigned char> bytes() const {
    std::vector<unsigned char> all;
    const auto add = [&](const auto& values) {
      const auto* data = reinterpret_cast<const unsigned char*>(values.data());
      all.insert(all.end(), data, data + values.size() * sizeof values[0]);
    };
    add(rewards), add(ends), add(tokens), add(logits_rewards), add(logits_ends), add(logits_observations);
    return all;
  }
};

std::vector<std::int64_t> first_tokens() {
  std::vector<std::int64_t> tokens(kBatch * config().slots());
  for (std::size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<std::int64_t>(5 * i % config().vocabulary);
  return tokens;
}

std::vector<std::int64_t> actions_of(std::size_t step) {
  std::vector<std::int64_t> actions(kBatch);
  for (std::size_t r = 0; r < kBatch; ++r)
    actions[r] = static_cast<std::int64_t>((r + step) % config().actions);
  return actions;
}

// `given`: the next frame, or null to draw it.
Played step(TokenDream& dream, std::size_t index, const std::int64_t* given = nullptr) {
  const TokenModelConfig sizes = config();
  Played found;
  found.rewards.resize(kBatch);
  found.ends.resize(kBatch);
  found.tokens.resize(kBatch * sizes.slots());
  found.logits_rewards.resize(kBatch * sizes.reward_classes);
  found.logits_ends.resize(kBatch * sizes.end_classes);
  found.logits_observations.resize(kBatch * sizes.slots() * sizes.vocabulary);
  dream.step(actions_of(index).data(),
             {found.rewards.data(), found.ends.data(), found.tokens.data(), found.logits_rewards.data(),
              found.logits_ends.data(), found.logits_observations.data()},
             nullptr, given);
  return found;
}

TokenDream make_dream(const std::string& level, std::size_t threads, std::size_t group, Precision type,
                      Precision of_weights = Precision::kFloat) {
  return TokenDream(make_model(level, of_weights), std::make_shared<ThreadPool>(threads), kBatch, type, group,
                    kPurposes);
}

void append_errors(Vector& errors, const float* found, const Vector& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) errors.push_back(std::fabs(found[i] - expected[i]));
}

// Two steps fit the context of 12 tokens; the third begins with the cache rebuilt from the current frame.
void logits_are_the_plain_models(Precision of_weights, double largest_error) {
  Vector errors;
  PlainModel::int8 = of_weights == Precision::kInt8;
  TokenDream dream = make_dream("auto", 2, 2, Precision::kFloat, of_weights);
  dream.restart(first_tokens().data(), 11, 0);
  const TokenModelConfig sizes = config();
  std::vector<std::int64_t> frame = first_tokens();
  std::vector<std::vector<Vector>> history(kBatch);
  for (std::size_t index = 0; index < 3; ++index) {
    const Played found = step(dream, index);
    CHECK(dream.length() == (index == 1 ? 11u : 7u));
    for (std::size_t r = 0; r < kBatch; ++r) {
      if (index != 1) {
        history[r].clear();
        for (std::size_t slot = 0; slot < sizes.slots(); ++slot)
          history[r].push_back(PlainModel::embedding(1, frame[r * sizes.slots() + slot]));
      }
      history[r].push_back(PlainModel::embedding(0, actions_of(index)[r]));
      Vector features = PlainModel::features(history[r]);
      append_errors(errors, &found.logits_rewards[r * sizes.reward_classes],
                    PlainModel::head("head_rewards", features));
      append_errors(errors, &found.logits_ends[r * sizes.end_classes],
                    PlainModel::head("head_ends", features));
      for (std::size_t slot = 0; slot < sizes.slots(); ++slot) {
        const std::size_t at = r * sizes.slots() + slot;
        append_errors(errors, &found.logits_observations[at * sizes.vocabulary],
                      PlainModel::head("head_observations", features));
        history[r].push_back(PlainModel::embedding(1, found.tokens[at]));
        features = PlainModel::features(history[r]);
      }
    }
    frame = found.tokens;
  }
  std::sort(errors.begin(), errors.end());
  CHECK(errors[errors.size() / 2] < 2e-5);
  CHECK(errors.back() < largest_error);
}

void nothing_depends_on_level_threads_or_groups() {
  constexpr auto kFloat = Precision::kFloat, kHalf = Precision::kHalf, kInt8 = Precision::kInt8;
  for (const auto& [type, of_weights] : {std::pair{kFloat, kFloat}, std::pair{kHalf, kFloat},
                                         std::pair{kFloat, kHalf}, std::pair{kHalf, kInt8}}) {
    std::vector<unsigned char> expected;
    for (const KernelTable* level : supported_levels())
      for (const std::size_t threads : {1, 3, 5})
        for (const std::size_t group : {0, 1, 2, 5}) {
          TokenDream dream = make_dream(level->name, threads, group, type, of_weights);
          dream.restart(first_tokens().data(), 3, 100);
          std::vector<unsigned char> found;
          for (std::size_t index = 0; index < 4; ++index) {
            const auto bytes = step(dream, index).bytes();
            found.insert(found.end(), bytes.begin(), bytes.end());
          }
          if (expected.empty()) expected = found;
          CHECK(found == expected);
        }
  }
}

// A frame that was given, or exchanged for the one that was drawn, is what all later steps go on from, within
// the context and past it; the frame that would have been drawn anyway changes nothing.
void frames_that_are_given_or_exchanged_are_those_that_follow() {
  std::vector<std::int64_t> other = first_tokens();
  for (std::int64_t& token : other) token = (token + 2) % 7;
  for (const std::size_t threads : {1, 3, 5})
    for (const std::size_t group : {0, 2}) {
      const auto make = [&] { return make_dream("auto", threads, group, Precision::kFloat); };
      TokenDream plain = make(), repeated = make(), given = make(), exchanged = make();
      for (TokenDream* dream : {&plain, &repeated, &given, &exchanged})
        dream->restart(first_tokens().data(), 3, 100);
      for (std::size_t index = 0; index < 5; ++index) {
        const Played drawn = step(plain, index);
        CHECK(step(repeated, index, drawn.tokens.data()).bytes() == drawn.bytes());
        if (index == 2) repeated.replace(drawn.tokens.data());
        Played one = step(given, index, index == 1 || index == 3 ? other.data() : nullptr);
        Played two = step(exchanged, index);
        if (index > 1) {  // what follows a frame that differs
          CHECK(one.logits_rewards != drawn.logits_rewards);
          CHECK(one.logits_ends == two.logits_ends);
        }
        CHECK(one.logits_rewards == two.logits_rewards);
        if (index == 1 || index == 3) {
          CHECK(one.tokens == other && two.tokens != other);
          exchanged.replace(other.data());
        } else {
          CHECK(one.bytes() == two.bytes());
        }
        CHECK(given.length() == plain.length() && exchanged.length() == plain.length());
      }
    }
}

void threads_that_are_left_over_join_a_group() {
  const auto team = [](std::size_t threads, std::size_t group) {
    return make_dream("auto", threads, group, Precision::kFloat).team();
  };
  CHECK(team(1, 0) == 1);  // the batch of 5 is one group
  CHECK(team(3, 0) == 3);
  CHECK(team(20, 0) == 8);
  CHECK(team(3, 2) == 1);
  CHECK(team(7, 3) == 3);
}

void refuses_bad_arguments() {
  TokenDream dream = make_dream("auto", 1, 0, Precision::kFloat);
  CHECK_THROWS(step(dream, 0), std::runtime_error);  // not started
  auto tokens = first_tokens();
  tokens.back() = 7;
  CHECK_THROWS(dream.restart(tokens.data(), 0, 0), std::invalid_argument);
  CHECK_THROWS(dream.replace(first_tokens().data()), std::runtime_error);  // not started
  dream.restart(first_tokens().data(), 0, 0);
  CHECK_THROWS(dream.replace(tokens.data()), std::invalid_argument);
  CHECK_THROWS(step(dream, 0, tokens.data()), std::invalid_argument);
  std::vector<std::int64_t> actions(kBatch, -1);
  CHECK_THROWS(dream.step(actions.data(), {}, nullptr), std::invalid_argument);
  for (const std::size_t batch : {std::size_t{0}, std::size_t{1} << 40})
    CHECK_THROWS(TokenDream(make_model("auto"), std::make_shared<ThreadPool>(1), batch, Precision::kFloat, 0,
                            kPurposes),
                 std::invalid_argument);
  auto& weight = weights().edit("head_ends.head_module.0.weight")[3];
  const float before = weight;
  weight = 65520.0f;
  make_model("auto");
  CHECK_THROWS(make_model("auto", Precision::kHalf), std::invalid_argument);
  make_model("auto", Precision::kInt8);
  weight = std::numeric_limits<float>::infinity();
  CHECK_THROWS(make_model("auto", Precision::kInt8), std::invalid_argument);
  weight = before;
  TokenModelConfig bad = config();
  bad.heads = 4;
  CHECK_THROWS(bad.validate(), std::invalid_argument);
}

}  // namespace

int main() {
  logits_are_the_plain_models(Precision::kFloat, 2e-5);
  // In float32 a few numbers come to lie on the other side of half an integer; without integers: 0.06.
  logits_are_the_plain_models(Precision::kInt8, 2e-2);
  nothing_depends_on_level_threads_or_groups();
  frames_that_are_given_or_exchanged_are_those_that_follow();
  threads_that_are_left_over_join_a_group();
  refuses_bad_arguments();
}
