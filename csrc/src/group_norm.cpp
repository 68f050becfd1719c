#include "iris_fast/group_norm.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "float_environment.hpp"
#include "kernel_table.hpp"

namespace iris_fast {
namespace {

void check(const GroupNormSizes& sizes) {
  if (sizes.channels == 0 || sizes.channels % kLanes != 0)
    throw std::invalid_argument("channels must be a multiple of 16, not " + std::to_string(sizes.channels));
  if (sizes.groups == 0 || sizes.channels % sizes.groups != 0)
    throw std::invalid_argument("groups must divide the " + std::to_string(sizes.channels) +
                                " channels, not " + std::to_string(sizes.groups));
}

// One sample's numbers by channel, from those by group.
struct Channels {
  explicit Channels(std::size_t count) : center(count), scale(count), shift(count), a(count), b(count) {}
  std::vector<float> center, scale, shift, a, b;
};

double of_group(const std::vector<float>& by_channel, std::size_t group, std::size_t width) {
  double sum = 0.0;
  for (std::size_t c = group * width; c < (group + 1) * width; ++c) sum += by_channel[c];
  return sum;
}

template <typename T>
const GroupNormKernels<T>& kernels_of(const KernelTable& kernels) {
  if constexpr (std::is_same_v<T, float>)
    return kernels.frames->norm;
  else
    return kernels.frames->norm_bfloat16;
}

}  // namespace

template <typename T>
void group_norm(const KernelTable& kernels, ThreadPool& pool, const GroupNormSizes& sizes,
                const GroupNormInputs<T>& inputs, double epsilon, const GroupNormStatistics& statistics,
                T* out, const std::function<bool()>& stop) {
  check(sizes);
  const std::size_t sample = sizes.positions * sizes.channels, width = sizes.channels / sizes.groups;
  const double count = static_cast<double>(sizes.positions * width);
  const GroupNormKernels<T>& of_maps = kernels_of<T>(kernels);
  const auto task = [&](std::size_t i, std::size_t, TaskContext& context) {
    context.check();
    const DefaultFloatEnvironment environment;
    const T* x = inputs.x + i * sample;
    Channels by(sizes.channels);
    of_maps.channel_sums(x, sizes.positions, sizes.channels, nullptr, by.a.data());
    for (std::size_t c = 0; c < sizes.channels; c += width)
      std::fill_n(&by.center[c], width, static_cast<float>(of_group(by.a, c / width, width) / count));
    of_maps.channel_moments(x, sizes.positions, sizes.channels, by.center.data(), by.a.data(), by.b.data());
    for (std::size_t g = 0; g < sizes.groups; ++g) {
      // What float32 could not hold of a mean far from zero.
      const double rest = of_group(by.a, g, width) / count;
      const double variance = std::fmax(of_group(by.b, g, width) / count - rest * rest, 0.0);
      const bool finite = std::isfinite(rest) && std::isfinite(of_group(by.b, g, width));
      const double factor = finite ? 1.0 / std::sqrt(variance + epsilon) : std::nan("");
      statistics.means[i * sizes.groups + g] = static_cast<float>(by.center[g * width] + rest);
      statistics.scales[i * sizes.groups + g] = static_cast<float>(factor);
      for (std::size_t c = g * width; c < (g + 1) * width; ++c) {
        const double scale = factor * static_cast<double>(inputs.weight[c]);
        by.scale[c] = static_cast<float>(scale);
        by.shift[c] = static_cast<float>(static_cast<double>(inputs.bias[c]) - rest * scale);
      }
    }
    of_maps.apply(
        {x, sizes.positions, sizes.channels, by.center.data(), by.scale.data(), by.shift.data(), sizes.swish},
        out + i * sample);
  };
  pool.run(sizes.batch, task, stop);
}

template <typename T>
void group_norm_backward(const KernelTable& kernels, ThreadPool& pool, const GroupNormSizes& sizes,
                         const GroupNormInputs<T>& inputs, const GroupNormStatistics& statistics,
                         const T* grad, T* grad_x, float* grad_weight, float* grad_bias,
                         const std::function<bool()>& stop) {
  check(sizes);
  const std::size_t channels = sizes.channels, sample = sizes.positions * channels;
  const std::size_t width = channels / sizes.groups;
  std::vector<float> totals(sizes.batch * channels), products(sizes.batch * channels);
  const GroupNormKernels<T>& of_maps = kernels_of<T>(kernels);
  const auto task = [&](std::size_t i, std::size_t, TaskContext& context) {
    context.check();
    const DefaultFloatEnvironment environment;
    Channels by(channels);
    for (std::size_t c = 0; c < channels; ++c) {
      by.center[c] = statistics.means[i * sizes.groups + c / width];
      by.scale[c] = statistics.scales[i * sizes.groups + c / width] * inputs.weight[c];
      by.shift[c] = inputs.bias[c];
    }
    const GroupNormArgs<T> args{inputs.x + i * sample, sizes.positions, channels,   by.center.data(),
                                by.scale.data(),       by.shift.data(), sizes.swish};
    float *total = &totals[i * channels], *product = &products[i * channels];
    T* to = grad_x + i * sample;
    of_maps.gradient_sums(args, grad + i * sample, to, total, product);
    for (std::size_t g = 0; g < sizes.groups; ++g) {
      double of_totals = 0.0, of_products = 0.0;
      const double scale = statistics.scales[i * sizes.groups + g];
      for (std::size_t c = g * width; c < (g + 1) * width; ++c) {
        of_totals += static_cast<double>(total[c]) * static_cast<double>(inputs.weight[c]);
        of_products += static_cast<double>(product[c]) * static_cast<double>(inputs.weight[c]);
        product[c] = static_cast<float>(product[c] * scale);
      }
      const double share = scale / static_cast<double>(sizes.positions * width);
      std::fill_n(&by.a[g * width], width, static_cast<float>(-of_products * scale * scale * share));
      std::fill_n(&by.b[g * width], width, static_cast<float>(-of_totals * share));
    }
    of_maps.gradient(args, sizes.swish ? to : grad + i * sample, by.a.data(), by.b.data(), to);
  };
  pool.run(sizes.batch, task, stop);
  for (std::size_t c = 0; c < channels; ++c) {
    double of_weight = 0.0, of_bias = 0.0;
    for (std::size_t i = 0; i < sizes.batch; ++i) {
      of_weight += products[i * channels + c];
      of_bias += totals[i * channels + c];
    }
    grad_weight[c] = static_cast<float>(of_weight);
    grad_bias[c] = static_cast<float>(of_bias);
  }
}

template void group_norm<float>(const KernelTable&, ThreadPool&, const GroupNormSizes&,
                                const GroupNormInputs<float>&, double, const GroupNormStatistics&, float*,
                                const std::function<bool()>&);
template void group_norm_backward<float>(const KernelTable&, ThreadPool&, const GroupNormSizes&,
                                         const GroupNormInputs<float>&, const GroupNormStatistics&,
                                         const float*, float*, float*, float*, const std::function<bool()>&);
template void group_norm<BFloat16>(const KernelTable&, ThreadPool&, const GroupNormSizes&,
                                   const GroupNormInputs<BFloat16>&, double, const GroupNormStatistics&,
                                   BFloat16*, const std::function<bool()>&);
template void group_norm_backward<BFloat16>(const KernelTable&, ThreadPool&, const GroupNormSizes&,
                                            const GroupNormInputs<BFloat16>&, const GroupNormStatistics&,
                                            const BFloat16*, BFloat16*, float*, float*,
                                            const std::function<bool()>&);

}  // namespace iris_fast
