// The C API over the C++ one: no exception crosses the border.
#include "lathe/lathe.h"

#include <cstring>
#include <new>

#include "lathe/network.h"

using lathe::Error;
using lathe::ErrorKind;

struct lathe_network {
  lathe::Network network;
};

struct lathe_runner {
  lathe::Runner runner;
  std::map<std::string, std::vector<int64_t>> shapes;  // of the outputs handed out last
  std::vector<lathe::StepProfile> profile;
  std::vector<lathe_step> steps;
};

static_assert(LATHE_USAGE == static_cast<int>(ErrorKind::kUsage) + 1 &&
              LATHE_INTERNAL == static_cast<int>(ErrorKind::kInternal) + 1);
static_assert(LATHE_BF16 == static_cast<int>(lathe::DType::kBF16) && LATHE_I2 == static_cast<int>(lathe::DType::kI2));

namespace {

thread_local std::string last_error;

void remember(const char* text) noexcept {
  try {
    last_error = text;
  } catch (...) {
    last_error.clear();
  }
}

template <class Body>
lathe_status guarded(Body&& body) noexcept {
  try {
    body();
    return LATHE_OK;
  } catch (const Error& e) {
    remember(e.what());
    return static_cast<lathe_status>(static_cast<int>(e.kind()) + 1);
  } catch (const std::bad_alloc&) {
    remember("out of memory");
    return LATHE_MEMORY;
  } catch (const std::exception& e) {
    remember(e.what());
    return LATHE_INTERNAL;
  } catch (...) {
    remember("an unknown exception");
    return LATHE_INTERNAL;
  }
}

void need(const void* pointer, const char* what) {
  if (!pointer) throw Error(ErrorKind::kUsage, std::string(what) + " is NULL");
}

// As a number: C callers may leave any in it, which C++ must not read as an enumeration.
template <class Enumeration>
int number_of(const Enumeration& value) {
  int number = 0;
  static_assert(sizeof number == sizeof value);
  std::memcpy(&number, &value, sizeof number);
  return number;
}

std::vector<int64_t> shape_of(size_t rank, const int64_t* shape) {
  // 64 axes are more than any operator takes: a larger rank is a struct that was not filled in.
  if (rank > 64) throw Error(ErrorKind::kUsage, "a tensor of rank " + std::to_string(rank));
  if (rank) need(shape, "shape");
  return {shape, shape + rank};
}

lathe::TensorView view_of(const lathe_tensor& tensor) {
  const int dtype = number_of(tensor.dtype);
  if (dtype < LATHE_UNDEFINED || dtype > LATHE_I2) throw Error(ErrorKind::kUsage, "no element type has the number " + std::to_string(dtype));
  return {static_cast<lathe::DType>(dtype), shape_of(tensor.rank, tensor.shape), tensor.data};
}

void fill(const std::vector<lathe::TensorInfo>& list, size_t index, lathe_tensor_info* info) {
  need(info, "info");
  if (index >= list.size())
    throw Error(ErrorKind::kUsage, "number " + std::to_string(index) + " of " + std::to_string(list.size()));
  const lathe::TensorInfo& t = list[index];
  *info = {t.name.c_str(), static_cast<lathe_dtype>(t.dtype), t.ranked ? static_cast<int64_t>(t.shape.size()) : -1,
           t.shape.data()};
}

lathe::CompileOptions options_of(const lathe_options& o) {
  if (o.size != sizeof(lathe_options))
    throw Error(ErrorKind::kUsage, "lathe_options of size " + std::to_string(o.size) + ": call lathe_options_init() first");
  lathe::CompileOptions options;
  options.threads = o.threads;
  const int precision = number_of(o.precision);
  if (precision != LATHE_PRECISION_F32 && precision != LATHE_PRECISION_BF16)
    throw Error(ErrorKind::kUsage, "no precision has the number " + std::to_string(precision));
  options.precision = precision == LATHE_PRECISION_BF16 ? lathe::Precision::kBF16 : lathe::Precision::kF32;
  options.batch = o.batch;
  options.cached_plans = o.cached_plans;
  options.tune = o.tune != 0;
  if (o.device_file) options.device_file = o.device_file;
  if (o.input_shape_count) need(o.input_shapes, "input_shapes");
  for (size_t i = 0; i < o.input_shape_count; ++i) {
    need(o.input_shapes[i].name, "input_shapes: name");
    options.input_shapes[o.input_shapes[i].name] = shape_of(o.input_shapes[i].rank, o.input_shapes[i].shape);
  }
  return options;
}

}  // namespace

const char* lathe_version(void) { return LATHE_VERSION; }
const char* lathe_last_error(void) { return last_error.c_str(); }

size_t lathe_dtype_size(lathe_dtype type) {
  const int dtype = number_of(type);
  bool known = dtype >= LATHE_UNDEFINED && dtype <= LATHE_I2;
  return known ? lathe::size_of(static_cast<lathe::DType>(dtype)) : 0;
}

lathe_status lathe_network_open(const char* path, lathe_network** network) {
  return guarded([&] {
    need(path, "path");
    need(network, "network");
    *network = new lathe_network{lathe::Network::open(path)};
  });
}

lathe_status lathe_network_from_onnx(const void* bytes, size_t size, lathe_network** network) {
  return guarded([&] {
    need(network, "network");
    *network = new lathe_network{lathe::Network::from_onnx(bytes, size)};
  });
}

void lathe_network_free(lathe_network* network) { delete network; }
size_t lathe_network_input_count(const lathe_network* network) { return network ? network->network.inputs().size() : 0; }
size_t lathe_network_output_count(const lathe_network* network) { return network ? network->network.outputs().size() : 0; }

lathe_status lathe_network_input(const lathe_network* network, size_t index, lathe_tensor_info* info) {
  return guarded([&] {
    need(network, "network");
    fill(network->network.inputs(), index, info);
  });
}

lathe_status lathe_network_output(const lathe_network* network, size_t index, lathe_tensor_info* info) {
  return guarded([&] {
    need(network, "network");
    fill(network->network.outputs(), index, info);
  });
}

lathe_status lathe_network_summary(const lathe_network* network, lathe_summary* summary) {
  return guarded([&] {
    need(network, "network");
    need(summary, "summary");
    const lathe::NetworkSummary& s = network->network.summary();
    *summary = {s.nodes, s.parameters, s.macs, s.activation_bytes, s.problems.size()};
  });
}

const char* lathe_network_problem(const lathe_network* network, size_t index) {
  if (!network || index >= network->network.summary().problems.size()) return nullptr;
  return network->network.summary().problems[index].c_str();
}

void lathe_options_init(lathe_options* options) {
  if (!options) return;
  lathe::CompileOptions defaults;
  *options = {};
  options->size = sizeof(lathe_options);
  options->threads = defaults.threads;
  options->cached_plans = defaults.cached_plans;
}

lathe_status lathe_network_compile(const lathe_network* network, const lathe_options* options, lathe_runner** runner) {
  return guarded([&] {
    need(network, "network");
    need(runner, "runner");
    *runner = new lathe_runner{network->network.compile(options ? options_of(*options) : lathe::CompileOptions{}), {}, {}, {}};
  });
}

void lathe_runner_free(lathe_runner* runner) { delete runner; }

lathe_status lathe_runner_set_input(lathe_runner* runner, const char* name, const lathe_tensor* tensor) {
  return guarded([&] {
    need(runner, "runner");
    need(name, "name");
    need(tensor, "tensor");
    runner->runner.set_input(name, view_of(*tensor));
  });
}

lathe_status lathe_runner_set_output(lathe_runner* runner, const char* name, const lathe_tensor* tensor) {
  return guarded([&] {
    need(runner, "runner");
    need(name, "name");
    if (tensor) need(tensor->data, "data");
    runner->runner.set_output(name, tensor ? view_of(*tensor) : lathe::TensorView{});
  });
}

lathe_status lathe_runner_run(lathe_runner* runner) {
  return guarded([&] {
    need(runner, "runner");
    runner->runner.run();
  });
}

lathe_status lathe_runner_output(lathe_runner* runner, const char* name, lathe_tensor* tensor) {
  return guarded([&] {
    need(runner, "runner");
    need(name, "name");
    need(tensor, "tensor");
    lathe::TensorView view = runner->runner.output(name);
    std::vector<int64_t>& shape = runner->shapes[name];
    shape = std::move(view.shape);
    *tensor = {static_cast<lathe_dtype>(view.dtype), shape.size(), shape.data(), view.data};
  });
}

lathe_status lathe_runner_set_profiling(lathe_runner* runner, int on) {
  return guarded([&] {
    need(runner, "runner");
    runner->runner.set_profiling(on != 0);
  });
}

lathe_status lathe_runner_profile(lathe_runner* runner, const lathe_step** steps, size_t* count) {
  return guarded([&] {
    need(runner, "runner");
    need(steps, "steps");
    need(count, "count");
    runner->profile = runner->runner.profile();
    runner->steps.clear();
    for (const lathe::StepProfile& s : runner->profile)
      runner->steps.push_back({s.name.c_str(), s.op.c_str(), s.kernel.c_str(), s.milliseconds, s.macs});
    *steps = runner->steps.data();
    *count = runner->steps.size();
  });
}

lathe_status lathe_runner_memory(const lathe_runner* runner, int64_t* arena_bytes, int64_t* constant_bytes) {
  return guarded([&] {
    need(runner, "runner");
    lathe::MemoryUse use = runner->runner.memory();
    if (arena_bytes) *arena_bytes = use.arena_bytes;
    if (constant_bytes) *constant_bytes = use.constant_bytes;
  });
}
