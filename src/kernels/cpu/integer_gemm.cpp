// IntegerConv and IntegerMatMul as products of matrices of codes. Rows of A are output pixels, and are not copied: a word of
// a row is a group of neighbouring codes (kernels/cpu/integer-inl.h), whose place from the row's begin on is the same for all
// rows, in a row of a matrix as under a window of the picture. Only where a picture is padded, where codes are widened or where
// the last word of a row would reach behind the picture, a strip of it is copied that stays in cache. Weights lie in panels
// of one vector of columns, the words of one depth side by side. The zero point of X is taken off once per column: −zero·Σw
// stands with the packed weights, and taps outside the picture read the zero point. A zero point of W goes into weights of
// i16; weights of i8 leave it to the sum of each row of A.
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
  const int32_t* word_at = nullptr;  // [words], bytes from a row's begin
  const int32_t* row_at = nullptr;   // bytes from the first row's begin, for as many as a block has
  int64_t runs = 1, run_words = 0, run_bytes = 0;  // parts of a row whose words follow one another, and what of them codes fill
  bool quads = false, flip = false;  // flip: codes are i8, moved to u8 as they are read
  const int32_t* weights = nullptr;  // [panels, words, lanes]
  const int32_t* bias = nullptr;     // whole panels
  const int32_t* zeros = nullptr;    // with i8 weights that have zero points: what times a row's sum is taken off
  const int32_t* row_sums = nullptr;  // of these rows of A
  const float* scale = nullptr;
  const float* shift = nullptr;  // added to f32 results, or null
  const uint8_t* table = nullptr;
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

// A vector of sums with their bias, as f32 or i32.
void StoreSums(const IntegerGemm& g, VI sum, int64_t column, char* y) {
  const DI di;
  const DF df;
  const auto lanes = static_cast<int64_t>(hn::Lanes(di));
  const int64_t count = std::min(lanes, g.columns - column);
  if (g.out.type == DType::kI32) {
    auto* to = reinterpret_cast<int32_t*>(y) + column;
    return count == lanes ? hn::StoreU(sum, di, to) : StoreMasked(sum, hn::FirstN(di, static_cast<size_t>(count)), di, to);
  }
  VF scaled = hn::Mul(hn::ConvertTo(df, sum), hn::LoadU(df, g.scale + column));
  if (g.shift) scaled = hn::Add(scaled, hn::LoadU(df, g.shift + column));
  auto* to = reinterpret_cast<float*>(y) + column;
  if (count == lanes) hn::StoreU(scaled, df, to);
  else StoreMasked(scaled, hn::FirstN(df, static_cast<size_t>(count)), df, to);
}

// Codes of kRows rows by kVectors vectors of sums, of which `valid` rows and `count` columns are there.
template <int kRows, int kVectors>
HWY_INLINE void StoreCodes(const Rounding& rounding, const VI (&acc)[kRows][kVectors], const float* scale, int64_t valid, int64_t count, uint8_t* y, int64_t y_stride) {
#if LATHE_PACKS_CODES
  // Rows of one vector or two share the instructions that pack four.
  constexpr int kTogether = kRows % 4 == 0 && kVectors == 1 ? 4 : kRows % 2 == 0 && kVectors <= 2 ? 2 : 1;
  if constexpr (kTogether > 1) {
    const DF df;
    VF factor[kVectors];
    for (int v = 0; v < kVectors; ++v) factor[v] = hn::LoadU(df, scale + 16 * v);
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; r += kTogether) {
      if (r >= valid) break;
      VI v[4];
      HWY_UNROLL(4)
      for (int i = 0; i < 4; ++i) {
        constexpr int kLast = kTogether * kVectors - 1;
        const int at = i < kLast ? i : kLast;
        v[i] = rounding.Round(acc[r + at / kVectors][at % kVectors], factor[at % kVectors]);
      }
      const V8 codes = rounding.Pack(v[0], v[1], v[2], v[3]);
      uint8_t* to = y + r * y_stride;
      if (kTogether * kVectors == 4 && y_stride == 16 * kVectors && count == y_stride && valid - r >= kTogether) {
        hn::StoreU(codes, D8(), to);
        continue;
      }
      const auto mask = static_cast<uint32_t>((1ull << std::min<int64_t>(count, 16 * kVectors)) - 1);
      if constexpr (kVectors == 2) {
        _mm256_mask_storeu_epi8(to, mask, _mm512_castsi512_si256(codes.raw));
        if (valid - r > 1) _mm256_mask_storeu_epi8(to + y_stride, mask, _mm512_extracti64x4_epi64(codes.raw, 1));
      } else {
        const auto some = static_cast<__mmask16>(mask);
        _mm_mask_storeu_epi8(to, some, _mm512_castsi512_si128(codes.raw));
        if (valid - r > 1) _mm_mask_storeu_epi8(to + y_stride, some, _mm512_extracti32x4_epi32(codes.raw, 1));
        if (kTogether > 2 && valid - r > 2) _mm_mask_storeu_epi8(to + 2 * y_stride, some, _mm512_extracti32x4_epi32(codes.raw, 2));
        if (kTogether > 2 && valid - r > 3) _mm_mask_storeu_epi8(to + 3 * y_stride, some, _mm512_extracti32x4_epi32(codes.raw, 3));
      }
    }
    if (rounding.must_look_up())
      for (int64_t r = 0; r < valid; ++r) rounding.LookUp(y + r * y_stride, std::min<int64_t>(count, 16 * kVectors));
    return;
  }
#endif
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    if (r >= valid) break;
    rounding.template Store<kVectors>(acc[r], scale, count, y + r * y_stride);
  }
}

// `valid` rows of A by kVectors panels; rows beyond them repeat the last.
template <bool kQuads, bool kFlip, int kRows, int kVectors>
HWY_INLINE void Tile(const IntegerGemm& g, const Rounding& rounding, const char* a, int64_t row, int64_t valid, int64_t panel, char* y, int64_t y_stride) {
  const DI di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(di));
  const int32_t* w = g.weights + panel * g.words * lanes;
  const int64_t next = g.words * lanes;
  const char* rows[kRows];
  for (int r = 0; r < kRows; ++r) rows[r] = a + g.row_at[row + std::min<int64_t>(r, valid - 1)];
  VI acc[kRows][kVectors];
  HWY_UNROLL(4)
  for (int v = 0; v < kVectors; ++v) {
    const VI bias = hn::LoadU(di, g.bias + (panel + v) * lanes);
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) acc[r][v] = bias;
  }
  const VI flip = hn::Set(di, static_cast<int32_t>(0x80808080));
  const int32_t* word_at = g.word_at;
  for (int64_t k = g.words; k > 0; --k, w += lanes) {
    VI column[kVectors];
    HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) column[v] = hn::LoadU(di, w + v * next);
    const int64_t at = *word_at++;
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) {
      int32_t word;
      std::memcpy(&word, rows[r] + at, 4);
      VI x = hn::Set(di, word);
      if constexpr (kFlip) x = hn::Xor(x, flip);
      HWY_UNROLL(4)
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Dot<kQuads>(acc[r][v], x, column[v]);
    }
  }
  if (g.zeros) {
    HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) {
      const VI zeros = hn::LoadU(di, g.zeros + (panel + v) * lanes);
      HWY_UNROLL(8)
      for (int r = 0; r < kRows; ++r) acc[r][v] = hn::Sub(acc[r][v], hn::Mul(hn::Set(di, g.row_sums[row + std::min<int64_t>(r, valid - 1)]), zeros));
    }
  }
  if (g.out.is_codes())
    return StoreCodes<kRows, kVectors>(rounding, acc, g.scale + panel * lanes, valid, g.columns - panel * lanes, reinterpret_cast<uint8_t*>(y) + panel * lanes, y_stride);
  for (int r = 0; r < kRows; ++r) {
    if (r >= valid) break;
    for (int v = 0; v < kVectors; ++v) StoreSums(g, acc[r][v], (panel + v) * lanes, y + r * y_stride);
  }
}

template <bool kQuads, bool kFlip, int kVectors>
void TileRows(const IntegerGemm& g, const char* a, int64_t rows, int64_t panel, char* y, int64_t y_stride) {
  constexpr int kFull = kFullRows<kVectors>;
  const Rounding rounding(g.out, g.table);
  for (int64_t row = 0; row < rows;) {
    const int64_t take = std::min<int64_t>(rows - row, kFull);
    if (take > 4) Tile<kQuads, kFlip, kFull, kVectors>(g, rounding, a, row, take, panel, y, y_stride);
    else if (take > 2) Tile<kQuads, kFlip, 4, kVectors>(g, rounding, a, row, take, panel, y, y_stride);
    else if (take > 1) Tile<kQuads, kFlip, 2, kVectors>(g, rounding, a, row, take, panel, y, y_stride);
    else Tile<kQuads, kFlip, 1, kVectors>(g, rounding, a, row, take, panel, y, y_stride);
    y += take * y_stride;
    row += take;
  }
}

template <bool kQuads, bool kFlip>
void Panels(const IntegerGemm& g, const char* a, int64_t rows, int64_t begin, int64_t end, char* y, int64_t y_stride) {
  while (begin < end) {
    const int64_t count = std::min<int64_t>(end - begin, kMostVectors);
    if (count == 1) TileRows<kQuads, kFlip, 1>(g, a, rows, begin, y, y_stride);
    else if (count == 2) TileRows<kQuads, kFlip, 2>(g, a, rows, begin, y, y_stride);
    else if constexpr (kMostVectors == 4) {
      if (count == 3) TileRows<kQuads, kFlip, 3>(g, a, rows, begin, y, y_stride);
      else TileRows<kQuads, kFlip, 4>(g, a, rows, begin, y, y_stride);
    }
    begin += count;
  }
}

// `rows` rows of A by panels [begin, end).
void IntegerPanels(const IntegerGemm& g, const char* a, int64_t rows, int64_t begin, int64_t end, char* y, int64_t y_stride) {
  if constexpr (kHasQuads) {
    if (g.quads && g.flip) return Panels<true, true>(g, a, rows, begin, end, y, y_stride);
    if (g.quads) return Panels<true, false>(g, a, rows, begin, end, y, y_stride);
  }
  Panels<false, false>(g, a, rows, begin, end, y, y_stride);
}

// Sums of the codes of each row of A, for weights of i8 with zero points.
void IntegerRowSums([[maybe_unused]] const IntegerGemm& g, [[maybe_unused]] const char* a, [[maybe_unused]] int64_t rows, [[maybe_unused]] int32_t* sums) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX3
  const D8 d8;
  const DI di;
  const auto vector = static_cast<int64_t>(hn::Lanes(d8));
  const V8 flip = hn::Set(d8, static_cast<uint8_t>(g.flip ? 0x80 : 0));
  for (int64_t r = 0; r < rows; ++r) {
    VI total = hn::Zero(di);
    for (int64_t run = 0; run < g.runs; ++run) {
      const auto* codes = reinterpret_cast<const uint8_t*>(a) + g.row_at[r] + g.word_at[run * g.run_words];
      for (int64_t k = 0; k < g.run_bytes; k += vector) {
        const auto there = hn::FirstN(d8, static_cast<size_t>(std::min(g.run_bytes - k, vector)));
        const V8 moved = hn::IfThenElseZero(there, hn::Xor(hn::MaskedLoad(there, d8, codes + k), flip));
        total = Dot<true>(total, hn::BitCast(di, moved), hn::Set(di, 0x01010101));
      }
    }
    sums[r] = hn::GetLane(hn::SumOfLanes(di, total));
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

// Rows that are read, or copied, at once stay in the first-level cache beside a few panels: 32 KiB and more everywhere.
constexpr int64_t kBlockBytes = 24 << 10;
constexpr int64_t kLeastBlockRows = 24;  // tiles of 8 and 6 rows come out even
// A strip of a picture may be larger: windows overlap, so that rows of outputs are few in little.
constexpr int64_t kStripBytes = 48 << 10;

int64_t rounded(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// One product of codes, or one for each group of a convolution. Its rows come in parts (rows of a matrix, pictures), and those
// in blocks.
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
    gemm_.word_at = word_at_.data();
    gemm_.row_at = row_at_.data();
    // A row or two, as in a classifier, is shared out by columns.
    if (parts_ * rows_ <= kLeastBlockRows && parts_ == 1 && groups_ == 1 && block_ >= rows_) {
      IntegerGemm g = gemm_;
      const char* a = block_of(x, 0, 0, rows_, 0, static_cast<char*>(scratch));
      sum_rows(g, a, rows_, static_cast<char*>(scratch));
      return parallel_for(panels, kParallelGrain / (cost * rows_ / panels + 1) + 1, [&](int64_t begin, int64_t end) {
        HWY_DYNAMIC_DISPATCH(IntegerPanels)(g, a, rows_, begin, end, y, y_stride);
      });
    }
    const int64_t blocks = (rows_ + block_ - 1) / block_;
    parallel_for(parts_ * blocks * groups_, kParallelGrain / (cost * block_) + 1, [&](int64_t begin, int64_t end) {
      char* own = static_cast<char*>(scratch) + omp_get_thread_num() * (block_bytes() + sums_bytes());
      for (; begin < end; ++begin) {
        const int64_t group = begin % groups_, part = begin / groups_ / blocks, row = begin / groups_ % blocks * block_, count = std::min(block_, rows_ - row);
        IntegerGemm g = gemm_;
        g.weights += group * panels * gemm_.words * lanes_;
        g.bias += group * panels * lanes_;
        g.scale += group * panels * lanes_;
        if (g.zeros) g.zeros += group * panels * lanes_;
        if (g.shift) g.shift += group * panels * lanes_;
        const char* a = block_of(x, part, row, row + count, group, own);
        sum_rows(g, a, count, own);
        HWY_DYNAMIC_DISPATCH(IntegerPanels)(g, a, count, 0, panels, y + (part * rows_ + row) * y_stride + group * columns_ * y_width, y_stride);
      }
    });
  }

 protected:
  // What a product is given besides codes; null where there is none.
  struct Operands {
    int zero = 0;  // of X
    Requantize out;
    const Tensor *multipliers = nullptr, *bias = nullptr, *weight_zeros = nullptr, *table = nullptr;
    bool dynamic = false;  // the zero point is known only at run time
  };
  // Of IntegerConv and IntegerMatMul.
  static Operands operands_of(const KernelRequest& r) {
    auto constant = [&](size_t i) { return r.has_input(i) ? &r.input(i).constant : nullptr; };
    return {static_cast<int>(r.node.get_int("x_zero_point")), Requantize::of(r.node), constant(2), constant(3), constant(4), constant(5)};
  }

  // How the words of a row lie: `runs` times `length` codes.
  void set_runs(int64_t runs, int64_t length) {
    gemm_.quads = has_vnni_instructions();
    gemm_.runs = runs;
    gemm_.run_words = (length + group_size() - 1) / group_size();
    gemm_.run_bytes = length;
    gemm_.words = runs * gemm_.run_words;
    run_length_ = length;
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
    gemm_.flip = gemm_.quads && signed_;
    gemm_.columns = columns;
    gemm_.out = o.out;
    if (o.table) {
      table_ = *o.table;
      gemm_.table = table_.data<uint8_t>();
    }
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
        const int64_t of = k % run_length_;  // in its run
        char* at = group + (k / run_length_ * gemm_.run_words + of / group_size()) * lanes_ * 4;
        if (gemm_.quads) reinterpret_cast<int8_t*>(at)[of % 4] = static_cast<int8_t>(code);
        else reinterpret_cast<int16_t*>(at)[of % 2] = static_cast<int16_t>(value);
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
    HWY_DYNAMIC_DISPATCH(IntegerRowSums)(g, a, rows, sums);
    g.row_sums = sums;
  }

  int64_t group_size() const { return gemm_.quads ? 4 : 2; }
  int64_t code_bytes() const { return gemm_.quads ? 1 : 2; }  // of a code in a copy
  int64_t panels() const { return (columns_ + lanes_ - 1) / lanes_; }
  int64_t block_bytes() const { return copies_ ? rounded(copied_bytes_ + 4, 64) : 0; }  // the last word may reach beyond
  int64_t sums_bytes() const { return gemm_.zeros ? rounded(block_ * 4, 64) : 0; }
  uint64_t layout() const { return 3 | static_cast<uint64_t>(gemm_.quads) << 8 | static_cast<uint64_t>(dynamic_) << 9 | static_cast<uint64_t>(lanes_) << 16; }

  // Where the first of rows [from, to) of a part's A begins, for one group; they are copied to `own` if need be.
  virtual const char* block_of(const char* x, int64_t part, int64_t from, int64_t to, int64_t group, char* own) const = 0;

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
  char* put_zeros(char* to, int64_t count) const {
    if (gemm_.quads) {
      std::memset(to, zero_, static_cast<size_t>(count));
      return to + count;
    }
    std::fill_n(reinterpret_cast<int16_t*>(to), count, static_cast<int16_t>(zero_));
    return to + 2 * count;
  }

  IntegerGemm gemm_;
  Tensor packed_, bias_, scale_, table_;
  std::vector<int32_t> word_at_, row_at_;
  int64_t parts_ = 1, rows_ = 0;  // of each part
  int64_t columns_ = 0, groups_ = 1, lanes_ = 1, block_ = 1, run_length_ = 0, copied_bytes_ = 0;
  bool copies_ = true, signed_ = false, dynamic_ = false;
  int zero_ = 0;
};

// Rows of a matrix that lie one after the other.
class IntegerRows : public IntegerProduct {
 protected:
  void set_rows(int64_t rows, int64_t depth) {
    rows_ = rows;
    depth_ = depth;
    set_runs(1, depth);
    copies_ = !gemm_.quads || depth % 4 != 0;
    const int64_t stride = copies_ ? gemm_.words * 4 : depth;
    // A block for each thread where there are rows enough.
    const int64_t threads = omp_get_max_threads();
    block_ = std::max(kBlockBytes / stride, kLeastBlockRows) / kLeastBlockRows * kLeastBlockRows;
    block_ = std::max(std::min(block_, rounded((rows_ + threads - 1) / threads, kLeastBlockRows)), kLeastBlockRows);
    copied_bytes_ = block_ * stride;
    for (int64_t k = 0; k < gemm_.words; ++k) word_at_.push_back(static_cast<int32_t>(4 * k));
    for (int64_t r = 0; r < block_; ++r) row_at_.push_back(static_cast<int32_t>(r * stride));
  }
  const char* block_of(const char* x, int64_t, int64_t from, int64_t to, int64_t, char* own) const override {
    if (!copies_) return x + from * depth_;
    for (int64_t r = from; r < to; ++r) put(own + row_at_[r - from], x + r * depth_, depth_);
    return own;
  }

 private:
  int64_t depth_ = 0;
};

class IntegerMatMul : public IntegerRows {
 public:
  explicit IntegerMatMul(const KernelRequest& r) : IntegerMatMul(r, operands_of(r)) {}

 protected:
  IntegerMatMul(const KernelRequest& r, const Operands& operands) {
    const int64_t depth = r.in_shape(1)[0], columns = r.in_shape(1)[1];
    set_rows(element_count(r.in_shape()) / depth, depth);
    prepare(r, operands, columns, 1, depth, [columns](const Tensor& w, int64_t column, int64_t k) { return w.get_int(k * columns + column); });
  }
};

class IntegerConv : public IntegerRows {
 public:
  explicit IntegerConv(const KernelRequest& r) : IntegerConv(r, operands_of(r)) {}

 protected:
  IntegerConv(const KernelRequest& r, const Operands& operands)
      : x_(r.in_shape()), w_(r.in_shape(1)), y_(r.out_shape()), strides_(r.node.get_ints("strides")), pads_(r.node.get_ints("pads")),
        dilations_(r.node.get_ints("dilations")) {
    const int64_t channels = w_[1], taps = w_[2] * w_[3], groups = r.node.get_int("group");
    const bool unpadded = std::all_of(pads_.begin(), pads_.end(), [](int64_t p) { return p == 0; });
    pointwise_ = taps == 1 && groups == 1 && strides_[0] * strides_[1] == 1 && unpadded;
    if (pointwise_) set_rows(y_[0] * y_[1] * y_[2], channels);
    else set_windows(channels, groups, unpadded);
    prepare(r, operands, w_[0] / groups, groups, taps * channels, [channels, taps](const Tensor& w, int64_t column, int64_t k) {
      return w.get_int((column * channels + k % channels) * taps + k / channels);
    });
  }

 private:
  void set_windows(int64_t channels, int64_t groups, bool unpadded) {
    parts_ = y_[0];
    rows_ = y_[1] * y_[2];
    // Taps of a row of the window follow one another, unless they are apart, or other groups' channels lie between.
    const bool quads = has_vnni_instructions();
    const auto exact = [](int64_t codes) { return codes % 4 == 0; };
    const bool side_by_side = dilations_[1] == 1;
    copies_ = !(unpadded && quads && (side_by_side && groups == 1 ? exact(w_[3] * channels) : exact(channels)));
    const bool whole = side_by_side && (copies_ || groups == 1);
    set_runs(whole ? w_[2] : w_[2] * w_[3], whole ? w_[3] * channels : channels);
    // What lies in a copy: columns that windows reach, of one group.
    columns_copied_ = std::max<int64_t>((y_[2] - 1) * strides_[1] + (w_[3] - 1) * dilations_[1] + 1, 1);
    const int64_t pixel = copies_ ? channels * code_bytes() : x_[3], line = pixel * (copies_ ? columns_copied_ : x_[2]);
    const int64_t reach = (w_[2] - 1) * dilations_[0] + 1, threads = std::max<int64_t>(omp_get_max_threads() / (parts_ * groups), 1);
    strip_ = std::clamp<int64_t>((kStripBytes / line - reach) / strides_[0] + 1, 1, y_[1]);
    // Enough pixels for whole tiles to count, and a strip for each thread.
    strip_ = std::clamp<int64_t>(std::max(strip_, (kLeastBlockRows + y_[2] - 1) / y_[2]), 1, (y_[1] + threads - 1) / threads);
    strip_ = (y_[1] + (y_[1] + strip_ - 1) / strip_ - 1) / ((y_[1] + strip_ - 1) / strip_);  // in equal parts
    block_ = strip_ * y_[2];
    copied_bytes_ = ((strip_ - 1) * strides_[0] + reach) * line;
    line_ = line;
    for (int64_t ky = 0; ky < w_[2]; ++ky)
      for (int64_t kx = 0; kx < (whole ? 1 : w_[3]); ++kx)
        for (int64_t k = 0; k < gemm_.run_words; ++k)
          word_at_.push_back(static_cast<int32_t>(ky * dilations_[0] * line + kx * dilations_[1] * pixel + 4 * k));
    for (int64_t r = 0; r < block_; ++r)
      row_at_.push_back(static_cast<int32_t>(r / y_[2] * strides_[0] * line + r % y_[2] * strides_[1] * pixel));
  }

  const char* block_of(const char* x, int64_t image, int64_t from, int64_t to, int64_t group, char* own) const override {
    if (pointwise_) return IntegerRows::block_of(x, image, from, to, group, own);
    const int64_t channels = w_[1], line = x_[2] * x_[3], top = from / y_[2] * strides_[0] - pads_[0];
    const char* picture = x + image * x_[1] * line + group * channels;
    if (!copies_) return picture + top * line;
    const int64_t lines = ((to - from) / y_[2] - 1) * strides_[0] + (w_[2] - 1) * dilations_[0] + 1;
    // Columns of the copy that lie in the picture.
    const int64_t begin = std::clamp<int64_t>(pads_[1], 0, columns_copied_), end = std::clamp<int64_t>(x_[2] + pads_[1], begin, columns_copied_);
    for (int64_t i = 0; i < lines; ++i) {
      char* at = own + i * line_;
      const int64_t iy = top + i;
      if (iy < 0 || iy >= x_[1] || begin == end) {
        put_zeros(at, columns_copied_ * channels);
        continue;
      }
      at = put_zeros(at, begin * channels);
      const char* source = picture + iy * line + (begin - pads_[1]) * x_[3];
      if (x_[3] == channels) at = put(at, source, (end - begin) * channels);
      else
        for (int64_t column = begin; column < end; ++column, source += x_[3]) at = put(at, source, channels);
      put_zeros(at, (columns_copied_ - end) * channels);
    }
    return own;
  }

  Shape x_, w_, y_;
  std::vector<int64_t> strides_, pads_, dilations_;
  int64_t strip_ = 1, line_ = 0, columns_copied_ = 1;
  bool pointwise_ = false;
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
    return {0, Requantize{p.x_scale ? DType::kF32 : DType::kI32}, constant(p.multipliers), nullptr, constant(p.weight_zeros), nullptr, true};
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
