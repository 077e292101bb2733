// Convolutions for training, forward and backward, against plain loops in f64.
#include "kernels/convolution.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

#include "core/parallel.h"
#include "kernels/product.h"

namespace lathe {
namespace {

constexpr float kNone = std::numeric_limits<float>::infinity();

struct Case {
  int64_t images, channels, out, groups;
  std::vector<int64_t> picture, kernel, strides, dilations, begin, end;
  float low = -kNone, high = kNone;
};

ConvolutionShape shape_of(const Case& c) {
  ConvolutionShape s{{c.images, c.channels}, {c.out, c.channels / c.groups}, {c.images, c.out}, c.strides, c.dilations, c.begin, c.end, c.groups, c.low, c.high};
  for (size_t i = 0; i < c.picture.size(); ++i) {
    s.input.push_back(c.picture[i]);
    s.weights.push_back(c.kernel[i]);
    s.output.push_back((c.picture[i] + c.begin[i] + c.end[i] - (c.kernel[i] - 1) * c.dilations[i] - 1) / c.strides[i] + 1);
  }
  return s;
}

// Calls f(x's, the weight's, y's index) for every product of the sum. Two axes are three of which the first has one element.
template <class F>
void each_product(ConvolutionShape s, F&& f) {
  for (auto* v : {&s.input, &s.weights, &s.output})
    if (v->size() == 4) v->insert(v->begin() + 2, 1);
  for (auto* v : {&s.strides, &s.dilations})
    if (v->size() == 2) v->insert(v->begin(), 1);
  if (s.begin.size() == 2) s.begin.insert(s.begin.begin(), 0);
  const auto &x = s.input, &w = s.weights, &y = s.output;
  const int64_t out_of_group = w[0] / s.groups;
  for (int64_t n = 0; n < y[0]; ++n)
    for (int64_t a = 0; a < y[2]; ++a)
      for (int64_t b = 0; b < y[3]; ++b)
        for (int64_t c = 0; c < y[4]; ++c)
          for (int64_t o = 0; o < w[0]; ++o)
            for (int64_t i = 0; i < w[1]; ++i)
              for (int64_t p = 0; p < w[2]; ++p)
                for (int64_t q = 0; q < w[3]; ++q)
                  for (int64_t r = 0; r < w[4]; ++r) {
                    const int64_t d = a * s.strides[0] + p * s.dilations[0] - s.begin[0], h = b * s.strides[1] + q * s.dilations[1] - s.begin[1],
                                  v = c * s.strides[2] + r * s.dilations[2] - s.begin[2];
                    if (d < 0 || d >= x[2] || h < 0 || h >= x[3] || v < 0 || v >= x[4]) continue;
                    f(static_cast<size_t>((((n * x[2] + d) * x[3] + h) * x[4] + v) * x[1] + o / out_of_group * w[1] + i), static_cast<size_t>((((o * w[1] + i) * w[2] + p) * w[3] + q) * w[4] + r),
                      static_cast<size_t>((((n * y[2] + a) * y[3] + b) * y[4] + c) * y[1] + o));
                  }
}

size_t count(const std::vector<int64_t>& sizes) {
  int64_t n = 1;
  for (int64_t s : sizes) n *= s;
  return static_cast<size_t>(n);
}

std::vector<float> numbers(size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& f : v) f = normal(random);
  return v;
}

void expect_near(const std::vector<float>& a, const std::vector<double>& b, const char* what) {
  double most = 1;
  for (double d : b) most = std::max(most, std::abs(d));
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-5 * most) << what << " at " << i;
}

const std::vector<Case> kCases = {
    {1, 3, 16, 1, {9, 11}, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}, 0, kNone},
    {2, 16, 24, 1, {7, 5}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {3, 24, 8, 1, {8, 5}, {1, 1}, {2, 2}, {1, 1}, {0, 0}, {0, 0}, 0, 6},
    {2, 16, 32, 2, {10, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {2, 32, 32, 32, {9, 9}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}, -0.5f, 0.5f},
    {2, 24, 24, 24, {9, 9}, {5, 3}, {2, 1}, {1, 1}, {2, 1}, {2, 1}, 0, kNone},
    {1, 64, 16, 1, {12, 12}, {3, 3}, {1, 1}, {2, 2}, {2, 2}, {2, 2}},
    {2, 32, 64, 1, {6, 7}, {3, 3}, {2, 2}, {1, 1}, {0, 0}, {1, 1}},
    {1, 7, 48, 1, {6, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {1, 16, 16, 1, {1, 1}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {2, 16, 16, 1, {4, 5, 6}, {3, 3, 3}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {1, 1, 1}, 0, kNone},
    {1, 16, 8, 1, {3, 6, 7}, {1, 3, 3}, {1, 2, 2}, {1, 1, 1}, {0, 1, 1}, {0, 1, 1}},
};

TEST(FastConvolution, EqualsPlainLoops) {
  if (!has_fast_product()) GTEST_SKIP() << "oneDNN is not there";
  int forward = 0, both = 0;
  for (const Case& c : kCases)
    for (const int threads : {1, 2}) {
      const ThreadScope scope(threads);
      const ConvolutionShape s = shape_of(c);
      SCOPED_TRACE(::testing::Message() << c.channels << " to " << c.out << " channels, " << c.groups << " groups, " << c.picture[0] << " rows, " << threads << " threads");
      const std::vector<float> x = numbers(count(s.input), 1), w = numbers(count(s.weights), 2), g = numbers(count(s.output), 3), bias = numbers(static_cast<size_t>(c.out), 4);
      if (const FastConvolution* fast = fast_convolution(s, false)) {
        ++forward;
        std::vector<double> expected(count(s.output));
        for (size_t i = 0; i < expected.size(); ++i) expected[i] = bias[i % bias.size()];
        each_product(s, [&](size_t in, size_t weight, size_t out) { expected[out] += static_cast<double>(x[in]) * w[weight]; });
        for (double& y : expected) y = std::clamp(y, static_cast<double>(c.low), static_cast<double>(c.high));
        std::vector<float> y(expected.size(), -7);
        fast->forward(x.data(), w.data(), bias.data(), y.data());
        expect_near(y, expected, "y");
      }
      if (const FastConvolution* fast = fast_convolution(s, true)) {
        ++both;
        std::vector<double> of_x(x.size()), of_w(w.size());
        each_product(s, [&](size_t in, size_t weight, size_t out) {
          of_x[in] += static_cast<double>(g[out]) * w[weight];
          of_w[weight] += static_cast<double>(g[out]) * x[in];
        });
        std::vector<float> dx(x.size(), -7), dw(w.size(), -7);
        fast->input_gradient(g.data(), w.data(), dx.data());
        fast->weight_gradient(x.data(), g.data(), dw.data());
        expect_near(dx, of_x, "dx");
        expect_near(dw, of_w, "dw");
      }
    }
  // Which shapes have generated code depends on the processor: with AVX2 and above most.
  RecordProperty("forward", forward);
  RecordProperty("both", both);
  EXPECT_GE(forward, both);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && !std::getenv("ONEDNN_MAX_CPU_ISA")) {
    EXPECT_GE(both, static_cast<int>(kCases.size())) << "of " << 2 * kCases.size();
  }
#endif
}

TEST(FastConvolution, KeepsOneForEachShapeAndLeavesOthers) {
  if (!has_fast_product()) GTEST_SKIP() << "oneDNN is not there";
  const ConvolutionShape s = shape_of(kCases[1]);
  EXPECT_EQ(fast_convolution(s, true), fast_convolution(s, true));
  ConvolutionShape none = s, negative = s, line = s;
  none.input[0] = none.output[0] = 0;
  negative.begin = {-1, 0};
  for (auto* v : {&line.input, &line.weights, &line.output, &line.strides, &line.dilations, &line.begin, &line.end}) v->pop_back();
  for (const ConvolutionShape& other : {none, negative, line}) EXPECT_EQ(fast_convolution(other, true), nullptr);
}

}  // namespace
}  // namespace lathe
