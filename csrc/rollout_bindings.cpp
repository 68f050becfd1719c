#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "arguments.hpp"
#include "bindings.hpp"
#include "iris_fast/rollout.hpp"
#include "without_gil.hpp"

namespace py = pybind11;

namespace iris_fast {
namespace {

using Shape = std::vector<std::size_t>;

py::tuple roll_out_from(TokenDream& dream, FrameCodec& codec, PolicyFeatures& features,
                        PolicyRecurrence& recurrence, const py::array& first_tokens,
                        const py::array& burn_in_frames, const py::array& burn_in_mask, std::size_t horizon,
                        std::uint64_t seed, std::uint32_t first_row, std::uint32_t purpose_action) {
  const RolloutParts parts{dream, codec, features, recurrence};
  parts.validate();
  const FrameModelConfig& frame = codec.model().config();
  const std::size_t batch = dream.batch(), slots = frame.tokens_per_frame(), size = frame.resolution;
  const std::size_t width = recurrence.config().width, actions_count = recurrence.config().actions;
  const std::size_t most = std::size_t{1} << 40, one = batch * (frame.frame_floats() + actions_count + slots);
  if (horizon < 1 || horizon > most / one)
    throw py::value_error("horizon must be in [1, " + std::to_string(most / one) + "], not " +
                          std::to_string(horizon));
  const auto tokens = require_shape<std::int64_t>(first_tokens, "first_tokens", {batch, slots});
  const auto mask = require<bool>(burn_in_mask, "burn_in_mask", 2);
  const auto burn_in = static_cast<std::size_t>(mask.shape(1));
  require_shape<bool>(burn_in_mask, "burn_in_mask", {batch, burn_in});
  const auto frames = require_shape<float>(burn_in_frames, "burn_in_frames",
                                           {batch, burn_in, frame.frame_channels, size, size});
  py::array_t<float> start_hidden(Shape{batch, width}), start_cells(Shape{batch, width});
  py::array_t<float> seen(Shape{batch, horizon, frame.frame_channels, size, size});
  py::array_t<std::int64_t> seen_tokens(Shape{batch, horizon, slots}), actions(Shape{batch, horizon});
  py::array_t<float> rewards(Shape{batch, horizon}), values(Shape{batch, horizon});
  py::array_t<float> logits(Shape{batch, horizon, actions_count});
  py::array_t<bool> ends(Shape{batch, horizon});
  const RolloutStart start{tokens.data(), frames.data(), mask.data(), burn_in};
  const RolloutOutput output{start_hidden.mutable_data(), start_cells.mutable_data(), seen.mutable_data(),
                             seen_tokens.mutable_data(),  actions.mutable_data(),     rewards.mutable_data(),
                             ends.mutable_data(),         logits.mutable_data(),      values.mutable_data()};
  std::size_t remembered = 0;
  without_gil([&](const std::function<bool()>& stop) {
    remembered = roll_out(parts, start, horizon, {seed, first_row, purpose_action}, output, stop);
  });
  return py::make_tuple(seen, seen_tokens, actions, rewards, ends, logits, values, start_hidden, start_cells,
                        remembered);
}

}  // namespace
}  // namespace iris_fast

void bind_rollout(py::module_& module) {
  using namespace pybind11::literals;
  module.def(
      "roll_out", &iris_fast::roll_out_from, "dream"_a, "codec"_a, "features"_a, "recurrence"_a,
      "first_tokens"_a, "burn_in_frames"_a, "burn_in_mask"_a, py::kw_only(), "horizon"_a, "seed"_a,
      "first_row"_a = 0, "purpose_action"_a,
      "A rollout of `horizon` steps of the dream, started anew, from the tokens (batch, slots) int64 of "
      "first\n"
      "frames, after the policy has burnt in on frames (batch, burn-in, channels, resolution, resolution)\n"
      "float32 where the mask (batch, burn-in) bool is true. Gives, (batch, horizon, ...): frames float32,\n"
      "tokens and actions int64, rewards float32 in {-1, 0, 1}, ends bool, the policy's logits and values\n"
      "float32; then hidden and cell state (batch, width) float32 after the burn-in, and how many frames "
      "were\n"
      "remembered instead of decoded. ValueError or TypeError for what does not fit.");
}
