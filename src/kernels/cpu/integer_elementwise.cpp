// What stands between products of a quantized network: rounding to codes and back, sums and products of two tensors,
// tables, pooling, softmax.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/integer_elementwise.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "kernels/cpu/integer-inl.h"
#include "kernels/kernel.h"
#include "kernels/requantize.h"

#ifndef LATHE_INTEGER_ELEMENTWISE_SHARED
#define LATHE_INTEGER_ELEMENTWISE_SHARED
namespace lathe {
struct CodeScale {
  float scale = 1;
  int zero = 0;
  bool is_signed = false;
};
struct IntegerBinary {
  bool add = true;
  CodeScale a, b;           // Add: zero points of u8
  float ra = 1, rb = 1, constant = 0;  // Add; Mul: `ra` is the ratio of scales
  Requantize out;           // Add: of u8
  bool flip_out = false;
};
struct IntegerPoolArgs {
  int64_t height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
  bool include_pad, mean;
  CodeScale x;
  float y_scale;
  Requantize out;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

using DQ = hn::Rebind<uint8_t, DI>;  // as many bytes as there are lanes of 32 bits

// The first `count` codes from p on, each in a lane. `flip` moves i8 to u8.
HWY_INLINE VI LoadCodes(const uint8_t* p, int64_t count, uint8_t flip) {
  const DQ dq;
  const auto lanes = static_cast<int64_t>(hn::Lanes(dq));
  auto bytes = count >= lanes ? hn::LoadU(dq, p) : LoadMasked(hn::FirstN(dq, static_cast<size_t>(count)), dq, p);
  return hn::PromoteTo(DI(), hn::Xor(bytes, hn::Set(dq, flip)));
}
HWY_INLINE void StoreCodes(VI codes, uint8_t* p, int64_t count, uint8_t flip = 0) {
  const DQ dq;
  const auto lanes = static_cast<int64_t>(hn::Lanes(dq));
  const auto bytes = hn::Xor(LowBytes(codes), hn::Set(dq, flip));
  if (count >= lanes) hn::StoreU(bytes, dq, p);
  else StoreMasked(bytes, hn::FirstN(dq, static_cast<size_t>(count)), dq, p);
}

void QuantizeRun(const float* x, uint8_t* y, int64_t n, float scale, const Requantize& out) {
  const DF df;
  const Limits limits(out.least(), out.most(), out.zero);
  const VF divisor = hn::Set(df, scale);
  const auto lanes = static_cast<int64_t>(hn::Lanes(df));
  // What is not a number is the zero point.
  auto divided = [&](VF v) HWY_ATTR { return hn::IfThenZeroElse(hn::IsNaN(v), hn::Div(v, divisor)); };
  int64_t i = 0;
#if LATHE_PACKS_CODES
  const Rounding rounding(out, nullptr);
  for (; i + 64 <= n; i += 64) {
    VI v[4];
    HWY_UNROLL(4)
    for (int k = 0; k < 4; ++k) v[k] = rounding.RoundValue(divided(hn::LoadU(df, x + i + 16 * k)));
    hn::StoreU(rounding.Pack(v[0], v[1], v[2], v[3]), D8(), y + i);
  }
#endif
  for (; i < n; i += lanes) {
    const int64_t count = n - i;
    const VF v = count >= lanes ? hn::LoadU(df, x + i) : LoadMasked(hn::FirstN(df, static_cast<size_t>(count)), df, x + i);
    StoreCodes(limits.Code(divided(v)), y + i, count);
  }
}

// y = entries[x].
void TableRun(const uint8_t* x, const uint8_t* entries, uint8_t* y, int64_t n) {
  int64_t i = 0;
#if LATHE_PACKS_CODES
  const D8 d8;
  if (has_byte_permutations()) {
    const CodeTable table(entries);
    for (; i + 64 <= n; i += 64) hn::StoreU(table(hn::LoadU(d8, x + i)), d8, y + i);
  }
#endif
  for (; i < n; ++i) y[i] = entries[x[i]];
}

void DequantizeRun(const uint8_t* x, float* y, int64_t n, const CodeScale& s) {
  const DF df;
  const VF scale = hn::Set(df, s.scale);
  const VI zero = hn::Set(DI(), s.zero + (s.is_signed ? 128 : 0));
  const auto lanes = static_cast<int64_t>(hn::Lanes(df));
  for (int64_t i = 0; i < n; i += lanes) {
    const int64_t count = n - i;
    const VF v = hn::Mul(hn::ConvertTo(df, hn::Sub(LoadCodes(x + i, count, s.is_signed ? 0x80 : 0), zero)), scale);
    if (count >= lanes) hn::StoreU(v, df, y + i);
    else StoreMasked(v, hn::FirstN(df, static_cast<size_t>(count)), df, y + i);
  }
}

// Bytes of `channels` planes, `plane` bytes apart, to pixels: two to four channels.
void PixelsRun(const uint8_t* x, int64_t plane, int64_t channels, uint8_t* y, int64_t n) {
  int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
  const D8 d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d8));
  for (; i + lanes <= n; i += lanes, y += channels * lanes) {
    const V8 a = hn::LoadU(d8, x + i), b = hn::LoadU(d8, x + plane + i);
    if (channels == 2) {
      hn::StoreInterleaved2(a, b, d8, y);
      continue;
    }
    const V8 c = hn::LoadU(d8, x + 2 * plane + i);
    if (channels == 3) hn::StoreInterleaved3(a, b, c, d8, y);
    else hn::StoreInterleaved4(a, b, c, hn::LoadU(d8, x + 3 * plane + i), d8, y);
  }
#endif
  for (; i < n; ++i)
    for (int64_t c = 0; c < channels; ++c) *y++ = x[c * plane + i];
}

// Operands of step 0 are one code for the whole row.
void BinaryRun(const IntegerBinary& op, const uint8_t* a, int64_t a_step, const uint8_t* b, int64_t b_step, uint8_t* y, int64_t n) {
  const DF df;
  const DI di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(df));
  const uint8_t flip_a = op.a.is_signed ? 0x80 : 0, flip_b = op.b.is_signed ? 0x80 : 0;
  const VF ra = hn::Set(df, op.ra), rb = hn::Set(df, op.rb), constant = hn::Set(df, op.constant);
  const VF least = hn::Set(df, static_cast<float>(op.out.low)), most = hn::Set(df, static_cast<float>(op.out.high));
  const VI zero_a = hn::Set(di, op.a.zero), zero_b = hn::Set(di, op.b.zero);
  auto sum = [&](VI va, VI vb) HWY_ATTR { return hn::MulAdd(hn::ConvertTo(df, va), ra, hn::MulAdd(hn::ConvertTo(df, vb), rb, constant)); };
  auto product = [&](VI va, VI vb) HWY_ATTR {
    return hn::Add(hn::Mul(hn::ConvertTo(df, hn::Mul(hn::Sub(va, zero_a), hn::Sub(vb, zero_b))), ra), constant);
  };
  int64_t i = 0;
#if LATHE_PACKS_CODES
  // The zero point is in the value that is rounded.
  Requantize out = op.out;
  out.zero = 0;
  if (op.flip_out) out.type = DType::kU8;  // moved there
  const Rounding rounding(out, nullptr);
  const V8 flip_out = hn::Set(D8(), static_cast<uint8_t>(op.flip_out ? 0x80 : 0));
  const VI one_a = hn::Set(di, *a ^ flip_a), one_b = hn::Set(di, *b ^ flip_b);
  auto packed = [&](auto function) HWY_ATTR {
    for (; i + 64 <= n; i += 64) {
      VI v[4];
      HWY_UNROLL(4)
      for (int k = 0; k < 4; ++k)
        v[k] = rounding.RoundValue(function(a_step ? LoadCodes(a + i + 16 * k, 16, flip_a) : one_a, b_step ? LoadCodes(b + i + 16 * k, 16, flip_b) : one_b));
      hn::StoreU(hn::Xor(rounding.Pack(v[0], v[1], v[2], v[3]), flip_out), D8(), y + i);
    }
  };
  if (op.add) packed(sum);
  else packed(product);
#endif
  for (; i < n; i += lanes) {
    const int64_t count = n - i;
    const VI va = a_step ? LoadCodes(a + i, count, flip_a) : hn::Set(di, *a ^ flip_a);
    const VI vb = b_step ? LoadCodes(b + i, count, flip_b) : hn::Set(di, *b ^ flip_b);
    const VF v = op.add ? sum(va, vb) : product(va, vb);
    StoreCodes(hn::NearestInt(hn::Min(hn::Max(v, least), most)), y + i, count, op.flip_out ? 0x80 : 0);
  }
}

// One output pixel: `rows` × `columns` pixels from x on, lines `line` bytes apart.
HWY_INLINE void PoolPixel(const IntegerPoolArgs& p, const uint8_t* x, int64_t rows, int64_t columns, int64_t line, int64_t count, uint8_t* y) {
  const DF df;
  const DI di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(df));
  const uint8_t flip = p.x.is_signed ? 0x80 : 0;
  const int zero = p.x.zero + (p.x.is_signed ? 128 : 0);
  const auto divisor = static_cast<float>(std::max<int64_t>(count, 1));
  const Limits limits(p.out.least(), p.out.most(), p.out.zero);
  const Limits with_zero(static_cast<float>(p.out.low), static_cast<float>(p.out.high), 0);
  int64_t c = 0;
  // Many channels of a mean at a time, so that a line of cache is read once.
  for (; p.mean && c + 4 * lanes <= p.channels; c += 4 * lanes) {
    VI total[4];
    HWY_UNROLL(4)
    for (VI& t : total) t = hn::Set(di, static_cast<int32_t>(-zero * rows * columns));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < columns; ++k) {
        const uint8_t* from = x + r * line + k * p.channels + c;
        HWY_UNROLL(4)
        for (int v = 0; v < 4; ++v) total[v] = hn::Add(total[v], LoadCodes(from + v * lanes, lanes, flip));
      }
    HWY_UNROLL(4)
    for (int v = 0; v < 4; ++v)
      StoreCodes(limits.Code(hn::Mul(hn::ConvertTo(df, total[v]), hn::Set(df, p.x.scale / (p.y_scale * divisor)))), y + c + v * lanes, lanes);
  }
  for (; c < p.channels; c += lanes) {
    VI total = hn::Zero(di);
    VF sum = hn::Zero(df);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < columns; ++k) {
        const VI code = hn::Sub(LoadCodes(x + r * line + k * p.channels + c, p.channels - c, flip), hn::Set(di, zero));
        if (p.mean) total = hn::Add(total, code);
        else sum = hn::Add(sum, hn::Mul(hn::Set(df, p.x.scale), hn::ConvertTo(df, code)));
      }
    VI codes;
    if (p.mean) {
      codes = limits.Code(hn::Mul(hn::ConvertTo(df, total), hn::Set(df, p.x.scale / (p.y_scale * divisor))));
    } else {
      const VF mean = hn::Div(hn::Div(sum, hn::Set(df, divisor)), hn::Set(df, p.y_scale));
      codes = with_zero.Code(hn::Add(mean, hn::Set(df, static_cast<float>(p.out.zero))));
    }
    StoreCodes(codes, y + c, p.channels - c);
  }
}

// The largest code of each channel; a window that lies outside has the lowest.
template <class T>
HWY_INLINE void MaxPixel(const T* x, int64_t rows, int64_t columns, int64_t line, int64_t channels, T* y) {
  const hn::ScalableTag<T> d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < channels; c += lanes) {
    const int64_t count = channels - c;
    const auto mask = hn::FirstN(d, static_cast<size_t>(std::min(count, lanes)));
    auto best = hn::Set(d, hwy::LowestValue<T>());
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < columns; ++k) {
        const T* from = x + r * line + k * channels + c;
        best = hn::Max(best, count >= lanes ? hn::LoadU(d, from) : LoadMasked(mask, d, from));
      }
    if (count >= lanes) hn::StoreU(best, d, y + c);
    else StoreMasked(best, mask, d, y + c);
  }
}

// Rows [begin, end) of the output, over all images. kind: 0 average or mean, 1 largest u8, 2 largest i8.
void PoolCodes(const IntegerPoolArgs& p, int kind, const uint8_t* x, uint8_t* y, int64_t begin, int64_t end) {
  const int64_t line = p.width * p.channels;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t image = row / p.out_height, top = row % p.out_height * p.stride_h - p.pad_top;
    const int64_t y0 = std::clamp<int64_t>(top, 0, p.height), y1 = std::clamp<int64_t>(top + p.kernel_h, y0, p.height);
    const uint8_t* from = x + (image * p.height + y0) * line;
    uint8_t* to = y + row * p.out_width * p.channels;
    for (int64_t ox = 0; ox < p.out_width; ++ox, to += p.channels) {
      const int64_t left = ox * p.stride_w - p.pad_left;
      const int64_t x0 = std::clamp<int64_t>(left, 0, p.width), x1 = std::clamp<int64_t>(left + p.kernel_w, x0, p.width);
      const uint8_t* pixel = from + x0 * p.channels;
      const int64_t count = p.include_pad ? p.kernel_h * p.kernel_w : (y1 - y0) * (x1 - x0);
      if (kind == 0) PoolPixel(p, pixel, y1 - y0, x1 - x0, line, count, to);
      else if (kind == 1) MaxPixel<uint8_t>(pixel, y1 - y0, x1 - x0, line, p.channels, to);
      else MaxPixel<int8_t>(reinterpret_cast<const int8_t*>(pixel), y1 - y0, x1 - x0, line, p.channels, reinterpret_cast<int8_t*>(to));
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(QuantizeRun);
HWY_EXPORT(DequantizeRun);
HWY_EXPORT(TableRun);
HWY_EXPORT(PixelsRun);
HWY_EXPORT(BinaryRun);
HWY_EXPORT(PoolCodes);

namespace {

bool is_codes(DType type) { return type == DType::kU8 || type == DType::kI8; }

CodeScale scale_of(const Node& n, const std::string& operand, DType type) {
  return {n.get_float(operand + "_scale"), static_cast<int>(n.get_int(operand + "_zero_point")), type == DType::kI8};
}

class Quantize : public Kernel {
 public:
  explicit Quantize(const KernelRequest& r) : scale_(r.input(1).constant.data<float>()[0]) {
    out_ = Requantize::all(r.output().dtype, r.has_input(2) ? static_cast<int>(r.input(2).constant.get_int(0)) : 0);
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    parallel_for(out[0]->size(), kParallelGrain, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(QuantizeRun)(in[0]->data<float>() + begin, out[0]->data<uint8_t>() + begin, end - begin, scale_, out_);
    });
  }

 private:
  float scale_;
  Requantize out_;
};

class Dequantize : public Kernel {
 public:
  explicit Dequantize(const KernelRequest& r) {
    scale_ = {r.input(1).constant.data<float>()[0], r.has_input(2) ? static_cast<int>(r.input(2).constant.get_int(0)) : 0, r.input(0).dtype == DType::kI8};
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    parallel_for(out[0]->size(), kParallelGrain, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(DequantizeRun)(in[0]->data<uint8_t>() + begin, out[0]->data<float>() + begin, end - begin, scale_);
    });
  }

 private:
  CodeScale scale_;
};

// QuantizeLinear and DequantizeLinear between f32 and codes, one scale for all elements.
bool one_scale(const KernelRequest& r) {
  const bool quantizes = r.node.op->name == "QuantizeLinear";
  if (r.node.get_int("block_size") != 0 || (quantizes && r.node.get_int("precision") != 0)) return false;
  if (!is_codes(quantizes ? r.output().dtype : r.input(0).dtype) || (quantizes ? r.input(0).dtype : r.output().dtype) != DType::kF32) return false;
  if (!r.input(1).is_constant() || r.input(1).dtype != DType::kF32 || r.input(1).constant.size() != 1) return false;
  return !r.has_input(2) || (r.input(2).is_constant() && r.input(2).constant.size() == 1);
}

// How an operand repeats: rows of `length` output elements, of which it has one each, or one code for all; and how
// many rows follow before it goes on (1), or before it starts again.
struct Repeats {
  int64_t outer = 1, middle = 1, inner = 1;  // the operand is [outer, 1, inner] of [outer, middle, inner]
};

// None when the operand does not repeat along neighbouring axes alone.
std::optional<Repeats> repeats(Shape operand, const Shape& y) {
  operand.insert(operand.begin(), y.size() - operand.size(), 1);
  Repeats r;
  size_t i = 0;
  while (i < y.size() && operand[i] == y[i]) r.outer *= y[i++];
  while (i < y.size() && operand[i] == 1) r.middle *= y[i++];
  for (; i < y.size(); ++i) {
    if (operand[i] != y[i]) return std::nullopt;
    r.inner *= y[i];
  }
  return r;
}

class IntegerBinaryKernel : public Kernel {
 public:
  explicit IntegerBinaryKernel(const KernelRequest& r) {
    const Node& n = r.node;
    op_.add = n.op->name == "IntegerAdd";
    op_.a = scale_of(n, "a", r.input(0).dtype);
    op_.b = scale_of(n, "b", r.input(1).dtype);
    op_.out = Requantize::of(n);
    op_.a.zero += op_.a.is_signed ? 128 : 0;
    op_.b.zero += op_.b.is_signed ? 128 : 0;
    const float y_scale = n.get_float("y_scale");
    if (op_.add) {
      op_.flip_out = op_.out.type == DType::kI8;
      const int shift = op_.flip_out ? 128 : 0;
      op_.out.low += shift;
      op_.out.high += shift;
      op_.ra = op_.a.scale / y_scale;
      op_.rb = op_.b.scale / y_scale;
      op_.constant = sum_constant(op_.ra, op_.a.zero, op_.rb, op_.b.zero, op_.out.zero + shift);
    } else {
      op_.ra = op_.a.scale * op_.b.scale / y_scale;
      op_.constant = static_cast<float>(op_.out.zero);
    }
    const Repeats a = *repeats(r.in_shape(0), r.out_shape()), b = *repeats(r.in_shape(1), r.out_shape());
    a_full_ = a.middle == 1;
    const Repeats& other = a_full_ ? b : a;
    whole_ = other.middle == 1;
    repeats_ = other;
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const uint8_t *a = in[0]->data<uint8_t>(), *b = in[1]->data<uint8_t>();
    uint8_t* y = out[0]->data<uint8_t>();
    auto row = [&](const uint8_t* full, const uint8_t* other, int64_t step, uint8_t* to, int64_t n) {
      if (a_full_) HWY_DYNAMIC_DISPATCH(BinaryRun)(op_, full, 1, other, step, to, n);
      else HWY_DYNAMIC_DISPATCH(BinaryRun)(op_, other, step, full, 1, to, n);
    };
    const uint8_t *full = a_full_ ? a : b, *other = a_full_ ? b : a;
    if (whole_)
      return parallel_for(out[0]->size(), kParallelGrain, [&](int64_t begin, int64_t end) { row(full + begin, other + begin, 1, y + begin, end - begin); });
    // One code for `middle` elements, or a row of them for `middle` rows.
    const bool single = repeats_.inner == 1;
    const int64_t length = single ? repeats_.middle : repeats_.inner, each = single ? 1 : repeats_.middle;
    parallel_for(repeats_.outer * each, kParallelGrain / (length + 1) + 1, [&](int64_t begin, int64_t end) {
      for (; begin < end; ++begin)
        row(full + begin * length, other + begin / each * (single ? 1 : length), single ? 0 : 1, y + begin * length, length);
    });
  }

 private:
  IntegerBinary op_;
  Repeats repeats_;
  bool a_full_ = true, whole_ = true;
};

bool binary_supported(const KernelRequest& r) {
  auto a = repeats(r.in_shape(0), r.out_shape()), b = repeats(r.in_shape(1), r.out_shape());
  return a && b && (a->middle == 1 || b->middle == 1);
}

class PoolOfCodes : public Kernel {
 public:
  PoolOfCodes(const KernelRequest& r, int kind) : kind_(kind) {
    const Shape &x = r.in_shape(), &y = r.out_shape();
    const auto &kernel = r.node.get_ints("kernel_shape"), &strides = r.node.get_ints("strides"), &pads = r.node.get_ints("pads");
    args_ = {x[1], x[2], x[3], y[1], y[2], kernel[0], kernel[1], strides[0], strides[1], pads[0], pads[1], false, false, {}, 1, {}};
    if (kind) return;
    args_.include_pad = r.node.get_int("count_include_pad") != 0;
    args_.mean = r.node.get_string("kind") == "Mean";
    args_.x = scale_of(r.node, "x", r.input(0).dtype);
    args_.y_scale = r.node.get_float("y_scale");
    args_.out = Requantize::of(r.node);
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const int64_t row = args_.out_width * args_.channels;
    parallel_for(out[0]->size() / row, kParallelGrain / (row * args_.kernel_h * args_.kernel_w / 16 + 1) + 1, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(PoolCodes)(args_, kind_, in[0]->data<uint8_t>(), out[0]->data<uint8_t>(), begin, end);
    });
  }

 private:
  IntegerPoolArgs args_;
  int kind_;
};

class IntegerSoftmax : public Kernel {
 public:
  explicit IntegerSoftmax(const KernelRequest& r)
      : width_(r.in_shape().back()), signed_(r.input(0).dtype == DType::kI8), inverse_(1.0f / r.node.get_float("y_scale")), out_(Requantize::of(r.node)) {
    const double scale = r.node.get_float("x_scale");
    for (int i = 0; i < 256; ++i) powers_[i] = static_cast<float>(std::exp(-i * scale));
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const uint8_t* x = in[0]->data<uint8_t>();
    uint8_t* y = out[0]->data<uint8_t>();
    const uint8_t flip = signed_ ? 0x80 : 0;
    parallel_for(out[0]->size() / width_, kParallelGrain / (width_ * 8) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const uint8_t* from = x + row * width_;
        int largest = 0;
        for (int64_t i = 0; i < width_; ++i) largest = std::max(largest, from[i] ^ flip);
        float sum = 0;
        for (int64_t i = 0; i < width_; ++i) sum += powers_[largest - (from[i] ^ flip)];
        for (int64_t i = 0; i < width_; ++i)
          y[row * width_ + i] = static_cast<uint8_t>(out_.code(powers_[largest - (from[i] ^ flip)] * inverse_ / sum));
      }
    });
  }

 private:
  int64_t width_;
  bool signed_;
  float inverse_, powers_[256];
  Requantize out_;
};

class Table : public Kernel {
 public:
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const uint8_t *x = in[0]->data<uint8_t>(), *entries = in[1]->data<uint8_t>();
    uint8_t* y = out[0]->data<uint8_t>();
    parallel_for(out[0]->size(), kParallelGrain, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(TableRun)(x + begin, entries, y + begin, end - begin);
    });
  }
  int in_place_input() const override { return 0; }
};

// A picture of codes in planes to pixels.
class Pixels : public Kernel {
 public:
  explicit Pixels(const KernelRequest& r) : channels_(r.in_shape()[1]), plane_(r.in_shape()[2] * r.in_shape()[3]) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const int64_t pieces = (plane_ + kPiece - 1) / kPiece;
    parallel_for(in[0]->dim(0) * pieces, kParallelGrain / (kPiece / 16) + 1, [&](int64_t begin, int64_t end) {
      for (; begin < end; ++begin) {
        const int64_t image = begin / pieces * plane_ * channels_, from = begin % pieces * kPiece;
        HWY_DYNAMIC_DISPATCH(PixelsRun)(in[0]->data<uint8_t>() + image + from, plane_, channels_, out[0]->data<uint8_t>() + image + from * channels_,
                                        std::min(kPiece, plane_ - from));
      }
    });
  }

 private:
  static constexpr int64_t kPiece = 4096;
  int64_t channels_, plane_;
};

bool few_planes(const KernelRequest& r) {
  const Shape& x = r.in_shape();
  return size_of(r.input(0).dtype) == 1 && x.size() == 4 && x[1] >= 2 && x[1] <= 4 && element_count(x) > 0 && r.node.get_ints("perm") == std::vector<int64_t>{0, 2, 3, 1};
}

template <class K>
std::unique_ptr<Kernel> make(const KernelRequest& r) {
  return std::make_unique<K>(r);
}

}  // namespace

void register_integer_elementwise(KernelRegistry& r) {
  r.add("QuantizeLinear", "", {"quantize", one_scale, make<Quantize>});
  r.add("DequantizeLinear", "", {"dequantize", one_scale, make<Dequantize>});
  r.add("IntegerAdd", "ai.lathe", {"integer.binary", binary_supported, make<IntegerBinaryKernel>});
  r.add("IntegerMul", "ai.lathe", {"integer.binary", binary_supported, make<IntegerBinaryKernel>});
  r.add("IntegerPool", "ai.lathe", {"integer.pool", [](const KernelRequest&) { return true; }, [](const KernelRequest& q) -> std::unique_ptr<Kernel> {
          return std::make_unique<PoolOfCodes>(q, 0);
        }});
  r.add("Pool", "ai.lathe", {"integer.pool.max", [](const KernelRequest& q) { return is_codes(q.input(0).dtype) && q.node.get_string("kind") == "Max"; },
                             [](const KernelRequest& q) -> std::unique_ptr<Kernel> {
                               return std::make_unique<PoolOfCodes>(q, q.input(0).dtype == DType::kI8 ? 2 : 1);
                             }});
  r.add("IntegerSoftmax", "ai.lathe", {"integer.softmax", [](const KernelRequest&) { return true; }, make<IntegerSoftmax>});
  r.add("Transpose", "", {"transpose.planes", few_planes, make<Pixels>});
  r.add("Table", "ai.lathe", {"table", [](const KernelRequest& q) { return size_of(q.output().dtype) == 1; },
                              [](const KernelRequest&) -> std::unique_ptr<Kernel> { return std::make_unique<Table>(); }});
}

}  // namespace lathe
#endif
