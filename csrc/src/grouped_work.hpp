// Work on a batch's rows in groups on a pool of threads, with separate memory for each thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "crew.hpp"
#include "iris_fast/thread_pool.hpp"
#include "process.hpp"

namespace iris_fast {

// `Pass` is the memory of one thread, kept for the next call. Calls from several threads are safe:
// overlapping calls use separate memory.
template <typename Pass>
class GroupedWork {
 public:
  // `group`: rows that a thread takes at a time; 0 for an even share of the batch, at most `most_together`.
  // Throws std::invalid_argument.
  GroupedWork(std::shared_ptr<ThreadPool> pool, std::size_t group, std::size_t most_together)
      : pool_(std::move(pool)), group_(group), most_together_(most_together), passes_(pool_->threads()) {
    constexpr std::size_t kLargestGroup = 1024;
    if (group > kLargestGroup)
      throw std::invalid_argument("group_size must be in [0, " + std::to_string(kLargestGroup) + "], not " +
                                  std::to_string(group));
  }

  // Calls work(pass, first row, rows, context) for all groups of `batch` rows; make() makes a Pass.
  template <typename Make, typename Work>
  void run(std::size_t batch, const Make& make, const Work& work, const std::function<bool()>& stop) {
    const std::size_t threads = pool_->threads();
    const std::size_t share = std::clamp<std::size_t>((batch + threads - 1) / threads, 1, most_together_);
    const std::size_t group = group_ > 0 ? group_ : share;
    with_passes([&](Passes& passes) {
      const auto task = [&](std::size_t index, std::size_t worker, TaskContext& context) {
        if (!passes[worker]) passes[worker] = make();
        const std::size_t first = index * group;
        work(*passes[worker], first, std::min(group, batch - first), context);
      };
      pool_->run((batch + group - 1) / group, task, stop);
    });
  }

  // Calls work(pass, crew, context) once, with the pool's threads as its crew.
  template <typename Make, typename Work>
  void run_together(const Make& make, const Work& work, const std::function<bool()>& stop) {
    constexpr std::size_t kLargestCrew = 8;
    with_passes([&](Passes& passes) {
      Crew crew(std::min(pool_->threads(), kLargestCrew));
      const auto task = [&](std::size_t rank, std::size_t, TaskContext& context) {
        if (rank > 0) return crew.follow(rank, context);
        if (!passes[0]) passes[0] = make();
        work(*passes[0], crew, context);
        crew.end();
      };
      pool_->run(crew.members(), task, stop);
    });
  }

 private:
  using Passes = std::vector<std::unique_ptr<Pass>>;  // one a worker

  // use(passes), with the memory that is kept or, while another call has that, with some of its own.
  template <typename Use>
  void with_passes(const Use& use) {
    const std::size_t threads = pool_->threads();
    const Turn turn(in_use_);
    if (turn.from_parent()) {
      abandon(passes_);
      passes_.resize(threads);
    }
    Passes own(turn.mine() ? 0 : threads);
    use(turn.mine() ? passes_ : own);
  }

  std::shared_ptr<ThreadPool> pool_;
  std::size_t group_, most_together_;
  InUse in_use_;
  Passes passes_;  // of the call whose turn it is
};

}  // namespace iris_fast
