// The first convolution of a network: reads a picture plane by plane, as it comes, and writes pixel by pixel, as the
// next layer wants it. A plane's row is already what a product needs: the elements under a row of the window lie
// together. So a tile of output pixels keeps its sums in registers and broadcasts input elements straight from rows
// that were copied, with their padding, into the first-level cache.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/planar_conv.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <limits>

#include "core/parallel.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/lanes-inl.h"

#ifndef LATHE_PLANAR_CONV_SHARED
#define LATHE_PLANAR_CONV_SHARED
namespace lathe {
struct PlanarArgs {
  int64_t images, channels, height, width;  // of X
  int64_t out_height, out_width, columns;   // of Y; `columns` are its channels
  int64_t taps_h, taps_w, stride_h, stride_w, pad_top, pad_left;
  int64_t row;          // elements of a copied row: what the last tile reads
  const float* packed;  // gemm_panels(channels · taps_h · taps_w, columns)
  const float* bias;
  float low, high;      // limits of every sum
  ActivationSpec activation;  // what a limit cannot say, else none
  bool bf16_out;
  const float* x;
  void* y;
  char* scratch;
  int64_t copied_bytes, scratch_per_thread;
};
constexpr int64_t kMostPlanarPixels = 14;  // of a tile, over all instruction sets
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// 14 pixels × 2 vectors are 28 of AVX-512's 32 registers, and divide the 112 pixels of the usual first row.
#if HWY_TARGET <= HWY_AVX3
constexpr int kPixels = 14;
#else
constexpr int kPixels = 6;
#endif

// The rows of X under the window of output row `oy`: [channels][taps_h][row], zero beside the picture.
void CopyRows(const PlanarArgs& g, int64_t image, int64_t oy, float* to) {
  const int64_t left = std::min(g.pad_left, g.row), count = std::clamp<int64_t>(g.row - left, 0, g.width);
  for (int64_t c = 0; c < g.channels; ++c)
    for (int64_t ky = 0; ky < g.taps_h; ++ky, to += g.row) {
      const int64_t iy = oy * g.stride_h - g.pad_top + ky;
      if (iy < 0 || iy >= g.height) {
        std::fill_n(to, g.row, 0.0f);
        continue;
      }
      std::fill_n(to, left, 0.0f);
      std::copy_n(g.x + ((image * g.channels + c) * g.height + iy) * g.width, count, to + left);
      std::fill_n(to + left + count, g.row - left - count, 0.0f);
    }
}

// Output pixels [ox, ox + kPixels) of a row, of which `count` exist, for one panel of columns. kStride 0: as g says.
template <int kVectors, int kStride, class T>
void PlanarTile(const PlanarArgs& g, const float* rows, int64_t ox, int64_t count, const float* HWY_RESTRICT b, int64_t column, T* y) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t stride = kStride ? kStride : g.stride_w;
  V acc[kPixels][kVectors];
  HWY_UNROLL(14)
  for (auto& pixel : acc)
    HWY_UNROLL(2)
    for (V& sum : pixel) sum = hn::Zero(d);
  const float* line = rows + ox * stride;
  for (int64_t t = g.channels * g.taps_h; t > 0; --t, line += g.row) {
    for (int64_t kx = 0; kx < g.taps_w; ++kx, b += kVectors * lanes) {
      const float* x = line + kx;
      __asm__("" : "+r"(x));  // or GCC keeps what a later step reads again in memory, for want of registers
      const V b0 = hn::Load(d, b), b1 = kVectors == 2 ? hn::Load(d, b + lanes) : b0;
      HWY_UNROLL(14)
      for (int p = 0; p < kPixels; ++p) {
        V element = hn::Set(d, x[p * stride]);
        KeepInRegister(element);
        acc[p][0] = hn::MulAdd(element, b0, acc[p][0]);
        if constexpr (kVectors == 2) acc[p][1] = hn::MulAdd(element, b1, acc[p][1]);
      }
    }
  }
  const V low = hn::Set(d, g.low), high = hn::Set(d, g.high);
  T* to = y + ox * g.columns + column;
  HWY_UNROLL(2)
  for (int v = 0; v < kVectors; ++v, to += lanes) {
    const int64_t left = g.columns - column - v * lanes;
    const hn::Mask<D> some = FirstLanes(d, left);
    const V bias = g.bias ? LoadMasked(some, d, g.bias + column + v * lanes) : hn::Zero(d);
    HWY_UNROLL(14)
    for (int p = 0; p < kPixels; ++p) {
      if (p >= count) continue;
      const V sum = MinKeepNaN(d, high, MaxKeepNaN(d, low, hn::Add(acc[p][v], bias)));
      if (left >= lanes) StoreChannels<true>(d, sum, to + p * g.columns, some);
      else StoreChannels<false>(d, sum, to + p * g.columns, some);
    }
  }
}

template <int kStride, class T>
void PlanarRow(const PlanarArgs& g, const float* rows, T* y) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(D()));
  const int64_t width = kPanelVectors * lanes, panel = g.channels * g.taps_h * g.taps_w * width;
  const float* b = g.packed;
  for (int64_t n = 0; n < g.columns; n += width, b += panel)
    for (int64_t ox = 0; ox < g.out_width; ox += kPixels) {
      const int64_t count = std::min<int64_t>(kPixels, g.out_width - ox);
      if (g.columns - n > lanes) PlanarTile<2, kStride>(g, rows, ox, count, b, n, y);
      else PlanarTile<1, kStride>(g, rows, ox, count, b, n, y);
    }
}

template <class T>
void PlanarRowOf(const PlanarArgs& g, const float* rows, T* y) {
  switch (g.stride_w) {
    case 1: return PlanarRow<1>(g, rows, y);
    case 2: return PlanarRow<2>(g, rows, y);
    case 4: return PlanarRow<4>(g, rows, y);
    default: return PlanarRow<0>(g, rows, y);
  }
}

template <ActivationKind kAct, class T>
void ActivateRow(const float* from, int64_t count, const ActivationSpec& activation, T* to) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V alpha = hn::Set(d, activation.alpha), beta = hn::Set(d, activation.beta);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    StoreChannels<true>(d, Activate<kAct>(d, hn::LoadU(d, from + i), alpha, beta), to + i, FirstLanes(d, lanes));
  if (i == count) return;
  const hn::Mask<D> m = FirstLanes(d, count - i);
  StoreChannels<false>(d, Activate<kAct>(d, LoadMasked(m, d, from + i), alpha, beta), to + i, m);
}

template <class T>
void PlanarOf(const PlanarArgs& g) {
  const int64_t line = g.out_width * g.columns, work = line * g.channels * g.taps_h * g.taps_w / static_cast<int64_t>(hn::Lanes(D()));
  parallel_for(g.images * g.out_height, kParallelGrain / (work + 1) + 1, [&](int64_t begin, int64_t end) {
    char* scratch = g.scratch + omp_get_thread_num() * g.scratch_per_thread;
    auto* rows = reinterpret_cast<float*>(scratch);
    auto* sums = reinterpret_cast<float*>(scratch + g.copied_bytes);
    for (int64_t r = begin; r < end; ++r) {
      CopyRows(g, r / g.out_height, r % g.out_height, rows);
      T* y = static_cast<T*>(g.y) + r * line;
      if (g.activation.kind == ActivationKind::kNone) {
        PlanarRowOf(g, rows, y);
        continue;
      }
      PlanarRowOf(g, rows, sums);
      WithActivation(g.activation.kind, [&]<ActivationKind kAct>() { ActivateRow<kAct>(sums, line, g.activation, y); });
    }
  });
}

void Planar(const PlanarArgs& g) {
  WithElements(g.bf16_out, [&]<class T>() { PlanarOf<T>(g); });
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(Planar);

namespace {

class PlanarConv : public Kernel {
 public:
  explicit PlanarConv(const KernelRequest& r) {
    const Shape &x = r.in_shape(), &w = r.in_shape(1), &y = r.out_shape();
    const auto &strides = r.node.get_ints("strides"), &pads = r.node.get_ints("pads");
    args_.images = x[0], args_.channels = x[1], args_.height = x[2], args_.width = x[3];
    args_.out_height = y[1], args_.out_width = y[2], args_.columns = y[3];
    args_.taps_h = w[2], args_.taps_w = w[3], args_.stride_h = strides[0], args_.stride_w = strides[1];
    args_.pad_top = pads[0], args_.pad_left = pads[1];
    // As far as the widest tile of any instruction set reads; a multiple of a cache line.
    const int64_t pixels = (y[2] + kMostPlanarPixels - 1) / kMostPlanarPixels * kMostPlanarPixels + kMostPlanarPixels;
    args_.row = ((pixels - 1) * strides[1] + w[3] + 15) / 16 * 16;
    args_.copied_bytes = x[1] * w[2] * args_.row * static_cast<int64_t>(sizeof(float));
    const int64_t depth = x[1] * w[2] * w[3];
    packed_ = r.packed_input(1, DType::kF32, gemm_panels(depth, w[0]), kLayout,
                             [&](const Tensor& t) { return pack_pointwise(t.reshaped({w[0], depth, 1, 1})); });
    args_.packed = packed_.data<float>();
    if (r.has_input(2)) bias_ = r.packed_input(2, DType::kF32, {w[0]}, 0, [](const Tensor& t) { return t; });
    args_.bias = bias_.defined() ? bias_.data<float>() : nullptr;
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const ActivationSpec activation = activation_of(r.node);
    args_.low = -kInfinity;
    args_.high = kInfinity;
    if (activation.kind == ActivationKind::kRelu) args_.low = 0;
    else if (activation.kind == ActivationKind::kClip) args_.low = activation.alpha, args_.high = activation.beta;
    else args_.activation = activation;
    args_.bf16_out = r.output().dtype == DType::kBF16;
    args_.scratch_per_thread = args_.copied_bytes;
    if (args_.activation.kind != ActivationKind::kNone) args_.scratch_per_thread += (y[2] * y[3] * 4 + 63) / 64 * 64;
  }
  size_t scratch_bytes() const override { return static_cast<size_t>(args_.scratch_per_thread) * static_cast<size_t>(omp_get_max_threads()); }
  std::vector<PackedInput> packed_inputs() const override { return {{}, {packed_, kLayout}, {bias_}}; }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    PlanarArgs args = args_;
    args.x = in[0]->data<float>();
    args.y = out[0]->raw();
    args.scratch = static_cast<char*>(scratch);
    HWY_DYNAMIC_DISPATCH(Planar)(args);
  }

 private:
  static constexpr uint64_t kLayout = 1;
  PlanarArgs args_{};
  Tensor packed_, bias_;
};

}  // namespace

void register_planar_conv(KernelRegistry& r) {
  r.add("PlanarConv", "ai.lathe", {"conv.planar", [](const KernelRequest& q) {
          const Shape& w = q.in_shape(1);
          const auto& dilations = q.node.get_ints("dilations");
          return q.input(0).dtype == DType::kF32 && q.input(1).is_constant() && q.input(1).dtype == DType::kF32 && dilations[0] == 1 && dilations[1] == 1 &&
                 (!q.has_input(2) || (q.input(2).is_constant() && q.input(2).dtype == DType::kF32)) && w[1] * w[2] * w[3] <= (1 << 20) &&
                 q.node.get_ints("strides")[1] <= 64;
        }, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<PlanarConv>(q); }});
}

}  // namespace lathe
#endif
