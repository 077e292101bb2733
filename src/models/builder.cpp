#include "models/builder.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "graph/op.h"
#include "graph/ops/window.h"

namespace lathe {

Builder::Builder(std::string name, const BuildOptions& options) : options_(options), random_(options.seed) { graph_.name = std::move(name); }

Builder::Scope Builder::scope(std::string name) {
  scopes_.push_back(std::move(name));
  return Scope(*this);
}

std::string Builder::named(const std::string& name) const {
  std::string all;
  for (const std::string& s : scopes_) all += s + ".";
  return all + name;
}

std::string Builder::norm_prefix() const { return taken_.contains(named("weight")) ? "norm." : ""; }

const Shape& Builder::shape(ValueId x) const {
  require(graph_[x].shape.has_value(), "{} has no shape", graph_[x].name);
  return *graph_[x].shape;
}

ValueId Builder::input(const Shape& shape, const std::string& name) {
  Shape whole{kUnknownDim};
  whole.insert(whole.end(), shape.begin(), shape.end());
  const ValueId x = graph_.add_input(name, DType::kF32, whole);
  graph_[x].dim_names.assign(whole.size(), "");
  graph_[x].dim_names[0] = "N";
  return x;
}

Graph Builder::finish(std::vector<ValueId> outputs, std::vector<std::string> names) {
  require(outputs.size() == names.size(), "{} outputs and {} names", outputs.size(), names.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    graph_[outputs[i]].name = names[i];
    graph_[outputs[i]].dim_names.assign(shape(outputs[i]).size(), "");
    if (!graph_[outputs[i]].dim_names.empty()) graph_[outputs[i]].dim_names[0] = "N";
  }
  graph_.outputs = std::move(outputs);
  verify(graph_);
  return std::move(graph_);
}

double Builder::uniform() { return static_cast<double>(random_() >> 11) * 0x1p-53; }
double Builder::normal() {
  const double u = 1 - uniform();
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * uniform());
}

ValueId Builder::parameter(const std::string& name, const Shape& shape, Init init, int64_t fan_in, int64_t fan_out) {
  Tensor t(DType::kF32, shape);
  if (options_.draw) {
    const double in = static_cast<double>(fan_in), out = static_cast<double>(fan_out);
    std::function<double()> next;
    using enum Init::Kind;
    switch (init.kind) {
      case kHeNormalOut: next = [&] { return normal() * std::sqrt(2 / out); }; break;
      case kHeNormalIn: next = [&] { return normal() * std::sqrt(2 / in); }; break;
      case kHeUniformIn: next = [&] { return (2 * uniform() - 1) * std::sqrt(6 / in); }; break;
      case kUniformIn: next = [&] { return (2 * uniform() - 1) / std::sqrt(in); }; break;
      case kXavierUniform: next = [&] { return (2 * uniform() - 1) * std::sqrt(6 / (in + out)); }; break;
      case kNormal: next = [&] { return normal() * init.value; }; break;
      case kTruncatedNormal:
        next = [&] {
          double x = normal() * init.value;
          while (std::abs(x) > 2) x = normal() * init.value;
          return x;
        };
        break;
      case kConstant: next = [&] { return init.value; }; break;
    }
    for (int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] = static_cast<float>(next());
  }
  require(taken_.insert(named(name)).second, "two parameters are named {}", named(name));
  return graph_.add_constant(std::move(t), named(name));
}

ValueId Builder::frozen(const std::string& name, Tensor values) { return graph_.add_constant(std::move(values), named(name) + ".frozen"); }
ValueId Builder::literal(double value) { return graph_.add_constant(Tensor::scalar(static_cast<float>(value))); }

ValueId Builder::index(int64_t value) {
  Tensor t(DType::kI64, {});
  t.set_int(0, value);
  return graph_.add_constant(t);
}

ValueId Builder::op(std::string_view name, std::vector<ValueId> inputs, Attributes attributes) {
  const ValueId y = graph_.add(name, std::move(inputs), std::move(attributes), graph_.fresh_name(named(std::string(name.substr(name.rfind(':') == name.npos ? 0 : name.rfind(':') + 1)))));
  std::string all;
  for (const std::string& s : scopes_) all += (all.empty() ? "" : ".") + s;
  graph_[graph_[y].producer].scope = all;
  return y;
}

namespace {

std::vector<int64_t> each_of(const Sizes& sizes, size_t axes) {
  std::vector<int64_t> all(axes);
  for (size_t i = 0; i < axes; ++i) all[i] = sizes.at(i);
  return all;
}

// [begin of each axis, end of each axis].
std::vector<int64_t> pads_of(const Shape& x, const Sizes& kernel, const Sizes& stride, const Sizes& pad, const Sizes& dilation) {
  const size_t axes = x.size() - 2;
  const ops::Window same = ops::resolve_window(
      ops::spatial_of(x), {.kernel = each_of(kernel, axes), .strides = each_of(stride, axes), .dilations = each_of(dilation, axes), .auto_pad = "SAME_UPPER"});
  std::vector<int64_t> pads(2 * axes);
  for (size_t i = 0; i < axes; ++i) {
    pads[i] = pad.at(i) == kSamePad ? same.begin[i] : pad.at(i);
    pads[axes + i] = pad.at(i) == kSamePad ? same.end[i] : pad.at(i);
  }
  return pads;
}

}  // namespace

ValueId Builder::conv(ValueId x, const ConvSpec& spec) {
  const Shape in = shape(x);
  const size_t axes = in.size() - 2;
  if (spec.out <= 0 || in[1] % spec.groups != 0 || spec.out % spec.groups != 0)
    fail(ErrorKind::kUsage, "{}: a convolution of {} to {} channels in {} groups", named(""), in[1], spec.out, spec.groups);
  Shape w{spec.out, in[1] / spec.groups};
  int64_t window = 1;
  for (size_t i = 0; i < axes; ++i) {
    w.push_back(spec.kernel.at(i));
    window *= spec.kernel.at(i);
  }
  std::vector<ValueId> inputs{x, parameter("weight", w, conv_init, w[1] * window, spec.out / spec.groups * window)};
  if (spec.bias) inputs.push_back(parameter("bias", {spec.out}, bias_init, w[1] * window));
  return op("Conv", inputs, {{"kernel_shape", each_of(spec.kernel, axes)}, {"strides", each_of(spec.stride, axes)}, {"dilations", each_of(spec.dilation, axes)},
                             {"pads", pads_of(in, spec.kernel, spec.stride, spec.pad, spec.dilation)}, {"group", spec.groups}});
}

ValueId Builder::depthwise(ValueId x, Sizes kernel, Sizes stride, Sizes pad, bool bias, Sizes dilation) {
  return conv(x, {.out = channels(x), .kernel = std::move(kernel), .stride = std::move(stride), .pad = std::move(pad), .dilation = std::move(dilation), .groups = channels(x), .bias = bias});
}

ValueId Builder::linear(ValueId x, int64_t out, bool bias) {
  const int64_t in = shape(x).back();
  if (out <= 0 || in <= 0) fail(ErrorKind::kUsage, "{}: a linear layer of {} to {}", named(""), in, out);
  if (shape(x).size() == 2) {
    std::vector<ValueId> inputs{x, parameter("weight", {out, in}, linear_init, in, out)};
    if (bias) inputs.push_back(parameter("bias", {out}, bias_init, in));
    return op("Gemm", inputs, {{"transB", int64_t{1}}});
  }
  const ValueId y = op("MatMul", {x, parameter("weight", {in, out}, linear_init, in, out)});
  return bias ? add(y, parameter("bias", {out}, bias_init, in)) : y;
}

ValueId Builder::batch_norm(ValueId x) {
  const Shape c{channels(x)};
  const std::string in = norm_prefix();
  return op("BatchNormalization",
            {x, parameter(in + "weight", c, Init::constant(1)), parameter(in + "bias", c, Init::constant(0)),
             parameter(in + "mean", c, Init::constant(0)), parameter(in + "variance", c, Init::constant(1))},
            {{"epsilon", static_cast<float>(batch_norm_epsilon)}});
}

ValueId Builder::group_norm(ValueId x, double epsilon, bool bias, int64_t groups) {
  const Shape c{channels(x)};
  Tensor none(DType::kF32, c);
  std::fill_n(none.data<float>(), none.size(), 0.0f);
  const std::string in = norm_prefix();
  const ValueId shift = bias ? parameter(in + "bias", c, Init::constant(0)) : frozen(in + "bias", none);
  return op("GroupNormalization", {x, parameter(in + "weight", c, Init::constant(1)), shift},
            {{"num_groups", groups}, {"epsilon", static_cast<float>(epsilon)}});
}

ValueId Builder::layer_norm(ValueId x, double epsilon, bool bias) {
  const Shape c{shape(x).back()};
  const std::string in = norm_prefix();
  std::vector<ValueId> inputs{x, parameter(in + "weight", c, Init::constant(1))};
  if (bias) inputs.push_back(parameter(in + "bias", c, Init::constant(0)));
  return op("LayerNormalization", inputs, {{"axis", int64_t{-1}}, {"epsilon", static_cast<float>(epsilon)}});
}

ValueId Builder::channel_norm(ValueId x, double epsilon, bool bias) {
  std::vector<int64_t> last{0}, back{0};
  const auto rank = static_cast<int64_t>(shape(x).size());
  for (int64_t i = 2; i < rank; ++i) last.push_back(i);
  last.push_back(1);
  back.push_back(rank - 1);
  for (int64_t i = 1; i + 1 < rank; ++i) back.push_back(i);
  return transpose(layer_norm(transpose(x, last), epsilon, bias), back);
}

ValueId Builder::relu6(ValueId x) { return op("Clip", {x, literal(0), literal(6)}); }

ValueId Builder::max_pool(ValueId x, const PoolSpec& spec) {
  const size_t axes = shape(x).size() - 2;
  return op("MaxPool", {x}, {{"kernel_shape", each_of(spec.kernel, axes)}, {"strides", each_of(spec.stride, axes)}, {"pads", pads_of(shape(x), spec.kernel, spec.stride, spec.pad, 1)}});
}
ValueId Builder::average_pool(ValueId x, const PoolSpec& spec) {
  const size_t axes = shape(x).size() - 2;
  return op("AveragePool", {x}, {{"kernel_shape", each_of(spec.kernel, axes)}, {"strides", each_of(spec.stride, axes)}, {"pads", pads_of(shape(x), spec.kernel, spec.stride, spec.pad, 1)},
                                 {"count_include_pad", static_cast<int64_t>(spec.count_pad)}});
}

ValueId Builder::concat(const std::vector<ValueId>& parts, int64_t axis) { return op("Concat", parts, {{"axis", axis}}); }
ValueId Builder::reshape(ValueId x, const Shape& shape) { return op("Reshape", {x, graph_.add_constant(Tensor::of_i64(shape))}); }
ValueId Builder::transpose(ValueId x, const std::vector<int64_t>& order) { return op("Transpose", {x}, {{"perm", order}}); }

ValueId Builder::self_attention(ValueId tokens, int64_t heads, bool qkv_bias, bool projection_bias, double rate) {
  const int64_t count = shape(tokens)[1], width = shape(tokens)[2], size = width / heads;
  if (heads <= 0 || size * heads != width) fail(ErrorKind::kUsage, "{}: {} heads of {} channels", named("attention"), heads, width);
  ValueId all;
  {
    auto qkv = scope("qkv");
    all = linear(tokens, 3 * width, qkv_bias);
  }
  all = transpose(reshape(all, {0, count, 3, heads, size}), {2, 0, 3, 1, 4});  // [3, N, heads, T, size]
  const auto part = [&](int64_t i) { return op("Gather", {all, index(i)}, {{"axis", int64_t{0}}}); };
  const ValueId query = mul(part(0), literal(1 / std::sqrt(static_cast<double>(size)))), key = transpose(part(1), {0, 1, 3, 2}),
                value = part(2);
  const ValueId weights = dropout(op("Softmax", {op("MatMul", {query, key})}, {{"axis", int64_t{-1}}}), rate);
  const ValueId mixed = transpose(op("MatMul", {weights, value}), {0, 2, 1, 3});
  auto projection = scope("projection");
  return linear(reshape(mixed, {0, count, width}), width, projection_bias);
}

ValueId Builder::dropout(ValueId x, double rate) {
  if (!options_.training || rate == 0) return x;
  Tensor on(DType::kBool, {});
  on.set_int(0, 1);
  return op("Dropout", {x, literal(rate), graph_.add_constant(on)});
}
ValueId Builder::drop_path(ValueId x, double rate, bool scheduled) {
  if (!options_.training || rate == 0) return x;
  return op("ai.lathe::DropPath", {x}, {{"rate", static_cast<float>(rate)}, {"scheduled", static_cast<int64_t>(scheduled)}});
}

Parameters parameters_of(const Graph& graph) {
  Parameters all;
  const std::vector<std::vector<NodeId>> readers = graph.consumers();
  for (size_t i = 0; i < graph.value_count(); ++i) {
    const ValueId id{static_cast<int32_t>(i)};
    const Value& v = graph[id];
    if (!v.is_constant() || v.dtype != DType::kF32 || v.constant.rank() == 0 || readers[i].empty()) continue;
    const Node& reader = graph[readers[i][0]];
    const auto is_input = [&](size_t from) { return std::find(reader.inputs.begin() + static_cast<std::ptrdiff_t>(from), reader.inputs.end(), id) != reader.inputs.end(); };
    if (reader.op->name == "Resize") continue;  // its scales
    if (reader.op->name == "BatchNormalization" && reader.inputs.size() == 5 && is_input(3)) all.statistics.push_back(id);
    else if (v.name.ends_with(".frozen")) all.frozen.push_back(id);
    else all.trained.push_back(id);
  }
  return all;
}

int64_t make_divisible(double channels, int64_t divisor) {
  const int64_t nearest = std::max(divisor, static_cast<int64_t>(channels + static_cast<double>(divisor) / 2) / divisor * divisor);
  return static_cast<double>(nearest) < 0.9 * channels ? nearest + divisor : nearest;
}

}  // namespace lathe
