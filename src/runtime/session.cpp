#include "runtime/session.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "kernels/reference/reference.h"

namespace lathe {

Session::Session(Plan plan, void* memory) : plan_(std::move(plan)) {
  const Graph& g = plan_.graph;
  // In whole large pages (core/tensor.cpp) once it is half of one: a picture that is walked one vector of channels after
  // the other touches many small pages (mobilenet_v2's first depthwise layer: 0.23 → 0.17 ms).
  constexpr int64_t kLargePage = 2 << 20;
  int64_t arena = plan_.arena_bytes + 64;
  if (arena > kLargePage / 2) arena = (arena + kLargePage - 1) / kLargePage * kLargePage - 64;
  if (memory) arena_ = Tensor(DType::kU8, {plan_.arena_bytes}, memory);
  else arena_ = Tensor(DType::kU8, {std::max(arena, plan_.arena_bytes + 64)});
  values_.resize(g.value_count());
  for (size_t i = 0; i < values_.size(); ++i) {
    const Value& v = g[ValueId{static_cast<int32_t>(i)}];
    const Placement& root = plan_.placements[plan_.placements[i].root.index];
    if (v.is_constant()) {
      values_[i] = v.constant;
    } else if (root.offset >= 0) {
      values_[i] = Tensor(v.dtype, *v.shape, arena_.data<char>() + root.offset);
    } else if (size_of(v.dtype) && v.shape && is_static(*v.shape)) {
      values_[i] = Tensor(v.dtype, *v.shape, nullptr);  // an input, or a view of one: its elements come with a run
    }
  }
  branches_.resize(plan_.steps.size());
  for (size_t s = 0; s < plan_.steps.size(); ++s)
    for (PlannedBranch& b : plan_.steps[s].branches) {
      Branch& branch = branches_[s].emplace_back();
      if (!b.plan) continue;
      branch.session.reset(new Session(std::move(*b.plan), arena_.data<char>() + plan_.scratch_offset));
      branch.inputs.resize(b.captures.size());
    }
  if (plan_.patches) {
    plan_.patches->bind(values_);
    for (size_t m = 0; m < plan_.patches->maps().size(); ++m)
      if (plan_.patches->buffer_bytes(m) > 0) {
        const size_t v = static_cast<size_t>(plan_.patches->maps()[m].index);
        plan_.patches->point(m, values_[v].data<char>());
        values_[v] = {};  // a part of it is there
      }
  }
  for (const Step& step : plan_.steps) {
    const Node& n = g[step.node];
    Bound b;
    for (ValueId v : n.inputs) b.inputs.push_back(v ? &values_[v.index] : nullptr);
    for (ValueId v : n.outputs) b.outputs.push_back(v ? &values_[v.index] : nullptr);
    bound_.push_back(std::move(b));
  }
  outputs_.resize(g.outputs.size());
  memories_.resize(g.outputs.size());
  batches_.resize(g.outputs.size());
  for (size_t i = 0; plan_.slices > 1 && i < batches_.size(); ++i) {
    batches_[i] = Tensor(g[g.outputs[i]].dtype, whole_shape(plan_, g.outputs[i]).value());
    outputs_[i] = batches_[i];
  }
  times_.resize(plan_.steps.size());
}

bool Session::in_arena(ValueId value) const {
  return plan_.placements[plan_.placements[value.index].root.index].offset >= 0;
}

// All values that share the buffer of `root` lie at its beginning and are as large (planner/plan.cpp).
void Session::place(ValueId root, char* memory) {
  const Graph& g = plan_.graph;
  for (size_t i = 0; i < values_.size(); ++i) {
    const Value& v = g[ValueId{static_cast<int32_t>(i)}];
    if (plan_.placements[i].root == root && !v.is_constant()) values_[i].point_at(memory);
  }
}

namespace {

bool overlap(const Tensor& a, const Tensor& b) {
  auto begin = [](const Tensor& t) { return reinterpret_cast<uintptr_t>(t.raw()); };
  return begin(a) < begin(b) + b.bytes() && begin(b) < begin(a) + a.bytes();
}

}  // namespace

void Session::bind_output(size_t index, Tensor memory) {
  const Graph& g = plan_.graph;
  require(index < memories_.size(), "output {} of {} bound", index, memories_.size());
  if (memory.raw() == memories_[index].raw() && memory.dtype() == memories_[index].dtype() &&
      memory.shape() == memories_[index].shape())
    return;
  const Value& v = g[g.outputs[index]];
  if (memory.defined()) {
    std::optional<Shape> shape = whole_shape(plan_, g.outputs[index]);
    bool fits = (v.dtype == DType::kUndefined || v.dtype == memory.dtype()) && (!shape || !is_static(*shape) || *shape == memory.shape());
    if (!fits)
      fail(ErrorKind::kInput, "output '{}' is {} {}, the memory given for it {} {}", v.name, name_of(v.dtype),
           to_string(shape.value_or(Shape{})), name_of(memory.dtype()), to_string(memory.shape()));
  }
  memories_[index] = std::move(memory);
  if (plan_.slices > 1) {  // every slice finds its own part
    outputs_[index] = memories_[index].defined() ? memories_[index] : batches_[index];
    return;
  }
  if (!in_arena(g.outputs[index])) return;
  // Outputs may share a buffer; it goes to the first that has memory, the others are copied.
  ValueId root = plan_.placements[g.outputs[index].index].root;
  for (size_t i = 0; i < memories_.size(); ++i)
    if (memories_[i].defined() && in_arena(g.outputs[i]) && plan_.placements[g.outputs[i].index].root == root)
      return place(root, memories_[i].data<char>());
  place(root, arena_.data<char>() + plan_.placements[root.index].offset);
}

// What a step writes must not be what another step still reads.
void Session::check_overlaps(const std::vector<Tensor>& inputs) const {
  const Graph& g = plan_.graph;
  for (size_t i = 0; i < memories_.size(); ++i) {
    if (!memories_[i].defined()) continue;
    for (size_t k = 0; k < inputs.size(); ++k)
      if (overlap(memories_[i], inputs[k]))
        fail(ErrorKind::kUsage, "the memory given for output '{}' overlaps input '{}'", g[g.outputs[i]].name, g[g.inputs[k]].name);
    for (size_t k = 0; k < i; ++k)
      if (memories_[k].defined() && overlap(memories_[i], memories_[k]))
        fail(ErrorKind::kUsage, "the memory given for output '{}' overlaps that for '{}'", g[g.outputs[i]].name,
             g[g.outputs[k]].name);
  }
}

void Session::copy_to_bound() {
  for (size_t i = 0; i < outputs_.size(); ++i) {
    Tensor& memory = memories_[i];
    if (!memory.defined() || memory.raw() == outputs_[i].raw()) continue;
    if (memory.dtype() != outputs_[i].dtype() || memory.shape() != outputs_[i].shape())
      fail(ErrorKind::kInput, "output '{}' became {} {}, the memory given for it is {} {}",
           plan_.graph[plan_.graph.outputs[i]].name, name_of(outputs_[i].dtype()), to_string(outputs_[i].shape()),
           name_of(memory.dtype()), to_string(memory.shape()));
    if (memory.bytes()) std::memcpy(memory.raw(), outputs_[i].raw(), memory.bytes());
    outputs_[i] = memory;
  }
}

// The branch's results lie in memory that the next step overwrites: they are copied.
bool Session::run_branch(size_t index) {
  const Step& step = plan_.steps[index];
  const Bound& b = bound_[index];
  const Tensor& condition = *b.inputs[0];
  if (condition.size() != 1 || condition.dtype() != DType::kBool) return false;  // the reference kernel says so
  const size_t taken = condition.data<uint8_t>()[0] ? 0 : 1;
  Branch& branch = branches_[index][taken];
  if (!branch.session) return false;
  const std::vector<ValueId>& captures = step.branches[taken].captures;
  for (size_t i = 0; i < captures.size(); ++i) branch.inputs[i] = values_[captures[i].index];
  const std::vector<Tensor>& made = branch.session->run(branch.inputs);
  for (size_t i = 0; i < b.outputs.size(); ++i) {
    if (!b.outputs[i]) continue;
    Tensor& y = *b.outputs[i];
    if (step.dynamic && (!y.defined() || y.dtype() != made[i].dtype() || y.shape() != made[i].shape())) y = Tensor(made[i].dtype(), made[i].shape());
    require(made[i].dtype() == y.dtype() && made[i].shape() == y.shape(), "a branch of '{}' made {} {} where {} {} was planned",
            plan_.graph[step.node].name, name_of(made[i].dtype()), to_string(made[i].shape()), name_of(y.dtype()), to_string(y.shape()));
    if (y.bytes()) std::memcpy(y.raw(), made[i].raw(), y.bytes());
  }
  return true;
}

void Session::run_step(size_t index) {
  Step& step = plan_.steps[index];
  Bound& b = bound_[index];
  const Node& n = plan_.graph[step.node];
  if (step.kernel) {
    step.kernel->run(b.inputs.data(), b.outputs.data(), arena_.data<char>() + plan_.scratch_offset);
    return;
  }
  if (step.view) {
    // Buffers outside the arena (inputs, results of dynamic steps) are known only now.
    const Placement& root = plan_.placements[plan_.placements[n.outputs[0].index].root.index];
    if (root.offset < 0) b.outputs[0]->share(*b.inputs[0]);
    return;
  }
  if (!step.branches.empty() && run_branch(index)) return;
  std::vector<Tensor> in, captures;
  for (const Tensor* t : b.inputs) in.push_back(t ? *t : Tensor());
  for (ValueId v : n.captures) captures.push_back(values_[v.index]);
  std::vector<Tensor> out = reference::run_node(n, std::move(in), std::move(captures));
  for (size_t i = 0; i < out.size(); ++i) {
    if (!b.outputs[i]) continue;
    if (step.dynamic) {
      *b.outputs[i] = out[i];
      continue;
    }
    require(out[i].dtype() == b.outputs[i]->dtype() && out[i].shape() == b.outputs[i]->shape(),
            "node '{}' ({}) made {} {} where {} {} was planned", n.name, n.op->name, name_of(out[i].dtype()),
            to_string(out[i].shape()), name_of(b.outputs[i]->dtype()), to_string(b.outputs[i]->shape()));
    if (out[i].bytes()) std::memcpy(b.outputs[i]->raw(), out[i].raw(), out[i].bytes());
  }
}

// Points the arena's outputs of one slice to where the whole batch goes, so that steps write there at once.
void Session::place_outputs(int64_t slice) {
  const Graph& g = plan_.graph;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    if (!in_arena(g.outputs[i])) continue;
    const Tensor& value = values_[g.outputs[i].index];
    place(plan_.placements[g.outputs[i].index].root, outputs_[i].data<char>() + static_cast<size_t>(slice) * value.bytes());
  }
}

void Session::take_outputs(int64_t slice) {
  const Graph& g = plan_.graph;
  for (size_t i = 0; i < outputs_.size(); ++i) {
    const Tensor& value = values_[g.outputs[i].index];
    require(value.bytes() * static_cast<size_t>(plan_.slices) == outputs_[i].bytes(), "output '{}' of a slice became {}",
            g[g.outputs[i]].name, to_string(value.shape()));
    char* whole = outputs_[i].data<char>() + static_cast<size_t>(slice) * value.bytes();
    if (value.bytes() && value.raw() != whole) std::memcpy(whole, value.raw(), value.bytes());
  }
}

void Session::run_patches(bool first) {
  PatchSteps& patches = *plan_.patches;
  for (size_t m = 0; m < patches.maps().size(); ++m)
    if (patches.buffer_bytes(m) == 0) patches.point(m, values_[patches.maps()[m].index].data<char>());
  void* scratch = arena_.data<char>() + plan_.scratch_offset;
  if (!profiling_) return patches.run(scratch);
  patches.run(scratch, [&](size_t node, const std::function<void()>& execute) {
    auto begin = std::chrono::steady_clock::now();
    execute();
    times_[plan_.patches_begin + node].seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  });
  for (size_t i = 0; first && i < patches.stage().nodes.size(); ++i) ++times_[plan_.patches_begin + i].runs;
}

void Session::run_steps(bool first) {
  for (size_t s = 0; s < plan_.steps.size(); ++s) {
    if (plan_.patches && s == plan_.patches_begin) {
      run_patches(first);
      s += plan_.patches->stage().nodes.size() - 1;
      continue;
    }
    if (!profiling_) {
      run_step(s);
      continue;
    }
    auto begin = std::chrono::steady_clock::now();
    run_step(s);
    times_[s].seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    times_[s].runs += first;
  }
}

const std::vector<Tensor>& Session::run(const std::vector<Tensor>& inputs) {
  const Graph& g = plan_.graph;
  if (inputs.size() != g.inputs.size())
    fail(ErrorKind::kInput, "the model takes {} inputs, found {}", g.inputs.size(), inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Value& v = g[g.inputs[i]];
    bool fits = v.dtype == inputs[i].dtype() && inputs[i].shape().size() == v.shape->size();
    for (size_t d = 0; fits && d < v.shape->size(); ++d)
      fits = inputs[i].shape()[d] == (*v.shape)[d] * (d == 0 ? plan_.slices : 1);
    if (!fits)
      fail(ErrorKind::kInput, "input '{}' is {} {}, the plan was made for {} {}", v.name, name_of(inputs[i].dtype()),
           to_string(inputs[i].shape()), name_of(v.dtype), to_string(*whole_shape(plan_, g.inputs[i])));
  }
  check_overlaps(inputs);
  if (plan_.slices > 1) {
    for (int64_t slice = 0; slice < plan_.slices; ++slice) {
      for (size_t i = 0; i < inputs.size(); ++i) {
        Tensor& value = values_[g.inputs[i].index];
        // Steps only read their inputs.
        value.point_at(const_cast<char*>(inputs[i].data<char>()) + static_cast<size_t>(slice) * value.bytes());
      }
      place_outputs(slice);
      run_steps(slice == 0);
      take_outputs(slice);
    }
    return outputs_;
  }
  for (size_t i = 0; i < inputs.size(); ++i) values_[g.inputs[i].index] = inputs[i];
  run_steps(true);
  for (size_t i = 0; i < outputs_.size(); ++i) outputs_[i] = values_[g.outputs[i].index];
  copy_to_bound();
  return outputs_;
}

}  // namespace lathe
