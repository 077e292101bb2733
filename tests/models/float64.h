// Networks in float64 and plain loops, written from the papers and not from the builders, for tests of these.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "kernels/reference/reference.h"
#include "models/models.h"
#include "runtime/load.h"
#include "transform/passes.h"

namespace lathe::testing {

// The map of one sample, [C, H, W]. Tokens [T, C] are maps of width 1.
struct Map {
  int64_t c = 0, h = 0, w = 0;
  std::vector<double> v;
  Map(int64_t channels, int64_t height, int64_t width) : c(channels), h(height), w(width), v(static_cast<size_t>(c * h * w), 0.0) {}
  double& at(int64_t k, int64_t i, int64_t j) { return v[static_cast<size_t>((k * h + i) * w + j)]; }
  double at(int64_t k, int64_t i, int64_t j) const { return v[static_cast<size_t>((k * h + i) * w + j)]; }
  int64_t pixels() const { return h * w; }
};

// The constants of a network by name.
class Weights {
 public:
  explicit Weights(const Graph& g) {
    for (size_t i = 0; i < g.value_count(); ++i) {
      const Value& v = g[ValueId{static_cast<int32_t>(i)}];
      if (v.is_constant() && !v.name.empty()) all_.emplace(v.name, v.constant);
    }
  }
  bool has(const std::string& name) const { return all_.contains(name); }
  const Tensor& operator[](const std::string& name) const {
    EXPECT_TRUE(has(name)) << name;
    return all_.at(name);
  }
  double get(const std::string& name, int64_t i) const { return (*this)[name].get(i); }

 private:
  std::map<std::string, Tensor> all_;
};

// Every parameter and statistic with numbers of its own, such that no factor is 1, no shift 0 and no branch small.
inline void randomize(Graph& g, uint64_t seed) {
  Builder draw("draw", {.seed = seed});
  const Parameters p = parameters_of(g);
  for (const auto* list : {&p.trained, &p.statistics})
    for (ValueId id : *list) {
      Tensor& t = g[id].constant;
      const std::string& name = g[id].name;
      const bool factor =
          name.ends_with("weight") || name.ends_with("variance") || name.find("scale") != std::string::npos || name.ends_with("gamma");
      const bool row = t.rank() == 1 || (t.rank() == 3 && t.shape()[1] == 1 && t.shape()[2] == 1);
      const double fan = static_cast<double>(t.rank() >= 4   ? t.size() / t.shape()[0]
                                             : t.rank() == 2 ? t.shape()[name.ends_with("fc.weight") ? 1 : 0]
                                                             : 1);
      for (int64_t i = 0; i < t.size(); ++i)
        t.set(i, row ? (factor ? 0.5 + draw.uniform() : draw.uniform() - 0.5) : draw.normal() / std::sqrt(fan));
    }
}

inline Map conv(const Map& x, const Weights& w, const std::string& scope, int64_t stride = 1, int64_t pad = 0, int64_t groups = 1,
                int64_t dilation = 1) {
  const Tensor& k = w[scope + ".weight"];
  const int64_t out = k.shape()[0], in = k.shape()[1], kh = k.shape()[2], kw = k.shape()[3];
  EXPECT_EQ(in * groups, x.c) << scope;
  Map y(out, (x.h + 2 * pad - (kh - 1) * dilation - 1) / stride + 1, (x.w + 2 * pad - (kw - 1) * dilation - 1) / stride + 1);
  for (int64_t o = 0; o < out; ++o)
    for (int64_t i = 0; i < y.h; ++i)
      for (int64_t j = 0; j < y.w; ++j) {
        double sum = w.has(scope + ".bias") ? w.get(scope + ".bias", o) : 0;
        for (int64_t c = 0; c < in; ++c)
          for (int64_t p = 0; p < kh; ++p)
            for (int64_t q = 0; q < kw; ++q) {
              const int64_t row = i * stride - pad + p * dilation, column = j * stride - pad + q * dilation;
              if (row >= 0 && row < x.h && column >= 0 && column < x.w)
                sum += k.get(((o * in + c) * kh + p) * kw + q) * x.at(o / (out / groups) * in + c, row, column);
            }
        y.at(o, i, j) = sum;
      }
  return y;
}

template <class F>
Map each(Map x, F f) {
  for (double& v : x.v) v = f(v);
  return x;
}
inline double gelu(double x) { return x / 2 * (1 + std::erf(x / std::sqrt(2.0))); }
inline double silu(double x) { return x / (1 + std::exp(-x)); }
inline Map plus(Map a, const Map& b) {
  EXPECT_EQ(a.v.size(), b.v.size());
  for (size_t i = 0; i < a.v.size(); ++i) a.v[i] += b.v[i];
  return a;
}
inline Map times_channels(Map x, const Weights& w, const std::string& name) {
  for (int64_t c = 0; c < x.c; ++c)
    for (int64_t i = 0; i < x.pixels(); ++i) x.v[static_cast<size_t>(c * x.pixels() + i)] *= w.get(name, c);
  return x;
}

// Over what has one number in `part(c, i, j)`.
template <class Part>
Map normed(Map x, const Weights& w, const std::string& scope, double epsilon, Part part) {
  std::map<int64_t, std::vector<double>> parts;
  for (int64_t c = 0; c < x.c; ++c)
    for (int64_t i = 0; i < x.pixels(); ++i) parts[part(c, i)].push_back(x.v[static_cast<size_t>(c * x.pixels() + i)]);
  std::map<int64_t, std::pair<double, double>> moments;
  for (const auto& [key, values] : parts) {
    double mean = 0, square = 0;
    for (double v : values) mean += v / static_cast<double>(values.size());
    for (double v : values) square += (v - mean) * (v - mean) / static_cast<double>(values.size());
    moments[key] = {mean, std::sqrt(square + epsilon)};
  }
  for (int64_t c = 0; c < x.c; ++c)
    for (int64_t i = 0; i < x.pixels(); ++i) {
      double& v = x.v[static_cast<size_t>(c * x.pixels() + i)];
      const auto& [mean, root] = moments[part(c, i)];
      v = (v - mean) / root * w.get(scope + ".weight", c) + (w.has(scope + ".bias") ? w.get(scope + ".bias", c) : 0);
    }
  return x;
}
inline Map whole_norm(const Map& x, const Weights& w, const std::string& scope, double epsilon) {
  return normed(x, w, scope, epsilon, [](int64_t, int64_t) { return int64_t{0}; });
}
inline Map pixel_norm(const Map& x, const Weights& w, const std::string& scope, double epsilon) {
  return normed(x, w, scope, epsilon, [](int64_t, int64_t i) { return i; });
}
inline Map batch_norm(Map x, const Weights& w, const std::string& scope, double epsilon) {
  for (int64_t c = 0; c < x.c; ++c)
    for (int64_t i = 0; i < x.pixels(); ++i) {
      double& v = x.v[static_cast<size_t>(c * x.pixels() + i)];
      v = (v - w.get(scope + ".mean", c)) / std::sqrt(w.get(scope + ".variance", c) + epsilon) * w.get(scope + ".weight", c) +
          w.get(scope + ".bias", c);
    }
  return x;
}
inline Map mean(const Map& x) {
  Map y(x.c, 1, 1);
  for (int64_t c = 0; c < x.c; ++c)
    for (int64_t i = 0; i < x.pixels(); ++i) y.at(c, 0, 0) += x.v[static_cast<size_t>(c * x.pixels() + i)] / static_cast<double>(x.pixels());
  return y;
}
// Of the channels of each pixel. `out_first`: the weight is [out, in], else [in, out].
inline Map linear(const Map& x, const Weights& w, const std::string& scope, bool out_first) {
  const Tensor& k = w[scope + ".weight"];
  const int64_t out = k.shape()[out_first ? 0 : 1];
  Map y(out, x.h, x.w);
  for (int64_t o = 0; o < out; ++o)
    for (int64_t i = 0; i < x.pixels(); ++i) {
      double sum = w.has(scope + ".bias") ? w.get(scope + ".bias", o) : 0;
      for (int64_t c = 0; c < x.c; ++c) sum += k.get(out_first ? o * x.c + c : c * out + o) * x.v[static_cast<size_t>(c * x.pixels() + i)];
      y.v[static_cast<size_t>(o * x.pixels() + i)] = sum;
    }
  return y;
}
// softmax(q·kᵀ/√size)·v of heads, over the pixels; the channels of the product are [3, heads, size].
inline Map attention(const Map& x, const Weights& w, const std::string& scope, int64_t heads) {
  const Map all = linear(x, w, scope + ".qkv", false);
  const int64_t size = x.c / heads, tokens = x.pixels();
  const auto channel = [&](int64_t part, int64_t head, int64_t k, int64_t token) {
    return all.v[static_cast<size_t>(((part * heads + head) * size + k) * tokens + token)];
  };
  Map y(x.c, x.h, x.w);
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<double> weight(static_cast<size_t>(tokens));
      double top = -INFINITY, sum = 0;
      for (int64_t s = 0; s < tokens; ++s) {
        double dot = 0;
        for (int64_t k = 0; k < size; ++k) dot += channel(0, head, k, t) * channel(1, head, k, s);
        top = std::max(top, weight[static_cast<size_t>(s)] = dot / std::sqrt(static_cast<double>(size)));
      }
      for (double& v : weight) sum += v = std::exp(v - top);
      for (int64_t s = 0; s < tokens; ++s)
        for (int64_t k = 0; k < size; ++k)
          y.v[static_cast<size_t>((head * size + k) * tokens + t)] += weight[static_cast<size_t>(s)] / sum * channel(2, head, k, s);
    }
  return linear(y, w, scope + ".projection", false);
}

// The network's first output for two samples, by the reference kernels, against `expected` of each, within 1e-5 of the largest.
template <class F>
void expect_same(const Graph& g, F expected, const std::string& text) {
  Shape shape = *g[g.inputs[0]].shape;
  shape[0] = 2;
  Graph sized = g;
  specialize(sized, {{g[g.inputs[0]].name, shape}});
  const Tensor x = random_tensor(DType::kF32, shape, 11);
  const Tensor y = reference::run_graph(sized, {x})[0];
  const int64_t each_in = x.size() / 2, each_out = y.size() / 2;
  for (int64_t sample = 0; sample < 2; ++sample) {
    Map m(shape[1], shape[2], shape[3]);
    for (int64_t i = 0; i < each_in; ++i) m.v[static_cast<size_t>(i)] = x.get(sample * each_in + i);
    const Map e = expected(m);
    ASSERT_EQ(static_cast<int64_t>(e.v.size()), each_out) << text;
    double largest = 0, error = 0;
    for (int64_t i = 0; i < each_out; ++i) {
      largest = std::max(largest, std::abs(e.v[static_cast<size_t>(i)]));
      error = std::max(error, std::abs(e.v[static_cast<size_t>(i)] - y.get(sample * each_out + i)));
    }
    EXPECT_LE(error, 1e-5 * largest) << text << ", sample " << sample;
    EXPECT_GT(largest, 0) << text;
  }
}

}  // namespace lathe::testing
