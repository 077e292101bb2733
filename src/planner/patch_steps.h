// A stage of a plan that runs patch by patch (transform/patches.h), so that its maps stay in a near cache. On a CPU the patches are
// strips of rows: a strip of a channels-last picture is one stretch of memory, so that operators read and write parts of maps where
// they lie. Each step runs once a strip, on kernels made for the few shapes that strips have; what two strips share stays in the
// buffer (line buffers, page 2.2 `cache`) or is made again (`recompute`).
//
//   PatchSteps steps(graph, stage, {.strips = 8}, choose);
//   steps.bind(values);  steps.point(map, memory) for every map;  steps.run(scratch);
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernel.h"
#include "transform/patches.h"

namespace lathe {

// Which stage, and how it is cut.
struct PatchSetting {
  ValueId entry;
  size_t nodes = 0;     // of the stage
  int64_t strips = 1;
  bool cache = true;
  bool operator==(const PatchSetting&) const = default;
};

// The stage that a setting names. Throws kInput where there is none in this graph, or it cannot run in strips: a batch, a map in
// planes that another operator than PlanarConv reads, nodes that do not stand together in the order of the graph.
PatchStage stage_in_strips(const Graph& graph, const PatchSetting& setting);

class PatchSteps {
 public:
  // The kernel of node `index` of the stage for strips of one shape, and its name; null: there is none, and the stage is refused
  // (kUnsupported). `packed`: what the node's first kernel keeps of the constants, if it is not the first.
  using Choose = std::function<std::unique_ptr<Kernel>(size_t index, const KernelRequest& request, std::string& name)>;
  // Throws what stage_in_strips() and `choose` throw.
  PatchSteps(const Graph& graph, const PatchSetting& setting, const Choose& choose);

  const PatchSetting& setting() const { return setting_; }
  const PatchStage& stage() const { return stage_; }
  int64_t strips() const { return static_cast<int64_t>(parts_.size()); }
  const std::vector<ValueId>& maps() const { return maps_; }  // the entry first
  // Of the maps between entry and exit, which are there in part: rows of one strip. The entry and the exit are whole (0).
  int64_t buffer_bytes(size_t map) const { return buffers_[map]; }
  // Rows of it go from one strip to the next: nothing else may lie there while the stage runs.
  bool persists(size_t map) const { return persists_[map]; }
  int64_t scratch_bytes() const;
  const std::string& kernel_name(size_t node) const { return names_[node]; }
  const Kernel& first_kernel(size_t node) const { return *kernels_[node][0].second; }
  size_t kernel_count() const;

  // Inputs that are no maps: they are read from `values`, by value index, which must stay where it is.
  void bind(const std::vector<Tensor>& values);
  // Where a map's elements lie: the whole of entry and exit, else the buffer. Nothing happens when that is known.
  void point(size_t map, char* memory);
  void run(void* scratch);
  // With the seconds of each node, added.
  void run(void* scratch, const std::function<void(size_t node, const std::function<void()>& execute)>& around);

 private:
  struct Slot {
    Tensor tensor;
    size_t map;
    int64_t offset;  // in the map's memory
  };
  struct Part {  // one node on one strip
    Kernel* kernel = nullptr;  // null: this strip needs nothing of it
    std::vector<Slot> slots;
    std::vector<std::pair<size_t, ValueId>> fixed;  // inputs that are no maps
    std::vector<const Tensor*> inputs;
    std::vector<Tensor*> outputs;
  };
  struct Move {  // rows that a strip takes over
    size_t map;
    int64_t from, to, bytes;
  };
  void add_part(const Graph& graph, const PatchTiling& rows, int64_t strip, size_t index, const Choose& choose);
  Kernel* kernel_for(size_t index, const KernelRequest& request, std::string form, const Choose& choose);
  void take_over_rows(size_t strip);
  void execute(Part& part, void* scratch) { part.kernel->run(part.inputs.data(), part.outputs.data(), scratch); }
  int64_t row_bytes(const Graph& graph, size_t map) const;
  bool is_whole(size_t map) const { return map == 0 || maps_[map] == stage_.exit; }

  PatchSetting setting_;
  PatchStage stage_;
  std::vector<ValueId> maps_;
  std::vector<int64_t> buffers_;
  std::vector<bool> persists_;
  std::vector<std::string> names_;
  std::vector<std::vector<std::pair<std::string, std::unique_ptr<Kernel>>>> kernels_;  // by node: by form of the request
  std::vector<std::vector<Part>> parts_;  // by strip
  std::vector<std::vector<Move>> moves_;  // by strip: before it
  std::vector<char*> memory_;             // by map
};

// A guess at good settings for a plan's graph, most promising first: stages that end where a map is narrow, in strips whose maps
// fill parts of `cache_bytes`. What is best is for measuring to say (choose_patches in planner/tune.h).
std::vector<PatchSetting> patch_settings(const Graph& graph, int64_t cache_bytes);

}  // namespace lathe
