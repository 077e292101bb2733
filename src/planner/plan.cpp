#include "planner/plan.h"

#include <algorithm>
#include <set>

#include "graph/op.h"
#include "planner/arena_picture.h"
#include "planner/slices.h"
#include "planner/tune.h"
#include "transform/passes.h"
#include "transform/quantized.h"

namespace lathe {

bool is_view(const Node& n) {
  if (!n.op->domain.empty()) return false;
  const std::string& op = n.op->name;
  return op == "Reshape" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze" || op == "Identity";
}

namespace {

bool known(const Graph& g, ValueId v) {
  return !v || (g[v].dtype != DType::kUndefined && g[v].shape && is_static(*g[v].shape));
}

bool all_known(const Graph& g, const std::vector<ValueId>& values) {
  return std::all_of(values.begin(), values.end(), [&](ValueId v) { return known(g, v); });
}

bool is_dynamic(const Graph& g, const Node& n) {
  if (!n.captures.empty()) return true;
  return !all_known(g, n.inputs) || !all_known(g, n.outputs);
}

}  // namespace

void choose_kernel(const KernelRequest& request, const PlanOptions& options, KernelTuner* tuner, Step& step) {
  std::vector<const KernelEntry*> entries;
  if (!options.reference) entries = kernels_for(request);
  step.kernel_name = "reference";
  if (entries.empty()) return;
  if (tuner) {
    int chosen = tuner->choose(request, entries, &step.kernel);
    if (chosen >= 0) step.kernel_name = entries[chosen]->name;
    return;
  }
  for (const KernelEntry* entry : entries) {
    try {
      step.kernel = entry->make(request);
    } catch (const Error&) {
      throw;
    } catch (const std::exception&) {  // a library refuses what `supports` let through: the next one
      continue;
    }
    step.kernel_name = entry->name;
    return;
  }
}

namespace {

// Offsets that a file gives: inside what the buffers need at most, and apart where they live together.
void check_offsets(const std::vector<Buffer>& buffers) {
  int64_t limit = 0;
  for (const Buffer& b : buffers) limit += (b.bytes + 63) / 64 * 64;
  for (const Buffer& b : buffers)
    if (b.offset < 0 || b.offset % 64 != 0 || b.offset > limit - b.bytes)
      fail(ErrorKind::kInput, "a buffer of {} bytes lies at {}, outside an arena of at most {}", b.bytes, b.offset, limit);
  std::vector<const Buffer*> by_offset;
  by_offset.reserve(buffers.size());
  for (const Buffer& b : buffers) by_offset.push_back(&b);
  std::sort(by_offset.begin(), by_offset.end(), [](auto* a, auto* b) { return a->offset < b->offset; });
  for (size_t i = 0; i < by_offset.size(); ++i)
    for (size_t j = i + 1; j < by_offset.size() && by_offset[j]->offset < by_offset[i]->offset + by_offset[i]->bytes; ++j)
      if (by_offset[i]->first_step <= by_offset[j]->last_step && by_offset[j]->first_step <= by_offset[i]->last_step)
        fail(ErrorKind::kInput, "two buffers at {} and {} overlap", by_offset[i]->offset, by_offset[j]->offset);
}

// `offsets`: those of a PlanRecord, or null to find good ones.
void place_values(Plan& plan, const std::vector<int64_t>* offsets) {
  const Graph& g = plan.graph;
  auto count = g.value_count();
  plan.placements.assign(count, {});
  for (size_t i = 0; i < count; ++i) plan.placements[i].root = {static_cast<int32_t>(i)};
  std::vector<int> last_use(count, -1), made(count, -1);
  int end = static_cast<int>(plan.steps.size());
  for (int s = 0; s < end; ++s) {
    const Node& n = g[plan.steps[s].node];
    for (const auto* list : {&n.inputs, &n.captures})
      for (ValueId v : *list) if (v) last_use[v.index] = s;
    for (ValueId v : n.outputs) if (v) { made[v.index] = s; last_use[v.index] = std::max(last_use[v.index], s); }
  }
  std::vector<int> begun = made;  // from when on its memory is taken
  for (ValueId v : g.outputs) last_use[v.index] = end;
  std::vector<int64_t> part_bytes(count, 0);  // of maps that are there in part
  if (plan.patches) {
    const PatchSteps& patches = *plan.patches;
    const int first = static_cast<int>(plan.patches_begin), last = first + static_cast<int>(patches.stage().nodes.size()) - 1;
    // Every strip reads the entry and writes the exit.
    last_use[patches.stage().entry.index] = std::max(last_use[patches.stage().entry.index], last);
    begun[patches.stage().exit.index] = first;
    for (size_t m = 0; m < patches.maps().size(); ++m) {
      const auto v = static_cast<size_t>(patches.maps()[m].index);
      part_bytes[v] = patches.buffer_bytes(m);
      if (!patches.persists(m)) continue;
      begun[v] = first;
      last_use[v] = last;
    }
    plan.scratch_bytes = std::max(plan.scratch_bytes, patches.scratch_bytes());
  }
  auto root = [&](ValueId v) { return plan.placements[v.index].root; };
  auto in_arena = [&](ValueId v) { return made[v.index] >= 0 && !plan.steps[made[v.index]].dynamic; };
  std::vector<int> buffer_end = last_use;  // of the root, over all that share it
  for (int s = 0; s < end; ++s) {
    const Step& step = plan.steps[s];
    const Node& n = g[step.node];
    if (step.dynamic) continue;
    ValueId from;
    if (step.view) {
      from = n.inputs[0];
    } else if (step.kernel && step.kernel->in_place_input() >= 0 && n.inputs.size() > static_cast<size_t>(step.kernel->in_place_input())) {
      ValueId v = n.inputs[step.kernel->in_place_input()];
      // Only a buffer of the arena that nothing reads later, and that no other input of this node shares.
      bool free = v && in_arena(root(v)) && buffer_end[root(v).index] == s &&
                  element_count(*g[v].shape) * size_of(g[v].dtype) == element_count(*g[n.outputs[0]].shape) * size_of(g[n.outputs[0]].dtype);
      for (size_t i = 0; free && i < n.inputs.size(); ++i)
        if (static_cast<int>(i) != step.kernel->in_place_input() && n.inputs[i] && root(n.inputs[i]) == root(v)) free = false;
      if (free) from = v;
    }
    if (!from) continue;
    ValueId r = root(from);
    plan.placements[n.outputs[0].index].root = r;
    buffer_end[r.index] = std::max(buffer_end[r.index], last_use[n.outputs[0].index]);
  }
  std::vector<Buffer> buffers;
  std::vector<size_t> owner;
  for (size_t i = 0; i < count; ++i) {
    ValueId v{static_cast<int32_t>(i)};
    if (root(v) != v || !in_arena(v) || g[v].is_constant()) continue;
    int64_t bytes = part_bytes[i] > 0 ? part_bytes[i] : bytes_of(g[v]) + 64;
    buffers.push_back({bytes, begun[i], buffer_end[i], 0});
    owner.push_back(i);
  }
  for (const Step& step : plan.steps)
    for (const PlannedBranch& b : step.branches)
      if (b.plan) plan.scratch_bytes = std::max(plan.scratch_bytes, b.plan->arena_bytes);
  for (const Step& step : plan.steps)
    if (step.kernel) plan.scratch_bytes = std::max<int64_t>(plan.scratch_bytes, step.kernel->scratch_bytes());
  int64_t top = 0;
  if (offsets) {
    if (offsets->size() != buffers.size())
      fail(ErrorKind::kInput, "there are offsets for {} buffers, needed are {}", offsets->size(), buffers.size());
    for (size_t k = 0; k < buffers.size(); ++k) buffers[k].offset = (*offsets)[k];
    check_offsets(buffers);
    for (const Buffer& b : buffers) top = std::max(top, b.offset + b.bytes);
  } else {
    top = place_buffers(buffers);
  }
  plan.arena_bytes = (top + 63) / 64 * 64;
  plan.scratch_offset = plan.arena_bytes;
  plan.arena_bytes += plan.scratch_bytes;
  std::vector<int64_t> alive(end + 2, 0);
  for (size_t k = 0; k < buffers.size(); ++k) {
    Placement& p = plan.placements[owner[k]];
    p = {p.root, buffers[k].offset, buffers[k].bytes, buffers[k].first_step, buffers[k].last_step};
    plan.tensor_bytes += p.bytes;
    for (int s = p.first_step; s <= p.last_step; ++s) alive[s] += p.bytes;
  }
  plan.lower_bound = *std::max_element(alive.begin(), alive.end());
}

// The elements of constants that only packed kernels need go as soon as the last of those is made, so that raw
// and packed weights are never both there as a whole.
class ConstantRelease {
 public:
  explicit ConstantRelease(Graph& g) : g_(g), uses_(g.value_count(), 0) {
    for (NodeId id : g.order())
      for (const auto* list : {&g[id].inputs, &g[id].captures})
        for (ValueId v : *list) if (v) ++uses_[v.index];
    for (ValueId v : g.outputs) ++uses_[v.index];
  }
  void packed_by(const Node& n, const Kernel& kernel) {
    std::vector<PackedInput> packed = kernel.packed_inputs();
    for (size_t i = 0; i < n.inputs.size() && i < packed.size(); ++i) {
      ValueId v = n.inputs[i];
      if (v && packed[i].data.defined() && g_[v].is_constant() && --uses_[v.index] == 0)
        g_[v].constant = g_[v].constant.without_elements();
    }
  }

 private:
  Graph& g_;
  std::vector<int> uses_;
};

void check_inputs(const Graph& g) {
  for (ValueId v : g.inputs)
    if (!g[v].shape || !is_static(*g[v].shape))
      fail(ErrorKind::kInput, "input '{}' has the open shape {}: say which one is meant", g[v].name, g[v].shape ? to_string(*g[v].shape) : "[…]");
  for (ValueId v : g.inputs) {
    if (size_of(g[v].dtype) == 0)
      fail(ErrorKind::kUnsupported, "input '{}' has type {}, which is not supported", g[v].name, name_of(g[v].dtype));
    check_model(element_count(*g[v].shape) <= kMaxTensorBytes / static_cast<int64_t>(size_of(g[v].dtype)),
                "input '{}' has shape {}, larger than the limit of {} GiB", g[v].name, to_string(*g[v].shape),
                kMaxTensorBytes >> 30);
  }
}

Step classify(const Graph& g, NodeId id) {
  Step step;
  step.node = id;
  step.dynamic = is_dynamic(g, g[id]);
  step.view = !step.dynamic && is_view(g[id]);
  if (step.view) step.kernel_name = "view";
  if (step.dynamic) step.kernel_name = "reference (dynamic)";
  return step;
}

constexpr std::string_view kBranches = "branches";

// An If that knows what it captures gets a plan for each branch. They are not stored in .lathe files: what is made of
// the subgraphs here is made of them again there, with the options that every plan has by default.
void plan_branches(const Graph& g, Step& step) {
  const Node& n = g[step.node];
  if (n.op->name != "If" || !n.op->domain.empty() || !all_known(g, n.inputs) || !all_known(g, n.captures)) return;
  for (std::string_view name : {"then_branch", "else_branch"}) {
    PlannedBranch planned;
    for (const BranchCaptures& b : branches_of(n)) {
      if (b.name != name || !b.graph->inputs.empty()) continue;
      Graph graph = *b.graph;
      graph.captured.clear();
      for (size_t i = 0; i < b.captures.size(); ++i) {
        const Value& outer = g[b.captures[i]];
        Value& inner = graph[b.graph->captured[i]];
        inner.dtype = outer.dtype;
        inner.shape = outer.shape;
        inner.constant = outer.constant;
        if (outer.is_constant()) continue;
        graph.inputs.push_back(b.graph->captured[i]);
        planned.captures.push_back(b.captures[i]);
      }
      PlanOptions options;
      options.slice = false;
      try {
        planned.plan = std::make_shared<Plan>(make_plan(std::move(graph), options));
      } catch (const Error& e) {
        if (e.kind() == ErrorKind::kInternal) throw;
      }
    }
    step.branches.push_back(std::move(planned));
  }
  if (std::none_of(step.branches.begin(), step.branches.end(), [](const PlannedBranch& b) { return b.plan != nullptr; })) {
    step.branches.clear();
    return;
  }
  step.kernel_name = kBranches;
  step.dynamic = !all_known(g, n.outputs);
}

// Runs the shape rules and compares: kernels rely on what the rules check.
void check_shapes(Graph& g) {
  for (NodeId id : g.order()) {
    const Node& n = g[id];
    if (!n.op->supported) fail(ErrorKind::kUnsupported, "node '{}': operator {} is not supported", n.name, n.op->name);
    std::vector<std::pair<DType, std::optional<Shape>>> stored;
    for (ValueId v : n.outputs) stored.emplace_back(v ? g[v].dtype : DType::kUndefined, v ? g[v].shape : std::nullopt);
    InferContext context(g, id);
    n.op->infer(context);
    for (size_t i = 0; i < stored.size(); ++i) {
      ValueId v = n.outputs[i];
      if (v && (g[v].dtype != stored[i].first || g[v].shape != stored[i].second))
        fail(ErrorKind::kInput, "node '{}' ({}) makes {}{}, recorded is {}{}", n.name, n.op->name, name_of(g[v].dtype),
             g[v].shape ? to_string(*g[v].shape) : "", name_of(stored[i].first), stored[i].second ? to_string(*stored[i].second) : "");
    }
  }
}

// What a file says: inputs and outputs of `slices` slices are tensors of a size that there can be.
void check_slices(const Graph& g, int64_t slices) {
  if (slices == 1) return;
  if (slices < 1) fail(ErrorKind::kInput, "the batch is in {} slices", slices);
  for (const auto* list : {&g.inputs, &g.outputs})
    for (ValueId v : *list) {
      const auto& shape = g[v].shape;
      bool fits = shape && is_static(*shape) && !shape->empty() && (*shape)[0] > 0 && size_of(g[v].dtype) > 0 &&
                  slices <= kMaxTensorBytes / static_cast<int64_t>(size_of(g[v].dtype)) / std::max<int64_t>(element_count(*shape), 1);
      if (!fits) fail(ErrorKind::kInput, "'{}' cannot be one of {} slices", g[v].name, slices);
    }
}

// The kernel that a file names, on what it packed.
std::unique_ptr<Kernel> make_recorded(const Graph& g, const Node& n, const PlanRecord::Choice& choice) {
  KernelRequest request{.graph = g, .node = n, .packed = &choice.packed};
  std::vector<const KernelEntry*> entries = kernels_for(request);
  auto entry = std::find_if(entries.begin(), entries.end(), [&](auto* e) { return e->name == choice.kernel_name; });
  if (entry == entries.end())
    throw StalePacking(ErrorKind::kUnsupported, fmt::format("node '{}' ({}): there is no kernel '{}' for it here", n.name, n.op->name, choice.kernel_name));
  try {
    return (*entry)->make(request);
  } catch (const Error&) {
    throw;
  } catch (const LibraryMissing& e) {
    throw StalePacking(ErrorKind::kUnsupported, fmt::format("node '{}' ({}): kernel '{}': {}", n.name, n.op->name, choice.kernel_name, e.what()));
  } catch (const std::exception& e) {  // a library's
    fail(ErrorKind::kInput, "node '{}' ({}): kernel '{}' cannot be made: {}", n.name, n.op->name, choice.kernel_name, e.what());
  }
}

// `in_patches`: the kernel of its first strip, if the step runs in strips.
void restore_kernel(const Graph& g, const PlanRecord::Choice& choice, Step& step, const Kernel* in_patches) {
  const Node& n = g[step.node];
  if (step.kernel_name.empty()) {
    step.kernel_name = choice.kernel_name;
    if (choice.kernel_name != "reference" && !in_patches) step.kernel = make_recorded(g, n, choice);
  }
  if (step.kernel_name != choice.kernel_name)
    fail(ErrorKind::kInput, "node '{}' ({}) is recorded to run as '{}', expected '{}'", n.name, n.op->name, choice.kernel_name, step.kernel_name);
  const Kernel* kernel = in_patches ? in_patches : step.kernel.get();
  std::vector<PackedInput> packed = kernel ? kernel->packed_inputs() : std::vector<PackedInput>();
  for (size_t i = 0; i < n.inputs.size(); ++i) {
    ValueId v = n.inputs[i];
    bool kept = i < packed.size() && packed[i].data.defined();
    if (v && g[v].is_constant() && !g[v].constant.has_elements() && !kept)
      fail(ErrorKind::kInput, "node '{}' ({}) reads constant '{}', whose elements are missing", n.name, n.op->name, g[v].name);
  }
  for (ValueId v : n.captures)
    if (v && !g[v].constant.has_elements())
      fail(ErrorKind::kInput, "node '{}' ({}) reads constant '{}', whose elements are missing", n.name, n.op->name, g[v].name);
}

}  // namespace

// Which of the nodes of a stage in strips it is.
static std::optional<size_t> index_in_patches(const Plan& plan, NodeId id) {
  if (!plan.patches) return std::nullopt;
  const std::vector<PatchNode>& nodes = plan.patches->stage().nodes;
  for (size_t i = 0; i < nodes.size(); ++i)
    if (nodes[i].node == id) return i;
  return std::nullopt;
}

// The stage that is asked for, or with `tuner` the one that is fastest.
static void plan_patches(Plan& plan, const PlanOptions& options, KernelTuner* tuner, TensorPool& packed) {
  if (options.reference || (!options.patch_setting && !tuner)) return;
  const auto choose_with = [&](TensorPool* pool) {
    return [&, pool](size_t, const KernelRequest& request, std::string& name) {
      Step step;
      choose_kernel({.graph = request.graph, .node = request.node, .pool = pool}, options, options.tune ? tuner : nullptr, step);
      name = step.kernel_name;
      return std::move(step.kernel);
    };
  };
  const std::optional<PatchSetting> setting = options.patch_setting ? options.patch_setting : tuner->choose_patches(plan.graph, choose_with(nullptr));
  if (setting) plan.patches = std::make_unique<PatchSteps>(plan.graph, *setting, choose_with(&packed));
}

void lower(Graph& g, const PlanOptions& options) {
  const bool integer = options.fuse && options.integer;
  if (integer) expand_quantized(g);
  clean_up(g, integer);
  if (!options.fuse) return;
  if (integer) sink_dequantize(g, false);  // or it stands within what is recognized
  spell_out(g);
  recognize(g);
  place_heads(g);
  hoist_reshapes(g);
  if (integer) fuse_dynamic_products(g);
  lift_sequences(g);
  lift_volumes(g);
  assign_layout(g);
  if (integer) {
    to_integer(g, {.tokens = options.tokens});
    to_coded(g);
    clean_up(g);
    if (options.tokens) place_heads(g);
  }
  fuse(g);
  read_planes(g);
  if (options.bf16) to_bf16(g, options.bf16_marked);
  clean_up(g);
}

Graph lowered(Graph graph, const PlanOptions& options) {
  specialize(graph, options.input_shapes, options.fuse && options.integer);
  lower(graph, options);
  return graph;
}

Plan make_plan(Graph graph, const PlanOptions& options) {
  Plan plan;
  plan.graph = std::move(graph);
  Graph& g = plan.graph;
  const bool integer = options.fuse && options.integer;
  std::optional<Slices> slices;
  if (options.slice && !options.reference) slices = choose_slices(g, options.input_shapes);
  if (slices) {
    plan.slices = slices->count;
    specialize_slice(g, *slices, integer);
  } else {
    specialize(g, options.input_shapes, integer);
  }
  check_inputs(g);
  lower(g, options);
  std::optional<KernelTuner> tuner;
  const bool patches = options.fuse && (options.patches || options.tune);
  if ((options.tune || patches) && !options.reference) tuner.emplace(options.kernel_times.empty() ? default_kernel_times_file() : options.kernel_times);
  ConstantRelease constants(g);
  TensorPool packed;
  plan_patches(plan, options, patches && tuner ? &*tuner : nullptr, packed);
  for (NodeId id : g.order()) {
    Step step = classify(g, id);
    if (const std::optional<size_t> index = index_in_patches(plan, id)) {
      if (*index == 0) plan.patches_begin = plan.steps.size();
      step.kernel_name = plan.patches->kernel_name(*index);
      constants.packed_by(g[id], plan.patches->first_kernel(*index));
    }
    if (options.fuse && !options.reference) plan_branches(g, step);
    if (step.kernel_name.empty()) choose_kernel({.graph = g, .node = g[id], .pool = &packed}, options, options.tune && tuner ? &*tuner : nullptr, step);
    if (step.kernel) constants.packed_by(g[id], *step.kernel);
    plan.steps.push_back(std::move(step));
  }
  if (tuner) {
    tuner->save();
    plan.notices = tuner->notices();
  }
  // What is left is read as it is, maybe by several threads. Subgraphs hold nothing to align: the importer saw to that.
  for (size_t i = 0; i < g.value_count(); ++i)
    if (const Tensor& t = g[ValueId{static_cast<int32_t>(i)}].constant; t.defined()) (void)t.raw();
  place_values(plan, nullptr);
  return plan;
}

std::optional<Shape> whole_shape(const Plan& plan, ValueId value) {
  std::optional<Shape> shape = plan.graph[value].shape;
  if (plan.slices > 1 && shape) (*shape)[0] *= plan.slices;
  return shape;
}

Graph declaration_of(const Plan& plan) {
  Graph graph;
  graph.name = plan.graph.name;
  auto declare = [&](ValueId v) {
    Value value = plan.graph[v];
    value.shape = whole_shape(plan, v);
    value.constant = {};
    value.producer = {};
    return graph.add_value(std::move(value));
  };
  for (ValueId v : plan.graph.inputs) graph.inputs.push_back(declare(v));
  for (ValueId v : plan.graph.outputs) graph.outputs.push_back(declare(v));
  return graph;
}

PlanRecord record_of(const Plan& plan) {
  PlanRecord record;
  record.slices = plan.slices;
  if (plan.patches) record.patches = plan.patches->setting();
  for (const Step& step : plan.steps) {
    const std::optional<size_t> index = index_in_patches(plan, step.node);
    const Kernel* kernel = index ? &plan.patches->first_kernel(*index) : step.kernel.get();
    record.steps.push_back({step.kernel_name, kernel ? kernel->packed_inputs() : std::vector<PackedInput>()});
  }
  for (const Placement& placement : plan.placements)
    if (placement.offset >= 0) record.offsets.push_back(placement.offset);
  return record;
}

Plan restore_plan(Graph graph, const PlanRecord& record) {
  Plan plan;
  plan.graph = std::move(graph);
  Graph& g = plan.graph;
  verify(g);
  check_inputs(g);
  check_shapes(g);
  check_slices(g, record.slices);
  plan.slices = record.slices;
  for (ValueId v : g.outputs)
    if (!g[v].constant.has_elements()) fail(ErrorKind::kInput, "output '{}' is a constant whose elements are missing", g[v].name);
  std::vector<NodeId> order = g.order();
  if (order.size() != record.steps.size())
    fail(ErrorKind::kInput, "there are {} steps for {} nodes", record.steps.size(), order.size());
  if (record.patches) {
    const auto first = std::find(order.begin(), order.end(), stage_in_strips(g, *record.patches).nodes[0].node);
    plan.patches_begin = static_cast<size_t>(first - order.begin());
    plan.patches = std::make_unique<PatchSteps>(g, *record.patches, [&](size_t index, const KernelRequest& request, std::string& name) {
      const PlanRecord::Choice& choice = record.steps[plan.patches_begin + index];
      name = choice.kernel_name;
      return make_recorded(request.graph, request.node, choice);
    });
  }
  for (size_t s = 0; s < order.size(); ++s) {
    Step step = classify(g, order[s]);
    if (record.steps[s].kernel_name == kBranches) plan_branches(g, step);
    const std::optional<size_t> index = index_in_patches(plan, order[s]);
    restore_kernel(g, record.steps[s], step, index ? &plan.patches->first_kernel(*index) : nullptr);
    plan.steps.push_back(std::move(step));
  }
  place_values(plan, &record.offsets);
  return plan;
}

std::vector<std::string_view> layouts_of(const Plan& plan) {
  static const std::set<std::string_view> kChannelsLast = {"Affine", "BinaryConv", "CodedConv", "Conv", "ExpandDepthwise", "IntegerConv", "IntegerPool", "PlanarConv", "Pool"};
  const Graph& g = plan.graph;
  std::vector<std::string_view> layouts(g.value_count());
  auto picture = [&](ValueId v) { return v && g[v].shape && g[v].shape->size() == 4; };
  for (ValueId v : g.inputs)
    if (picture(v)) layouts[v.index] = "NCHW";
  for (const Step& step : plan.steps) {
    const Node& n = g[step.node];
    std::string_view from;
    for (ValueId v : n.inputs)
      if (v && !layouts[v.index].empty()) {
        from = layouts[v.index];
        break;
      }
    if (n.op->domain == kLatheDomain && kChannelsLast.contains(n.op->name)) from = "NHWC";
    if (n.op->name == "Transpose") {
      const auto& order = n.get_ints("perm");
      bool turned = order == std::vector<int64_t>{0, 2, 3, 1} || order == std::vector<int64_t>{0, 3, 1, 2};
      from = !turned ? "" : order[1] == 2 ? "NHWC" : "NCHW";
    }
    if (n.op->name == "Reshape") from = "";
    for (ValueId v : n.outputs)
      if (picture(v)) layouts[v.index] = from;
  }
  return layouts;
}

std::string print_plan(const Plan& plan) {
  const std::vector<std::string_view> layouts = layouts_of(plan);
  std::string text = fmt::format("{:>4}  {:<22} {:<26} {:<24} {:<6} {:>12} {:>12}\n", "step", "operator", "kernel", "output", "layout", "offset", "bytes");
  for (size_t s = 0; s < plan.steps.size(); ++s) {
    const Node& n = plan.graph[plan.steps[s].node];
    ValueId v = n.outputs[0];
    const Placement& p = plan.placements[plan.placements[v.index].root.index];
    const Value& value = plan.graph[v];
    text += fmt::format("{:>4}  {:<22} {:<26} {:<24} {:<6} {:>12} {:>12}\n", s, n.op->name, plan.steps[s].kernel_name,
                        fmt::format("{}{}", name_of(value.dtype), value.shape ? to_string(*value.shape) : "[…]"),
                        layouts[v.index], p.offset < 0 ? "-" : std::to_string(p.offset), p.bytes);
  }
  if (plan.patches)
    text += fmt::format("steps {} to {} once for each of {} strips of rows, what strips share is {}\n", plan.patches_begin,
                        plan.patches_begin + plan.patches->stage().nodes.size() - 1, plan.patches->strips(), plan.patches->setting().cache ? "kept" : "made again");
  if (plan.slices > 1) text += fmt::format("all steps {} times, each for the next part of the batch\n", plan.slices);
  text += fmt::format("arena {} bytes (values {}, scratch {}); sum of tensors {}; lower bound {}\n", plan.arena_bytes,
                      plan.scratch_offset, plan.scratch_bytes, plan.tensor_bytes, plan.lower_bound);
  for (const std::string& line : real_operators(plan.graph)) text += line + "\n";
  return text;
}

std::string plan_svg(const Plan& plan) {
  std::vector<ArenaBox> boxes;
  for (size_t i = 0; i < plan.placements.size(); ++i) {
    const Placement& p = plan.placements[i];
    if (p.offset < 0) continue;
    const Value& v = plan.graph[ValueId{static_cast<int32_t>(i)}];
    boxes.push_back({fmt::format("{} {}", v.name, to_string(v.shape.value_or(Shape{}))), p.first_step, p.last_step, p.offset, p.bytes});
  }
  return arena_svg(boxes, plan.steps.size(), plan.arena_bytes, plan.lower_bound);
}

}  // namespace lathe
