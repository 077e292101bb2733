// Pooling and spatial means, channels-last, f32 or bf16 with sums in f32.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pool.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "kernels/cpu/lanes-inl.h"

#ifndef LATHE_POOL_SHARED
#define LATHE_POOL_SHARED
namespace lathe {
struct PoolArgs {
  bool maximum, include_pad, native_half;
  int64_t height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
  const void* x;
  void* y;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// `rows` × `columns` pixels from x on, lines `line` elements apart, become one.
template <class T, bool kMax, bool kFull>
HWY_INLINE void PoolVector(D d, const T* x, int64_t rows, int64_t columns, int64_t line, int64_t channels, float scale, T* y, hn::Mask<D> m) {
  V acc = kMax ? hn::Set(d, -INFINITY) : hn::Zero(d);
  hn::Mask<D> invalid = hn::MaskFromVec(hn::Zero(d));
  for (int64_t r = 0; r < rows; ++r, x += line)
    for (int64_t k = 0; k < columns; ++k) {
      const V v = LoadChannels<kFull>(d, x + k * channels, m);
      if constexpr (kMax) {
        acc = hn::Max(acc, v);
        invalid = hn::Or(invalid, hn::IsNaN(v));
      } else {
        acc = hn::Add(acc, v);
      }
    }
  if constexpr (kMax) acc = hn::IfThenElse(invalid, hn::Set(d, NAN), acc);
  else acc = hn::Mul(acc, hn::Set(d, scale));
  StoreChannels<kFull>(d, acc, y, m);
}

template <class T, bool kMax>
HWY_INLINE void PoolPixel(const T* x, int64_t rows, int64_t columns, int64_t line, int64_t channels, float scale, T* y) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + lanes <= channels; c += lanes) PoolVector<T, kMax, true>(d, x + c, rows, columns, line, channels, scale, y + c, FirstLanes(d, lanes));
  if (c < channels) PoolVector<T, kMax, false>(d, x + c, rows, columns, line, channels, scale, y + c, FirstLanes(d, channels - c));
}

template <class T, bool kMax>
void PoolRows(const PoolArgs& p, int64_t begin, int64_t end) {
  const int64_t line = p.width * p.channels;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t image = row / p.out_height, top = row % p.out_height * p.stride_h - p.pad_top;
    const int64_t y0 = std::max<int64_t>(top, 0), y1 = std::max(y0, std::min(top + p.kernel_h, p.height));
    const T* from = static_cast<const T*>(p.x) + (image * p.height + y0) * line;
    T* to = static_cast<T*>(p.y) + row * p.out_width * p.channels;
    for (int64_t ox = 0; ox < p.out_width; ++ox, to += p.channels) {
      const int64_t left = ox * p.stride_w - p.pad_left;
      const int64_t x0 = std::max<int64_t>(left, 0), x1 = std::max(x0, std::min(left + p.kernel_w, p.width));
      const int64_t count = p.include_pad ? p.kernel_h * p.kernel_w : (y1 - y0) * (x1 - x0);
      PoolPixel<T, kMax>(from + x0 * p.channels, y1 - y0, x1 - x0, line, p.channels, 1.0f / static_cast<float>(count), to);
    }
  }
}

void PoolFloat(const PoolArgs& p, int64_t begin, int64_t end) {
  p.maximum ? PoolRows<float, true>(p, begin, end) : PoolRows<float, false>(p, begin, end);
}
void PoolHalf(const PoolArgs& p, int64_t begin, int64_t end) {
  if (p.native_half) return p.maximum ? PoolRows<NativeHalf, true>(p, begin, end) : PoolRows<NativeHalf, false>(p, begin, end);
  p.maximum ? PoolRows<uint16_t, true>(p, begin, end) : PoolRows<uint16_t, false>(p, begin, end);
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(PoolFloat);
HWY_EXPORT(PoolHalf);

namespace {

class Pool : public Kernel {
 public:
  explicit Pool(const PoolArgs& args) : args_(args) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const PoolArgs& p = args_;
    args_.x = in[0]->raw();
    args_.y = out[0]->raw();
    const int64_t rows = out[0]->size() / (p.out_width * p.channels), work = p.out_width * p.channels * p.kernel_h * p.kernel_w;
    const bool half = in[0]->dtype() == DType::kBF16;
    parallel_for(rows, kParallelGrain / (work + 1) + 1, [&](int64_t begin, int64_t end) {
      half ? HWY_DYNAMIC_DISPATCH(PoolHalf)(p, begin, end) : HWY_DYNAMIC_DISPATCH(PoolFloat)(p, begin, end);
    });
  }

 private:
  PoolArgs args_;
};

std::unique_ptr<Kernel> make_pool(const KernelRequest& r) {
  const Shape &x = r.in_shape(), &y = r.out_shape();
  const auto &kernel = r.node.get_ints("kernel_shape"), &strides = r.node.get_ints("strides"), &pads = r.node.get_ints("pads");
  return std::make_unique<Pool>(PoolArgs{r.node.get_string("kind") == "Max", r.node.get_int("count_include_pad") != 0, has_bf16_instructions(), x[1], x[2], x[3], y[1], y[2],
                                         kernel[0], kernel[1], strides[0], strides[1], pads[0], pads[1], nullptr, nullptr});
}

// Mean over axes 1 … k of [N, …, C]: the middle axes are one run of pixels, under one window.
std::unique_ptr<Kernel> make_mean(const KernelRequest& r) {
  const int64_t channels = r.in_shape().back(), pixels = element_count(r.in_shape()) / (r.in_shape()[0] * channels);
  return std::make_unique<Pool>(PoolArgs{false, false, has_bf16_instructions(), 1, pixels, channels, 1, 1, 1, pixels, 1, 1, 0, 0, nullptr, nullptr});
}

bool one_type(const KernelRequest& r) {
  DType type = r.input(0).dtype;
  return (type == DType::kF32 || type == DType::kBF16) && r.output().dtype == type;
}

bool is_middle(const KernelRequest& r) {
  if (!one_type(r) || !r.has_input(1) || !r.input(1).is_constant() || !r.input(1).constant.has_elements()) return false;
  auto rank = static_cast<int64_t>(r.in_shape().size());
  std::vector<int64_t> axes = r.input(1).constant.to_i64();
  if (rank < 3 || static_cast<int64_t>(axes.size()) != rank - 2 || element_count(r.in_shape()) == 0) return false;
  for (int64_t& a : axes) a = normalize_axis(a, rank);
  std::sort(axes.begin(), axes.end());
  return axes.front() == 1 && axes.back() == rank - 2;
}

}  // namespace

void register_pool(KernelRegistry& r) {
  r.add("Pool", "ai.lathe", {"pool", one_type, make_pool});
  r.add("ReduceMean", "", {"mean.spatial", is_middle, make_mean});
}

}  // namespace lathe
#endif
