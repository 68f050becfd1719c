// Threads that take independent tasks off one list, with the calling thread among them.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <stdexcept>

namespace iris_fast {

// Thrown by ThreadPool::run when the caller's poll asked for it to stop.
class Interrupted : public std::runtime_error {
 public:
  Interrupted() : std::runtime_error("interrupted") {}
};

// A task's view of its run.
class TaskContext {
 public:
  virtual ~TaskContext() = default;
  // Call it regularly: throws Interrupted when the run must stop.
  virtual void check() = 0;
};

// Threads start with the first run that has work for them. A forked child starts new threads, because the
// parent's do not exist there. Runs from several threads take turns.
class ThreadPool {
 public:
  // task(index, worker, context); tasks that run at the same time have different workers, below threads().
  using Task = std::function<void(std::size_t, std::size_t, TaskContext&)>;

  // `threads` counts the calling thread. Throws std::invalid_argument unless it is in [1, 1024].
  explicit ThreadPool(std::size_t threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  std::size_t threads() const { return threads_; }

  // Runs task(0 … count - 1) and waits for them. `stop` is asked by the calling thread every 50 ms; when it
  // says true, tasks end at their next check and this throws Interrupted. Rethrows an exception of a task or
  // of `stop`; throws std::runtime_error if `stop` uses this pool.
  void run(std::size_t count, const Task& task, const std::function<bool()>& stop);

 private:
  struct State;
  struct Turn;
  State& state();

  std::size_t threads_;
  std::atomic<State*> state_{nullptr};
};

}  // namespace iris_fast
