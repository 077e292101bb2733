// 3×3 convolution at stride 1 with four times fewer products: Winograd's minimal filtering F(4×4, 3×3) (Lavin
// and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section 4). Tiles of 6×6 inputs are
// transformed, 36 small matrix products follow, and their sums are transformed back to 4×4 outputs. A block of
// tiles stays in the second-level cache from the first step to the last.
//
// The points are 0, ±a, ±b and ∞ with a = √½ and b = √2: with the usual ±1, ±2 the error is some three times
// larger, because the transforms' entries spread over a wider range. Against exact arithmetic the largest error is
// about 1e-6 of the largest output; tests hold it below 1e-5. A NaN or infinity in the input reaches all outputs
// of its tiles.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/winograd.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "kernels/cpu/gemm-inl.h"

#ifndef LATHE_WINOGRAD_SHARED
#define LATHE_WINOGRAD_SHARED
namespace lathe {

constexpr double kPointA = 0.70710678118654752, kPointB = 1.41421356237309505;
constexpr int64_t kPositions = 36;  // of a transformed tile

struct WinogradArgs {
  int64_t images, height, width, channels, out_height, out_width, out_channels, pad_top, pad_left;
  int64_t tiles_h, tiles_w, block;  // `block`: tiles that go through all steps together
  const float *packed, *bias;  // packed: [panel][36][channels][panel width]
  const void *x, *residual;    // f32, or bf16 widened on the way in and rounded on the way out
  void* y;
  ActivationSpec activation;
  bool residual_first, native_half;
  char* scratch;
  size_t scratch_per_thread;
};

}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

constexpr float kA = static_cast<float>(kPointA), kB = static_cast<float>(kPointB);
constexpr float kA2 = 0.5f, kB2 = 2.0f;  // squares

// Bᵀ·d for one line of six.
HWY_INLINE void ForwardLine(D d, const V* in, V* out) {
  const V a2 = hn::Set(d, kA2), b2 = hn::Set(d, kB2), sum = hn::Set(d, kA2 + kB2);
  static_assert(kA2 * kB2 == 1, "the products below leave out a²b²");
  out[0] = hn::NegMulAdd(sum, in[2], hn::Add(in[4], in[0]));
  const V even_a = hn::NegMulAdd(b2, in[2], in[4]), odd_a = hn::Mul(hn::Set(d, kA), hn::NegMulAdd(b2, in[1], in[3]));
  out[1] = hn::Add(even_a, odd_a);
  out[2] = hn::Sub(even_a, odd_a);
  const V even_b = hn::NegMulAdd(a2, in[2], in[4]), odd_b = hn::Mul(hn::Set(d, kB), hn::NegMulAdd(a2, in[1], in[3]));
  out[3] = hn::Add(even_b, odd_b);
  out[4] = hn::Sub(even_b, odd_b);
  out[5] = hn::NegMulAdd(sum, in[3], hn::Add(in[5], in[1]));
}

// Aᵀ·m for one line of six: four results.
HWY_INLINE void BackwardLine(D d, const V* in, V* out) {
  const V s1 = hn::Add(in[1], in[2]), d1 = hn::Sub(in[1], in[2]), s2 = hn::Add(in[3], in[4]), d2 = hn::Sub(in[3], in[4]);
  out[0] = hn::Add(in[0], hn::Add(s1, s2));
  out[1] = hn::MulAdd(hn::Set(d, kA), d1, hn::Mul(hn::Set(d, kB), d2));
  out[2] = hn::MulAdd(hn::Set(d, kA2), s1, hn::Mul(hn::Set(d, kB2), s2));
  out[3] = hn::MulAdd(hn::Set(d, kA * kA2), d1, hn::MulAdd(hn::Set(d, kB * kB2), d2, in[5]));
}

// One vector of channels of one tile: reads 6×6 pixels, writes 36 vectors `step` elements apart.
template <class T, bool kInside, bool kFull>
HWY_INLINE void ForwardTile(D d, const WinogradArgs& w, const T* image, int64_t y0, int64_t x0, int64_t ch, hn::Mask<D> m,
                            float* to, int64_t step) {
  V half[6][6];  // [column][transformed row]
  const T* corner = image + (y0 * w.width + x0) * w.channels + ch;
  for (int i = 0; i < 6; ++i) {
    V line[6];
    HWY_UNROLL(6)
    for (int j = 0; j < 6; ++j) {
      if constexpr (kInside) {
        line[j] = LoadChannels<kFull>(d, corner + (j * w.width + i) * w.channels, m);
      } else {
        bool in = x0 + i >= 0 && x0 + i < w.width && y0 + j >= 0 && y0 + j < w.height;
        line[j] = in ? LoadChannels<kFull>(d, corner + (j * w.width + i) * w.channels, m) : hn::Zero(d);
      }
    }
    ForwardLine(d, line, half[i]);
  }
  for (int r = 0; r < 6; ++r) {
    V line[6], out[6];
    HWY_UNROLL(6)
    for (int i = 0; i < 6; ++i) line[i] = half[i][r];
    ForwardLine(d, line, out);
    HWY_UNROLL(6)
    for (int i = 0; i < 6; ++i) hn::StoreU(out[i], d, to + (r * 6 + i) * step);
  }
}

struct TilePlace {
  int64_t image, y, x;  // of its first output
};

HWY_INLINE TilePlace PlaceOf(const WinogradArgs& w, int64_t tile) {
  int64_t per_image = w.tiles_h * w.tiles_w;
  return {tile / per_image, tile % per_image / w.tiles_w * 4, tile % w.tiles_w * 4};
}

// v: [36][tiles][channels, rounded up to whole vectors]
template <class T>
void ForwardBlock(const WinogradArgs& w, int64_t first, int64_t tiles, float* v, int64_t depth) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t t = 0; t < tiles; ++t) {
    TilePlace p = PlaceOf(w, first + t);
    const T* image = static_cast<const T*>(w.x) + p.image * w.height * w.width * w.channels;
    int64_t y0 = p.y - w.pad_top, x0 = p.x - w.pad_left;
    bool inside = y0 >= 0 && x0 >= 0 && y0 + 6 <= w.height && x0 + 6 <= w.width;
    for (int64_t ch = 0; ch < w.channels; ch += lanes) {
      const hn::Mask<D> m = FirstLanes(d, w.channels - ch);
      bool full = ch + lanes <= w.channels;
      float* to = v + t * depth + ch;
      int64_t step = tiles * depth;
      if (full && inside) ForwardTile<T, true, true>(d, w, image, y0, x0, ch, m, to, step);
      else if (full) ForwardTile<T, false, true>(d, w, image, y0, x0, ch, m, to, step);
      else ForwardTile<T, false, false>(d, w, image, y0, x0, ch, m, to, step);
    }
  }
}

// m: [36][tiles][panel width], the sums of one panel.
template <class T, ActivationKind kAct, bool kFull>
HWY_INLINE void BackwardTile(D d, const WinogradArgs& w, const TilePlace& p, const float* m, int64_t step, int64_t column, hn::Mask<D> mask) {
  V half[6][4];
  for (int i = 0; i < 6; ++i) {
    V line[6];
    HWY_UNROLL(6)
    for (int j = 0; j < 6; ++j) line[j] = hn::LoadU(d, m + (j * 6 + i) * step);
    BackwardLine(d, line, half[i]);
  }
  const V alpha = hn::Set(d, w.activation.alpha), beta = hn::Set(d, w.activation.beta);
  const V bias = w.bias ? LoadChannels<kFull>(d, w.bias + column, mask) : hn::Zero(d);
  const T* residual = static_cast<const T*>(w.residual);
  T* y = static_cast<T*>(w.y);
  int64_t rows = std::min<int64_t>(4, w.out_height - p.y), columns = std::min<int64_t>(4, w.out_width - p.x);
  for (int64_t r = 0; r < rows; ++r) {
    V line[6], out[4];
    HWY_UNROLL(6)
    for (int i = 0; i < 6; ++i) line[i] = half[i][r];
    BackwardLine(d, line, out);
    int64_t at = (((p.image * w.out_height + p.y + r) * w.out_width) + p.x) * w.out_channels + column;
    for (int64_t c = 0; c < columns; ++c, at += w.out_channels)
      FinishLanes<T, kAct, kFull>(d, hn::Add(out[c], bias), residual ? residual + at : nullptr, w.residual_first, y + at, mask, alpha, beta);
  }
}

template <class T>
void BackwardBlock(const WinogradArgs& w, int64_t first, int64_t tiles, const float* m, int64_t column) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t width = kPanelVectors * lanes;
  WithActivation(w.activation.kind, [&]<ActivationKind kAct>() {
    for (int64_t t = 0; t < tiles; ++t) {
      TilePlace p = PlaceOf(w, first + t);
      for (int64_t v = 0; v < kPanelVectors; ++v) {
        int64_t n = column + v * lanes;
        if (n >= w.out_channels) break;
        const hn::Mask<D> mask = FirstLanes(d, w.out_channels - n);
        const float* from = m + t * width + v * lanes;
        if (n + lanes <= w.out_channels) BackwardTile<T, kAct, true>(d, w, p, from, tiles * width, n, mask);
        else BackwardTile<T, kAct, false>(d, w, p, from, tiles * width, n, mask);
      }
    }
  });
}

template <class T>
void WinogradBlock(const WinogradArgs& w, int64_t first, int64_t tiles, char* scratch) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t width = kPanelVectors * lanes, depth = (w.channels + lanes - 1) / lanes * lanes;
  float* v = reinterpret_cast<float*>(scratch);
  float* sums = v + kPositions * w.block * depth;
  ForwardBlock<T>(w, first, tiles, v, depth);
  // Rows are shared out evenly: 16 tiles are 8 and 8, not 12 and 4.
  const int64_t groups = (tiles + kTileRows - 1) / kTileRows, rows = (tiles + groups - 1) / groups;
  for (int64_t column = 0; column < w.out_channels; column += width) {
    const float* panel = w.packed + column * kPositions * w.channels;
    for (int64_t position = 0; position < kPositions; ++position, panel += w.channels * width) {
      for (int64_t t = 0; t < tiles; t += rows) {
        const int count = static_cast<int>(std::min(rows, tiles - t));
        const void* pointers[kMostTileRows];
        for (int r = 0; r < count; ++r) pointers[r] = v + (position * tiles + t + r) * depth;
        MicroFor(count)(1, pointers, w.channels, panel, sums + (position * tiles + t) * width);
      }
    }
    BackwardBlock<T>(w, first, tiles, sums, column);
  }
}

template <class T>
void WinogradOf(const WinogradArgs& w) {
  int64_t tiles = w.images * w.tiles_h * w.tiles_w;
  int64_t blocks = (tiles + w.block - 1) / w.block, each = (tiles + blocks - 1) / blocks;
  parallel_for(blocks, 1, [&](int64_t begin, int64_t end) {
    char* scratch = w.scratch + static_cast<size_t>(omp_get_thread_num()) * w.scratch_per_thread;
    for (int64_t b = begin; b < end; ++b)
      if (b * each < tiles) WinogradBlock<T>(w, b * each, std::min(each, tiles - b * each), scratch);
  });
}

void Winograd(const WinogradArgs& w) { WinogradOf<float>(w); }
void WinogradHalf(const WinogradArgs& w) {
  if (w.native_half) WinogradOf<NativeHalf>(w);
  else WinogradOf<uint16_t>(w);
}
size_t WinogradLanes() { return hn::Lanes(D()); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(Winograd);
HWY_EXPORT(WinogradHalf);
HWY_EXPORT(WinogradLanes);

namespace {

struct FilterTransform {
  double rows[6][3] = {};
};

// G, once: packing asks for it a million times in a large network.
FilterTransform filter_transform() {
  FilterTransform g;
  const double points[5] = {0, kPointA, -kPointA, kPointB, -kPointB};
  for (int i = 0; i < 5; ++i) {
    double others = 1;
    for (int j = 0; j < 5; ++j)
      if (j != i) others *= points[i] - points[j];
    for (int k = 0; k < 3; ++k) g.rows[i][k] = std::pow(points[i], k) / others;
  }
  g.rows[5][2] = 1;
  return g;
}

// G·g·Gᵀ of one 3×3 filter, in double.
// G·g·Gᵀ of kTogether filters side by side: g [9][kTogether] → u [36][kTogether], in double.
constexpr int64_t kTogether = 16;
void transform_filters(const FilterTransform& transform, const double (*g)[kTogether], double (*u)[kTogether]) {
  double half[6][3][kTogether] = {};
  for (int i = 0; i < 6; ++i)
    for (int c = 0; c < 3; ++c)
      for (int k = 0; k < 3; ++k)
        for (int64_t f = 0; f < kTogether; ++f) half[i][c][f] += transform.rows[i][k] * g[k * 3 + c][f];
  for (int i = 0; i < 6; ++i)
    for (int j = 0; j < 6; ++j)
      for (int64_t f = 0; f < kTogether; ++f)
        u[i * 6 + j][f] = half[i][0][f] * transform.rows[j][0] + half[i][1][f] * transform.rows[j][1] + half[i][2][f] * transform.rows[j][2];
}

class WinogradConv : public Kernel {
 public:
  explicit WinogradConv(const KernelRequest& r) {
    const Shape &x = r.in_shape(), &y = r.out_shape();
    const auto& pads = r.node.get_ints("pads");
    const auto lanes = static_cast<int64_t>(HWY_DYNAMIC_DISPATCH(WinogradLanes)());
    int64_t channels = x[3], width = kPanelVectors * lanes, out = y[3], panels = (out + width - 1) / width;
    args_ = {x[0], x[1], x[2], channels, y[1], y[2], out, pads[0], pads[1], (y[1] + 3) / 4, (y[2] + 3) / 4, 0, nullptr, nullptr, nullptr, nullptr, nullptr,
             activation_of(r.node), r.node.get_int("residual_first") != 0, has_bf16_instructions(), nullptr, 0};
    int64_t depth = (channels + lanes - 1) / lanes * lanes;
    // Transformed inputs of a block take half of a 1 MiB second-level cache; never less than a full set of rows,
    // never more than four, and no thread idle.
    int64_t tiles = x[0] * args_.tiles_h * args_.tiles_w;
    int64_t fit = (512 << 10) / (kPositions * kMostTileRows * depth * 4);
    args_.block = kMostTileRows * std::clamp<int64_t>(fit, 1, 4);
    if (fit < 2) args_.block = kMostTileRows + kMostTileRows / 3;  // 14×14 outputs are 16 tiles
    args_.block = std::max<int64_t>(1, std::min(args_.block, (tiles + omp_get_max_threads() - 1) / omp_get_max_threads()));
    packed_ = r.packed_input(1, DType::kF32, {panels, kPositions, channels, width}, kLayout, [&](const Tensor& w) {
      return packed(w, channels, out, panels, width);
    });
    if (r.has_input(2)) bias_ = r.packed_input(2, DType::kF32, {out}, 0, [](const Tensor& t) { return t; });
    args_.packed = packed_.data<float>();
    args_.bias = bias_.defined() ? bias_.data<float>() : nullptr;
    residual_ = r.has_input(3);
    args_.scratch_per_thread = static_cast<size_t>(kPositions * args_.block * (depth + width)) * sizeof(float);
  }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    args_.x = in[0]->raw();
    args_.residual = residual_ ? in[3]->raw() : nullptr;
    args_.y = out[0]->raw();
    args_.scratch = static_cast<char*>(scratch);
    if (in[0]->dtype() == DType::kBF16) HWY_DYNAMIC_DISPATCH(WinogradHalf)(args_);
    else HWY_DYNAMIC_DISPATCH(Winograd)(args_);
  }
  size_t scratch_bytes() const override { return args_.scratch_per_thread * static_cast<size_t>(omp_get_max_threads()); }
  int in_place_input() const override { return residual_ ? 3 : -1; }
  std::vector<PackedInput> packed_inputs() const override { return {{}, {packed_, kLayout}, {bias_}}; }

 private:
  static constexpr uint64_t kLayout = 1;  // another one for other points of interpolation, too

  static Tensor packed(const Tensor& w, int64_t channels, int64_t out, int64_t panels, int64_t width) {
    Tensor result(DType::kF32, {panels, kPositions, channels, width});
    float* to = result.data<float>();
    const float* filters = w.data<float>();
    if (out % width) {  // the last panel is not full
      const int64_t panel = kPositions * channels * width;
      std::memset(to + (panels - 1) * panel, 0, static_cast<size_t>(panel) * sizeof(float));
    }
    const FilterTransform transform = filter_transform();
    double g[9][kTogether], u[kPositions][kTogether];
    const int64_t together = std::min(kTogether, width);  // both are powers of two
    for (int64_t n = 0; n < out; n += together)
      for (int64_t c = 0; c < channels; ++c) {
        const int64_t count = std::min(together, out - n);
        for (int64_t t = 0; t < 9; ++t)
          for (int64_t f = 0; f < kTogether; ++f) g[t][f] = f < count ? filters[((n + f) * channels + c) * 9 + t] : 0;
        transform_filters(transform, g, u);
        for (int64_t p = 0; p < kPositions; ++p) {
          float* at = to + ((n / width * kPositions + p) * channels + c) * width + n % width;
          for (int64_t f = 0; f < count; ++f) at[f] = static_cast<float>(u[p][f]);
        }
      }
    return result;
  }

  WinogradArgs args_{};
  Tensor packed_, bias_;
  bool residual_ = false;
};

// With fewer channels the transforms outweigh the products they save; beyond 12 MiB the transformed weights, four
// times the plain ones, come from memory more slowly than a direct convolution computes.
bool winograd_supported(const KernelRequest& r) {
  DType type = r.input(0).dtype;
  if ((type != DType::kF32 && type != DType::kBF16) || r.output().dtype != type || r.input(1).dtype != DType::kF32) return false;
  if (!r.winograd || r.has_input(4) || r.node.get_int("group") != 1 || !r.input(1).is_constant() || (r.has_input(3) && r.input(3).dtype != type)) return false;
  if (r.has_input(2) && !r.input(2).is_constant()) return false;
  const Shape &x = r.in_shape(), &w = r.in_shape(1), &y = r.out_shape();
  const std::vector<int64_t> ones{1, 1};
  const auto& pads = r.node.get_ints("pads");
  bool padded = std::all_of(pads.begin(), pads.end(), [](int64_t p) { return p >= 0; });
  return w[2] == 3 && w[3] == 3 && r.node.get_ints("strides") == ones && r.node.get_ints("dilations") == ones && padded &&
         x[3] >= 16 && w[0] >= 16 && y[1] >= 3 && y[2] >= 3 && x[3] * w[0] * kPositions * 4 <= (12 << 20);
}

}  // namespace

void register_winograd(KernelRegistry& r) {
  r.add("Conv", "ai.lathe", {"conv.winograd", winograd_supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> {
          return std::make_unique<WinogradConv>(q);
        }});
}

}  // namespace lathe
#endif
