// Depthwise convolution, channels-last, f32 or bf16 with f32 weights and accumulation. A vector holds channels; a row of outputs is walked in tiles of
// kTile columns whose accumulators stay in registers. Inside the image the three or more taps of a row share
// the loads of a column, so that a 3×3 window at stride 1 costs (kTile + 2)·3 loads for 9·kTile products.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/depthwise.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include "core/parallel.h"
#include "kernels/cpu/activation-inl.h"
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
  ActivationSpec activation;
  bool residual_first;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// The last vector of a pixel may hold fewer channels: loads and stores then are masked.
template <bool kFull>
HWY_INLINE V LoadChannels(D d, const float* p, hn::Mask<D> m) {
  if constexpr (kFull) return hn::LoadU(d, p);
  return hn::MaskedLoad(m, d, p);
}
template <bool kFull>
HWY_INLINE void StoreChannels(D d, V v, float* p, hn::Mask<D> m) {
  if constexpr (kFull) hn::StoreU(v, d, p);
  else hn::BlendedStore(v, m, d, p);
}

// bf16 elements widen to f32 by a shift; back, they round to nearest even and NaN stays NaN.
template <bool kFull>
HWY_INLINE V LoadChannels(D d, const uint16_t* p, hn::Mask<D> m) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  hn::Vec<decltype(d16)> bits;
  if constexpr (kFull) bits = hn::LoadU(d16, p);
  else bits = hn::MaskedLoad(hn::FirstN(d16, hn::CountTrue(d, m)), d16, p);
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, bits)));
}
template <bool kFull>
HWY_INLINE void StoreChannels(D d, V v, uint16_t* p, hn::Mask<D> m) {
  const hn::Rebind<uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  const hn::RebindToSigned<D> di;
  auto bits = hn::BitCast(d32, v);
  auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d32, 1));
  auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(d32, 0x7fff)));
  auto quiet = hn::Or(bits, hn::Set(d32, 0x400000));
  auto chosen = hn::ShiftRight<16>(hn::IfThenElse(hn::RebindMask(d32, hn::IsNaN(v)), quiet, rounded));
  auto half = hn::DemoteTo(d16, hn::BitCast(di, chosen));
  if constexpr (kFull) hn::StoreU(half, d16, p);
  else hn::BlendedStore(half, hn::FirstN(d16, hn::CountTrue(d, m)), d16, p);
}

template <class T, ActivationKind kAct, bool kFull>
HWY_INLINE void Finish(D d, const DepthwiseArgs& a, V acc, int64_t at, hn::Mask<D> m, V alpha, V beta) {
  auto* residual = static_cast<const T*>(a.residual);
  if (residual && a.residual_first) acc = hn::Add(acc, LoadChannels<kFull>(d, residual + at, m));
  acc = Activate<kAct>(d, acc, alpha, beta);
  if (residual && !a.residual_first) acc = hn::Add(acc, LoadChannels<kFull>(d, residual + at, m));
  StoreChannels<kFull>(d, acc, static_cast<T*>(a.y) + at, m);
}

// kTile outputs next to each other whose windows lie inside the image horizontally. K and S are the window's
// width and stride, known at compile time.
template <class T, ActivationKind kAct, bool kFull, int kTile, int K, int S>
HWY_INLINE void Tile(D d, const DepthwiseArgs& a, const T* row, int64_t ky0, int64_t ky1, int64_t ox, int64_t ch,
                     int64_t out_row, hn::Mask<D> m, V bias, V alpha, V beta) {
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
    Finish<T, kAct, kFull>(d, a, acc[t], out_row + (ox + t) * a.c + ch, m, alpha, beta);
}

// One output with every bound checked: borders, and windows of unusual shape.
template <class T, ActivationKind kAct, bool kFull>
HWY_INLINE void Single(D d, const DepthwiseArgs& a, const T* row, int64_t ky0, int64_t ky1, int64_t ox, int64_t ch,
                       int64_t out_row, hn::Mask<D> m, V bias, V alpha, V beta) {
  V acc = bias;
  int64_t x0 = ox * a.stride_w - a.pad_left;
  for (int64_t ky = ky0; ky < ky1; ++ky)
    for (int64_t kx = 0; kx < a.kw; ++kx) {
      int64_t ix = x0 + kx * a.dilation_w;
      if (ix < 0 || ix >= a.wd) continue;
      V x = LoadChannels<kFull>(d, row + (ky * a.dilation_h * a.wd + ix) * a.c + ch, m);
      acc = hn::MulAdd(x, LoadChannels<kFull>(d, a.w + (ky * a.kw + kx) * a.c + ch, m), acc);
    }
  Finish<T, kAct, kFull>(d, a, acc, out_row + ox * a.c + ch, m, alpha, beta);
}

template <class T, ActivationKind kAct, bool kFull, int K, int S>
void RowChannels(D d, const DepthwiseArgs& a, int64_t image, int64_t oy, int64_t ch) {
  const hn::Mask<D> m = hn::FirstN(d, static_cast<size_t>(a.c - ch < static_cast<int64_t>(hn::Lanes(d)) ? a.c - ch : hn::Lanes(d)));
  const V alpha = hn::Set(d, a.activation.alpha), beta = hn::Set(d, a.activation.beta);
  const V bias = a.bias ? LoadChannels<kFull>(d, a.bias + ch, m) : hn::Zero(d);
  int64_t y0 = oy * a.stride_h - a.pad_top, ky0 = 0, ky1 = a.kh;
  while (ky0 < ky1 && y0 + ky0 * a.dilation_h < 0) ++ky0;
  while (ky1 > ky0 && y0 + (ky1 - 1) * a.dilation_h >= a.h) --ky1;
  const T* row = static_cast<const T*>(a.x) + (image * a.h + y0) * a.wd * a.c;
  int64_t out_row = (image * a.oh + oy) * a.ow * a.c;
  int64_t ox = 0;
  if constexpr (K > 0) {
    // Accumulators, K weights and a column must fit the 32 vector registers.
    constexpr int kTile = K >= 7 ? 4 : S == 1 ? 6 : 4;
    int64_t inside = (a.pad_left + S - 1) / S;
    for (; ox < inside && ox < a.ow; ++ox) Single<T, kAct, kFull>(d, a, row, ky0, ky1, ox, ch, out_row, m, bias, alpha, beta);
    for (; ox + kTile <= a.ow && (ox + kTile - 1) * S - a.pad_left + K <= a.wd; ox += kTile)
      Tile<T, kAct, kFull, kTile, K, S>(d, a, row, ky0, ky1, ox, ch, out_row, m, bias, alpha, beta);
    for (; ox + 1 <= a.ow && ox * S - a.pad_left + K <= a.wd; ++ox)
      Tile<T, kAct, kFull, 1, K, S>(d, a, row, ky0, ky1, ox, ch, out_row, m, bias, alpha, beta);
  }
  for (; ox < a.ow; ++ox) Single<T, kAct, kFull>(d, a, row, ky0, ky1, ox, ch, out_row, m, bias, alpha, beta);
}

template <class T, ActivationKind kAct, int K, int S>
void Run(const DepthwiseArgs& a) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t row_work = a.ow * a.c * a.kh * a.kw;
  parallel_for(a.n * a.oh, kParallelGrain / (row_work + 1) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      int64_t ch = 0;
      for (; ch + lanes <= a.c; ch += lanes) RowChannels<T, kAct, true, K, S>(d, a, r / a.oh, r % a.oh, ch);
      if (ch < a.c) RowChannels<T, kAct, false, K, S>(d, a, r / a.oh, r % a.oh, ch);
    }
  });
}

template <class T>
void DepthwiseOf(const DepthwiseArgs& a) {
  bool dense = a.dilation_w == 1;
  WithActivation(a.activation.kind, [&]<ActivationKind kAct>() {
    if (dense && a.kw == 3 && a.stride_w == 1) return Run<T, kAct, 3, 1>(a);
    if (dense && a.kw == 3 && a.stride_w == 2) return Run<T, kAct, 3, 2>(a);
    if (dense && a.kw == 5 && a.stride_w == 1) return Run<T, kAct, 5, 1>(a);
    if (dense && a.kw == 5 && a.stride_w == 2) return Run<T, kAct, 5, 2>(a);
    if (dense && a.kw == 7 && a.stride_w == 1) return Run<T, kAct, 7, 1>(a);
    return Run<T, kAct, 0, 1>(a);
  });
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
    weights_ = r.packed_input(1, DType::kF32, {w[2], w[3], 1, w[0]}, 0, [](const Tensor& t) { return transpose(t, {2, 3, 1, 0}); });
    if (r.has_input(2)) bias_ = r.packed_input(2, DType::kF32, {w[0]}, 0, [](const Tensor& t) { return t; });
    const auto &strides = n.get_ints("strides"), &pads = n.get_ints("pads"), &dilations = n.get_ints("dilations");
    args_ = {nullptr, weights_.data<float>(), bias_.defined() ? bias_.data<float>() : nullptr, nullptr, nullptr,
             x[0], x[1], x[2], x[3], y[1], y[2], w[2], w[3], strides[0], strides[1], pads[0], pads[1],
             dilations[0], dilations[1], activation_of(n), n.get_int("residual_first") != 0};
    residual_ = r.has_input(3);
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    args_.x = in[0]->raw();
    args_.residual = residual_ ? in[3]->raw() : nullptr;
    args_.y = out[0]->raw();
    if (in[0]->dtype() == DType::kBF16) HWY_DYNAMIC_DISPATCH(DepthwiseHalf)(args_);
    else HWY_DYNAMIC_DISPATCH(Depthwise)(args_);
  }
  int in_place_input() const override { return residual_ ? 3 : -1; }
  std::vector<PackedInput> packed_inputs() const override { return {{}, {weights_}, {bias_}}; }

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
                 q.in_shape()[3] == w[0] && (!q.has_input(2) || (q.input(2).is_constant() && q.input(2).dtype == DType::kF32));
        }, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<DepthwiseConv>(q); }});
}

}  // namespace lathe
#endif
