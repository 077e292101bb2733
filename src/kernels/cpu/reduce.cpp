// Sums, means, extremes and norms over any axes, the places of extremes and the greatest few. f32 (Reduce* also bf16, with sums in f32).
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/reduce.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/parallel.h"
#include "kernels/cpu/lanes-inl.h"

#ifndef LATHE_REDUCE_SHARED
#define LATHE_REDUCE_SHARED
namespace lathe {
enum class ReduceKind { kSum, kMax, kMin, kAbsSum, kSquareSum };  // with `root` and `factor`: means and norms too

// The axes of the input, neighbours of one kind merged, so that kept and reduced ones take turns.
struct ReduceArgs {
  struct Axis {
    int64_t size, step;
  };
  std::vector<Axis> kept, reduced;  // without the last axis
  int64_t width = 1;                // of the last axis, which lies together
  bool last_reduced = true;
  ReduceKind kind = ReduceKind::kSum;
  float factor = 1;
  bool root = false, half = false;
};
struct ArgArgs {
  int64_t size, inner;
  bool smallest, last;  // of equal ones, the last
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

template <ReduceKind kKind>
HWY_INLINE V Start(D d) {
  return kKind == ReduceKind::kMax ? hn::Set(d, -INFINITY) : kKind == ReduceKind::kMin ? hn::Set(d, INFINITY) : hn::Zero(d);
}
// A NaN stays: the comparison of x86 gives its second operand then.
template <ReduceKind kKind>
HWY_INLINE V Step(D d, V acc, V v) {
  if constexpr (kKind == ReduceKind::kSum) return hn::Add(acc, v);
  if constexpr (kKind == ReduceKind::kAbsSum) return hn::Add(acc, hn::Abs(v));
  if constexpr (kKind == ReduceKind::kSquareSum) return hn::MulAdd(v, v, acc);
  (void)d;
  const V extreme = kKind == ReduceKind::kMax ? hn::Max(acc, v) : hn::Min(acc, v);
  return hn::IfThenElse(hn::IsNaN(acc), acc, hn::IfThenElse(hn::IsNaN(v), v, extreme));
}

// How partial results come together.
constexpr ReduceKind Joining(ReduceKind kind) { return kind == ReduceKind::kMax || kind == ReduceKind::kMin ? kind : ReduceKind::kSum; }

template <ReduceKind kKind>
HWY_INLINE float Together(D d, V acc) {
  if constexpr (kKind == ReduceKind::kMax || kKind == ReduceKind::kMin) {
    if (!hn::AllFalse(d, hn::IsNaN(acc))) return NAN;
    return hn::GetLane(kKind == ReduceKind::kMax ? hn::MaxOfLanes(d, acc) : hn::MinOfLanes(d, acc));
  } else {
    return hn::GetLane(hn::SumOfLanes(d, acc));
  }
}

// Calls f(offset) for every combination of the reduced axes.
template <class F>
HWY_INLINE void OverReduced(const ReduceArgs& a, F&& f) {
  int64_t count = 1;
  for (const auto& axis : a.reduced) count *= axis.size;
  if (a.reduced.size() == 1) {
    for (int64_t i = 0; i < count; ++i) f(i * a.reduced[0].step);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    int64_t at = 0, rest = i;
    for (size_t k = a.reduced.size(); k-- > 0; rest /= a.reduced[k].size) at += rest % a.reduced[k].size * a.reduced[k].step;
    f(at);
  }
}

HWY_INLINE V Finished(D d, const ReduceArgs& a, V acc) {
  acc = hn::Mul(acc, hn::Set(d, a.factor));
  return a.root ? hn::Sqrt(acc) : acc;
}

// One result: rows of `width` are added up whole.
template <class T, ReduceKind kKind>
HWY_INLINE void ReduceToOne(const ReduceArgs& a, const T* x, T* y) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  V acc[4] = {Start<kKind>(d), Start<kKind>(d), Start<kKind>(d), Start<kKind>(d)};
  const hn::Mask<D> all = FirstLanes(d, lanes);
  OverReduced(a, [&](int64_t offset) {
    const T* row = x + offset;
    int64_t i = 0;
    for (; i + 4 * lanes <= a.width; i += 4 * lanes)
      for (int k = 0; k < 4; ++k) acc[k] = Step<kKind>(d, acc[k], LoadChannels<true>(d, row + i + k * lanes, all));
    for (; i + lanes <= a.width; i += lanes) acc[0] = Step<kKind>(d, acc[0], LoadChannels<true>(d, row + i, all));
    if (i < a.width) {
      const hn::Mask<D> m = FirstLanes(d, a.width - i);
      acc[1] = Step<kKind>(d, acc[1], hn::IfThenElse(m, LoadChannels<false>(d, row + i, m), Start<kKind>(d)));
    }
  });
  const V both = Step<Joining(kKind)>(d, acc[0], acc[1]);
  const V rest = Step<Joining(kKind)>(d, acc[2], acc[3]);
  const float sum = Together<kKind>(d, Step<Joining(kKind)>(d, both, rest));
  StoreChannels<false>(d, Finished(d, a, hn::Set(d, sum)), y, FirstLanes(d, 1));
}

// A row of `width` results, a few vectors at a time.
template <class T, ReduceKind kKind>
HWY_INLINE void ReduceToRow(const ReduceArgs& a, const T* x, T* y) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const hn::Mask<D> all = FirstLanes(d, lanes);
  int64_t i = 0;
  for (; i + 4 * lanes <= a.width; i += 4 * lanes) {
    V acc[4] = {Start<kKind>(d), Start<kKind>(d), Start<kKind>(d), Start<kKind>(d)};
    OverReduced(a, [&](int64_t offset) {
      for (int k = 0; k < 4; ++k) acc[k] = Step<kKind>(d, acc[k], LoadChannels<true>(d, x + offset + i + k * lanes, all));
    });
    for (int k = 0; k < 4; ++k) StoreChannels<true>(d, Finished(d, a, acc[k]), y + i + k * lanes, all);
  }
  for (; i < a.width; i += lanes) {
    const hn::Mask<D> m = FirstLanes(d, a.width - i);
    V acc = Start<kKind>(d);
    OverReduced(a, [&](int64_t offset) { acc = Step<kKind>(d, acc, LoadChannels<false>(d, x + offset + i, m)); });
    StoreChannels<false>(d, Finished(d, a, acc), y + i, m);
  }
}

template <class T, ReduceKind kKind>
void ReduceOf(const ReduceArgs& a, const void* from, void* to, int64_t begin, int64_t end) {
  const T* x = static_cast<const T*>(from);
  T* y = static_cast<T*>(to);
  for (int64_t r = begin; r < end; ++r) {
    int64_t at = 0, rest = r;
    for (size_t k = a.kept.size(); k-- > 0; rest /= a.kept[k].size) at += rest % a.kept[k].size * a.kept[k].step;
    if (a.last_reduced) ReduceToOne<T, kKind>(a, x + at, y + r);
    else ReduceToRow<T, kKind>(a, x + at, y + r * a.width);
  }
}

// Combinations [begin, end) of the kept axes.
void Reduce(const ReduceArgs& a, const void* x, void* y, int64_t begin, int64_t end) {
  using K = ReduceKind;
  WithElements(a.half, [&]<class T>() {
    switch (a.kind) {
      case K::kSum: return ReduceOf<T, K::kSum>(a, x, y, begin, end);
      case K::kMax: return ReduceOf<T, K::kMax>(a, x, y, begin, end);
      case K::kMin: return ReduceOf<T, K::kMin>(a, x, y, begin, end);
      case K::kAbsSum: return ReduceOf<T, K::kAbsSum>(a, x, y, begin, end);
      case K::kSquareSum: return ReduceOf<T, K::kSquareSum>(a, x, y, begin, end);
    }
  });
}

// Place of the extreme of `size` elements that lie together. A NaN is greater than any number.
HWY_INLINE int64_t ExtremeOfRow(const ArgArgs& a, const float* x) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const V start = hn::Set(d, a.smallest ? INFINITY : -INFINITY);
  V top = start;
  hn::Mask<D> counts = hn::MaskFromVec(hn::Zero(d));  // NaNs for the greatest, numbers for the smallest
  int64_t i = 0;
  auto take = [&](V v, hn::Mask<D> m) {
    const auto nan = hn::IsNaN(v);
    counts = hn::Or(counts, a.smallest ? hn::AndNot(nan, m) : nan);
    v = hn::IfThenElse(hn::AndNot(nan, m), v, start);
    top = a.smallest ? hn::Min(top, v) : hn::Max(top, v);
  };
  for (; i + lanes <= a.size; i += lanes) take(hn::LoadU(d, x + i), FirstLanes(d, lanes));
  if (i < a.size) {
    const hn::Mask<D> m = FirstLanes(d, a.size - i);
    take(LoadMasked(m, d, x + i), m);
  }
  const bool seek_nan = hn::AllFalse(d, counts) == a.smallest;
  const V wanted = a.smallest ? hn::MinOfLanes(d, top) : hn::MaxOfLanes(d, top);
  int64_t found = 0;
  for (i = 0; i < a.size; i += lanes) {
    const hn::Mask<D> m = FirstLanes(d, a.size - i);
    const V v = LoadMasked(m, d, x + i);
    const auto hit = hn::And(m, seek_nan ? hn::IsNaN(v) : hn::Eq(v, wanted));
    if (hn::AllFalse(d, hit)) continue;
    if (!a.last) return i + hn::FindFirstTrue(d, hit);
    for (int64_t k = std::min(lanes, a.size - i); k-- > 0;) {
      const float e = x[i + k];
      if (seek_nan ? std::isnan(e) : e == hn::GetLane(wanted)) {
        found = i + k;
        break;
      }
    }
  }
  return found;
}

// A vector of neighbours, each along its own column.
HWY_INLINE void ExtremesOfColumns(const ArgArgs& a, const float* x, int64_t* y, int64_t count) {
  const D d;
  const hn::RebindToSigned<D> di;
  const hn::Mask<D> m = FirstLanes(d, count);
  V best = LoadMasked(m, d, x);
  auto place = hn::Zero(di);
  for (int64_t k = 1; k < a.size; ++k) {
    const V v = LoadMasked(m, d, x + k * a.inner);
    const auto nan = hn::IsNaN(v), best_nan = hn::IsNaN(best);
    auto better = a.smallest ? hn::Or(hn::Lt(v, best), hn::AndNot(nan, best_nan)) : hn::Or(hn::Gt(v, best), hn::AndNot(best_nan, nan));
    if (a.last) better = hn::Or(better, hn::Or(hn::Eq(v, best), hn::And(nan, best_nan)));
    best = hn::IfThenElse(better, v, best);
    place = hn::IfThenElse(hn::RebindMask(di, better), hn::Set(di, static_cast<int32_t>(k)), place);
  }
  HWY_ALIGN int32_t places[hn::MaxLanes(di)];
  hn::Store(place, di, places);
  for (int64_t i = 0; i < count; ++i) y[i] = places[i];
}

void ArgExtremes(const ArgArgs& a, const float* x, int64_t* y, int64_t begin, int64_t end) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(D()));
  for (int64_t o = begin; o < end; ++o) {
    const float* from = x + o * a.size * a.inner;
    if (a.inner == 1) {
      y[o] = ExtremeOfRow(a, from);
      continue;
    }
    for (int64_t i = 0; i < a.inner; i += lanes) ExtremesOfColumns(a, from + i, y + o * a.inner + i, std::min(lanes, a.inner - i));
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(Reduce);
HWY_EXPORT(ArgExtremes);

namespace {

std::vector<bool> reduced_axes(const KernelRequest& r) {
  std::vector<int64_t> axes;
  if (r.has_input(1)) axes = r.input(1).constant.to_i64();
  const bool all = axes.empty() && r.node.get_int("noop_with_empty_axes") == 0;
  std::vector<bool> reduced(r.in_shape().size(), all);
  for (int64_t axis : axes) reduced[normalize_axis(axis, static_cast<int64_t>(reduced.size()))] = true;
  return reduced;
}

class ReduceKernel : public Kernel {
 public:
  ReduceKernel(const KernelRequest& r, ReduceKind kind, bool mean, bool root) {
    args_.kind = kind;
    args_.root = root;
    args_.half = r.input(0).dtype == DType::kBF16;
    const std::vector<bool> reduced = reduced_axes(r);
    const Shape& x = r.in_shape();
    struct Merged {
      int64_t size;
      bool reduced;
    };
    std::vector<Merged> axes;
    for (size_t i = 0; i < x.size(); ++i) {
      if (x[i] == 1) continue;
      if (!axes.empty() && axes.back().reduced == reduced[i]) axes.back().size *= x[i];
      else axes.push_back({x[i], reduced[i]});
    }
    if (axes.empty()) axes.push_back({1, true});
    args_.width = axes.back().size;
    args_.last_reduced = axes.back().reduced;
    int64_t step = args_.width, count = args_.last_reduced ? args_.width : 1;
    for (size_t i = axes.size() - 1; i-- > 0;) {
      auto& list = axes[i].reduced ? args_.reduced : args_.kept;
      list.insert(list.begin(), {axes[i].size, step});
      step *= axes[i].size;
      (axes[i].reduced ? count : rows_) *= axes[i].size;
    }
    if (mean) args_.factor = 1 / static_cast<float>(count);
    work_ = count * (args_.last_reduced ? 1 : args_.width);
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    parallel_for(rows_, kParallelGrain * 4 / (work_ + 1) + 1, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(Reduce)(args_, in[0]->raw(), out[0]->raw(), begin, end);
    });
  }

 private:
  ReduceArgs args_;
  int64_t rows_ = 1, work_ = 1;
};

bool reduce_supported(const KernelRequest& r) {
  const DType type = r.input(0).dtype;
  return (type == DType::kF32 || type == DType::kBF16) && r.output().dtype == type &&
         (!r.has_input(1) || (r.input(1).is_constant() && r.input(1).constant.has_elements()));
}

template <ReduceKind kKind, bool kMean, bool kRoot>
KernelEntry reduce_entry() {
  return {"reduce", reduce_supported, [](const KernelRequest& r) -> std::unique_ptr<Kernel> { return std::make_unique<ReduceKernel>(r, kKind, kMean, kRoot); }};
}

class ArgExtreme : public Kernel {
 public:
  explicit ArgExtreme(const KernelRequest& r) {
    const Shape& x = r.in_shape();
    const int64_t axis = normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(x.size()));
    args_ = {x[axis], product(x, axis + 1, x.size()), r.node.op->name == "ArgMin", r.node.get_int("select_last_index") != 0};
    outer_ = product(x, 0, axis);
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    parallel_for(outer_, kParallelGrain * 2 / (args_.size * args_.inner) + 1, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(ArgExtremes)(args_, in[0]->data<float>(), out[0]->data<int64_t>(), begin, end);
    });
  }

 private:
  ArgArgs args_{};
  int64_t outer_ = 1;
};

// Sorts numbers of 64 bits: the order of an element's value above its place, so that of equal ones the first comes first.
class TopK : public Kernel {
 public:
  explicit TopK(const KernelRequest& r) : threads_(omp_get_max_threads()), largest_(r.node.get_int("largest") != 0) {
    const Shape& x = r.in_shape();
    const auto axis = static_cast<size_t>(normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(x.size())));
    outer_ = product(x, 0, axis);
    inner_ = product(x, axis + 1, x.size());
    size_ = x[axis];
    for (size_t i = 0; i < 2; ++i) wanted_[i] = i < r.node.outputs.size() && r.node.outputs[i];
    kept_ = r.out_shape(wanted_[0] ? 0 : 1)[axis];
  }
  size_t scratch_bytes() const override { return static_cast<size_t>(threads_ * size_) * sizeof(uint64_t); }

  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    const float* x = in[0]->data<float>();
    float* values = wanted_[0] ? out[0]->data<float>() : nullptr;
    int64_t* places = wanted_[1] ? out[1]->data<int64_t>() : nullptr;
    parallel_for(outer_ * inner_, kParallelGrain / (4 * size_ + 1) + 1, [&](int64_t begin, int64_t end) {
      uint64_t* keys = static_cast<uint64_t*>(scratch) + omp_get_thread_num() * size_;
      for (int64_t row = begin; row < end; ++row) {
        const float* from = x + row / inner_ * size_ * inner_ + row % inner_;
        for (int64_t i = 0; i < size_; ++i) keys[i] = static_cast<uint64_t>(order_of(from[i * inner_])) << 32 | static_cast<uint64_t>(i);
        if (kept_ < size_ / 8) {
          std::partial_sort(keys, keys + kept_, keys + size_);
        } else {
          if (kept_ < size_) std::nth_element(keys, keys + kept_, keys + size_);
          std::sort(keys, keys + kept_);
        }
        int64_t to = row / inner_ * kept_ * inner_ + row % inner_;
        for (int64_t i = 0; i < kept_; ++i, to += inner_) {
          const auto place = static_cast<int64_t>(keys[i] & 0xffffffffu);
          if (values) values[to] = from[place * inner_];
          if (places) places[to] = place;
        }
      }
    });
  }

 private:
  // Ascending; both zeros are equal, and what is no number is the greatest.
  uint32_t order_of(float v) const {
    uint32_t bits = 0, order = 0xffffffffu;
    v += 0.0f;
    std::memcpy(&bits, &v, sizeof bits);
    if (!std::isnan(v)) order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return largest_ ? ~order : order;
  }
  int64_t threads_, outer_ = 1, size_ = 1, inner_ = 1, kept_ = 0;
  bool largest_, wanted_[2] = {};
};

bool arg_supported(const KernelRequest& r) {
  return r.input(0).dtype == DType::kF32 && !r.in_shape().empty() &&
         r.in_shape()[normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(r.in_shape().size()))] < (int64_t{1} << 31);
}

}  // namespace

void register_reduce(KernelRegistry& r) {
  using K = ReduceKind;
  r.add("ReduceSum", "", reduce_entry<K::kSum, false, false>());
  r.add("ReduceMean", "", reduce_entry<K::kSum, true, false>());
  r.add("ReduceMax", "", reduce_entry<K::kMax, false, false>());
  r.add("ReduceMin", "", reduce_entry<K::kMin, false, false>());
  r.add("ReduceL1", "", reduce_entry<K::kAbsSum, false, false>());
  r.add("ReduceL2", "", reduce_entry<K::kSquareSum, false, true>());
  r.add("ReduceSumSquare", "", reduce_entry<K::kSquareSum, false, false>());
  r.add("TopK", "", {"f32.top_k", arg_supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<TopK>(q); }});
  for (const char* op : {"ArgMax", "ArgMin"})
    r.add(op, "", {"f32.arg", arg_supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<ArgExtreme>(q); }});
}

}  // namespace lathe
#endif
