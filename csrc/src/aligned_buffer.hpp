// Large buffers of plain elements, aligned for vectors and, where it pays, for huge pages.
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace iris_fast {

// a · b, or std::bad_array_new_length where no size is so large.
inline std::size_t checked_product(std::size_t a, std::size_t b) {
  if (b != 0 && a > std::numeric_limits<std::size_t>::max() / b) throw std::bad_array_new_length();
  return a * b;
}

// Uninitialised memory of `count` elements of T, which must be a trivial type. Moves, does not copy.
template <typename T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t count) : size_(count) {
    checked_product(count, sizeof(T));
    if (count == 0) return;
    data_ = static_cast<T*>(::operator new(count * sizeof(T), alignment()));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (alignment() == kHugePage) madvise(data_, count * sizeof(T), MADV_HUGEPAGE);  // advice alone
#endif
  }
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    AlignedBuffer(std::move(other)).swap(*this);
    return *this;
  }
  ~AlignedBuffer() {
    if (data_ != nullptr) ::operator delete(data_, alignment());
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::align_val_t kHugePage{std::size_t{2} << 20};
  static constexpr std::align_val_t kCacheLine{64};

  std::align_val_t alignment() const {
    return size_ * sizeof(T) >= static_cast<std::size_t>(kHugePage) ? kHugePage : kCacheLine;
  }
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
};

inline AlignedBuffer<float> zeros(std::size_t count) {
  AlignedBuffer<float> buffer(count);
  std::fill_n(buffer.data(), count, 0.0f);
  return buffer;
}

}  // namespace iris_fast
