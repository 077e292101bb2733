// Depthwise convolution, channels-last, f32 or bf16 (or the first to the second) with f32 weights and accumulation. A vector holds channels;
// two rows of outputs are walked in blocks of seven or four columns whose accumulators stay in registers.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/depthwise.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "kernels/cpu/depthwise.h"
#include "kernels/cpu/grouped_conv.h"
#include "kernels/cpu/lanes-inl.h"

#ifndef LATHE_DEPTHWISE_ROWS
#define LATHE_DEPTHWISE_ROWS
namespace lathe {
constexpr int64_t kMostRows = 2;  // of sums that a thread keeps
}
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// Two rows at once where there are registers for it: 14 sums, 2·K weights and a column of the picture.
template <int K>
constexpr int RowsAtOnce() {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  return K == 3 || K == 5 ? 2 : 1;
#else
  return 1;
#endif
}

// Whether code is made for what is met less often too (edges, narrow pictures): each instruction set and type is a quarter of a
// minute of compilation.
template <class T>
constexpr bool Thorough() {
#if HWY_TARGET <= HWY_AVX2 && HWY_ARCH_X86
  return sizeof(T) == 4;
#else
  return false;
#endif
}

// Which part of a row's results a Block writes, and where.
struct Target {
  float* sums;              // of the first row, a vector an output; null: finished outputs go to y at once
  int64_t next_sums;        // from one row's sums to the next's
  V least, most;            // the activation, when y is written:
  bool hard_swish;          // this or the limits
};

// A Block is kRows × kTile outputs of one vector of channels whose accumulators stay in registers. The rows of the picture
// under both rows of outputs are loaded once: a 3×3 window at stride 1 with 2 × 7 outputs costs 36 loads for 126 products. K and
// S are the window's size and stride, kLeft and kRight how many of its first and last columns lie outside the picture, all
// known at compile time; kCheck finds out which do. `inside` tells which rows of the picture there are, bit 0 the first.
template <class T, class TOut, bool kFull, bool kCheck, int kRows, int kTile, int K, int S, int kLeft, int kRight>
HWY_INLINE void Block(D d, const DepthwiseArgs& a, const T* line, const float* w, uint32_t inside, int64_t ox, hn::Mask<D> m, V bias,
                      const Target& to, TOut* y) {
  const size_t lanes = hn::Lanes(d);
  constexpr int kColumns = (kTile - 1) * S + K, kLines = (kRows - 1) * S + K;
  const int64_t x0 = ox * S - a.pad_left, c = a.c, next_line = a.dilation_h * a.wd * c;
  line += x0 * c;
  V acc[kRows * kTile];
  HWY_UNROLL(16)
  for (int t = 0; t < kRows * kTile; ++t) acc[t] = bias;
  HWY_UNROLL(8)
  for (int i = 0; i < kLines; ++i, line += next_line) {
    if (!(inside >> i & 1)) continue;
    V taps[kRows][K];
    HWY_UNROLL(2)
    for (int r = 0; r < kRows; ++r)
      if (i - r * S >= 0 && i - r * S < K) {
        HWY_UNROLL(8)
        for (int k = 0; k < K; ++k) taps[r][k] = hn::Load(d, w + ((i - r * S) * K + k) * lanes);
      }
    HWY_UNROLL(20)
    for (int col = kLeft; col < kColumns - kRight; ++col) {
      if constexpr (kCheck)
        if (x0 + col < 0 || x0 + col >= a.wd) continue;
      V x = LoadChannels<kFull>(d, line + col * c, m);
      KeepInRegister(x);
      HWY_UNROLL(2)
      for (int r = 0; r < kRows; ++r)
        if (i - r * S >= 0 && i - r * S < K) {
          HWY_UNROLL(8)
          for (int t = 0; t < kTile; ++t) {
            const int k = col - t * S;
            if (k >= 0 && k < K) acc[r * kTile + t] = hn::MulAdd(x, taps[r][k], acc[r * kTile + t]);
          }
        }
    }
  }
  HWY_UNROLL(2)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(8)
    for (int t = 0; t < kTile; ++t) {
      const V sum = acc[r * kTile + t];
      if (to.sums) {
        hn::Store(sum, d, to.sums + r * to.next_sums + (ox + t) * lanes);
        continue;
      }
      const V out = to.hard_swish ? Activate<ActivationKind::kHardSwish>(d, sum, to.least, to.most)
                                  : MinKeepNaN(d, to.most, MaxKeepNaN(d, to.least, sum));
      TOut* at = y + (r * a.ow + ox + t) * c;
      if constexpr (sizeof(TOut) == 2) {
        if (a.native_half) {
          StoreChannels<kFull>(d, out, reinterpret_cast<NativeHalf*>(at), m);
          continue;
        }
      }
      StoreChannels<kFull>(d, out, at, m);
    }
  }
}

// The Block for the columns from ox on: most are inside the picture, the first and the last of a row lack half a window.
template <class T, class TOut, bool kFull, int kRows, int kTile, int K, int S>
HWY_INLINE void BlockAt(D d, const DepthwiseArgs& a, const T* line, const float* w, uint32_t inside, int64_t ox, hn::Mask<D> m, V bias,
                        const Target& to, TOut* y) {
  const int64_t x0 = ox * S - a.pad_left, left = -x0, right = x0 + (kTile - 1) * S + K - a.wd;
  constexpr int P = K / 2;
  // Code for what is met often: narrow blocks of the first row of an odd number of them and the last channels are not.
  constexpr bool kOften = kRows == RowsAtOnce<K>() || (kTile == 7 && kFull);
  if constexpr (kOften) {
    if (left <= 0 && right <= 0) return Block<T, TOut, kFull, false, kRows, kTile, K, S, 0, 0>(d, a, line, w, inside, ox, m, bias, to, y);
    if constexpr (kFull && (kTile == 7 ? HWY_TARGET <= HWY_AVX2 : Thorough<T>())) {
      if (left == P && right <= 0) return Block<T, TOut, kFull, false, kRows, kTile, K, S, P, 0>(d, a, line, w, inside, ox, m, bias, to, y);
      if (left <= 0 && right == P) return Block<T, TOut, kFull, false, kRows, kTile, K, S, 0, P>(d, a, line, w, inside, ox, m, bias, to, y);
      if (kTile == 7 && left == P && right == P) return Block<T, TOut, kFull, false, kRows, kTile, K, S, P, P>(d, a, line, w, inside, ox, m, bias, to, y);
    }
  }
  Block<T, TOut, kFull, true, kRows, kTile, K, S, 0, 0>(d, a, line, w, inside, ox, m, bias, to, y);
}

// A row of three, five or six outputs in one block, which has both edges. Says whether it was one.
template <class T, class TOut, bool kFull, int kRows, int K, int S>
HWY_INLINE bool WholeRow(D d, const DepthwiseArgs& a, const T* line, const float* w, uint32_t inside, hn::Mask<D> m, V bias, const Target& to,
                         TOut* y) {
  if constexpr (kFull && K == 3 && kRows == RowsAtOnce<K>() && Thorough<T>()) {
    if (a.ow < 3 || a.ow > 6) return false;
    const int64_t left = a.pad_left, right = (a.ow - 1) * S + K - a.pad_left - a.wd;
    auto at = [&]<int kTile, int kLeft, int kRight>() {
      if (a.ow != kTile || left != kLeft || right != kRight) return false;
      Block<T, TOut, kFull, false, kRows, kTile, K, S, kLeft, kRight>(d, a, line, w, inside, 0, m, bias, to, y);
      return true;
    };
    auto of = [&]<int kTile>() {
      if (at.template operator()<kTile, 1, 1>()) return true;
      return S == 2 && (at.template operator()<kTile, 1, 0>() || at.template operator()<kTile, 0, 1>());
    };
    return of.template operator()<3>() || of.template operator()<5>() || of.template operator()<6>();
  }
  return false;
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

// What is the same for all rows of one vector of channels, from `ch` on.
struct Channels {
  int64_t ch;
  hn::Mask<D> mask;
  V bias;
  const float* w;
  Target to;    // of the first row
  bool direct;  // finished outputs go to y at once
};

// `sums` is written through the target.
template <bool kFull>
Channels ChannelsAt(D d, const DepthwiseArgs& a, int64_t ch, float* sums) {  // NOLINT(readability-non-const-parameter)
  const hn::Mask<D> m = FirstLanes(d, a.c - ch);
  // Cheap activations are done on the accumulators; others, and residuals, in a second walk over the sums, so that the code of
  // the window is not there for each of them.
  using Kind = ActivationKind;
  const Kind kind = a.activation.kind;
  const bool limits = kind == Kind::kNone || kind == Kind::kRelu || kind == Kind::kClip;
  const bool direct = !a.residual && (limits || kind == Kind::kHardSwish);
  Target to{direct ? nullptr : sums, a.ow * static_cast<int64_t>(hn::Lanes(d)), hn::Set(d, -HUGE_VALF), hn::Set(d, HUGE_VALF), !limits};
  if (kind == Kind::kRelu) to.least = hn::Zero(d);
  if (kind == Kind::kClip) to.least = hn::Set(d, a.activation.alpha), to.most = hn::Set(d, a.activation.beta);
  return {ch, m, a.bias ? LoadChannels<kFull>(d, a.bias + ch, m) : hn::Zero(d), a.w + ch * a.kh * a.kw, to, direct};
}

// How a row is covered: blocks of seven columns, the others of four. Fourteen sums, the weights and a column of the picture fill
// the registers, and seven divides the widths of most networks. The last blocks overlap where the width asks for it.
struct Tiles {
  int64_t sevens, fours;
};

inline Tiles TilesOf(int64_t width) {
  Tiles best{0, 0};
  for (int64_t sevens = 0, least = INT64_MAX; sevens <= (width + 6) / 7 && (sevens == 0 || width >= 7); ++sevens) {
    const int64_t fours = std::max<int64_t>(0, (width - 7 * sevens + 3) / 4), cost = 8 * sevens + 5 * fours;  // one for the start of a block
    if (cost <= least) best = {sevens, fours}, least = cost;
  }
  return best;
}

// Rows r to r + kRows − 1 of the outputs of one image, of one vector of channels. x and y begin with the image.
template <class T, class TOut, bool kFull, int K, int S, int kRows>
void RowChannels(D d, const DepthwiseArgs& a, const Channels& c, Tiles tiles, const T* x, TOut* y, int64_t r, float* sums) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t y0 = r * a.stride_h - a.pad_top;
  const T* row = x + y0 * a.wd * a.c + c.ch;
  y += r * a.ow * a.c;
  // Copies: what is behind a reference would be read again after each store.
  const float* w = c.w;
  const V bias = c.bias;
  const hn::Mask<D> m = c.mask;
  const Target to = c.to;
  const bool direct = c.direct;
  if constexpr (K > 0) {
    uint32_t inside = 0;
    for (int i = 0; i < (kRows - 1) * S + K; ++i) {
      const int64_t iy = y0 + i * a.dilation_h;
      if (iy >= 0 && iy < a.h) inside |= 1u << i;
    }
    TOut* out = y + c.ch;
    if (WholeRow<T, TOut, kFull, kRows, K, S>(d, a, row, w, inside, m, bias, to, out)) {
    } else if (a.ow >= 4) {
      int64_t ox = 0;
      for (int64_t i = 0; i < tiles.sevens; ++i, ox += 7)
        BlockAt<T, TOut, kFull, kRows, 7, K, S>(d, a, row, w, inside, std::min(ox, a.ow - 7), m, bias, to, out);
      for (int64_t i = 0; i < tiles.fours; ++i, ox += 4)
        BlockAt<T, TOut, kFull, kRows, 4, K, S>(d, a, row, w, inside, std::min(ox, a.ow - 4), m, bias, to, out);
    } else {
      for (int k = 0; k < kRows; ++k)
        for (int64_t ox = 0; ox < a.ow; ++ox) {
          Target one = to;
          if (!direct) one.sums += k * one.next_sums;
          Block<T, TOut, kFull, true, 1, 1, K, S, 0, 0>(d, a, row + k * S * a.wd * a.c, w, inside >> (k * S) & ((1u << K) - 1), ox, m,
                                                  bias, one, out + k * a.ow * a.c);
        }
    }
    if (direct) return;
  } else {
    int64_t ky0 = 0, ky1 = a.kh;
    while (ky0 < ky1 && y0 + ky0 * a.dilation_h < 0) ++ky0;
    while (ky1 > ky0 && y0 + (ky1 - 1) * a.dilation_h >= a.h) --ky1;
    for (int64_t ox = 0; ox < a.ow; ++ox) Single<T, kFull>(d, a, row, w, ky0, ky1, ox, m, bias, sums);
  }
  for (int k = 0; k < kRows; ++k) {
    const int64_t at = y - static_cast<TOut*>(a.y) + k * a.ow * a.c + c.ch;
    if constexpr (sizeof(TOut) == 2) {
      if (a.native_half) {
        FinishRow<NativeHalf, kFull>(d, a, sums + k * a.ow * lanes, at, c.mask);
        continue;
      }
    }
    FinishRow<TOut, kFull>(d, a, sums + k * a.ow * lanes, at, c.mask);
  }
}

// Rows [from, to) of all images, one after the other.
template <class T, class TOut, bool kFull, int K, int S>
void Strip(D d, const DepthwiseArgs& a, Tiles tiles, int64_t from, int64_t to, int64_t ch, float* sums) {
  constexpr int kRows = RowsAtOnce<K>();
  const Channels c = ChannelsAt<kFull>(d, a, ch, sums);
  for (int64_t image = from / a.oh, r = from - image * a.oh; image * a.oh + r < to; ++image, r = 0) {
    const int64_t last = std::min(a.oh, to - image * a.oh);
    const T* x = static_cast<const T*>(a.x) + image * a.h * a.wd * a.c;
    TOut* y = static_cast<TOut*>(a.y) + image * a.oh * a.ow * a.c;
    // Of an odd number of rows the first is alone: it lacks lines above it, which a pair would have to skip.
    if (kRows == 2 && (last - r) % 2 != 0) RowChannels<T, TOut, kFull, K, S, 1>(d, a, c, tiles, x, y, r++, sums);
    for (; r < last; r += kRows) RowChannels<T, TOut, kFull, K, S, kRows>(d, a, c, tiles, x, y, r, sums);
  }
}

// A strip of rows is walked one vector of channels after the other: the strip stays in the second-level cache
// (half of 1 MiB), and the rows of one vector under the window in the first.
template <class T, class TOut, int K, int S>
void Run(const DepthwiseArgs& a) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t row_work = a.ow * a.c * a.kh * a.kw;
  const Tiles tiles = TilesOf(a.ow);
  const int64_t strip = std::max<int64_t>(4, (512 << 10) / (a.stride_h * a.wd * a.c * static_cast<int64_t>(sizeof(T)) + 1));
  parallel_for(a.n * a.oh, kParallelGrain / (row_work + 1) + 1, [&](int64_t begin, int64_t end) {
    float* sums = reinterpret_cast<float*>(a.scratch) + omp_get_thread_num() * kMostRows * a.ow * lanes;
    for (int64_t from = begin; from < end; from += strip) {
      const int64_t to = std::min(from + strip, end);
      int64_t ch = 0;
      for (; ch + lanes <= a.c; ch += lanes) Strip<T, TOut, true, K, S>(d, a, tiles, from, to, ch, sums);
      if (ch < a.c) Strip<T, TOut, false, K, S>(d, a, tiles, from, to, ch, sums);
    }
  });
}

template <class T, class TOut>
void DepthwiseOf(const DepthwiseArgs& a) {
  bool dense = a.dilation_w == 1 && a.kh == a.kw && a.stride_h == a.stride_w;
  if (dense && a.kw == 3 && a.stride_w == 1) return Run<T, TOut, 3, 1>(a);
  if (dense && a.kw == 3 && a.stride_w == 2) return Run<T, TOut, 3, 2>(a);
  if (dense && a.kw == 5 && a.stride_w == 1) return Run<T, TOut, 5, 1>(a);
  if (dense && a.kw == 5 && a.stride_w == 2) return Run<T, TOut, 5, 2>(a);
  if (dense && a.kw == 7 && a.stride_w == 1) return Run<T, TOut, 7, 1>(a);
  return Run<T, TOut, 0, 1>(a);
}

void Depthwise(const DepthwiseArgs& a) { DepthwiseOf<float, float>(a); }
void DepthwiseToHalf(const DepthwiseArgs& a) { DepthwiseOf<float, uint16_t>(a); }
void DepthwiseHalf(const DepthwiseArgs& a) { DepthwiseOf<uint16_t, uint16_t>(a); }
size_t DepthwiseLanes() { return hn::Lanes(D()); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(Depthwise);
HWY_EXPORT(DepthwiseToHalf);
HWY_EXPORT(DepthwiseHalf);
HWY_EXPORT(DepthwiseLanes);

void run_depthwise(const DepthwiseArgs& args, DepthwiseTypes types) {
  if (types.half_in) HWY_DYNAMIC_DISPATCH(DepthwiseHalf)(args);
  else if (types.half_out) HWY_DYNAMIC_DISPATCH(DepthwiseToHalf)(args);
  else HWY_DYNAMIC_DISPATCH(Depthwise)(args);
}

size_t depthwise_scratch(int64_t out_width) {
  return static_cast<size_t>(kMostRows * out_width) * HWY_DYNAMIC_DISPATCH(DepthwiseLanes)() * sizeof(float);
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
    run_depthwise(args_, {in[0]->dtype() == DType::kBF16, out[0]->dtype() == DType::kBF16});
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
          const DType type = q.input(0).dtype, out = q.output().dtype;
          const bool typed = ((type == DType::kF32 && (out == type || out == DType::kBF16)) || (type == DType::kBF16 && out == type)) &&
                             q.input(1).dtype == DType::kF32 && (!q.has_input(3) || q.input(3).dtype == out);
          return typed && !q.has_input(4) && q.input(1).is_constant() && w[1] == 1 && q.node.get_int("group") == w[0] &&
                 q.in_shape()[3] == w[0] && (!q.has_input(2) || (q.input(2).is_constant() && q.input(2).dtype == DType::kF32));
        }, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<DepthwiseConv>(q); }});
  register_grouped_conv(r);
}

}  // namespace lathe
#endif
