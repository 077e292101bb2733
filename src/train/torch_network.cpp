#include "train/torch_network.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/text.h"
#include "graph/op.h"
#include "models/builder.h"
#include "transform/passes.h"

namespace lathe {

TorchNetwork::TorchNetwork(Graph graph, const TorchNetworkOptions& options) : graph_(std::move(graph)), options_(options) {
  remove_dead(graph_);
  pairs_ = find_conv_bn(graph_);
  constants_.resize(graph_.value_count());
  const Parameters found = parameters_of(graph_);
  std::set<std::string> used;
  const auto frozen_by_user = [&](const std::string& name) {
    bool hit = false;
    for (const std::string& pattern : options_.freeze)
      if (matches(pattern, name)) {
        hit = true;
        used.insert(pattern);
      }
    return hit;
  };
  std::set<std::string> names;
  const auto take = [&](ValueId v, bool trained) {
    check_model(names.insert(graph_[v].name).second, "two parameters are named {}", graph_[v].name);
    at::Tensor t = to_torch(graph_[v].constant).to(options_.device, options_.type);
    t.set_requires_grad(trained);
    constants_[v.index] = t;
    return Parameter{graph_[v].name, v, t, trained, 1};
  };
  for (ValueId v : found.trained) parameters_.push_back(take(v, !frozen_by_user(graph_[v].name)));
  for (ValueId v : found.frozen) parameters_.push_back(take(v, false));
  for (ValueId v : found.statistics) statistics_.push_back(take(v, false));
  for (NodeId id : graph_.order()) {
    if (graph_[id].op->name != "FakeQuantize") continue;
    for (Parameter& p : parameters_)
      for (size_t i = 1; i < graph_[id].inputs.size(); ++i)
        if (graph_[id].inputs[i] == p.value) p.step = std::max(p.tensor.abs().mean().item<double>(), 1e-8);
  }
  for (const std::string& pattern : options_.freeze)
    if (!used.contains(pattern)) fail(ErrorKind::kUsage, "no parameter is named like {}", pattern);
  for (size_t i = 0; i < graph_.value_count(); ++i) {
    const Value& v = graph_[ValueId{static_cast<int32_t>(i)}];
    if (!v.is_constant() || constants_[i].defined() || v.dtype == DType::kString) continue;
    constants_[i] = to_torch(v.constant);
    if (v.dtype == DType::kF32) constants_[i] = constants_[i].to(options_.type);
    // Whole numbers are shapes, axes and indices, single numbers are arguments: lowerings read both here.
    if (constants_[i].is_floating_point() && constants_[i].dim() > 0) constants_[i] = constants_[i].to(options_.device);
  }

  std::vector<int> pair_of(graph_.node_count(), -1);
  std::vector<bool> absorbed(graph_.node_count(), false);
  if (options_.conv_bn == ConvBnMode::kTune)
    for (size_t i = 0; i < pairs_.size(); ++i) {
      pair_of[static_cast<size_t>(pairs_[i].batch_norm.index)] = static_cast<int>(i);
      absorbed[static_cast<size_t>(pairs_[i].convolution.index)] = true;
    }
  const std::vector<std::vector<NodeId>> readers = graph_.consumers();
  for (NodeId id : graph_.order()) {
    const Node& n = graph_[id];
    if (absorbed[static_cast<size_t>(id.index)]) continue;
    Step step{.node = id, .lowering = find_lowering(*n.op), .conv_bn = pair_of[static_cast<size_t>(id.index)], .last = {}};
    if (!step.lowering) fail(ErrorKind::kUnsupported, "{}: {} cannot be trained", n.name, n.op->name);
    take_activation(step, readers);
    take_star_relu(step, readers);
    take_silu(step, readers);
    for (const NodeId behind : step.behind) absorbed[static_cast<size_t>(behind.index)] = true;
    steps_.push_back(step);
  }
  // A value goes after the last step that reads it.
  std::vector<int64_t> last(graph_.value_count(), -1);
  for (size_t s = 0; s < steps_.size(); ++s) {
    const auto reads = [&](NodeId id) {
      for (ValueId v : graph_[id].inputs)
        if (v) last[v.index] = static_cast<int64_t>(s);
    };
    reads(steps_[s].node);
    for (const NodeId behind : steps_[s].behind) reads(behind);
    if (steps_[s].conv_bn >= 0) reads(pairs_[static_cast<size_t>(steps_[s].conv_bn)].convolution);
  }
  for (ValueId v : graph_.outputs) last[v.index] = -1;
  for (size_t v = 0; v < last.size(); ++v)
    if (last[v] >= 0 && !constants_[v].defined()) steps_[static_cast<size_t>(last[v])].last.push_back(static_cast<int32_t>(v));
  if (options_.recompute) find_cuts();
}

NodeId TorchNetwork::only_reader(NodeId node, const std::vector<std::vector<NodeId>>& readers) const {
  const ValueId y = graph_[node].outputs[0];
  const std::vector<NodeId>& list = readers[static_cast<size_t>(y.index)];
  const bool one = !list.empty() && std::all_of(list.begin(), list.end(), [&](NodeId reader) { return reader == list[0]; });
  return one && std::find(graph_.outputs.begin(), graph_.outputs.end(), y) == graph_.outputs.end() ? list[0] : NodeId{};
}

void TorchNetwork::take_activation(Step& step, const std::vector<std::vector<NodeId>>& readers) const {
  const Node& n = graph_[step.node];
  if (n.op->name != "BatchNormalization" || !n.op->domain.empty()) return;
  const NodeId reader = only_reader(step.node, readers);
  if (!reader) return;
  const Node& act = graph_[reader];
  if (!act.op->domain.empty() || act.inputs[0] != n.outputs[0]) return;
  NormLimits limits;
  if (act.op->name == "Relu") {
    limits.low = 0;
  } else if (act.op->name == "Clip") {
    for (size_t i = 1; i < act.inputs.size(); ++i) {
      if (!act.inputs[i]) continue;
      const at::Tensor& number = constants_[act.inputs[i].index];
      if (!number.defined() || number.numel() != 1 || number.requires_grad()) return;
      (i == 1 ? limits.low : limits.high) = number.item<float>();
    }
    if (!(limits.low < limits.high)) return;
  } else {
    return;
  }
  step.behind = {reader};
  step.limits = limits;
}

void TorchNetwork::take_star_relu(Step& step, const std::vector<std::vector<NodeId>>& readers) const {
  const auto is = [&](NodeId id, std::string_view op) { return id && graph_[id].op->domain.empty() && graph_[id].op->name == op; };
  if (!is(step.node, "Relu")) return;
  // The other input of a node that reads `x`, where it is one number.
  const auto number = [&](NodeId id, ValueId x) {
    const Node& n = graph_[id];
    if (n.inputs[0] != x && n.inputs[1] != x) return ValueId{};
    const ValueId other = n.inputs[0] == x ? n.inputs[1] : n.inputs[0];
    const at::Tensor& t = constants_[other.index];
    return t.defined() && t.numel() == 1 && t.dim() <= 1 ? other : ValueId{};
  };
  const ValueId r = graph_[step.node].outputs[0];
  const NodeId square = only_reader(step.node, readers);
  if (!is(square, "Mul") || graph_[square].inputs[0] != r || graph_[square].inputs[1] != r) return;
  const NodeId scaled = only_reader(square, readers);
  if (!is(scaled, "Mul")) return;
  const NodeId shifted = only_reader(scaled, readers);
  if (!is(shifted, "Add")) return;
  const ValueId scale = number(scaled, graph_[square].outputs[0]), bias = number(shifted, graph_[scaled].outputs[0]);
  if (!scale || !bias) return;
  step.behind = {square, scaled, shifted};
  step.scale = scale, step.bias = bias;
}

void TorchNetwork::take_silu(Step& step, const std::vector<std::vector<NodeId>>& readers) const {
  const Node& n = graph_[step.node];
  if (n.op->name != "Sigmoid" || !n.op->domain.empty()) return;
  const NodeId reader = only_reader(step.node, readers);
  if (!reader || graph_[reader].op->name != "Mul" || !graph_[reader].op->domain.empty()) return;
  const std::vector<ValueId>& factors = graph_[reader].inputs;
  if ((factors[0] != n.inputs[0] || factors[1] != n.outputs[0]) && (factors[1] != n.inputs[0] || factors[0] != n.outputs[0])) return;
  step.behind = {reader};
  step.silu = true;
}

void TorchNetwork::find_cuts() {
  std::vector<std::pair<size_t, int32_t>> all;
  std::set<int32_t> alive;
  for (ValueId v : graph_.inputs) alive.insert(v.index);
  std::set<int32_t> outputs;
  for (ValueId v : graph_.outputs) outputs.insert(v.index);
  for (size_t s = 0; s < steps_.size(); ++s) {
    if (s > 0 && alive.size() == 1 && !outputs.contains(*alive.begin())) all.push_back({s, *alive.begin()});
    for (ValueId v : made_by(steps_[s]))
      if (v) alive.insert(v.index);
    for (int32_t v : steps_[s].last) alive.erase(v);
  }
  const auto parts = static_cast<size_t>(std::sqrt(static_cast<double>(all.size())) + 0.5);
  for (size_t i = 0; parts > 0 && i < parts; ++i) cuts_.push_back(all[all.size() * i / parts]);
}

// A run of steps whose values are thrown away and made again when their gradients are wanted.
class Recomputed : public torch::autograd::Function<Recomputed> {
 public:
  struct Part : torch::CustomClassHolder {
    TorchNetwork* network;
    size_t begin, end;
    int32_t from, to;
    uint64_t seed;
    PassState state;
  };
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const c10::intrusive_ptr<Part>& part) {
    context->save_for_backward({x});
    context->saved_data["part"] = c10::IValue::make_capsule(part);
    const torch::NoGradGuard guard;
    return once(*part, x, false);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const auto part = c10::static_intrusive_pointer_cast<Part>(context->saved_data["part"].toCapsule());
    const at::Tensor x = context->get_saved_variables()[0].detach().set_requires_grad(true);
    const at::AutoGradMode on(true);
    const at::Tensor y = once(*part, x, true);
    // Gradients of parameters are added where they stand.
    torch::autograd::backward({y}, {gradients[0]});
    return {x.grad(), at::Tensor()};
  }

 private:
  static at::Tensor once(const Part& p, const at::Tensor& x, bool again) {
    std::vector<at::Tensor> values = p.network->constants_;
    values[p.from] = x;
    PassState state = p.state;
    state.again = again;
    state.generator = at::detail::createCPUGenerator(p.seed);
    p.network->run(p.begin, p.end, values, state);
    return values[p.to];
  }
};

std::vector<TorchNetwork::Parameter> TorchNetwork::state() const {
  std::vector<Parameter> all = parameters_;
  all.insert(all.end(), statistics_.begin(), statistics_.end());
  return all;
}

Tensors TorchNetwork::trained() const {
  Tensors list;
  for (const Parameter& p : parameters_)
    if (p.trained) list.push_back(p.tensor);
  return list;
}

namespace {

// Convolution and norm in one, with the statistics as they are: section 3.3 of the paper.
at::Tensor tuned(const Graph& g, const ConvBn& pair, const std::vector<at::Tensor>& values, Lowering convolution, NormLimits limits, const PassState& state) {
  const Node &conv = g[pair.convolution], &norm = g[pair.batch_norm];
  const auto value = [&](ValueId v) { return v ? values[v.index] : at::Tensor(); };
  const auto inputs_of = [&](const Node& n) {
    Tensors list;
    for (ValueId v : n.inputs) list.push_back(value(v));
    return list;
  };
  if (conv.op->name == "Conv") {
    const Tensors of_conv = inputs_of(conv), of_norm = inputs_of(norm);
    const at::Tensor y = tuned_convolution({conv, of_conv, state}, {norm, of_norm, state}, limits);
    if (y.defined()) return y;
  }
  const at::Tensor gamma = value(norm.inputs[1]), beta = value(norm.inputs[2]), mean = value(norm.inputs[3]), variance = value(norm.inputs[4]);
  const at::Tensor c = gamma * at::rsqrt(variance + static_cast<double>(norm.get_float("epsilon")));
  const at::Tensor w = value(conv.inputs[1]);
  const bool has_bias = conv.inputs.size() > 2 && conv.inputs[2];
  at::Tensor scaled;
  if (conv.op->name == "ConvTranspose") {
    // [C_in, C_out / groups, ...]: the output channels of a group's inputs.
    const int64_t groups = conv.get_int("group");
    std::vector<int64_t> apart = w.sizes().vec(), shape(apart.size() + 1, 1);
    apart.insert(apart.begin(), groups);
    apart[1] /= groups;
    shape[0] = groups;
    shape[2] = w.size(1);
    scaled = (w.reshape(apart) * c.reshape(shape)).reshape(w.sizes());
  } else if (conv.op->name == "Gemm") {
    scaled = conv.get_int("transB") ? w * c.unsqueeze(1) : w * c;
  } else {
    std::vector<int64_t> shape(static_cast<size_t>(w.dim()), 1);
    shape[0] = -1;
    scaled = w * c.reshape(shape);
  }
  const at::Tensor bias = has_bias ? value(conv.inputs[2]) : at::Tensor();
  Tensors inputs{value(conv.inputs[0]), scaled, c * (has_bias ? bias - mean : -mean) + beta};
  return limited(convolution({conv, inputs, state})[0], limits);
}

}  // namespace

void TorchNetwork::run_step(const Step& step, std::vector<at::Tensor>& values, const PassState& state) {
  const Node& n = graph_[step.node];
  try {
    Tensors outputs;
    if (step.conv_bn >= 0) {
      const ConvBn& pair = pairs_[static_cast<size_t>(step.conv_bn)];
      outputs = {tuned(graph_, pair, values, find_lowering(*graph_[pair.convolution].op), step.limits, state)};
    } else {
      Tensors inputs;
      for (ValueId v : n.inputs) inputs.push_back(v ? values[v.index] : at::Tensor());
      if (step.scale) outputs = {star_relu(inputs[0], values[step.scale.index], values[step.bias.index])};
      else if (step.silu) outputs = {smooth(inputs[0], Smooth::kSilu)};
      else if (!step.behind.empty()) outputs = {limited_norm({n, inputs, state}, step.limits)};
      else outputs = step.lowering({n, inputs, state});
    }
    const std::vector<ValueId>& made = made_by(step);
    for (size_t i = 0; i < made.size(); ++i)
      if (made[i] && i < outputs.size()) values[made[i].index] = outputs[i];
  } catch (const c10::Error& e) {
    fail(ErrorKind::kModel, "{}: {}: {}", n.name, n.op->name, e.what_without_backtrace());
  }
}

void TorchNetwork::run(size_t begin, size_t end, std::vector<at::Tensor>& values, const PassState& state) {
  for (size_t s = begin; s < end; ++s) {
    run_step(steps_[s], values, state);
    for (int32_t v : steps_[s].last) values[v] = at::Tensor();
  }
}

Tensors TorchNetwork::forward(const Tensors& inputs, const PassState& state) {
  if (inputs.size() != graph_.inputs.size()) fail(ErrorKind::kUsage, "{} inputs for {}", inputs.size(), graph_.inputs.size());
  std::vector<at::Tensor> values = constants_;
  for (size_t i = 0; i < inputs.size(); ++i) {
    // Pictures with channels last: libtorch's norms and pooling are up to 16 times as fast on them on a CPU.
    values[graph_.inputs[i].index] = options_.device.is_cpu() ? inputs[i].contiguous(channels_last(inputs[i].dim())) : inputs[i];
  }
  PassState pass = state;
  if (options_.conv_bn != ConvBnMode::kTrain) pass.batch_statistics = false;
  size_t done = 0;
  if (options_.recompute && pass.training && at::GradMode::is_enabled() && cuts_.size() > 1) {
    // The first part's input asks for no gradient, the last part's end is the loss's: both are kept.
    run(0, cuts_[0].first, values, pass);
    for (size_t i = 0; i + 1 < cuts_.size(); ++i) {
      auto part = c10::make_intrusive<Recomputed::Part>();
      part->network = this;
      part->begin = cuts_[i].first, part->end = cuts_[i + 1].first;
      part->from = cuts_[i].second, part->to = cuts_[i + 1].second;
      part->seed = pass.generator.defined() ? pass.generator.get<at::CPUGeneratorImpl>()->random64() : 0;
      part->state = pass;
      values[cuts_[i + 1].second] = Recomputed::apply(values[cuts_[i].second], part);
      values[cuts_[i].second] = at::Tensor();
    }
    done = cuts_.back().first;
  }
  run(done, steps_.size(), values, pass);
  Tensors outputs;
  for (ValueId v : graph_.outputs) outputs.push_back(values[v.index]);
  return outputs;
}

void TorchNetwork::write_back(Graph& to) const {
  require(to.value_count() >= graph_.value_count(), "another graph");
  for (const Parameter& p : state()) {
    require(to[p.value].is_constant() && to[p.value].name == p.name, "{} is another value of the graph", p.name);
    to[p.value].constant = from_torch(p.tensor.to(at::kFloat));
  }
}

}  // namespace lathe
