// The current process, and things that one of its threads holds: the child of a fork holds nothing that its
// parent held.
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

// Something that one thread of a process holds at a time. After a fork the child may take what the parent's
// threads held; it may be half written, because nobody in the child finishes their work.
class InUse {
 public:
  // kNo if another thread of this process holds it.
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

// Replaces a value that may be half written by a new one; the old one is never freed.
template <typename T>
void abandon(T& value) {
  new T(std::move(value));
  value = T();
}

}  // namespace iris_fast
