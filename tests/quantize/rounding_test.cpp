#include "quantize/rounding.h"

#include <gtest/gtest.h>

#include <cmath>

#include "networks.h"

namespace lathe {
namespace {

// Inputs whose channels depend on each other and are not centred, as those behind a Relu.
Tensor correlated(int64_t places, int64_t columns, uint64_t seed) {
  const Tensor mix = random_weights({columns, columns}, seed, 1 / std::sqrt(static_cast<float>(columns))), z = random_weights({places, columns}, seed + 1, 1);
  Products products;
  Tensor x = products.multiply(z, mix);
  for (int64_t i = 0; i < x.size(); ++i) x.data<float>()[i] = std::max(0.0f, x.data<float>()[i] + 0.3f);
  return x;
}

TEST(Matrix, ProductsAndMomentsAreThoseOfPlainLoops) {
  Products products;
  const Tensor x = random_weights({700, 33}, 1), m = second_moments(x, products);
  for (int64_t i = 0; i < 33; i += 5)
    for (int64_t j = 0; j < 33; j += 7) {
      double sum = 0;
      for (int64_t p = 0; p < 700; ++p) sum += static_cast<double>(x.data<float>()[p * 33 + i]) * static_cast<double>(x.data<float>()[p * 33 + j]) / 700;
      EXPECT_NEAR(m.data<float>()[i * 33 + j], sum, 1e-4);
    }
}

TEST(Matrix, InverseFactorInverts) {
  for (int64_t n : {1, 5, 96, 97, 200, 300}) {
    Products products;
    const Tensor x = correlated(4 * n + 10, n, static_cast<uint64_t>(n));
    Tensor h = second_moments(x, products);
    for (int64_t i = 0; i < n; ++i) h.data<float>()[i * n + i] += 0.01f;
    const Tensor u = inverse_factor(h.clone(), products);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < r; ++c) ASSERT_EQ(u.data<float>()[r * n + c], 0) << "below the diagonal";
    // UᵀU·H = 1
    const Tensor one = products.multiply(products.multiply(transpose(u, {1, 0}), u), h);
    double worst = 0;
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < n; ++c) worst = std::max(worst, std::abs(static_cast<double>(one.data<float>()[r * n + c]) - (r == c ? 1.0 : 0.0)));
    EXPECT_LT(worst, 5e-3) << n;
  }
  Products products;
  Tensor negative = Tensor::of_f32({2, 2}, {1, 2, 2, 1});
  EXPECT_THROW(inverse_factor(negative, products), Error);
}

struct Case {
  const char* quantizer;
  int64_t rows, columns;
};

TEST(Rounding, CompensationBeatsNearestOnNearlyEveryLayer) {
  Products products;
  int count = 0, gptq_better = 0, ada_better = 0;
  double gptq_ratio = 0;
  for (const Case& c : {Case{"int4", 16, 64}, Case{"int4,g16", 16, 64}, Case{"int8", 8, 144}, Case{"int2", 12, 32}, Case{"uint4", 9, 27}, Case{"int4,tensor", 16, 40}, Case{"int3,mse", 7, 200}})
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      const QuantizerSpec spec = parse_quantizer(c.quantizer);
      const Tensor w = random_weights({c.rows, c.columns}, seed), x = correlated(600, c.columns, seed + 50), m = second_moments(x, products);
      const double nearest = output_error(quantize(spec, w).dequantize(), w, m, products);
      const double compensated = output_error(gptq(spec, w, m, products).dequantize(), w, m, products);
      const double learned = output_error(adaround(spec, w, m, products, {.steps = 300, .seed = 1}).dequantize(), w, m, products);
      ++count;
      gptq_better += compensated < nearest;
      ada_better += learned < nearest;
      gptq_ratio += compensated / nearest;
      EXPECT_LE(learned, nearest * (1 + 1e-6)) << "never worse";
    }
  EXPECT_GE(gptq_better, 0.95 * count) << count;
  EXPECT_GE(ada_better, 0.95 * count) << count;
  EXPECT_LT(gptq_ratio / count, 0.7);
}

TEST(Rounding, AdaRoundTakesOneOfTheTwoNeighbours) {
  Products products;
  const QuantizerSpec spec = parse_quantizer("int4");
  const Tensor w = random_weights({6, 30}, 3), m = second_moments(correlated(200, 30, 9), products);
  const QuantizedTensor q = adaround(spec, w, m, products, {.steps = 200, .seed = 1});
  const Tensor near = q.dequantize();
  for (int64_t i = 0; i < w.size(); ++i)
    EXPECT_LT(std::abs(near.data<float>()[i] - w.data<float>()[i]), q.grid_at(i / 30, i % 30).scale * 1.0001f);
}

TEST(Rounding, AdaRoundFindsTheOptimumOfAFewWeights) {
  Products products;
  const QuantizerSpec spec = parse_quantizer("int3");
  int optimal = 0;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const Tensor w = random_weights({1, 7}, seed), m = second_moments(correlated(60, 7, seed + 20), products);
    const QuantizedTensor q = adaround(spec, w, m, products, {.steps = 600, .seed = 1}), base = quantize(spec, w);
    double least = HUGE_VAL;
    for (int bits = 0; bits < 128; ++bits) {
      Tensor near = w.clone();
      for (int64_t i = 0; i < 7; ++i) {
        const float s = base.grids[0].scale, low = std::floor(w.data<float>()[i] / s);
        near.data<float>()[i] = s * std::clamp(low + static_cast<float>(bits >> i & 1), -3.0f, 3.0f);
      }
      least = std::min(least, output_error(near, w, m, products));
    }
    const double found = output_error(q.dequantize(), w, m, products);
    EXPECT_GE(found, least * (1 - 1e-3));
    optimal += found <= least * 1.05;
  }
  EXPECT_GE(optimal, 7);
}

TEST(Rounding, AwqScalesNeverMakeItWorse) {
  Products products;
  const QuantizerSpec spec = parse_quantizer("int4,g32");
  int better = 0;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const Tensor w = random_weights({24, 64}, seed);
    Tensor x = correlated(400, 64, seed + 70);
    for (int64_t p = 0; p < 400; ++p)
      for (int64_t c = 0; c < 64; c += 16) x.data<float>()[p * 64 + c] *= 30;  // salient channels
    std::vector<float> magnitude(64, 0);
    for (int64_t i = 0; i < x.size(); ++i) magnitude[static_cast<size_t>(i % 64)] += std::abs(x.data<float>()[i]) / 400;
    const AwqScales scales = awq_scales(spec, w, second_moments(x, products), magnitude, products);
    EXPECT_LE(scales.error, scales.error_without);
    better += scales.error < 0.8 * scales.error_without;
  }
  EXPECT_GE(better, 7);
}

}  // namespace
}  // namespace lathe
