#include "graph/ops/einsum.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

std::optional<Shape> matmul_shape(InferContext& c, size_t first, size_t second) {
  if (!c.shape(first) || !c.shape(second)) return std::nullopt;
  Shape a = *c.shape(first), b = *c.shape(second);
  check_model(!a.empty() && !b.empty(), "a matrix product takes no scalars; found shapes {} and {}", to_string(a),
              to_string(b));
  bool vector_a = a.size() == 1, vector_b = b.size() == 1;
  if (vector_a) a.insert(a.begin(), 1);
  if (vector_b) b.push_back(1);
  int64_t inner_a = a.back(), inner_b = b[b.size() - 2];
  check_model(inner_a == kUnknownDim || inner_b == kUnknownDim || inner_a == inner_b,
              "shapes {} and {} cannot be multiplied: {} columns for {} rows", to_string(*c.shape(first)),
              to_string(*c.shape(second)), inner_a, inner_b);
  Shape out = broadcast(Shape(a.begin(), a.end() - 2), Shape(b.begin(), b.end() - 2));
  if (!vector_a) out.push_back(a[a.size() - 2]);
  if (!vector_b) out.push_back(b.back());
  return out;
}

int64_t matmul_macs(const Graph& g, const Node& n) {
  return element_count(*g[n.outputs[0]].shape) * g[n.inputs[0]].shape->back();
}

// The type that all operands share. Types may be unknown, as in the bodies of loops before their turn.
DType common_type(InferContext& c, size_t count) {
  DType type = DType::kUndefined;
  for (size_t i = 0; i < count; ++i) {
    check_model(c.has_input(i), "operand {} is missing", i);
    if (c.dtype(i) == DType::kUndefined) continue;
    check_model(type == DType::kUndefined || type == c.dtype(i), "operands have different types, {} and {}",
                name_of(type), name_of(c.dtype(i)));
    type = c.dtype(i);
  }
  return type;
}

void infer_matmul(InferContext& c) {
  c.set_output(0, common_type(c, 2), matmul_shape(c, 0, 1));
}

void infer_gemm(InferContext& c) {
  c.expect_rank(0, 2, 2);
  c.expect_rank(1, 2, 2);
  bool a_turned = c.node().get_int("transA") != 0, b_turned = c.node().get_int("transB") != 0;
  Shape out = {kUnknownDim, kUnknownDim};
  if (c.shape(0)) out[0] = (*c.shape(0))[a_turned];
  if (c.shape(1)) out[1] = (*c.shape(1))[!b_turned];
  if (c.shape(0) && c.shape(1)) {
    int64_t inner_a = (*c.shape(0))[!a_turned], inner_b = (*c.shape(1))[b_turned];
    check_model(inner_a == kUnknownDim || inner_b == kUnknownDim || inner_a == inner_b,
                "shapes {} and {} cannot be multiplied (transA {}, transB {})", to_string(*c.shape(0)),
                to_string(*c.shape(1)), int{a_turned}, int{b_turned});
  }
  if (c.has_input(2) && c.shape(2) && is_static(out) && is_static(*c.shape(2)))
    check_model(broadcast(*c.shape(2), out) == out, "C of shape {} does not broadcast to {}",
                to_string(*c.shape(2)), to_string(out));
  c.set_output(0, common_type(c, 2), out);
}

void infer_einsum(InferContext& c) {
  DType type = common_type(c, c.input_count());
  std::vector<Shape> shapes;
  std::vector<size_t> ranks;
  for (size_t i = 0; i < c.input_count(); ++i) {
    if (!c.shape(i)) return c.set_output(0, type);
    shapes.push_back(*c.shape(i));
    ranks.push_back(shapes.back().size());
  }
  EinsumPlan plan = parse_einsum(c.node().get_string("equation"), ranks);
  auto sizes = einsum_sizes(plan, shapes);
  Shape out;
  for (int label : plan.output) out.push_back(sizes.at(label));
  c.set_output(0, type, out);
}

void infer_det(InferContext& c) {
  std::optional<Shape> out = c.shape(0);
  if (out) {
    check_model(out->size() >= 2, "Det takes matrices, found shape {}", to_string(*out));
    int64_t rows = (*out)[out->size() - 2], columns = out->back();
    check_model(rows == kUnknownDim || columns == kUnknownDim || rows == columns,
                "Det takes square matrices, found shape {}", to_string(*out));
    out->resize(out->size() - 2);
  }
  c.set_output(0, c.dtype(0), out);
}

}  // namespace

void declare_matmul(OpRegistry& r) {
  r.add({.name = "MatMul", .minimum_inputs = 2, .maximum_inputs = 2, .infer = infer_matmul, .macs = matmul_macs});
  r.add({.name = "Gemm", .minimum_inputs = 2, .maximum_inputs = 3,
         .attributes = {{"alpha", 1.0f}, {"beta", 1.0f}, {"transA", int64_t{0}}, {"transB", int64_t{0}}},
         .infer = infer_gemm,
         .macs = [](const Graph& g, const Node& n) {
           return element_count(*g[n.outputs[0]].shape) * (*g[n.inputs[0]].shape)[n.get_int("transA") == 0];
         }});
  r.add({.name = "MatMulInteger", .minimum_inputs = 2, .maximum_inputs = 4,
         .infer = [](InferContext& c) { c.set_output(0, DType::kI32, matmul_shape(c, 0, 1)); },
         .macs = matmul_macs});
  r.add({.name = "QLinearMatMul", .minimum_inputs = 8, .maximum_inputs = 8,
         .infer = [](InferContext& c) { c.set_output(0, c.dtype(7), matmul_shape(c, 0, 3)); },
         .macs = matmul_macs});
  r.add({.name = "Einsum", .maximum_inputs = -1, .attributes = {{"equation", std::string(), true}},
         .infer = infer_einsum,
         .macs = [](const Graph& g, const Node& n) {
           std::vector<Shape> shapes;
           std::vector<size_t> ranks;
           for (ValueId v : n.inputs) {
             shapes.push_back(*g[v].shape);
             ranks.push_back(shapes.back().size());
           }
           if (shapes.size() < 2) return int64_t{0};
           Shape all;
           for (auto [label, size] : einsum_sizes(parse_einsum(n.get_string("equation"), ranks), shapes))
             all.push_back(size);
           return element_count(all) * (static_cast<int64_t>(shapes.size()) - 1);
         }});
  r.add({.name = "Det", .infer = infer_det});
}

}  // namespace lathe::ops
