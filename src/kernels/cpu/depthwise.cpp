// Depthwise convolution, channels-last, f32 or bf16 with f32 weights and accumulation. A vector holds channels;
// a row of outputs is walked in tiles of kTile columns whose accumulators stay in registers. Inside the image
// the three or more taps of a row share the loads of a column, so that a 3×3 window at stride 1 costs
// (kTile + 2)·3 loads for 9·kTile products.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/depthwise.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <limits>

#include "core/parallel.h"
#include "kernels/cpu/lanes-inl.h"
#include "kernels/kernel.h"

#ifndef LATHE_DEPTHWISE_SHARED
#define LATHE_DEPTHWISE_SHARED
namespace lathe {
struct DepthwiseArgs {
  const void* x;  // f32 or bf16, as are residual and y
  const float *w, *bias;  // w: [kH, kW, C]
  const void* residual;
  void* y;
  int64_t n, h, wd, c, oh, ow, kh, kw;
  int64_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
  float lower, upper;    // limits of the result: none, Relu and Clip
  ActivationSpec later;  // any other activation
  bool residual_first;
  char* scratch = nullptr;  // a row of floats for each thread, with `later`
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// What limits results in the sweep over the window (none, Relu and Clip are limits), and where they go.
template <class T>
struct RowOut {
  T* y;               // the row of outputs
  const T* residual;  // the same row, or null
  bool residual_first;
};

template <class T, bool kFull>
HWY_INLINE void Finish(D d, const RowOut<T>& out, V acc, int64_t at, hn::Mask<D> m, V lower, V upper) {
  const T* residual = out.residual ? out.residual + at : nullptr;
  FinishLanes<T, ActivationKind::kClip, kFull>(d, acc, residual, out.residual_first, out.y + at, m, lower, upper);
}

// kTile outputs next to each other whose windows lie inside the image horizontally. K and S are the window's
// width and stride, known at compile time.
template <class T, class TOut, bool kFull, int kTile, int K, int S>
HWY_INLINE void Tile(D d, const DepthwiseArgs& a, const T* row, int64_t ky0, int64_t ky1, int64_t ox, int64_t ch,
                     const RowOut<TOut>& out, hn::Mask<D> m, V bias, V lower, V upper) {
  V acc[kTile];
  for (int t = 0; t < kTile; ++t) acc[t] = bias;
  const T* base = row + (ox * S - a.pad_left) * a.c + ch;
  for (int64_t ky = ky0; ky < ky1; ++ky) {
    const T* line = base + ky * a.dilation_h * a.wd * a.c;
    V w[K];
    for (int k = 0; k < K; ++k) w[k] = LoadChannels<kFull>(d, a.w + (ky * K + k) * a.c + ch, m);
    HWY_UNROLL(16)
    for (int col = 0; col < (kTile - 1) * S + K; ++col) {
      V x = LoadChannels<kFull>(d, line + col * a.c, m);
      HWY_UNROLL(8)
      for (int t = 0; t < kTile; ++t) {
        const int k = col - t * S;
        if (k >= 0 && k < K) acc[t] = hn::MulAdd(x, w[k], acc[t]);
      }
    }
  }
  for (int t = 0; t < kTile; ++t)
    Finish<TOut, kFull>(d, out, acc[t], (ox + t) * a.c + ch, m, lower, upper);
}

// One output with every bound checked: borders, and windows of unusual shape.
template <class T, class TOut, bool kFull>
HWY_INLINE void Single(D d, const DepthwiseArgs& a, const T* row, int64_t ky0, int64_t ky1, int64_t ox, int64_t ch,
                       const RowOut<TOut>& out, hn::Mask<D> m, V bias, V lower, V upper) {
  V acc = bias;
  int64_t x0 = ox * a.stride_w - a.pad_left;
  for (int64_t ky = ky0; ky < ky1; ++ky)
    for (int64_t kx = 0; kx < a.kw; ++kx) {
      int64_t ix = x0 + kx * a.dilation_w;
      if (ix < 0 || ix >= a.wd) continue;
      V x = LoadChannels<kFull>(d, row + (ky * a.dilation_h * a.wd + ix) * a.c + ch, m);
      acc = hn::MulAdd(x, LoadChannels<kFull>(d, a.w + (ky * a.kw + kx) * a.c + ch, m), acc);
    }
  Finish<TOut, kFull>(d, out, acc, ox * a.c + ch, m, lower, upper);
}

template <class T, class TOut, bool kFull, int K, int S>
void RowChannels(D d, const DepthwiseArgs& a, int64_t image, int64_t oy, int64_t ch, const RowOut<TOut>& out) {
  const hn::Mask<D> m = FirstLanes(d, a.c - ch);
  const V lower = hn::Set(d, a.lower), upper = hn::Set(d, a.upper);
  const V bias = a.bias ? LoadChannels<kFull>(d, a.bias + ch, m) : hn::Zero(d);
  int64_t y0 = oy * a.stride_h - a.pad_top, ky0 = 0, ky1 = a.kh;
  while (ky0 < ky1 && y0 + ky0 * a.dilation_h < 0) ++ky0;
  while (ky1 > ky0 && y0 + (ky1 - 1) * a.dilation_h >= a.h) --ky1;
  const T* row = static_cast<const T*>(a.x) + (image * a.h + y0) * a.wd * a.c;
  int64_t ox = 0;
  if constexpr (K > 0) {
    // Accumulators, K weights and a column must fit the 32 vector registers.
    constexpr int kTile = K >= 7 ? 4 : S == 1 ? 6 : 4;
    int64_t inside = (a.pad_left + S - 1) / S;
    for (; ox < inside && ox < a.ow; ++ox) Single<T, TOut, kFull>(d, a, row, ky0, ky1, ox, ch, out, m, bias, lower, upper);
    for (; ox + kTile <= a.ow && (ox + kTile - 1) * S - a.pad_left + K <= a.wd; ox += kTile)
      Tile<T, TOut, kFull, kTile, K, S>(d, a, row, ky0, ky1, ox, ch, out, m, bias, lower, upper);
    for (; ox + 1 <= a.ow && ox * S - a.pad_left + K <= a.wd; ++ox)
      Tile<T, TOut, kFull, 1, K, S>(d, a, row, ky0, ky1, ox, ch, out, m, bias, lower, upper);
  }
  for (; ox < a.ow; ++ox) Single<T, TOut, kFull>(d, a, row, ky0, ky1, ox, ch, out, m, bias, lower, upper);
}

// Activations that are more than limits, in a second pass over a row that is still in cache.
template <class T>
void ActivateRow(const DepthwiseArgs& a, const float* row, const RowOut<T>& out) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t count = a.ow * a.c;
  const V alpha = hn::Set(d, a.later.alpha), beta = hn::Set(d, a.later.beta);
  WithActivation(a.later.kind, [&]<ActivationKind kAct>() {
    int64_t i = 0;
    auto part = [&]<bool kFull>() {
      const hn::Mask<D> m = FirstLanes(d, count - i);
      const T* residual = out.residual ? out.residual + i : nullptr;
      FinishLanes<T, kAct, kFull>(d, LoadChannels<kFull>(d, row + i, m), residual, out.residual_first, out.y + i, m, alpha, beta);
    };
    for (; i + lanes <= count; i += lanes) part.template operator()<true>();
    if (i < count) part.template operator()<false>();
  });
}

template <class T, class TOut, int K, int S>
void SweepRow(D d, const DepthwiseArgs& a, int64_t r, const RowOut<TOut>& out) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t ch = 0;
  for (; ch + lanes <= a.c; ch += lanes) RowChannels<T, TOut, true, K, S>(d, a, r / a.oh, r % a.oh, ch, out);
  if (ch < a.c) RowChannels<T, TOut, false, K, S>(d, a, r / a.oh, r % a.oh, ch, out);
}

template <class T, int K, int S>
void Run(const DepthwiseArgs& a) {
  const D d;
  const int64_t row = a.ow * a.c;
  parallel_for(a.n * a.oh, kParallelGrain / (row * a.kh * a.kw + 1) + 1, [&](int64_t begin, int64_t end) {
    float* buffer = reinterpret_cast<float*>(a.scratch) + omp_get_thread_num() * row;
    for (int64_t r = begin; r < end; ++r) {
      RowOut<T> out{static_cast<T*>(a.y) + r * row, a.residual ? static_cast<const T*>(a.residual) + r * row : nullptr, a.residual_first};
      if (a.later.kind == ActivationKind::kNone) {
        SweepRow<T, T, K, S>(d, a, r, out);
      } else {
        SweepRow<T, float, K, S>(d, a, r, RowOut<float>{buffer, nullptr, false});
        ActivateRow<T>(a, buffer, out);
      }
    }
  });
}

template <class T>
void DepthwiseOf(const DepthwiseArgs& a) {
  bool dense = a.dilation_w == 1;
  if (dense && a.kw == 3 && a.stride_w == 1) return Run<T, 3, 1>(a);
  if (dense && a.kw == 3 && a.stride_w == 2) return Run<T, 3, 2>(a);
  if (dense && a.kw == 5 && a.stride_w == 1) return Run<T, 5, 1>(a);
  if (dense && a.kw == 5 && a.stride_w == 2) return Run<T, 5, 2>(a);
  if (dense && a.kw == 7 && a.stride_w == 1) return Run<T, 7, 1>(a);
  return Run<T, 0, 1>(a);
}

void Depthwise(const DepthwiseArgs& a) { DepthwiseOf<float>(a); }
void DepthwiseHalf(const DepthwiseArgs& a) { DepthwiseOf<uint16_t>(a); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(Depthwise);
HWY_EXPORT(DepthwiseHalf);

namespace {

class DepthwiseConv : public Kernel {
 public:
  explicit DepthwiseConv(const KernelRequest& r) {
    const Shape &x = r.in_shape(), &w = r.in_shape(1), &y = r.out_shape();
    const Node& n = r.node;
    weights_ = transpose(r.input(1).constant, {2, 3, 1, 0});  // [kH, kW, 1, C]
    if (r.has_input(2)) bias_ = r.input(2).constant;
    const auto &strides = n.get_ints("strides"), &pads = n.get_ints("pads"), &dilations = n.get_ints("dilations");
    args_ = {nullptr, weights_.data<float>(), bias_.defined() ? bias_.data<float>() : nullptr, nullptr, nullptr,
             x[0], x[1], x[2], x[3], y[1], y[2], w[2], w[3], strides[0], strides[1], pads[0], pads[1],
             dilations[0], dilations[1], -std::numeric_limits<float>::infinity(), std::numeric_limits<float>::infinity(),
             activation_of(n), n.get_int("residual_first") != 0, nullptr};
    ActivationSpec& act = args_.later;
    if (act.kind == ActivationKind::kRelu) args_.lower = 0;
    if (act.kind == ActivationKind::kClip) args_.lower = act.alpha, args_.upper = act.beta;
    if (act.kind == ActivationKind::kRelu || act.kind == ActivationKind::kClip) act.kind = ActivationKind::kNone;
    residual_ = r.has_input(3);
  }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    args_.scratch = static_cast<char*>(scratch);
    args_.x = in[0]->raw();
    args_.residual = residual_ ? in[3]->raw() : nullptr;
    args_.y = out[0]->raw();
    if (in[0]->dtype() == DType::kBF16) HWY_DYNAMIC_DISPATCH(DepthwiseHalf)(args_);
    else HWY_DYNAMIC_DISPATCH(Depthwise)(args_);
  }
  size_t scratch_bytes() const override {
    if (args_.later.kind == ActivationKind::kNone) return 0;
    return static_cast<size_t>(args_.ow * args_.c * omp_get_max_threads()) * sizeof(float);
  }
  int in_place_input() const override { return residual_ ? 3 : -1; }

 private:
  DepthwiseArgs args_;
  Tensor weights_, bias_;
  bool residual_ = false;
};

}  // namespace

void register_depthwise(KernelRegistry& r) {
  r.add("Conv", "ai.lathe", {"depthwise", [](const KernelRequest& q) {
          const Shape& w = q.in_shape(1);
          DType type = q.input(0).dtype;
          bool typed = (type == DType::kF32 || type == DType::kBF16) && q.output().dtype == type &&
                       q.input(1).dtype == DType::kF32 && (!q.has_input(3) || q.input(3).dtype == type);
          return typed && q.input(1).is_constant() && w[1] == 1 && q.node.get_int("group") == w[0] &&
                 q.in_shape()[3] == w[0] && (!q.has_input(2) || q.input(2).is_constant());
        }, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<DepthwiseConv>(q); }});
}

}  // namespace lathe
#endif
