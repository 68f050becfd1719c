#include <cstring>
#include <vector>

#include "check.hpp"
#include "iris_fast/allocator.hpp"

#if defined(__GLIBC__)
#include <sys/resource.h>
#endif

namespace {

#if defined(__GLIBC__)
long page_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

// Page faults of taking, filling and freeing 64 MB ten times, after one time that may have to grow the heap.
long page_faults_of_a_loop() {
  constexpr std::size_t kBytes = std::size_t{64} << 20;
  long before = 0;
  for (int step = 0; step < 11; ++step) {
    if (step == 1) before = page_faults();
    void* block = std::malloc(kBytes);
    CHECK(block != nullptr);
    std::memset(block, step + 1, kBytes);
    volatile const unsigned char* seen =
        static_cast<unsigned char*>(block);  // keeps the fill from being dropped
    CHECK(seen[kBytes - 1] == step + 1);
    std::free(block);
  }
  return page_faults() - before;
}

void freed_blocks_are_used_again() {
  const long before = page_faults_of_a_loop();
  CHECK(iris_fast::keep_large_blocks());
  CHECK(page_faults_of_a_loop() < before / 10);
}
#else
void freed_blocks_are_used_again() { CHECK(!iris_fast::keep_large_blocks()); }
#endif

}  // namespace

int main() { freed_blocks_are_used_again(); }
