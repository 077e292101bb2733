#include <cmath>
#include <numbers>
#include <random>

#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

void constant(Context& c) {
  const Node& n = c.node();
  Tensor& out = c.output();
  if (n.has("value_float")) {
    out.set(0, n.get_float("value_float"));
  } else if (n.has("value_int")) {
    out.set_int(0, n.get_int("value_int"));
  } else if (n.has("value_floats")) {
    for (int64_t i = 0; i < out.size(); ++i) out.set(i, n.get_floats("value_floats")[i]);
  } else if (n.has("value_ints")) {
    for (int64_t i = 0; i < out.size(); ++i) out.set_int(i, n.get_ints("value_ints")[i]);
  } else {
    c.set_output(0, n.get_tensor(n.has("value") ? "value" : "sparse_value"));
  }
}

void constant_of_shape(Context& c) {
  Tensor& out = c.output();
  if (!c.node().has("value")) {
    std::memset(out.raw(), 0, out.bytes());
    return;
  }
  const Tensor& value = c.node().get_tensor("value");
  size_t width = size_of(value.dtype());
  for (int64_t i = 0; i < out.size(); ++i) std::memcpy(out.data<char>() + i * width, value.raw(), width);
}

void range(Context& c) {
  Tensor& out = c.output();
  for (int64_t i = 0; i < out.size(); ++i) {
    if (is_float(out.dtype())) {
      out.set(i, c.input(0).get(0) + static_cast<double>(i) * c.input(2).get(0));
    } else {
      // The product alone may exceed 63 bits although the sum does not: wrap as unsigned.
      auto offset = static_cast<uint64_t>(i) * static_cast<uint64_t>(c.input(2).get_int(0));
      out.set_int(i, static_cast<int64_t>(static_cast<uint64_t>(c.input(0).get_int(0)) + offset));
    }
  }
}

void eye_like(Context& c) {
  Tensor& out = c.output();
  std::memset(out.raw(), 0, out.bytes());
  int64_t rows = out.shape()[0], columns = out.shape()[1], k = c.node().get_int("k");
  if (k >= columns || k <= -rows) return;
  for (int64_t i = 0; i < rows; ++i)
    if (i + k >= 0 && i + k < columns) out.set_int(i * columns + i + k, 1);
}

// Uniform in [0, 1). The seed is the attribute's, or a fixed one: runs are repeatable.
class Random {
 public:
  explicit Random(const Node& node)
      : engine_(node.has("seed") ? std::bit_cast<uint32_t>(node.get_float("seed")) : 0x6c617468u) {}
  double uniform() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  double normal() {  // Box and Muller
    double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  std::mt19937_64 engine_;
};

void random_normal(Context& c) {
  Random random(c.node());
  Tensor& out = c.output();
  for (int64_t i = 0; i < out.size(); ++i)
    out.set(i, c.node().get_float("mean") + c.node().get_float("scale") * random.normal());
}

void random_uniform(Context& c) {
  Random random(c.node());
  Tensor& out = c.output();
  double low = c.node().get_float("low"), high = c.node().get_float("high");
  for (int64_t i = 0; i < out.size(); ++i) out.set(i, low + (high - low) * random.uniform());
}

void bernoulli(Context& c) {
  Random random(c.node());
  Tensor& out = c.output();
  for (int64_t i = 0; i < out.size(); ++i) out.set_int(i, random.uniform() < c.input().get(i));
}

// The input holds unnormalized log-probabilities, [batch, classes].
void multinomial(Context& c) {
  Random random(c.node());
  const Tensor& in = c.input();
  Tensor& out = c.output();
  int64_t classes = in.shape()[1], samples = out.shape()[1];
  check_model(classes > 0 || out.size() == 0, "Multinomial needs at least one class");
  for (int64_t b = 0; b < in.shape()[0]; ++b) {
    double largest = in.get(b * classes), total = 0;
    for (int64_t k = 1; k < classes; ++k) largest = std::max(largest, in.get(b * classes + k));
    for (int64_t k = 0; k < classes; ++k) total += std::exp(in.get(b * classes + k) - largest);
    for (int64_t s = 0; s < samples; ++s) {
      double left = random.uniform() * total;
      int64_t k = 0;
      for (; k + 1 < classes; ++k) {
        left -= std::exp(in.get(b * classes + k) - largest);
        if (left < 0) break;
      }
      out.set_int(b * samples + s, k);
    }
  }
}

// a0 − a1·cos(2πn/N) + a2·cos(4πn/N), with N one less when the window is symmetric.
void cosine_window(Context& c, double a0, double a1, double a2) {
  Tensor& out = c.output();
  int64_t size = out.size() - (c.node().get_int("periodic") ? 0 : 1);
  for (int64_t i = 0; i < out.size(); ++i) {
    double phase = size > 0 ? 2 * std::numbers::pi * static_cast<double>(i) / static_cast<double>(size) : 0;
    out.set(i, a0 - a1 * std::cos(phase) + a2 * std::cos(2 * phase));
  }
}

}  // namespace

void register_create(Registry& r) {
  r.add("Constant", constant);
  r.add("ConstantOfShape", constant_of_shape);
  r.add("Range", range);
  r.add("EyeLike", eye_like);
  r.add("RandomNormal", random_normal);
  r.add("RandomNormalLike", random_normal);
  r.add("RandomUniform", random_uniform);
  r.add("RandomUniformLike", random_uniform);
  r.add("Bernoulli", bernoulli);
  r.add("Multinomial", multinomial);
  r.add("HannWindow", [](Context& c) { cosine_window(c, 0.5, 0.5, 0); });
  r.add("HammingWindow", [](Context& c) { cosine_window(c, 25.0 / 46, 21.0 / 46, 0); });
  r.add("BlackmanWindow", [](Context& c) { cosine_window(c, 0.42, 0.5, 0.08); });
}

}  // namespace lathe::reference
