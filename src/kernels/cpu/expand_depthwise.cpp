// The first two convolutions of an inverted residual block (Sandler et al., "MobileNetV2", 2018, section 3.3) as one:
// 1×1 to many channels, then depthwise. A strip of the expanded picture is made, used and forgotten in the
// second-level cache; written out as a whole it would be several times the size of block's input and output. It is f32
// also where input and output are bf16: there it costs nothing, and the depthwise convolution gets it exact.
#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "kernels/cpu/depthwise.h"
#include "kernels/cpu/gemm.h"

namespace lathe {
namespace {

constexpr int64_t kStripBytes = 256 << 10;  // of the expanded picture: leaves the rest of a 1 MiB cache to weights, input and output

// Inputs X, W1, B1, W2, B2 (graph/ops/fused.cpp).
class ExpandDepthwise : public Kernel {
 public:
  explicit ExpandDepthwise(const KernelRequest& r) {
    const Shape &x = r.in_shape(), &w1 = r.in_shape(1), &w2 = r.in_shape(3), &y = r.out_shape();
    const auto &strides = r.node.get_ints("strides"), &pads = r.node.get_ints("pads");
    DType type = r.input(0).dtype;
    half_out_ = r.output().dtype == DType::kBF16;
    expand_weights_ = r.packed_input(1, type, gemm_panels(x[3], w1[0]), kLayout, pack_pointwise);
    if (r.has_input(2)) expand_bias_ = r.packed_input(2, DType::kF32, {w1[0]}, 0, [](const Tensor& t) { return t; });
    weights_ = r.packed_input(3, DType::kF32, depthwise_panels(w2[0], w2[2] * w2[3]), kLayout, pack_depthwise);
    if (r.has_input(4)) bias_ = r.packed_input(4, DType::kF32, {w2[0]}, 0, [](const Tensor& t) { return t; });
    expand_.rows = {1, 1, x[2], x[3], 1, x[2]};
    expand_.depth = x[3];
    expand_.columns = w1[0];
    expand_.packed = expand_weights_.raw();
    expand_.bias = expand_bias_.defined() ? expand_bias_.data<float>() : nullptr;
    expand_.activation = activation_of(r.node, "expand_");
    expand_.bf16 = type == DType::kBF16;
    depthwise_ = {nullptr, weights_.data<float>(), bias_.defined() ? bias_.data<float>() : nullptr, nullptr, nullptr,
                  1, x[1], x[2], w1[0], y[1], y[2], w2[2], w2[3], strides[0], strides[1], pads[0], pads[1], 1, 1,
                  activation_of(r.node), false, has_bf16_instructions(), nullptr};
    images_ = x[0];
    in_row_ = x[2] * x[3] * static_cast<int64_t>(size_of(type));
    row_ = x[2] * w1[0] * static_cast<int64_t>(sizeof(float));
    out_row_ = y[2] * y[3] * static_cast<int64_t>(size_of(r.output().dtype));
    strip_ = std::max<int64_t>(1, (kStripBytes / row_ - w2[2]) / strides[0] + 1);
    strip_ = std::min(strip_, y[1]);
  }

  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    const char* x = in[0]->data<char>();
    char* y = out[0]->data<char>();
    const DepthwiseArgs& d = depthwise_;
    parallel_for(images_ * d.oh, strip_, [&](int64_t begin, int64_t end) {
      char* own = static_cast<char*>(scratch) + static_cast<size_t>(omp_get_thread_num()) * thread_bytes();
      for (int64_t r = begin; r < end;) {
        const int64_t image = r / d.oh, last = std::min(end, (image + 1) * d.oh);
        run_image(x + image * d.h * in_row_, y, image, r - image * d.oh, last - image * d.oh, own);
        r = last;
      }
    });
  }
  size_t scratch_bytes() const override { return thread_bytes() * static_cast<size_t>(omp_get_max_threads()); }
  std::vector<PackedInput> packed_inputs() const override {
    return {{}, {expand_weights_, kLayout}, {expand_bias_}, {weights_, kLayout}, {bias_}};
  }

 private:
  static constexpr uint64_t kLayout = 1;

  int64_t strip_rows() const { return (strip_ - 1) * depthwise_.stride_h + depthwise_.kh; }
  // The expanded strip, then what its two parts need. Both run on one thread here, or, in a picture of one strip, on
  // all: then only the first thread's share is in use and must hold theirs.
  size_t part_bytes() const {
    return std::max(gemm_scratch(1), (depthwise_scratch(depthwise_.ow) + 63) / 64 * 64);
  }
  size_t thread_bytes() const {
    return (static_cast<size_t>(strip_rows() * row_) + 63) / 64 * 64 + part_bytes() * static_cast<size_t>(omp_get_max_threads());
  }

  // Output rows [from, to) of one image.
  void run_image(const char* x, char* y, int64_t image, int64_t from, int64_t to, char* own) {
    GemmArgs expand = expand_;
    DepthwiseArgs depthwise = depthwise_;
    const int64_t height = depthwise_.h;
    char* parts = own + (static_cast<size_t>(strip_rows() * row_) + 63) / 64 * 64;
    expand.scratch = depthwise.scratch = parts;
    expand.scratch_per_thread = part_bytes();
    int64_t have_begin = 0, have_end = 0;  // rows of the expanded picture in the strip
    for (int64_t r = from; r < to; r += strip_) {
      const int64_t rows = std::min(strip_, to - r), top = r * depthwise_.stride_h - depthwise_.pad_top;
      const int64_t begin = std::clamp<int64_t>(top, 0, height);
      const int64_t end = std::clamp<int64_t>(top + (rows - 1) * depthwise_.stride_h + depthwise_.kh, begin, height);
      const int64_t kept = r > from && have_end > begin ? have_end - begin : 0;  // of the strip before
      if (kept) std::memmove(own, own + (begin - have_begin) * row_, static_cast<size_t>(kept * row_));
      if (begin + kept < end) {
        expand.rows.height = expand.rows.out_height = end - begin - kept;
        expand.a = x + (begin + kept) * in_row_;
        expand.y = own + kept * row_;
        run_gemm(expand);
      }
      depthwise.x = own;
      depthwise.h = end - begin;
      depthwise.oh = rows;
      depthwise.pad_top = begin - top;
      depthwise.y = y + (image * depthwise_.oh + r) * out_row_;
      run_depthwise(depthwise, {false, half_out_});
      have_begin = begin;
      have_end = end;
    }
  }

  GemmArgs expand_;
  DepthwiseArgs depthwise_{};
  Tensor expand_weights_, expand_bias_, weights_, bias_;
  int64_t images_ = 1, in_row_ = 0, row_ = 0, out_row_ = 0, strip_ = 1;  // rows in bytes
  bool half_out_ = false;
};

bool supported(const KernelRequest& r) {
  DType type = r.input(0).dtype;
  if (type != DType::kF32 && !(type == DType::kBF16 && has_bf16_instructions() && r.in_shape()[3] % 2 == 0)) return false;
  auto f32 = [&](size_t i) { return !r.has_input(i) || (r.input(i).is_constant() && r.input(i).dtype == DType::kF32); };
  const DType out = r.output().dtype;
  return (out == type || (type == DType::kF32 && out == DType::kBF16)) && r.input(1).is_constant() && r.input(1).dtype == type && f32(2) && f32(3) && f32(4);
}

}  // namespace

void register_expand_depthwise(KernelRegistry& r) {
  r.add("ExpandDepthwise", "ai.lathe", {"expand.depthwise", supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> {
          return std::make_unique<ExpandDepthwise>(q);
        }});
}

}  // namespace lathe
