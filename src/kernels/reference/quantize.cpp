#include <algorithm>
#include <cmath>

#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

// Finds the scale and zero point of an element: per tensor, per slice along an axis, or per block.
class ScaleIndex {
 public:
  ScaleIndex(const Tensor& in, const Tensor& scale, const Node& node) {
    int64_t block = node.get_int("block_size");
    if (block == 0 && scale.size() == 1) return;
    size_t axis = normalize_axis(node.get_int("axis"), in.rank());
    size_ = in.shape()[axis];
    inner_ = product(in.shape(), axis + 1, in.shape().size());
    single_ = false;
    if (block > 0) {
      block_ = block;
      blocks_ = scale.shape()[axis];
    }
  }
  int64_t operator()(int64_t i) const {
    if (single_) return 0;
    int64_t along = i / inner_ % size_;
    if (block_ == 0) return along;
    return (i / (inner_ * size_) * blocks_ + along / block_) * inner_ + i % inner_;
  }

 private:
  bool single_ = true;
  int64_t size_ = 1, inner_ = 1, block_ = 0, blocks_ = 1;
};

// Rounds to the precision in which the division is done.
double round_to(DType precision, double value) {
  switch (precision) {
    case DType::kF16: return to_float(to_f16(value));
    case DType::kBF16: return to_float(to_bf16(static_cast<float>(value)));
    case DType::kF64: return value;
    default: return static_cast<float>(value);
  }
}

struct IntRange {
  double low, high;
};

IntRange range_of(DType type) {
  int bits = bits_of(type);
  return is_signed(type) ? IntRange{-std::ldexp(1.0, bits - 1), std::ldexp(1.0, bits - 1) - 1}
                         : IntRange{0, std::ldexp(1.0, bits) - 1};
}

void quantize_linear(Context& c) {
  const Tensor &in = c.input(0), &scale = c.input(1);
  Tensor& out = c.output();
  DType type = out.dtype(), precision = scale.dtype();
  if (int64_t given = c.node().get_int("precision")) precision = static_cast<DType>(given);
  bool saturate = c.node().get_int("saturate") != 0, to_float_format = is_float(type);
  ScaleIndex index(in, scale, c.node());
  IntRange range = to_float_format ? IntRange{0, 0} : range_of(type);
  for (int64_t i = 0; i < in.size(); ++i) {
    int64_t k = index(i);
    double ratio = round_to(precision, round_to(precision, in.get(i)) / scale.get(k));
    double zero = c.has_input(2) ? c.input(2).get(k) : 0;
    if (to_float_format) {
      out.data<uint8_t>()[i] = float_to_narrow(type, static_cast<float>(ratio + zero), saturate);
    } else {
      double value = std::nearbyint(ratio) + zero;  // half to even
      out.set(i, std::isnan(value) ? zero : std::clamp(value, range.low, range.high));
    }
  }
}

void dequantize_linear(Context& c) {
  const Tensor &in = c.input(0), &scale = c.input(1);
  Tensor& out = c.output();
  ScaleIndex index(in, scale, c.node());
  for (int64_t i = 0; i < in.size(); ++i) {
    int64_t k = index(i);
    double zero = c.has_input(2) ? c.input(2).get(k) : 0;
    out.set(i, (in.get(i) - zero) * scale.get(k));
  }
}

// To u8, with a range that always holds zero. In float throughout, as the standard's function does.
void dynamic_quantize_linear(Context& c) {
  const Tensor& in = c.input();
  check_model(in.dtype() == DType::kF32, "DynamicQuantizeLinear takes f32, found {}", name_of(in.dtype()));
  const float* x = in.data<float>();
  float low = 0, high = 0;
  for (int64_t i = 0; i < in.size(); ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  float scale = high == low ? 1.0f : (high - low) / 255.0f;
  float zero = std::nearbyint(std::clamp(-low / scale, 0.0f, 255.0f));
  if (std::isnan(zero)) zero = 0;
  Tensor& out = c.output(0);
  for (int64_t i = 0; i < in.size(); ++i) {
    float value = std::nearbyint(x[i] / scale) + zero;
    out.data<uint8_t>()[i] = static_cast<uint8_t>(std::isnan(value) ? zero : std::clamp(value, 0.0f, 255.0f));
  }
  if (c.has_output(1)) c.output(1).set(0, scale);
  if (c.has_output(2)) c.output(2).set(0, zero);
}

void fake_quantize(Context& c) {
  const Tensor& in = c.input(0);
  Tensor& out = c.output();
  const Node& n = c.node();
  const std::string& family = n.get_string("family");
  const int64_t axis = n.get_int("axis"), bits = n.get_int("bits");
  const bool is_signed = n.get_int("signed") != 0;
  const int64_t entries = axis < 0 ? 1 : in.dim(axis), inner = axis < 0 ? in.size() : product(in.shape(), static_cast<size_t>(axis) + 1, in.shape().size());
  const double low = is_signed ? 1 - std::ldexp(1.0, static_cast<int>(bits) - 1) : -static_cast<double>(n.get_int("zero"));
  const double high = is_signed ? -low : std::ldexp(1.0, static_cast<int>(bits)) - 1 + low;
  const float* x = in.data<float>();
  for (int64_t e = 0; e < entries; ++e) {
    std::vector<int64_t> own;  // elements of the entry
    for (int64_t i = 0; i < in.size(); ++i)
      if (entries == 1 || i / inner % entries == e) own.push_back(i);
    double mean = 0, largest = 0, tail = 0, others = 0;
    for (int64_t i : own) mean += std::abs(x[i]) / static_cast<double>(own.size()), largest = std::max<double>(largest, std::abs(x[i]));
    for (int64_t i : own)
      if (std::abs(x[i]) > 0.7 * mean) tail += std::abs(x[i]), ++others;
    const double first = c.has_input(1) ? std::abs(c.input(1).get(e)) : 0, second = c.has_input(2) ? std::abs(c.input(2).get(e)) : 0;
    const auto scale = static_cast<float>(family == "pact" ? first / high : c.has_input(1) ? first : largest / high);
    for (int64_t i : own) {
      const double v = x[i], side = v >= 0 ? 1 : -1;
      double y = side;
      if (family == "uniform" || family == "pact") {
        const auto q = static_cast<double>(x[i] / scale);
        y = scale * (q > low ? std::nearbyint(std::min(q, high)) : low);
      } else if (family == "dorefa") {
        const double steps = std::ldexp(1.0, static_cast<int>(bits)) - 1;
        y = 2 * std::nearbyint(steps * (std::tanh(v) / (largest > 0 ? 2 * std::tanh(largest) : 1) + 0.5)) / steps - 1;
      } else if (family == "twn") {
        y = std::abs(v) > 0.7 * mean ? side * tail / others : 0;
      } else if (family == "ttq") {
        y = std::abs(v) > 0.05 * largest ? (v > 0 ? first : -second) : 0;
      } else if (family == "binary") {
        y = side * mean;
      }
      out.data<float>()[i] = static_cast<float>(y);
    }
  }
}

}  // namespace

void register_quantize(Registry& r) {
  r.add("FakeQuantize", fake_quantize, "ai.lathe");
  r.add("QuantizeLinear", quantize_linear);
  r.add("DequantizeLinear", dequantize_linear);
  r.add("DynamicQuantizeLinear", dynamic_quantize_linear);
}

}  // namespace lathe::reference
