// Kernel choice by measurement: times the kernels that support a node against each other, or takes the
// times from the cache (kernel_times.h).
#pragma once

#include <memory>

#include "kernels/kernel.h"
#include "planner/kernel_times.h"

namespace lathe {

class KernelTuner {
 public:
  explicit KernelTuner(const std::string& cache_file);

  // Of `entries` (at least one, best guess first): the index of the fastest for this node. Entries whose
  // kernel cannot be made are left out; −1: none can. `made` receives the chosen kernel.
  int choose(const KernelRequest& request, const std::vector<const KernelEntry*>& entries, std::unique_ptr<Kernel>* made);

  void save() { times_.save(); }
  const std::vector<std::string>& notices() const { return times_.notices(); }
  int measured() const { return measured_; }  // nodes whose times were not in the cache

 private:
  KernelTimes times_;
  std::string machine_, build_;
  std::vector<char> sweep_;  // read between runs, to put a kernel's weights out of the nearest caches
  int measured_ = 0;
};

// The key's form of a node: "ai.lathe::Conv group=32 … f32[1, 112, 112, 32] const f32[32, 1, 3, 3] → f32[…]".
std::string request_text(const KernelRequest& request);

// Seconds of each kernel for this node, in turns, the smallest of several.
std::vector<double> time_kernels(const KernelRequest& request, const std::vector<Kernel*>& kernels, std::vector<char>& sweep);

}  // namespace lathe
