// Dense convolution and matrix products through oneDNN, channels-last.
#include <algorithm>
#include <cstring>
#include <string_view>
#include <vector>

#include "kernels/cpu/onednn_library.h"
#include "kernels/kernel.h"

namespace lathe {

const dnnl::engine& onednn_cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& onednn_stream() {
  static dnnl::stream s(onednn_cpu());
  return s;
}

void onednn_reorder(dnnl::memory from, dnnl::memory to) {
  dnnl::reorder(from, to).execute(onednn_stream(), from, to);
  onednn_stream().wait();
}

// oneDNN 2.6 crashes in its own depthwise code for SSE4.1 when channels do not fill its vectors.
bool onednn_takes_groups() { return dnnl::get_effective_cpu_isa() != dnnl::cpu_isa::sse41; }

namespace {

using dnnl::memory;
using Dims = memory::dims;

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

// A number for the arrangement that a descriptor describes. Which one oneDNN prefers depends on its version, the
// instruction set and the number of threads, so that it must be compared when packed weights come from a file.
uint64_t layout_of(const memory::desc& desc) {
  const dnnl_memory_desc_t& d = desc.data;
  require(d.format_kind == dnnl_blocked, "oneDNN prefers weights in a form that is not blocked");
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  auto mix = [&](int64_t number) { hash = (hash ^ static_cast<uint64_t>(number)) * 0x100000001b3; };
  mix(d.data_type);
  mix(d.ndims);
  for (int i = 0; i < d.ndims; ++i) {
    mix(d.dims[i]);
    mix(d.padded_dims[i]);
    mix(d.format_desc.blocking.strides[i]);
  }
  for (int i = 0; i < d.format_desc.blocking.inner_nblks; ++i) {
    mix(d.format_desc.blocking.inner_blks[i]);
    mix(d.format_desc.blocking.inner_idxs[i]);
  }
  mix(static_cast<int64_t>(d.extra.flags));
  return hash;
}

// A primitive with its arguments bound; run() only swaps data pointers. The arguments are handed to oneDNN's C
// interface as they lie here: its C++ one builds a vector of them for each execution.
class Primitive : public Kernel {
 public:
  size_t scratch_bytes() const override { return scratch_; }
  int in_place_input() const override { return residual_ ? 3 : -1; }
  std::vector<PackedInput> packed_inputs() const override {
    return dynamic_weights_ ? std::vector<PackedInput>{} : std::vector<PackedInput>{{}, {weights_, layout_}, {bias_}};
  }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    // The residual is what the sum starts from: it lies in the output, or is copied there.
    if (residual_ && in[3]->raw() != out[0]->raw()) std::memcpy(out[0]->raw(), in[3]->raw(), out[0]->bytes());
    memories_[kSource].set_data_handle(const_cast<void*>(in[0]->raw()));
    memories_[kTarget].set_data_handle(out[0]->raw());
    memories_[kScratch].set_data_handle(scratch);
    if (dynamic_weights_) memories_[kWeights].set_data_handle(const_cast<void*>(in[1]->raw()));
    dnnl::error::wrap_c_api(
        dnnl_primitive_execute(primitive_.get(), onednn_stream().get(), static_cast<int>(args_.size()), args_.data()),
        "oneDNN could not execute a primitive");
    onednn_stream().wait();
  }

 protected:
  enum { kSource, kTarget, kScratch, kWeights, kBias };  // the order of memories_

  void bind(const dnnl::primitive_desc_base& desc, dnnl::primitive primitive) {
    primitive_ = std::move(primitive);
    add(DNNL_ARG_SRC, desc.query_md(dnnl::query::src_md), nullptr);
    add(DNNL_ARG_DST, desc.query_md(dnnl::query::dst_md), nullptr);
    memory::desc pad = desc.query_md(dnnl::query::scratchpad_md);
    scratch_ = pad.get_size();
    add(DNNL_ARG_SCRATCHPAD, pad, nullptr);
  }
  void add(int argument, const memory::desc& desc, void* data) {
    memories_.emplace_back(desc, onednn_cpu(), data);
    args_.push_back({argument, memories_.back().get()});
  }
  // Constant weights are reordered once into the layout that the primitive prefers.
  void pack_weights(const KernelRequest& r, const memory::desc& plain, const memory::desc& wanted) {
    layout_ = layout_of(wanted);
    if (plain == wanted) {
      weights_ = r.packed_input(1, r.input(1).dtype, r.in_shape(1), layout_, [](const Tensor& w) { return w; });
    } else {
      Shape bytes{static_cast<int64_t>(wanted.get_size())};
      weights_ = r.packed_input(1, DType::kU8, bytes, layout_, [&](const Tensor& w) {
        Tensor packed(DType::kU8, bytes);
        memory from(plain, onednn_cpu(), const_cast<void*>(w.raw())), to(wanted, onednn_cpu(), packed.raw());
        onednn_reorder(from, to);
        return packed;
      });
    }
    add(DNNL_ARG_WEIGHTS, wanted, weights_.raw());
  }
  void set_bias(const KernelRequest& r, const memory::desc& desc) {
    bias_ = r.packed_input(2, DType::kF32, r.in_shape(2), 0, [](const Tensor& b) { return b; });
    add(DNNL_ARG_BIAS, desc, bias_.raw());
  }

  dnnl::primitive primitive_;
  std::vector<memory> memories_;
  std::vector<dnnl_exec_arg_t> args_;
  Tensor weights_, bias_;
  uint64_t layout_ = 0;
  size_t scratch_ = 0;
  bool residual_ = false, dynamic_weights_ = false;
};

class Conv : public Primitive {
 public:
  Conv(const KernelRequest& r, dnnl::algorithm algorithm) {
    const Node& n = r.node;
    const Shape &x = r.in_shape(), &w = r.in_shape(1), &y = r.out_shape();
    int64_t groups = n.get_int("group");
    if (groups > 1 && !onednn_takes_groups()) throw std::runtime_error("no convolution in groups without AVX");
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
      dnnl::convolution_forward::primitive_desc desc(d, epilogue(n, residual_), onednn_cpu());
      // Groups and windows that its generated code does not cover: ours does, unless the taps are apart.
      if (dilations[1] == 1 && std::string_view(desc.impl_info_str()).starts_with("ref")) throw std::runtime_error("only plain loops");
      bind(desc, dnnl::convolution_forward(desc));
      pack_weights(r, plain, desc.weights_desc());
    };
    auto kind = dnnl::prop_kind::forward_inference;
    if (r.has_input(2)) {
      memory::desc bias({w[0]}, memory::data_type::f32, memory::format_tag::x);
      make({kind, algorithm, src, any, bias, dst, steps, spread, begin, end});
      set_bias(r, bias);
    } else {
      make({kind, algorithm, src, any, dst, steps, spread, begin, end});
    }
  }
};

bool constant_bias(const KernelRequest& r) {
  return !r.has_input(2) || (r.input(2).is_constant() && r.input(2).dtype == DType::kF32);
}

// f32, or bf16 with a result of either.
bool precisions(const KernelRequest& r) {
  const DType in = r.input(0).dtype, out = r.output().dtype;
  return (in == DType::kF32 && out == in) || (in == DType::kBF16 && (out == in || out == DType::kF32));
}

bool conv_supported(const KernelRequest& r) {
  DType type = r.input(0).dtype;
  if (!precisions(r)) return false;
  const auto& pads = r.node.get_ints("pads");
  bool non_negative = std::all_of(pads.begin(), pads.end(), [](int64_t p) { return p >= 0; });
  return r.input(1).is_constant() && r.input(1).dtype == type && !r.has_input(4) && non_negative && constant_bias(r);
}

// [M, K] × [K, N] with constant weights; leading dimensions of A are flattened.
class FusedMatMul : public Primitive {
 public:
  explicit FusedMatMul(const KernelRequest& r) {
    const Shape &a = r.in_shape(), &w = r.in_shape(1);
    auto type = type_of(r.input(0).dtype);
    const bool transposed = r.node.get_int("transposed") != 0;
    int64_t k = w[transposed], n = w[!transposed], m = element_count(a) / k;
    memory::desc src({m, k}, type, memory::format_tag::ab), dst({m, n}, type_of(r.output().dtype), memory::format_tag::ab);
    memory::desc any({k, n}, type, memory::format_tag::any), plain({k, n}, type_of(r.input(1).dtype), transposed ? memory::format_tag::ba : memory::format_tag::ab);
    residual_ = r.has_input(3);
    auto make = [&](const dnnl::matmul::desc& d) {
      dnnl::matmul::primitive_desc desc(d, epilogue(r.node, residual_), onednn_cpu());
      bind(desc, dnnl::matmul(desc));
      pack_weights(r, plain, desc.weights_desc());
    };
    if (r.has_input(2)) {
      memory::desc bias({1, n}, memory::data_type::f32, memory::format_tag::ab);
      make({src, any, bias, dst});
      set_bias(r, bias);
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
    dnnl::matmul::primitive_desc desc(dnnl::matmul::desc(desc_of(r.input(0)), desc_of(r.input(1)), desc_of(r.output())), attr, onednn_cpu());
    bind(desc, dnnl::matmul(desc));
    add(DNNL_ARG_WEIGHTS, desc.weights_desc(), nullptr);
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
          return precisions(q) && q.input(1).is_constant() && constant_bias(q);
        }, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<FusedMatMul>(q); }});
  r.add("MatMul", "", {"f32.matmul.onednn", matmul_supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> {
          return std::make_unique<MatMul>(q);
        }});
}

}  // namespace lathe
