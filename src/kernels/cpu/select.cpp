// Where, comparisons, logic, arithmetic of integers and conversions between types: what models do to masks, indices and
// lengths. Plain loops over rows of a broadcast, one for each type, which the compiler makes vectors of.
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/broadcast.h"

namespace lathe {
namespace {

// Calls body.template operator()<T>() for the types that have kernels here; false for others.
template <class Body>
bool with_number(DType type, Body&& body) {
  switch (type) {
    case DType::kF32: body.template operator()<float>(); return true;
    case DType::kI64: body.template operator()<int64_t>(); return true;
    case DType::kI32: body.template operator()<int32_t>(); return true;
    case DType::kU8: body.template operator()<uint8_t>(); return true;
    case DType::kBool: body.template operator()<bool>(); return true;
    default: return false;
  }
}
bool is_number(DType type) {
  return with_number(type, []<class T>() {});
}

// y[i] = f(a[i or 0], b[i or 0]). The result is no operand's memory, and single values are read once: else every element
// would be read and written by itself.
template <class A, class Y, class F>
void pairs(const A* __restrict a, bool a_single, const A* __restrict b, bool b_single, Y* __restrict y, int64_t count, F f) {
  if (a_single && b_single) {
    std::fill_n(y, count, f(*a, *b));
  } else if (a_single) {
    const A x = *a;
    for (int64_t i = 0; i < count; ++i) y[i] = f(x, b[i]);
  } else if (b_single) {
    const A x = *b;
    for (int64_t i = 0; i < count; ++i) y[i] = f(a[i], x);
  } else {
    for (int64_t i = 0; i < count; ++i) y[i] = f(a[i], b[i]);
  }
}

template <class A, class Y, class F>
class Pairs : public Kernel {
 public:
  explicit Pairs(const KernelRequest& r) : broadcast_(r, 2) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const A *a = static_cast<const A*>(in[0]->raw()), *b = static_cast<const A*>(in[1]->raw());
    Y* y = static_cast<Y*>(out[0]->raw());
    broadcast_.run([&](const Broadcast::Offsets& at, int64_t to, int64_t count) {
      pairs(a + at[0], broadcast_.single(0), b + at[1], broadcast_.single(1), y + to, count, F{});
    });
  }

 private:
  Broadcast broadcast_;
};

template <class T>
class WhereKernel : public Kernel {
 public:
  explicit WhereKernel(const KernelRequest& r) : broadcast_(r, 3) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const auto* condition = static_cast<const uint8_t*>(in[0]->raw());
    const T *a = static_cast<const T*>(in[1]->raw()), *b = static_cast<const T*>(in[2]->raw());
    T* y = static_cast<T*>(out[0]->raw());
    broadcast_.run([&](const Broadcast::Offsets& at, int64_t to, int64_t count) {
      if (broadcast_.single(0)) {
        const size_t k = condition[at[0]] ? 1 : 2;
        const T* from = (k == 1 ? a : b) + at[k];
        if (broadcast_.single(k)) std::fill_n(y + to, count, *from);
        else std::memcpy(y + to, from, static_cast<size_t>(count) * sizeof(T));
        return;
      }
      const int64_t step_a = !broadcast_.single(1), step_b = !broadcast_.single(2);
      row(condition + at[0], a + at[1], step_a, b + at[2], step_b, y + to, count);
    });
  }

 private:
  // Both operands are read whatever the condition, so that it chooses among numbers and no branch is guessed.
  static void row(const uint8_t* __restrict condition, const T* __restrict a, int64_t step_a, const T* __restrict b, int64_t step_b, T* __restrict y,
                  int64_t count) {
    const T one_a = *a, one_b = *b;
    auto choose = [&](auto of_a, auto of_b) {
      for (int64_t i = 0; i < count; ++i) {
        const T x = of_a(i), z = of_b(i);
        y[i] = condition[i] ? x : z;
      }
    };
    auto each_a = [&](int64_t i) { return a[i]; };
    auto each_b = [&](int64_t i) { return b[i]; };
    auto same_a = [&](int64_t) { return one_a; };
    auto same_b = [&](int64_t) { return one_b; };
    if (step_a && step_b) choose(each_a, each_b);
    else if (step_a) choose(each_a, same_b);
    else if (step_b) choose(same_a, each_b);
    else choose(same_a, same_b);
  }
  Broadcast broadcast_;
};

class Not : public Kernel {
 public:
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const auto* x = static_cast<const uint8_t*>(in[0]->raw());
    auto* y = static_cast<uint8_t*>(out[0]->raw());
    parallel_for(out[0]->size(), kParallelGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = !x[i];
    });
  }
};

// As core's cast() does: towards zero; what no i64 holds becomes the least one.
template <class From, class To>
To converted(From x) {
  if constexpr (std::is_same_v<To, bool>) {
    return x != 0;
  } else if constexpr (std::is_same_v<From, float> && std::is_integral_v<To>) {
    return static_cast<To>(std::fabs(x) < 9.2233720368547758e18f ? static_cast<int64_t>(x) : std::numeric_limits<int64_t>::min());
  } else if constexpr (std::is_same_v<To, float>) {
    return static_cast<float>(static_cast<double>(x));
  } else {
    return static_cast<To>(x);
  }
}

template <class From, class To>
class Convert : public Kernel {
 public:
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const From* x = static_cast<const From*>(in[0]->raw());
    To* y = static_cast<To*>(out[0]->raw());
    parallel_for(out[0]->size(), kParallelGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = converted<From, To>(x[i]);
    });
  }
};

struct Equal { template <class T> bool operator()(T a, T b) const { return a == b; } };
struct Greater { template <class T> bool operator()(T a, T b) const { return a > b; } };
struct GreaterOrEqual { template <class T> bool operator()(T a, T b) const { return a >= b; } };
struct Less { template <class T> bool operator()(T a, T b) const { return a < b; } };
struct LessOrEqual { template <class T> bool operator()(T a, T b) const { return a <= b; } };
struct And { bool operator()(bool a, bool b) const { return a & b; } };
struct Or { bool operator()(bool a, bool b) const { return a | b; } };
struct Xor { bool operator()(bool a, bool b) const { return a ^ b; } };
// Overflow wraps.
template <class T> using Natural = std::make_unsigned_t<T>;
struct Add { template <class T> T operator()(T a, T b) const { return static_cast<T>(static_cast<Natural<T>>(a) + static_cast<Natural<T>>(b)); } };
struct Sub { template <class T> T operator()(T a, T b) const { return static_cast<T>(static_cast<Natural<T>>(a) - static_cast<Natural<T>>(b)); } };
struct Mul { template <class T> T operator()(T a, T b) const { return static_cast<T>(static_cast<Natural<T>>(a) * static_cast<Natural<T>>(b)); } };
struct Max { template <class T> T operator()(T a, T b) const { return std::max(a, b); } };
struct Min { template <class T> T operator()(T a, T b) const { return std::min(a, b); } };

using Made = std::unique_ptr<Kernel>;

template <class F>
KernelEntry comparison() {
  return {"compare", [](const KernelRequest& r) { return is_number(r.input(0).dtype) && r.input(1).dtype == r.input(0).dtype; },
          [](const KernelRequest& r) -> Made {
            Made made;
            with_number(r.input(0).dtype, [&]<class T>() { made = std::make_unique<Pairs<T, bool, F>>(r); });
            return made;
          }};
}
template <class F>
KernelEntry logic() {
  return {"logic", [](const KernelRequest& r) { return r.input(0).dtype == DType::kBool && r.input(1).dtype == DType::kBool; },
          [](const KernelRequest& r) -> Made { return std::make_unique<Pairs<bool, bool, F>>(r); }};
}
template <class F>
KernelEntry whole_numbers() {
  return {"integers", [](const KernelRequest& r) {
            const DType type = r.output().dtype;
            return (type == DType::kI64 || type == DType::kI32) && r.node.inputs.size() == 2 && r.input(0).dtype == type && r.input(1).dtype == type;
          }, [](const KernelRequest& r) -> Made {
            if (r.output().dtype == DType::kI64) return std::make_unique<Pairs<int64_t, int64_t, F>>(r);
            return std::make_unique<Pairs<int32_t, int32_t, F>>(r);
          }};
}

Made make_where(const KernelRequest& r) {
  switch (size_of(r.output().dtype)) {
    case 1: return std::make_unique<WhereKernel<uint8_t>>(r);
    case 2: return std::make_unique<WhereKernel<uint16_t>>(r);
    case 4: return std::make_unique<WhereKernel<uint32_t>>(r);
    default: return std::make_unique<WhereKernel<uint64_t>>(r);
  }
}

Made make_convert(const KernelRequest& r) {
  Made made;
  with_number(r.input(0).dtype, [&]<class From>() {
    with_number(r.output().dtype, [&]<class To>() { made = std::make_unique<Convert<From, To>>(); });
  });
  return made;
}

}  // namespace

void register_select(KernelRegistry& r) {
  r.add("Where", "", {"where", [](const KernelRequest& q) {
          const size_t width = size_of(q.output().dtype);
          return q.input(0).dtype == DType::kBool && q.input(1).dtype == q.input(2).dtype && (width == 1 || width == 2 || width == 4 || width == 8);
        }, make_where});
  r.add("Equal", "", comparison<Equal>());
  r.add("Greater", "", comparison<Greater>());
  r.add("GreaterOrEqual", "", comparison<GreaterOrEqual>());
  r.add("Less", "", comparison<Less>());
  r.add("LessOrEqual", "", comparison<LessOrEqual>());
  r.add("And", "", logic<And>());
  r.add("Or", "", logic<Or>());
  r.add("Xor", "", logic<Xor>());
  r.add("Not", "", {"logic", [](const KernelRequest& q) { return q.input(0).dtype == DType::kBool; },
                    [](const KernelRequest&) -> Made { return std::make_unique<Not>(); }});
  r.add("Add", "", whole_numbers<Add>());
  r.add("Sub", "", whole_numbers<Sub>());
  r.add("Mul", "", whole_numbers<Mul>());
  r.add("Max", "", whole_numbers<Max>());
  r.add("Min", "", whole_numbers<Min>());
  r.add("Cast", "", {"convert", [](const KernelRequest& q) { return is_number(q.input(0).dtype) && is_number(q.output().dtype); }, make_convert});
}

}  // namespace lathe
