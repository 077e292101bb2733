// A Session executes a Plan: inputs in, outputs out, no allocation once it is warm. Excepted are steps of dynamic
// shape, steps on reference kernels, and oneDNN, whose dnnl_primitive_execute takes eight small blocks for its own
// map of arguments each time (measured with 2.6; tests/runtime/allocation_test.cpp).
//
//   Session session(make_plan(import_onnx("net.onnx").graph));
//   std::vector<Tensor> y = session.run({x});
#pragma once

#include <memory>
#include <vector>

#include "planner/plan.h"

namespace lathe {

struct StepTime {
  double seconds = 0;
  int64_t runs = 0;
};

class Session {
 public:
  explicit Session(Plan plan) : Session(std::move(plan), nullptr) {}
  // Inputs in the order of the graph; read where they lie. The outputs borrow the arena: they are valid
  // until the next run. A plan in slices runs once for each. Throws kInput when a type or shape is not the planned one.
  const std::vector<Tensor>& run(const std::vector<Tensor>& inputs);
  // Output `index` is written to `memory`, which has its planned type and shape, at every run from now on:
  // without a copy where a step computes it into the arena, else by one. An undefined Tensor undoes it.
  // Throws kInput when it does not fit; run() throws kUsage when it overlaps an input or another output.
  void bind_output(size_t index, Tensor memory);
  const Plan& plan() const { return plan_; }

  // Forgets the times of before when it is switched on.
  void set_profiling(bool on) {
    if (on && !profiling_) times_.assign(times_.size(), {});
    profiling_ = on;
    for (auto& branches : branches_)
      for (Branch& b : branches)
        if (b.session) b.session->set_profiling(on);
  }
  const std::vector<StepTime>& step_times() const { return times_; }
  // What executes the branches of an If that have plans of their own; empty for other steps.
  std::vector<const Session*> branches_of_step(size_t step) const {
    std::vector<const Session*> sessions;
    for (const Branch& b : branches_[step])
      if (b.session) sessions.push_back(b.session.get());
    return sessions;
  }

 private:
  // In memory of the caller's: the arena of a branch lies in the scratch of its step.
  Session(Plan plan, void* arena);
  bool run_branch(size_t index);
  struct Bound {  // a step with its tensors looked up
    std::vector<const Tensor*> inputs;
    std::vector<Tensor*> outputs;
  };
  void run_step(size_t index);
  bool in_arena(ValueId value) const;
  void place(ValueId root, char* memory);
  void place_outputs(int64_t slice);
  void run_steps(bool first);
  void run_patches(bool first);
  void take_outputs(int64_t slice);
  void check_overlaps(const std::vector<Tensor>& inputs) const;
  void copy_to_bound();

  Plan plan_;
  Tensor arena_;
  struct Branch {
    std::unique_ptr<Session> session;  // null: the reference kernel
    std::vector<Tensor> inputs;
  };
  std::vector<std::vector<Branch>> branches_;  // by step
  std::vector<Tensor> values_;  // by value index
  std::vector<Bound> bound_;
  std::vector<Tensor> outputs_;
  std::vector<Tensor> memories_;  // by output: the caller's, or undefined
  std::vector<Tensor> batches_;   // by output, of a plan in slices: where the whole batch goes when there is no memory_
  std::vector<StepTime> times_;
  bool profiling_ = false;
};

}  // namespace lathe
