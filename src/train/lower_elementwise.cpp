// Functions of elements, and what training drops.
#include "graph/op.h"
#include "train/lower.h"
#include "train/star_relu.h"

namespace lathe {
namespace {

template <auto kFunction>
void unary(LoweringRegistry& r, std::string_view name) {
  r.add(name, +[](const LowerCall& c) { return Tensors{kFunction(c.in())}; });
}

bool is_whole(const at::Tensor& x) { return at::isIntegralType(x.scalar_type(), false); }

Tensors divide(const LowerCall& c) {
  if (is_whole(c.in(0)) && is_whole(c.in(1))) return {at::div(c.in(0), c.in(1), "trunc")};
  return {c.in(0) / c.in(1)};
}

// hardtanh that keeps its output, which is the next operator's input, where libtorch's keeps what it was given: the gradient goes through
// where either is inside the limits.
class Limited : public torch::autograd::Function<Limited> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, double low, double high) {
    const at::Tensor y = at::hardtanh(x, low, high);
    context->save_for_backward({y});
    context->saved_data["low"] = low;
    context->saved_data["high"] = high;
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const at::Tensor y = context->get_saved_variables()[0];
    return {at::hardtanh_backward(gradients[0], y, context->saved_data["low"].toDouble(), context->saved_data["high"].toDouble()), at::Tensor(), at::Tensor()};
  }
};

// libtorch would bring pictures with channels last to another order and back.
template <class F>
at::Tensor as_it_lies(const at::Tensor& x, F f) {
  if (x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast) && !x.is_contiguous()) return f(x.permute({0, 2, 3, 1})).permute({0, 3, 1, 2});
  return f(x);
}

// On kernels of our own; keeps its input alone.
class Star : public torch::autograd::Function<Star> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, const at::Tensor& scale, const at::Tensor& bias) {
    context->save_for_backward({x, scale});
    at::Tensor y = at::empty_like(x);
    star_relu(x.numel(), x.data_ptr<float>(), scale.item<float>(), bias.item<float>(), y.data_ptr<float>());
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const torch::autograd::variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &scale = saved[1];
    const at::Tensor g = gradients[0].strides() == x.strides() ? gradients[0] : at::empty_like(x).copy_(gradients[0]);
    const at::Tensor dx = context->needs_input_grad(0) ? at::empty_like(x) : at::Tensor();
    const StarReluGradient found = star_relu_gradient(x.numel(), g.data_ptr<float>(), x.data_ptr<float>(), scale.item<float>(), dx.defined() ? dx.data_ptr<float>() : nullptr);
    return {dx, at::full_like(scale, found.scale), at::full_like(scale, found.bias)};
  }
};

// On kernels of our own; keeps the slope alone.
class Sloped : public torch::autograd::Function<Sloped> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x, Smooth f) {
    at::Tensor y = at::empty_like(x), slope = at::empty_like(x);
    smooth_activation(f, x.numel(), x.data_ptr<float>(), y.data_ptr<float>(), slope.data_ptr<float>());
    context->save_for_backward({slope});
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    return {gradients[0] * context->get_saved_variables()[0], at::Tensor()};
  }
};

Tensors clip(const LowerCall& c) {
  c10::optional<at::Tensor> low, high;
  if (c.has(1)) low = c.in(1);
  if (c.has(2)) high = c.in(2);
  if (!low && !high) return {c.in()};
  // Literals as numbers: hardtanh's gradient is one pass where clamp's is four.
  const auto number = [](const c10::optional<at::Tensor>& t) { return t ? c10::optional<at::Scalar>(t->item()) : c10::nullopt; };
  if (low && high && !low->requires_grad() && !high->requires_grad() && at::isFloatingType(c.in().scalar_type())) return {Limited::apply(c.in(), low->item<double>(), high->item<double>())};
  if ((!low || !low->requires_grad()) && (!high || !high->requires_grad())) return {at::clamp(c.in(), number(low), number(high))};
  return {at::clamp(c.in(), low, high)};
}

Tensors cast(const LowerCall& c) {
  const auto type = static_cast<DType>(c.node.get_int("to"));
  return {c.in().to(type == DType::kF32 && c.in().scalar_type() == at::kDouble ? at::kDouble : to_torch(type))};
}

template <auto kBinary>
at::Tensor folded(const LowerCall& c) {
  at::Tensor y = c.in(0);
  for (size_t i = 1; i < c.inputs.size(); ++i) y = kBinary(y, c.in(i));
  return y;
}

at::Tensor maximum(const at::Tensor& a, const at::Tensor& b) { return at::maximum(a, b); }
at::Tensor minimum(const at::Tensor& a, const at::Tensor& b) { return at::minimum(a, b); }
at::Tensor plus(const at::Tensor& a, const at::Tensor& b) { return a + b; }

// 1 / keep with probability `keep`, else 0. The same on every device, which is not waited for.
at::Tensor kept(const LowerCall& c, const std::vector<int64_t>& shape, double keep) {
  const at::Tensor mask = at::empty(shape, c.in().options().device(at::kCPU)).bernoulli_(keep, c.state.generator).div_(keep);
  return mask.to(c.in().device(), /*non_blocking=*/true);
}

Tensors dropout(const LowerCall& c) {
  const double rate = c.has(1) ? c.number(1) : 0.5;
  const bool on = c.has(2) && c.in(2).item<bool>();
  if (!on || !c.state.training || rate == 0) return {c.in(), at::Tensor()};
  return {c.in() * kept(c, c.in().sizes().vec(), 1 - rate), at::Tensor()};
}

Tensors drop_path(const LowerCall& c) {
  double rate = c.node.get_float("rate");
  if (c.node.get_int("scheduled")) rate *= c.state.progress;
  if (!c.state.training || rate == 0) return {c.in()};
  std::vector<int64_t> shape(static_cast<size_t>(c.in().dim()), 1);
  shape[0] = c.in().size(0);
  return {c.in() * kept(c, shape, 1 - rate)};
}

}  // namespace

at::Tensor limited(const at::Tensor& x, NormLimits limits) {
  if (limits == NormLimits{}) return x;
  if (limits == NormLimits{.low = 0}) return at::relu(x);
  return Limited::apply(x, static_cast<double>(limits.low), static_cast<double>(limits.high));
}

at::Tensor star_relu(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& bias) {
  if (own_kernels_take(x) && own_kernels_take(scale) && own_kernels_take(bias) && scale.sizes() == bias.sizes() && x.is_non_overlapping_and_dense()) return Star::apply(x, scale, bias);
  const at::Tensor r = at::relu(x);
  return r * r * scale + bias;
}

at::Tensor smooth(const at::Tensor& x, Smooth f) {
  if (own_kernels_take(x) && x.is_non_overlapping_and_dense()) {
    if (at::GradMode::is_enabled() && x.requires_grad()) return Sloped::apply(x, f);
    at::Tensor y = at::empty_like(x);
    smooth_activation(f, x.numel(), x.data_ptr<float>(), y.data_ptr<float>(), nullptr);
    return y;
  }
  return f == Smooth::kSilu ? at::silu(x) : as_it_lies(x, [](const at::Tensor& t) { return at::gelu(t); });
}

void lower_elementwise(LoweringRegistry& r) {
  using F = at::Tensor (*)(const at::Tensor&);
  unary<static_cast<F>(at::relu)>(r, "Relu");
  unary<static_cast<F>(at::sigmoid)>(r, "Sigmoid");
  unary<static_cast<F>(at::tanh)>(r, "Tanh");
  unary<static_cast<F>(at::exp)>(r, "Exp");
  unary<static_cast<F>(at::log)>(r, "Log");
  unary<static_cast<F>(at::sqrt)>(r, "Sqrt");
  unary<static_cast<F>(at::erf)>(r, "Erf");
  unary<static_cast<F>(at::abs)>(r, "Abs");
  unary<static_cast<F>(at::neg)>(r, "Neg");
  unary<static_cast<F>(at::reciprocal)>(r, "Reciprocal");
  unary<static_cast<F>(at::floor)>(r, "Floor");
  unary<static_cast<F>(at::ceil)>(r, "Ceil");
  unary<static_cast<F>(at::round)>(r, "Round");
  unary<static_cast<F>(at::sin)>(r, "Sin");
  unary<static_cast<F>(at::cos)>(r, "Cos");
  unary<static_cast<F>(at::sign)>(r, "Sign");
  unary<static_cast<F>(at::mish)>(r, "Mish");
  unary<static_cast<F>(at::logical_not)>(r, "Not");
  r.add("Identity", +[](const LowerCall& c) { return Tensors{c.in()}; });
  r.add("Softplus", +[](const LowerCall& c) { return Tensors{at::softplus(c.in())}; });
  r.add("LeakyRelu", +[](const LowerCall& c) { return Tensors{at::leaky_relu(c.in(), c.node.get_float("alpha"))}; });
  r.add("Elu", +[](const LowerCall& c) { return Tensors{at::elu(c.in(), c.node.get_float("alpha"))}; });
  r.add("HardSigmoid", +[](const LowerCall& c) { return Tensors{at::clamp(c.in() * c.node.get_float("alpha") + c.node.get_float("beta"), 0, 1)}; });
  r.add("HardSwish", +[](const LowerCall& c) { return Tensors{at::hardswish(c.in())}; });
  r.add("Swish", +[](const LowerCall& c) {
    const double alpha = c.node.get_float("alpha");
    return Tensors{alpha == 1 ? smooth(c.in(), Smooth::kSilu) : c.in() * at::sigmoid(c.in() * alpha)};
  });
  r.add("Gelu", +[](const LowerCall& c) {
    if (c.node.get_string("approximate") == "none") return Tensors{smooth(c.in(), Smooth::kGelu)};
    return Tensors{as_it_lies(c.in(), [&](const at::Tensor& x) { return at::gelu(x, c.node.get_string("approximate")); })};
  });
  // Broadcast from the last axis on, as the operator says; torch's prelu wants a slope for each channel.
  r.add("PRelu", +[](const LowerCall& c) { return Tensors{at::relu(c.in(0)) - c.in(1) * at::relu(-c.in(0))}; });

  r.add("Add", +[](const LowerCall& c) { return Tensors{c.in(0) + c.in(1)}; });
  r.add("Sub", +[](const LowerCall& c) { return Tensors{c.in(0) - c.in(1)}; });
  r.add("Mul", +[](const LowerCall& c) { return Tensors{c.in(0) * c.in(1)}; });
  r.add("Div", divide);
  r.add("Pow", +[](const LowerCall& c) {
    // A literal exponent as a number: squares then are products.
    if (c.in(1).dim() == 0 && !c.in(1).requires_grad()) return Tensors{at::pow(c.in(0), c.in(1).item())};
    return Tensors{at::pow(c.in(0), c.in(1))};
  });
  r.add("Max", +[](const LowerCall& c) { return Tensors{folded<maximum>(c)}; });
  r.add("Min", +[](const LowerCall& c) { return Tensors{folded<minimum>(c)}; });
  r.add("Sum", +[](const LowerCall& c) { return Tensors{folded<plus>(c)}; });
  r.add("Equal", +[](const LowerCall& c) { return Tensors{at::eq(c.in(0), c.in(1))}; });
  r.add("Greater", +[](const LowerCall& c) { return Tensors{at::gt(c.in(0), c.in(1))}; });
  r.add("GreaterOrEqual", +[](const LowerCall& c) { return Tensors{at::ge(c.in(0), c.in(1))}; });
  r.add("Less", +[](const LowerCall& c) { return Tensors{at::lt(c.in(0), c.in(1))}; });
  r.add("LessOrEqual", +[](const LowerCall& c) { return Tensors{at::le(c.in(0), c.in(1))}; });
  r.add("And", +[](const LowerCall& c) { return Tensors{at::logical_and(c.in(0), c.in(1))}; });
  r.add("Or", +[](const LowerCall& c) { return Tensors{at::logical_or(c.in(0), c.in(1))}; });
  r.add("Where", +[](const LowerCall& c) { return Tensors{at::where(c.in(0), c.in(1), c.in(2))}; });
  r.add("Clip", clip);
  r.add("Cast", cast);
  r.add("Dropout", dropout);
  r.add("DropPath", drop_path, kLatheDomain);
}

}  // namespace lathe
