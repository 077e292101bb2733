#include <algorithm>

#include "graph/ops/axes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

int64_t rank_of(const InferContext& c, size_t i) { return static_cast<int64_t>(c.shape(i)->size()); }

void expect_integers(const InferContext& c, size_t i) {
  DType type = c.dtype(i);
  check_model(type == DType::kUndefined || is_integer(type), "input {} holds indices, expected integers, found {}", i,
              name_of(type));
}

void infer_gather(InferContext& c) {
  expect_integers(c, 1);
  if (!c.shape(0) || !c.shape(1)) return c.set_output(0, c.dtype());
  const Shape &in = *c.shape(0), &indices = *c.shape(1);
  int64_t axis = normalize_axis(c.node().get_int("axis"), rank_of(c, 0));
  Shape out(in.begin(), in.begin() + axis);
  out.insert(out.end(), indices.begin(), indices.end());
  out.insert(out.end(), in.begin() + axis + 1, in.end());
  c.set_output(0, c.dtype(), out);
}

// Indices of GatherElements and ScatterElements: the data's rank, and no longer than it off the axis.
void check_element_indices(const InferContext& c) {
  expect_integers(c, 1);
  if (!c.shape(0) || !c.shape(1)) return;
  const Shape &in = *c.shape(0), &indices = *c.shape(1);
  check_model(in.size() == indices.size(), "data {} and indices {} differ in rank", to_string(in), to_string(indices));
  int64_t axis = normalize_axis(c.node().get_int("axis"), rank_of(c, 0));
  for (int64_t i = 0; i < rank_of(c, 0); ++i)
    check_model(i == axis || in[i] < 0 || indices[i] <= in[i], "indices {} exceed data {} at axis {}",
                to_string(indices), to_string(in), i);
}

void infer_gather_elements(InferContext& c) {
  check_element_indices(c);
  c.set_output(0, c.dtype(), c.shape(1));
}

void infer_gather_nd(InferContext& c) {
  expect_integers(c, 1);
  if (!c.shape(0) || !c.shape(1)) return c.set_output(0, c.dtype());
  const Shape &in = *c.shape(0), &indices = *c.shape(1);
  int64_t batch = c.node().get_int("batch_dims");
  check_model(!in.empty() && !indices.empty(), "GatherND needs data and indices of rank 1 or more");
  check_model(batch >= 0 && batch < std::min(rank_of(c, 0), rank_of(c, 1)),
              "GatherND: batch_dims {} does not fit data {} and indices {}", batch, to_string(in), to_string(indices));
  for (int64_t i = 0; i < batch; ++i)
    check_model(in[i] < 0 || indices[i] < 0 || in[i] == indices[i], "GatherND: batches of {} and {} differ",
                to_string(in), to_string(indices));
  int64_t depth = indices.back();
  if (depth < 0) return c.set_output(0, c.dtype());
  check_model(depth <= rank_of(c, 0) - batch, "GatherND: indices {} are too deep for data {}", to_string(indices),
              to_string(in));
  Shape out(indices.begin(), indices.end() - 1);
  out.insert(out.end(), in.begin() + batch + depth, in.end());
  c.set_output(0, c.dtype(), out);
}

void check_reduction(const InferContext& c) {
  const std::string& name = c.node().get_string("reduction");
  check_model(name == "none" || name == "add" || name == "mul" || name == "max" || name == "min",
              "unknown reduction '{}'", name);
}

void check_same_type(const InferContext& c, size_t a, size_t b) {
  check_model(types_agree(c.dtype(a), c.dtype(b)), "inputs {} and {} have different types, {} and {}", a, b, name_of(c.dtype(a)),
              name_of(c.dtype(b)));
}

void infer_scatter_elements(InferContext& c) {
  if (c.node().op->find("reduction")) check_reduction(c);
  check_element_indices(c);
  check_same_type(c, 0, 2);
  if (c.shape(1) && c.shape(2)) {
    const Shape &indices = *c.shape(1), &updates = *c.shape(2);
    bool agree = indices.size() == updates.size();
    for (size_t i = 0; agree && i < indices.size(); ++i)
      agree = indices[i] < 0 || updates[i] < 0 || indices[i] == updates[i];
    check_model(agree, "indices {} and updates {} differ in shape", to_string(indices), to_string(updates));
  }
  infer::same_as_first(c);
}

void infer_scatter_nd(InferContext& c) {
  check_reduction(c);
  expect_integers(c, 1);
  check_same_type(c, 0, 2);
  if (c.shape(0) && c.shape(1) && c.shape(2)) {
    const Shape &in = *c.shape(0), &indices = *c.shape(1), &updates = *c.shape(2);
    check_model(!in.empty() && !indices.empty(), "ScatterND needs data and indices of rank 1 or more");
    int64_t depth = indices.back();
    if (depth >= 0) {
      check_model(depth <= rank_of(c, 0), "ScatterND: indices {} are too deep for data {}", to_string(indices),
                  to_string(in));
      Shape expected(indices.begin(), indices.end() - 1);
      expected.insert(expected.end(), in.begin() + depth, in.end());
      bool agree = expected.size() == updates.size();
      for (size_t i = 0; agree && i < expected.size(); ++i)
        agree = expected[i] < 0 || updates[i] < 0 || expected[i] == updates[i];
      check_model(agree, "ScatterND: updates have shape {}, expected {}", to_string(updates), to_string(expected));
    }
  }
  infer::same_as_first(c);
}

void infer_non_zero(InferContext& c) {
  c.set_output(0, DType::kI64, Shape{c.shape(0) ? rank_of(c, 0) : kUnknownDim, kUnknownDim});
}

void infer_one_hot(InferContext& c) {
  DType type = c.dtype(2);
  int64_t depth = kUnknownDim;
  if (const Tensor* t = c.constant(1)) {
    check_model(t->size() == 1, "OneHot: depth must be one number");
    depth = t->get_int(0);
    check_model(depth >= 0, "OneHot: depth {} is negative", depth);
  }
  if (!c.shape(0)) return c.set_output(0, type);
  Shape out = *c.shape(0);
  out.insert(out.begin() + normalize_axis(c.node().get_int("axis"), rank_of(c, 0) + 1), depth);
  c.set_output(0, type, out);
}

void infer_unique(InferContext& c) {
  if (!c.node().has("axis")) {
    c.set_output(0, c.dtype(), unknown_shape(1));
  } else if (c.shape(0)) {
    Shape out = *c.shape(0);
    out[normalize_axis(c.node().get_int("axis"), rank_of(c, 0))] = kUnknownDim;
    c.set_output(0, c.dtype(), out);
  } else {
    c.set_output(0, c.dtype());
  }
  for (size_t i = 1; i < 4; ++i) c.set_output(i, DType::kI64, unknown_shape(1));
}

void infer_compress(InferContext& c) {
  c.expect_rank(1, 1, 1);
  if (!c.node().has("axis")) return c.set_output(0, c.dtype(), unknown_shape(1));
  if (!c.shape(0)) return c.set_output(0, c.dtype());
  Shape out = *c.shape(0);
  out[normalize_axis(c.node().get_int("axis"), rank_of(c, 0))] = kUnknownDim;
  c.set_output(0, c.dtype(), out);
}

void infer_trilu(InferContext& c) {
  c.expect_rank(0, 2, kMaxRank);
  infer::same_as_first(c);
}

void infer_tensor_scatter(InferContext& c) {
  const std::string& mode = c.node().get_string("mode");
  check_model(mode == "linear" || mode == "circular", "unknown TensorScatter mode '{}'", mode);
  check_same_type(c, 0, 1);
  if (c.shape(0) && c.shape(1)) {
    const Shape &cache = *c.shape(0), &update = *c.shape(1);
    int64_t axis = normalize_axis(c.node().get_int("axis"), rank_of(c, 0));
    check_model(axis > 0, "TensorScatter: the axis may not be that of the batch");
    check_model(cache.size() == update.size(), "TensorScatter: cache {} and update {} differ in rank",
                to_string(cache), to_string(update));
    for (int64_t i = 0; i < rank_of(c, 0); ++i) {
      bool fits = cache[i] < 0 || update[i] < 0 || (i == axis ? update[i] <= cache[i] : update[i] == cache[i]);
      check_model(fits, "TensorScatter: update {} does not fit cache {}", to_string(update), to_string(cache));
    }
    if (c.has_input(2) && c.shape(2))
      check_model(c.shape(2)->size() == 1 && ((*c.shape(2))[0] == cache[0] || (*c.shape(2))[0] < 0 || cache[0] < 0),
                  "TensorScatter: write_indices must hold one index a batch entry");
  }
  infer::same_as_first(c);
}

}  // namespace

void declare_index(OpRegistry& r) {
  const AttributeSpec axis{"axis", int64_t{0}}, reduction{"reduction", std::string("none")};
  r.add({.name = "Gather", .minimum_inputs = 2, .maximum_inputs = 2, .attributes = {axis}, .infer = infer_gather});
  r.add({.name = "GatherElements", .minimum_inputs = 2, .maximum_inputs = 2, .attributes = {axis},
         .infer = infer_gather_elements});
  r.add({.name = "GatherND", .minimum_inputs = 2, .maximum_inputs = 2,
         .attributes = {{"batch_dims", int64_t{0}}}, .infer = infer_gather_nd});
  r.add({.name = "Scatter", .minimum_inputs = 3, .maximum_inputs = 3, .attributes = {axis},
         .infer = infer_scatter_elements});
  r.add({.name = "ScatterElements", .minimum_inputs = 3, .maximum_inputs = 3, .attributes = {axis, reduction},
         .infer = infer_scatter_elements});
  r.add({.name = "ScatterND", .minimum_inputs = 3, .maximum_inputs = 3, .attributes = {reduction},
         .infer = infer_scatter_nd});
  r.add({.name = "NonZero", .infer = infer_non_zero});
  r.add({.name = "OneHot", .minimum_inputs = 3, .maximum_inputs = 3, .attributes = {{"axis", int64_t{-1}}},
         .infer = infer_one_hot});
  r.add({.name = "Unique", .maximum_outputs = 4, .attributes = {axis, {"sorted", int64_t{1}}},
         .infer = infer_unique});
  r.add({.name = "Compress", .minimum_inputs = 2, .maximum_inputs = 2, .attributes = {axis},
         .infer = infer_compress});
  r.add({.name = "Trilu", .maximum_inputs = 2, .attributes = {{"upper", int64_t{1}}}, .infer = infer_trilu});
  r.add({.name = "TensorScatter", .minimum_inputs = 2, .maximum_inputs = 3,
         .attributes = {{"axis", int64_t{-2}}, {"mode", std::string("linear")}}, .infer = infer_tensor_scatter});
}

}  // namespace lathe::ops
