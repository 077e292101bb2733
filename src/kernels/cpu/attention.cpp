// Fused attention: softmax(s·Q·Kᵀ + mask)·V without ever writing the score matrix to memory. A tile of query rows goes
// over blocks of keys; the greatest score, the sum and the weighted values so far are corrected as greater scores
// come up (online softmax: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
// "FlashAttention", 2022, algorithm 1, whose order of loops this is: a block of keys and values is packed once and
// meets every query). Both products run on the micro-kernels of gemm-inl.h.
//
// A row or two, as when a language model makes one token after the other, would spend more time on packing than on
// products: they read keys and values where they lie.
//
// Heads are read and written where they stand (graph/ops/attention.h). f32, or bf16 with sums and softmax in f32:
// products of bf16 pairs where the processor has them, else everything is widened when it is packed.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/parallel.h"
#include "graph/ops/attention.h"
#include "kernels/cpu/gemm-inl.h"

#ifndef LATHE_ATTENTION_SHARED
#define LATHE_ATTENTION_SHARED
namespace lathe {

// Keys that are packed at a time. A tile's scores and probabilities, 12 rows of 256 twice, are 24 KiB and stay in the
// first-level cache; the packed block with heads of 64 is 128 KiB and stays in the second.
constexpr int64_t kKeyBlock = 256;
constexpr int64_t kMostDirectRows = 4;  // that read keys and values where they lie
constexpr int64_t kWidestPanel = 32;  // over all instruction sets: two vectors of 16

struct AttentionArgs {
  ops::AttentionSizes sizes;
  ops::HeadView q, k, v, y;
  const void *q_data, *k_data, *v_data;
  const void *past_key, *past_value;  // [batch, kv_heads, past, width], or null
  void* y_data;
  const void* mask;  // null: none
  DType mask_type;
  int64_t mask_steps[3];  // along batch, head and query
  int64_t mask_width;     // keys beyond it are hidden
  float scale, softcap;   // softcap 0: none
  bool causal;
  int64_t left, right;    // of the window; negative: open
  const int64_t* valid;   // keys of each sample that are not padding, or null
  bool half;
};

// Parts of a thread's scratch, each 64-byte aligned.
struct AttentionScratch {
  int64_t keys, values, scores, weights, query, zeros, sums, greatest, sum, total;
  AttentionScratch(const ops::AttentionSizes& s, int64_t rows) {
    auto up = [](int64_t n) { return (n + kWidestPanel - 1) / kWidestPanel * kWidestPanel; };
    int64_t block = up(std::min(s.total(), kKeyBlock)), at = 0;
    auto part = [&](int64_t floats) {
      int64_t begin = at;
      at += up(floats) * static_cast<int64_t>(sizeof(float));
      return begin;
    };
    keys = part(block * s.head_size);
    values = part(block * up(s.value_size));
    scores = part(std::max(block * kMostTileRows, 4 * s.head_size));  // four widened keys too
    weights = part(block * kMostTileRows);
    query = part(kMostTileRows * s.head_size);
    zeros = part(std::max(s.head_size, s.value_size));
    const bool several = s.total() > kKeyBlock;
    sums = part(several ? rows * up(s.value_size) : 0);
    greatest = part(rows);
    sum = part(rows);
    total = at;
  }
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// 2ᵗ for t ≤ 0 or so: exact zero far below, NaN stays NaN. `kRough`: for bf16, a cubic of relative error 1e-4, a
// twentieth of what rounding to bf16 does.
template <bool kRough>
HWY_INLINE V Exp2Below(D d, V t) {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  const V n = hn::Round(t), f{_mm512_reduce_ps(t.raw, 8)};
  if constexpr (kRough) {
    V p = hn::MulAdd(hn::Set(d, 0.0558382829f), f, hn::Set(d, 0.242639479f));
    p = hn::MulAdd(p, f, hn::Set(d, 0.693136734f));
    p = hn::MulAdd(p, f, hn::Set(d, 0.999924557f));
    return V{_mm512_scalef_ps(p.raw, n.raw)};
  }
  return Exp2OfParts(d, n, f);
#else
  const V n = hn::Round(t);
  return hn::IfThenZeroElse(hn::Lt(t, hn::Set(d, -126.0f)), Exp2OfParts(d, n, hn::Sub(t, n)));
#endif
}

template <class TIn, class TProduct, class TOut>
class Attend {
 public:
  Attend(const AttentionArgs& args, int64_t batch, int64_t kv_head, char* scratch, int64_t rows)
      : a_(args), s_(args.sizes), batch_(batch), kv_head_(kv_head), scratch_(scratch), at_(args.sizes, rows) {
    std::memset(scratch_ + at_.zeros, 0, static_cast<size_t>(std::max(s_.head_size, s_.value_size)) * sizeof(float));
    keys_ = a_.valid ? std::min(a_.valid[batch], s_.total()) : s_.total();
    offset_ = a_.valid ? keys_ - s_.queries : s_.past;
    if (a_.mask && a_.mask_width < keys_) keys_ = a_.mask_width;
    scaled_ = a_.mask || a_.softcap > 0 || !(a_.scale > 0);
    factor_ = (scaled_ ? 1.0f : a_.scale) * 1.44269504f;  // of the scores' differences: powers are of two
  }

  // Rows [begin, end) of [query heads that share this key head, queries].
  void Run(int64_t begin, int64_t end) {
    const int64_t rows = end - begin, tiles = (rows + kTileRows - 1) / kTileRows;
    if (keys_ <= 0) {
      for (int64_t r = begin; r < end; ++r) Finish(r, nullptr, 0, 0);
      return;
    }
    direct_ = rows <= kMostDirectRows && !kPairs;
    const int64_t blocks = (keys_ + kKeyBlock - 1) / kKeyBlock;
    several_ = blocks > 1;
    if (several_) {
      std::fill_n(At<float>(at_.greatest), rows, -INFINITY);
      std::fill_n(At<float>(at_.sum), rows, 0.0f);
      std::fill_n(At<float>(at_.sums), rows * Columns(), 0.0f);
    }
    for (int64_t j = 0; j < keys_; j += kKeyBlock) {
      first_key_ = j;
      block_ = std::min(kKeyBlock, keys_ - j);
      if (!direct_) {
        PackKeys();
        PackValues();
      }
      // Tiles of nearly one height: a last one of a row or two would run at a fraction of the speed.
      for (int64_t t = 0; t < tiles; ++t) Tile(begin, begin + rows * t / tiles, begin + rows * (t + 1) / tiles);
    }
    if (several_)
      for (int64_t r = 0; r < rows; ++r) FinishSums(begin + r, r);
  }

 private:
  static constexpr bool kPairs = sizeof(TProduct) == 2;  // products take bf16 in pairs
  static constexpr int64_t kLanes = static_cast<int64_t>(hn::MaxLanes(D()));
  static constexpr int64_t kPanel = kPanelVectors * kLanes;

  template <class T>
  T* At(int64_t offset) const { return reinterpret_cast<T*>(scratch_ + offset); }
  static int64_t Up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
  int64_t Columns() const { return Up(s_.value_size, kPanel); }
  int64_t PanelVectors(int64_t left) const { return left <= kLanes ? 1 : kPanelVectors; }

  static Micro MicroOf(int rows, int64_t vectors) {
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
    if constexpr (kPairs) return MicroForHalf(rows, static_cast<int>(vectors));
#endif
    return MicroFor(rows, static_cast<int>(vectors));
  }

  // Key or value number j of this head.
  const TIn* Row(const void* data, const void* past, const ops::HeadView& view, int64_t width, int64_t j) const {
    if (j < s_.past) return static_cast<const TIn*>(past) + ((batch_ * s_.kv_heads + kv_head_) * s_.past + j) * width;
    return static_cast<const TIn*>(data) + view.offset + batch_ * view.batch + kv_head_ * view.head + (j - s_.past) * view.row;
  }
  const TIn* QueryRow(int64_t row) const {
    const int64_t head = kv_head_ * (s_.query_heads / s_.kv_heads) + row / s_.queries;
    return static_cast<const TIn*>(a_.q_data) + a_.q.offset + batch_ * a_.q.batch + head * a_.q.head + row % s_.queries * a_.q.row;
  }

  static void Widen(const uint16_t* from, int64_t n, float* to) {
    const D d;
    for (int64_t i = 0; i < n; i += kLanes) {
      const hn::Mask<D> m = FirstLanes(d, n - i);
      StoreMasked(LoadChannels<false>(d, from + i, m), m, d, to + i);
    }
  }

  // Rows of one head lie apart: the processor's own prefetching sees no run in them.
  static constexpr int64_t kRowsAhead = 8;
  static void Prefetch(const TIn* row, int64_t width) {
    for (int64_t i = 0; i < width; i += 64 / static_cast<int64_t>(sizeof(TIn))) __builtin_prefetch(row + i);
  }

  // Four rows of `n` elements of 32 bits become columns of a panel: to[i · step + row].
  static void TransposeRows(const uint32_t* const* rows, int64_t n, uint32_t* to, int64_t step) {
    int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
    const hn::Full128<uint32_t> d4;
    const hn::Repartition<uint64_t, decltype(d4)> d2;
    for (; i + 4 <= n; i += 4) {
      const auto a = hn::LoadU(d4, rows[0] + i), b = hn::LoadU(d4, rows[1] + i), c = hn::LoadU(d4, rows[2] + i), e = hn::LoadU(d4, rows[3] + i);
      const auto ab0 = hn::BitCast(d2, hn::InterleaveLower(d4, a, b)), ab1 = hn::BitCast(d2, hn::InterleaveUpper(d4, a, b));
      const auto ce0 = hn::BitCast(d2, hn::InterleaveLower(d4, c, e)), ce1 = hn::BitCast(d2, hn::InterleaveUpper(d4, c, e));
      hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, ab0, ce0)), d4, to + i * step);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, ab0, ce0)), d4, to + (i + 1) * step);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveLower(d2, ab1, ce1)), d4, to + (i + 2) * step);
      hn::StoreU(hn::BitCast(d4, hn::InterleaveUpper(d2, ab1, ce1)), d4, to + (i + 3) * step);
    }
#endif
    for (; i < n; ++i)
      for (int r = 0; r < 4; ++r) to[i * step + r] = rows[r][i];
  }

  // The block's keys as B of the first product: panels [width][keys], or [width / 2][keys][2].
  void PackKeys() {
    const int64_t depth = kPairs ? s_.head_size / 2 : s_.head_size;
    uint32_t* to = At<uint32_t>(at_.keys);
    float* wide = At<float>(at_.scores);  // not in use yet
    for (int64_t p = 0; p < block_; p += kPanel) {
      const int64_t columns = PanelVectors(block_ - p) * kLanes;
      for (int64_t c = 0; c < columns; c += 4) {
        const uint32_t* rows[4];
        for (int r = 0; r < 4; ++r) {
          const int64_t j = p + c + r;
          if (j >= block_) {
            rows[r] = At<uint32_t>(at_.zeros);
            continue;
          }
          const TIn* row = Row(a_.k_data, a_.past_key, a_.k, s_.head_size, first_key_ + j);
          Prefetch(row + kRowsAhead * a_.k.row, s_.head_size);
          if constexpr (sizeof(TIn) == sizeof(TProduct)) {
            rows[r] = reinterpret_cast<const uint32_t*>(row);
          } else {
            Widen(row, s_.head_size, wide + r * s_.head_size);
            rows[r] = reinterpret_cast<const uint32_t*>(wide + r * s_.head_size);
          }
        }
        if (columns >= 4) {
          TransposeRows(rows, depth, to + c, columns);
        } else {  // vectors of one lane
          for (int64_t r = 0; r < columns; ++r)
            for (int64_t i = 0; i < depth; ++i) to[i * columns + r] = rows[r][i];
        }
      }
      to += depth * columns;
    }
  }

  // The block's values as B of the second product: panels [keys][width], or [keys / 2][width][2].
  void PackValues() {
    const D d;
    const int64_t depth = kPairs ? Up(block_, 2) : block_;
    char* panel = At<char>(at_.values);
    for (int64_t p = 0; p < s_.value_size; p += kPanel) {
      const int64_t left = s_.value_size - p, columns = PanelVectors(left) * kLanes;
      for (int64_t j = 0; j < block_; j += kPairs ? 2 : 1) {
        const TIn* row = Row(a_.v_data, a_.past_value, a_.v, s_.value_size, first_key_ + j) + p;
        Prefetch(row + kRowsAhead * a_.v.row, columns);
        for (int64_t c = 0; c < columns; c += kLanes) {
          const hn::Mask<D> m = FirstLanes(d, std::max<int64_t>(left - c, 0));
          if constexpr (kPairs) {
            const TIn* next = j + 1 < block_ ? Row(a_.v_data, a_.past_value, a_.v, s_.value_size, first_key_ + j + 1) + p : At<TIn>(at_.zeros);
            const hn::RebindToUnsigned<D> d32;
            const auto low = hn::ShiftRight<16>(hn::BitCast(d32, LoadChannels<false>(d, row + c, m)));
            const auto high = hn::BitCast(d32, LoadChannels<false>(d, next + c, m));
            hn::StoreU(hn::Or(low, high), d32, reinterpret_cast<uint32_t*>(panel) + j / 2 * columns + c);
          } else {
            hn::StoreU(LoadChannels<false>(d, row + c, m), d, reinterpret_cast<float*>(panel) + j * columns + c);
          }
        }
      }
      panel += depth * columns * static_cast<int64_t>(sizeof(TProduct));
    }
  }

  // Keys that a row sees.
  std::pair<int64_t, int64_t> Visible(int64_t row) const {
    const int64_t position = row % s_.queries + offset_;
    int64_t low = 0, high = keys_;
    if (a_.left >= 0) low = std::max(low, position - a_.left);
    if (a_.causal) high = std::min(high, position + 1);
    if (a_.right >= 0) high = std::min(high, position + a_.right + 1);
    return {low, high};
  }

  // Calls f(scores, mask, key in the block, whole) for the vectors of a row's scores of keys [0, count).
  template <class F>
  HWY_INLINE void OverScores(int row, int rows, int64_t count, F&& f) const {
    const D d;
    float* scores = At<float>(at_.scores);
    int64_t j = 0;
    for (; j + kPanel <= count; j += kPanel) {
      float* s = scores + j * rows + row * kPanel;
      f.template operator()<true>(s, FirstLanes(d, kLanes), j);
      f.template operator()<true>(s + kLanes, FirstLanes(d, kLanes), j + kLanes);
    }
    if (j == count) return;
    float* s = scores + j * rows + row * PanelVectors(block_ - j) * kLanes;
    for (; j < count; j += kLanes, s += kLanes) f.template operator()<false>(s, FirstLanes(d, count - j), j);
  }

  V MaskVector(int64_t row, int64_t key, hn::Mask<D> m) const {
    const D d;
    const int64_t head = kv_head_ * (s_.query_heads / s_.kv_heads) + row / s_.queries;
    const int64_t at = batch_ * a_.mask_steps[0] + head * a_.mask_steps[1] + row % s_.queries * a_.mask_steps[2] + key;
    switch (a_.mask_type) {
      case DType::kF32: return LoadMasked(m, d, static_cast<const float*>(a_.mask) + at);
      case DType::kBF16: return LoadChannels<false>(d, static_cast<const uint16_t*>(a_.mask) + at, m);
      default: {  // bool
        const hn::Rebind<uint8_t, D> d8;
        const hn::RebindToSigned<D> di;
        const auto shown = hn::PromoteTo(di, LoadMasked(hn::FirstN(d8, hn::CountTrue(d, m)), d8, static_cast<const uint8_t*>(a_.mask) + at));
        return hn::IfThenElse(hn::RebindMask(d, hn::Eq(shown, hn::Zero(di))), hn::Set(d, -INFINITY), hn::Zero(d));
      }
    }
  }

  // Scale, cap and mask where there are any, and −∞ for the keys that the row does not see.
  void Adjust(int64_t row, int r, int rows, int64_t count, int64_t low, int64_t high) const {
    const D d;
    const V scale = hn::Set(d, a_.scale), cap = hn::Set(d, a_.softcap), inverse = hn::Set(d, a_.softcap > 0 ? 1 / a_.softcap : 0);
    OverScores(r, rows, count, [&]<bool kWhole>(float* s, hn::Mask<D> m, int64_t j) {
      V v = hn::Load(d, s);
      if (scaled_) v = hn::Mul(v, scale);
      if (a_.softcap > 0) {
        const V t = hn::Mul(v, inverse);
        v = hn::Mul(cap, hn::IfThenElse(hn::IsNaN(t), t, FastTanh(d, t)));
      }
      if (a_.mask) v = hn::Add(v, MaskVector(row, first_key_ + j, m));
      const int64_t key = first_key_ + j;
      if (key < low || key + kLanes > high) {
        const auto hidden = hn::Or(FirstLanes(d, std::max<int64_t>(low - key, 0)), hn::Not(FirstLanes(d, std::max<int64_t>(high - key, 0))));
        v = hn::IfThenElse(hidden, hn::Set(d, -INFINITY), v);
      }
      hn::Store(v, d, s);
    });
  }

  HWY_INLINE float Greatest(int r, int rows, int64_t count) const {
    const D d;
    const V lowest = hn::Set(d, -INFINITY);
    V even = lowest, odd = lowest;
    OverScores(r, rows, count, [&]<bool kWhole>(const float* s, hn::Mask<D> m, int64_t j) {
      V v = hn::Load(d, s);
      if constexpr (!kWhole) v = hn::IfThenElse(m, v, lowest);
      V& top = j & kLanes ? odd : even;
      top = hn::Max(top, v);
    });
    return hn::GetLane(hn::MaxOfLanes(d, hn::Max(even, odd)));
  }

  // Weights of the second product, and their sum.
  HWY_INLINE float Exponents(int r, int rows, int64_t count, float greatest, TProduct* to) const {
    const D d;
    const V shift = hn::Set(d, greatest), factor = hn::Set(d, factor_);
    V even = hn::Zero(d), odd = hn::Zero(d);
    OverScores(r, rows, count, [&]<bool kWhole>(const float* s, hn::Mask<D> m, int64_t j) {
      V e = Exp2Below<kPairs>(d, hn::Mul(hn::Sub(hn::Load(d, s), shift), factor));
      if constexpr (!kWhole) e = hn::IfThenElseZero(m, e);
      V& sum = j & kLanes ? odd : even;
      sum = hn::Add(sum, e);
      if constexpr (kPairs) StoreChannels<true>(d, e, reinterpret_cast<NativeHalf*>(to) + j, m);
      else hn::StoreU(e, d, to + j);
    });
    return hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
  }

  // Rows [begin, end), fewer than kTileRows + 1, against the block; `first` is the range's first row.
  void Tile(int64_t first, int64_t begin, int64_t end) {
    for (int64_t r = end; r < std::min(end + kTileRows, s_.query_heads / s_.kv_heads * s_.queries); ++r) Prefetch(QueryRow(r), s_.head_size);
    const int rows = static_cast<int>(end - begin);
    int64_t low[kTileRows], high[kTileRows], least = keys_, most = 0;
    for (int r = 0; r < rows; ++r) {
      std::tie(low[r], high[r]) = Visible(begin + r);
      least = std::min(least, low[r]);
      most = std::max(most, high[r]);
    }
    const int64_t count = std::min(block_, most - first_key_);
    if (several_ && (count <= 0 || least >= first_key_ + block_)) return;
    if (count <= 0) {
      for (int r = 0; r < rows; ++r) Finish(begin + r, nullptr, 0, 0);
      return;
    }
    ScoreTile(begin, rows, count);
    const int64_t stride = Up(block_, kPanel);
    TProduct* weights = At<TProduct>(at_.weights);
    float *greatest = At<float>(at_.greatest) + (begin - first), *sums = At<float>(at_.sum) + (begin - first), correction[kTileRows];
    float tops[kTileRows];
    for (int r = 0; r < rows; ++r) {
      if (scaled_ || low[r] > first_key_ || high[r] < first_key_ + count) Adjust(begin + r, r, rows, count, low[r], high[r]);
      tops[r] = Greatest(r, rows, count);
    }
    for (int r = 0; r < rows; ++r) {
      const float top = several_ ? std::max(tops[r], greatest[r]) : tops[r];
      const float sum = Exponents(r, rows, count, top == -INFINITY ? 0 : top, weights + r * stride);  // all hidden: zeros
      if (several_) {
        correction[r] = top == greatest[r] ? 1 : std::exp2((greatest[r] - top) * factor_);
        sums[r] = sums[r] * correction[r] + sum;
      } else {
        sums[r] = sum;
      }
      greatest[r] = top;
    }
    ValueTile(first, begin, rows, count, sums, correction);
  }

  void ScoreTile(int64_t begin, int rows, int64_t count) {
    const void* pointers[kTileRows];
    for (int r = 0; r < rows; ++r) {
      pointers[r] = QueryRow(begin + r);
      if constexpr (sizeof(TIn) != sizeof(TProduct)) {
        float* wide = At<float>(at_.query) + r * s_.head_size;
        Widen(QueryRow(begin + r), s_.head_size, wide);
        pointers[r] = wide;
      }
    }
    if constexpr (!kPairs) {
      if (direct_) {
        if (rows == 1) ScoreRows<1>(pointers, rows, count);
        else if (rows == 2) ScoreRows<2>(pointers, rows, count);
        else ScoreRows<4>(pointers, rows, count);
        return;
      }
    }
    const TProduct* panel = At<TProduct>(at_.keys);
    for (int64_t p = 0; p < count; p += kPanel) {
      const int64_t vectors = PanelVectors(block_ - p);
      MicroOf(rows, vectors)(1, pointers, s_.head_size, panel, At<float>(at_.scores) + p * rows);
      panel += s_.head_size * vectors * kLanes;
    }
  }

  // Calls f(row of key or value number j, step to the next, j, end) for the cached ones and the fresh ones among the first
  // `count` of the block.
  template <class F>
  HWY_INLINE void OverRuns(const void* data, const void* past, const ops::HeadView& view, int64_t width, int64_t count, F&& f) const {
    const int64_t cached = std::clamp<int64_t>(s_.past - first_key_, 0, count);
    if (cached > 0) f(Row(data, past, view, width, first_key_), width, int64_t{0}, cached);
    if (cached < count) f(Row(data, past, view, width, first_key_ + cached), view.row, cached, count);
  }

  // Scores of kRows queries, the last perhaps not wanted, with the keys as they lie, to where the products of a tile would
  // stand.
  template <int kRows>
  void ScoreRows(const void* const* pointers, int rows, int64_t count) const {
    const D d;
    constexpr int kKeys = 4 / kRows;
    const float* query[kRows];
    for (int r = 0; r < kRows; ++r) query[r] = static_cast<const float*>(pointers[std::min(r, rows - 1)]);
    float* scores = At<float>(at_.scores);
    OverRuns(a_.k_data, a_.past_key, a_.k, s_.head_size, count, [&](const TIn* first, int64_t step, int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; j += kKeys) {
        const TIn* keys[kKeys];
        for (int i = 0; i < kKeys; ++i) {
          keys[i] = first + (std::min(j + i, end - 1) - begin) * step;
          Prefetch(keys[i] + kRowsAhead * step, s_.head_size);
        }
        V acc[kKeys][kRows];
        for (auto& of_key : acc)
          for (V& v : of_key) v = hn::Zero(d);
        auto add = [&]<bool kWhole>(int64_t k, hn::Mask<D> m) {
          V q[kRows];
          HWY_UNROLL(4)
          for (int r = 0; r < kRows; ++r) q[r] = LoadChannels<kWhole>(d, query[r] + k, m);
          HWY_UNROLL(4)
          for (int i = 0; i < kKeys; ++i) {
            const V key = LoadChannels<kWhole>(d, keys[i] + k, m);
            HWY_UNROLL(4)
            for (int r = 0; r < kRows; ++r) acc[i][r] = hn::MulAdd(q[r], key, acc[i][r]);
          }
        };
        int64_t k = 0;
        for (; k + kLanes <= s_.head_size; k += kLanes) add.template operator()<true>(k, hn::Mask<D>());
        if (k < s_.head_size) add.template operator()<false>(k, FirstLanes(d, s_.head_size - k));
        HWY_ALIGN float sums[4];
        const V* all = &acc[0][0];
        SumFour(all[0], all[1], all[2], all[3], sums);
        for (int i = 0; i < kKeys && j + i < end; ++i) {
          const int64_t p = (j + i) / kPanel * kPanel, wide = PanelVectors(block_ - p) * kLanes;
          for (int r = 0; r < rows; ++r) scores[p * rows + r * wide + j + i - p] = sums[i * kRows + r];
        }
      }
    });
  }

  // The sums of the lanes of four vectors.
  static HWY_INLINE void SumFour(V a, V b, V c, V e, float* sums) {
    const D d;
#if HWY_TARGET == HWY_SCALAR
    const V all[4] = {a, b, c, e};
    for (int i = 0; i < 4; ++i) sums[i] = hn::GetLane(hn::SumOfLanes(d, all[i]));
#else
    const hn::Repartition<uint64_t, D> d64;
    const auto ab = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b)));
    const auto ce = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e)));
    // a, b, c, e in each part of four lanes
    const V parts = hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, ab, ce)), hn::BitCast(d, hn::InterleaveUpper(d64, ab, ce)));
    HWY_ALIGN float lanes[hn::MaxLanes(D())];
    hn::Store(parts, d, lanes);
    const hn::Full128<float> d4;
    auto total = hn::Load(d4, lanes);
    for (int64_t i = 4; i < kLanes; i += 4) total = hn::Add(total, hn::Load(d4, lanes + i));
    hn::Store(total, d4, sums);
#endif
  }

  // Columns from p on, one panel, of the weighted sums of the values as they lie.
  template <int kRows, int kVectors>
  void ValueRows(int rows, int64_t p, int64_t count, float* c) const {
    const D d;
    constexpr int kChains = 4 / kRows;
    const int64_t stride = Up(block_, kPanel), left = s_.value_size - p;
    const hn::Mask<D> last = FirstLanes(d, left - (kVectors - 1) * kLanes);
    const bool whole = left >= kVectors * kLanes;
    const float* weights[kRows];
    for (int r = 0; r < kRows; ++r) weights[r] = At<float>(at_.weights) + std::min(r, rows - 1) * stride;
    V acc[kChains][kRows][kVectors];
    for (auto& chain : acc)
      for (auto& row : chain)
        for (V& v : row) v = hn::Zero(d);
    OverRuns(a_.v_data, a_.past_value, a_.v, s_.value_size, count, [&](const TIn* first, int64_t step, int64_t begin, int64_t end) {
      const TIn* from = first + p;
      auto add = [&]<bool kWhole>(int chain, int64_t j) {
        Prefetch(from + kRowsAhead * step, kVectors * kLanes);
        V value[kVectors];
        HWY_UNROLL(2)
        for (int v = 0; v < kVectors; ++v) {
          const bool cut = !kWhole && v == kVectors - 1;
          value[v] = cut ? LoadChannels<false>(d, from + v * kLanes, last) : LoadChannels<true>(d, from + v * kLanes, last);
        }
        HWY_UNROLL(4)
        for (int r = 0; r < kRows; ++r) {
          const V w = hn::Set(d, weights[r][j]);
          HWY_UNROLL(2)
          for (int v = 0; v < kVectors; ++v) acc[chain][r][v] = hn::MulAdd(w, value[v], acc[chain][r][v]);
        }
        from += step;
      };
      int64_t j = begin;
      if (whole)
        for (; j + kChains <= end; j += kChains) {
          HWY_UNROLL(4)
          for (int i = 0; i < kChains; ++i) add.template operator()<true>(i, j + i);
        }
      for (; j < end; ++j) add.template operator()<false>(0, j);
    });
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < kVectors; ++v) {
        V sum = acc[0][r][v];
        for (int i = 1; i < kChains; ++i) sum = hn::Add(sum, acc[i][r][v]);
        hn::Store(sum, d, c + (r * kVectors + v) * kLanes);
      }
  }

  void ValueTile(int64_t first, int64_t begin, int rows, int64_t count, const float* sums, const float* correction) {
    const D d;
    HWY_ALIGN float c[kTileRows * kPanelVectors * hn::MaxLanes(D())];
    const int64_t stride = Up(block_, kPanel), depth = kPairs ? Up(block_, 2) : block_, used = kPairs ? Up(count, 2) : count;
    const void* pointers[kTileRows];
    for (int r = 0; r < rows; ++r) pointers[r] = At<TProduct>(at_.weights) + r * stride;
    const TProduct* panel = At<TProduct>(at_.values);
    for (int64_t p = 0; p < s_.value_size; p += kPanel) {
      const int64_t vectors = PanelVectors(s_.value_size - p);
      bool from_panel = true;
      if constexpr (!kPairs) {
        if (direct_) {
          auto direct = [&]<int kVectors>() {
            if (rows == 1) ValueRows<1, kVectors>(rows, p, count, c);
            else if (rows == 2) ValueRows<2, kVectors>(rows, p, count, c);
            else ValueRows<4, kVectors>(rows, p, count, c);
          };
          if (vectors == 1) direct.template operator()<1>();
          else direct.template operator()<2>();
          from_panel = false;
        }
      }
      if (from_panel) MicroOf(rows, vectors)(1, pointers, used, panel, c);
      panel += depth * vectors * kLanes;
      for (int r = 0; r < rows; ++r) {
        const float* from = c + r * vectors * kLanes;
        if (several_) {
          float* to = At<float>(at_.sums) + (begin - first + r) * Columns() + p;
          const V factor = hn::Set(d, correction[r]);
          for (int64_t v = 0; v < vectors * kLanes; v += kLanes) hn::Store(hn::MulAdd(hn::Load(d, to + v), factor, hn::Load(d, from + v)), d, to + v);
        } else {
          Finish(begin + r, from, p, sums[r]);
        }
      }
    }
  }

  void FinishSums(int64_t row, int64_t r) const {
    for (int64_t p = 0; p < s_.value_size; p += kPanel) Finish(row, At<float>(at_.sums) + r * Columns() + p, p, At<float>(at_.sum)[r]);
  }

  // One panel of a row's result, or with `from` null the whole row, zero.
  void Finish(int64_t row, const float* from, int64_t column, float sum) const {
    const D d;
    const int64_t head = kv_head_ * (s_.query_heads / s_.kv_heads) + row / s_.queries;
    TOut* y = static_cast<TOut*>(a_.y_data) + batch_ * a_.y.batch + head * a_.y.head + row % s_.queries * a_.y.row;
    const V factor = hn::Set(d, sum == 0 ? 0 : 1 / sum);
    const int64_t end = from ? std::min(s_.value_size, column + kPanel) : s_.value_size;
    for (int64_t c = column; c < end; c += kLanes) {
      const V v = from ? hn::Mul(hn::LoadU(d, from + c - column), factor) : hn::Zero(d);
      if (c + kLanes <= end) StoreChannels<true>(d, v, y + c, FirstLanes(d, kLanes));
      else StoreChannels<false>(d, v, y + c, FirstLanes(d, end - c));
    }
  }

  const AttentionArgs& a_;
  const ops::AttentionSizes& s_;
  int64_t batch_, kv_head_;
  char* scratch_;
  AttentionScratch at_;
  int64_t keys_ = 0, offset_ = 0;  // keys in use; position of the first query among them
  bool scaled_ = false;            // scores are scaled (capped, masked) before the softmax, not inside its exponent
  float factor_ = 1;
  bool several_ = false;           // blocks
  bool direct_ = false;            // keys and values are read where they lie
  int64_t first_key_ = 0, block_ = 0;
};

// Rows [begin, end) of the queries that share a key head.
void AttendHead(const AttentionArgs& a, int64_t batch, int64_t kv_head, int64_t begin, int64_t end, char* scratch) {
  if (!a.half) return Attend<float, float, float>(a, batch, kv_head, scratch, end - begin).Run(begin, end);
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  if (has_bf16_instructions() && a.sizes.head_size % 2 == 0 && end - begin > kMostDirectRows)
    return Attend<uint16_t, uint16_t, NativeHalf>(a, batch, kv_head, scratch, end - begin).Run(begin, end);
#endif
  Attend<uint16_t, float, uint16_t>(a, batch, kv_head, scratch, end - begin).Run(begin, end);
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(AttendHead);

namespace {

class Attention : public Kernel {
 public:
  explicit Attention(const KernelRequest& r)
      : threads_(omp_get_max_threads()), inputs_(r.node.inputs.size()), outputs_(r.node.outputs.size()), fused_(r.node.op->domain == kLatheDomain) {
    a_.half = r.input(0).dtype == DType::kBF16;
    ops::AttentionSizes& s = a_.sizes;
    auto shape = [&](size_t i) { return r.has_input(i) ? &r.in_shape(i) : nullptr; };
    if (fused_) {
      s = ops::fused_attention_sizes(r.node);
      a_.q = ops::head_view(r.node, "q_view");
      a_.k = ops::head_view(r.node, "k_view");
      a_.v = ops::head_view(r.node, "v_view");
      a_.y = ops::head_view(r.node, "y_view");
    } else {
      s = ops::attention_sizes(r.node, r.in_shape(0), r.in_shape(1), r.in_shape(2), shape(4), shape(5));
      auto view = s.packed ? ops::view_by_row : ops::view_by_head;
      a_.q = view(s.query_heads, s.queries, s.head_size);
      a_.k = view(s.kv_heads, s.keys, s.head_size);
      a_.v = view(s.kv_heads, s.keys, s.value_size);
      a_.y = view(s.query_heads, s.queries, s.value_size);
    }
    a_.scale = r.node.has("scale") ? r.node.get_float("scale") : 1.0f / std::sqrt(static_cast<float>(s.head_size));
    a_.softcap = r.node.get_float("softcap");
    a_.causal = r.node.get_int("is_causal") != 0;
    a_.left = r.node.get_int("left_window_size");
    a_.right = r.node.get_int("right_window_size");
    if (r.has_input(3)) set_mask(r.input(3));
    split();
    per_thread_ = AttentionScratch(s, rows_per_part_).total;
  }
  size_t scratch_bytes() const override { return static_cast<size_t>(threads_ * per_thread_); }

  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    const ops::AttentionSizes& s = a_.sizes;
    a_.q_data = in[0]->raw();
    a_.k_data = in[1]->raw();
    a_.v_data = in[2]->raw();
    a_.y_data = out[0]->raw();
    a_.mask = masked_ ? in[3]->raw() : nullptr;
    if (!fused_) bind_cache(in, out);
    const int64_t rows = s.query_heads / s.kv_heads * s.queries, items = s.batch * s.kv_heads * parts_;
    const int64_t work = rows_per_part_ * s.total() * (s.head_size + s.value_size) / 16;  // vector products of an item
    parallel_for(items, kParallelGrain / (work + 1) + 1, [&](int64_t begin, int64_t end) {
      char* own = static_cast<char*>(scratch) + omp_get_thread_num() * per_thread_;
      for (int64_t i = begin; i < end; ++i) {
        const int64_t head = i / parts_, part = i % parts_;
        HWY_DYNAMIC_DISPATCH(AttendHead)(a_, head / s.kv_heads, head % s.kv_heads, rows * part / parts_, rows * (part + 1) / parts_, own);
      }
    });
  }

 private:
  void set_mask(const Value& mask) {
    masked_ = true;
    a_.mask_type = mask.dtype;
    Shape m(4 - mask.shape->size(), 1);
    m.insert(m.end(), mask.shape->begin(), mask.shape->end());
    std::vector<int64_t> strides = strides_of(m);
    for (int i = 0; i < 3; ++i) a_.mask_steps[i] = m[i] == 1 ? 0 : strides[i];
    a_.mask_width = m[3];
  }

  // Heads go to the threads as they are when there are plenty; else their queries are split, and each part packs the
  // keys anew, which takes as long as three rows of products: parts of 48 rows lose a sixteenth.
  void split() {
    const ops::AttentionSizes& s = a_.sizes;
    const int64_t heads = s.batch * s.kv_heads, rows = s.query_heads / s.kv_heads * s.queries;
    parts_ = heads % threads_ == 0 ? 1 : std::clamp<int64_t>((4 * threads_ + heads - 1) / heads, 1, std::max<int64_t>(rows / 48, 1));
    rows_per_part_ = (rows + parts_ - 1) / parts_;
  }

  // The standard's optional inputs and outputs: cached keys and values, and how many of them count.
  void bind_cache(const Tensor* const* in, Tensor* const* out) {
    const ops::AttentionSizes& s = a_.sizes;
    a_.past_key = inputs_ > 5 && in[4] ? in[4]->raw() : nullptr;
    a_.past_value = inputs_ > 5 && in[5] ? in[5]->raw() : nullptr;
    a_.valid = inputs_ > 6 && in[6] ? in[6]->data<int64_t>() : nullptr;
    for (int64_t b = 0; a_.valid && b < s.batch; ++b)
      if (a_.valid[b] < 0 || a_.valid[b] > s.total()) fail(ErrorKind::kInput, "nonpad_kv_seqlen is {}, expected 0 to {}", a_.valid[b], s.total());
    if (outputs_ > 1 && out[1]) extend(a_.past_key, in[1]->raw(), a_.k, s.head_size, out[1]);
    if (outputs_ > 2 && out[2]) extend(a_.past_value, in[2]->raw(), a_.v, s.value_size, out[2]);
  }

  // [batch, heads, past + keys, width]: the cache and what is new.
  void extend(const void* past, const void* fresh, const ops::HeadView& view, int64_t width, Tensor* to) const {
    const ops::AttentionSizes& s = a_.sizes;
    const int64_t element = static_cast<int64_t>(size_of(to->dtype())), row = width * element;
    parallel_for(s.batch * s.kv_heads, kParallelGrain * 4 / (s.total() * row + 1) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) {
        char* y = to->data<char>() + h * s.total() * row;
        if (s.past > 0) std::memcpy(y, static_cast<const char*>(past) + h * s.past * row, static_cast<size_t>(s.past * row));
        const char* x = static_cast<const char*>(fresh) + (view.offset + h / s.kv_heads * view.batch + h % s.kv_heads * view.head) * element;
        for (int64_t j = 0; j < s.keys; ++j) std::memcpy(y + (s.past + j) * row, x + j * view.row * element, static_cast<size_t>(row));
      }
    });
  }

  int64_t threads_, per_thread_ = 0, parts_ = 1, rows_per_part_ = 1;
  size_t inputs_, outputs_;
  bool fused_, masked_ = false;
  AttentionArgs a_{};
};

bool mask_supported(const KernelRequest& r, const ops::AttentionSizes& s) {
  if (!r.has_input(3)) return true;
  const Shape& m = r.in_shape(3);
  DType type = r.input(3).dtype;
  if ((type != DType::kBool && type != DType::kF32 && type != DType::kBF16) || m.empty() || m.size() > 4 || m.back() > s.total()) return false;
  const Shape scores{s.batch, s.query_heads, s.queries, m.back()};
  for (size_t i = 0; i < m.size(); ++i) {
    int64_t size = scores[4 - m.size() + i];
    if (m[i] != 1 && m[i] != size) return false;
  }
  return true;
}

bool one_type(const KernelRequest& r, std::initializer_list<size_t> inputs) {
  DType type = r.input(0).dtype;
  if ((type != DType::kF32 && type != DType::kBF16) || r.output().dtype != type) return false;
  return std::all_of(inputs.begin(), inputs.end(), [&](size_t i) { return !r.has_input(i) || r.input(i).dtype == type; });
}

bool standard_supported(const KernelRequest& r) {
  const Node& n = r.node;
  if (!one_type(r, {1, 2, 4, 5}) || (n.outputs.size() > 3 && n.outputs[3])) return false;
  if (n.get_int("softmax_precision") == static_cast<int64_t>(DType::kF64)) return false;
  if (n.get_int("left_window_size") < -1 || n.get_int("right_window_size") < -1) return false;
  auto shape = [&](size_t i) { return r.has_input(i) ? &r.in_shape(i) : nullptr; };
  ops::AttentionSizes s = ops::attention_sizes(n, r.in_shape(0), r.in_shape(1), r.in_shape(2), shape(4), shape(5));
  if (r.has_input(6) && (r.input(6).dtype != DType::kI64 || element_count(r.in_shape(6)) != s.batch)) return false;
  return mask_supported(r, s);
}

bool fused_supported(const KernelRequest& r) { return one_type(r, {1, 2}) && mask_supported(r, ops::fused_attention_sizes(r.node)); }

std::unique_ptr<Kernel> make(const KernelRequest& r) { return std::make_unique<Attention>(r); }

}  // namespace

void register_attention(KernelRegistry& r) {
  r.add("Attention", "", {"attention", standard_supported, make});
  r.add("Attention", kLatheDomain, {"attention", fused_supported, make});
}

}  // namespace lathe
#endif
