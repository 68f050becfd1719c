// Keeps large freed blocks inside the process.
#pragma once

#include <cstdlib>  // any C library header defines __GLIBC__ where it applies

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace iris_fast {

// By default glibc takes blocks over 32 MB (and at first over 128 kB) from the kernel and gives them back
// when freed, so a training loop, which frees and takes the same tensors every step, faults and zeroes every
// page of them again each time. This keeps such blocks in the heap, process-wide and for good: resident
// memory stays at its high-water mark. Returns whether it applied (glibc alone); elsewhere it does nothing.
inline bool keep_large_blocks() noexcept {
#if defined(__GLIBC__)
  constexpr int kNever = 0;
  constexpr int kWithoutLimit = -1;  // read by glibc as the largest size_t
  const bool from_heap = mallopt(M_MMAP_MAX, kNever) == 1;
  const bool never_trimmed = mallopt(M_TRIM_THRESHOLD, kWithoutLimit) == 1;
  return from_heap && never_trimmed;
#else
  return false;
#endif
}

}  // namespace iris_fast
