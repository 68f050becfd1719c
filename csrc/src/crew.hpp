// Loops of one thread that other threads help with.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "iris_fast/thread_pool.hpp"
#include "team.hpp"

namespace iris_fast {

// A leader splits its loops into parts, which it and its followers take one after the other. Followers that
// are late, or that a busy machine has put aside, are not waited for: the leader takes their parts. So it
// costs little where a Team's members would wait for each other.
class Crew {
 public:
  using Part = std::function<void(std::size_t, Share)>;

  explicit Crew(std::size_t members) : members_(members) {}

  std::size_t members() const { return members_; }

  // Of the leader: part(rank, share) for shares of at most `grain` that cover `count`, on several threads,
  // and each rank, below members(), on one at a time. Returns when all are done. A part must not throw.
  void split(std::size_t count, std::size_t grain, const Part& part);

  // Of the leader: there are no more loops.
  void end() { ended_.store(true, std::memory_order_release); }

  // Of the others: takes part in the leader's loops to their end. Throws that of `context.check()`.
  void follow(std::size_t rank, TaskContext& context);

 private:
  bool take_part(std::size_t rank);

  const std::size_t members_;
  // The loop's number in the upper half; in the lower one the parts that the leader has taken, from the first
  // on, and above them those that others have, from the last on: a thread's memory is then mostly its own.
  // kClosed while there is no loop.
  std::atomic<std::uint64_t> place_{kClosed};
  std::atomic<const Part*> part_{nullptr};
  std::atomic<std::size_t> count_{0}, grain_{1}, parts_{0}, done_{0};
  std::atomic<bool> ended_{false};
  std::uint64_t loops_ = 0;

  static constexpr std::uint64_t kClosed = 0xffffffff, kMostParts = 0xfffe, kOthers = 0x10000;
};

}  // namespace iris_fast
