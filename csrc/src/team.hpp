// Threads that go through one computation together, each with a share of every part of it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>

#include "iris_fast/thread_pool.hpp"

namespace iris_fast {

// A barrier for a fixed number of threads. A waiting thread polls for some microseconds, which is usually
// enough, and then sleeps, so that no thread spins for long on a busy machine.
class Team {
 public:
  explicit Team(std::size_t members) : members_(members) {}

  std::size_t members() const { return members_; }

  // Returns once all members have called it, and what they wrote before is visible. Throws the exception of
  // `context.check()` when the run must stop; then the team cannot be used again.
  void wait(TaskContext& context);

 private:
  const std::size_t members_;
  std::atomic<std::size_t> arrived_{0}, generation_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
};

// A half-open range of indices.
struct Share {
  std::size_t begin, end;
};

// One thread's place in a team.
struct Member {
  Team& team;
  std::size_t rank;
  TaskContext& context;

  void wait() const { team.wait(context); }
  // Which of `count` things are this member's; shares are disjoint, cover all and differ by one at most.
  Share share(std::size_t count) const {
    return {count * rank / team.members(), count * (rank + 1) / team.members()};
  }
};

}  // namespace iris_fast
