// IntegerConv and IntegerMatMul as products of matrices of codes. Rows of A are output pixels: the picture itself
// where a 1×1 window allows it, else copied window by window into a block that stays in cache. Weights lie in panels
// of one vector of columns, the groups of one depth (kernels/cpu/integer-inl.h) side by side. The zero point of X is
// taken off once per column: −zero·Σw stands with the packed weights, and taps outside the picture read the zero point.
// A zero point of W goes into weights of i16; weights of i8 leave it to the sum of each row of A.
//
// DynamicConv, DynamicMatMul and MatMulInteger learn the zero point (and the scale) of X with each run: sums of the weights' columns
// are packed in place of that product, and bias and multipliers are made of them first.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/integer_gemm.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "kernels/cpu/integer-inl.h"
#include "kernels/kernel.h"
#include "kernels/requantize.h"

#ifndef LATHE_INTEGER_GEMM_SHARED
#define LATHE_INTEGER_GEMM_SHARED
namespace lathe {
struct IntegerGemm {
  int64_t words = 0, columns = 0;  // groups of depth; columns of one product
  bool quads = false, flip = false;  // flip: codes are i8, moved to u8 as they are read
  const int32_t* weights = nullptr;  // [panels, words, lanes]
  const int32_t* bias = nullptr;     // whole panels
  const int32_t* zeros = nullptr;    // with i8 weights that have zero points: what times a row's sum is taken off
  const int32_t* row_sums = nullptr;  // of these rows of A
  const float* scale = nullptr;
  const float* shift = nullptr;  // added to f32 results, or null
  Requantize out;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
constexpr bool kHasQuads = true;
constexpr int kMostVectors = 4;  // 32 registers: 6 rows of 4 vectors, 8 of less
#else
constexpr bool kHasQuads = false;
constexpr int kMostVectors = 2;  // 16 registers: 5 rows of 2
#endif
template <int kVectors>
constexpr int kFullRows = kMostVectors == 4 ? (kVectors == 4 ? 6 : 8) : (kVectors == 2 ? 5 : 8);

HWY_INLINE void StoreSums(const IntegerGemm& g, VI sum, int64_t row, int64_t column, char* y) {
  const DI di;
  const DF df;
  const auto lanes = static_cast<int64_t>(hn::Lanes(di));
  const int64_t count = std::min(lanes, g.columns - column);
  sum = hn::Add(sum, hn::LoadU(di, g.bias + column));
  if (g.zeros) sum = hn::Sub(sum, hn::Mul(hn::Set(di, g.row_sums[row]), hn::LoadU(di, g.zeros + column)));
  if (g.out.type == DType::kI32) {
    auto* to = reinterpret_cast<int32_t*>(y) + column;
    return count == lanes ? hn::StoreU(sum, di, to) : StoreMasked(sum, hn::FirstN(di, static_cast<size_t>(count)), di, to);
  }
  VF scaled = hn::Mul(hn::ConvertTo(df, sum), hn::LoadU(df, g.scale + column));
  if (g.out.type == DType::kF32) {
    if (g.shift) scaled = hn::Add(scaled, hn::LoadU(df, g.shift + column));
    auto* to = reinterpret_cast<float*>(y) + column;
    return count == lanes ? hn::StoreU(scaled, df, to) : StoreMasked(scaled, hn::FirstN(df, static_cast<size_t>(count)), df, to);
  }
  const hn::Rebind<uint8_t, DI> d8;
  const auto codes = LowBytes(Limits(g.out.least(), g.out.most(), g.out.zero).Code(scaled));
  auto* to = reinterpret_cast<uint8_t*>(y) + column;
  if (count == lanes) return hn::StoreU(codes, d8, to);
  StoreMasked(codes, hn::FirstN(d8, static_cast<size_t>(count)), d8, to);
}

// `valid` rows of A, `stride` bytes apart, by kVectors panels; rows beyond them repeat the last.
template <bool kQuads, bool kFlip, int kRows, int kVectors>
HWY_INLINE void Tile(const IntegerGemm& g, const char* a, int64_t stride, int64_t row, int64_t valid, int64_t panel, char* y, int64_t y_stride) {
  const DI di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(di));
  const int32_t* w = g.weights + panel * g.words * lanes;
  const int64_t next = g.words * lanes;
  const char* rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = a + std::min<int64_t>(r, valid - 1) * stride;
  VI acc[kRows][kVectors];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) acc[r][v] = hn::Zero(di);
  }
  const VI flip = hn::Set(di, static_cast<int32_t>(0x80808080));
  for (int64_t k = 0; k < g.words; ++k) {
    VI column[kVectors];
    HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) column[v] = hn::LoadU(di, w + v * next + k * lanes);
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      int32_t word;
      std::memcpy(&word, rows[r] + 4 * k, 4);
      VI x = hn::Set(di, word);
      if constexpr (kFlip) x = hn::Xor(x, flip);
      HWY_UNROLL(4)
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Dot<kQuads>(acc[r][v], x, column[v]);
    }
  }
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    if (r >= valid) break;
    HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) StoreSums(g, acc[r][v], row + r, (panel + v) * lanes, y + r * y_stride);
  }
}

template <bool kQuads, bool kFlip, int kVectors>
void TileRows(const IntegerGemm& g, const char* a, int64_t stride, int64_t rows, int64_t panel, char* y, int64_t y_stride) {
  constexpr int kFull = kFullRows<kVectors>;
  for (int64_t row = 0; row < rows;) {
    const int64_t take = std::min<int64_t>(rows - row, kFull);
    if (take > 4) Tile<kQuads, kFlip, kFull, kVectors>(g, a, stride, row, take, panel, y, y_stride);
    else if (take > 2) Tile<kQuads, kFlip, 4, kVectors>(g, a, stride, row, take, panel, y, y_stride);
    else if (take > 1) Tile<kQuads, kFlip, 2, kVectors>(g, a, stride, row, take, panel, y, y_stride);
    else Tile<kQuads, kFlip, 1, kVectors>(g, a, stride, row, take, panel, y, y_stride);
    a += take * stride;
    y += take * y_stride;
    row += take;
  }
}

template <bool kQuads, bool kFlip>
void Panels(const IntegerGemm& g, const char* a, int64_t stride, int64_t rows, int64_t begin, int64_t end, char* y, int64_t y_stride) {
  while (begin < end) {
    const int64_t count = std::min<int64_t>(end - begin, kMostVectors);
    if (count == 1) TileRows<kQuads, kFlip, 1>(g, a, stride, rows, begin, y, y_stride);
    else if (count == 2) TileRows<kQuads, kFlip, 2>(g, a, stride, rows, begin, y, y_stride);
    else if constexpr (kMostVectors == 4) {
      if (count == 3) TileRows<kQuads, kFlip, 3>(g, a, stride, rows, begin, y, y_stride);
      else TileRows<kQuads, kFlip, 4>(g, a, stride, rows, begin, y, y_stride);
    }
    begin += count;
  }
}

// `rows` rows of A by panels [begin, end).
void IntegerPanels(const IntegerGemm& g, const char* a, int64_t stride, int64_t rows, int64_t begin, int64_t end, char* y, int64_t y_stride) {
  if constexpr (kHasQuads) {
    if (g.quads && g.flip) return Panels<true, true>(g, a, stride, rows, begin, end, y, y_stride);
    if (g.quads) return Panels<true, false>(g, a, stride, rows, begin, end, y, y_stride);
  }
  Panels<false, false>(g, a, stride, rows, begin, end, y, y_stride);
}

// Sums of the codes of each row of A, for weights of i8 with zero points.
void IntegerRowSums([[maybe_unused]] const IntegerGemm& g, [[maybe_unused]] const char* a, [[maybe_unused]] int64_t stride,
                    [[maybe_unused]] int64_t rows, [[maybe_unused]] int32_t* sums) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  const D8 d8;
  const DI di;
  const auto vector = static_cast<int64_t>(hn::Lanes(d8)), bytes = g.words * 4;
  const V8 flip = hn::Set(d8, static_cast<uint8_t>(g.flip ? 0x80 : 0));
  for (int64_t r = 0; r < rows; ++r) {
    const auto* row = reinterpret_cast<const uint8_t*>(a) + r * stride;
    VI total = hn::Zero(di);
    int64_t k = 0;
    for (; k + vector <= bytes; k += vector)
      total = Dot<true>(total, hn::BitCast(di, hn::Xor(hn::LoadU(d8, row + k), flip)), hn::Set(di, 0x01010101));
    int32_t sum = hn::GetLane(hn::SumOfLanes(di, total));
    for (; k < bytes; ++k) sum += row[k] ^ (g.flip ? 0x80 : 0);
    sums[r] = sum;
  }
#endif
}

int64_t IntegerLanes() { return static_cast<int64_t>(hn::Lanes(DI())); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(IntegerPanels);
HWY_EXPORT(IntegerRowSums);
HWY_EXPORT(IntegerLanes);

namespace {

// Rows that are copied at once stay in the first-level cache beside a few panels: 32 KiB and more everywhere.
constexpr int64_t kBlockBytes = 24 << 10;
constexpr int64_t kLeastBlockRows = 24;  // tiles of 8 and 6 rows come out even

// Short runs of codes are copied so many at a time, whatever their number: a call of memcpy takes longer.
constexpr int64_t kCopyBytes = 64;

int64_t rounded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// One product of codes, or one for each group of a convolution.
class IntegerProduct : public Kernel {
 public:
  std::vector<PackedInput> packed_inputs() const override { return {{}, {packed_, layout()}}; }
  size_t scratch_bytes() const override {
    return copies_ || gemm_.zeros ? static_cast<size_t>(omp_get_max_threads() * (block_bytes() + sums_bytes())) : 0;
  }

  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    const char* x = in[0]->data<char>();
    char* y = out[0]->data<char>();
    const int64_t y_width = static_cast<int64_t>(size_of(gemm_.out.type)), y_stride = columns_ * groups_ * y_width;
    const int64_t panels = this->panels(), cost = gemm_.words * panels * lanes_ / 16 + 1;
    // A row or two, as in a classifier, is shared out by columns.
    if (rows_ <= kLeastBlockRows && groups_ == 1) {
      IntegerGemm g = gemm_;
      const char* a = copies_ ? copy(x, 0, rows_, 0, static_cast<char*>(scratch)) : x;
      sum_rows(g, a, rows_, static_cast<char*>(scratch));
      return parallel_for(panels, kParallelGrain / (cost * rows_ / panels + 1) + 1, [&](int64_t begin, int64_t end) {
        HWY_DYNAMIC_DISPATCH(IntegerPanels)(g, a, row_bytes(), rows_, begin, end, y, y_stride);
      });
    }
    const int64_t blocks = (rows_ + block_ - 1) / block_;
    parallel_for(blocks * groups_, kParallelGrain / (cost * block_) + 1, [&](int64_t begin, int64_t end) {
      char* own = static_cast<char*>(scratch) + omp_get_thread_num() * (block_bytes() + sums_bytes());
      for (; begin < end; ++begin) {
        const int64_t group = begin % groups_, row = begin / groups_ * block_, count = std::min(block_, rows_ - row);
        IntegerGemm g = gemm_;
        g.weights += group * panels * gemm_.words * lanes_;
        g.bias += group * panels * lanes_;
        g.scale += group * panels * lanes_;
        if (g.zeros) g.zeros += group * panels * lanes_;
        if (g.shift) g.shift += group * panels * lanes_;
        const char* a = copies_ ? copy(x, row, row + count, group, own) : x + row * row_bytes();
        sum_rows(g, a, count, own);
        HWY_DYNAMIC_DISPATCH(IntegerPanels)(g, a, row_bytes(), count, 0, panels, y + row * y_stride + group * columns_ * y_width, y_stride);
      }
    });
  }

 protected:
  // What a product is given besides codes; null where there is none.
  struct Operands {
    int zero = 0;  // of X
    Requantize out;
    const Tensor *multipliers = nullptr, *bias = nullptr, *weight_zeros = nullptr;
    bool dynamic = false;  // the zero point is known only at run time
  };
  // Of IntegerConv and IntegerMatMul.
  static Operands operands_of(const KernelRequest& r) {
    auto constant = [&](size_t i) { return r.has_input(i) ? &r.input(i).constant : nullptr; };
    return {static_cast<int>(r.node.get_int("x_zero_point")), Requantize::of(r.node), constant(2), constant(3), constant(4)};
  }

  // `factor` gives weight (column, depth) of all columns; depth counts up to `depth`.
  void prepare(const KernelRequest& r, const Operands& o, int64_t columns, int64_t groups, int64_t depth,
               const std::function<int64_t(const Tensor&, int64_t, int64_t)>& factor) {
    columns_ = columns;
    groups_ = groups;
    lanes_ = HWY_DYNAMIC_DISPATCH(IntegerLanes)();
    signed_ = r.input(0).dtype == DType::kI8;
    zero_ = o.zero;
    dynamic_ = o.dynamic;
    gemm_.quads = has_vnni_instructions();
    gemm_.flip = gemm_.quads && signed_;
    gemm_.columns = columns;
    gemm_.words = (depth + group_size() - 1) / group_size();
    gemm_.out = o.out;
    const bool sums = gemm_.quads && (o.weight_zeros || r.input(1).dtype == DType::kU8);
    // [groups, panels, words, lanes], then for each column what the zero point takes off, and what times the sum of A's
    // row: [groups, panels, lanes] each.
    const int64_t all = groups * panels() * lanes_, words = all * (gemm_.words + (sums ? 2 : 1));
    packed_ = r.packed_input(1, DType::kI32, {words}, layout(), [&](const Tensor& w) { return pack(o, w, Shape{words}, groups, depth, sums, factor); });
    gemm_.weights = packed_.data<int32_t>();
    bias_ = Tensor(DType::kI32, {all});
    scale_ = Tensor(DType::kF32, {all});
    std::memcpy(bias_.raw(), gemm_.weights + all * gemm_.words, bias_.bytes());
    std::memset(scale_.raw(), 0, scale_.bytes());
    for (int64_t c = 0; c < columns * groups; ++c) {
      if (o.bias) bias_.data<uint32_t>()[place(c)] += o.bias->data<uint32_t>()[c];
      if (o.multipliers) scale_.data<float>()[place(c)] = o.multipliers->data<float>()[c];
    }
    if (sums) gemm_.zeros = gemm_.weights + all * (gemm_.words + 1);
    gemm_.bias = bias_.data<int32_t>();
    gemm_.scale = scale_.data<float>();
    // A block for each thread where there are rows enough.
    const int64_t threads = omp_get_max_threads();
    block_ = std::max(kBlockBytes / row_bytes(), kLeastBlockRows) / kLeastBlockRows * kLeastBlockRows;
    block_ = std::max(std::min(block_, rounded((rows_ + threads - 1) / threads, kLeastBlockRows)), kLeastBlockRows);
  }
  // Where a column stands, of all groups' panels one after the other.
  int64_t place(int64_t c) const { return c / columns_ * panels() * lanes_ + c % columns_; }

  Tensor pack(const Operands& o, const Tensor& w, const Shape& shape, int64_t groups, int64_t depth, bool sums,
              const std::function<int64_t(const Tensor&, int64_t, int64_t)>& factor) const {
    Tensor packed(DType::kI32, shape);
    std::memset(packed.raw(), 0, packed.bytes());
    const Tensor* zeros = o.weight_zeros;
    const int zero = dynamic_ ? 1 : zero_ + (gemm_.flip ? 128 : 0), shift = sums && w.dtype() == DType::kU8 ? 128 : 0;  // u8 weights move to i8
    const int64_t all = groups * panels() * lanes_;
    for (int64_t c = 0; c < columns_ * groups; ++c) {
      const int64_t weight_zero = (zeros ? zeros->get_int(zeros->size() == 1 ? 0 : c) : 0) - shift;
      char* group = packed.data<char>() + (place(c) / lanes_ * gemm_.words * lanes_ + place(c) % lanes_) * 4;
      int64_t sum = 0;
      for (int64_t k = 0; k < depth; ++k) {
        const int64_t code = factor(w, c, k) - shift, value = code - weight_zero;
        char* at = group + k / group_size() * lanes_ * 4;
        if (gemm_.quads) reinterpret_cast<int8_t*>(at)[k % 4] = static_cast<int8_t>(code);
        else reinterpret_cast<int16_t*>(at)[k % 2] = static_cast<int16_t>(value);
        sum += value;
      }
      packed.data<int32_t>()[all * gemm_.words + place(c)] = static_cast<int32_t>(-zero * sum);
      if (sums) packed.data<int32_t>()[all * (gemm_.words + 1) + place(c)] = static_cast<int32_t>(weight_zero);
    }
    return packed;
  }

  // Sums of `rows` rows of A, behind the block that is copied to `own`.
  void sum_rows(IntegerGemm& g, const char* a, int64_t rows, char* own) const {
    if (!g.zeros) return;
    auto* sums = reinterpret_cast<int32_t*>(own + block_bytes());
    HWY_DYNAMIC_DISPATCH(IntegerRowSums)(g, a, row_bytes(), rows, sums);
    g.row_sums = sums;
  }

  int64_t group_size() const { return gemm_.quads ? 4 : 2; }
  int64_t row_bytes() const { return gemm_.words * 4; }
  int64_t panels() const { return (columns_ + lanes_ - 1) / lanes_; }
  int64_t block_bytes() const { return copies_ ? rounded(block_ * row_bytes() + kCopyBytes, 64) : 0; }
  int64_t sums_bytes() const { return gemm_.zeros ? rounded(block_ * 4, 64) : 0; }
  uint64_t layout() const { return 2 | static_cast<uint64_t>(gemm_.quads) << 8 | static_cast<uint64_t>(dynamic_) << 9 | static_cast<uint64_t>(lanes_) << 16; }

  // Rows [from, to) of A for one group, in `to_rows`.
  virtual const char* copy(const char* x, int64_t from, int64_t to, int64_t group, char* to_rows) const = 0;

  // `count` codes to their place in a row.
  char* put(char* to, const char* codes, int64_t count) const {
    if (gemm_.quads) {
      std::memcpy(to, codes, static_cast<size_t>(count));
      return to + count;
    }
    auto* wide = reinterpret_cast<int16_t*>(to);
    if (signed_)
      for (int64_t i = 0; i < count; ++i) wide[i] = reinterpret_cast<const int8_t*>(codes)[i];  // NOLINT(bugprone-signed-char-misuse): a code keeps its sign
    else
      for (int64_t i = 0; i < count; ++i) wide[i] = reinterpret_cast<const uint8_t*>(codes)[i];
    return to + 2 * count;
  }
  // What is left of a row's last group meets no weight, but is in the row's sum: nothing, as u8.
  void fill_row(char* at, const char* end) const {
    while (at < end) *at++ = static_cast<char>(gemm_.flip ? 0x80 : 0);
  }
  char* put_zeros(char* to, int64_t count) const {
    if (gemm_.quads) {
      std::memset(to, zero_, static_cast<size_t>(count));
      return to + count;
    }
    std::fill_n(reinterpret_cast<int16_t*>(to), count, static_cast<int16_t>(zero_));
    return to + 2 * count;
  }

  IntegerGemm gemm_;
  Tensor packed_, bias_, scale_;
  int64_t rows_ = 0, columns_ = 0, groups_ = 1, lanes_ = 1, block_ = 1;
  bool copies_ = true, signed_ = false, dynamic_ = false;
  int zero_ = 0;
};

class IntegerMatMul : public IntegerProduct {
 public:
  explicit IntegerMatMul(const KernelRequest& r) : IntegerMatMul(r, operands_of(r)) {}

 protected:
  IntegerMatMul(const KernelRequest& r, const Operands& operands) : depth_(r.in_shape(1)[0]) {
    const int64_t columns = r.in_shape(1)[1];
    rows_ = element_count(r.in_shape()) / depth_;
    prepare(r, operands, columns, 1, depth_, [columns](const Tensor& w, int64_t column, int64_t k) { return w.get_int(k * columns + column); });
    copies_ = !gemm_.quads || depth_ % 4 != 0;
  }

 private:
  const char* copy(const char* x, int64_t from, int64_t to, int64_t, char* rows) const override {
    for (int64_t r = from; r < to; ++r) {
      char* end = put(rows + (r - from) * row_bytes(), x + r * depth_, depth_);
      fill_row(end, rows + (r - from + 1) * row_bytes());
    }
    return rows;
  }
  int64_t depth_;
};

class IntegerConv : public IntegerProduct {
 public:
  explicit IntegerConv(const KernelRequest& r) : IntegerConv(r, operands_of(r)) {}

 protected:
  IntegerConv(const KernelRequest& r, const Operands& operands)
      : x_(r.in_shape()), w_(r.in_shape(1)), y_(r.out_shape()), strides_(r.node.get_ints("strides")), pads_(r.node.get_ints("pads")),
        dilations_(r.node.get_ints("dilations")) {
    rows_ = y_[0] * y_[1] * y_[2];
    const int64_t channels = w_[1], taps = w_[2] * w_[3], groups = r.node.get_int("group");
    prepare(r, operands, w_[0] / groups, groups, taps * channels, [channels, taps](const Tensor& w, int64_t column, int64_t k) {
      return w.get_int((column * channels + k % channels) * taps + k / channels);
    });
    const bool plain = taps == 1 && groups == 1 && strides_[0] * strides_[1] == 1 && std::all_of(pads_.begin(), pads_.end(), [](int64_t p) { return p == 0; });
    copies_ = !(plain && gemm_.quads && channels % 4 == 0);
  }

 private:
  const char* copy(const char* x, int64_t from, int64_t to, int64_t group, char* rows) const override {
    const int64_t channels = w_[1], line = x_[2] * x_[3], run = w_[3] * channels;
    const char* x_end = x + element_count(x_);
    const bool side_by_side = groups_ == 1 && dilations_[1] == 1, brief = side_by_side && gemm_.quads && run <= kCopyBytes;
    int64_t ox = from % y_[2], oy = from / y_[2] % y_[1], image = from / (y_[2] * y_[1]);
    for (int64_t r = from; r < to; ++r) {
      char* at = rows + (r - from) * row_bytes();
      char* const end = at + row_bytes();
      const int64_t left = ox * strides_[1] - pads_[1];
      for (int64_t ky = 0; ky < w_[2]; ++ky) {
        const int64_t iy = oy * strides_[0] - pads_[0] + ky * dilations_[0];
        if (iy < 0 || iy >= x_[1]) {
          at = put_zeros(at, w_[3] * channels);
          continue;
        }
        const char* source = x + (image * x_[1] + iy) * line + group * channels;
        if (brief && left >= 0 && left + w_[3] <= x_[2] && source + left * channels + kCopyBytes <= x_end) {
          std::memcpy(at, source + left * channels, kCopyBytes / 2);
          if (run > kCopyBytes / 2) std::memcpy(at + kCopyBytes / 2, source + left * channels + kCopyBytes / 2, kCopyBytes / 2);
          at += run;
          continue;
        }
        if (side_by_side) {
          const int64_t begin = std::clamp<int64_t>(-left, 0, w_[3]), stop = std::clamp<int64_t>(x_[2] - left, begin, w_[3]);
          at = put_zeros(at, begin * channels);
          at = put(at, source + (left + begin) * channels, (stop - begin) * channels);
          at = put_zeros(at, (w_[3] - stop) * channels);
          continue;
        }
        for (int64_t kx = 0; kx < w_[3]; ++kx) {
          const int64_t ix = left + kx * dilations_[1];
          at = ix < 0 || ix >= x_[2] ? put_zeros(at, channels) : put(at, source + ix * x_[3], channels);
        }
      }
      fill_row(at, end);
      if (++ox == y_[2]) {
        ox = 0;
        if (++oy == y_[1]) oy = 0, ++image;
      }
    }
    return rows;
  }

  Shape x_, w_, y_;
  std::vector<int64_t> strides_, pads_, dilations_;
};

// A product whose input is quantized as it comes.
template <class Product>
class Dynamic : public Product {
 public:
  // Which inputs hold what; 0: none. `x_scale` and `multipliers` make f32 of the sums.
  struct Places {
    size_t x_zero, weight_zeros, x_scale, multipliers, shift;
  };
  Dynamic(const KernelRequest& r, const Places& p) : Product(r, operands(r, p)), places_(p) {
    if (!r.has_input(p.x_zero)) places_.x_zero = 0;
    if (p.shift == 0 || !r.has_input(p.shift)) return;
    shift_ = Tensor(DType::kF32, this->bias_.shape());
    std::memset(shift_.raw(), 0, shift_.bytes());
    const Tensor& given = r.input(p.shift).constant;
    for (int64_t c = 0; c < given.size(); ++c) shift_.data<float>()[this->place(c)] = given.data<float>()[c];
    this->gemm_.shift = shift_.data<float>();
  }
  size_t scratch_bytes() const override { return static_cast<size_t>(2 * own_bytes()) + Product::scratch_bytes(); }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    auto* bias = static_cast<int32_t*>(scratch);
    auto* scale = reinterpret_cast<float*>(static_cast<char*>(scratch) + own_bytes());
    this->zero_ = places_.x_zero ? static_cast<int>(in[places_.x_zero]->get_int(0)) : 0;  // what padding is filled with
    const auto zero = static_cast<uint32_t>(this->zero_ + (this->gemm_.flip ? 128 : 0));
    const float x_scale = places_.x_scale ? in[places_.x_scale]->template data<float>()[0] : 1;
    for (int64_t c = 0; c < this->bias_.size(); ++c) {
      bias[c] = static_cast<int32_t>(zero * this->bias_.template data<uint32_t>()[c]);
      scale[c] = x_scale * this->scale_.template data<float>()[c];
    }
    this->gemm_.bias = bias;
    this->gemm_.scale = scale;
    Product::run(in, out, static_cast<char*>(scratch) + 2 * own_bytes());
  }

 private:
  static typename Product::Operands operands(const KernelRequest& r, const Places& p) {
    auto constant = [&](size_t i) { return i && r.has_input(i) ? &r.input(i).constant : nullptr; };
    return {0, Requantize{p.x_scale ? DType::kF32 : DType::kI32}, constant(p.multipliers), nullptr, constant(p.weight_zeros), true};
  }
  int64_t own_bytes() const { return rounded(this->bias_.size() * 4, 64); }
  Places places_;
  Tensor shift_;
};

using DynamicMatMul = Dynamic<IntegerMatMul>;
using DynamicConv = Dynamic<IntegerConv>;
constexpr DynamicMatMul::Places kOfMatMulInteger{2, 3, 0, 0, 0}, kOfDynamicMatMul{3, 5, 4, 2, 6};
constexpr DynamicConv::Places kOfDynamicConv{3, 5, 4, 2, 6};

bool constant_operands(const KernelRequest& r) {
  for (size_t i = 1; i < r.node.inputs.size(); ++i)
    if (r.has_input(i) && !r.input(i).is_constant()) return false;
  return true;
}

bool is_code(DType type) { return type == DType::kU8 || type == DType::kI8; }

// Constant weights with `columns` of them, one zero point of X and, of W, one in all or one a column.
template <class Places>
bool one_zero_point(const KernelRequest& r, const Places& p, int64_t columns) {
  if (!is_code(r.input(0).dtype) || !is_code(r.input(1).dtype) || !r.input(1).is_constant() || r.in_shape().size() < 2) return false;
  if (r.has_input(p.x_zero) && (element_count(r.in_shape(p.x_zero)) != 1 || r.input(p.x_zero).dtype != r.input(0).dtype)) return false;
  if (!r.has_input(p.weight_zeros)) return true;
  const Value& zeros = r.input(p.weight_zeros);
  return zeros.is_constant() && zeros.dtype == r.input(1).dtype && zeros.shape->size() <= 1 && (element_count(*zeros.shape) == 1 || element_count(*zeros.shape) == columns);
}
bool constant_scales(const KernelRequest& r) { return r.input(2).is_constant() && (!r.has_input(6) || r.input(6).is_constant()); }

}  // namespace

void register_integer_gemm(KernelRegistry& r) {
  r.add("IntegerConv", "ai.lathe", {"integer.conv.gemm", constant_operands, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<IntegerConv>(q); }});
  r.add("MatMulInteger", "", {"integer.matmul.dynamic", [](const KernelRequest& q) { return q.in_shape(1).size() == 2 && one_zero_point(q, kOfMatMulInteger, q.in_shape(1)[1]); },
                              [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<DynamicMatMul>(q, kOfMatMulInteger); }});
  r.add("DynamicMatMul", "ai.lathe", {"integer.matmul.dynamic", [](const KernelRequest& q) { return one_zero_point(q, kOfDynamicMatMul, q.in_shape(1)[1]) && constant_scales(q); },
                                      [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<DynamicMatMul>(q, kOfDynamicMatMul); }});
  r.add("DynamicConv", "ai.lathe", {"integer.conv.dynamic", [](const KernelRequest& q) { return one_zero_point(q, kOfDynamicConv, q.in_shape(1)[0]) && constant_scales(q); },
                                    [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<DynamicConv>(q, kOfDynamicConv); }});
  r.add("IntegerMatMul", "ai.lathe", {"integer.matmul", constant_operands, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<IntegerMatMul>(q); }});
}

}  // namespace lathe
#endif
