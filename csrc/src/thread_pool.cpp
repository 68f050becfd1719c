#include "iris_fast/thread_pool.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "float_environment.hpp"
#include "process.hpp"

namespace iris_fast {
namespace {

constexpr auto kPollEvery = std::chrono::milliseconds(50);
constexpr std::size_t kMostThreads = 1024;

// One call of ThreadPool::run.
struct Run {
  const ThreadPool::Task& task;
  const std::function<bool()>& stop;
  std::size_t count;
  std::atomic<std::size_t> next{0};
  std::atomic<bool> stopping{false};
  std::mutex mutex;
  std::exception_ptr failure;  // the first

  Run(const ThreadPool::Task& task, const std::function<bool()>& stop, std::size_t count)
      : task(task), stop(stop), count(count) {}

  void fail(std::exception_ptr with) {
    const std::lock_guard<std::mutex> lock(mutex);
    if (!failure) failure = std::move(with);
    stopping = true;
  }
};

// The calling thread's context polls; the others only read its result.
class Context final : public TaskContext {
 public:
  Context(Run& run, bool polls) : run_(run), polls_(polls), polled_(std::chrono::steady_clock::now()) {}

  void check() override {
    poll();
    if (run_.stopping) throw Interrupted();
  }

  void poll() {
    if (!polls_ || !run_.stop) return;
    const auto now = std::chrono::steady_clock::now();
    if (now - polled_ < kPollEvery) return;
    polled_ = now;
    try {
      if (run_.stop()) run_.fail(std::make_exception_ptr(Interrupted()));
    } catch (...) {
      run_.fail(std::current_exception());  // only once the workers are done may it leave `run`
    }
  }

 private:
  Run& run_;
  const bool polls_;
  std::chrono::steady_clock::time_point polled_;
};

void work(Run& run, std::size_t worker, Context& context) {
  const DefaultFloatEnvironment environment;
  try {
    while (!run.stopping) {
      const std::size_t index = run.next.fetch_add(1);
      if (index >= run.count) return;
      run.task(index, worker, context);
    }
  } catch (...) {
    run.fail(std::current_exception());
  }
}

}  // namespace

struct ThreadPool::State {
  const int process = process_id();
  std::mutex mutex;
  std::condition_variable wake, idle, freed;
  std::thread::id owner;  // the caller whose run it is; nobody's by default
  Run* run = nullptr;
  std::size_t generation = 0, busy = 0;
  bool ending = false;
  std::vector<std::thread> workers;

  // Worker `worker` waits for runs until the pool ends.
  void serve(std::size_t worker) {
    std::size_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex);
    while (true) {
      wake.wait(lock, [&] { return ending || generation != seen; });
      if (ending) return;
      seen = generation;
      Run& current = *run;
      lock.unlock();
      Context context(current, false);
      work(current, worker, context);
      lock.lock();
      if (--busy == 0) idle.notify_all();
    }
  }

  // Waits for the runs of other callers. False when this one's was stopped meanwhile.
  bool take(Run& run, Context& context) {
    std::unique_lock<std::mutex> lock(mutex);
    if (owner == std::this_thread::get_id())
      throw std::runtime_error(
          "this pool is already at work for this thread, which cannot use it from a signal");
    while (!freed.wait_for(lock, kPollEvery, [&] { return owner == std::thread::id(); })) {
      lock.unlock();
      context.poll();
      if (run.stopping) return false;
      lock.lock();
    }
    owner = std::this_thread::get_id();
    return true;
  }

  void give_back() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      owner = std::thread::id();
    }
    freed.notify_one();
  }

  void start_workers(std::size_t count) {
    const std::lock_guard<std::mutex> lock(mutex);
    while (workers.size() < count) {
      const std::size_t worker = workers.size() + 1;
      workers.emplace_back([this, worker] { serve(worker); });
    }
  }

  void end_workers() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      ending = true;
    }
    wake.notify_all();
    for (std::thread& worker : workers) worker.join();
  }
};

// A caller's turn, which it has taken, until it ends.
struct ThreadPool::Turn {
  State& state;
  explicit Turn(State& state) : state(state) {}
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() { state.give_back(); }
};

ThreadPool::ThreadPool(std::size_t threads) : threads_(threads) {
  if (threads < 1 || threads > kMostThreads)
    throw std::invalid_argument("threads must be in [1, " + std::to_string(kMostThreads) + "], not " +
                                std::to_string(threads));
}

ThreadPool::~ThreadPool() {
  State* state = state_.load();
  if (state == nullptr || state->process != process_id()) return;  // a parent's threads cannot be joined here
  state->end_workers();
  delete state;
}

ThreadPool::State& ThreadPool::state() {
  State* current = state_.load();
  if (current != nullptr && current->process == process_id()) return *current;
  // What a fork left behind is not freed: its locks and threads are the parent's.
  auto fresh = std::make_unique<State>();
  if (state_.compare_exchange_strong(current, fresh.get())) current = fresh.release();
  return *current;
}

void ThreadPool::run(std::size_t count, const Task& task, const std::function<bool()>& stop) {
  Run run(task, stop, count);
  Context context(run, true);
  if (count <= 1 || threads_ == 1) {
    work(run, 0, context);
  } else if (State& state = this->state(); state.take(run, context)) {
    const Turn turn(state);
    state.start_workers(threads_ - 1);
    {
      const std::lock_guard<std::mutex> lock(state.mutex);
      state.run = &run;
      state.busy = state.workers.size();
      ++state.generation;
    }
    state.wake.notify_all();
    work(run, 0, context);
    std::unique_lock<std::mutex> lock(state.mutex);
    while (!state.idle.wait_for(lock, kPollEvery, [&] { return state.busy == 0; })) {
      lock.unlock();
      context.poll();
      if (state.process != process_id())
        throw std::runtime_error("this process was forked during a run: its threads are the parent's");
      lock.lock();
    }
  }
  if (run.failure) std::rethrow_exception(run.failure);
}

}  // namespace iris_fast
