#include "onednn_int8.h"

#include <dnnl.hpp>
#include <stdexcept>

namespace lathe {
namespace {

using dnnl::memory;

class OneDnnIntegerConv : public Kernel {
 public:
  explicit OneDnnIntegerConv(const KernelRequest& r) : engine_(dnnl::engine::kind::cpu, 0), stream_(engine_) {
    const Node& n = r.node;
    const Shape &x = r.in_shape(), &w = r.in_shape(1), &y = r.out_shape();
    const int64_t groups = n.get_int("group");
    const auto &strides = n.get_ints("strides"), &pads = n.get_ints("pads"), &dilations = n.get_ints("dilations");
    const bool grouped = groups > 1;
    const memory::dims sizes = grouped ? memory::dims{groups, w[0] / groups, w[1], w[2], w[3]} : memory::dims{w[0], w[1], w[2], w[3]};
    const auto plain = grouped ? memory::format_tag::goihw : memory::format_tag::oihw;
    const memory::desc source({x[0], x[3], x[1], x[2]}, memory::data_type::u8, memory::format_tag::nhwc);
    const memory::desc target({y[0], y[3], y[1], y[2]}, memory::data_type::u8, memory::format_tag::nhwc);
    const memory::desc any(sizes, memory::data_type::s8, memory::format_tag::any), bias({w[0]}, memory::data_type::s32, memory::format_tag::x);
    const Tensor& multipliers = r.input(2).constant;
    dnnl::primitive_attr attr;
    attr.set_output_scales(2, {multipliers.data<float>(), multipliers.data<float>() + multipliers.size()});
    attr.set_zero_points(DNNL_ARG_SRC, 0, {static_cast<int>(n.get_int("x_zero_point"))});
    attr.set_zero_points(DNNL_ARG_DST, 0, {static_cast<int>(n.get_int("y_zero_point"))});
    const dnnl::convolution_forward::desc d(dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct, source, any, bias, target,
                                            {strides[0], strides[1]}, {dilations[0] - 1, dilations[1] - 1}, {pads[0], pads[1]}, {pads[2], pads[3]});
    const dnnl::convolution_forward::primitive_desc desc(d, attr, engine_);
    primitive_ = dnnl::convolution_forward(desc);
    source_ = memory(source, engine_, nullptr);
    target_ = memory(target, engine_, nullptr);
    bias_ = memory(bias, engine_, const_cast<void*>(r.input(3).constant.raw()));
    memory given({sizes, memory::data_type::s8, plain}, engine_, const_cast<void*>(r.input(1).constant.raw()));
    weights_ = memory(desc.weights_desc(), engine_);
    dnnl::reorder(given, weights_).execute(stream_, given, weights_);
    stream_.wait();
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    source_.set_data_handle(const_cast<void*>(in[0]->raw()));
    target_.set_data_handle(out[0]->raw());
    primitive_.execute(stream_, {{DNNL_ARG_SRC, source_}, {DNNL_ARG_WEIGHTS, weights_}, {DNNL_ARG_BIAS, bias_}, {DNNL_ARG_DST, target_}});
    stream_.wait();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  dnnl::convolution_forward primitive_;
  memory source_, target_, bias_, weights_;
};

}  // namespace

std::unique_ptr<Kernel> onednn_integer_conv(const KernelRequest& request) {
  try {
    return std::make_unique<OneDnnIntegerConv>(request);
  } catch (const dnnl::error& e) {
    throw std::runtime_error(e.what());
  }
}

}  // namespace lathe
