// Timing of a Session: warm-up, many runs, order statistics.
#pragma once

#include <functional>
#include <vector>

#include "runtime/session.h"

namespace lathe {

struct Latency {
  std::vector<double> sorted_ms;
  double least_cpu_ms = 0;  // processor time of all threads, of the run that took least
  double quantile(double q) const;  // 0 … 1
};

// Runs at least `runs` times and `seconds` long, after warming up. `progress` is told the fraction done.
Latency time_session(Session& session, const std::vector<Tensor>& inputs, int runs, double seconds,
                     const std::function<void(double)>& progress = nullptr);
double process_cpu_seconds();    // of all threads since the process began, loading the program included
int64_t resident_bytes();       // of this process, now
int64_t peak_resident_bytes();  // since its start

}  // namespace lathe
