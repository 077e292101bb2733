// Resize by linear or cubic interpolation, with or without antialiasing, along one axis or two that are neighbours, in
// any layout: each output row is first a weighted sum of input rows, in the first-level cache, and its elements are
// then weighted sums of that. f32, or bf16 with sums in f32. (Nearest: table_copy.cpp.)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/resize.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>

#include "core/parallel.h"
#include "graph/ops/resample.h"
#include "graph/ops/resize.h"
#include "kernels/cpu/lanes-inl.h"

#ifndef LATHE_RESIZE_SHARED
#define LATHE_RESIZE_SHARED
namespace lathe {
// For each output position the same number of taps: its index and weight.
struct ResizeTaps {
  int64_t count = 1;  // a position
  std::vector<int32_t> index;
  std::vector<float> weight;
};
struct ResizeArgs {
  ResizeTaps rows, columns;
  int64_t in_rows, in_columns, out_rows, out_columns, inner;
  bool half;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// sum[i] = Σ weight·row(index)[i]
template <class T>
HWY_INLINE void BlendRows(const T* x, int64_t step, const int32_t* index, const float* weight, int64_t taps, int64_t count, float* sum) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  auto part = [&]<bool kWhole>(int64_t i, hn::Mask<D> m) {
    V acc = hn::Mul(hn::Set(d, weight[0]), LoadChannels<kWhole>(d, x + index[0] * step + i, m));
    for (int64_t t = 1; t < taps; ++t) acc = hn::MulAdd(hn::Set(d, weight[t]), LoadChannels<kWhole>(d, x + index[t] * step + i, m), acc);
    StoreChannels<kWhole>(d, acc, sum + i, m);
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) part.template operator()<true>(i, FirstLanes(d, lanes));
  if (i < count) part.template operator()<false>(i, FirstLanes(d, count - i));
}

template <class T>
HWY_INLINE void BlendColumns(const float* row, const ResizeArgs& a, T* y) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t taps = a.columns.count;
  const int32_t* index = a.columns.index.data();
  const float* weight = a.columns.weight.data();
  if (a.inner == 1) {  // elements of the row stand apart
    // Taps of a position lie together: a vector of positions finds its own at that distance.
    const hn::RebindToSigned<D> di;
    const auto places = hn::Mul(hn::Iota(di, 0), hn::Set(di, static_cast<int32_t>(taps)));
    int64_t i = 0;
    for (; i + lanes <= a.out_columns; i += lanes) {
      V acc = hn::Zero(d);
      for (int64_t t = 0; t < taps; ++t) {
        const auto at = hn::GatherIndex(di, index + i * taps + t, places);
        acc = hn::MulAdd(hn::GatherIndex(d, weight + i * taps + t, places), hn::GatherIndex(d, row, at), acc);
      }
      StoreChannels<true>(d, acc, y + i, FirstLanes(d, lanes));
    }
    for (; i < a.out_columns; ++i) {
      float sum = 0;
      for (int64_t t = 0; t < taps; ++t) sum += weight[i * taps + t] * row[index[i * taps + t]];
      StoreChannels<false>(d, hn::Set(d, sum), y + i, FirstLanes(d, 1));
    }
    return;
  }
  for (int64_t p = 0; p < a.out_columns; ++p, index += taps, weight += taps, y += a.inner) {
    auto part = [&]<bool kWhole>(int64_t i, hn::Mask<D> m) {
      V acc = hn::Mul(hn::Set(d, weight[0]), LoadChannels<kWhole>(d, row + index[0] * a.inner + i, m));
      for (int64_t t = 1; t < taps; ++t) acc = hn::MulAdd(hn::Set(d, weight[t]), LoadChannels<kWhole>(d, row + index[t] * a.inner + i, m), acc);
      StoreChannels<kWhole>(d, acc, y + i, m);
    };
    int64_t i = 0;
    for (; i + lanes <= a.inner; i += lanes) part.template operator()<true>(i, FirstLanes(d, lanes));
    if (i < a.inner) part.template operator()<false>(i, FirstLanes(d, a.inner - i));
  }
}

// Output rows [begin, end) over all pictures.
void ResizeRows(const ResizeArgs& a, const void* from, void* to, int64_t begin, int64_t end, float* row) {
  WithElements(a.half, [&]<class T>() {
    const int64_t line = a.in_columns * a.inner;
    for (int64_t r = begin; r < end; ++r) {
      const int64_t image = r / a.out_rows, at = r % a.out_rows * a.rows.count;
      const T* x = static_cast<const T*>(from) + image * a.in_rows * line;
      BlendRows(x, line, a.rows.index.data() + at, a.rows.weight.data() + at, a.rows.count, line, row);
      BlendColumns(row, a, static_cast<T*>(to) + r * a.out_columns * a.inner);
    }
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(ResizeRows);

namespace {

// Positions at the border have fewer taps than others: their last one is given in halves, which is exact, where a
// weight of zero would make a NaN of an infinity.
ResizeTaps taps_of(const ops::AxisResampler* sampler, int64_t out) {
  std::vector<std::vector<ops::ResampleTap>> all(out);
  ResizeTaps made;
  for (int64_t i = 0; i < out; ++i) {
    all[i] = sampler ? sampler->taps(i) : std::vector<ops::ResampleTap>{{i, 1}};
    made.count = std::max(made.count, static_cast<int64_t>(all[i].size()));
  }
  for (auto& taps : all) {
    while (static_cast<int64_t>(taps.size()) < made.count) {
      taps.back().weight /= 2;
      taps.push_back(taps.back());
    }
    for (const ops::ResampleTap& tap : taps) {
      made.index.push_back(static_cast<int32_t>(tap.index));
      made.weight.push_back(static_cast<float>(tap.weight));
    }
  }
  return made;
}

const Tensor* given(const KernelRequest& r, size_t i) { return r.has_input(i) && r.input(i).constant.size() > 0 ? &r.input(i).constant : nullptr; }

// The axes that change.
std::vector<int64_t> changed(const KernelRequest& r, const ops::ResizePlan& plan) {
  std::vector<int64_t> axes;
  for (int64_t axis : plan.axes)
    if (plan.outputs[axis] != r.in_shape()[axis] || plan.scales[axis] != 1.0f) axes.push_back(axis);
  std::sort(axes.begin(), axes.end());
  return axes;
}

class Resize : public Kernel {
 public:
  explicit Resize(const KernelRequest& r) : threads_(omp_get_max_threads()) {
    const Shape& x = r.in_shape();
    const ops::ResizePlan plan = ops::resize_plan(r.node, x, given(r, 2), given(r, 3));
    const std::vector<int64_t> axes = changed(r, plan);
    const int64_t last = axes.empty() ? static_cast<int64_t>(x.size()) - 1 : axes.back();
    auto sampler = [&](int64_t axis) { return ops::AxisResampler(r.node, x[axis], plan.outputs[axis], plan.scales[axis], 0, 1); };
    args_.half = r.input(0).dtype == DType::kBF16;
    args_.inner = product(x, last + 1, x.size());
    args_.in_columns = x[last];
    args_.out_columns = plan.outputs[last];
    const auto columns = sampler(last);
    args_.columns = taps_of(axes.empty() ? nullptr : &columns, args_.out_columns);
    args_.in_rows = args_.out_rows = 1;
    if (axes.size() == 2) {
      args_.in_rows = x[axes[0]];
      args_.out_rows = plan.outputs[axes[0]];
      const auto rows = sampler(axes[0]);
      args_.rows = taps_of(&rows, args_.out_rows);
    } else {
      args_.rows = taps_of(nullptr, 1);
    }
  }
  size_t scratch_bytes() const override { return static_cast<size_t>(threads_ * row_floats()) * sizeof(float); }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    const int64_t width = args_.out_columns * args_.inner, rows = out[0]->size() / width;
    const int64_t work = (width * args_.columns.count + args_.in_columns * args_.inner * args_.rows.count) / 4;
    parallel_for(rows, kParallelGrain / (work + 1) + 1, [&](int64_t begin, int64_t end) {
      float* row = static_cast<float*>(scratch) + omp_get_thread_num() * row_floats();
      HWY_DYNAMIC_DISPATCH(ResizeRows)(args_, in[0]->raw(), out[0]->raw(), begin, end, row);
    });
  }

 private:
  int64_t row_floats() const { return (args_.in_columns * args_.inner + 15) / 16 * 16; }
  int64_t threads_;
  ResizeArgs args_{};
};

bool supported(const KernelRequest& r) {
  const DType type = r.input(0).dtype;
  if ((type != DType::kF32 && type != DType::kBF16) || r.in_shape().empty()) return false;
  const std::string& mode = r.node.get_string("mode");
  if ((mode != "linear" && mode != "cubic") || r.node.get_string("coordinate_transformation_mode") == "tf_crop_and_resize") return false;
  for (size_t i : {2, 3})
    if (r.has_input(i) && (!r.input(i).is_constant() || !r.input(i).constant.has_elements())) return false;
  if (!given(r, 2) == !given(r, 3)) return false;
  const std::vector<int64_t> axes = changed(r, ops::resize_plan(r.node, r.in_shape(), given(r, 2), given(r, 3)));
  for (int64_t axis : axes)
    if (r.in_shape()[axis] > (1 << 24) || r.out_shape()[axis] > (1 << 24)) return false;  // as 32-bit indices, with room
  return axes.size() < 2 || (axes.size() == 2 && axes[1] == axes[0] + 1);
}

}  // namespace

void register_resize(KernelRegistry& r) {
  r.add("Resize", "", {"resize.blend", supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<Resize>(q); }});
}

}  // namespace lathe
#endif
