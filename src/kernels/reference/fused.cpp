// What the operators of ai.lathe mean, in terms of the standard ones: channels-last pictures are transposed,
// the standard operator runs, then bias, activation and residual follow in the documented order. bf16 inputs
// are widened first and the result is rounded once.
#include "graph/ops/attention.h"
#include "kernels/kernel.h"
#include "kernels/reference/epilogue.h"
#include "kernels/reference/families.h"
#include "kernels/reference/head_view.h"

namespace lathe::reference {
namespace {

using Ints = std::vector<int64_t>;
const Ints kToLast{0, 2, 3, 1}, kToFirst{0, 3, 1, 2};

Tensor evaluate(std::string_view op, std::vector<Tensor> inputs, Attributes attributes = {}) {
  Node n;
  n.op = op.starts_with("ai.lathe::") ? &find_op(op.substr(10), "ai.lathe") : &find_op(op);
  n.attributes = std::move(attributes);
  for (size_t i = 0; i < inputs.size(); ++i) n.inputs.push_back({static_cast<int32_t>(i)});
  n.outputs = {{0}};
  return run_node(n, std::move(inputs)).at(0);
}

Tensor widened(const Tensor& t) { return t.dtype() == DType::kBF16 ? cast(t, DType::kF32) : t; }

Tensor activate(const Node& node, Tensor x) {
  ActivationSpec a = activation_of(node);
  using K = ActivationKind;
  switch (a.kind) {
    case K::kNone: return x;
    case K::kClip: return evaluate("Clip", {x, Tensor::scalar(a.alpha), Tensor::scalar(a.beta)});
    case K::kLeakyRelu: return evaluate("LeakyRelu", {x}, {{"alpha", a.alpha}});
    case K::kElu: return evaluate("Elu", {x}, {{"alpha", a.alpha}});
    case K::kSwish: return evaluate("Swish", {x}, {{"alpha", a.alpha}});
    case K::kHardSigmoid: return evaluate("HardSigmoid", {x}, {{"alpha", a.alpha}, {"beta", a.beta}});
    case K::kGeluTanh: return evaluate("Gelu", {x}, {{"approximate", std::string("tanh")}});
    default: return evaluate(node.get_string("activation"), {x});
  }
}

}  // namespace

void finish_product(Context& c, Tensor y) {
  bool residual = c.has_input(3), first = c.node().get_int("residual_first") != 0;
  if (residual && first) y = evaluate("Add", {y, widened(c.input(3))});
  y = activate(c.node(), std::move(y));
  if (residual && !first) y = evaluate("Add", {y, widened(c.input(3))});
  DType wanted = c.output().dtype();
  c.set_output(0, wanted == y.dtype() ? y : cast(y, wanted));
}

namespace {

void conv(Context& c) {
  const Node& n = c.node();
  Tensor x = widened(c.input(0));
  if (c.has_input(4)) x = evaluate("Mul", {x, widened(c.input(4))});
  std::vector<Tensor> inputs{transpose(x, kToFirst), widened(c.input(1))};
  if (c.has_input(2)) inputs.push_back(c.input(2));
  Tensor y = evaluate("Conv", std::move(inputs),
                      {{"strides", n.get_ints("strides")}, {"pads", n.get_ints("pads")}, {"dilations", n.get_ints("dilations")}, {"group", n.get_int("group")}});
  finish_product(c, transpose(y, kToLast));
}

void planar_conv(Context& c) {
  const Node& n = c.node();
  // Negative padding leaves out rows.
  Ints pads = n.get_ints("pads");
  const int64_t above = std::max<int64_t>(-pads[0], 0), below = std::max<int64_t>(-pads[2], 0);
  for (size_t i : {0, 2}) pads[i] = std::max<int64_t>(pads[i], 0);
  Tensor x = widened(c.input(0));
  if (above + below > 0) x = evaluate("Slice", {x, Tensor::of_i64({above}), Tensor::of_i64({x.dim(2) - below}), Tensor::of_i64({2})});
  std::vector<Tensor> inputs{std::move(x), widened(c.input(1))};
  if (c.has_input(2)) inputs.push_back(c.input(2));
  Tensor y = evaluate("Conv", std::move(inputs), {{"strides", n.get_ints("strides")}, {"pads", pads}, {"dilations", n.get_ints("dilations")}});
  finish_product(c, transpose(y, kToLast));
}

void conv_transpose(Context& c) {
  const Node& n = c.node();
  std::vector<Tensor> inputs{transpose(widened(c.input(0)), kToFirst), widened(c.input(1))};
  if (c.has_input(2)) inputs.push_back(c.input(2));
  Tensor y = evaluate("ConvTranspose", std::move(inputs), {{"strides", n.get_ints("strides")}, {"pads", n.get_ints("pads")}, {"dilations", n.get_ints("dilations")},
                                                           {"output_padding", n.get_ints("output_padding")}});
  finish_product(c, transpose(y, kToLast));
}

void expand_depthwise(Context& c) {
  const Node& n = c.node();
  auto conv = [&](const Tensor& x, size_t weights, Attributes attributes) {
    std::vector<Tensor> inputs{x, widened(c.input(weights))};
    if (c.has_input(weights + 1)) inputs.push_back(c.input(weights + 1));
    attributes["residual_first"] = int64_t{0};
    return evaluate("ai.lathe::Conv", std::move(inputs), std::move(attributes));
  };
  const Ints ones{1, 1};
  Tensor expanded = conv(widened(c.input(0)), 1, {{"strides", ones}, {"pads", Ints{0, 0, 0, 0}}, {"dilations", ones}, {"group", int64_t{1}},
                                                  {"activation", n.get_string("expand_activation")}, {"alpha", n.get_float("expand_alpha")}, {"beta", n.get_float("expand_beta")}});
  Tensor y = conv(expanded, 3, {{"strides", n.get_ints("strides")}, {"pads", n.get_ints("pads")}, {"dilations", ones}, {"group", c.input(3).shape()[0]},
                                {"activation", n.get_string("activation")}, {"alpha", n.get_float("alpha")}, {"beta", n.get_float("beta")}});
  c.set_output(0, c.output().dtype() == y.dtype() ? y : cast(y, c.output().dtype()));
}

void matmul(Context& c) {
  Tensor w = widened(c.input(1));
  if (c.node().get_int("transposed")) w = transpose(w, {1, 0});
  Tensor y = evaluate("MatMul", {widened(c.input(0)), w});
  if (c.has_input(2)) y = evaluate("Add", {y, c.input(2)});
  finish_product(c, std::move(y));
}

void pool(Context& c) {
  const Node& n = c.node();
  bool average = n.get_string("kind") == "Average";
  Attributes a{{"kernel_shape", n.get_ints("kernel_shape")}, {"strides", n.get_ints("strides")}, {"pads", n.get_ints("pads")}};
  if (average) a["count_include_pad"] = n.get_int("count_include_pad");
  Tensor y = evaluate(average ? "AveragePool" : "MaxPool", {transpose(widened(c.input(0)), kToFirst)}, a);
  y = transpose(y, kToLast);
  c.set_output(0, c.input(0).dtype() == y.dtype() ? y : cast(y, c.input(0).dtype()));
}

void star_relu(Context& c) {
  const double scale = c.node().get_float("scale"), bias = c.node().get_float("bias");
  Tensor& y = c.output();
  for (int64_t i = 0; i < y.size(); ++i) {
    const double x = c.input().get(i), r = x < 0 ? 0 : x;  // a NaN stays one
    y.set(i, scale * r * r + bias);
  }
}

void affine(Context& c) {
  Tensor y = evaluate("Add", {evaluate("Mul", {widened(c.input(0)), c.input(1)}), c.input(2)});
  y = activate(c.node(), std::move(y));
  c.set_output(0, c.input(0).dtype() == y.dtype() ? y : cast(y, c.input(0).dtype()));
}

void attention(Context& c) {
  const Node& n = c.node();
  const ops::AttentionSizes s = ops::fused_attention_sizes(n);
  auto heads = [&](size_t input, const char* view, const Shape& sizes) {
    Tensor whole = widened(c.input(input)), t(whole.dtype(), sizes);
    over_view(ops::head_view(n, view), sizes, [&](int64_t to, int64_t from) { t.set(to, whole.get(from)); });
    return t;
  };
  std::vector<Tensor> inputs{heads(0, "q_view", {s.batch, s.query_heads, s.queries, s.head_size}),
                             heads(1, "k_view", {s.batch, s.kv_heads, s.keys, s.head_size}),
                             heads(2, "v_view", {s.batch, s.kv_heads, s.keys, s.value_size})};
  if (c.has_input(3)) inputs.push_back(c.input(3).dtype() == DType::kBool ? c.input(3) : widened(c.input(3)));
  Attributes a;
  for (const char* name : {"is_causal", "left_window_size", "right_window_size"}) a[name] = n.get_int(name);
  a["softcap"] = n.get_float("softcap");
  if (n.has("scale")) a["scale"] = n.get_float("scale");
  Tensor y = evaluate("Attention", std::move(inputs), std::move(a));
  over_view(ops::head_view(n, "y_view"), y.shape(), [&](int64_t from, int64_t to) { c.output().set(to, y.get(from)); });
}

void channel_shuffle(Context& c) {
  Tensor x = c.input();
  int64_t axis = normalize_axis(c.node().get_int("axis"), x.rank()), groups = c.node().get_int("group");
  if (c.node().inputs.size() > 1) {
    std::vector<Tensor> parts;
    for (size_t i = 0; i < c.node().inputs.size(); ++i) parts.push_back(c.input(i));
    x = evaluate("Concat", std::move(parts), {{"axis", axis}});
  }
  Shape split = x.shape();
  check_model(groups > 0 && split[axis] % groups == 0, "{} channels cannot be shuffled in {} groups", split[axis], groups);
  split[axis] /= groups;
  split.insert(split.begin() + axis, groups);
  Ints swapped(split.size());
  for (size_t i = 0; i < swapped.size(); ++i) swapped[i] = static_cast<int64_t>(i);
  std::swap(swapped[axis], swapped[axis + 1]);
  c.set_output(0, transpose(x.reshaped(split), swapped).reshaped(x.shape()));
}

void wave(Context& c) {
  const Tensor &a = c.input(0), &p = c.input(1), &strongest = c.input(2);
  const int64_t axis = normalize_axis(c.node().get_int("axis"), a.rank()), channels = a.shape()[axis];
  const int64_t outer = product(a.shape(), 0, axis), inner = product(a.shape(), axis + 1, a.shape().size());
  Tensor& y = c.output();
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < inner; ++i) {
      const auto at = [&](int64_t k) { return (o * channels + k) * inner + i; };
      const auto f = [&](int64_t k) { return a.get(at(k)) * p.get(at(k)); };
      const int64_t most = strongest.get_int(o * inner + i);
      if (most < 0 || most >= channels) fail(ErrorKind::kInput, "channel {} of {}", most, channels);
      for (int64_t k = 0; k < channels / 2; ++k) {
        const double real = f(2 * k) + f(most), imaginary = f(2 * k + 1) + f(most), re = c.input(3).get(k), im = c.input(4).get(k);
        y.set(at(2 * k), real * re - imaginary * im);
        y.set(at(2 * k + 1), real * im + imaginary * re);
      }
    }
}

}  // namespace

void register_fused(Registry& r) {
  r.add("Conv", conv, "ai.lathe");
  r.add("PlanarConv", planar_conv, "ai.lathe");
  r.add("ConvTranspose", conv_transpose, "ai.lathe");
  r.add("ExpandDepthwise", expand_depthwise, "ai.lathe");
  r.add("MatMul", matmul, "ai.lathe");
  r.add("Pool", pool, "ai.lathe");
  r.add("Affine", affine, "ai.lathe");
  r.add("StarRelu", star_relu, "ai.lathe");
  r.add("Attention", attention, "ai.lathe");
  r.add("ChannelShuffle", channel_shuffle, "ai.lathe");
  r.add("Wave", wave, "ai.lathe");
}

}  // namespace lathe::reference
