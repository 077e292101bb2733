// Norms, softmax and sums along axes.
#include "graph/op.h"
#include "train/lower.h"

namespace lathe {
namespace {

Tensors batch_norm(const LowerCall& c) {
  const at::Tensor mean = c.state.again ? c.in(3).clone() : c.in(3), variance = c.state.again ? c.in(4).clone() : c.in(4);
  // The standard's momentum is what is kept, torch's what is new.
  return {at::batch_norm(c.in(0), c.in(1), c.in(2), mean, variance, c.state.batch_statistics, 1 - static_cast<double>(c.node.get_float("momentum")), c.node.get_float("epsilon"), false)};
}

// What is normalized, in the type of the weights: behind products in bf16 it may be another.
at::Tensor wide(const LowerCall& c) { return c.in(0).to(c.in(1).scalar_type()); }

Tensors layer_norm(const LowerCall& c) {
  const at::Tensor x = wide(c);
  const int64_t axis = normalize_axis(c.node.get_int("axis"), x.dim());
  const std::vector<int64_t> shape = x.sizes().slice(static_cast<size_t>(axis)).vec();
  const at::Tensor w = c.in(1).expand(shape);
  return {at::layer_norm(x, shape, w, c.has(2) ? c10::optional<at::Tensor>(c.in(2).expand(shape)) : c10::nullopt, c.node.get_float("epsilon"), false)};
}

Tensors instance_norm(const LowerCall& c) {
  return {at::instance_norm(wide(c), c.in(1), c.in(2), {}, {}, true, 0, c.node.get_float("epsilon"), false)};
}

Tensors group_norm(const LowerCall& c) {
  return {at::group_norm(wide(c), c.node.get_int("num_groups"), c.in(1), c.in(2), c.node.get_float("epsilon"), false)};
}

Tensors rms_norm(const LowerCall& c) {
  const at::Tensor& x = c.in(0);
  std::vector<int64_t> axes;
  for (int64_t i = normalize_axis(c.node.get_int("axis"), x.dim()); i < x.dim(); ++i) axes.push_back(i);
  return {x * at::rsqrt((x * x).mean(axes, true) + c.node.get_float("epsilon")) * c.in(1)};
}

Tensors local_response(const LowerCall& c) {
  const int64_t size = c.node.get_int("size"), before = (size - 1) / 2, channels = c.in().size(1);
  const at::Tensor squares = c.in() * c.in();
  at::Tensor sum = at::zeros_like(squares);
  std::vector<at::Tensor> parts;
  for (int64_t i = 0; i < channels; ++i) {
    const int64_t from = std::max<int64_t>(i - before, 0), to = std::min(i - before + size, channels);
    parts.push_back(squares.narrow(1, from, to - from).sum(1, true));
  }
  return {c.in() * at::pow(at::cat(parts, 1) * (c.node.get_float("alpha") / static_cast<double>(size)) + c.node.get_float("bias"), -static_cast<double>(c.node.get_float("beta")))};
}

struct Axes {
  std::vector<int64_t> list;
  bool keep;
  bool nothing;  // no axes, and that means none
};
Axes axes_of(const LowerCall& c) {
  Axes a{c.has(1) ? c.ints(1) : std::vector<int64_t>(), c.node.get_int("keepdims") != 0, false};
  if (a.list.empty()) {
    a.nothing = c.node.get_int("noop_with_empty_axes") != 0;
    for (int64_t i = 0; i < c.in().dim(); ++i) a.list.push_back(i);
  }
  return a;
}

template <auto kReduce>
Tensors reduce(const LowerCall& c) {
  const Axes a = axes_of(c);
  if (a.nothing) return {c.in()};
  return {kReduce(c.in(), a.list, a.keep)};
}
at::Tensor mean(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return x.mean(axes, keep); }
at::Tensor sum(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return x.sum(axes, keep); }
at::Tensor most(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return at::amax(x, axes, keep); }
at::Tensor least(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return at::amin(x, axes, keep); }
at::Tensor length(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return at::sqrt((x * x).sum(axes, keep)); }
at::Tensor squares(const at::Tensor& x, c10::IntArrayRef axes, bool keep) { return (x * x).sum(axes, keep); }

Tensors arg_most(const LowerCall& c) {
  const int64_t axis = c.node.get_int("axis");
  const bool keep = c.node.get_int("keepdims") != 0, last = c.node.get_int("select_last_index") != 0, least = c.node.op->name == "ArgMin";
  const at::Tensor x = last ? c.in().flip({axis}) : c.in();
  // The first of equals: torch does not say which it takes.
  const at::Tensor best = least ? at::amin(x, {axis}, true) : at::amax(x, {axis}, true);
  const at::Tensor hits = at::logical_or(x == best, at::isnan(x.to(at::kDouble))).to(at::kLong);
  at::Tensor index = (at::cumsum(hits, axis) == 0).to(at::kLong).sum({axis}, keep);
  if (last) index = x.size(axis) - 1 - index;
  return {index};
}

}  // namespace

void lower_norms(LoweringRegistry& r) {
  r.add("BatchNormalization", batch_norm);
  r.add("LayerNormalization", layer_norm);
  r.add("InstanceNormalization", instance_norm);
  r.add("GroupNormalization", group_norm);
  r.add("RMSNormalization", rms_norm);
  r.add("LRN", local_response);
  r.add("Softmax", +[](const LowerCall& c) { return Tensors{at::softmax(c.in(), c.node.get_int("axis"))}; });
  r.add("LogSoftmax", +[](const LowerCall& c) { return Tensors{at::log_softmax(c.in(), c.node.get_int("axis"))}; });
  r.add("ReduceMean", reduce<mean>);
  r.add("ReduceSum", reduce<sum>);
  r.add("ReduceMax", reduce<most>);
  r.add("ReduceMin", reduce<least>);
  r.add("ReduceL2", reduce<length>);
  r.add("ReduceSumSquare", reduce<squares>);
  r.add("ArgMax", arg_most);
  r.add("ArgMin", arg_most);
}

}  // namespace lathe
