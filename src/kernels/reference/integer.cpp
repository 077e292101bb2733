// Arithmetic on codes of 8 bits, as graph/ops/integer.cpp defines it.
#include <algorithm>
#include <cmath>

#include "kernels/reference/access.h"
#include "kernels/reference/families.h"
#include "kernels/requantize.h"

namespace lathe::reference {
namespace {

std::vector<int64_t> codes_of(const Tensor& t) {
  std::vector<int64_t> values(t.size());
  for (int64_t i = 0; i < t.size(); ++i) values[i] = t.get_int(i);
  return values;
}

// The sums of a product become its output.
class Products {
 public:
  explicit Products(Context& c) : out_(Requantize::of(c.node())), c_(c), y_(c.output()) {}
  int64_t weight_zero(int64_t channel) const {
    if (!c_.has_input(4)) return 0;
    return c_.input(4).get_int(c_.input(4).size() == 1 ? 0 : channel);
  }
  void finish(int64_t at, int64_t channel, int64_t sum) {
    if (c_.has_input(3)) sum += c_.input(3).get_int(channel);
    auto wrapped = static_cast<int32_t>(sum);
    float scaled = static_cast<float>(wrapped) * c_.input(2).data<float>()[channel];
    if (out_.type == DType::kI32) y_.set_int(at, wrapped);
    else if (out_.type == DType::kF32) y_.data<float>()[at] = scaled;
    else if (c_.has_input(5)) y_.data<uint8_t>()[at] = c_.input(5).data<uint8_t>()[out_.code(scaled) & 255];
    else y_.set_int(at, out_.code(scaled));
  }

 private:
  Requantize out_;
  Context& c_;
  Tensor& y_;
};

// Calls finish(at, channel, sum) for every element of a convolution of codes.
template <class WeightZero, class Finish>
void convolve(Context& c, int64_t zero, WeightZero weight_zero, Finish finish) {
  const Node& n = c.node();
  const Shape &x = c.input(0).shape(), &w = c.input(1).shape(), &y = c.output().shape();
  const auto &strides = n.get_ints("strides"), &pads = n.get_ints("pads"), &dilations = n.get_ints("dilations");
  const int64_t each = w[0] / n.get_int("group");
  const std::vector<int64_t> xs = codes_of(c.input(0)), ws = codes_of(c.input(1));
  for (int64_t at = 0; at < c.output().size(); ++at) {
    const int64_t o = at % y[3], ox = at / y[3] % y[2], oy = at / (y[3] * y[2]) % y[1], image = at / (y[3] * y[2] * y[1]);
    const int64_t first = o / each * w[1], of_weight = weight_zero(o);
    int64_t sum = 0;
    for (int64_t ky = 0; ky < w[2]; ++ky)
      for (int64_t kx = 0; kx < w[3]; ++kx) {
        const int64_t iy = oy * strides[0] - pads[0] + ky * dilations[0], ix = ox * strides[1] - pads[1] + kx * dilations[1];
        if (iy < 0 || iy >= x[1] || ix < 0 || ix >= x[2]) continue;
        const int64_t* pixel = xs.data() + ((image * x[1] + iy) * x[2] + ix) * x[3] + first;
        for (int64_t k = 0; k < w[1]; ++k) sum += (pixel[k] - zero) * (ws[((o * w[1] + k) * w[2] + ky) * w[3] + kx] - of_weight);
      }
    finish(at, o, sum);
  }
}

void conv(Context& c) {
  Products products(c);
  convolve(c, c.node().get_int("x_zero_point"), [&](int64_t o) { return products.weight_zero(o); },
           [&](int64_t at, int64_t o, int64_t sum) { products.finish(at, o, sum); });
}

void matmul(Context& c) {
  const int64_t depth = c.input(1).dim(0), columns = c.input(1).dim(1), zero = c.node().get_int("x_zero_point");
  const std::vector<int64_t> xs = codes_of(c.input(0)), ws = codes_of(c.input(1));
  Products products(c);
  for (int64_t at = 0; at < c.output().size(); ++at) {
    const int64_t row = at / columns, column = at % columns, weight_zero = products.weight_zero(column);
    int64_t sum = 0;
    for (int64_t k = 0; k < depth; ++k) sum += (xs[row * depth + k] - zero) * (ws[k * columns + column] - weight_zero);
    products.finish(at, column, sum);
  }
}

// A product whose input is quantized as it comes.
class DynamicProducts {
 public:
  explicit DynamicProducts(Context& c) : c_(c), y_(c.output()), scale_(c.input(4).data<float>()[0]) {}
  int64_t zero() const { return c_.has_input(3) ? c_.input(3).get_int(0) : 0; }
  int64_t weight_zero(int64_t channel) const { return c_.has_input(5) ? c_.input(5).get_int(c_.input(5).size() == 1 ? 0 : channel) : 0; }
  void finish(int64_t at, int64_t channel, int64_t sum) {
    const float scaled = static_cast<float>(static_cast<int32_t>(sum)) * (scale_ * c_.input(2).data<float>()[channel]);
    y_.data<float>()[at] = c_.has_input(6) ? scaled + c_.input(6).data<float>()[channel] : scaled;
  }

 private:
  Context& c_;
  Tensor& y_;
  float scale_;
};

void dynamic_conv(Context& c) {
  DynamicProducts products(c);
  convolve(c, products.zero(), [&](int64_t o) { return products.weight_zero(o); },
           [&](int64_t at, int64_t o, int64_t sum) { products.finish(at, o, sum); });
}

void dynamic_matmul(Context& c) {
  const int64_t depth = c.input(1).dim(0), columns = c.input(1).dim(1);
  const std::vector<int64_t> xs = codes_of(c.input(0)), ws = codes_of(c.input(1));
  DynamicProducts products(c);
  const int64_t zero = products.zero();
  for (int64_t at = 0; at < c.output().size(); ++at) {
    const int64_t row = at / columns, column = at % columns, weight_zero = products.weight_zero(column);
    int64_t sum = 0;
    for (int64_t k = 0; k < depth; ++k) sum += (xs[row * depth + k] - zero) * (ws[k * columns + column] - weight_zero);
    products.finish(at, column, sum);
  }
}

// One operand of Add and Mul, moved to u8.
struct Operand {
  const Tensor& codes;
  float scale;
  int shift, zero;
  BroadcastIndex index;
  Operand(Context& c, size_t i, const std::string& name)
      : codes(c.input(i)), scale(c.node().get_float(name + "_scale")), shift(codes.dtype() == DType::kI8 ? 128 : 0),
        zero(static_cast<int>(c.node().get_int(name + "_zero_point")) + shift), index(codes.shape(), c.output().shape()) {}
  int operator[](int64_t i) const { return static_cast<int>(codes.get_int(index[i])) + shift; }
};

void add(Context& c) {
  Tensor& y = c.output();
  const Operand a(c, 0, "a"), b(c, 1, "b");
  Requantize out = Requantize::of(c.node());
  const int shift = out.type == DType::kI8 ? 128 : 0;
  const float y_scale = c.node().get_float("y_scale"), ra = a.scale / y_scale, rb = b.scale / y_scale;
  const float constant = sum_constant(ra, a.zero, rb, b.zero, out.zero + shift);
  out.low += shift;
  out.high += shift;
  for (int64_t i = 0; i < y.size(); ++i)
    y.set_int(i, out.code_with_zero(std::fma(static_cast<float>(a[i]), ra, std::fma(static_cast<float>(b[i]), rb, constant))) - shift);
}

void mul(Context& c) {
  Tensor& y = c.output();
  const Operand a(c, 0, "a"), b(c, 1, "b");
  const Requantize out = Requantize::of(c.node());
  const float ratio = a.scale * b.scale / c.node().get_float("y_scale");
  for (int64_t i = 0; i < y.size(); ++i) {
    const float product = static_cast<float>((a[i] - a.zero) * (b[i] - b.zero)) * ratio;
    y.set_int(i, out.code_with_zero(product + static_cast<float>(out.zero)));
  }
}

void pool(Context& c) {
  const Node& n = c.node();
  const Tensor& x = c.input();
  Tensor& y = c.output();
  const Requantize out = Requantize::of(n);
  const bool mean = n.get_string("kind") == "Mean", include = n.get_int("count_include_pad") != 0;
  const float x_scale = n.get_float("x_scale"), y_scale = n.get_float("y_scale");
  const int64_t zero = n.get_int("x_zero_point");
  const auto &window = n.get_ints("kernel_shape"), &strides = n.get_ints("strides"), &pads = n.get_ints("pads");
  const Shape &in = x.shape(), &shape = y.shape();
  for (int64_t at = 0; at < y.size(); ++at) {
    const int64_t ch = at % shape[3], ox = at / shape[3] % shape[2], oy = at / (shape[3] * shape[2]) % shape[1], image = at / (shape[3] * shape[2] * shape[1]);
    int64_t total = 0, count = 0;
    float sum = 0;
    for (int64_t iy = oy * strides[0] - pads[0]; iy < oy * strides[0] - pads[0] + window[0]; ++iy)
      for (int64_t ix = ox * strides[1] - pads[1]; ix < ox * strides[1] - pads[1] + window[1]; ++ix) {
        if (iy < 0 || iy >= in[1] || ix < 0 || ix >= in[2]) continue;
        const int64_t code = x.get_int(((image * in[1] + iy) * in[2] + ix) * in[3] + ch) - zero;
        total += code;
        sum += x_scale * static_cast<float>(code);
        ++count;
      }
    if (include) count = window[0] * window[1];
    const auto divisor = static_cast<float>(std::max<int64_t>(count, 1));
    y.set_int(at, mean ? out.code(static_cast<float>(total) * (x_scale / (y_scale * divisor)))
                       : out.code_with_zero(sum / divisor / y_scale + static_cast<float>(out.zero)));
  }
}

void softmax(Context& c) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  const Requantize out = Requantize::of(c.node());
  const double x_scale = c.node().get_float("x_scale");
  const float inverse = 1.0f / c.node().get_float("y_scale");
  const int64_t width = x.dim(-1);
  for (int64_t begin = 0; begin < x.size(); begin += width) {
    int64_t largest = x.get_int(begin);
    for (int64_t i = 1; i < width; ++i) largest = std::max(largest, x.get_int(begin + i));
    auto power = [&](int64_t i) { return static_cast<float>(std::exp(static_cast<double>(x.get_int(begin + i) - largest) * x_scale)); };
    float sum = 0;
    for (int64_t i = 0; i < width; ++i) sum += power(i);
    for (int64_t i = 0; i < width; ++i) y.set_int(begin + i, out.code(power(i) * inverse / sum));
  }
}

void table(Context& c) {
  const auto *x = c.input(0).data<uint8_t>(), *entries = c.input(1).data<uint8_t>();
  Tensor& y = c.output();
  check_model(size_of(y.dtype()) == 1, "a table of {} is not supported", name_of(y.dtype()));
  for (int64_t i = 0; i < y.size(); ++i) y.data<uint8_t>()[i] = entries[x[i]];
}

}  // namespace

void register_integer(Registry& r) {
  r.add("IntegerConv", conv, "ai.lathe");
  r.add("IntegerMatMul", matmul, "ai.lathe");
  r.add("DynamicConv", dynamic_conv, "ai.lathe");
  r.add("DynamicMatMul", dynamic_matmul, "ai.lathe");
  r.add("IntegerAdd", add, "ai.lathe");
  r.add("IntegerMul", mul, "ai.lathe");
  r.add("IntegerPool", pool, "ai.lathe");
  r.add("IntegerSoftmax", softmax, "ai.lathe");
  r.add("Table", table, "ai.lathe");
}

}  // namespace lathe::reference
