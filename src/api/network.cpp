// The public C++ API over the runtime: translates views into Tensors and back, nothing else.
#include "lathe/network.h"

#include <limits>

#include "core/device.h"
#include "runtime/inspect.h"
#include "runtime/load.h"
#include "runtime/model.h"

namespace lathe {

struct Network::State {
  Model model;
  NetworkSummary summary;
  std::vector<TensorInfo> inputs, outputs;
  std::string packed;  // path of a .lathe file, whose plan compile() takes; else ""

  explicit State(Model imported, std::string path = "")
      : model(std::move(imported)), summary(inspect(model).summary), packed(std::move(path)) {
    for (ValueId v : model.graph.inputs) inputs.push_back(describe(model.graph[v]));
    for (ValueId v : model.graph.outputs) outputs.push_back(describe(model.graph[v]));
  }
};

struct Runner::State {
  CompiledModel model;
  std::vector<TensorInfo> input_infos, output_infos;
  std::vector<Tensor> inputs;
  const std::vector<Tensor>* results = nullptr;  // of the last run

  explicit State(CompiledModel compiled) : model(std::move(compiled)), inputs(model.inputs().size()) {
    for (const Value& v : model.inputs()) input_infos.push_back(describe(v));
    for (const Value& v : model.outputs()) output_infos.push_back(describe(v));
  }
};

namespace {

Tensor borrow(const TensorView& view, std::string_view name) {
  if (view.dtype == DType::kUndefined || size_of(view.dtype) == 0)
    fail(ErrorKind::kUsage, "tensor '{}' has type {}, which lathe does not hold", name, name_of(view.dtype));
  for (int64_t size : view.shape)
    if (size < 0) fail(ErrorKind::kUsage, "tensor '{}' has the shape {}: sizes must be known", name, to_string(view.shape));
  Tensor tensor(view.dtype, view.shape, view.data);
  if (!view.data && tensor.bytes() > 0) fail(ErrorKind::kUsage, "tensor '{}' has no data", name);
  if (reinterpret_cast<uintptr_t>(view.data) % size_of(view.dtype) != 0)
    fail(ErrorKind::kUsage, "the elements of tensor '{}' are not aligned to their {} bytes", name, size_of(view.dtype));
  return tensor;
}

TensorView view_of(const Tensor& tensor) {
  return {tensor.dtype(), tensor.shape(), const_cast<void*>(tensor.raw())};
}

}  // namespace

Network::Network(std::shared_ptr<const State> state) : state_(std::move(state)) {}

Network Network::open(const std::string& path) {
  return Network(std::make_shared<State>(load_model(path, {.allow_unknown = true}), is_packed(path) ? path : ""));
}

Network Network::from_onnx(const void* bytes, size_t size) {
  if (!bytes && size) fail(ErrorKind::kUsage, "from_onnx: {} bytes at a null pointer", size);
  if (size > static_cast<size_t>(std::numeric_limits<int>::max()))
    fail(ErrorKind::kInput, "an ONNX model of {} bytes: protobuf's limit is 2 GiB; keep weights in external data", size);
  std::string_view text(static_cast<const char*>(bytes), size);
  return Network(std::make_shared<State>(import_onnx_bytes(text, {}, {.allow_unknown = true})));
}

const std::vector<TensorInfo>& Network::inputs() const { return state_->inputs; }
const std::vector<TensorInfo>& Network::outputs() const { return state_->outputs; }
const NetworkSummary& Network::summary() const { return state_->summary; }

Runner Network::compile(const CompileOptions& options) const {
  if (!state_->summary.runnable())
    fail(ErrorKind::kUnsupported, "the network cannot be run: {}{}", state_->summary.problems[0],
         state_->summary.problems.size() > 1 ? fmt::format(" (and {} more)", state_->summary.problems.size() - 1) : "");
  CompiledModel::Options o;
  o.plan.input_shapes = options.input_shapes;
  o.plan.bf16 = options.precision == Precision::kBF16;
  o.plan.tune = options.tune;
  o.threads = options.threads;
  o.batch = options.batch;
  o.cached_plans = options.cached_plans;
  if (!options.device_file.empty()) o.device = read_device(options.device_file);
  CompiledModel model = state_->packed.empty() ? CompiledModel(state_->model.graph, std::move(o))
                                               : CompiledModel::open(state_->packed, std::move(o));
  return Runner(std::make_unique<Runner::State>(std::move(model)));
}

Runner::Runner(std::unique_ptr<State> state) : state_(std::move(state)) {}
Runner::Runner(Runner&&) noexcept = default;
Runner& Runner::operator=(Runner&&) noexcept = default;
Runner::~Runner() = default;

const std::vector<TensorInfo>& Runner::inputs() const { return state_->input_infos; }
const std::vector<TensorInfo>& Runner::outputs() const { return state_->output_infos; }

void Runner::set_input(std::string_view name, const TensorView& tensor) {
  size_t index = state_->model.input_index(name);
  state_->inputs[index] = borrow(tensor, name);
}

void Runner::set_output(std::string_view name, const TensorView& tensor) {
  size_t index = state_->model.output_index(name);
  state_->model.bind_output(index, tensor.data ? borrow(tensor, name) : Tensor());
}

void Runner::run() {
  state_->results = nullptr;
  state_->results = &state_->model.run(state_->inputs);
}

TensorView Runner::output(std::string_view name) const {
  size_t index = state_->model.output_index(name);
  if (!state_->results) fail(ErrorKind::kUsage, "output '{}' is asked for before a run", name);
  return view_of((*state_->results)[index]);
}

Runner::Tensors Runner::run(const Tensors& inputs, const Tensors& outputs) {
  for (const auto& [name, view] : inputs) set_input(name, view);
  for (const TensorInfo& info : state_->output_infos) set_output(info.name, {});
  for (const auto& [name, view] : outputs) set_output(name, view);
  run();
  Tensors results;
  for (size_t i = 0; i < state_->results->size(); ++i)
    results[state_->output_infos[i].name] = view_of((*state_->results)[i]);
  return results;
}

void Runner::set_profiling(bool on) { state_->model.set_profiling(on); }

std::vector<StepProfile> Runner::profile() const {
  const Session& session = state_->model.session();
  std::vector<StepProfile> steps;
  for (size_t s = 0; s < session.plan().steps.size(); ++s) {
    const Step& step = session.plan().steps[s];
    const Node& n = session.plan().graph[step.node];
    const StepTime& t = session.step_times()[s];
    steps.push_back({n.name, n.op->name, step.kernel_name, t.runs ? 1e3 * t.seconds / static_cast<double>(t.runs) : 0,
                     count_macs(session.plan(), n)});
  }
  return steps;
}

MemoryUse Runner::memory() const {
  const Plan& plan = state_->model.session().plan();
  return {plan.arena_bytes, constant_bytes(plan)};
}

std::string Runner::plan_text() const { return print_plan(state_->model.session().plan()); }

}  // namespace lathe
