// Which process this is, and what one of its threads has taken: a fork's child has nothing that the parent
// took.
#pragma once

#include <atomic>

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

// Something that one thread of a process has at a time. What the parent's threads had at a fork is free in
// the child.
class InUse {
 public:
  // Takes it; false where another thread of this process has it.
  bool take() {
    const int own = process_id();
    int found = owner_.load();
    while (found != own)
      if (owner_.compare_exchange_weak(found, own)) return true;
    return false;
  }
  void give_back() { owner_ = 0; }

 private:
  std::atomic<int> owner_{0};  // a process, or 0
};

}  // namespace iris_fast
