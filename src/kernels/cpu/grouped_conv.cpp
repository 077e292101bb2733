// Convolution in groups of two or four channels to as many, channels-last, f32: too few for a product of matrices. A vector
// holds several groups. Beside the vector as it is, each tap takes it with the channels of every group exchanged, so that
// output channel c meets input channel c ^ j of its group in exchange j.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/grouped_conv.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "kernels/cpu/grouped_conv.h"
#include "kernels/cpu/lanes-inl.h"

#ifndef LATHE_GROUPED_CONV_SHARED
#define LATHE_GROUPED_CONV_SHARED
namespace lathe {
struct GroupedConvArgs {
  const float *x, *w, *bias, *residual;  // w: [C / lanes, kH·kW, group, lanes]
  float *y, *sums;                       // sums: ow vectors for each thread
  int64_t h, wd, c, oh, ow, kh, kw;
  int64_t stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w, each;  // each: channels of a group
  ActivationSpec activation;
  bool residual_first;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR
size_t GroupedConvLanes() { return 1; }
void GroupedConvRows(const GroupedConvArgs&, int64_t, int64_t, float*) {}
#else

template <int kExchange>
HWY_INLINE V Exchanged(V x) {
  if constexpr (kExchange == 1) return hn::Shuffle2301(x);
  else if constexpr (kExchange == 2) return hn::Shuffle1032(x);
  else if constexpr (kExchange == 3) return hn::Shuffle0123(x);
  else return x;
}

// The sums of kTile outputs beside each other. kCheck: windows may reach over the sides of the picture.
template <bool kFull, int kEach, int kTile, bool kCheck>
HWY_INLINE void Tile(D d, const GroupedConvArgs& a, const float* line, const float* w, int64_t ky0, int64_t ky1, int64_t ox, hn::Mask<D> m,
                     V bias, float* sums) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t x0 = ox * a.stride_w - a.pad_left;
  V acc[kTile];
  HWY_UNROLL(8)
  for (int t = 0; t < kTile; ++t) acc[t] = bias;
  for (int64_t ky = ky0; ky < ky1; ++ky)
    for (int64_t kx = 0; kx < a.kw; ++kx) {
      const float* taps = w + (ky * a.kw + kx) * kEach * lanes;
      const float* row = line + ky * a.dilation_h * a.wd * a.c;
      V factor[kEach];
      HWY_UNROLL(4)
      for (int j = 0; j < kEach; ++j) factor[j] = hn::Load(d, taps + j * lanes);
      HWY_UNROLL(8)
      for (int t = 0; t < kTile; ++t) {
        const int64_t ix = x0 + t * a.stride_w + kx * a.dilation_w;
        if constexpr (kCheck)
          if (ix < 0 || ix >= a.wd) continue;
        const V x = LoadChannels<kFull>(d, row + ix * a.c, m);
        acc[t] = hn::MulAdd(x, factor[0], acc[t]);
        acc[t] = hn::MulAdd(Exchanged<1>(x), factor[1], acc[t]);
        if constexpr (kEach == 4) {
          acc[t] = hn::MulAdd(Exchanged<2>(x), factor[2], acc[t]);
          acc[t] = hn::MulAdd(Exchanged<3>(x), factor[3], acc[t]);
        }
      }
    }
  HWY_UNROLL(8)
  for (int t = 0; t < kTile; ++t) hn::Store(acc[t], d, sums + (ox + t) * lanes);
}

// One row of outputs of one vector of channels, from `ch` on. x begins with the image.
template <bool kFull, int kEach>
void GroupedRow(D d, const GroupedConvArgs& a, const float* x, int64_t row, int64_t ch, float* sums, int64_t at) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const hn::Mask<D> m = FirstLanes(d, a.c - ch);
  const V bias = a.bias ? LoadChannels<kFull>(d, a.bias + ch, m) : hn::Zero(d);
  const float* w = a.w + ch * a.kh * a.kw * kEach;
  const int64_t y0 = row * a.stride_h - a.pad_top;
  int64_t ky0 = 0, ky1 = a.kh;
  while (ky0 < ky1 && y0 + ky0 * a.dilation_h < 0) ++ky0;
  while (ky1 > ky0 && y0 + (ky1 - 1) * a.dilation_h >= a.h) --ky1;
  const float* line = x + y0 * a.wd * a.c + ch;
  // Eight sums hide the time that a product takes. The first and the last outputs of a row look where the picture ends.
  for (int64_t ox = 0; ox < a.ow;) {
    const int64_t left = ox * a.stride_w - a.pad_left, rest = a.ow - ox;
    const auto inside = [&](int64_t outputs) { return left >= 0 && left + (outputs - 1) * a.stride_w + (a.kw - 1) * a.dilation_w < a.wd; };
    if (rest >= 8 && inside(8)) Tile<kFull, kEach, 8, false>(d, a, line, w, ky0, ky1, ox, m, bias, sums), ox += 8;
    else if (rest >= 4 && inside(4)) Tile<kFull, kEach, 4, false>(d, a, line, w, ky0, ky1, ox, m, bias, sums), ox += 4;
    else if (rest >= 4) Tile<kFull, kEach, 4, true>(d, a, line, w, ky0, ky1, ox, m, bias, sums), ox += 4;
    else Tile<kFull, kEach, 1, true>(d, a, line, w, ky0, ky1, ox, m, bias, sums), ++ox;
  }
  const V alpha = hn::Set(d, a.activation.alpha), beta = hn::Set(d, a.activation.beta);
  const float* residual = a.residual ? a.residual + at + ch : nullptr;
  float* y = a.y + at + ch;
  WithActivation(a.activation.kind, [&]<ActivationKind kAct>() {
    for (int64_t ox = 0; ox < a.ow; ++ox)
      FinishLanes<float, kAct, kFull>(d, hn::Load(d, sums + ox * lanes), residual ? residual + ox * a.c : nullptr, a.residual_first,
                                      y + ox * a.c, m, alpha, beta);
  });
}

template <int kEach>
void GroupedRows(const GroupedConvArgs& a, int64_t begin, int64_t end, float* sums) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t row = begin; row < end; ++row) {
    const float* x = a.x + row / a.oh * a.h * a.wd * a.c;
    const int64_t at = row * a.ow * a.c;
    int64_t ch = 0;
    for (; ch + lanes <= a.c; ch += lanes) GroupedRow<true, kEach>(d, a, x, row % a.oh, ch, sums, at);
    if (ch < a.c) GroupedRow<false, kEach>(d, a, x, row % a.oh, ch, sums, at);
  }
}

size_t GroupedConvLanes() { return hn::Lanes(D()); }
// Rows [begin, end) of the outputs of all images.
void GroupedConvRows(const GroupedConvArgs& a, int64_t begin, int64_t end, float* sums) {
  a.each == 2 ? GroupedRows<2>(a, begin, end, sums) : GroupedRows<4>(a, begin, end, sums);
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(GroupedConvLanes);
HWY_EXPORT(GroupedConvRows);

namespace {

int64_t lanes_here() { return static_cast<int64_t>(HWY_DYNAMIC_DISPATCH(GroupedConvLanes)()); }

class GroupedConv : public Kernel {
 public:
  explicit GroupedConv(const KernelRequest& r) {
    const Shape &x = r.in_shape(), &w = r.in_shape(1), &y = r.out_shape();
    const int64_t lanes = lanes_here(), channels = w[0], each = w[1], taps = w[2] * w[3];
    weights_ = r.packed_input(1, DType::kF32, {(channels + lanes - 1) / lanes, taps, each, lanes}, kLayout, [&](const Tensor& from) {
      Tensor t(DType::kF32, {(channels + lanes - 1) / lanes, taps, each, lanes});
      std::memset(t.raw(), 0, t.bytes());
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t k = 0; k < taps; ++k)
          for (int64_t j = 0; j < each; ++j)
            t.data<float>()[((c / lanes * taps + k) * each + j) * lanes + c % lanes] =
                from.data<float>()[(c * each + (c % each ^ j)) * taps + k];
      return t;
    });
    if (r.has_input(2)) bias_ = r.packed_input(2, DType::kF32, {channels}, 0, [](const Tensor& t) { return t; });
    const auto &strides = r.node.get_ints("strides"), &pads = r.node.get_ints("pads"), &dilations = r.node.get_ints("dilations");
    args_ = {nullptr, weights_.data<float>(), bias_.defined() ? bias_.data<float>() : nullptr, nullptr, nullptr, nullptr,
             x[1], x[2], x[3], y[1], y[2], w[2], w[3], strides[0], strides[1], pads[0], pads[1], dilations[0], dilations[1],
             each, activation_of(r.node), r.node.get_int("residual_first") != 0};
    residual_ = r.has_input(3);
    sums_ = y[2] * lanes;
  }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    GroupedConvArgs a = args_;
    a.x = in[0]->data<float>();
    a.residual = residual_ ? in[3]->data<float>() : nullptr;
    a.y = out[0]->data<float>();
    const int64_t rows = in[0]->shape()[0] * a.oh, work = a.ow * a.c * a.kh * a.kw * a.each;
    parallel_for(rows, kParallelGrain / (work + 1) + 1, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(GroupedConvRows)(a, begin, end, static_cast<float*>(scratch) + omp_get_thread_num() * sums_);
    });
  }
  size_t scratch_bytes() const override { return static_cast<size_t>(sums_) * sizeof(float) * static_cast<size_t>(omp_get_max_threads()); }
  int in_place_input() const override { return residual_ ? 3 : -1; }
  std::vector<PackedInput> packed_inputs() const override { return {{}, {weights_, kLayout}, {bias_}}; }

 private:
  static constexpr uint64_t kLayout = 1;
  GroupedConvArgs args_{};
  Tensor weights_, bias_;
  int64_t sums_ = 0;
  bool residual_ = false;
};

bool supported(const KernelRequest& q) {
  const Shape& w = q.in_shape(1);
  const int64_t each = w[1];
  return q.all_f32() && !q.has_input(4) && q.input(1).is_constant() && (each == 2 || each == 4) && q.node.get_int("group") > 1 &&
         w[0] == each * q.node.get_int("group") && (!q.has_input(2) || q.input(2).is_constant()) && lanes_here() % each == 0;
}

}  // namespace

void register_grouped_conv(KernelRegistry& r) {
  r.add("Conv", kLatheDomain,
        {"conv.grouped", supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<GroupedConv>(q); }});
}

}  // namespace lathe
#endif
