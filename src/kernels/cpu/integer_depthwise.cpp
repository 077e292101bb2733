// IntegerConv of one channel a group. Rows of the picture are copied with their padding into a strip that stays in
// cache, columns of each residue of the stride side by side; a row of outputs is then one run of bytes, in which tap k
// of every output lies at the same distance, whatever the number of channels. Bytes of a group of taps are interleaved
// to one lane (kernels/cpu/integer-inl.h), and used for as many rows of outputs as see them. Weights repeat with the
// channels: they are laid out for each way in which vectors and channels meet.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/integer_depthwise.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/parallel.h"
#include "kernels/cpu/integer-inl.h"
#include "kernels/kernel.h"
#include "kernels/requantize.h"

#ifndef LATHE_INTEGER_DEPTHWISE_SHARED
#define LATHE_INTEGER_DEPTHWISE_SHARED
namespace lathe {
struct IntegerDepthwise {
  int64_t kernel_h = 1, groups = 1;  // groups of taps in a row of the window
  int64_t phases = 1;
  int64_t row_step = 0, line = 0;    // bytes from a tap's row to the next, and between rows of the strip
  const int64_t* offsets = nullptr;  // [groups · taps], from a row's begin
  const int32_t* weights = nullptr;  // [phases, kernel_h, groups, 4, lanes]
  const int32_t* bias = nullptr;     // [phases, 4, lanes]
  const float* scale = nullptr;
  bool quads = false, flip = false;
  Requantize out;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

#if HWY_TARGET == HWY_SCALAR
// One lane cannot hold four bytes side by side: left to the product of matrices (IntegerVectorBytes).
void IntegerDepthwiseRows(const IntegerDepthwise&, int, const uint8_t*, int64_t, uint8_t*, int64_t) {}
int64_t IntegerVectorBytes() { return 0; }
#else

// Bytes of a group of taps, from `p` + the taps' offsets, interleaved: within each block of 16 channels q[v] has
// channels 4v to 4v + 3.
template <bool kQuads>
HWY_INLINE void Interleave(const uint8_t* p, const int64_t* offsets, V8 flip, VI* q) {
  const D8 d8;
  const hn::Repartition<uint16_t, DI> d16;
  const DI di;
  const V8 a = hn::Xor(hn::LoadU(d8, p + offsets[0]), flip), b = hn::Xor(hn::LoadU(d8, p + offsets[1]), flip);
  if constexpr (kQuads) {
    const V8 c = hn::Xor(hn::LoadU(d8, p + offsets[2]), flip), d = hn::Xor(hn::LoadU(d8, p + offsets[3]), flip);
    const auto ab0 = hn::BitCast(d16, hn::InterleaveLower(d8, a, b)), ab1 = hn::BitCast(d16, hn::InterleaveUpper(d8, a, b));
    const auto cd0 = hn::BitCast(d16, hn::InterleaveLower(d8, c, d)), cd1 = hn::BitCast(d16, hn::InterleaveUpper(d8, c, d));
    q[0] = hn::BitCast(di, hn::InterleaveLower(d16, ab0, cd0));
    q[1] = hn::BitCast(di, hn::InterleaveUpper(d16, ab0, cd0));
    q[2] = hn::BitCast(di, hn::InterleaveLower(d16, ab1, cd1));
    q[3] = hn::BitCast(di, hn::InterleaveUpper(d16, ab1, cd1));
  } else {
    const V8 zero = hn::Zero(d8);
    const auto a0 = hn::BitCast(d16, hn::InterleaveLower(d8, a, zero)), a1 = hn::BitCast(d16, hn::InterleaveUpper(d8, a, zero));
    const auto b0 = hn::BitCast(d16, hn::InterleaveLower(d8, b, zero)), b1 = hn::BitCast(d16, hn::InterleaveUpper(d8, b, zero));
    q[0] = hn::BitCast(di, hn::InterleaveLower(d16, a0, b0));
    q[1] = hn::BitCast(di, hn::InterleaveUpper(d16, a0, b0));
    q[2] = hn::BitCast(di, hn::InterleaveLower(d16, a1, b1));
    q[3] = hn::BitCast(di, hn::InterleaveUpper(d16, a1, b1));
  }
}

// Four vectors of sums, in the order of Interleave, to bytes in the order of channels.
HWY_INLINE V8 Bytes(const Limits& limits, const VI* acc, const int32_t* bias, const float* scale) {
  const DI di;
  const DF df;
  const D8 d8;
  const auto lanes = hn::Lanes(di);
  VI code[4];
  HWY_UNROLL(4)
  for (int v = 0; v < 4; ++v) {
    const VI sum = hn::Add(acc[v], hn::LoadU(di, bias + v * lanes));
    code[v] = hn::And(limits.Code(hn::Mul(hn::ConvertTo(df, sum), hn::LoadU(df, scale + v * lanes))), hn::Set(di, 255));
  }
  const VI packed = hn::Or(hn::Or(code[0], hn::ShiftLeft<8>(code[1])), hn::Or(hn::ShiftLeft<16>(code[2]), hn::ShiftLeft<24>(code[3])));
  alignas(16) static constexpr uint8_t kOrder[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  return hn::TableLookupBytes(hn::BitCast(d8, packed), hn::LoadDup128(d8, kOrder));
}

// kRows rows of `bytes` outputs. With more than one, taps and outputs move by one row.
template <bool kQuads, int kRows>
void DepthwiseRows(const IntegerDepthwise& a, const uint8_t* strip, int64_t bytes, uint8_t* y, int64_t y_line) {
  const D8 d8;
  const DI di;
  const auto vector = static_cast<int64_t>(hn::Lanes(d8)), lanes = static_cast<int64_t>(hn::Lanes(di));
  const V8 flip = hn::Set(d8, static_cast<uint8_t>(a.flip ? 0x80 : 0));
  const Limits limits(a.out.least(), a.out.most(), a.out.zero);
  constexpr int kTaps = kQuads ? 4 : 2;
  int64_t phase = 0;
  for (int64_t at = 0; at < bytes; at += vector, phase = phase + 1 == a.phases ? 0 : phase + 1) {
    const int32_t* weights = a.weights + phase * a.kernel_h * a.groups * 4 * lanes;
    VI acc[kRows][4];
    HWY_UNROLL(2)
    for (int r = 0; r < kRows; ++r) {
      HWY_UNROLL(4)
      for (int v = 0; v < 4; ++v) acc[r][v] = hn::Zero(di);
    }
    for (int64_t ky = 0; ky < a.kernel_h + kRows - 1; ++ky)
      for (int64_t g = 0; g < a.groups; ++g) {
        VI q[4];
        Interleave<kQuads>(strip + ky * a.row_step + at, a.offsets + g * kTaps, flip, q);
        HWY_UNROLL(2)
        for (int r = 0; r < kRows; ++r) {
          if (kRows > 1 && (ky < r || ky - r >= a.kernel_h)) continue;
          const int32_t* w = weights + ((ky - r) * a.groups + g) * 4 * lanes;
          HWY_UNROLL(4)
          for (int v = 0; v < 4; ++v) acc[r][v] = Dot<kQuads>(acc[r][v], q[v], hn::LoadU(di, w + v * lanes));
        }
      }
    HWY_UNROLL(2)
    for (int r = 0; r < kRows; ++r) {
      const V8 codes = Bytes(limits, acc[r], a.bias + phase * 4 * lanes, a.scale + phase * 4 * lanes);
      uint8_t* to = y + r * y_line + at;
      if (bytes - at >= vector) hn::StoreU(codes, d8, to);
      else StoreMasked(codes, hn::FirstN(d8, static_cast<size_t>(bytes - at)), d8, to);
    }
  }
}

// One row of outputs, or two.
void IntegerDepthwiseRows(const IntegerDepthwise& a, int rows, const uint8_t* strip, int64_t bytes, uint8_t* y, int64_t y_line) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  if (a.quads) return rows == 2 ? DepthwiseRows<true, 2>(a, strip, bytes, y, y_line) : DepthwiseRows<true, 1>(a, strip, bytes, y, y_line);
#endif
  rows == 2 ? DepthwiseRows<false, 2>(a, strip, bytes, y, y_line) : DepthwiseRows<false, 1>(a, strip, bytes, y, y_line);
}

// Of a vector; 0 where there is none.
int64_t IntegerVectorBytes() { return static_cast<int64_t>(hn::Lanes(D8())); }

#endif

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(IntegerDepthwiseRows);
HWY_EXPORT(IntegerVectorBytes);

namespace {

// Half of the smallest second-level cache that machines of these instruction sets have.
constexpr int64_t kStripBytes = 128 << 10;

class IntegerDepthwiseConv : public Kernel {
 public:
  explicit IntegerDepthwiseConv(const KernelRequest& r)
      : x_(r.in_shape()), w_(r.in_shape(1)), y_(r.out_shape()), strides_(r.node.get_ints("strides")), pads_(r.node.get_ints("pads")),
        dilations_(r.node.get_ints("dilations")), vector_(HWY_DYNAMIC_DISPATCH(IntegerVectorBytes)()),
        zero_(static_cast<int>(r.node.get_int("x_zero_point"))) {
    const int64_t channels = x_[3], taps = w_[3];
    args_.quads = has_vnni_instructions() && r.input(1).dtype == DType::kI8 && !r.has_input(4);
    args_.flip = r.input(0).dtype == DType::kI8;
    args_.out = Requantize::of(r.node);
    args_.kernel_h = w_[2];
    args_.groups = (taps + group_size() - 1) / group_size();
    args_.phases = channels / std::gcd(channels, vector_);
    // Columns of one residue: those that any output's taps reach.
    residue_ = ((y_[2] - 1) * strides_[1] + (taps - 1) * dilations_[1]) / strides_[1] + 1;
    line_ = strides_[1] * residue_ * channels;
    args_.row_step = dilations_[0] * line_;
    for (int64_t k = 0; k < args_.groups * group_size(); ++k) {
      const int64_t column = std::min(k, taps - 1) * dilations_[1];  // a tap without weight reads what is there anyhow
      offsets_.push_back((column % strides_[1] * residue_ + column / strides_[1]) * channels);
    }
    pack(r);
    args_.weights = packed_.data<int32_t>();
    args_.bias = bias_.data<int32_t>();
    args_.scale = scale_.data<float>();
    strip_ = std::clamp<int64_t>((kStripBytes / line_ - reach()) / strides_[0] + 1, 1, y_[1]);
    strip_ += strip_ % 2 != 0 && strip_ < y_[1];  // rows go in pairs
  }

  std::vector<PackedInput> packed_inputs() const override { return {{}, {packed_, layout()}}; }
  size_t scratch_bytes() const override { return static_cast<size_t>(omp_get_max_threads() * strip_bytes()); }

  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    args_.offsets = offsets_.data();
    const int64_t strips = (y_[1] + strip_ - 1) / strip_, bytes = y_[2] * y_[3];
    parallel_for(y_[0] * strips, kParallelGrain / (bytes * strip_ * w_[2] * args_.groups / 16 + 1) + 1, [&](int64_t begin, int64_t end) {
      auto* own = static_cast<uint8_t*>(scratch) + omp_get_thread_num() * strip_bytes();
      for (; begin < end; ++begin) {
        const int64_t image = begin / strips, from = begin % strips * strip_, to = std::min(from + strip_, y_[1]);
        fill(in[0]->data<uint8_t>() + image * x_[1] * x_[2] * x_[3], from * strides_[0] - pads_[0], (to - from - 1) * strides_[0] + reach(), own);
        const bool pairs = strides_[0] == 1 && dilations_[0] == 1;
        for (int64_t row = from; row < to;) {
          const int rows = pairs && row + 1 < to ? 2 : 1;
          HWY_DYNAMIC_DISPATCH(IntegerDepthwiseRows)(args_, rows, own + (row - from) * strides_[0] * line_, bytes,
                                                     out[0]->data<uint8_t>() + (image * y_[1] + row) * bytes, bytes);
          row += rows;
        }
      }
    });
  }

 private:
  int64_t group_size() const { return args_.quads ? 4 : 2; }
  int64_t reach() const { return (w_[2] - 1) * dilations_[0] + 1; }
  // Vectors begin in the last row and may end behind it.
  int64_t strip_bytes() const { return (((strip_ - 1) * strides_[0] + reach()) * line_ + vector_ + 63) / 64 * 64; }
  uint64_t layout() const { return 1 | static_cast<uint64_t>(args_.quads) << 8 | static_cast<uint64_t>(vector_) << 16; }

  // The channel of an element of a vector in memory, where lane l of q[v] has it (see Interleave).
  int64_t channel_of(int64_t phase, int64_t v, int64_t lane) const { return (phase * vector_ + lane / 4 * 16 + v * 4 + lane % 4) % x_[3]; }

  // Weights, then what the zero point takes off the sums of each lane.
  void pack(const KernelRequest& r) {
    const int64_t lanes = vector_ / 4, sums = args_.phases * vector_, each = args_.kernel_h * args_.groups;
    packed_ = r.packed_input(1, DType::kI32, {sums * (each + 1)}, layout(), [&](const Tensor& w) {
      Tensor packed(DType::kI32, {sums * (each + 1)});
      std::memset(packed.raw(), 0, packed.bytes());
      const Tensor* zeros = r.has_input(4) ? &r.input(4).constant : nullptr;
      const int zero = zero_ + (args_.flip ? 128 : 0);
      for (int64_t phase = 0; phase < args_.phases; ++phase)
        for (int64_t v = 0; v < 4; ++v)
          for (int64_t lane = 0; lane < lanes; ++lane) {
            const int64_t c = channel_of(phase, v, lane), weight_zero = zeros ? zeros->get_int(zeros->size() == 1 ? 0 : c) : 0;
            int64_t sum = 0;
            for (int64_t tap = 0; tap < w_[2] * w_[3]; ++tap) {
              const int64_t ky = tap / w_[3], kx = tap % w_[3], value = w.get_int(c * w_[2] * w_[3] + tap) - weight_zero;
              auto* at = packed.data<char>() + ((((phase * w_[2] + ky) * args_.groups + kx / group_size()) * 4 + v) * lanes + lane) * 4;
              if (args_.quads) reinterpret_cast<int8_t*>(at)[kx % 4] = static_cast<int8_t>(value);
              else reinterpret_cast<int16_t*>(at)[kx % 2] = static_cast<int16_t>(value);
              sum += value;
            }
            packed.data<int32_t>()[sums * each + (phase * 4 + v) * lanes + lane] = static_cast<int32_t>(-zero * sum);
          }
      return packed;
    });
    bias_ = Tensor(DType::kI32, {sums});
    scale_ = Tensor(DType::kF32, {sums});
    for (int64_t i = 0; i < sums; ++i) {
      const int64_t c = channel_of(i / vector_, i / lanes % 4, i % lanes);
      const uint32_t bias = r.has_input(3) ? r.input(3).constant.data<uint32_t>()[c] : 0;
      bias_.data<uint32_t>()[i] = bias + packed_.data<uint32_t>()[sums * each + i];
      scale_.data<float>()[i] = r.input(2).constant.data<float>()[c];
    }
  }

  // Rows of the picture from `top` on, with what lies outside it. Column c of a window is column c / stride of residue
  // c % stride.
  void fill(const uint8_t* x, int64_t top, int64_t rows, uint8_t* to) const {
    const int64_t channels = x_[3], stride = strides_[1];
    for (int64_t row = 0; row < rows; ++row, to += line_) {
      const int64_t iy = top + row;
      if (iy < 0 || iy >= x_[1]) {
        std::memset(to, zero_, static_cast<size_t>(line_));
        continue;
      }
      const uint8_t* source = x + iy * x_[2] * channels;
      for (int64_t residue = 0; residue < stride; ++residue) {
        uint8_t* at = to + residue * residue_ * channels;
        // Entry i is column i·stride + residue − pad.
        const int64_t lead = pads_[1] - residue, begin = std::clamp<int64_t>(lead > 0 ? (lead + stride - 1) / stride : 0, 0, residue_);
        const int64_t room = x_[2] + lead, end = std::clamp<int64_t>(room > 0 ? (room + stride - 1) / stride : 0, begin, residue_);
        std::memset(at, zero_, static_cast<size_t>(begin * channels));
        if (stride == 1) {
          std::memcpy(at + begin * channels, source + (begin - lead) * channels, static_cast<size_t>((end - begin) * channels));
        } else {
          for (int64_t i = begin; i < end; ++i) std::memcpy(at + i * channels, source + (i * stride - lead) * channels, static_cast<size_t>(channels));
        }
        std::memset(at + end * channels, zero_, static_cast<size_t>((residue_ - end) * channels));
      }
    }
  }

  IntegerDepthwise args_;
  Shape x_, w_, y_;
  std::vector<int64_t> strides_, pads_, dilations_, offsets_;
  Tensor packed_, bias_, scale_;
  int64_t vector_, residue_ = 1, line_ = 0, strip_ = 1;
  int zero_;
};

// Phases repeat the weights up to 64 times; more than this for one layer is not worth it (2048 channels, 9 taps).
constexpr int64_t kMostPackedBytes = 1 << 20;

bool depthwise(const KernelRequest& r) {
  const Shape& w = r.in_shape(1);
  for (size_t i = 1; i < r.node.inputs.size(); ++i)
    if (r.has_input(i) && !r.input(i).is_constant()) return false;
  if (w[1] != 1 || r.node.get_int("group") != w[0] || r.in_shape()[3] != w[0]) return false;
  if (!Requantize::of(r.node).is_codes()) return false;
  const int64_t vector = HWY_DYNAMIC_DISPATCH(IntegerVectorBytes)();
  if (vector == 0 || w[2] > 64 || w[3] > 64) return false;
  return w[0] / std::gcd(w[0], vector) * vector * w[2] * ((w[3] + 1) / 2) * 4 <= kMostPackedBytes;
}

}  // namespace

void register_integer_depthwise(KernelRegistry& r) {
  r.add("IntegerConv", "ai.lathe", {"integer.depthwise", depthwise, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<IntegerDepthwiseConv>(q); }});
}

}  // namespace lathe
#endif
