// Which process this is, and what one of its threads has taken: a fork's child has nothing that the parent
// took.
#pragma once

#include <atomic>
#include <utility>

#if defined(_WIN32)
#include <process.h>
#else
#include <unistd.h>
#endif

namespace iris_fast {

inline int process_id() {
#if defined(_WIN32)
  return _getpid();
#else
  return getpid();
#endif
}

// Whether something was taken, and from whom.
enum class Taken { kNo, kYes, kFromParent };

// Something that one thread of a process has at a time. What the parent's threads had at a fork can be taken
// in the child, where nobody finishes what they had begun: it may be half written.
class InUse {
 public:
  // kNo where another thread of this process has it.
  Taken take() {
    const int own = process_id();
    int found = owner_.load();
    while (found != own)
      if (owner_.compare_exchange_weak(found, own)) return found == 0 ? Taken::kYes : Taken::kFromParent;
    return Taken::kNo;
  }
  void give_back() { owner_ = 0; }

 private:
  std::atomic<int> owner_{0};  // a process, or 0
};

// A new value in place of one that may be half written, which is never freed.
template <typename T>
void abandon(T& value) {
  new T(std::move(value));
  value = T();
}

}  // namespace iris_fast
