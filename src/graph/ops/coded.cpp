// Operators of ai.lathe for weights that are stored in few bits.
#include <algorithm>

#include "graph/ops/channels_last.h"
#include "graph/ops/epilogue.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

using Ints = std::vector<int64_t>;

void infer_unpack_bits(InferContext& c) {
  const int64_t bits = c.node().get_int("bits");
  check_model(bits == 1 || bits == 2 || bits == 4, "bits is {}, expected 1, 2 or 4", bits);
  const Shape& shape = c.node().get_ints("shape");
  check_model(!shape.empty() && is_static(shape), "shape is {}, expected sizes", to_string(shape));
  const int64_t count = element_count(shape), bytes = count / (8 / bits) + (count % (8 / bits) != 0);
  check_model(c.dtype(0) == DType::kU8 || c.dtype(0) == DType::kUndefined, "packed codes are {}, expected u8", name_of(c.dtype(0)));
  c.expect_rank(0, 1, 1);
  if (c.shape(0) && is_static(*c.shape(0)))
    check_model((*c.shape(0))[0] == bytes, "{} bytes hold codes of {} bits and shape {}, expected {}", (*c.shape(0))[0], bits, to_string(shape), bytes);
  c.set_output(0, DType::kU8, shape);
}

// Weights (input 1) in rows [N, K], and what makes numbers of their codes (inputs 4 and 5).
void check_weights(InferContext& c) {
  const DType type = c.dtype(1);
  const int64_t block = c.node().get_int("block_size");
  check_model(type == DType::kI4 || type == DType::kU4 || type == DType::kI8 || type == DType::kU8 || type == DType::kUndefined,
              "the codes of weights are {}, expected i4, u4, i8 or u8", name_of(type));
  check_model(c.has_input(4) && (c.dtype(4) == DType::kF32 || c.dtype(4) == DType::kUndefined), "scales or codebook are missing or not f32");
  check_model(block >= 0 && block <= kMaxDimension, "block_size is {}", block);
  check_model(block > 0 || (type == DType::kU8 && !c.has_input(5)) || type == DType::kUndefined, "a codebook takes codes of u8 without zero points");
  c.expect_rank(1, 2, 2);
  c.expect_rank(4, 2, 2);
  if (!c.shape(1) || !c.shape(4)) return;
  const Shape &w = *c.shape(1), &s = *c.shape(4);
  check_model(is_static(w) && is_static(s), "weights have the open shape {}", to_string(w));
  if (block == 0) {
    check_model((s[0] == w[0] || s[0] == 1) && s[1] >= 1 && s[1] <= 16, "codebooks of shape {} for weights {}, expected up to 16 entries for each row or for all", to_string(s),
                to_string(w));
    return;
  }
  check_model(s == Shape{w[0], w[1] / block + (w[1] % block != 0)}, "scales of shape {} for weights {} in groups of {}", to_string(s), to_string(w), block);
  if (!c.has_input(5)) return;
  check_model(c.dtype(5) == type && c.shape(5) && *c.shape(5) == s, "zero points are {}{}, expected {}{}", name_of(c.dtype(5)),
              c.shape(5) ? to_string(*c.shape(5)) : "", name_of(type), to_string(s));
}

void infer_coded_matmul(InferContext& c) {
  check_weights(c);
  if (!c.shape(0) || !c.shape(1)) return c.set_output(0, product_type(c));
  Shape y = *c.shape(0);
  const Shape& w = *c.shape(1);
  check_model(!y.empty() && y.back() == w[1], "cannot multiply {} by rows of {}", to_string(y), to_string(w));
  y.back() = w[0];
  check_epilogue(c, w[0], y);
  c.set_output(0, product_type(c), y);
}

// The output's shape for weights in rows of kH·kW·C.
std::optional<Shape> rows_conv_shape(InferContext& c) {
  const Shape& w = *c.shape(1);
  const Ints& kernel = c.node().get_ints("kernel_shape");
  check_window("kernel_shape", kernel, 2, 1);
  const int64_t taps = kernel[0] * kernel[1];
  check_model(w[1] % taps == 0, "rows of {} weights are not a window of {}", w[1], to_string(kernel));
  for (int64_t p : c.node().get_ints("pads")) check_model(p >= 0, "pads hold {}", p);
  auto y = window_shape(c, kernel, c.node().get_ints("dilations"), w[0]);
  if (c.shape(0) && (*c.shape(0))[3] >= 0)
    check_model((*c.shape(0))[3] == w[1] / taps, "input {} does not have the channels of weight {} with a window of {}", to_string(*c.shape(0)), to_string(w), to_string(kernel));
  check_epilogue(c, w[0], y);
  return y;
}

void infer_coded_conv(InferContext& c) {
  check_weights(c);
  if (!c.shape(1)) return c.set_output(0, product_type(c));
  auto y = rows_conv_shape(c);
  c.set_output(0, product_type(c), y);
}

void infer_binary_conv(InferContext& c) {
  check_model(c.dtype(1) == DType::kU8 || c.dtype(1) == DType::kUndefined, "signs are {}, expected u8", name_of(c.dtype(1)));
  check_model(c.has_input(4) && (c.dtype(4) == DType::kF32 || c.dtype(4) == DType::kUndefined), "the factors of the channels are missing or not f32");
  c.expect_rank(1, 2, 2);
  if (!c.shape(1)) return c.set_output(0, product_type(c));
  const Shape& w = *c.shape(1);
  check_model(is_static(w), "weights have the open shape {}", to_string(w));
  check_model(!c.shape(4) || *c.shape(4) == Shape{w[0]}, "factors of shape {} for {} channels", c.shape(4) ? to_string(*c.shape(4)) : "", w[0]);
  auto y = rows_conv_shape(c);
  c.set_output(0, product_type(c), y);
}

int64_t coded_macs(const Graph& g, const Node& n) { return element_count(*g[n.outputs[0]].shape) * (*g[n.inputs[1]].shape)[1]; }

}  // namespace

void declare_coded(OpRegistry& r) {
  // X [..., K], W [N, K] i4, u4, i8 or u8, B [N], R [..., N], S, Z → [..., N]: the product of X and the numbers that the
  // codes in W stand for, transposed.
  //   block_size > 0   S f32 and Z as W [N, ceil(K / block_size)]: (W[n, k] − Z[n, k / block_size])·S[n, k / block_size],
  //                    zero points 0 without Z
  //   block_size = 0   S f32 [N, E] or [1, E], E ≤ 16: S[n, W[n, k]], codes beyond E undefined
  const std::vector<AttributeSpec> coded = with_output_type(with_epilogue({{"block_size", int64_t{0}}}));
  r.add({.name = "CodedMatMul", .domain = "ai.lathe", .minimum_inputs = 2, .maximum_inputs = 6, .attributes = coded, .infer = infer_coded_matmul, .macs = coded_macs});
  // X [N, H, W, C], W [O, kH·kW·C] with the channels of a tap together, the rest as above → [N, oH, oW, O].
  std::vector<AttributeSpec> conv = coded;
  for (const char* name : {"kernel_shape", "strides", "pads", "dilations"}) conv.push_back({name, Ints{}, true});
  r.add({.name = "CodedConv", .domain = "ai.lathe", .minimum_inputs = 2, .maximum_inputs = 6, .attributes = conv, .infer = infer_coded_conv, .macs = coded_macs});
  // X [N, H, W, C], W u8 [O, kH·kW·C] of signs (0: −1, 1: +1), B [O], R, S f32 [O] → [N, oH, oW, O]: the sum of
  // sign(x)·sign(w) over the taps inside the picture, times S[o]; sign(x) = 1 where x ≥ 0, else −1 (NaN too). Rastegari
  // et al. 2016, section 3.2. The sum is exact: a whole number.
  std::vector<AttributeSpec> binary = with_output_type(with_epilogue({}));
  for (const char* name : {"kernel_shape", "strides", "pads", "dilations"}) binary.push_back({name, Ints{}, true});
  r.add({.name = "BinaryConv", .domain = "ai.lathe", .minimum_inputs = 2, .maximum_inputs = 5, .attributes = binary, .infer = infer_binary_conv, .macs = coded_macs});
  // X u8 [ceil(count·bits / 8)] → u8 of `shape`, count elements: element i is bits (i·bits mod 8) and up of byte
  // i·bits / 8. Files hold it with a function of standard operators beside (formats/onnx_export.cpp).
  r.add({.name = "UnpackBits", .domain = "ai.lathe", .attributes = {{"bits", int64_t{1}, true}, {"shape", Ints{}, true}}, .infer = infer_unpack_bits, .in_files = true});
}

}  // namespace lathe::ops
