// Weights in few bits, as graph/ops/coded.cpp defines them.
#include "kernels/coded_weights.h"
#include "kernels/reference/epilogue.h"
#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

void unpack_bits(Context& c) {
  const int64_t bits = c.node().get_int("bits"), in_byte = 8 / bits;
  const auto* packed = c.input().data<uint8_t>();
  Tensor& y = c.output();
  const Shape expected{y.size() / in_byte + (y.size() % in_byte != 0)};
  check_model(c.input().shape() == expected, "the packed codes have shape {}, expected {}", to_string(c.input().shape()), to_string(expected));
  auto* codes = y.data<uint8_t>();
  for (int64_t i = 0; i < y.size(); ++i) codes[i] = static_cast<uint8_t>(packed[i / in_byte] >> i % in_byte * bits & ((1 << bits) - 1));
}

// Input 1 as f32 [N, K].
Tensor decoded(const Context& c) {
  return decode_weights(c.input(1), c.input(4), c.has_input(5) ? c.input(5) : Tensor(), c.node().get_int("block_size"));
}

// The node of `op` on decoded weights, with the attributes that it has.
void run_decoded(Context& c, std::string_view op, Tensor w, Attributes more) {
  Node n;
  n.op = &find_op(op, kLatheDomain);
  n.name = c.node().name;
  n.attributes = std::move(more);
  for (const auto& [name, value] : c.node().attributes)
    if (n.op->find(name)) n.attributes.emplace(name, value);
  std::vector<Tensor> inputs{c.input(0), std::move(w)};
  for (size_t i : {2, 3}) inputs.push_back(c.has_input(i) ? c.input(i) : Tensor());
  for (size_t i = 0; i < inputs.size(); ++i) n.inputs.push_back(inputs[i].defined() ? ValueId{static_cast<int32_t>(i)} : ValueId{});
  n.outputs = {{0}};
  c.set_output(0, run_node(n, std::move(inputs)).at(0));
}

void matmul(Context& c) { run_decoded(c, "MatMul", decoded(c), {{"transposed", int64_t{1}}}); }

void conv(Context& c) {
  const std::vector<int64_t>& kernel = c.node().get_ints("kernel_shape");
  const Tensor w = decoded(c);
  const int64_t channels = c.input(0).dim(3);
  run_decoded(c, "Conv", transpose(w.reshaped({w.dim(0), kernel[0], kernel[1], channels}), {0, 3, 1, 2}), {});
}

void binary_conv(Context& c) {
  const Node& n = c.node();
  const auto &kernel = n.get_ints("kernel_shape"), &strides = n.get_ints("strides"), &pads = n.get_ints("pads"), &dilations = n.get_ints("dilations");
  const Tensor &x = c.input(0), &w = c.input(1);
  const Shape &in = x.shape(), &out = c.output().shape();
  Tensor y(DType::kF32, out);
  for (int64_t at = 0; at < y.size(); ++at) {
    const int64_t o = at % out[3], ox = at / out[3] % out[2], oy = at / (out[3] * out[2]) % out[1], image = at / (out[3] * out[2] * out[1]);
    int64_t sum = 0;
    for (int64_t ky = 0; ky < kernel[0]; ++ky)
      for (int64_t kx = 0; kx < kernel[1]; ++kx) {
        const int64_t iy = oy * strides[0] - pads[0] + ky * dilations[0], ix = ox * strides[1] - pads[1] + kx * dilations[1];
        if (iy < 0 || iy >= in[1] || ix < 0 || ix >= in[2]) continue;
        const int64_t pixel = ((image * in[1] + iy) * in[2] + ix) * in[3], weights = ((o * kernel[0] + ky) * kernel[1] + kx) * in[3];
        for (int64_t k = 0; k < in[3]; ++k) sum += (x.get(pixel + k) >= 0) == (w.get_int(weights + k) != 0) ? 1 : -1;
      }
    const float bias = c.has_input(2) ? c.input(2).data<float>()[o] : 0.0f;
    y.data<float>()[at] = static_cast<float>(sum) * c.input(4).data<float>()[o] + bias;
  }
  finish_product(c, std::move(y));
}

}  // namespace

void register_coded(Registry& r) {
  r.add("UnpackBits", unpack_bits, "ai.lathe");
  r.add("CodedMatMul", matmul, "ai.lathe");
  r.add("CodedConv", conv, "ai.lathe");
  r.add("BinaryConv", binary_conv, "ai.lathe");
}

}  // namespace lathe::reference
