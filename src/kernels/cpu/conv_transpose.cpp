// Transposed convolution, channels-last: for a strip of input rows one product gives what each pixel contributes under
// every tap, [pixels, taps · outputs], in the second-level cache; each output pixel then adds up the few that fall on it.
// f32, or bf16 with sums in f32.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/conv_transpose.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>

#include "core/parallel.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes-inl.h"

#ifndef LATHE_CONV_TRANSPOSE_SHARED
#define LATHE_CONV_TRANSPOSE_SHARED
namespace lathe {
// What falls on one row of the output.
struct ScatteredRow {
  const float* const* lines;  // for each row tap that falls here: the contributions [in_width][taps_w][outputs] of its row
  int64_t line_count;
  const int32_t* columns;     // for each output column, column_taps offsets into a line, in elements; −1: none
  int64_t column_taps, width, outputs;
  const float* bias;
  ActivationSpec activation;
  bool half;
  void* y;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

void AddContributions(const ScatteredRow& r) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V alpha = hn::Set(d, r.activation.alpha), beta = hn::Set(d, r.activation.beta);
  WithElements(r.half, [&]<class T>() {
    WithActivation(r.activation.kind, [&]<ActivationKind kAct>() {
      T* y = static_cast<T*>(r.y);
      const int32_t* taps = r.columns;
      for (int64_t x = 0; x < r.width; ++x, taps += r.column_taps, y += r.outputs) {
        auto part = [&]<bool kWhole>(int64_t o, hn::Mask<D> m) {
          V acc = r.bias ? LoadChannels<kWhole>(d, r.bias + o, m) : hn::Zero(d);
          for (int64_t l = 0; l < r.line_count; ++l)
            for (int64_t t = 0; t < r.column_taps; ++t)
              if (taps[t] >= 0) acc = hn::Add(acc, LoadChannels<kWhole>(d, r.lines[l] + taps[t] + o, m));
          FinishLanes<T, kAct, kWhole>(d, acc, static_cast<const T*>(nullptr), false, y + o, m, alpha, beta);
        };
        int64_t o = 0;
        for (; o + lanes <= r.outputs; o += lanes) part.template operator()<true>(o, FirstLanes(d, lanes));
        if (o < r.outputs) part.template operator()<false>(o, FirstLanes(d, r.outputs - o));
      }
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(AddContributions);

namespace {

constexpr int64_t kContributionBytes = 256 << 10;  // of a strip: a quarter of a 1 MiB cache

class ConvTranspose : public Kernel {
 public:
  explicit ConvTranspose(const KernelRequest& r) : threads_(omp_get_max_threads()) {
    const Shape &x = r.in_shape(), &w = r.in_shape(1), &y = r.out_shape();
    const auto &strides = r.node.get_ints("strides"), &pads = r.node.get_ints("pads"), &dilations = r.node.get_ints("dilations");
    const DType type = r.input(0).dtype;
    half_ = type == DType::kBF16;
    element_ = static_cast<int64_t>(size_of(type));
    in_height_ = x[1];
    in_width_ = x[2];
    channels_ = x[3];
    height_ = y[1];
    width_ = y[2];
    outputs_ = w[1];
    taps_h_ = w[2];
    taps_w_ = w[3];
    stride_h_ = strides[0];
    dilation_h_ = dilations[0];
    pad_top_ = pads[0];
    const int64_t columns = taps_h_ * taps_w_ * outputs_;
    weights_ = r.packed_input(1, type, gemm_panels(channels_, columns), kLayout, [&](const Tensor& t) {
      Tensor rows = transpose(t, {2, 3, 1, 0}).reshaped({columns, channels_, 1, 1});
      return pack_pointwise(half_ ? cast(rows, DType::kBF16) : rows);
    });
    if (r.has_input(2)) bias_ = r.packed_input(2, DType::kF32, {outputs_}, 0, [](const Tensor& t) { return t; });
    product_.rows = {1, 1, in_width_, channels_, 1, in_width_};
    product_.depth = channels_;
    product_.columns = columns;
    product_.packed = weights_.raw();
    product_.bf16 = half_;
    line_ = in_width_ * columns;
    strip_ = std::clamp<int64_t>((kContributionBytes / (line_ * 4) - 1) * stride_h_ - (taps_h_ - 1) * dilation_h_, 1, height_);
    strip_lines_ = std::min(in_height_, (strip_ - 1 + (taps_h_ - 1) * dilation_h_) / stride_h_ + 1);
    column_taps_ = 0;
    std::vector<std::vector<int32_t>> falls(width_);
    for (int64_t kx = 0; kx < taps_w_; ++kx)
      for (int64_t ix = 0; ix < in_width_; ++ix) {
        const int64_t ox = ix * strides[1] - pads[1] + kx * dilations[1];
        if (ox >= 0 && ox < width_) falls[ox].push_back(static_cast<int32_t>((ix * taps_h_ * taps_w_ + kx) * outputs_));
      }
    for (const auto& list : falls) column_taps_ = std::max(column_taps_, static_cast<int64_t>(list.size()));
    for (auto& list : falls) {
      list.resize(column_taps_, -1);
      columns_.insert(columns_.end(), list.begin(), list.end());
    }
    row_ = {nullptr, 0, columns_.data(), column_taps_, width_, outputs_, bias_.defined() ? bias_.data<float>() : nullptr, activation_of(r.node), half_, nullptr};
  }
  size_t scratch_bytes() const override { return thread_bytes() * static_cast<size_t>(threads_); }
  std::vector<PackedInput> packed_inputs() const override { return {{}, {weights_, kLayout}, {bias_}}; }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    const char* x = in[0]->data<char>();
    char* y = out[0]->data<char>();
    const int64_t images = in[0]->shape()[0];
    parallel_for(images * height_, strip_, [&](int64_t begin, int64_t end) {
      char* own = static_cast<char*>(scratch) + static_cast<size_t>(omp_get_thread_num()) * thread_bytes();
      while (begin < end) {
        const int64_t image = begin / height_, row = begin % height_, rows = std::min({strip_, end - begin, height_ - row});
        run_strip(x + image * in_height_ * in_width_ * channels_ * element_, y + begin * width_ * outputs_ * element_, row, rows, own);
        begin += rows;
      }
    });
  }

 private:
  static constexpr uint64_t kLayout = 1;

  size_t part_bytes() const { return (gemm_scratch(1) + 63) / 64 * 64; }
  // The contributions, then what the product needs: it runs on this thread, or, when there is one strip, on all.
  size_t thread_bytes() const {
    return (static_cast<size_t>(strip_lines_ * line_) * sizeof(float) + 63) / 64 * 64 + part_bytes() * static_cast<size_t>(threads_);
  }

  void run_strip(const char* x, char* y, int64_t row, int64_t rows, char* own) const {
    auto down = [](int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); };
    const int64_t first = std::max<int64_t>(0, -down(-(row + pad_top_ - (taps_h_ - 1) * dilation_h_), stride_h_));
    const int64_t last = std::min(in_height_ - 1, down(row + rows - 1 + pad_top_, stride_h_));
    float* contributions = reinterpret_cast<float*>(own);
    if (first <= last) {
      GemmArgs product = product_;
      product.rows.height = product.rows.out_height = last - first + 1;
      product.a = x + first * in_width_ * channels_ * element_;
      product.y = contributions;
      product.scratch = own + (static_cast<size_t>(strip_lines_ * line_) * sizeof(float) + 63) / 64 * 64;
      product.scratch_per_thread = part_bytes();
      run_gemm(product);
    }
    const float* lines[64];
    for (int64_t r = 0; r < rows; ++r) {
      ScatteredRow to = row_;
      to.lines = lines;
      for (int64_t ky = 0; ky < taps_h_; ++ky) {
        const int64_t at = row + r + pad_top_ - ky * dilation_h_, iy = down(at, stride_h_);
        if (at < 0 || at % stride_h_ != 0 || iy < first || iy > last) continue;
        lines[to.line_count++] = contributions + (iy - first) * line_ + ky * taps_w_ * outputs_;
      }
      to.y = y + r * width_ * outputs_ * element_;
      HWY_DYNAMIC_DISPATCH(AddContributions)(to);
    }
  }

  int64_t threads_, element_ = 4;
  int64_t in_height_ = 1, in_width_ = 1, channels_ = 1, height_ = 1, width_ = 1, outputs_ = 1, taps_h_ = 1, taps_w_ = 1;
  int64_t stride_h_ = 1, dilation_h_ = 1, pad_top_ = 0;
  int64_t line_ = 0, strip_ = 1, strip_lines_ = 1, column_taps_ = 0;
  std::vector<int32_t> columns_;
  GemmArgs product_;
  ScatteredRow row_{};
  Tensor weights_, bias_;
  bool half_ = false;
};

bool supported(const KernelRequest& r) {
  const DType type = r.input(0).dtype;
  if (type != DType::kF32 && !(type == DType::kBF16 && has_bf16_instructions() && r.in_shape()[3] % 2 == 0)) return false;
  if (r.output().dtype != type || !r.input(1).is_constant() || r.input(1).dtype != DType::kF32 || r.in_shape(1)[2] > 64) return false;
  if (element_count(r.in_shape(1)) / r.in_shape(1)[0] * r.in_shape()[2] >= (int64_t{1} << 31)) return false;  // offsets in a line are of 32 bits
  return !r.has_input(2) || (r.input(2).is_constant() && r.input(2).dtype == DType::kF32);
}

}  // namespace

void register_conv_transpose(KernelRegistry& r) {
  r.add("ConvTranspose", "ai.lathe", {"conv.transpose", supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<ConvTranspose>(q); }});
}

}  // namespace lathe
#endif
