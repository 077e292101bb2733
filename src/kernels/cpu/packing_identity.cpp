#include <unistd.h>

#include <hwy/highway.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels/kernel.h"
#include "kernels/probe.h"

namespace lathe {
namespace {

// From the processor itself: /proc/cpuinfo takes the kernel longer to write than a small network to load.
std::string processor() {
#if defined(__x86_64__)
  unsigned registers[12] = {}, signature = 0, b = 0, c = 0, d = 0;
  __get_cpuid(1, &signature, &b, &c, &d);
  for (unsigned leaf = 0; leaf < 3; ++leaf)
    __get_cpuid(0x80000002 + leaf, registers + 4 * leaf, registers + 4 * leaf + 1, registers + 4 * leaf + 2, registers + 4 * leaf + 3);
  std::string brand(reinterpret_cast<const char*>(registers), sizeof registers);
  brand.resize(brand.find_last_not_of(std::string(" \0", 2)) + 1);
  return fmt::format("{}, signature {:x}", brand, signature);
#else
  return host_identity();
#endif
}

}  // namespace

std::string packing_identity() {
  // What oneDNN packed tells by its layout what it was packed for (kernels/cpu/onednn.cpp).
  return fmt::format("{}; Highway targets {:x}; caches {} {} {}", processor(), hwy::SupportedTargets(), ::sysconf(_SC_LEVEL1_DCACHE_SIZE), ::sysconf(_SC_LEVEL2_CACHE_SIZE),
                     ::sysconf(_SC_LEVEL3_CACHE_SIZE));
}

}  // namespace lathe
