#include "crew.hpp"

#include <algorithm>
#include <thread>

#include "pause.hpp"

namespace iris_fast {
namespace {

constexpr int kLooks = 2000;  // before a thread that waits lets others run

}  // namespace

void Crew::split(std::size_t count, std::size_t grain, const Part& part) {
  grain = std::max<std::size_t>(grain, (count + kMostParts - 1) / kMostParts);
  const std::size_t parts = (count + grain - 1) / grain;
  if (parts < 2 || members_ == 1) {
    if (count > 0) part(0, {0, count});
    return;
  }
  // Closed since the last loop, so a follower that read some of these numbers early takes nothing by them.
  part_.store(&part, std::memory_order_relaxed);
  count_.store(count, std::memory_order_relaxed);
  grain_.store(grain, std::memory_order_relaxed);
  parts_.store(parts, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  place_.store(++loops_ << 32, std::memory_order_release);
  while (take_part(0)) {
  }
  for (int look = 0; done_.load(std::memory_order_acquire) < parts; ++look)
    look < kLooks ? pause() : std::this_thread::yield();
  place_.store(loops_ << 32 | kClosed, std::memory_order_release);
}

bool Crew::take_part(std::size_t rank) {
  std::uint64_t place = place_.load(std::memory_order_acquire);
  while ((place & kClosed) != kClosed) {
    const std::size_t count = count_.load(std::memory_order_relaxed);
    const std::size_t grain = grain_.load(std::memory_order_relaxed);
    const std::size_t parts = parts_.load(std::memory_order_relaxed);
    const Part* part = part_.load(std::memory_order_relaxed);
    const std::uint64_t first = place % kOthers, others = (place & kClosed) / kOthers;
    if (first + others >= parts) return false;
    const std::uint64_t taken = place + (rank == 0 ? 1 : kOthers);
    if (!place_.compare_exchange_weak(place, taken, std::memory_order_acq_rel, std::memory_order_acquire))
      continue;
    const std::size_t begin = (rank == 0 ? first : parts - 1 - others) * grain;
    (*part)(rank, {begin, std::min(count, begin + grain)});  // the loop lasts until this part is done
    done_.fetch_add(1, std::memory_order_release);
    return true;
  }
  return false;
}

void Crew::follow(std::size_t rank, TaskContext& context) {
  int look = 0;
  while (!ended_.load(std::memory_order_acquire)) {
    if (take_part(rank)) {
      look = 0;
    } else if (++look < kLooks) {
      pause();
    } else {
      std::this_thread::yield();
      context.check();
    }
  }
}

}  // namespace iris_fast
