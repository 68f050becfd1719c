#include "simd_level.hpp"

#include <stdexcept>
#include <string>

#if defined(IRIS_FAST_HAS_AVX2)
#include <cpuid.h>
#endif
#if defined(IRIS_FAST_HAS_NEON_DOTPROD) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace iris_fast {

// The build names the levels that it compiled.
#if defined(IRIS_FAST_HAS_AVX512_VNNI)
extern const KernelTable kernels_avx512_vnni;
#endif
#if defined(IRIS_FAST_HAS_AVX512)
extern const KernelTable kernels_avx512;
#endif
#if defined(IRIS_FAST_HAS_AVX2)
extern const KernelTable kernels_avx2;
#endif
#if defined(IRIS_FAST_HAS_NEON)
extern const KernelTable kernels_neon;
#endif
#if defined(IRIS_FAST_HAS_NEON_DOTPROD)
extern const KernelTable kernels_neon_dotprod;
#endif
extern const KernelTable kernels_portable;

#if defined(IRIS_FAST_HAS_AVX2)
namespace {

// Conversions of half precision, which a hypervisor may hide although every processor with AVX2 has them.
// Older compilers' __builtin_cpu_supports does not know them.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

}  // namespace
#endif

#if defined(IRIS_FAST_HAS_NEON_DOTPROD)
namespace {

bool has_dot_products() {
#if defined(__APPLE__)
  return true;  // every Apple processor for computers
#elif defined(__linux__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kDotProducts) != 0;
#else
  return false;
#endif
}

}  // namespace
#endif

std::vector<const KernelTable*> supported_levels() {
  std::vector<const KernelTable*> found;
  // The compiler's run-time checks ask the operating system too whether it saves the registers.
#if defined(IRIS_FAST_HAS_AVX2)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("avx") && has_f16c();
#endif
#if defined(IRIS_FAST_HAS_AVX512)
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#if defined(IRIS_FAST_HAS_AVX512_VNNI)
  if (avx512 && __builtin_cpu_supports("avx512vnni")) found.push_back(&kernels_avx512_vnni);
#endif
  if (avx512) found.push_back(&kernels_avx512);
#endif
#if defined(IRIS_FAST_HAS_AVX2)
  if (avx2) found.push_back(&kernels_avx2);
#endif
#if defined(IRIS_FAST_HAS_NEON_DOTPROD)
  if (has_dot_products()) found.push_back(&kernels_neon_dotprod);
#endif
#if defined(IRIS_FAST_HAS_NEON)
  found.push_back(&kernels_neon);
#endif
  found.push_back(&kernels_portable);
  return found;
}

bool multiplies_bfloat16() {
#if defined(IRIS_FAST_HAS_AVX512)
  constexpr unsigned kAvx512Bf16 = 1u << 5, kAmxBf16 = 1u << 22, kAmxTiles = 1u << 24;
  if (!__builtin_cpu_supports("avx512bw")) return false;  // the registers, which a system may not save
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & kAvx512Bf16) != 0) return true;
  constexpr unsigned kAmx = kAmxBf16 | kAmxTiles;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & kAmx) == kAmx;
#else
  return false;
#endif
}

std::vector<std::string> level_names() {
  std::vector<std::string> names;
  for (const KernelTable* table : supported_levels()) names.emplace_back(table->name);
  return names;
}

const KernelTable& kernels_for(const std::string& level) {
  const auto levels = supported_levels();
  std::string names;
  for (const KernelTable* table : levels) {
    if (level == "auto" || level == table->name) return *table;
    names += std::string(names.empty() ? "" : ", ") + table->name;
  }
  throw std::invalid_argument("simd must be \"auto\" or a level that this machine runs (" + names +
                              "), not \"" + level + "\"");
}

}  // namespace iris_fast
