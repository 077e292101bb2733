// A Plan: a Graph made ready for this machine and these shapes. It says in which order the nodes run, with
// which kernel, and where each value lies in one arena. Everything in it can be read (print_plan, plan_svg).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "kernels/kernel.h"
#include "planner/patch_steps.h"

namespace lathe {

struct PlanOptions {
  std::map<std::string, Shape> input_shapes;  // by input name; needed where the model leaves sizes open
  bool fuse = true;       // recognition, fusion and channels-last layout
  bool integer = true;    // quantized networks in integer arithmetic (needs fuse)
  bool bf16 = false;      // products with constant weights in bf16 (needs fuse)
  bool bf16_marked = false;  // only those of them whose weights are numbers of bf16 already: a layer at a time
  bool reference = false; // reference kernels only: the oracle
  bool slice = true;      // a batch may go through in several runs (planner/slices.h)
  bool tokens = false;    // norms and attention of quantized networks in whole numbers (transform/quantized.h): what microcontrollers run
  bool tune = false;      // time every kernel that supports a node and keep the fastest
  bool patches = false;   // time the first stage in strips of rows against whole maps, and keep the faster; so does `tune`
  std::optional<PatchSetting> patch_setting = {};  // not timed: this one (of the graph after all passes), for tests and measurements
  std::string kernel_times = {};  // where `tune` keeps its times; "": default_kernel_times_file()
};

struct Plan;

// A branch of If as a Plan of its own, whose arena lies in the scratch of the step.
struct PlannedBranch {
  std::shared_ptr<Plan> plan;     // null: not for these shapes; the reference kernel says why, when it is taken
  std::vector<ValueId> captures;  // of the graph around it: the plan's inputs
};

struct Step {
  NodeId node;
  std::string kernel_name;
  std::unique_ptr<Kernel> kernel;  // null: the reference kernel, or a view of the input
  bool view = false;               // the output is the input under another shape
  bool dynamic = false;            // shapes are known only at run time
  std::vector<PlannedBranch> branches = {};  // If: then, else
};

struct Placement {
  ValueId root;             // the value whose buffer this one shares; itself when it has its own
  int64_t offset = -1;      // in the arena, of the root; −1: not in the arena (constant, input, dynamic)
  int64_t bytes = 0;
  int first_step = 0, last_step = 0;  // of the buffer, inclusive
};

struct Plan {
  Graph graph;  // after all passes, for one slice of the batch; constants that kernels keep in packed form have no elements any more
  int64_t slices = 1;  // > 1: the steps run so often, each time for the next part of every input and output along axis 0
  std::vector<Step> steps;
  std::vector<Placement> placements;  // by value index
  int64_t arena_bytes = 0;            // values and scratch
  int64_t scratch_offset = 0, scratch_bytes = 0;
  int64_t tensor_bytes = 0;           // sum of all buffers
  int64_t lower_bound = 0;            // most bytes alive at any step
  size_t patches_begin = 0;               // the step where the stage begins, if there is one:
  std::unique_ptr<PatchSteps> patches;    // its steps run on strips of their maps, on kernels of its own; theirs are null
  std::vector<std::string> notices;   // what the user should know: a cache that could not be used
};

// The shape of an input or output of the whole batch, where it is known.
std::optional<Shape> whole_shape(const Plan& plan, ValueId value);
// Only the inputs and outputs of the graph, as a user knows them: with the shapes of the whole batch.
Graph declaration_of(const Plan& plan);

// The passes between a specialized graph and its steps: clean-up, recognition, layout, integers, fusion.
void lower(Graph& graph, const PlanOptions& options);
// Specialized for the shapes of `options`, and lowered.
Graph lowered(Graph graph, const PlanOptions& options);
// Whether the node's output is its input under another shape.
bool is_view(const Node& node);
class KernelTuner;
// The kernel and its name; the reference ("reference", no kernel) where there is none.
void choose_kernel(const KernelRequest& request, const PlanOptions& options, KernelTuner* tuner, Step& step);

// Throws what the passes throw, and kInput when an input's shape is not known.
Plan make_plan(Graph graph, const PlanOptions& options = {});

// What a Plan decided, without the Graph: enough to make it again without passes, packing or placing.
struct PlanRecord {
  struct Choice {
    std::string kernel_name;
    std::vector<PackedInput> packed;
  };
  int64_t slices = 1;
  std::optional<PatchSetting> patches;
  std::vector<Choice> steps;
  std::vector<int64_t> offsets;  // of the buffers in the arena, in the order of the values that own them
};
PlanRecord record_of(const Plan& plan);
// The plan that was recorded. The graph's nodes must stand in the order of the steps. Nothing is trusted: shapes
// are inferred and compared, buffers may not overlap. Throws kInput when something does not fit together, and
// StalePacking when a kernel is not known or wants its weights in another layout.
Plan restore_plan(Graph graph, const PlanRecord& record);

// Offsets for buffers with lifetimes, so that buffers alive together do not overlap. Returns the arena size.
struct Buffer {
  int64_t bytes = 0;
  int first_step = 0, last_step = 0;
  int64_t offset = 0;
};
int64_t place_buffers(std::vector<Buffer>& buffers);

// By value: "NCHW" or "NHWC" for pictures (four dimensions, as the graph's inputs have them or as operators of ai.lathe
// want them), "" for all else.
std::vector<std::string_view> layouts_of(const Plan& plan);
std::string print_plan(const Plan& plan);
std::string plan_svg(const Plan& plan);  // time across, address up, one rectangle a buffer

}  // namespace lathe
