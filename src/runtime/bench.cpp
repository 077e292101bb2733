#include "runtime/bench.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>

namespace lathe {

double Latency::quantile(double q) const {
  if (sorted_ms.empty()) return 0;
  auto index = static_cast<size_t>(std::lround(q * static_cast<double>(sorted_ms.size() - 1)));
  return sorted_ms[std::min(index, sorted_ms.size() - 1)];
}

Latency time_session(Session& session, const std::vector<Tensor>& inputs, int runs, double seconds,
                     const std::function<void(double)>& progress) {
  using Clock = std::chrono::steady_clock;
  auto since = [](Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); };
  auto warm = Clock::now();
  for (int i = 0; i < 3 || (i < 20 && since(warm) < seconds / 5); ++i) session.run(inputs);
  Latency result;
  auto start = Clock::now();
  for (int i = 0; i < runs || since(start) < seconds; ++i) {
    double cpu = process_cpu_seconds();
    auto begin = Clock::now();
    session.run(inputs);
    result.sorted_ms.push_back(since(begin) * 1e3);
    cpu = (process_cpu_seconds() - cpu) * 1e3;
    result.least_cpu_ms = i == 0 ? cpu : std::min(result.least_cpu_ms, cpu);
    if (progress) progress(std::min(static_cast<double>(i + 1) / std::max(runs, 1), since(start) / std::max(seconds, 1e-9)));
  }
  std::sort(result.sorted_ms.begin(), result.sorted_ms.end());
  return result;
}

double process_cpu_seconds() {
  timespec time{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

int64_t resident_bytes() {
  long total = 0, resident = 0;
  if (FILE* f = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(f, "%ld %ld", &total, &resident) != 2) resident = 0;
    std::fclose(f);
  }
  return int64_t{resident} * ::sysconf(_SC_PAGESIZE);
}

int64_t peak_resident_bytes() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace lathe
