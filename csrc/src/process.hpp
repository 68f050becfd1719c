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

// Something that one thread of a process holds at a time, for a turn. After a fork the child may take what
// the parent's threads held; it may be half written, because nobody in the child finishes their work.
class InUse {
  friend class Turn;
  std::atomic<int> owner_{0};  // a process, or 0
};

// Holds something during its lifetime, unless another thread of this process holds it.
class Turn {
 public:
  explicit Turn(InUse& what) : owner_(what.owner_) {
    const int own = process_id();
    int found = owner_.load();
    while (found != own && !mine_) mine_ = owner_.compare_exchange_weak(found, own);
    from_parent_ = mine_ && found != 0;
  }
  ~Turn() {
    if (mine_) owner_ = 0;
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  bool mine() const { return mine_; }
  // Whether the parent's threads were at work on it when this process was forked off.
  bool from_parent() const { return from_parent_; }

 private:
  std::atomic<int>& owner_;
  bool mine_ = false, from_parent_ = false;
};

// Replaces a value that may be half written by a new one; the old one is never freed.
template <typename T>
void abandon(T& value) {
  new T(std::move(value));
  value = T();
}

}  // namespace iris_fast
