#include "planner/scratchpad/network.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "graph/op.h"
#include "kernels/reference/reference.h"
#include "planner/scratchpad/check.h"
#include "transform/passes.h"

namespace lathe {
namespace {

// Sizes and axes that operators read as constants are part of the program.
bool is_weight(const Value& v) { return v.is_constant() && v.shape && !v.shape->empty() && v.dtype != DType::kI64 && v.dtype != DType::kI32 && v.dtype != DType::kBool; }

// Inputs that the node's one output may overwrite: it is computed from their element of the same place, and from no other of them.
std::vector<size_t> overwritable(const Graph& g, const Node& n) {
  static const std::set<std::string_view> kElementwise = {"Add", "Sub", "Mul", "Div", "Relu", "Clip", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "Gelu", "LeakyRelu", "Elu", "Mish",
                                                         "Swish", "Sqrt", "Exp", "Max", "Min", "Affine", "LayerNormalization", "Softmax"};
  std::vector<size_t> inputs;
  if (n.outputs.size() != 1) return inputs;
  const auto fits = [&](size_t i) {
    return i < n.inputs.size() && n.inputs[i] && !g[n.inputs[i]].is_constant() && bytes_of(g[n.inputs[i]]) == bytes_of(g[n.outputs[0]]) &&
           std::count(n.inputs.begin(), n.inputs.end(), n.inputs[i]) == 1;
  };
  if (n.op->domain == kLatheDomain && (n.op->name == "Conv" || n.op->name == "MatMul")) {
    if (fits(3)) inputs.push_back(3);  // the residual
  } else if (kElementwise.contains(n.op->name)) {
    for (size_t i = 0; i < n.inputs.size(); ++i)
      if (fits(i)) inputs.push_back(i);
  }
  return inputs;
}

double seconds_of(const Graph& g, const Node& n, const Scratchpad& scratchpad) {
  const DType type = g[n.inputs.empty() ? n.outputs[0] : n.inputs[0]].dtype;
  const double rate = type == DType::kI8 || type == DType::kU8 ? scratchpad.int8_per_second : scratchpad.f32_per_second;
  if (!(rate > 0)) return 0;
  // A multiply-accumulate is two operations; what has none takes one an element.
  const double operations = n.op->macs ? 2.0 * static_cast<double>(n.op->macs(g, n)) : static_cast<double>(element_count(*g[n.outputs[0]].shape));
  return operations / rate;
}

}  // namespace

Scratchpad scratchpad_of(const Device& device, bool latency) {
  if (device.memory.size() < 2) fail(ErrorKind::kInput, "device '{}' has one level of memory; a scratchpad is the first of two", device.name);
  Scratchpad s{.capacity = device.memory[0].bytes};
  const Rates& rates = device.compute[0].per_core;
  s.f32_per_second = 1e9 * rates.f32.value_or(0);
  s.int8_per_second = 1e9 * rates.int8.value_or(rates.f32.value_or(0));
  if (s.f32_per_second == 0) s.f32_per_second = s.int8_per_second;
  if (!latency) return s;
  const Bandwidth& outside = device.memory[1].per_core;
  if (!outside.read) fail(ErrorKind::kInput, "device '{}' does not say how fast '{}' is read (gb_per_s_per_core), which a latency needs", device.name, device.memory[1].name);
  s.load_cost = 1e-9 / *outside.read;
  // copy counts a byte read and written: 2 / copy = 1 / read + 1 / write.
  s.store_cost = outside.copy ? std::max(2e-9 / *outside.copy - s.load_cost, 0.0) : s.load_cost;
  return s;
}

ScheduleNetwork schedule_network(Graph graph, const Scratchpad& scratchpad) {
  ScheduleNetwork network;
  network.graph = std::move(graph);
  const Graph& g = network.graph;
  ScheduleProblem& p = network.problem;
  p.capacity = scratchpad.capacity;
  p.alignment = scratchpad.alignment;
  p.load_cost = scratchpad.load_cost;
  p.store_cost = scratchpad.store_cost;
  network.tensor_of.assign(g.value_count(), -1);
  const auto tensor = [&](ValueId v, TensorKind kind) {
    const Value& value = g[v];
    if (!value.shape || !is_static(*value.shape) || size_of(value.dtype) == 0)
      fail(ErrorKind::kInput, "the shape of '{}' is known only at run time; a scratchpad is planned for shapes that are known", value.name);
    network.tensor_of[static_cast<size_t>(v.index)] = static_cast<int>(p.tensors.size());
    network.value_of.push_back(v);
    p.tensors.push_back({value.name, bytes_of(value), kind});
    return static_cast<int>(p.tensors.size()) - 1;
  };
  const auto tensor_of = [&](ValueId v) -> int& { return network.tensor_of[static_cast<size_t>(v.index)]; };
  for (ValueId v : g.inputs) tensor(v, TensorKind::kInput);
  std::vector<std::vector<NodeId>> waiting(g.value_count());  // by value: nodes inside the operator that will read it
  for (NodeId id : g.order()) {
    const Node& n = g[id];
    if (!n.captures.empty()) fail(ErrorKind::kInput, "node '{}' ({}) reads values around it: branches and loops are not planned on a scratchpad", n.name, n.op->name);
    if (is_view(n) && tensor_of(n.inputs[0]) >= 0) {
      tensor_of(n.outputs[0]) = tensor_of(n.inputs[0]);
      continue;
    }
    std::vector<NodeId> group;
    for (ValueId v : n.inputs)
      if (v) group.insert(group.end(), waiting[static_cast<size_t>(v.index)].begin(), waiting[static_cast<size_t>(v.index)].end());
    group.push_back(id);
    if (n.scope == kTileScope) {
      waiting[static_cast<size_t>(n.outputs[0].index)] = std::move(group);
      continue;
    }
    ScheduleOperator o{fmt::format("{} {}", n.op->name, n.name)};
    for (NodeId member : group)
      for (ValueId v : g[member].inputs) {
        if (!v || !waiting[static_cast<size_t>(v.index)].empty()) continue;
        if (tensor_of(v) < 0) {
          if (!is_weight(g[v])) continue;
          tensor(v, TensorKind::kWeight);
        }
        if (std::find(o.inputs.begin(), o.inputs.end(), tensor_of(v)) == o.inputs.end()) o.inputs.push_back(tensor_of(v));
      }
    for (ValueId v : n.outputs)
      if (v) o.outputs.push_back(tensor(v, TensorKind::kIntermediate));
    for (size_t i : overwritable(g, n)) {
      const int input = tensor_of(n.inputs[i]);
      // What another node of the operator reads too must stay until it has.
      int64_t readers = 0;
      for (NodeId member : group)
        for (ValueId v : g[member].inputs) readers += v && tensor_of(v) == input;
      if (input >= 0 && readers == 1) o.in_place.push_back({input, o.outputs[0]});
    }
    o.seconds = seconds_of(g, n, scratchpad);
    p.operators.push_back(std::move(o));
    network.nodes.push_back(std::move(group));
  }
  for (ValueId v : g.outputs)
    if (int e = tensor_of(v); e >= 0 && p.tensors[static_cast<size_t>(e)].kind == TensorKind::kIntermediate) p.tensors[static_cast<size_t>(e)].kind = TensorKind::kOutput;
  return network;
}

std::vector<Tensor> run_schedule(const ScheduleNetwork& network, const nlohmann::json& schedule, const std::vector<Tensor>& inputs, ScheduleRun* counted) {
  const Graph& g = network.graph;
  require(inputs.size() == g.inputs.size(), "{} inputs of {}", inputs.size(), g.inputs.size());
  ScheduleMachine machine;
  machine.outside.resize(network.problem.tensors.size());
  const auto keep = [&](int e, const Tensor& t) {
    const auto* bytes = static_cast<const std::byte*>(t.raw());
    machine.outside[static_cast<size_t>(e)].assign(bytes, bytes + t.bytes());
  };
  for (size_t i = 0; i < inputs.size(); ++i) keep(network.tensor_of[static_cast<size_t>(g.inputs[i].index)], inputs[i]);
  for (size_t e = 0; e < network.value_of.size(); ++e)
    if (const Value& v = g[network.value_of[e]]; v.is_constant()) keep(static_cast<int>(e), v.constant);
  std::vector<Step> steps(g.node_count());  // by node: its kernel
  std::vector<Tensor> values(g.value_count());
  machine.run = [&](int op, const std::vector<std::span<std::byte>>& in, const std::vector<std::span<std::byte>>& out) {
    const ScheduleOperator& o = network.problem.operators[static_cast<size_t>(op)];
    // Copies of what the operator reads, since kernels want aligned memory, and outputs may lie where inputs do.
    std::vector<ValueId> here;
    const auto bind = [&](ValueId v) {
      if (!v || values[static_cast<size_t>(v.index)].defined()) return;
      const int e = network.tensor_of[static_cast<size_t>(v.index)];
      here.push_back(v);
      Tensor& t = values[static_cast<size_t>(v.index)];
      const auto at = e < 0 ? o.inputs.end() : std::find(o.inputs.begin(), o.inputs.end(), e);
      if (at == o.inputs.end()) {
        t = g[v].is_constant() ? g[v].constant : Tensor(g[v].dtype, *g[v].shape);
        return;
      }
      t = Tensor(g[v].dtype, *g[v].shape);
      const auto& span = in[static_cast<size_t>(at - o.inputs.begin())];
      require(span.size() == t.bytes(), "'{}' has {} bytes in the scratchpad, {} in the network", g[v].name, span.size(), t.bytes());
      std::memcpy(t.raw(), span.data(), span.size());
    };
    for (NodeId id : network.nodes[static_cast<size_t>(op)]) {
      const Node& n = g[id];
      Step& step = steps[static_cast<size_t>(id.index)];
      const KernelRequest request{.graph = g, .node = n};
      if (step.kernel_name.empty()) choose_kernel(request, {}, nullptr, step);
      std::vector<const Tensor*> sources;
      std::vector<Tensor*> results;
      for (ValueId v : n.inputs) bind(v), sources.push_back(v ? &values[static_cast<size_t>(v.index)] : nullptr);
      for (ValueId v : n.outputs) bind(v), results.push_back(v ? &values[static_cast<size_t>(v.index)] : nullptr);
      if (step.kernel) {
        Tensor scratch(DType::kU8, {static_cast<int64_t>(step.kernel->scratch_bytes())});
        step.kernel->run(sources.data(), results.data(), scratch.raw());
      } else {
        std::vector<Tensor> arguments;
        arguments.reserve(sources.size());
        for (const Tensor* t : sources) arguments.push_back(t ? *t : Tensor());
        std::vector<Tensor> made = reference::run_node(n, std::move(arguments), {});
        for (size_t i = 0; i < made.size() && i < results.size(); ++i)
          if (results[i]) *results[i] = made[i];
      }
    }
    const Node& last = g[network.nodes[static_cast<size_t>(op)].back()];
    size_t next = 0;
    for (ValueId v : last.outputs) {
      if (!v) continue;
      const Tensor& t = values[static_cast<size_t>(v.index)];
      require(t.bytes() == out[next].size(), "'{}' became {} bytes where {} were planned", g[v].name, t.bytes(), out[next].size());
      std::memcpy(out[next++].data(), t.raw(), t.bytes());
    }
    for (ValueId v : here) values[static_cast<size_t>(v.index)] = {};
  };
  ScheduleRun run = check_schedule(schedule, machine);
  std::vector<Tensor> outputs;
  for (ValueId v : g.outputs) {
    const int e = network.tensor_of[static_cast<size_t>(v.index)];
    if (e < 0) {
      outputs.push_back(g[v].constant);
      continue;
    }
    Tensor t(g[v].dtype, *g[v].shape);
    require(run.outside[static_cast<size_t>(e)].size() == t.bytes(), "output '{}' has {} bytes", g[v].name, run.outside[static_cast<size_t>(e)].size());
    std::memcpy(t.raw(), run.outside[static_cast<size_t>(e)].data(), t.bytes());
    outputs.push_back(std::move(t));
  }
  if (counted) *counted = std::move(run);
  return outputs;
}

}  // namespace lathe
