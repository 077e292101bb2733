#include <cmath>
#include <limits>

#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

// Walks the elements of a broadcast: for each output element in order, the offset of each operand.
class BroadcastWalk {
 public:
  BroadcastWalk(const Shape& out, const std::vector<const Tensor*>& operands)
      : shape_(out), index_(out.size(), 0), offsets_(operands.size(), 0) {
    for (const Tensor* t : operands) {
      std::vector<int64_t> strides = strides_of(t->shape()), steps(out.size(), 0);
      size_t skip = out.size() - t->shape().size();
      for (size_t i = skip; i < out.size(); ++i)
        steps[i] = t->shape()[i - skip] == 1 ? 0 : strides[i - skip];
      steps_.push_back(std::move(steps));
    }
  }
  int64_t operator[](size_t operand) const { return offsets_[operand]; }
  void next() {
    for (size_t axis = shape_.size(); axis-- > 0;) {
      bool wraps = ++index_[axis] == shape_[axis];
      for (size_t k = 0; k < offsets_.size(); ++k)
        offsets_[k] += wraps ? -steps_[k][axis] * (shape_[axis] - 1) : steps_[k][axis];
      if (!wraps) return;
      index_[axis] = 0;
    }
  }

 private:
  Shape shape_;
  std::vector<int64_t> index_, offsets_;
  std::vector<std::vector<int64_t>> steps_;
};

// F is a captureless lambda: its type alone says what it does.
template <class F>
Kernel unary(F) {
  return +[](Context& c) {
    Tensor& out = c.output();
    for (int64_t i = 0; i < out.size(); ++i) out.set(i, F{}(c.input().get(i)));
  };
}

// With access to the node's attributes.
template <class F>
Kernel unary_with(F) {
  return +[](Context& c) {
    Tensor& out = c.output();
    for (int64_t i = 0; i < out.size(); ++i) out.set(i, F{}(c.input().get(i), c.node()));
  };
}

// Integers take G, exact over 64 bits; floats take F.
template <class F, class G>
Kernel unary_both(F, G) {
  return +[](Context& c) {
    Tensor& out = c.output();
    if (is_float(c.input().dtype())) {
      for (int64_t i = 0; i < out.size(); ++i) out.set(i, F{}(c.input().get(i)));
    } else {
      for (int64_t i = 0; i < out.size(); ++i) out.set_int(i, G{}(c.input().get_int(i)));
    }
  };
}

int64_t negate(int64_t x) { return static_cast<int64_t>(0 - static_cast<uint64_t>(x)); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double softplus(double x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
double relu(double x) { return x > 0 || std::isnan(x) ? x : 0; }
double sign(double x) { return std::isnan(x) ? x : (x > 0) - (x < 0); }
double gelu(double x, const Node& n) {
  if (n.get_string("approximate") == "tanh")
    return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
  return 0.5 * x * (1 + std::erf(x * 0.7071067811865476));
}

// The three arithmetics a binary operator may need.
struct Arithmetic {
  double (*real)(double, double, const Node&);
  int64_t (*integer)(int64_t, int64_t, const Node&);
  uint64_t (*natural)(uint64_t, uint64_t, const Node&);  // unsigned types; null: same as integer
};

void apply(const Arithmetic& f, const Node& node, Tensor& out, const Tensor& a, const Tensor& b) {
  BroadcastWalk walk(out.shape(), {&a, &b});
  bool real = is_float(a.dtype()) || is_float(b.dtype());
  bool natural = f.natural && is_integer(a.dtype()) && !is_signed(a.dtype());
  for (int64_t i = 0; i < out.size(); ++i, walk.next()) {
    if (real) {
      out.set(i, f.real(a.get(walk[0]), b.get(walk[1]), node));
    } else if (natural) {
      out.set_int(i, static_cast<int64_t>(f.natural(a.get_int(walk[0]), b.get_int(walk[1]), node)));
    } else {
      out.set_int(i, f.integer(a.get_int(walk[0]), b.get_int(walk[1]), node));
    }
  }
}

#define LATHE_SAME(expression)                                        \
  Arithmetic {                                                        \
    [](double a, double b, const Node&) -> double { return expression; },     \
    [](int64_t a, int64_t b, const Node&) -> int64_t { return expression; },  \
    [](uint64_t a, uint64_t b, const Node&) -> uint64_t { return expression; } \
  }
// Signed overflow wraps, as hardware and numpy do.
#define LATHE_WRAPPING(op)                                                                         \
  Arithmetic {                                                                                     \
    [](double a, double b, const Node&) { return a op b; },                                        \
    [](int64_t a, int64_t b, const Node&) {                                                        \
      return static_cast<int64_t>(static_cast<uint64_t>(a) op static_cast<uint64_t>(b));           \
    },                                                                                             \
    [](uint64_t a, uint64_t b, const Node&) { return a op b; }                                     \
  }

int64_t divide(int64_t a, int64_t b, const Node&) {
  if (b == 0) fail(ErrorKind::kInput, "integer division by zero");
  return b == -1 ? static_cast<int64_t>(0 - static_cast<uint64_t>(a)) : a / b;
}
uint64_t divide_natural(uint64_t a, uint64_t b, const Node&) {
  if (b == 0) fail(ErrorKind::kInput, "integer division by zero");
  return a / b;
}
int64_t modulo(int64_t a, int64_t b, const Node& n) {
  if (b == 0) fail(ErrorKind::kInput, "integer modulo by zero");
  if (b == -1) return 0;
  int64_t r = a % b;  // fmod keeps the sign of the dividend, Python's modulo that of the divisor
  return r != 0 && n.get_int("fmod") == 0 && (r < 0) != (b < 0) ? r + b : r;
}
int64_t power(int64_t base, int64_t exponent, const Node&) {
  if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
  uint64_t result = 1, factor = static_cast<uint64_t>(base);
  for (auto e = static_cast<uint64_t>(exponent); e; e >>= 1, factor *= factor)
    if (e & 1) result *= factor;
  return static_cast<int64_t>(result);
}
uint64_t shift(uint64_t a, uint64_t b, const Node& n) {
  if (b >= 64) return 0;
  return n.get_string("direction") == "LEFT" ? a << b : a >> b;
}
double max_nan(double a, double b) { return std::isnan(a) ? a : std::isnan(b) ? b : std::max(a, b); }
double min_nan(double a, double b) { return std::isnan(a) ? a : std::isnan(b) ? b : std::min(a, b); }

const Arithmetic kAdd = LATHE_WRAPPING(+);
const Arithmetic kSub = LATHE_WRAPPING(-);
const Arithmetic kMul = LATHE_WRAPPING(*);
const Arithmetic kDiv = {[](double a, double b, const Node&) { return a / b; }, divide, divide_natural};
const Arithmetic kMod = {[](double a, double b, const Node&) { return std::fmod(a, b); }, modulo,
                         [](uint64_t a, uint64_t b, const Node& n) {
                           return b ? a % b : divide_natural(a, b, n);
                         }};
const Arithmetic kPow = {[](double a, double b, const Node&) { return std::pow(a, b); }, power, nullptr};
const Arithmetic kShift = {nullptr,
                           [](int64_t a, int64_t b, const Node& n) {
                             return static_cast<int64_t>(shift(a, b, n));
                           },
                           shift};
const Arithmetic kMax = {[](double a, double b, const Node&) { return max_nan(a, b); },
                         [](int64_t a, int64_t b, const Node&) { return std::max(a, b); },
                         [](uint64_t a, uint64_t b, const Node&) { return std::max(a, b); }};
const Arithmetic kMin = {[](double a, double b, const Node&) { return min_nan(a, b); },
                         [](int64_t a, int64_t b, const Node&) { return std::min(a, b); },
                         [](uint64_t a, uint64_t b, const Node&) { return std::min(a, b); }};
const Arithmetic kPRelu = {[](double a, double b, const Node&) { return a < 0 ? a * b : a; },
                           [](int64_t a, int64_t b, const Node&) {  // wraps, like Mul
                             return a < 0 ? static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b)) : a;
                           }, nullptr};
const Arithmetic kEqual = LATHE_SAME(a == b);
const Arithmetic kGreater = LATHE_SAME(a > b);
const Arithmetic kGreaterOrEqual = LATHE_SAME(a >= b);
const Arithmetic kLess = LATHE_SAME(a < b);
const Arithmetic kLessOrEqual = LATHE_SAME(a <= b);
const Arithmetic kAnd = {nullptr, [](int64_t a, int64_t b, const Node&) { return a & b; }, nullptr};
const Arithmetic kOr = {nullptr, [](int64_t a, int64_t b, const Node&) { return a | b; }, nullptr};
const Arithmetic kXor = {nullptr, [](int64_t a, int64_t b, const Node&) { return a ^ b; }, nullptr};

template <const Arithmetic& F>
void binary(Context& c) {
  for (size_t i = 0; i < 2; ++i)
    if (!F.real && is_float(c.input(i).dtype()))
      fail(ErrorKind::kModel, "this operator takes integers, found {}", name_of(c.input(i).dtype()));
  apply(F, c.node(), c.output(), c.input(0), c.input(1));
}

// Max, Min, Sum: a fold over any number of operands; the accumulator is wide for floats.
template <const Arithmetic& F, bool kAverage = false>
void variadic(Context& c) {
  Tensor& out = c.output();
  std::vector<const Tensor*> operands;
  for (size_t i = 0; i < c.input_count(); ++i) operands.push_back(&c.input(i));
  BroadcastWalk walk(out.shape(), operands);
  bool real = is_float(out.dtype()), natural = is_integer(out.dtype()) && !is_signed(out.dtype());
  for (int64_t i = 0; i < out.size(); ++i, walk.next()) {
    if (real) {
      double value = operands[0]->get(walk[0]);
      for (size_t k = 1; k < operands.size(); ++k)
        value = F.real(value, operands[k]->get(walk[k]), c.node());
      out.set(i, kAverage ? value / static_cast<double>(operands.size()) : value);
    } else {
      int64_t value = operands[0]->get_int(walk[0]);
      for (size_t k = 1; k < operands.size(); ++k) {
        int64_t next = operands[k]->get_int(walk[k]);
        value = natural ? static_cast<int64_t>(F.natural(value, next, c.node())) : F.integer(value, next, c.node());
      }
      out.set_int(i, value);
    }
  }
}

void clip(Context& c) {
  Tensor& out = c.output();
  const Tensor& in = c.input();
  if (is_float(in.dtype())) {
    double low = c.has_input(1) ? c.input(1).get(0) : -std::numeric_limits<double>::infinity();
    double high = c.has_input(2) ? c.input(2).get(0) : std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < out.size(); ++i) {
      double x = in.get(i);
      out.set(i, std::isnan(x) ? x : std::min(std::max(x, low), high));
    }
  } else if (in.dtype() == DType::kU64) {
    uint64_t low = c.has_input(1) ? c.input(1).get_int(0) : 0, high = c.has_input(2) ? c.input(2).get_int(0) : ~uint64_t{0};
    for (int64_t i = 0; i < out.size(); ++i)
      out.data<uint64_t>()[i] = std::min(std::max(in.data<uint64_t>()[i], low), high);
  } else {
    int64_t low = c.has_input(1) ? c.input(1).get_int(0) : std::numeric_limits<int64_t>::min();
    int64_t high = c.has_input(2) ? c.input(2).get_int(0) : std::numeric_limits<int64_t>::max();
    for (int64_t i = 0; i < out.size(); ++i) out.set_int(i, std::min(std::max(in.get_int(i), low), high));
  }
}

void cast_to(Context& c) {
  Tensor& out = c.output();
  bool saturate = c.node().get_int("saturate") != 0;
  out = cast(c.input(), out.dtype(), saturate);
}

void bit_cast(Context& c) {
  DType type = c.output().dtype();
  check_model(size_of(type) == size_of(c.input().dtype()), "BitCast needs types of equal size");
  std::memcpy(c.output().raw(), c.input().raw(), c.input().bytes());
}

void where(Context& c) {
  Tensor& out = c.output();
  BroadcastWalk walk(out.shape(), {&c.input(0), &c.input(1), &c.input(2)});
  size_t width = size_of(out.dtype());
  check_model(c.input(1).dtype() == c.input(2).dtype(), "Where needs two operands of one type");
  for (int64_t i = 0; i < out.size(); ++i, walk.next()) {
    int k = c.input(0).data<uint8_t>()[walk[0]] ? 1 : 2;
    std::memcpy(out.data<char>() + i * width,
                static_cast<const char*>(c.input(k).raw()) + walk[k] * width, width);
  }
}

void dropout(Context& c) {  // inference: the identity
  if (c.has_input(2) && c.input(2).get_int(0) != 0 && (!c.has_input(1) || c.input(1).get(0) != 0))
    fail(ErrorKind::kUnsupported, "Dropout in training mode is not an inference operator");
  c.set_output(0, c.input());
  if (c.has_output(1)) std::memset(c.output(1).raw(), 1, c.output(1).bytes());
}

void is_inf(Context& c) {
  bool negative = c.node().get_int("detect_negative"), positive = c.node().get_int("detect_positive");
  Tensor& out = c.output();
  for (int64_t i = 0; i < out.size(); ++i) {
    double x = c.input().get(i);
    out.data<uint8_t>()[i] = std::isinf(x) && (x < 0 ? negative : positive);
  }
}

}  // namespace

void register_elementwise(Registry& r) {
  using std::exp, std::log;
#define LATHE_UNARY(name, expression) \
  r.add(name, unary([](double x) -> double { return expression; }))
#define LATHE_UNARY_WITH(name, expression) \
  r.add(name, unary_with([]([[maybe_unused]] double x, [[maybe_unused]] const Node& n) -> double { return expression; }))
  LATHE_UNARY("Acos", std::acos(x));
  LATHE_UNARY("Acosh", std::acosh(x));
  LATHE_UNARY("Asin", std::asin(x));
  LATHE_UNARY("Asinh", std::asinh(x));
  LATHE_UNARY("Atan", std::atan(x));
  LATHE_UNARY("Atanh", std::atanh(x));
  LATHE_UNARY("Ceil", std::ceil(x));
  LATHE_UNARY("Cos", std::cos(x));
  LATHE_UNARY("Cosh", std::cosh(x));
  LATHE_UNARY("Erf", std::erf(x));
  LATHE_UNARY("Exp", exp(x));
  LATHE_UNARY("Floor", std::floor(x));
  LATHE_UNARY("HardSwish", x * std::min(1.0, std::max(0.0, x / 6 + 0.5)));
  LATHE_UNARY("Log", log(x));
  LATHE_UNARY("Mish", x * std::tanh(softplus(x)));
  LATHE_UNARY("Reciprocal", 1 / x);
  LATHE_UNARY("Round", std::nearbyint(x));
  LATHE_UNARY("Sigmoid", sigmoid(x));
  LATHE_UNARY("Sin", std::sin(x));
  LATHE_UNARY("Sinh", std::sinh(x));
  LATHE_UNARY("Softplus", softplus(x));
  LATHE_UNARY("Softsign", x / (1 + std::fabs(x)));
  LATHE_UNARY("Sqrt", std::sqrt(x));
  LATHE_UNARY("Tan", std::tan(x));
  LATHE_UNARY("Tanh", std::tanh(x));
  LATHE_UNARY_WITH("Elu", x < 0 ? n.get_float("alpha") * std::expm1(x) : x);
  LATHE_UNARY_WITH("Celu", std::max(0.0, x) + std::min(0.0, n.get_float("alpha") * std::expm1(x / n.get_float("alpha"))));
  LATHE_UNARY_WITH("LeakyRelu", x < 0 ? n.get_float("alpha") * x : x);
  LATHE_UNARY_WITH("ThresholdedRelu", x > n.get_float("alpha") ? x : 0);
  LATHE_UNARY_WITH("Swish", x * sigmoid(n.get_float("alpha") * x));
  LATHE_UNARY_WITH("HardSigmoid", std::isnan(x) ? x : std::max(0.0, std::min(1.0, n.get_float("alpha") * x + n.get_float("beta"))));
  LATHE_UNARY_WITH("Selu", n.get_float("gamma") * (x > 0 ? x : n.get_float("alpha") * std::expm1(x)));
  LATHE_UNARY_WITH("Shrink", x < -n.get_float("lambd") ? x + n.get_float("bias")
                             : x > n.get_float("lambd") ? x - n.get_float("bias") : 0);
  LATHE_UNARY_WITH("Gelu", gelu(x, n));
  r.add("Abs", unary_both([](double x) { return std::fabs(x); },
                          [](int64_t x) { return x < 0 ? negate(x) : x; }));
  r.add("Neg", unary_both([](double x) { return -x; }, [](int64_t x) { return negate(x); }));
  r.add("Relu", unary_both([](double x) { return relu(x); }, [](int64_t x) { return std::max<int64_t>(x, 0); }));
  r.add("Sign", [](Context& c) {
    if (c.input().dtype() == DType::kU64) {
      for (int64_t i = 0; i < c.output().size(); ++i) c.output().set_int(i, c.input().get_int(i) != 0);
    } else {
      unary_both([](double x) { return sign(x); }, [](int64_t x) { return int64_t{x > 0} - int64_t{x < 0}; })(c);
    }
  });
  r.add("Not", unary_both([](double x) { return x == 0; }, [](int64_t x) { return int64_t{!x}; }));
  r.add("BitwiseNot", unary_both([](double x) { return x; }, [](int64_t x) { return ~x; }));
  LATHE_UNARY("IsNaN", std::isnan(x));
  r.add("IsInf", is_inf);
  r.add("Identity", [](Context& c) { c.set_output(0, c.input()); });

  r.add("Add", binary<kAdd>);
  r.add("Sub", binary<kSub>);
  r.add("Mul", binary<kMul>);
  r.add("Div", binary<kDiv>);
  r.add("Mod", binary<kMod>);
  r.add("Pow", [](Context& c) {
    // The exponent may be of another type; an integer base with a float exponent computes in floats.
    apply(kPow, c.node(), c.output(), c.input(0), c.input(1));
  });
  r.add("BitShift", binary<kShift>);
  r.add("PRelu", binary<kPRelu>);
  r.add("And", binary<kAnd>);
  r.add("Or", binary<kOr>);
  r.add("Xor", binary<kXor>);
  r.add("BitwiseAnd", binary<kAnd>);
  r.add("BitwiseOr", binary<kOr>);
  r.add("BitwiseXor", binary<kXor>);
  r.add("Equal", binary<kEqual>);
  r.add("Greater", binary<kGreater>);
  r.add("GreaterOrEqual", binary<kGreaterOrEqual>);
  r.add("Less", binary<kLess>);
  r.add("LessOrEqual", binary<kLessOrEqual>);
  r.add("Max", variadic<kMax>);
  r.add("Min", variadic<kMin>);
  r.add("Sum", variadic<kAdd>);
  r.add("Mean", variadic<kAdd, true>);
  r.add("Clip", clip);
  r.add("Cast", cast_to);
  r.add("CastLike", cast_to);
  r.add("BitCast", bit_cast);
  r.add("Where", where);
  r.add("Dropout", dropout);
#undef LATHE_UNARY
#undef LATHE_UNARY_WITH
}

}  // namespace lathe::reference
