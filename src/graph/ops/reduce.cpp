#include "graph/ops/axes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

void infer_reduce(InferContext& c) {
  bool keep = c.node().get_int("keepdims") != 0;
  auto axes = constant_ints(c, 1);
  if (!c.shape(0)) return c.set_output(0, c.dtype());
  const Shape& in = *c.shape(0);
  auto rank = static_cast<int64_t>(in.size());
  if (!c.has_input(1)) axes.emplace();
  if (!axes) {
    int64_t length = list_length(c, 1);
    if (keep) return c.set_output(0, c.dtype(), unknown_shape(rank));
    check_model(length <= rank, "{} axes to reduce for a tensor of rank {}", length, rank);
    return c.set_output(0, c.dtype(), length <= 0 ? std::nullopt : std::optional(unknown_shape(rank - length)));
  }
  if (axes->empty() && c.node().get_int("noop_with_empty_axes") == 0) axes = all_axes(rank);
  std::vector<bool> reduced(rank, false);
  for (int64_t axis : normalize_axes(*axes, rank)) reduced[axis] = true;
  Shape out;
  for (int64_t i = 0; i < rank; ++i) {
    if (!reduced[i]) {
      out.push_back(in[i]);
    } else if (keep) {
      out.push_back(1);
    }
  }
  c.set_output(0, c.dtype(), out);
}

void infer_arg(InferContext& c) {
  if (!c.shape(0)) return c.set_output(0, DType::kI64);
  Shape out = *c.shape(0);
  int64_t axis = normalize_axis(c.node().get_int("axis"), static_cast<int64_t>(out.size()));
  check_model(out[axis] != 0, "{} along an empty axis", c.node().op->name);
  out[axis] = 1;
  if (c.node().get_int("keepdims") == 0) out.erase(out.begin() + axis);
  c.set_output(0, DType::kI64, out);
}

void infer_cumulative(InferContext& c) {
  if (c.shape(0) && c.constant(1)) {
    check_model(c.constant(1)->size() == 1, "the axis must be one integer");
    normalize_axis(c.constant(1)->get_int(0), static_cast<int64_t>(c.shape(0)->size()));
  }
  infer::same_as_first(c);
}

void infer_top_k(InferContext& c) {
  std::optional<Shape> out = c.shape(0);
  if (out) {
    int64_t& size = (*out)[normalize_axis(c.node().get_int("axis"), static_cast<int64_t>(out->size()))];
    int64_t k = kUnknownDim;
    if (const Tensor* t = c.constant(1)) {
      check_model(t->size() == 1 && t->get_int(0) >= 0, "TopK: k must be one non-negative integer");
      k = t->get_int(0);
      check_model(size < 0 || k <= size, "TopK: k is {} but the axis has size {}", k, size);
    }
    size = k;
  }
  c.set_output(0, c.dtype(), out);
  c.set_output(1, DType::kI64, out);
}

}  // namespace

void declare_reduce(OpRegistry& r) {
  for (const char* name : {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
                           "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"})
    r.add({.name = name, .maximum_inputs = 2,
           .attributes = {{"keepdims", int64_t{1}}, {"noop_with_empty_axes", int64_t{0}}}, .infer = infer_reduce});
  for (const char* name : {"ArgMax", "ArgMin"})
    r.add({.name = name,
           .attributes = {{"axis", int64_t{0}}, {"keepdims", int64_t{1}}, {"select_last_index", int64_t{0}}},
           .infer = infer_arg});
  for (const char* name : {"CumSum", "CumProd"})
    r.add({.name = name, .minimum_inputs = 2, .maximum_inputs = 2,
           .attributes = {{"exclusive", int64_t{0}}, {"reverse", int64_t{0}}}, .infer = infer_cumulative});
  r.add({.name = "TopK", .minimum_inputs = 2, .maximum_inputs = 2, .minimum_outputs = 1, .maximum_outputs = 2,
         .attributes = {{"axis", int64_t{-1}}, {"largest", int64_t{1}}, {"sorted", int64_t{1}}},
         .infer = infer_top_k});
}

}  // namespace lathe::ops
