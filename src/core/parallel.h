// Parallel loops over one OpenMP team, the same that oneDNN uses.
#pragma once

#include <omp.h>

#include <cstdint>

namespace lathe {

// Calls body(begin, end) on slices of [0, count), one a thread. Slices hold at least `grain` items, so that
// small work stays on the calling thread.
template <class Body>
void parallel_for(int64_t count, int64_t grain, Body&& body) {
  int64_t threads = omp_get_max_threads();
  if (grain < 1) grain = 1;
  if (threads > count / grain) threads = count / grain;
  if (threads <= 1 || omp_in_parallel()) {
    if (count > 0) body(int64_t{0}, count);
    return;
  }
#pragma omp parallel num_threads(static_cast<int>(threads))
  {
    int64_t t = omp_get_thread_num(), n = omp_get_num_threads();
    int64_t begin = count * t / n, end = count * (t + 1) / n;
    if (begin < end) body(begin, end);
  }
}

// The parallel loops of the calling thread, oneDNN's included, take this many threads while it lives.
class ThreadScope {
 public:
  explicit ThreadScope(int threads) : before_(omp_get_max_threads()) { omp_set_num_threads(threads); }
  ~ThreadScope() { omp_set_num_threads(before_); }
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

// Operations below which a second thread costs more than it gives: waking one takes about 5 µs here, a core
// does about 10⁵ simple operations in that time.
constexpr int64_t kParallelGrain = 1 << 15;

}  // namespace lathe
