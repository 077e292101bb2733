// Networks on a CPU, in three steps: open, compile, run.
//
//   lathe::Network network = lathe::Network::open("squeezenet.onnx");
//   lathe::Runner runner = network.compile({.threads = 2});
//   auto outputs = runner.run({{"image", lathe::TensorView::of(pixels.data(), {1, 3, 224, 224})}});
//   const float* scores = outputs.at("scores").as<float>();
//
// Everything throws lathe::Error. A Network may be shared by threads; a Runner belongs to one thread at a
// time (make one for each: they share the weights as far as kernels do not repack them).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lathe/error.h"
#include "lathe/summary.h"
#include "lathe/tensor.h"
#include "lathe/version.h"

namespace lathe {

enum class Precision {
  kF32,
  kBF16,  // products with constant weights in bf16: faster where the processor has it, 8 bits of mantissa
};

struct CompileOptions {
  int threads = 1;
  Precision precision = Precision::kF32;
  // Sizes for inputs whose shape the network leaves open. When all are known the network is planned at once;
  // otherwise at the first run with new shapes, and the last `cached_plans` plans are kept.
  std::map<std::string, std::vector<int64_t>> input_shapes = {};
  int64_t batch = 0;         // > 0: first size of every input, even where the network says 1
  size_t cached_plans = 4;   // at least 1
  bool tune = false;         // time every kernel that fits and keep the fastest (slow start, faster runs)
  // A device file (JSON): compiling fails with ErrorKind::kBudget where weights and activations do not
  // fit into the device's memories. "": this machine, no limits.
  std::string device_file = {};
};

struct StepProfile {
  std::string name;      // of the node
  std::string op;
  std::string kernel;    // "f32.conv.onednn", "reference", …
  double milliseconds = 0;  // mean of one run
  int64_t macs = 0;
};

struct MemoryUse {
  int64_t arena_bytes = 0;     // activations and scratch
  int64_t constant_bytes = 0;  // weights as the plan holds them
};

class LATHE_API Runner {
 public:
  Runner(Runner&&) noexcept;
  Runner& operator=(Runner&&) noexcept;
  ~Runner();

  const std::vector<TensorInfo>& inputs() const;
  const std::vector<TensorInfo>& outputs() const;

  // The input is read where it lies, at every run() from now on; it must stay alive and of this shape.
  void set_input(std::string_view name, const TensorView& tensor);
  // The output is written into the caller's memory, without a copy where the network computes it (a result
  // that is a constant, an input, or of a shape known only at run time is copied). Must not overlap any
  // input or other output. A view without data undoes it.
  void set_output(std::string_view name, const TensorView& tensor);
  void run();
  // After run(): the caller's memory, or lathe's own, valid until the next run().
  TensorView output(std::string_view name) const;

  // The same in one call: outputs that are not named lie in lathe's memory until the next run.
  using Tensors = std::map<std::string, TensorView>;
  Tensors run(const Tensors& inputs, const Tensors& outputs = {});

  // Times every step of every run from now on (about 50 ns a step), and forgets earlier times.
  void set_profiling(bool on);
  // Of the plan of the last run, in order. Times are 0 unless profiling was on.
  std::vector<StepProfile> profile() const;
  MemoryUse memory() const;
  // The steps, kernels and buffers of the last run's plan, for people.
  std::string plan_text() const;

  struct State;
  explicit Runner(std::unique_ptr<State> state);

 private:
  std::unique_ptr<State> state_;
};

class LATHE_API Network {
 public:
  // An ONNX file, or a .lathe file (`lathe pack`), which must stay where it is until compile(). Opens whatever
  // can be read, also with operators that cannot be run: see summary().
  static Network open(const std::string& path);
  // An ONNX file in memory, which may go away afterwards. Tensors in other files are refused.
  static Network from_onnx(const void* bytes, size_t size);

  const std::vector<TensorInfo>& inputs() const;
  const std::vector<TensorInfo>& outputs() const;
  const NetworkSummary& summary() const;
  Runner compile(const CompileOptions& options = {}) const;

  struct State;
  explicit Network(std::shared_ptr<const State> state);

 private:
  std::shared_ptr<const State> state_;
};

}  // namespace lathe
