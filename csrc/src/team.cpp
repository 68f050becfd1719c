#include "team.hpp"

#include <chrono>

#include "pause.hpp"

namespace iris_fast {
namespace {

constexpr int kLooks =
    2000;  // 20 to 90 microseconds by processor, about what the longest part of a pass takes
constexpr auto kCheckEvery = std::chrono::milliseconds(20);

}  // namespace

void Team::wait(TaskContext& context) {
  if (members_ == 1) return;
  const std::size_t generation = generation_.load();
  if (arrived_.fetch_add(1) + 1 == members_) {
    arrived_ = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      generation_ = generation + 1;
    }
    wake_.notify_all();
    return;
  }
  for (int look = 0; look < kLooks; ++look) {
    if (generation_.load() != generation) return;
    pause();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  while (!wake_.wait_for(lock, kCheckEvery, [&] { return generation_.load() != generation; })) {
    lock.unlock();
    context.check();
    lock.lock();
  }
}

}  // namespace iris_fast
