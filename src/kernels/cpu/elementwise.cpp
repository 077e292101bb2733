// Elementwise operators: activations, and binary arithmetic with broadcasting. f32, or bf16 that is widened, computed
// on in f32 and rounded once.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "kernels/cpu/broadcast.h"
#include "kernels/cpu/lanes-inl.h"
#include "kernels/cpu/wave.h"
#include "kernels/kernel.h"

#ifndef LATHE_ELEMENTWISE_SHARED
#define LATHE_ELEMENTWISE_SHARED
namespace lathe {
enum class BinaryKind { kAdd, kSub, kMul, kDiv, kMax, kMin, kPow, kPRelu };
enum class UnaryKind { kAbs, kNeg, kSqrt, kReciprocal, kExp, kLog, kFloor, kCeil, kRound, kErf, kSin, kCos, kSign, kSoftplus, kSoftsign };
// Rows of `width` elements; an operand's step inside a row is 1 or 0 (one value for the row).
struct BinaryRow {
  const void *a, *b;
  void* y;
  int64_t width;
  bool a_single, b_single;
};
}  // namespace lathe
#endif

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

template <class T, class F>
HWY_INLINE void ForEach(const void* from, void* to, int64_t count, F f) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const hn::Mask<D> all = FirstLanes(d, lanes);
  const T* x = static_cast<const T*>(from);
  T* y = static_cast<T*>(to);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) StoreChannels<true>(d, f(d, LoadChannels<true>(d, x + i, all)), y + i, all);
  if (i < count) {
    const hn::Mask<D> m = FirstLanes(d, count - i);
    StoreChannels<false>(d, f(d, LoadChannels<false>(d, x + i, m)), y + i, m);
  }
}

void ActivateSpan(const void* x, void* y, int64_t count, bool half, ActivationSpec spec) {
  WithElements(half, [&]<class T>() {
    WithActivation(spec.kind, [&]<ActivationKind kKind>() {
      const D d0;
      const V alpha = hn::Set(d0, spec.alpha), beta = hn::Set(d0, spec.beta);
      ForEach<T>(x, y, count, [&](D d, V v) { return Activate<kKind>(d, v, alpha, beta); });
    });
  });
}

void StarReluSpan(const void* x, void* y, int64_t count, bool half, float scale, float bias) {
  WithElements(half, [&]<class T>() {
    const D d0;
    const V a = hn::Set(d0, scale), b = hn::Set(d0, bias);
    ForEach<T>(x, y, count, [&](D d, V v) {
      const V r = Activate<ActivationKind::kRelu>(d, v, a, b);
      return hn::MulAdd(hn::Mul(r, r), a, b);
    });
  });
}

// Of zero −∞, of negative numbers none.
HWY_INLINE V LogOrNone(D d, V v) {
  const V zero = hn::Zero(d), infinity = hn::Set(d, INFINITY);
  V y = hn::Log(d, hn::IfThenElse(hn::And(hn::Gt(v, zero), hn::Lt(v, infinity)), v, hn::Set(d, 1.0f)));
  y = hn::IfThenElse(hn::Eq(v, zero), hn::Neg(infinity), hn::IfThenElse(hn::Eq(v, infinity), v, y));
  return hn::IfThenElse(hn::Or(hn::IsNaN(v), hn::Lt(v, zero)), hn::Set(d, NAN), y);
}

// Calls f on each lane of x and y: for functions that have no fast form for every argument.
template <class F>
HWY_INLINE V ByLane(D d, V x, V y, F f) {
  HWY_ALIGN float a[hn::MaxLanes(D())], b[hn::MaxLanes(D())];
  hn::Store(x, d, a);
  hn::Store(y, d, b);
  for (size_t i = 0; i < hn::Lanes(d); ++i) a[i] = f(a[i], b[i]);
  return hn::Load(d, a);
}

// Highway's sine and cosine reduce their argument in three steps, which hold up to some ten thousand.
constexpr float kLargestAngle = 8192;
template <class F, class G>
HWY_INLINE V Angle(D d, V v, F fast, G slow) {
  if (HWY_LIKELY(hn::AllTrue(d, hn::Lt(hn::Abs(v), hn::Set(d, kLargestAngle))))) return fast(d, v);
  return ByLane(d, v, v, [&](float x, float) { return slow(x); });
}

template <class T>
void UnaryOf(const void* x, void* y, int64_t count, UnaryKind kind) {
  switch (kind) {
    case UnaryKind::kAbs: return ForEach<T>(x, y, count, [](D, V v) { return hn::Abs(v); });
    case UnaryKind::kNeg: return ForEach<T>(x, y, count, [](D, V v) { return hn::Neg(v); });
    case UnaryKind::kSqrt: return ForEach<T>(x, y, count, [](D, V v) { return hn::Sqrt(v); });
    case UnaryKind::kReciprocal: return ForEach<T>(x, y, count, [](D d, V v) { return hn::Div(hn::Set(d, 1.0f), v); });
    case UnaryKind::kExp: return ForEach<T>(x, y, count, [](D d, V v) {
        V e = hn::IfThenElse(hn::Gt(v, hn::Set(d, 88.3f)), hn::Exp(d, v), FastExp(d, v));
        e = hn::IfThenZeroElse(hn::Lt(v, hn::Set(d, -103.97f)), e);
        return hn::IfThenElse(hn::IsNaN(v), v, e);
      });
    case UnaryKind::kFloor: return ForEach<T>(x, y, count, [](D, V v) { return hn::Floor(v); });
    case UnaryKind::kCeil: return ForEach<T>(x, y, count, [](D, V v) { return hn::Ceil(v); });
    case UnaryKind::kRound: return ForEach<T>(x, y, count, [](D, V v) { return hn::Round(v); });
    case UnaryKind::kLog: return ForEach<T>(x, y, count, [](D d, V v) { return LogOrNone(d, v); });
    case UnaryKind::kSin: return ForEach<T>(x, y, count, [](D d0, V v0) {
        return Angle(d0, v0, [](D d, V v) { return hn::Sin(d, v); }, [](float v) { return std::sin(v); });
      });
    case UnaryKind::kCos: return ForEach<T>(x, y, count, [](D d0, V v0) {
        return Angle(d0, v0, [](D d, V v) { return hn::Cos(d, v); }, [](float v) { return std::cos(v); });
      });
    case UnaryKind::kSign: return ForEach<T>(x, y, count, [](D d, V v) {
        const V zero = hn::Zero(d), one = hn::Set(d, 1.0f);
        return hn::IfThenElse(hn::IsNaN(v), v, hn::Sub(hn::IfThenElseZero(hn::Gt(v, zero), one), hn::IfThenElseZero(hn::Lt(v, zero), one)));
      });
    case UnaryKind::kSoftplus: return ForEach<T>(x, y, count, [](D d, V v) {  // max(x, 0) + ln(1 + e^−|x|)
        const V tail = hn::Log1p(d, FastExp(d, hn::Neg(hn::Abs(v))));
        return hn::IfThenElse(hn::IsNaN(v), v, hn::Add(hn::Max(v, hn::Zero(d)), tail));
      });
    case UnaryKind::kSoftsign: return ForEach<T>(x, y, count, [](D d, V v) { return hn::Div(v, hn::Add(hn::Set(d, 1.0f), hn::Abs(v))); });
    case UnaryKind::kErf: return ForEach<T>(x, y, count, [](D d, V v) { return hn::IfThenElse(hn::IsNaN(v), v, FastErf(d, v)); });
  }
}
void UnarySpan(const void* x, void* y, int64_t count, bool half, UnaryKind kind) {
  WithElements(half, [&]<class T>() { UnaryOf<T>(x, y, count, kind); });
}

HWY_INLINE V Spread(D d, const float* p) { return hn::Set(d, *p); }
HWY_INLINE V Spread(D d, const uint16_t* p) { return hn::Set(d, to_float(BF16{*p})); }
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
HWY_INLINE V Spread(D d, const NativeHalf* p) { return hn::Set(d, to_float(BF16{p->bits})); }
#endif

template <class T, class F>
HWY_INLINE void Row(const BinaryRow& r, F f) {
  const D d;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  const T *a = static_cast<const T*>(r.a), *b = static_cast<const T*>(r.b);
  T* y = static_cast<T*>(r.y);
  // Calls read<whole>(index, mask) for each vector of the row and stores what it gives.
  auto fill = [&](auto read) {
    const hn::Mask<D> all = FirstLanes(d, lanes);
    int64_t i = 0;
    for (; i + lanes <= r.width; i += lanes) StoreChannels<true>(d, read.template operator()<true>(i, all), y + i, all);
    if (i < r.width) {
      const hn::Mask<D> m = FirstLanes(d, r.width - i);
      StoreChannels<false>(d, read.template operator()<false>(i, m), y + i, m);
    }
  };
  if (r.a_single && r.b_single) {
    const V v = f(Spread(d, a), Spread(d, b));
    fill([&]<bool kWhole>(int64_t, hn::Mask<D>) { return v; });
  } else if (r.a_single) {
    const V s = Spread(d, a);
    fill([&]<bool kWhole>(int64_t i, hn::Mask<D> m) { return f(s, LoadChannels<kWhole>(d, b + i, m)); });
  } else if (r.b_single) {
    const V s = Spread(d, b);
    fill([&]<bool kWhole>(int64_t i, hn::Mask<D> m) { return f(LoadChannels<kWhole>(d, a + i, m), s); });
  } else {
    fill([&]<bool kWhole>(int64_t i, hn::Mask<D> m) { return f(LoadChannels<kWhole>(d, a + i, m), LoadChannels<kWhole>(d, b + i, m)); });
  }
}

HWY_INLINE V SquareRoot(D d, V x) {  // x to the power of a half: that of −0 is 0, that of −∞ is ∞
  return hn::IfThenElse(hn::Eq(x, hn::Set(d, -INFINITY)), hn::Set(d, INFINITY), hn::Sqrt(hn::Add(x, hn::Zero(d))));
}

// Exponents are mostly one number, and that a small one.
template <class T>
void Power(const BinaryRow& r) {
  const float exponent = r.b_single ? hn::GetLane(Spread(D(), static_cast<const T*>(r.b))) : NAN;
  if (exponent == 2) return Row<T>(r, [](V a, V) { return hn::Mul(a, a); });
  if (exponent == 3) return Row<T>(r, [](V a, V) { return hn::Mul(hn::Mul(a, a), a); });
  if (exponent == 1) return Row<T>(r, [](V a, V) { return a; });
  if (exponent == -1) return Row<T>(r, [](V a, V) { return hn::Div(hn::Set(D(), 1.0f), a); });
  if (exponent == 0.5f) return Row<T>(r, [](V a, V) { return SquareRoot(D(), a); });
  if (exponent == -0.5f) return Row<T>(r, [](V a, V) { return hn::Div(hn::Set(D(), 1.0f), SquareRoot(D(), a)); });
  Row<T>(r, [](V a, V b) { return ByLane(D(), a, b, [](float x, float y) { return std::pow(x, y); }); });
}

template <class T>
void BinaryOf(const BinaryRow& r, BinaryKind kind) {
  switch (kind) {
    case BinaryKind::kAdd: return Row<T>(r, [](V a, V b) { return hn::Add(a, b); });
    case BinaryKind::kSub: return Row<T>(r, [](V a, V b) { return hn::Sub(a, b); });
    case BinaryKind::kMul: return Row<T>(r, [](V a, V b) { return hn::Mul(a, b); });
    case BinaryKind::kDiv: return Row<T>(r, [](V a, V b) { return hn::Div(a, b); });
    case BinaryKind::kPow: return Power<T>(r);
    case BinaryKind::kPRelu: return Row<T>(r, [](V a, V b) { return hn::IfThenElse(hn::Lt(a, hn::Zero(D())), hn::Mul(a, b), a); });
    // NaN wins, as in the operators' definition.
    case BinaryKind::kMax: return Row<T>(r, [](V a, V b) {
        return hn::IfThenElse(hn::IsNaN(a), a, hn::IfThenElse(hn::IsNaN(b), b, hn::Max(a, b)));
      });
    case BinaryKind::kMin: return Row<T>(r, [](V a, V b) {
        return hn::IfThenElse(hn::IsNaN(a), a, hn::IfThenElse(hn::IsNaN(b), b, hn::Min(a, b)));
      });
  }
}
void Binary(const BinaryRow& r, bool half, BinaryKind kind) {
  WithElements(half, [&]<class T>() { BinaryOf<T>(r, kind); });
}

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(ActivateSpan);
HWY_EXPORT(StarReluSpan);
HWY_EXPORT(UnarySpan);
HWY_EXPORT(Binary);

namespace {

// Calls span(x, y, count, half) for each thread's part.
template <class Span>
void over_elements(const Tensor* const* in, Tensor* const* out, Span span) {
  const char* x = in[0]->data<char>();
  char* y = out[0]->data<char>();
  const bool half = out[0]->dtype() == DType::kBF16;
  const int64_t bytes = half ? 2 : 4;
  parallel_for(out[0]->size(), kParallelGrain, [&](int64_t begin, int64_t end) { span(x + begin * bytes, y + begin * bytes, end - begin, half); });
}

class ActivationKernel : public Kernel {
 public:
  ActivationKernel(ActivationSpec spec) : spec_(spec) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    over_elements(in, out, [&](const void* x, void* y, int64_t count, bool half) { HWY_DYNAMIC_DISPATCH(ActivateSpan)(x, y, count, half, spec_); });
  }
  int in_place_input() const override { return 0; }

 private:
  ActivationSpec spec_;
};

class StarReluKernel : public Kernel {
 public:
  explicit StarReluKernel(const KernelRequest& r) : scale_(r.node.get_float("scale")), bias_(r.node.get_float("bias")) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    over_elements(in, out, [&](const void* x, void* y, int64_t count, bool half) {
      HWY_DYNAMIC_DISPATCH(StarReluSpan)(x, y, count, half, scale_, bias_);
    });
  }
  int in_place_input() const override { return 0; }

 private:
  float scale_, bias_;
};

class UnaryKernel : public Kernel {
 public:
  UnaryKernel(UnaryKind kind) : kind_(kind) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    over_elements(in, out, [&](const void* x, void* y, int64_t count, bool half) { HWY_DYNAMIC_DISPATCH(UnarySpan)(x, y, count, half, kind_); });
  }
  int in_place_input() const override { return 0; }

 private:
  UnaryKind kind_;
};

class BinaryKernel : public Kernel {
 public:
  BinaryKernel(const KernelRequest& r, BinaryKind kind) : broadcast_(r, 2), kind_(kind), same_size_(r.in_shape(0) == r.out_shape()) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const char *a = in[0]->data<char>(), *b = in[1]->data<char>();
    char* y = out[0]->data<char>();
    const bool half = out[0]->dtype() == DType::kBF16;
    const int64_t bytes = half ? 2 : 4;
    broadcast_.run([&](const Broadcast::Offsets& at, int64_t to, int64_t count) {
      HWY_DYNAMIC_DISPATCH(Binary)({a + at[0] * bytes, b + at[1] * bytes, y + to * bytes, count, broadcast_.single(0), broadcast_.single(1)}, half, kind_);
    });
  }
  int in_place_input() const override { return same_size_ ? 0 : -1; }

 private:
  Broadcast broadcast_;
  BinaryKind kind_;
  bool same_size_ = false;
};

// Limits may be computed: they are read at each run.
class ClipKernel : public Kernel {
 public:
  explicit ClipKernel(const KernelRequest& r) : low_(r.has_input(1)), high_(r.has_input(2)) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const ActivationSpec spec{ActivationKind::kClip, low_ ? static_cast<float>(in[1]->get(0)) : -INFINITY,
                              high_ ? static_cast<float>(in[2]->get(0)) : INFINITY};
    over_elements(in, out, [&](const void* x, void* y, int64_t count, bool half) { HWY_DYNAMIC_DISPATCH(ActivateSpan)(x, y, count, half, spec); });
  }
  int in_place_input() const override { return 0; }

 private:
  bool low_, high_;
};

// Every operand and the result of one type.
bool one_type(const KernelRequest& r) {
  const DType type = r.output().dtype;
  if (type != DType::kF32 && type != DType::kBF16) return false;
  for (size_t i = 0; i < r.node.inputs.size(); ++i)
    if (r.has_input(i) && r.input(i).dtype != type) return false;
  return true;
}
bool pair(const KernelRequest& r) { return one_type(r) && r.node.inputs.size() == 2; }

template <ActivationKind kKind, bool kAlpha = false, bool kBeta = false>
KernelEntry activation_entry() {
  return {"activation", one_type, [](const KernelRequest& r) -> std::unique_ptr<Kernel> {
            ActivationSpec s{kKind, kAlpha ? r.node.get_float("alpha") : 0, kBeta ? r.node.get_float("beta") : 0};
            return std::make_unique<ActivationKernel>(s);
          }};
}
template <UnaryKind kKind>
KernelEntry unary_entry() {
  return {"unary", one_type, [](const KernelRequest&) -> std::unique_ptr<Kernel> { return std::make_unique<UnaryKernel>(kKind); }};
}
template <BinaryKind kKind>
KernelEntry binary_entry() {
  return {"binary", pair, [](const KernelRequest& r) -> std::unique_ptr<Kernel> {
            return std::make_unique<BinaryKernel>(r, kKind);
          }};
}

}  // namespace

void register_elementwise(KernelRegistry& r) {
  register_wave(r);
  using A = ActivationKind;
  r.add("Relu", "", activation_entry<A::kRelu>());
  r.add("LeakyRelu", "", activation_entry<A::kLeakyRelu, true>());
  r.add("Elu", "", activation_entry<A::kElu, true>());
  r.add("HardSwish", "", activation_entry<A::kHardSwish>());
  r.add("HardSigmoid", "", activation_entry<A::kHardSigmoid, true, true>());
  r.add("Sigmoid", "", activation_entry<A::kSigmoid>());
  r.add("Tanh", "", activation_entry<A::kTanh>());
  r.add("Swish", "", activation_entry<A::kSwish, true>());
  r.add("Mish", "", activation_entry<A::kMish>());
  r.add("Gelu", "", {"activation", one_type, [](const KernelRequest& q) -> std::unique_ptr<Kernel> {
          bool tanh = q.node.get_string("approximate") == "tanh";
          return std::make_unique<ActivationKernel>(ActivationSpec{tanh ? A::kGeluTanh : A::kGelu, 0, 0});
        }});
  r.add("StarRelu", "ai.lathe",
        {"star.relu", one_type, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<StarReluKernel>(q); }});
  r.add("Clip", "", {"activation", one_type, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<ClipKernel>(q); }});
  r.add("Abs", "", unary_entry<UnaryKind::kAbs>());
  r.add("Neg", "", unary_entry<UnaryKind::kNeg>());
  r.add("Sqrt", "", unary_entry<UnaryKind::kSqrt>());
  r.add("Reciprocal", "", unary_entry<UnaryKind::kReciprocal>());
  r.add("Exp", "", unary_entry<UnaryKind::kExp>());
  r.add("Log", "", unary_entry<UnaryKind::kLog>());
  r.add("Sin", "", unary_entry<UnaryKind::kSin>());
  r.add("Cos", "", unary_entry<UnaryKind::kCos>());
  r.add("Sign", "", unary_entry<UnaryKind::kSign>());
  r.add("Softplus", "", unary_entry<UnaryKind::kSoftplus>());
  r.add("Softsign", "", unary_entry<UnaryKind::kSoftsign>());
  r.add("Floor", "", unary_entry<UnaryKind::kFloor>());
  r.add("Ceil", "", unary_entry<UnaryKind::kCeil>());
  r.add("Round", "", unary_entry<UnaryKind::kRound>());
  r.add("Erf", "", unary_entry<UnaryKind::kErf>());
  r.add("Add", "", binary_entry<BinaryKind::kAdd>());
  r.add("Sum", "", binary_entry<BinaryKind::kAdd>());
  r.add("Sub", "", binary_entry<BinaryKind::kSub>());
  r.add("Mul", "", binary_entry<BinaryKind::kMul>());
  r.add("Div", "", binary_entry<BinaryKind::kDiv>());
  r.add("Pow", "", binary_entry<BinaryKind::kPow>());
  r.add("PRelu", "", binary_entry<BinaryKind::kPRelu>());
  r.add("Max", "", binary_entry<BinaryKind::kMax>());
  r.add("Min", "", binary_entry<BinaryKind::kMin>());
}

}  // namespace lathe
#endif
