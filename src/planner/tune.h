// Kernel choice by measurement: times the kernels that support a node against each other, or takes the
// times from the cache (kernel_times.h).
#pragma once

#include <memory>

#include "kernels/kernel.h"
#include "planner/kernel_times.h"
#include "planner/patch_steps.h"

namespace lathe {

class KernelTuner {
 public:
  explicit KernelTuner(const std::string& cache_file);

  // Of `entries` (at least one, best guess first): the index of the fastest for this node. Entries whose
  // kernel cannot be made are left out; −1: none can. `made` receives the chosen kernel.
  int choose(const KernelRequest& request, const std::vector<const KernelEntry*>& entries, std::unique_ptr<Kernel>* made);

  // The setting under which a stage at the beginning of the graph runs fastest, against whole maps; none where they are best.
  // Kernels are made by `choose`, which numbers nodes of the whole stage.
  std::optional<PatchSetting> choose_patches(const Graph& graph, const PatchSteps::Choose& choose);

  void save() { times_.save(); }
  const std::vector<std::string>& notices() const { return times_.notices(); }
  int measured() const { return measured_; }  // nodes whose times were not in the cache

 private:
  std::vector<double> remembered(const std::string& request, const std::string& names, size_t count, const std::function<std::vector<double>()>& measure);

  KernelTimes times_;
  std::string machine_, build_;
  std::vector<char> sweep_;  // read between runs, to put a kernel's weights out of the nearest caches
  int measured_ = 0;
};

// The key's form of a node: "ai.lathe::Conv group=32 … f32[1, 112, 112, 32] const f32[32, 1, 3, 3] → f32[…]".
std::string request_text(const KernelRequest& request);

// Seconds of a stage under each setting, in turns, the smallest of several.
std::vector<double> time_patches(const std::vector<PatchSteps*>& ways, const Graph& graph, std::vector<char>& sweep);

// Seconds of each kernel for this node, in turns, the smallest of several.
std::vector<double> time_kernels(const KernelRequest& request, const std::vector<Kernel*>& kernels, std::vector<char>& sweep);

}  // namespace lathe
