#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "graph/ops/window.h"
#include "kernels/reference/access.h"
#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

using ops::Window;

using Sizes = std::array<int64_t, 3>;

// Spatial lists of one to three axes, led by neutral entries so that all loops have three levels.
Sizes three(const std::vector<int64_t>& list, int64_t neutral, size_t skip = 0) {
  size_t count = list.size() - skip;
  if (count > 3)
    fail(ErrorKind::kUnsupported, "at most three spatial axes are supported, found {}", count);
  Sizes result = {neutral, neutral, neutral};
  std::copy(list.begin() + skip, list.end(), result.end() - count);
  return result;
}

struct ConvGeometry {
  int64_t batch, groups, group_inputs, group_outputs;  // channels a group
  Sizes in, out, kernel, stride, dilation, pad;
  int64_t in_size() const { return in[0] * in[1] * in[2]; }
  int64_t out_size() const { return out[0] * out[1] * out[2]; }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
};

ConvGeometry geometry(const Node& node, const Tensor& x, const Tensor& w, const Shape& out) {
  std::vector<int64_t> kernel(w.shape().begin() + 2, w.shape().end());
  Window window = ops::resolve_window(ops::spatial_of(x.shape()), ops::window_attributes(node, kernel));
  ConvGeometry g;
  g.batch = x.dim(0);
  g.groups = node.get_int("group");
  g.group_inputs = w.dim(1);
  g.group_outputs = w.dim(0) / g.groups;
  g.in = three(x.shape(), 1, 2);
  g.out = three(out, 1, 2);
  g.kernel = three(window.kernel, 1);
  g.stride = three(window.strides, 1);
  g.dilation = three(window.dilations, 1);
  g.pad = three(window.begin, 0);
  return g;
}

// Positions [first, last) of a window along one axis for which position·stride + offset lies in [0, size).
std::pair<int64_t, int64_t> valid_range(int64_t positions, int64_t stride, int64_t offset, int64_t size) {
  int64_t first = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
  int64_t last = offset >= size ? 0 : (size - 1 - offset) / stride + 1;
  return {first, std::max(first, std::min(last, positions))};
}

// Calls store(output index, output channel, sum) for every output element.
template <class T, class Sum, class Store>
void convolve(const ConvGeometry& g, const T* x, const T* w, Store store) {
  int64_t channels = g.groups * g.group_outputs, work = g.batch * channels;
#pragma omp parallel for schedule(dynamic)
  for (int64_t job = 0; job < work; ++job) {
    int64_t n = job / channels, m = job % channels, group = m / g.group_outputs;
    std::vector<Sum> row(g.out[2]);
    const T* image = x + (n * g.groups + group) * g.group_inputs * g.in_size();
    const T* weight = w + m * g.group_inputs * g.taps();
    for (int64_t oz = 0; oz < g.out[0]; ++oz)
      for (int64_t oy = 0; oy < g.out[1]; ++oy) {
        std::fill(row.begin(), row.end(), Sum{0});
        for (int64_t c = 0; c < g.group_inputs; ++c)
          for (int64_t kz = 0; kz < g.kernel[0]; ++kz) {
            int64_t iz = oz * g.stride[0] - g.pad[0] + kz * g.dilation[0];
            if (iz < 0 || iz >= g.in[0]) continue;
            for (int64_t ky = 0; ky < g.kernel[1]; ++ky) {
              int64_t iy = oy * g.stride[1] - g.pad[1] + ky * g.dilation[1];
              if (iy < 0 || iy >= g.in[1]) continue;
              const T* line = image + ((c * g.in[0] + iz) * g.in[1] + iy) * g.in[2];
              for (int64_t kx = 0; kx < g.kernel[2]; ++kx) {
                int64_t offset = kx * g.dilation[2] - g.pad[2];
                auto [first, last] = valid_range(g.out[2], g.stride[2], offset, g.in[2]);
                Sum tap = weight[((c * g.kernel[0] + kz) * g.kernel[1] + ky) * g.kernel[2] + kx];
                for (int64_t ox = first; ox < last; ++ox)
                  row[ox] += tap * static_cast<Sum>(line[ox * g.stride[2] + offset]);
              }
            }
          }
        int64_t base = ((job * g.out[0] + oz) * g.out[1] + oy) * g.out[2];
        for (int64_t ox = 0; ox < g.out[2]; ++ox) store(base + ox, m, row[ox]);
      }
  }
}

void conv(Context& c) {
  const Tensor &x = c.input(0), &w = c.input(1);
  Tensor& y = c.output();
  ConvGeometry g = geometry(c.node(), x, w, y.shape());
  std::vector<double> bias = c.has_input(2) ? doubles(c.input(2)) : std::vector<double>(w.dim(0), 0.0);
  if (x.dtype() == DType::kF32 && w.dtype() == DType::kF32) {
    float* out = y.data<float>();
    convolve<float, double>(g, x.data<float>(), w.data<float>(), [&](int64_t i, int64_t m, double sum) {
      out[i] = static_cast<float>(sum + bias[m]);
    });
  } else {
    std::vector<double> xs = doubles(x), ws = doubles(w);
    convolve<double, double>(g, xs.data(), ws.data(),
                             [&](int64_t i, int64_t m, double sum) { y.set(i, sum + bias[m]); });
  }
}

// Quantized operators take integers of 8 bits; nothing overflows then.
void expect_bytes(const Tensor* t) {
  if (t && (!is_integer(t->dtype()) || size_of(t->dtype()) != 1))
    fail(ErrorKind::kUnsupported, "quantized operands of type {} are not supported, only i8 and u8", name_of(t->dtype()));
}

// Elements less a zero point, which is one value or one for each entry of axis 0.
std::vector<int64_t> centred(const Tensor& t, const Tensor* zero, const char* what) {
  expect_bytes(&t);
  expect_bytes(zero);
  std::vector<int64_t> values(t.size());
  int64_t count = zero ? zero->size() : 1, rows = t.rank() ? t.dim(0) : 1;
  check_model(count == 1 || count == rows, "the zero point of {} has {} elements for {} rows", what, count, rows);
  int64_t row = std::max<int64_t>(1, t.size() / std::max<int64_t>(1, rows));
  for (int64_t i = 0; i < t.size(); ++i)
    values[i] = t.get_int(i) - (zero ? zero->get_int(count == 1 ? 0 : i / row) : 0);
  return values;
}

void conv_integer(Context& c) {
  const Tensor &x = c.input(0), &w = c.input(1);
  Tensor& y = c.output();
  ConvGeometry g = geometry(c.node(), x, w, y.shape());
  const Tensor* x_zero = c.has_input(2) ? &c.input(2) : nullptr;
  check_model(!x_zero || x_zero->size() == 1, "x_zero_point has {} elements, expected 1", x_zero ? x_zero->size() : 0);
  std::vector<int64_t> xs = centred(x, x_zero, "x");
  std::vector<int64_t> ws = centred(w, c.has_input(3) ? &c.input(3) : nullptr, "w");
  convolve<int64_t, int64_t>(g, xs.data(), ws.data(), [&](int64_t i, int64_t, int64_t sum) {
    y.set_int(i, static_cast<int32_t>(sum));
  });
}

void qlinear_conv(Context& c) {
  const Tensor &x = c.input(0), &w = c.input(3), &w_scale = c.input(4);
  Tensor& y = c.output();
  ConvGeometry g = geometry(c.node(), x, w, y.shape());
  for (size_t i : {1, 2, 6, 7})
    check_model(c.input(i).size() == 1, "input {} has {} elements, expected 1", i, c.input(i).size());
  check_model(w_scale.size() == 1 || w_scale.size() == w.dim(0), "w_scale has {} elements for {} channels",
              w_scale.size(), w.dim(0));
  std::vector<int64_t> xs = centred(x, &c.input(2), "x"), ws = centred(w, &c.input(5), "w");
  double x_scale = c.input(1).get(0), y_scale = c.input(6).get(0);
  double zero = static_cast<double>(c.input(7).get_int(0));
  expect_bytes(&y);
  check_model(!c.has_input(8) || c.input(8).dtype() == DType::kI32, "the bias of QLinearConv must be i32");
  bool natural = !is_signed(y.dtype());
  double low = natural ? 0 : -128, high = natural ? 255 : 127;
  convolve<int64_t, int64_t>(g, xs.data(), ws.data(), [&](int64_t i, int64_t m, int64_t sum) {
    if (c.has_input(8)) sum += c.input(8).get_int(m);
    double scale = x_scale * w_scale.get(w_scale.size() == 1 ? 0 : m) / y_scale;
    double value = std::nearbyint(static_cast<double>(sum) * scale) + zero;
    y.set(i, std::min(std::max(value, low), high));
  });
}

void conv_transpose(Context& c) {
  const Tensor &x = c.input(0), &w = c.input(1);
  Tensor& y = c.output();
  const Node& node = c.node();
  std::vector<int64_t> kernel(w.shape().begin() + 2, w.shape().end()), sizes = node.get_ints("output_shape");
  if (sizes.size() == x.shape().size()) sizes.erase(sizes.begin(), sizes.begin() + 2);
  Window window = ops::resolve_transposed_window(ops::spatial_of(x.shape()), ops::window_attributes(node, kernel),
                                                 node.get_ints("output_padding"), sizes);
  Sizes in = three(x.shape(), 1, 2), out = three(y.shape(), 1, 2), taps = three(window.kernel, 1);
  Sizes stride = three(window.strides, 1), dilation = three(window.dilations, 1), pad = three(window.begin, 0);
  int64_t groups = node.get_int("group"), channels = x.dim(1) / groups, outputs = w.dim(1);
  int64_t in_size = in[0] * in[1] * in[2], out_size = out[0] * out[1] * out[2];
  int64_t tap_count = taps[0] * taps[1] * taps[2], jobs = y.dim(0) * y.dim(1);
  std::vector<double> xs = doubles(x), ws = doubles(w);
#pragma omp parallel for schedule(dynamic)
  for (int64_t job = 0; job < jobs; ++job) {
    int64_t n = job / (groups * outputs), m = job % (groups * outputs), group = m / outputs;
    std::vector<double> sum(out_size, c.has_input(2) ? c.input(2).get(m) : 0.0);
    for (int64_t k = 0; k < channels; ++k) {
      const double* image = xs.data() + ((n * groups + group) * channels + k) * in_size;
      const double* weight = ws.data() + ((group * channels + k) * outputs + m % outputs) * tap_count;
      for (int64_t iz = 0; iz < in[0]; ++iz)
        for (int64_t iy = 0; iy < in[1]; ++iy)
          for (int64_t kz = 0; kz < taps[0]; ++kz)
            for (int64_t ky = 0; ky < taps[1]; ++ky) {
              int64_t oz = iz * stride[0] + kz * dilation[0] - pad[0];
              int64_t oy = iy * stride[1] + ky * dilation[1] - pad[1];
              if (oz < 0 || oz >= out[0] || oy < 0 || oy >= out[1]) continue;
              for (int64_t kx = 0; kx < taps[2]; ++kx) {
                int64_t offset = kx * dilation[2] - pad[2];
                auto [first, last] = valid_range(in[2], stride[2], offset, out[2]);
                double tap = weight[(kz * taps[1] + ky) * taps[2] + kx];
                for (int64_t ix = first; ix < last; ++ix)
                  sum[(oz * out[1] + oy) * out[2] + ix * stride[2] + offset] +=
                      tap * image[(iz * in[1] + iy) * in[2] + ix];
              }
            }
    }
    for (int64_t i = 0; i < out_size; ++i) y.set(job * out_size + i, sum[i]);
  }
}

// Multilinear interpolation at a fractional position of an image of any rank; zero outside.
double interpolate(const double* image, const Shape& sizes, const std::vector<double>& at) {
  size_t rank = sizes.size();
  double sum = 0;
  for (size_t corner = 0; corner < (size_t{1} << rank); ++corner) {
    double weight = 1;
    int64_t index = 0;
    bool inside = true;
    for (size_t d = 0; d < rank && inside; ++d) {
      double low = std::floor(at[d]), part = at[d] - low;
      double position = low + static_cast<double>(corner >> d & 1);
      inside = position >= 0 && position < static_cast<double>(sizes[d]);
      if (!inside) break;
      weight *= corner >> d & 1 ? part : 1 - part;
      index = index * sizes[d] + static_cast<int64_t>(position);
    }
    if (inside && weight != 0) sum += weight * image[index];
  }
  return sum;
}

// Steps a multi-index through `sizes` in row-major order.
void advance(std::vector<int64_t>& index, const Shape& sizes) {
  for (size_t d = index.size(); d-- > 0;) {
    if (++index[d] < sizes[d]) return;
    index[d] = 0;
  }
}

void deform_conv(Context& c) {
  const Tensor &x = c.input(0), &w = c.input(1), &offset = c.input(2);
  Tensor& y = c.output();
  Shape in = ops::spatial_of(x.shape()), kernel(w.shape().begin() + 2, w.shape().end());
  Shape out(y.shape().begin() + 2, y.shape().end());
  size_t rank = in.size();
  if (rank > 8) fail(ErrorKind::kUnsupported, "at most eight spatial axes are supported, found {}", rank);
  Window window = ops::resolve_window(in, ops::window_attributes(c.node(), kernel));
  int64_t groups = c.node().get_int("group"), offset_groups = c.node().get_int("offset_group");
  int64_t in_size = element_count(in), out_size = element_count(out), taps = element_count(kernel);
  int64_t channels = x.dim(1), group_inputs = w.dim(1), outputs = w.dim(0);
  std::vector<double> xs = doubles(x), ws = doubles(w), offsets = doubles(offset);
  std::vector<double> mask = c.has_input(4) ? doubles(c.input(4)) : std::vector<double>();
  std::vector<double> columns(channels * taps), at(rank);
  for (int64_t n = 0; n < x.dim(0); ++n) {
    std::vector<int64_t> o(rank, 0);
    for (int64_t p = 0; p < out_size; ++p, advance(o, out)) {
      for (int64_t ch = 0; ch < channels; ++ch) {
        int64_t block = n * offset_groups + ch / (channels / offset_groups);
        std::vector<int64_t> k(rank, 0);
        for (int64_t t = 0; t < taps; ++t, advance(k, kernel)) {
          for (size_t d = 0; d < rank; ++d)
            at[d] = static_cast<double>(o[d] * window.strides[d] - window.begin[d] + k[d] * window.dilations[d]) +
                    offsets[((block * taps + t) * rank + d) * out_size + p];
          double value = interpolate(xs.data() + (n * channels + ch) * in_size, in, at);
          columns[ch * taps + t] = mask.empty() ? value : value * mask[(block * taps + t) * out_size + p];
        }
      }
      for (int64_t m = 0; m < outputs; ++m) {
        const double* weight = ws.data() + m * group_inputs * taps;
        const double* column = columns.data() + m / (outputs / groups) * group_inputs * taps;
        double sum = c.has_input(3) ? c.input(3).get(m) : 0;
        for (int64_t i = 0; i < group_inputs * taps; ++i) sum += weight[i] * column[i];
        y.set((n * outputs + m) * out_size + p, sum);
      }
    }
  }
}

struct PoolGeometry {
  Sizes in, out, kernel, stride, dilation, pad, pad_end;
  int64_t images;
};

PoolGeometry pool_geometry(Context& c) {
  c.output();  // first: it checks the shapes
  const Tensor& x = c.input();
  Window w = ops::resolve_window(ops::spatial_of(x.shape()), ops::window_attributes(c.node()));
  return {three(x.shape(), 1, 2), three(c.output().shape(), 1, 2), three(w.kernel, 1), three(w.strides, 1),
          three(w.dilations, 1), three(w.begin, 0), three(w.end, 0), x.dim(0) * x.dim(1)};
}

// Visits the windows of one image: body(output offset in the image, first position of the window).
template <class Body>
void each_window(const PoolGeometry& g, Body body) {
  int64_t at = 0;
  for (int64_t z = 0; z < g.out[0]; ++z)
    for (int64_t y = 0; y < g.out[1]; ++y)
      for (int64_t x = 0; x < g.out[2]; ++x, ++at)
        body(at, Sizes{z * g.stride[0] - g.pad[0], y * g.stride[1] - g.pad[1], x * g.stride[2] - g.pad[2]});
}

// Visits the elements of a window that lie inside the image: body(offset in the image).
template <class Body>
void each_element(const PoolGeometry& g, const Sizes& start, Body body) {
  std::array<std::pair<int64_t, int64_t>, 3> range;
  for (int d = 0; d < 3; ++d) range[d] = valid_range(g.kernel[d], g.dilation[d], start[d], g.in[d]);
  for (int64_t kz = range[0].first; kz < range[0].second; ++kz)
    for (int64_t ky = range[1].first; ky < range[1].second; ++ky) {
      int64_t line = ((start[0] + kz * g.dilation[0]) * g.in[1] + start[1] + ky * g.dilation[1]) * g.in[2];
      for (int64_t kx = range[2].first; kx < range[2].second; ++kx) body(line + start[2] + kx * g.dilation[2]);
    }
}

// Calls body with a function that reads an element as double: directly for f32, through Tensor otherwise.
template <class Body>
void with_reader(const Tensor& t, Body body) {
  if (t.dtype() == DType::kF32) {
    const float* data = t.data<float>();
    body([data](int64_t i) { return static_cast<double>(data[i]); });
  } else {
    body([&t](int64_t i) { return t.get(i); });
  }
}

template <class Read>
void max_pool_of(Context& c, const PoolGeometry& g, Read read) {
  Tensor& y = c.output();
  int64_t in_size = g.in[0] * g.in[1] * g.in[2], out_size = g.out[0] * g.out[1] * g.out[2];
  bool column_major = c.node().get_int("storage_order") != 0;
  Tensor* indices = c.has_output(1) ? &c.output(1) : nullptr;
#pragma omp parallel for schedule(dynamic)
  for (int64_t image = 0; image < g.images; ++image)
    each_window(g, [&](int64_t at, const Sizes& start) {
      double best = 0;
      int64_t where = -1;
      each_element(g, start, [&](int64_t i) {
        double value = read(image * in_size + i);
        if (where < 0 || value > best || (std::isnan(value) && !std::isnan(best))) best = value, where = i;
      });
      // A window that lies in the padding alone has the least value of the type.
      if (where < 0)
        best = is_float(y.dtype()) ? -std::numeric_limits<double>::infinity() : is_signed(y.dtype()) ? -128 : 0;
      y.set(image * out_size + at, best);
      if (!indices) return;
      if (column_major && where >= 0) {
        int64_t x = where % g.in[2], row = where / g.in[2] % g.in[1], z = where / (g.in[2] * g.in[1]);
        where = (x * g.in[1] + row) * g.in[0] + z;
      }
      indices->data<int64_t>()[image * out_size + at] = where < 0 ? where : image * in_size + where;
    });
}

void max_pool(Context& c) {
  PoolGeometry g = pool_geometry(c);
  with_reader(c.input(), [&](auto read) { max_pool_of(c, g, read); });
}

template <class Read>
void average_pool_of(const PoolGeometry& g, Tensor& y, bool include_pad, Read read) {
  int64_t in_size = g.in[0] * g.in[1] * g.in[2], out_size = g.out[0] * g.out[1] * g.out[2];
#pragma omp parallel for schedule(dynamic)
  for (int64_t image = 0; image < g.images; ++image)
    each_window(g, [&](int64_t at, const Sizes& start) {
      double sum = 0;
      int64_t count = 0;
      each_element(g, start, [&](int64_t i) {
        sum += read(image * in_size + i);
        ++count;
      });
      if (include_pad) {
        // Padding counts, but not what ceil_mode lets a window reach beyond it.
        count = 1;
        for (int d = 0; d < 3; ++d) {
          auto [first, last] = valid_range(g.kernel[d], g.dilation[d], start[d] + g.pad[d],
                                           g.in[d] + g.pad[d] + g.pad_end[d]);
          count *= last - first;
        }
      }
      y.set(image * out_size + at, count ? sum / static_cast<double>(count) : 0.0);
    });
}

void average_pool(Context& c) {
  PoolGeometry g = pool_geometry(c);
  bool include_pad = c.node().get_int("count_include_pad") != 0;
  Tensor& y = c.output();
  with_reader(c.input(), [&](auto read) { average_pool_of(g, y, include_pad, read); });
}

int64_t norm_order(const Node& node) {
  int64_t p = node.get_int("p");
  check_model(p >= 1, "p is {}, expected at least 1", p);
  return p;
}
double power_of(double x, int64_t p) {
  x = std::fabs(x);
  return p == 1 ? x : p == 2 ? x * x : std::pow(x, static_cast<double>(p));
}
double root_of(double x, int64_t p) {
  return p == 1 ? x : p == 2 ? std::sqrt(x) : std::pow(x, 1.0 / static_cast<double>(p));
}

void lp_pool(Context& c) {
  PoolGeometry g = pool_geometry(c);
  Tensor& y = c.output();
  int64_t in_size = g.in[0] * g.in[1] * g.in[2], out_size = g.out[0] * g.out[1] * g.out[2];
  int64_t p = norm_order(c.node());
  for (int64_t image = 0; image < g.images; ++image)
    each_window(g, [&](int64_t at, const Sizes& start) {
      double sum = 0;
      each_element(g, start, [&](int64_t i) { sum += power_of(c.input().get(image * in_size + i), p); });
      y.set(image * out_size + at, root_of(sum, p));
    });
}

// Reduces each image to one element: fold(accumulator, value), then finish(accumulator, count).
template <class Fold, class Finish>
void global_pool(Context& c, double start, Fold fold, Finish finish) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  int64_t size = product(x.shape(), 2, x.shape().size());
  for (int64_t image = 0; image < y.size(); ++image) {
    double value = start;
    for (int64_t i = 0; i < size; ++i) value = fold(value, x.get(image * size + i));
    y.set(image, finish(value, size));
  }
}

void global_average_pool(Context& c) {
  global_pool(c, 0.0, [](double sum, double x) { return sum + x; },
              [](double sum, int64_t count) { return sum / static_cast<double>(count); });
}

void global_max_pool(Context& c) {
  global_pool(c, -std::numeric_limits<double>::infinity(),
              [](double best, double x) { return std::isnan(x) || x > best ? x : best; },
              [](double best, int64_t) { return best; });
}

void global_lp_pool(Context& c) {
  int64_t p = norm_order(c.node());
  global_pool(c, 0.0, [p](double sum, double x) { return sum + power_of(x, p); },
              [p](double sum, int64_t) { return root_of(sum, p); });
}

void max_unpool(Context& c) {
  const Tensor &x = c.input(0), &indices = c.input(1);
  Tensor& y = c.output();
  check_model(indices.shape() == x.shape(), "indices have shape {}, expected {}", to_string(indices.shape()),
              to_string(x.shape()));
  // Indices count positions in the shape that the attributes give, even where output_shape is larger.
  Window w = ops::resolve_transposed_window(ops::spatial_of(x.shape()), ops::window_attributes(c.node()), {}, {});
  Shape inferred = {x.dim(0), x.dim(1)};
  inferred.insert(inferred.end(), w.outputs.begin(), w.outputs.end());
  int64_t count = element_count(inferred);
  std::vector<int64_t> strides = strides_of(y.shape());
  size_t width = size_of(y.dtype());
  std::memset(y.raw(), 0, y.bytes());
  for (int64_t i = 0; i < x.size(); ++i) {
    int64_t from = indices.get_int(i), to = 0;
    if (from < 0 || from >= count)
      fail(ErrorKind::kInput, "index {} is out of range for shape {}", from, to_string(inferred));
    for (size_t d = inferred.size(); d-- > 0; from /= inferred[d]) {
      int64_t position = from % inferred[d];
      if (position >= y.shape()[d])
        fail(ErrorKind::kInput, "index {} falls outside the output shape {}", indices.get_int(i), to_string(y.shape()));
      to += position * strides[d];
    }
    std::memcpy(y.data<char>() + to * width, x.data<char>() + i * width, width);
  }
}

void col2im(Context& c) {
  const Tensor& x = c.input(0);
  Tensor& y = c.output();
  Shape image = c.input(1).to_i64(), block = c.input(2).to_i64();
  size_t rank = image.size();
  ops::WindowAttributes attributes{.kernel = block, .strides = c.node().get_ints("strides"),
                                   .dilations = c.node().get_ints("dilations"), .pads = c.node().get_ints("pads")};
  Window w = ops::resolve_window(image, attributes);
  int64_t taps = element_count(block), positions = element_count(w.outputs), size = element_count(image);
  check_model(x.dim(2) == positions, "input of shape {} has {} columns, expected {}", to_string(x.shape()), x.dim(2),
              positions);
  std::vector<int64_t> strides = strides_of(image);
  std::vector<double> sum(size);
  for (int64_t plane = 0; plane < y.dim(0) * y.dim(1); ++plane) {
    std::fill(sum.begin(), sum.end(), 0.0);
    std::vector<int64_t> k(rank, 0);
    for (int64_t t = 0; t < taps; ++t, advance(k, block)) {
      std::vector<int64_t> o(rank, 0);
      for (int64_t p = 0; p < positions; ++p, advance(o, w.outputs)) {
        int64_t to = 0;
        bool inside = true;
        for (size_t d = 0; d < rank; ++d) {
          int64_t at = o[d] * w.strides[d] - w.begin[d] + k[d] * w.dilations[d];
          inside = inside && at >= 0 && at < image[d];
          to += at * strides[d];
        }
        if (inside) sum[to] += x.get((plane * taps + t) * positions + p);
      }
    }
    for (int64_t i = 0; i < size; ++i) y.set(plane * size + i, sum[i]);
  }
}

void causal_conv(Context& c) {
  const Tensor &x = c.input(0), &w = c.input(1);
  Tensor& y = c.output();
  int64_t length = x.dim(2), kernel = w.dim(2), past = kernel - 1;
  bool activate = c.node().get_string("activation") != "none";
  Tensor* present = c.has_output(1) ? &c.output(1) : nullptr;
  std::vector<double> line(past + length);
  for (int64_t row = 0; row < x.dim(0) * x.dim(1); ++row) {
    int64_t channel = row % x.dim(1);
    for (int64_t i = 0; i < past; ++i) line[i] = c.has_input(3) ? c.input(3).get(row * past + i) : 0;
    for (int64_t i = 0; i < length; ++i) line[past + i] = x.get(row * length + i);
    for (int64_t i = 0; i < length; ++i) {
      double sum = c.has_input(2) ? c.input(2).get(channel) : 0;
      for (int64_t k = 0; k < kernel; ++k) sum += w.get(channel * kernel + k) * line[i + k];
      y.set(row * length + i, activate ? sum / (1 + std::exp(-sum)) : sum);
    }
    if (present)
      for (int64_t i = 0; i < past; ++i) present->set(row * past + i, line[length + i]);
  }
}

}  // namespace

void register_conv(Registry& r) {
  r.add("Conv", conv);
  r.add("ConvTranspose", conv_transpose);
  r.add("ConvInteger", conv_integer);
  r.add("QLinearConv", qlinear_conv);
  r.add("DeformConv", deform_conv);
  r.add("MaxPool", max_pool);
  r.add("AveragePool", average_pool);
  r.add("LpPool", lp_pool);
  r.add("GlobalAveragePool", global_average_pool);
  r.add("GlobalMaxPool", global_max_pool);
  r.add("GlobalLpPool", global_lp_pool);
  r.add("MaxUnpool", max_unpool);
  r.add("Col2Im", col2im);
  r.add("CausalConvWithState", causal_conv);
}

}  // namespace lathe::reference
