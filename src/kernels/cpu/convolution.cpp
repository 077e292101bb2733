#include "kernels/convolution.h"

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>

#include "core/parallel.h"
#include "kernels/cpu/onednn_library.h"
#include "kernels/kernel.h"

namespace lathe {
namespace {

using dnnl::memory;
using Dims = memory::dims;

// Its generated code for this very shape.
template <class Desc>
bool generated(const Desc& desc) {
  const std::string_view name = desc.impl_info_str();
  return name.starts_with("jit") || name.starts_with("brg");
}

class Convolution : public FastConvolution {
 public:
  // Throws dnnl::error where oneDNN has nothing.
  Convolution(const ConvolutionShape& s, bool gradients) {
    const size_t axes = s.weights.size() - 2;
    const auto tag = axes == 3 ? memory::format_tag::ndhwc : memory::format_tag::nhwc;
    const memory::desc x(s.input, memory::data_type::f32, tag), y(s.output, memory::data_type::f32, tag), bias({s.weights[0]}, memory::data_type::f32, memory::format_tag::x);
    Dims dims = s.weights;
    if (s.groups > 1) {
      dims[0] /= s.groups;
      dims.insert(dims.begin(), s.groups);
    }
    constexpr memory::format_tag kPlain[] = {memory::format_tag::abcd, memory::format_tag::abcde, memory::format_tag::abcdef};
    plain_ = memory::desc(dims, memory::data_type::f32, kPlain[dims.size() - 4]);
    const memory::desc any(dims, memory::data_type::f32, memory::format_tag::any);
    Dims spread = s.dilations;
    for (int64_t& d : spread) d -= 1;

    dnnl::primitive_attr attr, limited;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    limited.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::post_ops ops;
    constexpr float kNone = std::numeric_limits<float>::infinity();
    if (s.low == 0 && s.high == kNone) ops.append_eltwise(1, dnnl::algorithm::eltwise_relu, 0, 0);
    else if (s.low > -kNone || s.high < kNone) ops.append_eltwise(1, dnnl::algorithm::eltwise_clip, s.low, s.high);
    limited.set_post_ops(ops);

    using Forward = dnnl::convolution_forward;
    using OfInput = dnnl::convolution_backward_data;
    using OfWeights = dnnl::convolution_backward_weights;
    const auto direct = dnnl::algorithm::convolution_direct;
    const Forward::desc desc(dnnl::prop_kind::forward_training, direct, x, any, bias, y, s.strides, spread, s.begin, s.end);
    const Forward::primitive_desc forward(desc, limited, onednn_cpu());
    fast_ = generated(forward);
    if (!fast_) return;
    forward_ = {Forward(forward), x, y, forward.weights_desc(), bias, forward.scratchpad_desc()};
    if (!gradients) return;
    const Forward::primitive_desc hint(desc, attr, onednn_cpu());
    const OfInput::primitive_desc of_x(OfInput::desc(direct, x, any, y, s.strides, spread, s.begin, s.end), attr, onednn_cpu(), hint);
    const OfWeights::primitive_desc of_w(OfWeights::desc(direct, x, any, y, s.strides, spread, s.begin, s.end), attr, onednn_cpu(), hint);
    fast_ = generated(of_x) && generated(of_w);
    if (!fast_) return;
    of_x_ = {OfInput(of_x), x, y, of_x.weights_desc(), {}, of_x.scratchpad_desc()};
    of_w_ = {OfWeights(of_w), x, y, of_w.diff_weights_desc(), {}, of_w.scratchpad_desc()};
  }
  bool fast() const { return fast_; }

  void forward(const float* x, const float* weights, const float* bias, float* y) const override {
    const memory w = packed(weights, forward_.weights);
    run(forward_, {{DNNL_ARG_SRC, at(forward_.x, x)}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_BIAS, at(forward_.bias, bias)}, {DNNL_ARG_DST, at(forward_.y, y)}});
  }
  void input_gradient(const float* gradient, const float* weights, float* dx) const override {
    const memory w = packed(weights, of_x_.weights);
    run(of_x_, {{DNNL_ARG_DIFF_DST, at(of_x_.y, gradient)}, {DNNL_ARG_WEIGHTS, w}, {DNNL_ARG_DIFF_SRC, at(of_x_.x, dx)}});
  }
  void weight_gradient(const float* x, const float* gradient, float* dw) const override {
    const bool same = of_w_.weights == plain_;
    const memory w = same ? at(plain_, dw) : memory(of_w_.weights, onednn_cpu());
    run(of_w_, {{DNNL_ARG_SRC, at(of_w_.x, x)}, {DNNL_ARG_DIFF_DST, at(of_w_.y, gradient)}, {DNNL_ARG_DIFF_WEIGHTS, w}});
    if (!same) onednn_reorder(w, at(plain_, dw));
  }

 private:
  struct Pass {
    dnnl::primitive primitive;
    memory::desc x, y, weights, bias, scratchpad;
  };
  static memory at(const memory::desc& desc, const float* data) { return memory(desc, onednn_cpu(), const_cast<float*>(data)); }
  // Weights in the arrangement that a pass wants: for its time alone.
  memory packed(const float* weights, const memory::desc& wanted) const {
    const memory plain = at(plain_, weights);
    if (wanted == plain_) return plain;
    memory made(wanted, onednn_cpu());
    onednn_reorder(plain, made);
    return made;
  }
  static void run(const Pass& pass, std::unordered_map<int, memory> arguments) {
    arguments.emplace(DNNL_ARG_SCRATCHPAD, memory(pass.scratchpad, onednn_cpu()));
    pass.primitive.execute(onednn_stream(), arguments);
    onednn_stream().wait();
  }

  memory::desc plain_;
  Pass forward_, of_x_, of_w_;
  bool fast_ = false;
};

std::unique_ptr<FastConvolution> made(const ConvolutionShape& s, bool gradients) {
  const auto empty = [](const std::vector<int64_t>& sizes) { return std::any_of(sizes.begin(), sizes.end(), [](int64_t n) { return n <= 0; }); };
  const auto negative = [](const std::vector<int64_t>& pads) { return std::any_of(pads.begin(), pads.end(), [](int64_t n) { return n < 0; }); };
  const size_t axes = s.weights.size();
  if (axes < 4 || axes > 5 || empty(s.input) || empty(s.weights) || empty(s.output) || negative(s.begin) || negative(s.end) || !onednn_available()) return nullptr;
  if (s.groups > 1 && !onednn_takes_groups()) return nullptr;
  try {
    auto c = std::make_unique<Convolution>(s, gradients);
    if (!c->fast()) return nullptr;
    return c;
  } catch (const dnnl::error&) {
    return nullptr;
  }
}

}  // namespace

const FastConvolution* fast_convolution(const ConvolutionShape& shape, bool gradients) {
  struct Key {
    ConvolutionShape shape;
    int threads;
    bool gradients;
    auto operator<=>(const Key&) const = default;
  };
  static std::mutex mutex;
  static std::map<Key, std::unique_ptr<FastConvolution>> all;
  const std::lock_guard lock(mutex);
  const Key key{shape, omp_get_max_threads(), gradients};
  auto found = all.find(key);
  if (found == all.end()) found = all.emplace(key, made(shape, gradients)).first;
  return found->second.get();
}

}  // namespace lathe
