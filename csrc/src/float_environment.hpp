// The floating-point environment that results are defined in: denormals kept, rounding to nearest.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace iris_fast {

// Sets the processor's default for the calling thread during its lifetime. A thread may have another setting
// (torch.set_flush_denormal changes its caller's), so without it the bits would depend on the thread that ran
// a task.
class DefaultFloatEnvironment {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  DefaultFloatEnvironment() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~DefaultFloatEnvironment() { _mm_setcsr(before_); }
#elif defined(__aarch64__) && defined(__GNUC__)
  DefaultFloatEnvironment() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
    __asm__ volatile("msr fpcr, %0" : : "r"(std::uint64_t{0}));
  }
  ~DefaultFloatEnvironment() { __asm__ volatile("msr fpcr, %0" : : "r"(before_)); }
#else
  DefaultFloatEnvironment() {}
#endif
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

 private:
#if defined(__x86_64__) || defined(_M_X64)
  unsigned before_;
#elif defined(__aarch64__) && defined(__GNUC__)
  std::uint64_t before_;
#endif
};

}  // namespace iris_fast
