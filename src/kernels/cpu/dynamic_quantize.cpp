// DynamicQuantizeLinear: f32 to codes of u8 whose range is that of the tensor, with zero in it.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/dynamic_quantize.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "kernels/cpu/integer-inl.h"
#include "kernels/kernel.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// Widens [range[0], range[1]] to hold the elements; what is no number counts as zero.
void WidenRange(const float* x, int64_t count, float* range) {
  const DF d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  VF low = hn::Set(d, range[0]), high = hn::Set(d, range[1]);
  auto take = [&](VF v) {
    v = hn::IfThenZeroElse(hn::IsNaN(v), v);
    low = hn::Min(low, v);
    high = hn::Max(high, v);
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) take(hn::LoadU(d, x + i));
  if (i < count) take(LoadMasked(hn::FirstN(d, static_cast<size_t>(count - i)), d, x + i));
  range[0] = hn::GetLane(hn::MinOfLanes(d, low));
  range[1] = hn::GetLane(hn::MaxOfLanes(d, high));
}

void ToCodes(const float* x, int64_t count, float scale, float zero, uint8_t* y) {
  const DF d;
  const hn::Rebind<uint8_t, DI> d8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const VF s = hn::Set(d, scale), z = hn::Set(d, zero), least = hn::Zero(d), most = hn::Set(d, 255.0f);
  auto codes = [&](VF v) {
    const VF sum = hn::Add(hn::Round(hn::Div(v, s)), z), code = hn::IfThenElse(hn::IsNaN(sum), z, sum);
    return LowBytes(hn::ConvertTo(DI(), hn::Min(hn::Max(code, least), most)));
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) hn::StoreU(codes(hn::LoadU(d, x + i)), d8, y + i);
  if (i == count) return;
  const auto left = static_cast<size_t>(count - i);
  StoreMasked(codes(LoadMasked(hn::FirstN(d, left), d, x + i)), hn::FirstN(d8, left), d8, y + i);
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(WidenRange);
HWY_EXPORT(ToCodes);

namespace {

class DynamicQuantize : public Kernel {
 public:
  explicit DynamicQuantize(const KernelRequest& r) : threads_(omp_get_max_threads()) {
    for (size_t i = 0; i < 3; ++i) wanted_[i] = i < r.node.outputs.size() && r.node.outputs[i];
  }
  size_t scratch_bytes() const override { return static_cast<size_t>(threads_) * kApart; }

  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    const float* x = in[0]->data<float>();
    auto range = [&](int64_t thread) { return reinterpret_cast<float*>(static_cast<char*>(scratch) + thread * kApart); };
    for (int64_t t = 0; t < threads_; ++t) std::fill_n(range(t), 2, 0.0f);
    parallel_for(in[0]->size(), kParallelGrain, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(WidenRange)(x + begin, end - begin, range(omp_get_thread_num()));
    });
    float low = 0, high = 0;
    for (int64_t t = 0; t < threads_; ++t) {
      low = std::min(low, range(t)[0]);
      high = std::max(high, range(t)[1]);
    }
    // As the standard's function says, in f32 throughout.
    const float scale = high == low ? 1.0f : (high - low) / 255.0f;
    const float exact = std::nearbyint(std::clamp(-low / scale, 0.0f, 255.0f)), zero = std::isnan(exact) ? 0.0f : exact;
    parallel_for(in[0]->size(), kParallelGrain, [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(ToCodes)(x + begin, end - begin, scale, zero, out[0]->data<uint8_t>() + begin);
    });
    if (wanted_[1]) out[1]->data<float>()[0] = scale;
    if (wanted_[2]) out[2]->data<uint8_t>()[0] = static_cast<uint8_t>(zero);
  }

 private:
  static constexpr int64_t kApart = 64;  // a thread's range in a cache line of its own
  int64_t threads_;
  bool wanted_[3] = {};
};

}  // namespace

void register_dynamic_integer(KernelRegistry& r) {
  r.add("DynamicQuantizeLinear", "", {"quantize.dynamic", [](const KernelRequest& q) { return q.input(0).dtype == DType::kF32 && bool(q.node.outputs[0]); },
                                      [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<DynamicQuantize>(q); }});
}

}  // namespace lathe
#endif
