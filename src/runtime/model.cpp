#include "runtime/model.h"

#include <algorithm>

#include "core/parallel.h"
#include "runtime/load.h"
#include "transform/passes.h"

namespace lathe {
namespace {

size_t index_of(const std::vector<Value>& values, std::string_view name, std::string_view what) {
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i].name == name) return i;
  std::string known;
  for (const Value& v : values) known += fmt::format("{}'{}'", known.empty() ? "" : ", ", v.name);
  fail(ErrorKind::kUsage, "the model has no {} '{}'; it has {}", what, name, known.empty() ? "none" : known);
}

void check(const CompiledModel::Options& options) {
  if (options.threads < 1) fail(ErrorKind::kUsage, "{} threads: at least 1 is needed", options.threads);
  if (options.cached_plans < 1) fail(ErrorKind::kUsage, "cached_plans is 0: at least 1 is needed");
  if (options.batch < 0) fail(ErrorKind::kUsage, "batch {}: at least 1 is needed", options.batch);
}

void check_names(const Graph& graph, const std::map<std::string, Shape>& shapes) {
  for (const auto& given : shapes)
    if (std::none_of(graph.inputs.begin(), graph.inputs.end(), [&](ValueId v) { return graph[v].name == given.first; }))
      fail(ErrorKind::kUsage, "shape {} is given for '{}', which is no input of the model", to_string(given.second), given.first);
}

}  // namespace

CompiledModel::CompiledModel(Graph graph, Options options) : options_(std::move(options)) {
  check(options_);
  if (options_.batch > 1) open_batch(graph);
  declare(graph);
  bool known = true;
  std::map<std::string, Shape> defaults;
  if (options_.default_shapes) defaults = default_input_shapes(graph, batch());
  std::vector<Shape> shapes;
  for (const Value& input : inputs_) {
    auto given = options_.plan.input_shapes.find(input.name);
    if (given != options_.plan.input_shapes.end()) {
      shapes.push_back(given->second);
    } else if (auto fallback = defaults.find(input.name); fallback != defaults.end()) {
      shapes.push_back(fallback->second);
    } else {
      shapes.push_back(input.shape.value_or(Shape{kUnknownDim}));
      if (options_.batch > 0 && input.shape && !input.shape->empty() && shapes.back()[0] < 0) shapes.back()[0] = options_.batch;
    }
    known = known && is_static(shapes.back());
  }
  if (known) plan(shapes, std::move(graph));
  else graph_ = std::move(graph);
}

CompiledModel::CompiledModel(LoadedPlan loaded, std::optional<PackedFile> packed, Options options)
    : options_(std::move(options)), packed_(std::move(packed)) {
  options_.plan = loaded.options;
  options_.batch = loaded.batch;
  declare(declaration_of(loaded.plan));
  std::vector<Shape> shapes;
  for (const Value& input : inputs_) shapes.push_back(input.shape.value());
  keep(shapes, std::move(loaded.plan));
}

CompiledModel CompiledModel::open(const std::string& path, Options options) {
  if (!is_packed(path)) {
    Model model = import_onnx(path);
    options.plan = plan_options_for(model, options.plan, options.adjust);
    return {std::move(model.graph), std::move(options)};
  }
  if (options.adjust) options.adjust(options.plan);
  check(options);
  ModelFile file(path, options.notice);
  const auto& given = options.plan.input_shapes;
  check_names(file.graph(), given);
  // Nothing asked: as it was packed.
  std::function<std::map<std::string, Shape>(const Graph&)> shapes;
  int64_t batch = std::max<int64_t>(options.batch, 1);
  if (!given.empty())
    shapes = [&](const Graph& g) {
      auto all = default_input_shapes(g, batch);
      for (const auto& [name, shape] : given) all[name] = shape;
      return all;
    };
  ThreadScope threads(options.threads);
  LoadedPlan loaded = file.plan(options.plan, batch, shapes);
  return {std::move(loaded), file.packed(), std::move(options)};
}

void CompiledModel::declare(const Graph& graph) {
  check_names(graph, options_.plan.input_shapes);
  for (ValueId v : graph.inputs) inputs_.push_back(graph[v]);
  for (ValueId v : graph.outputs) outputs_.push_back(graph[v]);
  for (auto* list : {&inputs_, &outputs_})
    for (Value& v : *list) v.constant = {};
  bound_.resize(outputs_.size());
}

size_t CompiledModel::input_index(std::string_view name) const { return index_of(inputs_, name, "input"); }
size_t CompiledModel::output_index(std::string_view name) const { return index_of(outputs_, name, "output"); }

void CompiledModel::bind_output(size_t index, Tensor memory) {
  require(index < bound_.size(), "output {} of {} bound", index, bound_.size());
  bound_[index] = std::move(memory);
}

Session& CompiledModel::plan(const std::vector<Shape>& shapes, Graph graph) {
  PlanOptions options = options_.plan;
  for (size_t i = 0; i < shapes.size(); ++i) options.input_shapes[inputs_[i].name] = shapes[i];
  return keep(shapes, make_plan(std::move(graph), options));
}

Session& CompiledModel::keep(const std::vector<Shape>& shapes, Plan plan) {
  if (options_.device) check_fits(plan, *options_.device);
  if (options_.notice)
    for (const std::string& notice : plan.notices) options_.notice(notice);
  while (sessions_.size() >= options_.cached_plans) sessions_.pop_back();
  sessions_.push_front({shapes, std::make_unique<Session>(std::move(plan))});
  return *sessions_.front().session;
}

Session& CompiledModel::session_for(const std::vector<Shape>& shapes) {
  auto found = std::find_if(sessions_.begin(), sessions_.end(), [&](const Entry& e) { return e.shapes == shapes; });
  if (found != sessions_.end()) {
    sessions_.splice(sessions_.begin(), sessions_, found);
    return *sessions_.front().session;
  }
  if (!graph_ && packed_ && !packed_->source().empty()) {
    if (options_.notice) options_.notice("the file was planned for other shapes: planning the model inside it anew");
    graph_ = import_onnx_bytes(packed_->source()).graph;
    open_batch(*graph_);
  }
  if (!graph_) return *sessions_.front().session;  // whose run() says what shapes it takes
  return plan(shapes, *graph_);
}

Session& CompiledModel::session() {
  if (sessions_.empty())
    fail(ErrorKind::kUsage, "nothing is planned yet: the model leaves input sizes open; give input shapes or run it first");
  return *sessions_.front().session;
}

void CompiledModel::set_profiling(bool on) {
  profiling_ = on;
  for (Entry& e : sessions_) e.session->set_profiling(on);
}

const std::vector<Tensor>& CompiledModel::run(const std::vector<Tensor>& inputs) {
  if (inputs.size() != inputs_.size())
    fail(ErrorKind::kInput, "the model takes {} inputs, found {}", inputs_.size(), inputs.size());
  std::vector<Shape> shapes;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!inputs[i].defined()) fail(ErrorKind::kUsage, "input '{}' is not given", inputs_[i].name);
    if (inputs_[i].dtype != DType::kUndefined && inputs[i].dtype() != inputs_[i].dtype)
      fail(ErrorKind::kInput, "input '{}' is {}, the model expects {}", inputs_[i].name, name_of(inputs[i].dtype()),
           name_of(inputs_[i].dtype));
    shapes.push_back(inputs[i].shape());
  }
  ThreadScope threads(options_.threads);
  Session& session = session_for(shapes);
  session.set_profiling(profiling_);
  for (size_t i = 0; i < bound_.size(); ++i) session.bind_output(i, bound_[i]);
  return session.run(inputs);
}

const std::vector<Tensor>& CompiledModel::run(const std::map<std::string, Tensor>& inputs) {
  std::vector<Tensor> ordered(inputs_.size());
  for (const auto& [name, tensor] : inputs) ordered[input_index(name)] = tensor;
  return run(ordered);
}

// Of the subgraphs of a node.
static int64_t subgraph_bytes(const Node& node) {
  int64_t bytes = 0;
  for (const auto& [name, value] : node.attributes) {
    const auto* graph = std::get_if<std::shared_ptr<Graph>>(&value);
    if (!graph || !*graph) continue;
    for (size_t i = 0; i < (*graph)->value_count(); ++i) bytes += static_cast<int64_t>((**graph)[ValueId{static_cast<int32_t>(i)}].constant.bytes());
    for (NodeId id : (*graph)->order()) bytes += subgraph_bytes((**graph)[id]);
  }
  return bytes;
}

int64_t constant_bytes(const Plan& plan) {
  std::vector<bool> seen(plan.graph.value_count(), false);
  int64_t bytes = 0;
  auto count = [&](ValueId v) {
    if (!v || seen[v.index] || !plan.graph[v].is_constant()) return;
    seen[v.index] = true;
    bytes += static_cast<int64_t>(plan.graph[v].constant.bytes());
  };
  for (const Step& step : plan.steps) {
    for (ValueId v : plan.graph[step.node].inputs) count(v);
    for (ValueId v : plan.graph[step.node].captures) count(v);
    bytes += subgraph_bytes(plan.graph[step.node]);
  }
  for (ValueId v : plan.graph.outputs) count(v);
  return bytes;
}

void check_fits(const Plan& plan, const Device& device) {
  int64_t weights = constant_bytes(plan), in_memory = plan.arena_bytes;
  if (const auto& flash = device.limits.flash_bytes; flash && weights > *flash)
    fail(ErrorKind::kBudget, "the weights take {} bytes, {} has {} bytes of flash", weights, device.name, *flash);
  if (!device.limits.flash_bytes) in_memory += weights;
  if (const auto& memory = device.limits.memory_bytes; memory && in_memory > *memory)
    fail(ErrorKind::kBudget, "activations{} take {} bytes, {} has {} bytes of memory",
         device.limits.flash_bytes ? "" : " and weights", in_memory, device.name, *memory);
}

}  // namespace lathe
