// Peak arithmetic rates and memory bandwidths of this machine. The f32 chains and the reading loop are
// written once, through Highway; bf16 and int8 dot products are in none of its versions that Debian 12
// has, so those are x86 intrinsics.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/probe.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// 12 chains: two fused multiply-adds a cycle of latency 4 need 8, of latency 5 need 10, and with the two
// operands 12 still fit into the 16 registers of AVX2. `start` has 12 different values, lest the compiler
// merge the chains. Returns operations; `sum` keeps the chains alive.
int64_t F32Chains(int64_t rounds, const float* start, float* sum) {
  const hn::ScalableTag<float> d;
  // The factor is below one, so that the values settle at a normal number: denormal ones are slow.
  const auto a = hn::Set(d, start[0]), b = hn::Set(d, start[1]);
  auto c0 = a, c1 = b, c2 = hn::Set(d, start[2]), c3 = hn::Set(d, start[3]), c4 = hn::Set(d, start[4]),
       c5 = hn::Set(d, start[5]), c6 = hn::Set(d, start[6]), c7 = hn::Set(d, start[7]), c8 = hn::Set(d, start[8]),
       c9 = hn::Set(d, start[9]), c10 = hn::Set(d, start[10]), c11 = hn::Set(d, start[11]);
  for (int64_t i = 0; i < rounds; ++i) {
    c0 = hn::MulAdd(c0, a, b), c1 = hn::MulAdd(c1, a, b), c2 = hn::MulAdd(c2, a, b);
    c3 = hn::MulAdd(c3, a, b), c4 = hn::MulAdd(c4, a, b), c5 = hn::MulAdd(c5, a, b);
    c6 = hn::MulAdd(c6, a, b), c7 = hn::MulAdd(c7, a, b), c8 = hn::MulAdd(c8, a, b);
    c9 = hn::MulAdd(c9, a, b), c10 = hn::MulAdd(c10, a, b), c11 = hn::MulAdd(c11, a, b);
  }
  c0 = hn::Add(hn::Add(c0, c1), hn::Add(c2, c3));
  c4 = hn::Add(hn::Add(c4, c5), hn::Add(c6, c7));
  c8 = hn::Add(hn::Add(c8, c9), hn::Add(c10, c11));
  *sum = hn::GetLane(hn::Add(hn::Add(c0, c4), c8));
  return rounds * 12 * 2 * static_cast<int64_t>(hn::Lanes(d));
}

// Exclusive or of all words, which is cheaper than any load. `count` is a multiple of 1024.
uint32_t ReadAll(const uint32_t* x, int64_t count) {
  const hn::ScalableTag<uint32_t> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto c0 = hn::Zero(d), c1 = c0, c2 = c0, c3 = c0;
  for (int64_t i = 0; i < count; i += 4 * lanes) {
    c0 = hn::Xor(c0, hn::Load(d, x + i));
    c1 = hn::Xor(c1, hn::Load(d, x + i + lanes));
    c2 = hn::Xor(c2, hn::Load(d, x + i + 2 * lanes));
    c3 = hn::Xor(c3, hn::Load(d, x + i + 3 * lanes));
  }
  return hn::GetLane(hn::Xor(hn::Xor(c0, c1), hn::Xor(c2, c3)));
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <omp.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <numeric>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/tensor.h"
#include "kernels/probe.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lathe {

HWY_EXPORT(F32Chains);
HWY_EXPORT(ReadAll);

namespace {

// ---- arithmetic ----

int64_t f32_chains(int64_t rounds) {
  float start[12], sum = 0;
  for (int i = 0; i < 12; ++i) start[i] = 0.5f + 0.03125f * static_cast<float>(i);
  int64_t operations = HWY_DYNAMIC_DISPATCH(F32Chains)(rounds, start, &sum);
  volatile float sink = sum;
  (void)sink;
  return operations;
}

#if defined(__x86_64__)
// An empty statement that claims to change the register: it keeps equal chains apart at no cost.
#define LATHE_KEEP(x) asm volatile("" : "+v"(x))

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) int64_t bf16_chains(int64_t rounds) {
  __m512 c[12];
  __m512i bits = _mm512_set1_epi16(0x3f00);  // 0.5
  LATHE_KEEP(bits);
  const auto a = (__m512bh)bits;
  for (auto& chain : c) {
    chain = _mm512_setzero_ps();
    LATHE_KEEP(chain);
  }
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (auto& chain : c) chain = _mm512_dpbf16_ps(chain, a, a);
  }
  for (auto& chain : c) LATHE_KEEP(chain);
  return rounds * 12 * 64;  // 32 multiply-adds an instruction
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) int64_t int8_chains(int64_t rounds) {
  __m512i c[12];
  __m512i a = _mm512_set1_epi8(3);
  LATHE_KEEP(a);
  for (auto& chain : c) {
    chain = _mm512_setzero_si512();
    LATHE_KEEP(chain);
  }
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (auto& chain : c) chain = _mm512_dpbusd_epi32(chain, a, a);
  }
  for (auto& chain : c) LATHE_KEEP(chain);
  return rounds * 12 * 128;  // 64 multiply-adds an instruction
}
#undef LATHE_KEEP
#endif

// ---- timing ----

// Long against a timer tick, short enough that some repetitions are not disturbed by other programs.
constexpr double kRepetitionSeconds = 2e-3;
constexpr int kRepetitions = 20;

// 10⁹ units a second of `threads` at once; work(thread) does one pass and returns how many units it did.
// Each thread contributes its best repetition. Joining the threads after every repetition would measure the
// scheduler instead as soon as another program wants one of the cores.
double rate_of(int threads, const std::function<int64_t(int)>& work) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> best(threads, 0.0);
  std::atomic<int> finished = 0;
#pragma omp parallel num_threads(threads)
  {
    int thread = omp_get_thread_num();
    int64_t passes = 1;
    auto repetition = [&](double* rate) {
      int64_t units = 0;
      auto begin = Clock::now();
      for (int64_t p = 0; p < passes; ++p) units += work(thread);
      double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      if (rate) *rate = std::max(*rate, static_cast<double>(units) / std::max(seconds, 1e-9) * 1e-9);
      return seconds;
    };
    repetition(nullptr);
    while (passes < int64_t{1} << 30 && repetition(nullptr) < kRepetitionSeconds) passes *= 2;
#pragma omp barrier
    for (int i = 0; i < kRepetitions; ++i) repetition(&best[thread]);
    // Whoever is done keeps the load up until all are.
    ++finished;
    while (finished < omp_get_num_threads()) repetition(nullptr);
  }
  return std::accumulate(best.begin(), best.end(), 0.0);
}

double peak_rate(int threads, int64_t (*chains)(int64_t)) {
  return rate_of(threads, [&](int) { return chains(1 << 12); });
}

// ---- memory ----

constexpr int64_t kBlockBytes = 4096;  // the pieces that arrays are made of; ReadAll needs as much

// Each thread reads or copies its own arrays of `bytes` in all.
Bandwidth measure_bandwidth(int threads, int64_t bytes) {
  int64_t each = std::max(bytes / threads / 2 / kBlockBytes, int64_t{1}) * kBlockBytes;
  std::vector<Tensor> arrays(threads);
  for (Tensor& array : arrays) array = Tensor(DType::kU8, {2 * each});
  // The thread that uses an array touches it first, so that its pages lie near. The loop gives every array
  // to the thread of its number, and to somebody if the team is smaller than was asked for.
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) std::memset(arrays[t].raw(), t + 1, 2 * each);
  std::vector<uint32_t> sums(threads);
  Bandwidth result;
  result.read = rate_of(threads, [&](int t) {
    auto* words = reinterpret_cast<const uint32_t*>(arrays[t].raw());
    sums[t] ^= HWY_DYNAMIC_DISPATCH(ReadAll)(words, 2 * each / 4);
    return 2 * each;
  });
  result.copy = rate_of(threads, [&](int t) {
    auto* array = arrays[t].data<uint8_t>();
    std::memcpy(array + each, array, each);
    asm volatile("" : : "r"(array) : "memory");  // the copy is never read: do not drop it
    return 2 * each;
  });
  volatile uint32_t sink = sums[0];
  (void)sink;
  return result;
}

// ---- what the system says ----

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// The value of the first line of /proc/cpuinfo that begins with `key`.
std::string cpuinfo(const std::string& key) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    size_t colon = line.find(':');
    if (colon == line.npos || line.compare(0, key.size(), key) != 0) continue;
    size_t end = line.find_last_not_of(" \t", colon - (colon > 0));
    if (end == line.npos || end + 1 < key.size() || line.substr(0, std::min(end + 1, colon)) != key) continue;
    size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == line.npos ? "" : line.substr(begin);
  }
  return "";
}

std::vector<std::string> instruction_sets() {
  // Those that kernels of neural networks use, under the kernel's names (x86, then Arm).
  static const std::set<std::string> kUseful = {
      "sse4_1", "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq",
      "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx512_vbmi", "avx_vnni", "amx_tile", "amx_int8",
      "amx_bf16", "asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm"};
  std::string flags = cpuinfo("flags");
  std::istringstream words(flags.empty() ? cpuinfo("Features") : flags);
  std::vector<std::string> result;
  for (std::string word; words >> word;)
    if (kUseful.contains(word)) result.push_back(word);
  return result;
}

std::string model_name() {
  std::string name = cpuinfo("model name");
  return name.empty() ? "CPU" : name;
}

std::vector<int> usable_cpus() {
  std::vector<int> result;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) result.push_back(cpu);
  // With more processors than a cpu_set_t holds the call fails; OpenMP knows their number.
  for (int cpu = 0; result.empty() && cpu < omp_get_num_procs(); ++cpu) result.push_back(cpu);
  return result;
}

std::string system_folder(int cpu) { return "/sys/devices/system/cpu/cpu" + std::to_string(cpu); }

// "0-3,8" has five.
int64_t count_list(const std::string& text) {
  std::istringstream stream(text);
  int64_t count = 0;
  for (std::string part; std::getline(stream, part, ',');) {
    long first = 0, last = 0;
    int found = std::sscanf(part.c_str(), "%ld-%ld", &first, &last);
    if (found == 1) ++count;
    if (found == 2 && last >= first) count += last - first + 1;
  }
  return std::max(count, int64_t{1});
}

std::vector<MemoryLevel> caches(int cpu) {
  std::vector<MemoryLevel> result;
  for (int index = 0; index < 16; ++index) {
    std::string folder = system_folder(cpu) + "/cache/index" + std::to_string(index);
    std::string level = first_line(folder + "/level"), type = first_line(folder + "/type");
    long long size = 0;
    char unit = 0;
    std::string text = first_line(folder + "/size");
    if (level.empty() || type == "Instruction" || std::sscanf(text.c_str(), "%lld%c", &size, &unit) < 1) continue;
    size *= unit == 'K' ? 1 << 10 : unit == 'M' ? 1 << 20 : 1;
    if (size > 0) result.push_back({"L" + level, size, count_list(first_line(folder + "/shared_cpu_list")), {}, {}, {}});
  }
  if (!result.empty()) return result;
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  // No sysfs (a container): glibc asks the processor itself.
  const int names[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
  for (int i = 0; i < 3; ++i)
    if (long size = ::sysconf(names[i]); size > 0) result.push_back({"L" + std::to_string(i + 1), size, 1, {}, {}, {}});
#endif
  return result;
}

// The lesser of the machine's memory and the control group's limit.
int64_t memory_limit(int64_t physical) {
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    long long limit = 0;
    if (std::sscanf(first_line(path).c_str(), "%lld", &limit) == 1 && limit > 0) return std::min<int64_t>(limit, physical);
  }
  return physical;
}

}  // namespace

std::string host_identity() {
  std::string result = model_name();
  for (const char* key : {"cpu family", "model", "stepping", "CPU implementer", "CPU part"})
    if (std::string value = cpuinfo(key); !value.empty()) result += fmt::format(", {} {}", key, value);
  result += fmt::format(", {} threads", usable_cpus().size());
  for (const std::string& set : instruction_sets()) result += " " + set;
  return result;
}

Device probe_host(const std::function<void(double)>& progress) {
  std::vector<int> cpus = usable_cpus();
  auto threads = static_cast<int>(cpus.size());
  Device device;
  device.name = model_name();
  device.source = "measured";
  device.memory = caches(cpus[0]);
  int64_t physical = int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
  device.memory.push_back({"memory", std::max(physical, int64_t{1}), threads, {}, {}, {}});
  device.limits.memory_bytes = memory_limit(device.memory.back().bytes);

  ComputeUnit unit;
  unit.name = "CPU";
  unit.threads = threads;
  std::set<std::string> cores;  // hardware threads of one core name the same siblings
  for (int cpu : cpus) {
    std::string siblings = first_line(system_folder(cpu) + "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
  }
  unit.cores = static_cast<int64_t>(cores.size());
  if (double khz = std::atof(first_line(system_folder(cpus[0]) + "/cpufreq/cpuinfo_max_freq").c_str()); khz > 0)
    unit.clock_mhz = khz * 1e-3;
  unit.instruction_sets = instruction_sets();

  double steps = 3 + static_cast<double>(device.memory.size()), done = 0;
  auto step = [&] {
    if (progress) progress(++done / steps);
  };
  auto rate = [&](std::optional<double> Rates::*type, int64_t (*chains)(int64_t)) {
    unit.per_core.*type = peak_rate(1, chains);
    unit.all_cores.*type = peak_rate(threads, chains);
  };
  rate(&Rates::f32, f32_chains);
  step();
#if defined(__x86_64__)
  // Also asks whether the system saves the wide registers.
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    if (__builtin_cpu_supports("avx512bf16")) rate(&Rates::bf16, bf16_chains);
    step();
    if (__builtin_cpu_supports("avx512vnni")) rate(&Rates::int8, int8_chains);
    step();
  }
#endif
  device.compute.push_back(unit);

  int64_t last_cache = device.memory.size() > 1 ? device.memory[device.memory.size() - 2].bytes : 0;
  for (MemoryLevel& level : device.memory) {
    bool is_main = &level == &device.memory.back();
    // Half a cache leaves room for what else lies in it; main memory needs arrays that no cache holds.
    int64_t bytes = is_main ? std::clamp(2 * last_cache, int64_t{64} << 20, int64_t{1} << 30) : level.bytes / 2;
    level.per_core = measure_bandwidth(1, bytes);
    // Every instance of a cache gets a full load from the threads that share it.
    int64_t instances = is_main ? 1 : std::max<int64_t>(threads / level.shared_by, 1);
    level.all_cores = measure_bandwidth(threads, bytes * instances);
    step();
  }
  return device;
}

}  // namespace lathe
#endif
