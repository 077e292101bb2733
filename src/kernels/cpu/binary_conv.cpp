// BinaryConv (graph/ops/coded.cpp): the signs of pictures and weights are bits, and a sum of products of signs is the number
// of elements less twice the number of bits that differ (Rastegari et al. 2016, section 3.2). The picture's signs are packed
// first, 32 channels in a word, and stand in a frame of zeros, so that all windows are alike; what the zeros of the frame add
// to the count, which is what the weights' own bits are, is taken off afterwards. Sums are exact.
//
// Lanes are output channels. Packed weights: [vectors of channels, taps, words of a pixel, lanes].
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/binary_conv.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <vector>

#include "core/parallel.h"
#include "kernels/cpu/bit_counts.h"
#include "kernels/cpu/lanes-inl.h"
#include "kernels/kernel.h"

#ifndef LATHE_BINARY_CONV_SHARED
#define LATHE_BINARY_CONV_SHARED
namespace lathe {
constexpr int64_t kMostBinaryRows = 8;

struct BinaryWindow {
  int64_t at;    // its first word in the frame
  int64_t edge;  // which of its taps are outside the picture: windows that agree there have one number
};

struct BinaryConvArgs {
  int64_t channels = 0, words = 0;  // of a pixel
  int64_t height = 0, width = 0, pad_top = 0, pad_left = 0;  // of the picture
  int64_t frame_height = 0, frame_width = 0;
  int64_t columns = 0;
  int64_t kernel_h = 1, kernel_w = 1, dilation_h = 1, dilation_w = 1;
  const uint32_t* weights = nullptr;
  const BinaryWindow* windows = nullptr;  // of every output pixel
  const int32_t* sums = nullptr;  // [edges, whole vectors of channels]: of a window that differs nowhere
  const float* scale = nullptr;   // whole vectors
  const float* bias = nullptr;    // whole vectors
  ActivationSpec activation;
  bool residual_first = false;
  const uint32_t* frame = nullptr;
  const float* residual = nullptr;
  float* y = nullptr;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

using D32 = hn::RebindToUnsigned<D>;
using DI = hn::RebindToSigned<D>;
using V32 = hn::Vec<D32>;

// Bits are counted in words where the processor does so, else in bytes, which are added up before they overflow.
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
constexpr bool kMayCountWords = true;
#else
constexpr bool kMayCountWords = false;
#endif
template <bool kWords>
HWY_INLINE V32 AddBits(V32 counts, V32 bits) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  if constexpr (kWords) {
    V32 ones;
    __asm__("vpopcntd %1, %0" : "=v"(ones.raw) : "v"(bits.raw));
    return hn::Add(counts, ones);
  }
#endif
#if HWY_TARGET == HWY_SCALAR
  return hn::Add(counts, hn::PopulationCount(bits));
#else
  const hn::Repartition<uint8_t, D32> d8;
  return hn::BitCast(D32(), hn::Add(hn::BitCast(d8, counts), hn::PopulationCount(hn::BitCast(d8, bits))));
#endif
}
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
constexpr int kPixels = 8, kVectors = 2;
#else
constexpr int kPixels = 4, kVectors = 1;
#endif
constexpr int64_t kMostBytesAdded = 31;  // 31 · 8 < 256

HWY_INLINE V32 SumOfBytes(V32 v) {
#if HWY_TARGET == HWY_SCALAR
  return v;  // counts of words
#endif
  const D32 d;
  const V32 pairs = hn::Add(hn::And(v, hn::Set(d, 0x00ff00ffu)), hn::And(hn::ShiftRight<8>(v), hn::Set(d, 0x00ff00ffu)));
  return hn::Add(hn::And(pairs, hn::Set(d, 0xffffu)), hn::ShiftRight<16>(pairs));
}

// Signs of `count` pixels.
void PackSigns(const float* x, int64_t count, int64_t channels, int64_t words, uint32_t* to) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t p = 0; p < count; ++p, x += channels, to += words) {
    std::fill_n(to, words, 0u);
    int64_t c = 0;
    if (lanes >= 8) {
      auto* bytes = reinterpret_cast<uint8_t*>(to);
      const V zero = hn::Zero(d);
      for (; c + lanes <= channels; c += lanes) hn::StoreMaskBits(d, hn::Ge(hn::LoadU(d, x + c), zero), bytes + c / 8);
    }
    for (; c < channels; ++c) to[c / 32] |= static_cast<uint32_t>(x[c] >= 0) << c % 32;
  }
}

// Counts of differing bits of kRows windows, whose frames begin at `at`, for kVecs vectors of channels.
template <bool kWords, int kRows, int kVecs>
HWY_INLINE void CountBits(const BinaryConvArgs& g, const uint32_t* const* at, int64_t vector, V32 (&result)[kRows][kVecs]) {
  const D32 d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t taps = g.kernel_h * g.kernel_w, next = taps * g.words * lanes;
  const uint32_t* w = g.weights + vector * next;
  V32 bytes[kRows][kVecs], counts[kRows][kVecs];  // the first are counts of words where the processor has them
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r)
    HWY_UNROLL(2)
    for (int v = 0; v < kVecs; ++v) counts[r][v] = bytes[r][v] = hn::Zero(d);
  const uint32_t* pixels[kRows];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) pixels[r] = at[r];
  int64_t added = 0;
  for (int64_t ky = 0; ky < g.kernel_h; ++ky)
    for (int64_t kx = 0; kx < g.kernel_w; ++kx) {
      const int64_t offset = (ky * g.dilation_h * g.frame_width + kx * g.dilation_w) * g.words;
      for (int64_t i = 0; i < g.words; ++i, w += lanes) {
        V32 column[kVecs];
        HWY_UNROLL(2)
        for (int v = 0; v < kVecs; ++v) column[v] = hn::LoadU(d, w + v * next);
        HWY_UNROLL(8)
        for (int r = 0; r < kRows; ++r) {
          const V32 x = hn::Set(d, pixels[r][offset + i]);
          HWY_UNROLL(2)
          for (int v = 0; v < kVecs; ++v) {
            bytes[r][v] = AddBits<kWords>(bytes[r][v], hn::Xor(x, column[v]));
          }
        }
        if constexpr (!kWords) {
          if (++added < kMostBytesAdded) continue;
          added = 0;
          for (int r = 0; r < kRows; ++r)
            for (int v = 0; v < kVecs; ++v) {
              counts[r][v] = hn::Add(counts[r][v], SumOfBytes(bytes[r][v]));
              bytes[r][v] = hn::Zero(d);
            }
        }
      }
    }
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r)
    HWY_UNROLL(2)
    for (int v = 0; v < kVecs; ++v) result[r][v] = kWords ? bytes[r][v] : hn::Add(counts[r][v], SumOfBytes(bytes[r][v]));
}

// A vector of channels of output pixel `row`.
HWY_INLINE void FinishPixel(const BinaryConvArgs& g, V32 count, int64_t row, int64_t vector) {
  const D d;
  const DI di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t column = vector * lanes, whole = (g.columns + lanes - 1) / lanes * lanes;
  const auto differ = hn::BitCast(di, count);
  const auto sum = hn::Sub(hn::LoadU(di, g.sums + g.windows[row].edge * whole + column), hn::Add(differ, differ));
  const V y = hn::Add(hn::Mul(hn::ConvertTo(d, sum), hn::LoadU(d, g.scale + column)), hn::LoadU(d, g.bias + column));
  const V alpha = hn::Set(d, g.activation.alpha), beta = hn::Set(d, g.activation.beta);
  const int64_t at = row * g.columns + column;
  const hn::Mask<D> m = FirstLanes(d, g.columns - column);
  const float* residual = g.residual ? g.residual + at : nullptr;
  WithActivation(g.activation.kind, [&]<ActivationKind kAct>() HWY_ATTR {
    if (column + lanes <= g.columns) FinishLanes<float, kAct, true>(d, y, residual, g.residual_first, g.y + at, m, alpha, beta);
    else FinishLanes<float, kAct, false>(d, y, residual, g.residual_first, g.y + at, m, alpha, beta);
  });
}

template <bool kWords, int kRows, int kVecs>
void BinaryTile(const BinaryConvArgs& g, int64_t row, int64_t vector) {
  const uint32_t* at[kRows];
  for (int r = 0; r < kRows; ++r) at[r] = g.frame + g.windows[row + r].at;
  V32 counts[kRows][kVecs];
  CountBits<kWords, kRows, kVecs>(g, at, vector, counts);
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) FinishPixel(g, counts[r][v], row + r, vector + v);
}

template <bool kWords, int kVecs>
void BinaryRows(const BinaryConvArgs& g, int64_t row0, int64_t row1, int64_t vector) {
  int64_t row = row0;
  for (; row + kPixels <= row1; row += kPixels) BinaryTile<kWords, kPixels, kVecs>(g, row, vector);
  for (; row + 2 <= row1; row += 2) BinaryTile<kWords, 2, kVecs>(g, row, vector);
  if (row < row1) BinaryTile<kWords, 1, kVecs>(g, row, vector);
}

template <bool kWords>
void BinaryVectors(const BinaryConvArgs& g, int64_t row0, int64_t row1, int64_t begin, int64_t end) {
  int64_t v = begin;
  if constexpr (kVectors == 2)
    for (; v + 2 <= end; v += 2) BinaryRows<kWords, 2>(g, row0, row1, v);
  for (; v < end; ++v) BinaryRows<kWords, 1>(g, row0, row1, v);
}

// Output pixels [row0, row1) of channel vectors [begin, end).
void BinaryPanels(const BinaryConvArgs& g, int64_t row0, int64_t row1, int64_t begin, int64_t end) {
  if constexpr (kMayCountWords) {
    if (has_bit_counts()) return BinaryVectors<true>(g, row0, row1, begin, end);
  }
  BinaryVectors<false>(g, row0, row1, begin, end);
}

int64_t BinaryLanes() { return static_cast<int64_t>(hn::Lanes(D())); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {

static bool bit_counts_allowed = true;
void allow_bit_counts(bool allowed) { bit_counts_allowed = allowed; }

bool has_bit_counts() {
#if defined(__x86_64__)
  return bit_counts_allowed && __builtin_cpu_supports("avx512vpopcntdq");
#else
  return false;
#endif
}

HWY_EXPORT(PackSigns);
HWY_EXPORT(BinaryPanels);
HWY_EXPORT(BinaryLanes);

namespace {

class BinaryConv : public Kernel {
 public:
  explicit BinaryConv(const KernelRequest& r) : x_(r.in_shape()), lanes_(HWY_DYNAMIC_DISPATCH(BinaryLanes)()) {
    const Shape& y = r.out_shape();
    const auto &kernel = r.node.get_ints("kernel_shape"), &strides = r.node.get_ints("strides"), &pads = r.node.get_ints("pads"), &dilations = r.node.get_ints("dilations");
    g_.channels = x_[3];
    g_.words = (x_[3] + 31) / 32;
    g_.height = x_[1];
    g_.width = x_[2];
    g_.pad_top = pads[0];
    g_.pad_left = pads[1];
    g_.columns = y[3];
    g_.kernel_h = kernel[0], g_.kernel_w = kernel[1];
    g_.dilation_h = dilations[0], g_.dilation_w = dilations[1];
    g_.frame_height = (y[1] - 1) * strides[0] + (kernel[0] - 1) * dilations[0] + 1;
    g_.frame_width = (y[2] - 1) * strides[1] + (kernel[1] - 1) * dilations[1] + 1;
    rows_ = y[0] * y[1] * y[2];
    vectors_ = (y[3] + lanes_ - 1) / lanes_;
    const int64_t taps = kernel[0] * kernel[1];
    signs_ = r.packed_input(1, DType::kU32, {vectors_, taps, g_.words, lanes_}, layout(), [&](const Tensor& w) { return pack(w, taps); });
    g_.weights = signs_.data<uint32_t>();
    g_.activation = activation_of(r.node);
    g_.residual_first = r.node.get_int("residual_first") != 0;
    residual_ = r.has_input(3);
    const auto whole = [&](const Tensor& t) {
      Tensor padded(DType::kF32, {vectors_ * lanes_});
      for (int64_t i = 0; i < padded.size(); ++i) padded.data<float>()[i] = t.defined() && i < t.size() ? t.data<float>()[i] : 0.0f;
      return padded;
    };
    scale_ = r.packed_input(4, DType::kF32, {vectors_ * lanes_}, layout(), whole);
    if (r.has_input(2)) bias_ = r.packed_input(2, DType::kF32, {vectors_ * lanes_}, layout(), whole);
    else no_bias_ = whole({});
    g_.scale = scale_.data<float>();
    g_.bias = bias_.defined() ? bias_.data<float>() : no_bias_.data<float>();
    place_windows(y, strides, taps);
  }
  int in_place_input() const override { return residual_ ? 3 : -1; }
  std::vector<PackedInput> packed_inputs() const override {
    return {{}, {signs_, layout()}, bias_.defined() ? PackedInput{bias_, layout()} : PackedInput{}, {}, {scale_, layout()}};
  }
  size_t scratch_bytes() const override { return static_cast<size_t>(x_[0] * g_.frame_height * g_.frame_width * g_.words) * sizeof(uint32_t); }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    BinaryConvArgs g = g_;
    auto* frame = static_cast<uint32_t*>(scratch);
    g.frame = frame;
    g.y = out[0]->data<float>();
    g.residual = residual_ ? in[3]->data<float>() : nullptr;
    const auto* x = in[0]->data<float>();
    const int64_t line = g.frame_width * g.words, first = std::min(g.pad_left, g.frame_width), count = std::clamp<int64_t>(g.frame_width - first, 0, g.width);
    parallel_for(x_[0] * g.frame_height, kParallelGrain / (g.width * g.channels / 8 + 1) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        uint32_t* to = frame + r * line;
        const int64_t iy = r % g.frame_height - g.pad_top, image = r / g.frame_height;
        if (iy < 0 || iy >= g.height) {
          std::fill_n(to, line, 0u);
          continue;
        }
        std::fill_n(to, first * g.words, 0u);
        HWY_DYNAMIC_DISPATCH(PackSigns)(x + (image * g.height + iy) * g.width * g.channels, count, g.channels, g.words, to + first * g.words);
        std::fill(to + (first + count) * g.words, to + line, 0u);
      }
    });
    const int64_t cost = g.kernel_h * g.kernel_w * g.words * 3, tiles = (rows_ + kMostBinaryRows - 1) / kMostBinaryRows;
    if (tiles >= 2 * omp_get_max_threads()) {
      return parallel_for(tiles, kParallelGrain / (cost * kMostBinaryRows * vectors_) + 1, [&](int64_t begin, int64_t end) {
        HWY_DYNAMIC_DISPATCH(BinaryPanels)(g, begin * kMostBinaryRows, std::min(end * kMostBinaryRows, rows_), 0, vectors_);
      });
    }
    parallel_for(vectors_, kParallelGrain / (cost * rows_) + 1, [&](int64_t begin, int64_t end) { HWY_DYNAMIC_DISPATCH(BinaryPanels)(g, 0, rows_, begin, end); });
  }

 private:
  uint64_t layout() const { return 1 | static_cast<uint64_t>(lanes_) << 8; }
  Tensor pack(const Tensor& w, int64_t taps) const {
    Tensor packed(DType::kU32, {vectors_, taps, g_.words, lanes_});
    auto* to = packed.data<uint32_t>();
    std::fill_n(to, packed.size(), 0u);
    const auto* from = w.data<uint8_t>();
    for (int64_t n = 0; n < g_.columns; ++n)
      for (int64_t t = 0; t < taps; ++t)
        for (int64_t c = 0; c < g_.channels; ++c)
          if (from[(n * taps + t) * g_.channels + c]) to[((n / lanes_ * taps + t) * g_.words + c / 32) * lanes_ + n % lanes_] |= 1u << c % 32;
    return packed;
  }

  // Windows of the output pixels, and what each gives where no bit differs: its elements inside the picture, and twice
  // the bits of the weights outside, which differ from the frame's zeros.
  void place_windows(const Shape& y, const std::vector<int64_t>& strides, int64_t taps) {
    std::map<std::vector<bool>, int64_t> edges;  // by which taps are inside
    windows_.resize(static_cast<size_t>(rows_));
    for (int64_t row = 0; row < rows_; ++row) {
      const int64_t ox = row % y[2], oy = row / y[2] % y[1], image = row / (y[2] * y[1]);
      const int64_t top = oy * strides[0] - g_.pad_top, left = ox * strides[1] - g_.pad_left;
      std::vector<bool> inside;
      for (int64_t ky = 0; ky < g_.kernel_h; ++ky)
        for (int64_t kx = 0; kx < g_.kernel_w; ++kx) {
          const int64_t iy = top + ky * g_.dilation_h, ix = left + kx * g_.dilation_w;
          inside.push_back(iy >= 0 && iy < g_.height && ix >= 0 && ix < g_.width);
        }
      const auto number = static_cast<int64_t>(edges.size());
      windows_[row] = {((image * g_.frame_height + oy * strides[0]) * g_.frame_width + ox * strides[1]) * g_.words, edges.emplace(std::move(inside), number).first->second};
    }
    const int64_t whole = vectors_ * lanes_;
    sums_ = Tensor(DType::kI32, {static_cast<int64_t>(edges.size()), whole});
    for (const auto& [inside, edge] : edges)
      for (int64_t n = 0; n < whole; ++n) {
        int64_t sum = 0;
        for (int64_t t = 0; t < taps; ++t) {
          if (inside[t]) sum += g_.channels;
          else
            for (int64_t i = 0; i < g_.words; ++i) sum += 2 * std::popcount(g_.weights[((n / lanes_ * taps + t) * g_.words + i) * lanes_ + n % lanes_]);
        }
        sums_.data<int32_t>()[edge * whole + n] = static_cast<int32_t>(sum);
      }
    g_.windows = windows_.data();
    g_.sums = sums_.data<int32_t>();
  }

  Shape x_;
  BinaryConvArgs g_;
  std::vector<BinaryWindow> windows_;
  Tensor signs_, scale_, bias_, no_bias_, sums_;
  int64_t lanes_ = 1, vectors_ = 0, rows_ = 0;
  bool residual_ = false;
};

bool supported(const KernelRequest& r) {
  for (size_t i : {1, 2, 4})
    if (r.has_input(i) && !r.input(i).is_constant()) return false;
  const auto& kernel = r.node.get_ints("kernel_shape");
  // Counts are of 32 bits.
  return r.input(0).dtype == DType::kF32 && r.output().dtype == DType::kF32 && r.in_shape()[3] <= (int64_t{1} << 30) / (kernel[0] * kernel[1]);
}

}  // namespace

void register_binary_conv(KernelRegistry& r) {
  r.add("BinaryConv", "ai.lathe", {"binary.conv", supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<BinaryConv>(q); }});
}

}  // namespace lathe
#endif
