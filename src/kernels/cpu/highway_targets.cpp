// The part of Highway's library that its dispatch calls: which instruction sets there are and which one was chosen. The
// library itself times the processor's clock when it is loaded, which takes 4 ms of every process (Highway 1.0.3),
// longer than a small network needs to start from a .lathe file. Linked in its place on x86 only (CMakeLists.txt).
// What each target needs is stated in hwy/detect_targets.h.
#include <cpuid.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <atomic>
#include <cstdint>

namespace hwy {
namespace {

struct Registers {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(uint32_t leaf) {
  Registers r;
  __get_cpuid_count(leaf, 0, &r.a, &r.b, &r.c, &r.d);  // zeros where there is no such leaf
  return r;
}

// Which register files the operating system saves: bits 1 SSE, 2 AVX, 5 to 7 AVX-512.
uint32_t saved_registers() {
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool has(uint32_t word, std::initializer_list<int> bits) {
  for (int bit : bits)
    if (!(word >> bit & 1)) return false;
  return true;
}

int64_t detect() {
  Registers one = cpuid(1), seven = cpuid(7), extended = cpuid(0x80000001);
  int64_t targets = HWY_ENABLED_BASELINE;
  if (!has(one.c, {0, 9})) return targets;  // SSE3, SSSE3
  targets |= HWY_SSSE3;
  if (!has(one.c, {19, 20, 1, 25})) return targets;  // SSE4.1, SSE4.2, PCLMULQDQ, AES
  targets |= HWY_SSE4;
  uint32_t saved = has(one.c, {27}) ? saved_registers() : 0;  // OSXSAVE
  bool avx2 = has(one.c, {28, 12, 29}) &&                     // AVX, FMA, F16C
              has(seven.b, {3, 5, 8}) &&                      // BMI1, AVX2, BMI2
              has(extended.c, {5}) && has(saved, {1, 2});     // LZCNT
  if (!avx2) return targets;
  targets |= HWY_AVX2;
  if (!has(seven.b, {16, 17, 28, 30, 31}) || !has(saved, {5, 6, 7})) return targets;  // AVX-512 F, DQ, CD, BW, VL
  targets |= HWY_AVX3;
  if (has(seven.c, {1, 6, 8, 9, 10, 11, 12, 14}))  // VBMI, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ
    targets |= HWY_AVX3_DL;
  return targets;
}

std::atomic<int64_t> forced{0};

}  // namespace

int64_t SupportedTargets() {
  static const int64_t detected = detect();
  int64_t only = forced.load();
  return only ? only : detected;
}

void SetSupportedTargetsForTest(int64_t targets) {
  forced.store(targets);
  GetChosenTarget().DeInit();
}

ChosenTarget& GetChosenTarget() {
  static ChosenTarget chosen;
  return chosen;
}

}  // namespace hwy
