#include "planner/patch_steps.h"

#include <algorithm>
#include <cstring>

#include "graph/op.h"
#include "planner/tune.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

constexpr int kPlanes = 2;         // rows' axis of [N, C, H, W]
constexpr int64_t kMostParts = 1 << 18;  // nodes times strips: a file may say any number
constexpr int64_t kReadBeyond = 64;  // kernels may read one vector past the end of a buffer, as in the arena

// Only the first convolution reads planes, from the network's input.
bool reads_planes(const Node& n) { return n.op->domain == kLatheDomain && n.op->name == "PlanarConv"; }

// Why nodes of a stage cannot run in strips, or "".
std::string obstacle_to_strips(const Graph& g, const PatchStage& stage) {
  if ((*g[stage.entry].shape)[0] != 1) return "a batch is no stretch of rows";
  for (const auto& [value, axis] : stage.axes)
    if (axis == kPlanes && value != stage.entry) return fmt::format("'{}' lies in planes", g[value].name);
  if (stage.axes.at(stage.entry) == kPlanes)
    for (const PatchNode& n : stage.nodes) {
      const Node& node = g[n.node];
      if (std::count(node.inputs.begin(), node.inputs.end(), stage.entry) && !reads_planes(node)) return fmt::format("node '{}' ({}) reads planes", node.name, node.op->name);
    }
  return "";
}

// The axes of a stage's own maps alone.
PatchStage own_axes(const Graph& g, PatchStage stage) {
  std::map<ValueId, int> axes{{stage.entry, stage.axes.at(stage.entry)}};
  for (const PatchNode& n : stage.nodes)
    for (ValueId v : g[n.node].outputs)
      if (v) axes[v] = stage.axes.at(v);
  stage.axes = std::move(axes);
  return stage;
}

bool stand_together(const Graph& g, const PatchStage& stage) {
  const std::vector<NodeId> order = g.order();
  const auto first = std::find(order.begin(), order.end(), stage.nodes[0].node);
  if (order.end() - first < static_cast<std::ptrdiff_t>(stage.nodes.size())) return false;
  for (size_t i = 0; i < stage.nodes.size(); ++i)
    if (first[static_cast<std::ptrdiff_t>(i)] != stage.nodes[i].node) return false;
  return true;
}

// Planes where the first convolution reads them, else channels last.
bool channels_last_at(const Graph& g, ValueId entry) {
  for (NodeId id : g.order())
    if (std::count(g[id].inputs.begin(), g[id].inputs.end(), entry)) return !reads_planes(g[id]);
  return true;
}

}  // namespace

PatchStage stage_in_strips(const Graph& graph, const PatchSetting& setting) {
  if (setting.entry.index < 0 || setting.entry.index >= static_cast<int32_t>(graph.value_count())) fail(ErrorKind::kInput, "a stage begins at value {}", setting.entry.index);
  PatchStage stage;
  try {
    stage = own_axes(graph, patchable_prefix(graph, setting.entry, channels_last_at(graph, setting.entry)).stage(setting.nodes));
  } catch (const Error& e) {
    fail(ErrorKind::kInput, "the stage at '{}' cannot run patch by patch: {}", graph[setting.entry].name, e.what());
  }
  std::string why = obstacle_to_strips(graph, stage);
  if (why.empty() && !stand_together(graph, stage)) why = "other nodes stand between its own";
  if (!why.empty()) fail(ErrorKind::kInput, "the stage at '{}' cannot run in strips: {}", graph[setting.entry].name, why);
  return stage;
}

PatchSteps::PatchSteps(const Graph& graph, const PatchSetting& setting, const Choose& choose)
    : setting_(setting), stage_(stage_in_strips(graph, setting)), names_(stage_.nodes.size()), kernels_(stage_.nodes.size()) {
  const int64_t height = (*graph[stage_.exit].shape)[static_cast<size_t>(stage_.axes.at(stage_.exit))];
  if (setting.strips < 1 || setting.strips > height || setting.strips > kMostParts / static_cast<int64_t>(stage_.nodes.size())) fail(ErrorKind::kInput, "{} strips of a map of {} rows, {} nodes", setting.strips, height, stage_.nodes.size());
  const PatchTiling rows(graph, stage_, 0, setting.strips, setting.cache);
  maps_ = rows.maps();
  buffers_.assign(maps_.size(), 0);
  persists_.assign(maps_.size(), false);
  memory_.assign(maps_.size(), nullptr);
  parts_.resize(static_cast<size_t>(rows.tiles()));
  moves_.resize(parts_.size());
  for (int64_t t = 0; t < rows.tiles(); ++t) {
    for (size_t m = 0; m < maps_.size(); ++m) {
      if (is_whole(m)) continue;
      const int64_t row = row_bytes(graph, m);
      buffers_[m] = std::max(buffers_[m], rows.held(t, m).size() * row + kReadBeyond);
      const int64_t kept = t > 0 ? rows.kept(t - 1, m) : 0;
      if (kept == 0) continue;
      const int64_t begin = std::max(rows.held(t, m).begin, rows.held(t - 1, m).begin);
      persists_[m] = true;
      moves_[static_cast<size_t>(t)].push_back({m, (begin - rows.held(t - 1, m).begin) * row, (begin - rows.held(t, m).begin) * row, kept * row});
    }
    parts_[static_cast<size_t>(t)].resize(stage_.nodes.size());
    for (size_t i = 0; i < stage_.nodes.size(); ++i) add_part(graph, rows, t, i, choose);
  }
}

int64_t PatchSteps::row_bytes(const Graph& graph, size_t map) const {
  const Value& v = graph[maps_[map]];
  return product(*v.shape, static_cast<size_t>(stage_.axes.at(maps_[map])) + 1, v.shape->size()) * static_cast<int64_t>(size_of(v.dtype));
}

// A graph of one node says to kernels what the node is for a strip.
void PatchSteps::add_part(const Graph& graph, const PatchTiling& rows, int64_t strip, size_t index, const Choose& choose) {
  const PatchNode& n = stage_.nodes[index];
  const Node& node = graph[n.node];
  Part& part = parts_[static_cast<size_t>(strip)][index];
  PatchRange out;
  for (ValueId v : node.outputs)
    if (v) out = rows.made(strip, rows.index(v));
  if (out.size() <= 0) return;
  Graph one;
  Node copy = node;
  int64_t before = 0, after = 0;
  std::vector<size_t> slot_of;  // by input, then by output; SIZE_MAX: none
  const auto add_map = [&](ValueId v, PatchRange range) {
    const size_t m = rows.index(v);
    Value value = graph[v];
    value.producer = {};
    const auto axis = static_cast<size_t>(stage_.axes.at(v));
    if (axis != kPlanes) (*value.shape)[axis] = range.size();
    const int64_t origin = is_whole(m) ? 0 : rows.held(strip, m).begin;
    const int64_t offset = axis == kPlanes ? 0 : (range.begin - origin) * row_bytes(graph, m);
    slot_of.push_back(part.slots.size());
    part.slots.push_back({Tensor(value.dtype, *value.shape, nullptr), m, offset});
    return one.add_value(std::move(value));
  };
  for (size_t k = 0; k < node.inputs.size(); ++k) {
    const ValueId v = node.inputs[k];
    if (!v || n.inputs[k] == PatchInput::kFixed) {
      slot_of.push_back(SIZE_MAX);
      if (!v) continue;
      part.fixed.emplace_back(k, v);
      Value value = graph[v];
      value.producer = {};
      copy.inputs[k] = one.add_value(std::move(value));
      continue;
    }
    PatchRange read = out;
    if (n.inputs[k] == PatchInput::kWindowed) {
      const PatchRange seen = n.window[0].sees(out);
      const int64_t extent = rows.extent(rows.index(v));
      // Of planes the kernel is given all rows: negative padding says which it reads.
      const bool planes = stage_.axes.at(v) == kPlanes;
      read = planes ? PatchRange{0, extent} : PatchRange{std::clamp<int64_t>(seen.begin, 0, extent - 1), std::clamp<int64_t>(seen.end, 1, extent)};
      before = read.begin - seen.begin;
      after = seen.end - read.end;
    }
    copy.inputs[k] = add_map(v, read);
  }
  if (n.pads) {
    Ints pads = graph[node.inputs[1]].constant.to_i64();
    const auto axis = static_cast<size_t>(stage_.axes.at(node.inputs[0]));
    pads[axis] = before;
    pads[axis + 4] = after;
    copy.inputs[1] = one.add_constant(Tensor::of_i64(pads));
  }
  if (copy.op->find("pads")) {
    Ints& pads = std::get<Ints>(copy.attributes["pads"]);
    pads[0] = before;
    pads[2] = after;
  }
  for (size_t k = 0; k < node.outputs.size(); ++k) {
    if (node.outputs[k]) copy.outputs[k] = add_map(node.outputs[k], out);
    else slot_of.push_back(SIZE_MAX);
  }
  const std::vector<ValueId> made = copy.outputs;
  const NodeId id = one.add_node(std::move(copy));
  for (ValueId v : made) {
    if (!v) continue;
    const Shape planned = *one[v].shape;
    InferContext context(one, id);
    one[id].op->infer(context);
    require(one[v].shape == planned, "node '{}' makes {} of a strip, planned are {}", node.name, to_string(*one[v].shape), to_string(planned));
  }
  const KernelRequest request{.graph = one, .node = one[id]};
  // What a Pad adds is no attribute.
  part.kernel = kernel_for(index, request, fmt::format("{} {} {}", request_text(request), before, after), choose);
  for (size_t k = 0; k < slot_of.size(); ++k) {
    Tensor* tensor = slot_of[k] == SIZE_MAX ? nullptr : &part.slots[slot_of[k]].tensor;
    if (k < node.inputs.size()) part.inputs.push_back(tensor);
    else part.outputs.push_back(tensor);
  }
}

// Kernels for other strips of a node keep the packed weights of its first one.
Kernel* PatchSteps::kernel_for(size_t index, const KernelRequest& request, std::string form, const Choose& choose) {
  auto& known = kernels_[index];
  for (auto& [of, kernel] : known)
    if (of == form) return kernel.get();
  std::unique_ptr<Kernel> made;
  if (!known.empty()) {
    const std::vector<PackedInput> packed = known[0].second->packed_inputs();
    KernelRequest again{.graph = request.graph, .node = request.node, .packed = &packed};
    for (const KernelEntry* entry : kernels_for(again)) {
      if (entry->name != names_[index]) continue;
      try {
        made = entry->make(again);
      } catch (const StalePacking&) {  // it packs otherwise for this shape
      } catch (const Error&) {
        throw;
      } catch (const std::exception&) {  // a library refuses what `supports` let through
      }
    }
  }
  std::string name = names_[index];
  if (!made) made = choose(index, request, name);
  if (!made) fail(ErrorKind::kUnsupported, "node '{}' ({}) has no kernel for strips", request.node.name, request.node.op->name);
  if (known.empty()) names_[index] = name;
  known.emplace_back(std::move(form), std::move(made));
  return known.back().second.get();
}

int64_t PatchSteps::scratch_bytes() const {
  int64_t most = 0;
  for (const auto& of_node : kernels_)
    for (const auto& [form, kernel] : of_node) most = std::max<int64_t>(most, static_cast<int64_t>(kernel->scratch_bytes()));
  return most;
}

size_t PatchSteps::kernel_count() const {
  size_t count = 0;
  for (const auto& of_node : kernels_) count += of_node.size();
  return count;
}

void PatchSteps::bind(const std::vector<Tensor>& values) {
  for (auto& strip : parts_)
    for (Part& part : strip)
      for (const auto& [input, value] : part.fixed) part.inputs[input] = &values[static_cast<size_t>(value.index)];
}

void PatchSteps::point(size_t map, char* memory) {
  if (memory_[map] == memory) return;
  memory_[map] = memory;
  for (auto& strip : parts_)
    for (Part& part : strip)
      for (Slot& slot : part.slots)
        if (slot.map == map) slot.tensor.point_at(memory + slot.offset);
}

void PatchSteps::take_over_rows(size_t strip) {
  for (const Move& move : moves_[strip]) std::memmove(memory_[move.map] + move.to, memory_[move.map] + move.from, static_cast<size_t>(move.bytes));
}

void PatchSteps::run(void* scratch) {
  for (size_t t = 0; t < parts_.size(); ++t) {
    take_over_rows(t);
    for (Part& part : parts_[t])
      if (part.kernel) execute(part, scratch);
  }
}

void PatchSteps::run(void* scratch, const std::function<void(size_t, const std::function<void()>&)>& around) {
  for (size_t t = 0; t < parts_.size(); ++t) {
    take_over_rows(t);
    for (size_t i = 0; i < parts_[t].size(); ++i)
      if (parts_[t][i].kernel) around(i, [&] { execute(parts_[t][i], scratch); });
  }
}

namespace {

// Of a setting's maps, what one node reads and writes at most.
int64_t widest_node(const Graph& g, const PatchStage& stage) {
  int64_t most = 0;
  for (const PatchNode& n : stage.nodes) {
    int64_t bytes = 0;
    for (const auto* list : {&g[n.node].inputs, &g[n.node].outputs})
      for (ValueId v : *list)
        if (v && stage.axes.contains(v)) bytes += bytes_of(g[v]);
    most = std::max(most, bytes);
  }
  return most;
}

}  // namespace

std::vector<PatchSetting> patch_settings(const Graph& graph, int64_t cache_bytes) {
  // The first map that a window reads.
  PatchSetting setting;
  for (NodeId id : graph.order()) {
    const Node& n = graph[id];
    if (n.op->domain != kLatheDomain || !(n.op->find("pads") && n.op->find("strides")) || graph[n.inputs[0]].is_constant()) continue;
    if (graph[n.inputs[0]].shape && graph[n.inputs[0]].shape->size() == 4 && is_static(*graph[n.inputs[0]].shape)) setting.entry = n.inputs[0];
    break;
  }
  std::vector<PatchSetting> settings;
  if (!setting.entry) return settings;
  const PatchPrefix prefix = patchable_prefix(graph, setting.entry, channels_last_at(graph, setting.entry));
  std::vector<PatchStage> stages;  // that can run in strips
  for (size_t end : prefix.ends) {
    setting.nodes = end;
    try {
      stages.push_back(stage_in_strips(graph, setting));
    } catch (const Error&) {
      break;  // what follows holds the same nodes
    }
  }
  constexpr size_t kMostEnds = 8;  // maps shrink on the way: what comes late fits the cache anyway
  size_t ends = 0;
  for (size_t i = 0; i < stages.size() && ends < kMostEnds; ++i) {
    // Where a map is smaller than those before and after it, what is whole there weighs least. The last end too.
    const PatchStage& stage = stages[i];
    const int64_t here = bytes_of(graph[stage.exit]);
    const bool narrower = i == 0 || here <= bytes_of(graph[stages[i - 1].exit]);
    if (!narrower || (i + 1 < stages.size() && here >= bytes_of(graph[stages[i + 1].exit])) || stage.nodes.size() < 2) continue;
    ++ends;
    setting.nodes = stage.nodes.size();
    const int64_t widest = widest_node(graph, stage), height = (*graph[stage.exit].shape)[static_cast<size_t>(stage.axes.at(stage.exit))];
    if (widest <= cache_bytes) continue;  // it stays there as it is
    // A strip's widest node in a quarter of the cache, …, in eight times as much: a cache further out.
    int64_t last = 0;
    for (double part : {0.25, 0.5, 1.0, 2.0, 4.0, 8.0}) {
      const auto strips = static_cast<int64_t>(static_cast<double>(widest) / (part * static_cast<double>(cache_bytes))) + 1;
      setting.strips = std::clamp<int64_t>(strips, 2, std::max<int64_t>(height / 2, 2));
      if (setting.strips == last || setting.strips > height) continue;
      last = setting.strips;
      settings.push_back(setting);
    }
  }
  return settings;
}

}  // namespace lathe
