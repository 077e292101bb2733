// Pooling and spatial means, channels-last, f32.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pool.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "kernels/kernel.h"

#ifndef LATHE_POOL_SHARED
#define LATHE_POOL_SHARED
namespace lathe {
// One output pixel: `rows` × `columns` input pixels from x on, `row_step` floats apart.
struct PoolWindow {
  const float* x;
  float* y;
  int64_t channels, rows, columns, row_step;
  float scale;  // average: 1/count
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

template <bool kMax>
void PoolPixel(const PoolWindow& p) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < p.channels; c += lanes) {
    auto m = hn::FirstN(d, static_cast<size_t>(std::min(lanes, p.channels - c)));
    V acc = kMax ? hn::Set(d, -INFINITY) : hn::Zero(d);
    for (int64_t r = 0; r < p.rows; ++r) {
      const float* line = p.x + r * p.row_step + c;
      for (int64_t k = 0; k < p.columns; ++k) {
        V v = hn::MaskedLoad(m, d, line + k * p.channels);
        if constexpr (kMax) acc = hn::IfThenElse(hn::Or(hn::Gt(v, acc), hn::IsNaN(v)), v, acc);
        else acc = hn::Add(acc, v);
      }
    }
    if constexpr (!kMax) acc = hn::Mul(acc, hn::Set(d, p.scale));
    hn::BlendedStore(acc, m, d, p.y + c);
  }
}

void MaxPixel(const PoolWindow& p) { PoolPixel<true>(p); }
void MeanPixel(const PoolWindow& p) { PoolPixel<false>(p); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(MaxPixel);
HWY_EXPORT(MeanPixel);

namespace {

class Pool : public Kernel {
 public:
  explicit Pool(const KernelRequest& r)
      : maximum_(r.node.get_string("kind") == "Max"), include_(r.node.get_int("count_include_pad") != 0),
        kernel_(r.node.get_ints("kernel_shape")), strides_(r.node.get_ints("strides")), pads_(r.node.get_ints("pads")) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const Shape &x = in[0]->shape(), &y = out[0]->shape();
    int64_t channels = x[3];
    parallel_for(y[0] * y[1], kParallelGrain / (y[2] * channels * kernel_[0] * kernel_[1] + 1) + 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        int64_t image = row / y[1], oy = row % y[1];
        auto [y0, y1] = range(oy, 0, x[1]);
        for (int64_t ox = 0; ox < y[2]; ++ox) {
          auto [x0, x1] = range(ox, 1, x[2]);
          int64_t count = include_ ? kernel_[0] * kernel_[1] : (y1 - y0) * (x1 - x0);
          PoolWindow p{in[0]->data<float>() + ((image * x[1] + y0) * x[2] + x0) * channels,
                       out[0]->data<float>() + (row * y[2] + ox) * channels, channels, y1 - y0, x1 - x0, x[2] * channels,
                       1.0f / static_cast<float>(count)};
          maximum_ ? HWY_DYNAMIC_DISPATCH(MaxPixel)(p) : HWY_DYNAMIC_DISPATCH(MeanPixel)(p);
        }
      }
    });
  }

 private:
  // The part of the window of output `o` along spatial axis `axis` that lies inside the image.
  std::pair<int64_t, int64_t> range(int64_t o, int axis, int64_t size) const {
    int64_t begin = o * strides_[axis] - pads_[axis], end = std::min(begin + kernel_[axis], size);
    begin = std::max<int64_t>(begin, 0);
    return {begin, std::max(end, begin)};
  }
  bool maximum_, include_;
  std::vector<int64_t> kernel_, strides_, pads_;
};

// Mean over axes 1 … k of [N, …, C]: the middle axes are one run of pixels.
class MiddleMean : public Kernel {
 public:
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const Shape& x = in[0]->shape();
    int64_t channels = x.back(), pixels = in[0]->size() / (x[0] * channels);
    for (int64_t n = 0; n < x[0]; ++n) {
      PoolWindow p{in[0]->data<float>() + n * pixels * channels, out[0]->data<float>() + n * channels, channels, 1, pixels, 0,
                   1.0f / static_cast<float>(pixels)};
      HWY_DYNAMIC_DISPATCH(MeanPixel)(p);
    }
  }
};

bool is_middle(const KernelRequest& r) {
  if (!r.all_f32_but_indices() || !r.has_input(1) || !r.input(1).is_constant()) return false;
  auto rank = static_cast<int64_t>(r.in_shape().size());
  std::vector<int64_t> axes = r.input(1).constant.to_i64();
  if (rank < 3 || static_cast<int64_t>(axes.size()) != rank - 2 || element_count(r.in_shape()) == 0) return false;
  for (int64_t& a : axes) a = normalize_axis(a, rank);
  std::sort(axes.begin(), axes.end());
  return axes.front() == 1 && axes.back() == rank - 2;
}

}  // namespace

void register_pool(KernelRegistry& r) {
  r.add("Pool", "ai.lathe", {"f32.pool", [](const KernelRequest& q) { return q.all_f32(); },
                             [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<Pool>(q); }});
  r.add("ReduceMean", "", {"f32.mean.spatial", is_middle, [](const KernelRequest&) -> std::unique_ptr<Kernel> {
          return std::make_unique<MiddleMean>();
        }});
}

}  // namespace lathe
#endif
