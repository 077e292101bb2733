#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/reference/access.h"
#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

struct Moments {
  double mean, variance;
};

// Two passes over `count` elements given by a reader: no cancellation.
template <class Read>
Moments moments(int64_t count, Read read) {
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < count; ++i) sum += read(i);
  double mean = sum / static_cast<double>(count);
  for (int64_t i = 0; i < count; ++i) {
    double d = read(i) - mean;
    squares += d * d;
  }
  return {mean, squares / static_cast<double>(count)};
}

void batch_norm(Context& c) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  const Node& node = c.node();
  double epsilon = node.get_float("epsilon"), momentum = node.get_float("momentum");
  bool training = node.get_int("training_mode") != 0;
  int64_t channels = x.rank() > 1 ? x.dim(1) : 1;
  int64_t size = x.rank() > 2 ? product(x.shape(), 2, x.shape().size()) : 1;
  int64_t batch = x.rank() ? x.dim(0) : 1;
  for (int64_t ch = 0; ch < channels; ++ch) {
    Moments m{c.input(3).get(ch), c.input(4).get(ch)};
    if (training) {
      m = moments(batch * size, [&](int64_t i) { return x.get((i / size * channels + ch) * size + i % size); });
      if (c.has_output(1)) c.output(1).set(ch, c.input(3).get(ch) * momentum + m.mean * (1 - momentum));
      if (c.has_output(2)) c.output(2).set(ch, c.input(4).get(ch) * momentum + m.variance * (1 - momentum));
    }
    double scale = c.input(1).get(ch) / std::sqrt(m.variance + epsilon);
    double shift = c.input(2).get(ch) - m.mean * scale;
    for (int64_t n = 0; n < batch; ++n) {
      int64_t base = (n * channels + ch) * size;
      if (x.dtype() == DType::kF32) {
        for (int64_t i = 0; i < size; ++i)
          y.data<float>()[base + i] = static_cast<float>(x.data<float>()[base + i] * scale + shift);
      } else {
        for (int64_t i = 0; i < size; ++i) y.set(base + i, x.get(base + i) * scale + shift);
      }
    }
  }
  if (!training) {  // the statistics pass through
    if (c.has_output(1)) c.set_output(1, c.input(3));
    if (c.has_output(2)) c.set_output(2, c.input(4));
  }
}

// Instance and group normalization: statistics over `groups` parts of the channels of each image.
void group_norm_of(Context& c, int64_t groups) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  double epsilon = c.node().get_float("epsilon");
  int64_t channels = x.dim(1), size = product(x.shape(), 2, x.shape().size());
  if (groups == 0) return;
  int64_t part = channels / groups * size;
  for (int64_t g = 0; g < x.dim(0) * groups; ++g) {
    Moments m = moments(part, [&](int64_t i) { return x.get(g * part + i); });
    double inverse = 1 / std::sqrt(m.variance + epsilon);
    for (int64_t i = 0; i < part; ++i) {
      int64_t at = g * part + i, ch = at / size % channels;
      y.set(at, (x.get(at) - m.mean) * inverse * c.input(1).get(ch) + c.input(2).get(ch));
    }
  }
}

void instance_norm(Context& c) { group_norm_of(c, c.input().dim(1)); }
void group_norm(Context& c) { group_norm_of(c, c.node().get_int("num_groups")); }

void layer_norm(Context& c) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  int64_t axis = normalize_axis(c.node().get_int("axis"), x.rank());
  int64_t rows = product(x.shape(), 0, axis), size = product(x.shape(), axis, x.shape().size());
  double epsilon = c.node().get_float("epsilon");
  std::vector<double> scale = doubles(c.input(1)), bias, row(size);
  if (c.has_input(2)) bias = doubles(c.input(2));
  BroadcastIndex scale_at(c.input(1).shape(), x.shape());
  BroadcastIndex bias_at(c.has_input(2) ? c.input(2).shape() : Shape{}, x.shape());
  Tensor* mean = c.has_output(1) ? &c.output(1) : nullptr;
  Tensor* deviation = c.has_output(2) ? &c.output(2) : nullptr;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < size; ++i) row[i] = x.get(r * size + i);
    Moments m = moments(size, [&](int64_t i) { return row[i]; });
    double inverse = 1 / std::sqrt(m.variance + epsilon);
    if (mean) mean->set(r, m.mean);
    if (deviation) deviation->set(r, inverse);
    for (int64_t i = 0; i < size; ++i) {
      int64_t at = r * size + i;
      double value = (row[i] - m.mean) * inverse * scale[scale_at[at]];
      y.set(at, bias.empty() ? value : value + bias[bias_at[at]]);
    }
  }
}

void rms_norm(Context& c) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  int64_t axis = normalize_axis(c.node().get_int("axis"), x.rank());
  int64_t rows = product(x.shape(), 0, axis), size = product(x.shape(), axis, x.shape().size());
  double epsilon = c.node().get_float("epsilon");
  std::vector<double> scale = doubles(c.input(1));
  BroadcastIndex scale_at(c.input(1).shape(), x.shape());
  for (int64_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (int64_t i = 0; i < size; ++i) squares += x.get(r * size + i) * x.get(r * size + i);
    double inverse = 1 / std::sqrt(squares / static_cast<double>(size) + epsilon);
    for (int64_t i = 0; i < size; ++i)
      y.set(r * size + i, x.get(r * size + i) * inverse * scale[scale_at[r * size + i]]);
  }
}

void lrn(Context& c) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  const Node& node = c.node();
  double alpha = node.get_float("alpha"), beta = node.get_float("beta"), bias = node.get_float("bias");
  int64_t window = node.get_int("size"), channels = x.dim(1), size = product(x.shape(), 2, x.shape().size());
  int64_t before = std::min(channels, (window - 1) / 2), after = std::min(channels, window - 1 - (window - 1) / 2);
  for (int64_t n = 0; n < x.dim(0); ++n)
    for (int64_t ch = 0; ch < channels; ++ch)
      for (int64_t i = 0; i < size; ++i) {
        double squares = 0;
        for (int64_t k = std::max<int64_t>(0, ch - before); k <= std::min(channels - 1, ch + after); ++k) {
          double value = x.get((n * channels + k) * size + i);
          squares += value * value;
        }
        int64_t at = (n * channels + ch) * size + i;
        y.set(at, x.get(at) / std::pow(bias + alpha / static_cast<double>(window) * squares, beta));
      }
}

void mean_variance_norm(Context& c) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  std::vector<bool> reduced(x.rank(), false);
  for (int64_t axis : c.node().get_ints("axes")) reduced[normalize_axis(axis, x.rank())] = true;
  Shape kept = x.shape();
  for (size_t d = 0; d < kept.size(); ++d)
    if (reduced[d]) kept[d] = 1;
  BroadcastIndex at(kept, x.shape());
  int64_t groups = element_count(kept);
  std::vector<double> mean(groups, 0.0), variance(groups, 0.0);
  double count = static_cast<double>(x.size()) / static_cast<double>(std::max<int64_t>(1, groups));
  for (int64_t i = 0; i < x.size(); ++i) mean[at[i]] += x.get(i) / count;
  for (int64_t i = 0; i < x.size(); ++i) {
    double d = x.get(i) - mean[at[i]];
    variance[at[i]] += d * d / count;
  }
  // The standard adds 1e-9 to the deviation.
  for (int64_t i = 0; i < x.size(); ++i) y.set(i, (x.get(i) - mean[at[i]]) / (std::sqrt(variance[at[i]]) + 1e-9));
}

// Runs row(values) on each line along the node's axis and stores what it leaves there.
template <class Row>
void along_axis(Context& c, Row row) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  int64_t axis = x.rank() ? normalize_axis(c.node().get_int("axis"), x.rank()) : 0;
  int64_t size = x.rank() ? x.dim(axis) : 1;
  int64_t outer = product(x.shape(), 0, axis), inner = x.rank() ? product(x.shape(), axis + 1, x.shape().size()) : 1;
  std::vector<double> line(size);
  if (size == 0) return;
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < inner; ++i) {
      int64_t base = o * size * inner + i;
      if (x.dtype() == DType::kF32) {
        for (int64_t k = 0; k < size; ++k) line[k] = x.data<float>()[base + k * inner];
        row(line);
        for (int64_t k = 0; k < size; ++k) y.data<float>()[base + k * inner] = static_cast<float>(line[k]);
      } else {
        for (int64_t k = 0; k < size; ++k) line[k] = x.get(base + k * inner);
        row(line);
        for (int64_t k = 0; k < size; ++k) y.set(base + k * inner, line[k]);
      }
    }
}

// Subtracts the largest value, so that exp cannot overflow; returns the sum of the exponentials.
double shift_and_sum(std::vector<double>& line) {
  double largest = *std::max_element(line.begin(), line.end()), sum = 0;
  for (double& value : line) {
    value -= largest;
    sum += std::exp(value);
  }
  return sum;
}

void softmax(Context& c) {
  along_axis(c, [](std::vector<double>& line) {
    double sum = shift_and_sum(line);
    for (double& value : line) value = std::exp(value) / sum;
  });
}

void log_softmax(Context& c) {
  along_axis(c, [](std::vector<double>& line) {
    double log_sum = std::log(shift_and_sum(line));
    for (double& value : line) value -= log_sum;
  });
}

void hardmax(Context& c) {
  along_axis(c, [](std::vector<double>& line) {
    auto largest = std::max_element(line.begin(), line.end()) - line.begin();
    std::fill(line.begin(), line.end(), 0.0);
    line[largest] = 1;
  });
}

void lp_norm(Context& c) {
  int64_t p = c.node().get_int("p");
  check_model(p == 1 || p == 2, "p is {}, expected 1 or 2", p);
  along_axis(c, [p](std::vector<double>& line) {
    double sum = 0;
    for (double value : line) sum += p == 1 ? std::fabs(value) : value * value;
    double norm = p == 1 ? sum : std::sqrt(sum);
    for (double& value : line) value = norm == 0 ? 0 : value / norm;
  });
}

}  // namespace

void register_normalize(Registry& r) {
  r.add("BatchNormalization", batch_norm);
  r.add("InstanceNormalization", instance_norm);
  r.add("GroupNormalization", group_norm);
  r.add("LayerNormalization", layer_norm);
  r.add("RMSNormalization", rms_norm);
  r.add("LRN", lrn);
  r.add("LpNormalization", lp_norm);
  r.add("MeanVarianceNormalization", mean_variance_norm);
  r.add("Softmax", softmax);
  r.add("LogSoftmax", log_softmax);
  r.add("Hardmax", hardmax);
}

}  // namespace lathe::reference
