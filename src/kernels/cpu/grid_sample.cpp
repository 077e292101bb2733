// GridSample on pictures in f32, linear and nearest: where a point's neighbours stand and what they weigh is worked out
// once for a run of points, in f64 as the reference kernel does, and then gathered in every channel.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/grid_sample.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "kernels/cpu/lanes-inl.h"

#ifndef LATHE_GRID_SAMPLE_SHARED
#define LATHE_GRID_SAMPLE_SHARED
namespace lathe {
constexpr int64_t kGridRun = 128;  // points: 4 KiB of taps beside the channel's pixels
// Neighbours of a run of points, by neighbour: where they stand in a channel, −1 outside the picture, and their weights.
struct GridTaps {
  alignas(64) int32_t at[4][kGridRun];
  alignas(64) float weight[4][kGridRun];
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// The first `count` points of the run in `channels` channels, `in_step` and `out_step` elements apart.
void GridRun(const GridTaps& taps, int neighbours, int64_t count, const float* x, int64_t channels, int64_t in_step, float* y, int64_t out_step) {
  const D d;
  const hn::RebindToSigned<D> di;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < channels; ++c, x += in_step, y += out_step)
    for (int64_t i = 0; i < count; i += lanes) {
      V sum = hn::Zero(d);
      for (int k = 0; k < neighbours; ++k) {
        const auto at = hn::Load(di, taps.at[k] + i);
        const V pixels = hn::GatherIndex(d, x, hn::Max(at, hn::Zero(di)));
        const auto inside = hn::RebindMask(d, hn::Gt(at, hn::Set(di, -1)));
        sum = hn::Add(sum, hn::IfThenElseZero(inside, hn::Mul(hn::Load(d, taps.weight[k] + i), pixels)));
      }
      if (i + lanes <= count) hn::StoreU(sum, d, y + i);
      else StoreMasked(sum, FirstLanes(d, count - i), d, y + i);
    }
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(GridRun);

namespace {

bool linear(const Node& n) { return n.get_string("mode") == "linear" || n.get_string("mode") == "bilinear"; }

class GridSample : public Kernel {
 public:
  explicit GridSample(const KernelRequest& r)
      : x_(r.in_shape()), points_(product(r.out_shape(), 2, 4)), linear_(linear(r.node)), align_(r.node.get_int("align_corners") != 0),
        border_(r.node.get_string("padding_mode") == "border") {}

  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const float *x = in[0]->data<float>(), *grid = in[1]->data<float>();
    float* y = out[0]->data<float>();
    const int64_t channels = x_[1], plane = x_[2] * x_[3], runs = (points_ + kGridRun - 1) / kGridRun;
    parallel_for(x_[0] * runs, kParallelGrain / (kGridRun * (channels + 8)) + 1, [&](int64_t begin, int64_t end) {
      GridTaps taps;
      for (int64_t r = begin; r < end; ++r) {
        const int64_t n = r / runs, first = r % runs * kGridRun, count = std::min(kGridRun, points_ - first);
        for (int64_t i = 0; i < kGridRun; ++i) {
          if (i < count) point(grid + (n * points_ + first + i) * 2, i, taps);
          else
            for (int k = 0; k < 4; ++k) taps.at[k][i] = -1, taps.weight[k][i] = 0;
        }
        HWY_DYNAMIC_DISPATCH(GridRun)(taps, linear_ ? 4 : 1, count, x + n * channels * plane, channels, plane, y + n * channels * points_ + first, points_);
      }
    });
  }

 private:
  // Two neighbours along an axis of `size` pixels, −1 outside, and the weight of the second.
  struct Axis {
    int64_t at[2];
    double second;
  };
  Axis axis(double coordinate, int64_t size) const {
    const auto extent = static_cast<double>(size), last = extent - 1;
    double x = align_ ? (coordinate + 1) / 2 * last : ((coordinate + 1) * extent - 1) / 2;
    x = std::isnan(x) ? -2 : std::clamp(x, -1e12, 1e12);  // not a number is far outside
    if (!linear_) x = std::nearbyint(x);
    const double edge = align_ ? 0 : 0.5;
    if (border_ && (x < -edge || x > last + edge)) x = std::clamp(x, 0.0, last);
    const double base = std::floor(x);
    auto pixel = [&](double p) {
      if (border_) p = std::clamp(p, 0.0, last);
      return p < 0 || p > last ? int64_t{-1} : static_cast<int64_t>(p);
    };
    return {{pixel(base), pixel(base + 1)}, x - base};
  }

  void point(const float* xy, int64_t i, GridTaps& taps) const {
    const Axis h = axis(xy[0], x_[3]), v = axis(xy[1], x_[2]);
    for (int k = 0; k < (linear_ ? 4 : 1); ++k) {
      const int64_t row = v.at[k / 2], column = h.at[k % 2];
      taps.at[k][i] = row < 0 || column < 0 ? -1 : static_cast<int32_t>(row * x_[3] + column);
      taps.weight[k][i] = static_cast<float>((k / 2 ? v.second : 1 - v.second) * (k % 2 ? h.second : 1 - h.second));
    }
  }

  Shape x_;
  int64_t points_;
  bool linear_, align_, border_;
};

bool supported(const KernelRequest& r) {
  const Node& n = r.node;
  const std::string& padding = n.get_string("padding_mode");
  return r.all_f32() && r.in_shape().size() == 4 && r.in_shape()[2] * r.in_shape()[3] < (int64_t{1} << 31) &&
         (linear(n) || n.get_string("mode") == "nearest") && (padding == "zeros" || padding == "border");
}

}  // namespace

void register_grid_sample(KernelRegistry& r) {
  r.add("GridSample", "", {"f32.grid_sample", supported, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<GridSample>(q); }});
}

}  // namespace lathe
#endif
