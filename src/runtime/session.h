// A Session executes a Plan: inputs in, outputs out, no allocation once it is warm. Excepted are steps of dynamic
// shape, steps on reference kernels, and oneDNN, whose dnnl_primitive_execute takes eight small blocks for its own
// map of arguments each time (measured with 2.6; tests/runtime/allocation_test.cpp).
//
//   Session session(make_plan(import_onnx("net.onnx").graph));
//   std::vector<Tensor> y = session.run({x});
#pragma once

#include <vector>

#include "planner/plan.h"

namespace lathe {

struct StepTime {
  double seconds = 0;
  int64_t runs = 0;
};

class Session {
 public:
  explicit Session(Plan plan);
  // Inputs in the order of the graph; read where they lie. The outputs borrow the arena: they are valid
  // until the next run. Throws kInput when a type or shape is not the planned one.
  const std::vector<Tensor>& run(const std::vector<Tensor>& inputs);
  const Plan& plan() const { return plan_; }

  void set_profiling(bool on) { profiling_ = on; }
  const std::vector<StepTime>& step_times() const { return times_; }

 private:
  struct Bound {  // a step with its tensors looked up
    std::vector<const Tensor*> inputs;
    std::vector<Tensor*> outputs;
  };
  void run_step(size_t index);

  Plan plan_;
  Tensor arena_;
  std::vector<Tensor> values_;  // by value index
  std::vector<Bound> bound_;
  std::vector<Tensor> outputs_;
  std::vector<StepTime> times_;
  bool profiling_ = false;
};

}  // namespace lathe
