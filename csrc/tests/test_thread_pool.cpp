#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "iris_fast/thread_pool.hpp"

#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

using iris_fast::Interrupted;
using iris_fast::TaskContext;
using iris_fast::ThreadPool;

namespace {

void every_task_runs_once_on_a_worker_of_its_own() {
  for (const std::size_t threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const std::size_t count : {0, 1, 3, 200}) {
      std::vector<std::atomic<int>> runs(count);
      std::vector<std::atomic<bool>> busy(threads);
      pool.run(
          count,
          [&](std::size_t index, std::size_t worker, TaskContext&) {
            CHECK(worker < threads);
            CHECK(!busy[worker].exchange(true));
            ++runs[index];
            busy[worker] = false;
          },
          nullptr);
      for (const auto& found : runs) CHECK(found == 1);
    }
  }
}

void what_a_task_throws_is_thrown_to_the_caller() {
  ThreadPool pool(3);
  const auto fail = [](std::size_t index, std::size_t, TaskContext&) {
    if (index == 7) throw std::domain_error("seven");
  };
  for (int repeat = 0; repeat < 20; ++repeat) CHECK_THROWS(pool.run(20, fail, nullptr), std::domain_error);
  std::atomic<int> runs{0};
  pool.run(20, [&](std::size_t, std::size_t, TaskContext&) { ++runs; }, nullptr);
  CHECK(runs == 20);
}

void a_run_stops_when_the_caller_says_so() {
  for (const std::size_t threads : {1, 3}) {
    ThreadPool pool(threads);
    const auto endless = [](std::size_t, std::size_t, TaskContext& context) {
      while (true) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        context.check();
      }
    };
    CHECK_THROWS(pool.run(3, endless, [] { return true; }), Interrupted);
  }
}

void runs_from_several_threads_take_turns() {
  ThreadPool pool(2);
  std::atomic<int> runs{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 25; ++repeat)
        pool.run(4, [&](std::size_t, std::size_t, TaskContext&) { ++runs; }, nullptr);
    });
  for (std::thread& caller : callers) caller.join();
  CHECK(runs == 400);
}

void numbers_of_threads_that_cannot_be_are_refused() {
  CHECK_THROWS(ThreadPool(0), std::invalid_argument);
  CHECK_THROWS(ThreadPool(1000000), std::invalid_argument);
}

// ThreadSanitizer does not follow threads that start after a fork.
#if !defined(_WIN32) && !defined(__SANITIZE_THREAD__)
void a_forked_process_starts_threads_of_its_own() {
  ThreadPool pool(3);
  const auto nothing = [](std::size_t, std::size_t, TaskContext&) {};
  pool.run(8, nothing, nullptr);
  const pid_t child = fork();
  CHECK(child >= 0);
  if (child == 0) {
    pool.run(8, nothing, nullptr);
    _exit(0);
  }
  int status = 1;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}
#else
void a_forked_process_starts_threads_of_its_own() {}
#endif

}  // namespace

int main() {
  every_task_runs_once_on_a_worker_of_its_own();
  what_a_task_throws_is_thrown_to_the_caller();
  a_run_stops_when_the_caller_says_so();
  runs_from_several_threads_take_turns();
  numbers_of_threads_that_cannot_be_are_refused();
  a_forked_process_starts_threads_of_its_own();
}
