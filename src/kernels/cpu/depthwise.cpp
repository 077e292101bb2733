// Depthwise convolution, channels-last, f32 or bf16 with f32 weights and accumulation. A vector holds channels;
// a row of outputs is walked in tiles of kTile columns whose accumulators stay in registers. Inside the image
// the three or more taps of a row share the loads of a column, so that a 3×3 window at stride 1 costs
// (kTile + 2)·3 loads for 9·kTile products.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/depthwise.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "kernels/cpu/depthwise.h"
#include "kernels/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// Sums of kTile outputs next to each other, to `sums`. K and S are the window's width and stride, known at
// compile time. kCheck: some columns lie outside the picture.
template <class T, bool kFull, bool kCheck, int kTile, int K, int S>
HWY_INLINE void Tile(D d, const DepthwiseArgs& a, const T* row, const float* w, int64_t ky0, int64_t ky1, int64_t ox, hn::Mask<D> m,
                     V bias, float* HWY_RESTRICT sums) {
  const size_t lanes = hn::Lanes(d);
  V acc[kTile];
  HWY_UNROLL(8)
  for (int t = 0; t < kTile; ++t) acc[t] = bias;
  const int64_t x0 = ox * S - a.pad_left, c = a.c;
  const T* line = row + x0 * c + ky0 * a.dilation_h * a.wd * c;
  for (int64_t ky = ky0; ky < ky1; ++ky, line += a.dilation_h * a.wd * c) {
    V taps[K];
    HWY_UNROLL(8)
    for (int k = 0; k < K; ++k) taps[k] = hn::Load(d, w + (ky * K + k) * lanes);
    HWY_UNROLL(20)
    for (int col = 0; col < (kTile - 1) * S + K; ++col) {
      if constexpr (kCheck)
        if (x0 + col < 0 || x0 + col >= a.wd) continue;
      V x = LoadChannels<kFull>(d, line + col * c, m);
      KeepInRegister(x);
      HWY_UNROLL(8)
      for (int t = 0; t < kTile; ++t) {
        const int k = col - t * S;
        if (k >= 0 && k < K) acc[t] = hn::MulAdd(x, taps[k], acc[t]);
      }
    }
  }
  HWY_UNROLL(8)
  for (int t = 0; t < kTile; ++t) hn::Store(acc[t], d, sums + (ox + t) * lanes);
}

template <class T, bool kFull, int kTile, int K, int S>
HWY_INLINE void EitherTile(D d, const DepthwiseArgs& a, const T* row, const float* w, int64_t ky0, int64_t ky1, int64_t ox, hn::Mask<D> m,
                           V bias, float* sums) {
  const int64_t x0 = ox * S - a.pad_left;
  if (x0 >= 0 && x0 + (kTile - 1) * S + K <= a.wd) Tile<T, kFull, false, kTile, K, S>(d, a, row, w, ky0, ky1, ox, m, bias, sums);
  else Tile<T, kFull, true, kTile, K, S>(d, a, row, w, ky0, ky1, ox, m, bias, sums);
}

// One output of a window of any shape.
template <class T, bool kFull>
HWY_INLINE void Single(D d, const DepthwiseArgs& a, const T* row, const float* w, int64_t ky0, int64_t ky1, int64_t ox, hn::Mask<D> m,
                       V bias, float* sums) {
  V acc = bias;
  int64_t x0 = ox * a.stride_w - a.pad_left;
  for (int64_t ky = ky0; ky < ky1; ++ky)
    for (int64_t kx = 0; kx < a.kw; ++kx) {
      int64_t ix = x0 + kx * a.dilation_w;
      if (ix < 0 || ix >= a.wd) continue;
      V x = LoadChannels<kFull>(d, row + (ky * a.dilation_h * a.wd + ix) * a.c, m);
      acc = hn::MulAdd(x, hn::Load(d, w + (ky * a.kw + kx) * hn::Lanes(d)), acc);
    }
  hn::Store(acc, d, sums + ox * hn::Lanes(d));
}

// Activation and residual for a row of one vector of channels whose sums are in cache. They stand apart from
// the sweep over the window so that its code is not repeated for each activation.
template <class T, bool kFull>
void FinishRow(D d, const DepthwiseArgs& a, const float* sums, int64_t at, hn::Mask<D> m) {
  const size_t lanes = hn::Lanes(d);
  const V alpha = hn::Set(d, a.activation.alpha), beta = hn::Set(d, a.activation.beta);
  const T* residual = a.residual ? static_cast<const T*>(a.residual) + at : nullptr;
  T* y = static_cast<T*>(a.y) + at;
  WithActivation(a.activation.kind, [&]<ActivationKind kAct>() {
    for (int64_t ox = 0; ox < a.ow; ++ox)
      FinishLanes<T, kAct, kFull>(d, hn::Load(d, sums + ox * lanes), residual ? residual + ox * a.c : nullptr, a.residual_first,
                                  y + ox * a.c, m, alpha, beta);
  });
}

// Row r of the outputs, one vector of channels from `ch` on.
template <class T, bool kFull, int K, int S>
void RowChannels(D d, const DepthwiseArgs& a, int64_t r, int64_t ch, float* sums) {
  const hn::Mask<D> m = FirstLanes(d, a.c - ch);
  const V bias = a.bias ? LoadChannels<kFull>(d, a.bias + ch, m) : hn::Zero(d);
  int64_t y0 = r % a.oh * a.stride_h - a.pad_top, ky0 = 0, ky1 = a.kh;
  while (ky0 < ky1 && y0 + ky0 * a.dilation_h < 0) ++ky0;
  while (ky1 > ky0 && y0 + (ky1 - 1) * a.dilation_h >= a.h) --ky1;
  const T* row = static_cast<const T*>(a.x) + (r / a.oh * a.h + y0) * a.wd * a.c + ch;
  const float* w = a.w + ch * a.kh * a.kw;
  int64_t ox = 0;
  if constexpr (K > 0) {
    // Seven sums and three to seven weights fit the registers, and seven divides the widths of most networks.
    for (; ox + 7 <= a.ow; ox += 7) EitherTile<T, kFull, 7, K, S>(d, a, row, w, ky0, ky1, ox, m, bias, sums);
    if (ox + 4 <= a.ow) EitherTile<T, kFull, 4, K, S>(d, a, row, w, ky0, ky1, ox, m, bias, sums), ox += 4;
    for (; ox < a.ow; ++ox) Tile<T, kFull, true, 1, K, S>(d, a, row, w, ky0, ky1, ox, m, bias, sums);
  }
  for (; ox < a.ow; ++ox) Single<T, kFull>(d, a, row, w, ky0, ky1, ox, m, bias, sums);
  if constexpr (sizeof(T) == 2) {
    if (a.native_half) return FinishRow<NativeHalf, kFull>(d, a, sums, r * a.ow * a.c + ch, m);
  }
  FinishRow<T, kFull>(d, a, sums, r * a.ow * a.c + ch, m);
}

// A strip of rows is walked one vector of channels after the other: the strip stays in the second-level cache
// (half of 1 MiB), and the rows of one vector under the window in the first.
template <class T, int K, int S>
void Run(const DepthwiseArgs& a) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t row_work = a.ow * a.c * a.kh * a.kw;
  const int64_t strip = std::max<int64_t>(4, (512 << 10) / (a.stride_h * a.wd * a.c * static_cast<int64_t>(sizeof(T)) + 1));
  parallel_for(a.n * a.oh, kParallelGrain / (row_work + 1) + 1, [&](int64_t begin, int64_t end) {
    float* sums = reinterpret_cast<float*>(a.scratch) + omp_get_thread_num() * a.ow * lanes;
    for (int64_t from = begin; from < end; from += strip) {
      const int64_t to = std::min(from + strip, end);
      int64_t ch = 0;
      for (; ch + lanes <= a.c; ch += lanes)
        for (int64_t r = from; r < to; ++r) RowChannels<T, true, K, S>(d, a, r, ch, sums);
      if (ch < a.c)
        for (int64_t r = from; r < to; ++r) RowChannels<T, false, K, S>(d, a, r, ch, sums);
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
size_t DepthwiseLanes() { return hn::Lanes(D()); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(Depthwise);
HWY_EXPORT(DepthwiseHalf);
HWY_EXPORT(DepthwiseLanes);

void run_depthwise(const DepthwiseArgs& args, bool half) {
  if (half) HWY_DYNAMIC_DISPATCH(DepthwiseHalf)(args);
  else HWY_DYNAMIC_DISPATCH(Depthwise)(args);
}

size_t depthwise_scratch(int64_t out_width) {
  return static_cast<size_t>(out_width) * HWY_DYNAMIC_DISPATCH(DepthwiseLanes)() * sizeof(float);
}

Shape depthwise_panels(int64_t channels, int64_t taps) {
  const auto lanes = static_cast<int64_t>(HWY_DYNAMIC_DISPATCH(DepthwiseLanes)());
  return {(channels + lanes - 1) / lanes, taps, lanes};
}

Tensor pack_depthwise(const Tensor& w) {
  const int64_t channels = w.shape()[0], taps = w.shape()[2] * w.shape()[3];
  Tensor t(DType::kF32, depthwise_panels(channels, taps));
  const int64_t lanes = t.shape()[2];
  std::memset(t.raw(), 0, t.bytes());
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t k = 0; k < taps; ++k)
      t.data<float>()[(c / lanes * taps + k) * lanes + c % lanes] = w.data<float>()[c * taps + k];
  return t;
}

namespace {

class DepthwiseConv : public Kernel {
 public:
  explicit DepthwiseConv(const KernelRequest& r) {
    const Shape &x = r.in_shape(), &w = r.in_shape(1), &y = r.out_shape();
    const Node& n = r.node;
    weights_ = r.packed_input(1, DType::kF32, depthwise_panels(w[0], w[2] * w[3]), kLayout, pack_depthwise);
    if (r.has_input(2)) bias_ = r.packed_input(2, DType::kF32, {w[0]}, 0, [](const Tensor& t) { return t; });
    const auto &strides = n.get_ints("strides"), &pads = n.get_ints("pads"), &dilations = n.get_ints("dilations");
    args_ = {nullptr, weights_.data<float>(), bias_.defined() ? bias_.data<float>() : nullptr, nullptr, nullptr,
             x[0], x[1], x[2], x[3], y[1], y[2], w[2], w[3], strides[0], strides[1], pads[0], pads[1],
             dilations[0], dilations[1], activation_of(n), n.get_int("residual_first") != 0, has_bf16_instructions(), nullptr};
    residual_ = r.has_input(3);
  }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    args_.scratch = static_cast<char*>(scratch);
    args_.x = in[0]->raw();
    args_.residual = residual_ ? in[3]->raw() : nullptr;
    args_.y = out[0]->raw();
    run_depthwise(args_, in[0]->dtype() == DType::kBF16);
  }
  size_t scratch_bytes() const override {
    return depthwise_scratch(args_.ow) * static_cast<size_t>(omp_get_max_threads());
  }
  int in_place_input() const override { return residual_ ? 3 : -1; }
  std::vector<PackedInput> packed_inputs() const override { return {{}, {weights_, kLayout}, {bias_}}; }

 private:
  static constexpr uint64_t kLayout = 1;
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
          return typed && !q.has_input(4) && q.input(1).is_constant() && w[1] == 1 && q.node.get_int("group") == w[0] &&
                 q.in_shape()[3] == w[0] && (!q.has_input(2) || (q.input(2).is_constant() && q.input(2).dtype == DType::kF32));
        }, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<DepthwiseConv>(q); }});
}

}  // namespace lathe
#endif
