// Dense convolution and matrix products through oneDNN, channels-last.
#include <algorithm>
#include <cstring>
#include <dnnl.hpp>
#include <unordered_map>

#include "kernels/kernel.h"

namespace lathe {
namespace {

using dnnl::memory;
using Dims = memory::dims;

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& stream() {
  static dnnl::stream s(cpu());
  return s;
}

memory::data_type type_of(DType type) {
  switch (type) {
    case DType::kF32: return memory::data_type::f32;
    case DType::kBF16: return memory::data_type::bf16;
    default: fail(ErrorKind::kInternal, "no oneDNN type for {}", name_of(type));
  }
}

// Swish's own parameter is alpha; the rest follow the ONNX definitions.
bool append_activation(dnnl::post_ops& ops, const ActivationSpec& a) {
  using dnnl::algorithm;
  switch (a.kind) {
    case ActivationKind::kNone: return true;
    case ActivationKind::kRelu: ops.append_eltwise(1, algorithm::eltwise_relu, 0, 0); return true;
    case ActivationKind::kClip: ops.append_eltwise(1, algorithm::eltwise_clip, a.alpha, a.beta); return true;
    case ActivationKind::kLeakyRelu: ops.append_eltwise(1, algorithm::eltwise_relu, a.alpha, 0); return true;
    case ActivationKind::kElu: ops.append_eltwise(1, algorithm::eltwise_elu, a.alpha, 0); return true;
    case ActivationKind::kHardSwish: ops.append_eltwise(1, algorithm::eltwise_hardswish, 0, 0); return true;
    case ActivationKind::kHardSigmoid:
      ops.append_eltwise(1, algorithm::eltwise_linear, a.alpha, a.beta);
      ops.append_eltwise(1, algorithm::eltwise_clip, 0, 1);
      return true;
    case ActivationKind::kSigmoid: ops.append_eltwise(1, algorithm::eltwise_logistic, 0, 0); return true;
    case ActivationKind::kTanh: ops.append_eltwise(1, algorithm::eltwise_tanh, 0, 0); return true;
    case ActivationKind::kSwish: ops.append_eltwise(1, algorithm::eltwise_swish, a.alpha, 0); return true;
    case ActivationKind::kGelu: ops.append_eltwise(1, algorithm::eltwise_gelu_erf, 0, 0); return true;
    case ActivationKind::kGeluTanh: ops.append_eltwise(1, algorithm::eltwise_gelu_tanh, 0, 0); return true;
    case ActivationKind::kMish: ops.append_eltwise(1, algorithm::eltwise_mish, 0, 0); return true;
  }
  return false;
}

dnnl::primitive_attr epilogue(const Node& node, bool residual) {
  dnnl::post_ops ops;
  bool first = residual && node.get_int("residual_first");
  if (first) ops.append_sum(1);
  append_activation(ops, activation_of(node));
  if (residual && !first) ops.append_sum(1);
  dnnl::primitive_attr attr;
  attr.set_post_ops(ops);
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  return attr;
}

// A primitive with its arguments bound; run() only swaps data pointers.
class Primitive : public Kernel {
 public:
  size_t scratch_bytes() const override { return scratch_; }
  int in_place_input() const override { return residual_ ? 3 : -1; }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    // The residual is what the sum starts from: it lies in the output, or is copied there.
    if (residual_ && in[3]->raw() != out[0]->raw()) std::memcpy(out[0]->raw(), in[3]->raw(), out[0]->bytes());
    args_.at(DNNL_ARG_SRC).set_data_handle(const_cast<void*>(in[0]->raw()));
    if (dynamic_weights_) args_.at(DNNL_ARG_WEIGHTS).set_data_handle(const_cast<void*>(in[1]->raw()));
    args_.at(DNNL_ARG_DST).set_data_handle(out[0]->raw());
    args_.at(DNNL_ARG_SCRATCHPAD).set_data_handle(scratch);
    primitive_.execute(stream(), args_);
    stream().wait();
  }

 protected:
  void bind(const dnnl::primitive_desc_base& desc, dnnl::primitive primitive) {
    primitive_ = std::move(primitive);
    auto add = [&](int arg, const memory::desc& d) { args_.emplace(arg, memory(d, cpu(), nullptr)); };
    add(DNNL_ARG_SRC, desc.query_md(dnnl::query::src_md));
    add(DNNL_ARG_DST, desc.query_md(dnnl::query::dst_md));
    memory::desc pad = desc.query_md(dnnl::query::scratchpad_md);
    scratch_ = pad.get_size();
    add(DNNL_ARG_SCRATCHPAD, pad);
  }
  // Constant weights are reordered once into the layout that the primitive prefers.
  void pack_weights(const memory::desc& plain, const Tensor& w, const memory::desc& wanted) {
    memory from(plain, cpu(), const_cast<void*>(w.raw()));
    if (plain == wanted) {
      weights_ = w;
      args_.emplace(DNNL_ARG_WEIGHTS, from);
      return;
    }
    memory to(wanted, cpu());
    dnnl::reorder(from, to).execute(stream(), from, to);
    stream().wait();
    args_.emplace(DNNL_ARG_WEIGHTS, to);
  }
  void set_bias(const memory::desc& desc, const Tensor& bias) {
    bias_ = bias;
    args_.emplace(DNNL_ARG_BIAS, memory(desc, cpu(), const_cast<void*>(bias_.raw())));
  }

  dnnl::primitive primitive_;
  std::unordered_map<int, memory> args_;
  Tensor weights_, bias_;
  size_t scratch_ = 0;
  bool residual_ = false, dynamic_weights_ = false;
};

class Conv : public Primitive {
 public:
  Conv(const KernelRequest& r, dnnl::algorithm algorithm) {
    const Node& n = r.node;
    const Shape &x = r.in_shape(), &w = r.in_shape(1), &y = r.out_shape();
    int64_t groups = n.get_int("group");
    auto type = type_of(r.input(0).dtype);
    memory::desc src({x[0], x[3], x[1], x[2]}, type, memory::format_tag::nhwc);
    memory::desc dst({y[0], y[3], y[1], y[2]}, type_of(r.output().dtype), memory::format_tag::nhwc);
    Dims weight_dims = groups > 1 ? Dims{groups, w[0] / groups, w[1], w[2], w[3]} : Dims{w[0], w[1], w[2], w[3]};
    auto plain_tag = groups > 1 ? memory::format_tag::goihw : memory::format_tag::oihw;
    memory::desc any(weight_dims, type, memory::format_tag::any);
    memory::desc plain(weight_dims, type_of(r.input(1).dtype), plain_tag);
    const auto &strides = n.get_ints("strides"), &pads = n.get_ints("pads"), &dilations = n.get_ints("dilations");
    residual_ = r.has_input(3);
    Dims steps{strides[0], strides[1]}, spread{dilations[0] - 1, dilations[1] - 1}, begin{pads[0], pads[1]}, end{pads[2], pads[3]};
    auto make = [&](const dnnl::convolution_forward::desc& d) {
      dnnl::convolution_forward::primitive_desc desc(d, epilogue(n, residual_), cpu());
      bind(desc, dnnl::convolution_forward(desc));
      pack_weights(plain, r.input(1).constant, desc.weights_desc());
    };
    auto kind = dnnl::prop_kind::forward_inference;
    if (r.has_input(2)) {
      memory::desc bias({w[0]}, memory::data_type::f32, memory::format_tag::x);
      make({kind, algorithm, src, any, bias, dst, steps, spread, begin, end});
      set_bias(bias, r.input(2).constant);
    } else {
      make({kind, algorithm, src, any, dst, steps, spread, begin, end});
    }
  }
};

bool conv_supported(const KernelRequest& r) {
  DType type = r.input(0).dtype;
  if (type != DType::kF32 && type != DType::kBF16) return false;
  const auto& pads = r.node.get_ints("pads");
  bool non_negative = std::all_of(pads.begin(), pads.end(), [](int64_t p) { return p >= 0; });
  return r.input(1).is_constant() && r.input(1).dtype == type && !r.has_input(4) && non_negative && (!r.has_input(2) || r.input(2).is_constant());
}

// [M, K] × [K, N] with constant weights; leading dimensions of A are flattened.
class FusedMatMul : public Primitive {
 public:
  explicit FusedMatMul(const KernelRequest& r) {
    const Shape &a = r.in_shape(), &w = r.in_shape(1);
    auto type = type_of(r.input(0).dtype);
    int64_t k = w[0], n = w[1], m = element_count(a) / k;
    memory::desc src({m, k}, type, memory::format_tag::ab), dst({m, n}, type_of(r.output().dtype), memory::format_tag::ab);
    memory::desc any({k, n}, type, memory::format_tag::any), plain({k, n}, type_of(r.input(1).dtype), memory::format_tag::ab);
    residual_ = r.has_input(3);
    auto make = [&](const dnnl::matmul::desc& d) {
      dnnl::matmul::primitive_desc desc(d, epilogue(r.node, residual_), cpu());
      bind(desc, dnnl::matmul(desc));
      pack_weights(plain, r.input(1).constant, desc.weights_desc());
    };
    if (r.has_input(2)) {
      memory::desc bias({1, n}, memory::data_type::f32, memory::format_tag::ab);
      make({src, any, bias, dst});
      set_bias(bias, r.input(2).constant);
    } else {
      make({src, any, dst});
    }
  }
};

Dims batched(const Shape& s, size_t rank) {
  Dims d(rank - s.size(), 1);
  d.insert(d.end(), s.begin(), s.end());
  return d;
}

// Both factors computed; leading dimensions broadcast.
class MatMul : public Primitive {
 public:
  explicit MatMul(const KernelRequest& r) {
    size_t rank = std::max<size_t>(r.out_shape().size(), 2);
    auto desc_of = [&](const Value& v) {
      Dims dims = batched(*v.shape, rank), strides(rank, 1);
      for (size_t i = rank - 1; i-- > 0;) strides[i] = strides[i + 1] * dims[i + 1];
      return memory::desc(dims, type_of(v.dtype), strides);
    };
    dnnl::primitive_attr attr;
    attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(desc_of(r.input(0)), desc_of(r.input(1)), desc_of(r.output())), attr, cpu());
    bind(desc, dnnl::matmul(desc));
    args_.emplace(DNNL_ARG_WEIGHTS, memory(desc.weights_desc(), cpu(), nullptr));
    dynamic_weights_ = true;
  }
};

bool matmul_supported(const KernelRequest& r) {
  return r.all_f32() && r.in_shape(0).size() >= 2 && r.in_shape(1).size() >= 2 && r.out_shape().size() <= 6 &&
         element_count(r.in_shape(0)) > 0 && element_count(r.in_shape(1)) > 0;
}

}  // namespace

void register_onednn(KernelRegistry& r) {
  r.add("Conv", "ai.lathe", {"conv.onednn", conv_supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> {
          return std::make_unique<Conv>(q, dnnl::algorithm::convolution_direct);
        }});
  r.add("MatMul", "ai.lathe", {"matmul.packed.onednn", [](const KernelRequest& q) {
          DType t = q.input(0).dtype;
          return (t == DType::kF32 || t == DType::kBF16) && q.input(1).is_constant() && (!q.has_input(2) || q.input(2).is_constant());
        }, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<FusedMatMul>(q); }});
  r.add("MatMul", "", {"f32.matmul.onednn", matmul_supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> {
          return std::make_unique<MatMul>(q);
        }});
}

}  // namespace lathe
