// Operators of ai.lathe on quantized tensors, which transform/integer.cpp makes. A quantized tensor holds codes, i8 or
// u8; code q stands for scale·(q − zero_point). The arithmetic is that of ONNX Runtime's quantized operators, so that
// results are the same but where that runs in float (docs/ACCURACY.md).
//
// saturate(r) = clamp(r, low, high) with the limits of the output's type, or, for a Relu or Clip before the rounding,
// narrower ones (`low`, `high`). round() is to nearest, ties to even. All of float arithmetic is in f32.
#include "graph/ops/axes.h"
#include "graph/ops/channels_last.h"
#include "graph/ops/codes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

using Ints = std::vector<int64_t>;

void check_channel_vector(InferContext& c, size_t i, DType type, int64_t channels, bool or_one = false) {
  if (!c.has_input(i)) return;
  check_model(c.dtype(i) == type || c.dtype(i) == DType::kUndefined, "input {} is {}, expected {}", i, name_of(c.dtype(i)), name_of(type));
  if (!c.shape(i)) return;
  check_model(*c.shape(i) == Shape{channels} || (or_one && *c.shape(i) == Shape{1}), "input {} has shape {} for {} channels", i,
              to_string(*c.shape(i)), channels);
}

// Inputs 1 to 5 of a product: weights, multipliers, bias, the weights' zero points, a table. Returns the type of its output.
DType check_product(InferContext& c, int64_t channels) {
  check_codes(c, 0);
  check_codes(c, 1);
  check_zero(c.node().get_int("x_zero_point"));
  check_channel_vector(c, 2, DType::kF32, channels);
  check_channel_vector(c, 3, DType::kI32, channels);
  check_channel_vector(c, 4, c.dtype(1), channels, true);
  const DType type = output_type(c, false);
  if (!c.has_input(5)) return type;
  check_model(type == DType::kU8 || type == DType::kI8, "a table reads codes, not {}", name_of(type));
  check_codes(c, 5);
  check_model(!c.shape(5) || *c.shape(5) == Shape{256}, "the table has shape {}, expected [256]", c.shape(5) ? to_string(*c.shape(5)) : "");
  return c.dtype(5);
}

void infer_conv(InferContext& c) {
  c.expect_rank(1, 4, 4);
  if (!c.shape(1)) return c.set_output(0, output_type(c, false));
  const Shape& w = *c.shape(1);
  auto y = conv_shape(c);
  c.set_output(0, check_product(c, w[0]), y);
}

void infer_matmul(InferContext& c) {
  c.expect_rank(1, 2, 2);
  if (!c.shape(0) || !c.shape(1)) return c.set_output(0, output_type(c, false));
  Shape y = *c.shape(0);
  check_model(!y.empty() && y.back() == (*c.shape(1))[0], "cannot multiply {} by {}", to_string(y), to_string(*c.shape(1)));
  y.back() = (*c.shape(1))[1];
  c.set_output(0, check_product(c, y.back()), y);
}

// Inputs 2 to 6 of a product whose input is quantized as it comes: multipliers, zero point and scale of X, the weights'
// zero points, bias.
void check_dynamic(InferContext& c, int64_t channels) {
  check_model(c.has_input(4), "input 4, the scale, is missing");  // the zero point before it may be
  check_codes(c, 0);
  check_codes(c, 1);
  for (size_t i : {3, 4})
    if (c.has_input(i) && c.shape(i) && is_static(*c.shape(i)))
      check_model(element_count(*c.shape(i)) == 1, "input {} has shape {}, expected one value", i, to_string(*c.shape(i)));
  check_model(c.dtype(4) == DType::kF32 || c.dtype(4) == DType::kUndefined, "the scale is {}, expected f32", name_of(c.dtype(4)));
  if (c.has_input(3) && c.dtype(3) != DType::kUndefined && c.dtype(0) != DType::kUndefined)
    check_model(c.dtype(3) == c.dtype(0), "the zero point is {} for codes of {}", name_of(c.dtype(3)), name_of(c.dtype(0)));
  check_channel_vector(c, 2, DType::kF32, channels);
  check_channel_vector(c, 5, c.dtype(1), channels, true);
  check_channel_vector(c, 6, DType::kF32, channels);
}

void infer_dynamic_matmul(InferContext& c) {
  c.expect_rank(1, 2, 2);
  if (!c.shape(0) || !c.shape(1)) return c.set_output(0, DType::kF32);
  Shape y = *c.shape(0);
  check_model(!y.empty() && y.back() == (*c.shape(1))[0], "cannot multiply {} by {}", to_string(y), to_string(*c.shape(1)));
  y.back() = (*c.shape(1))[1];
  check_dynamic(c, y.back());
  c.set_output(0, DType::kF32, y);
}

void infer_dynamic_conv(InferContext& c) {
  c.expect_rank(1, 4, 4);
  if (!c.shape(1)) return c.set_output(0, DType::kF32);
  auto y = conv_shape(c);
  check_dynamic(c, (*c.shape(1))[0]);
  c.set_output(0, DType::kF32, y);
}

void infer_binary(InferContext& c) {
  for (size_t i : {0, 1}) check_codes(c, i);
  for (const char* side : {"a", "b"}) {
    check_scale(c.node().get_float(std::string(side) + "_scale"));
    check_zero(c.node().get_int(std::string(side) + "_zero_point"));
  }
  check_scale(c.node().get_float("y_scale"));
  std::optional<Shape> y;
  if (c.shape(0) && c.shape(1)) y = broadcast(*c.shape(0), *c.shape(1));
  c.set_output(0, output_type(c, true), y);
}

void check_unary(const InferContext& c) {
  check_codes(c, 0);
  check_scale(c.node().get_float("x_scale"));
  check_zero(c.node().get_int("x_zero_point"));
  check_scale(c.node().get_float("y_scale"));
}

void infer_pool(InferContext& c) {
  check_unary(c);
  c.expect_rank(0, 4, 4);
  const std::string& kind = c.node().get_string("kind");
  check_model(kind == "Mean" || kind == "Average", "kind is '{}', expected Mean or Average", kind);
  int64_t channels = c.shape(0) ? (*c.shape(0))[3] : kUnknownDim;
  c.set_output(0, output_type(c, true), window_shape(c, c.node().get_ints("kernel_shape"), {1, 1}, channels));
}

void infer_softmax(InferContext& c) {
  check_unary(c);
  check_model(!c.shape(0) || !c.shape(0)->empty(), "a scalar has no last axis");
  c.set_output(0, output_type(c, true), c.shape(0));
}

void infer_table(InferContext& c) {
  check_codes(c, 0);
  check_model(!c.shape(1) || *c.shape(1) == Shape{256}, "the table has shape {}, expected [256]", c.shape(1) ? to_string(*c.shape(1)) : "");
  c.set_output(0, c.dtype(1), c.shape(0));
}

int64_t conv_macs(const Graph& g, const Node& n) {
  const Shape& w = *g[n.inputs[1]].shape;
  return element_count(*g[n.outputs[0]].shape) * w[1] * w[2] * w[3];
}

}  // namespace

void declare_integer(OpRegistry& r) {
  // X [N, H, W, C], W [O, C/group, kH, kW], M f32 [O], B i32 [O], Z [O] or [1], the zero points of W (0 without it), T,
  // → [N, oH, oW, O] of `output_dtype`. With sum = B + Σ (x − x_zero_point)·(w − z) in i32, wrapping, and nothing for
  // taps outside the picture:
  //   i8, u8: clamp(f32(sum)·M, low − y_zero_point, high − y_zero_point), rounded, plus y_zero_point
  //   f32:    f32(sum)·M                        i32:    sum (M is not used)
  // With T [256], codes are looked up there as Table does.
  const std::vector<AttributeSpec> product = with_output({{"x_zero_point", int64_t{0}}});
  std::vector<AttributeSpec> conv = product;
  for (const char* name : {"strides", "pads", "dilations"}) conv.push_back({name, Ints{}, true});
  conv.push_back({"group", int64_t{1}});
  r.add({.name = "IntegerConv", .domain = "ai.lathe", .minimum_inputs = 3, .maximum_inputs = 6, .attributes = conv,
         .infer = infer_conv, .macs = conv_macs});
  // X [..., K], W [K, N], M [N], B [N], Z [N] or [1], T → [..., N], the same arithmetic.
  r.add({.name = "IntegerMatMul", .domain = "ai.lathe", .minimum_inputs = 3, .maximum_inputs = 6, .attributes = product,
         .infer = infer_matmul, .macs = [](const Graph& g, const Node& n) {
           return element_count(*g[n.outputs[0]].shape) * (*g[n.inputs[1]].shape)[0];
         }});
  // X [..., K], W [K, N], M f32 [N], x_zero_point and x_scale (one value each, known at run time), Z [N] or [1], B f32 [N]
  // → f32 [..., N], with the sum in i32, wrapping: f32(Σ (x − x_zero_point)·(w − z))·(x_scale·M) + B
  r.add({.name = "DynamicMatMul", .domain = "ai.lathe", .minimum_inputs = 3, .maximum_inputs = 7, .infer = infer_dynamic_matmul,
         .macs = [](const Graph& g, const Node& n) { return element_count(*g[n.outputs[0]].shape) * (*g[n.inputs[1]].shape)[0]; }});
  // X [N, H, W, C], W [O, C/group, kH, kW], the rest as for DynamicMatMul → f32 [N, oH, oW, O]; nothing for taps outside
  // the picture.
  std::vector<AttributeSpec> dynamic_conv;
  for (const char* name : {"strides", "pads", "dilations"}) dynamic_conv.push_back({name, Ints{}, true});
  dynamic_conv.push_back({"group", int64_t{1}});
  r.add({.name = "DynamicConv", .domain = "ai.lathe", .minimum_inputs = 3, .maximum_inputs = 7, .attributes = dynamic_conv,
         .infer = infer_dynamic_conv, .macs = conv_macs});
  // A and B broadcast. i8 codes and their zero points are first moved to u8 (plus 128). With ra = a_scale / y_scale
  // and rb likewise, constant = y_zero_point − (ra·a_zero_point + rb·b_zero_point):
  //   saturate(round(fma(a, ra, fma(b, rb, constant))))
  const std::vector<AttributeSpec> binary = with_output({{"a_scale", 1.0f, true}, {"a_zero_point", int64_t{0}}, {"b_scale", 1.0f, true},
                                                         {"b_zero_point", int64_t{0}}, {"y_scale", 1.0f, true}});
  r.add({.name = "IntegerAdd", .domain = "ai.lathe", .minimum_inputs = 2, .maximum_inputs = 2, .attributes = binary, .infer = infer_binary});
  // saturate(round(f32((a − a_zero_point)·(b − b_zero_point))·(a_scale·b_scale / y_scale) + y_zero_point))
  r.add({.name = "IntegerMul", .domain = "ai.lathe", .minimum_inputs = 2, .maximum_inputs = 2, .attributes = binary, .infer = infer_binary});
  // X [N, H, W, C] → [N, oH, oW, C]. `kind`:
  //   Average  s = Σ x_scale·(x − x_zero_point), taps in row-major order; saturate(round(s / count / y_scale + y_zero_point))
  //   Mean     saturate(round(f32(Σ (x − x_zero_point))·(x_scale / (y_scale·count))) + y_zero_point)
  // count: taps inside the picture, or all of them with count_include_pad.
  const std::vector<AttributeSpec> unary = with_output({{"x_scale", 1.0f, true}, {"x_zero_point", int64_t{0}}, {"y_scale", 1.0f, true}});
  std::vector<AttributeSpec> pool = unary;
  pool.push_back({"kind", std::string(), true});
  for (const char* name : {"kernel_shape", "strides", "pads"}) pool.push_back({name, Ints{}, true});
  pool.push_back({"count_include_pad", int64_t{0}});
  r.add({.name = "IntegerPool", .domain = "ai.lathe", .attributes = pool, .infer = infer_pool});
  // Along the last axis, with e = f32(exp((x − the row's largest)·x_scale)):
  //   saturate(round(e·(1 / y_scale) / Σ e) + y_zero_point)
  r.add({.name = "IntegerSoftmax", .domain = "ai.lathe", .attributes = unary, .infer = infer_softmax});
  // Y[i] = T[X[i]], X's bits as an index into T [256]: any function of one element, or a change of scale.
  r.add({.name = "Table", .domain = "ai.lathe", .minimum_inputs = 2, .maximum_inputs = 2, .infer = infer_table});
}

}  // namespace lathe::ops
