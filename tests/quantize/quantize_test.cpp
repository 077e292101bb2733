#include "quantize/quantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "formats/onnx.h"
#include "networks.h"
#include "quantize/qdq.h"
#include "quantize/scales.h"
#include "quantize/sensitivity.h"
#include "runtime/session.h"

namespace lathe {
namespace {

std::vector<float> answer(const Graph& g, const std::vector<Tensor>& x, bool integer = true, bool reference = false) {
  PlanOptions options;
  options.integer = integer;
  options.reference = reference;
  Session session(make_plan(g, options));
  return session.run(x)[0].to_f32();
}

double relative_error(const std::vector<float>& near, const std::vector<float>& exact) {
  double error = 0, square = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    error += std::pow(static_cast<double>(near[i]) - static_cast<double>(exact[i]), 2);
    square += std::pow(static_cast<double>(exact[i]), 2);
  }
  return error / square;
}

int count(const Graph& g, std::string_view op) {
  int n = 0;
  for (NodeId id : g.order()) n += g[id].op->name == op;
  return n;
}

TEST(Calibration, RangesFollowTheirRules) {
  Observer seen;
  std::vector<float> x;
  for (int i = 0; i < 100000; ++i) x.push_back(static_cast<float>(i) / 100000);
  x.push_back(50);  // an outlier
  seen.add(Tensor::of_f32({static_cast<int64_t>(x.size())}, x));
  EXPECT_EQ(range_of(seen, parse_range("minmax"), 8, false).most, 50);
  EXPECT_NEAR(range_of(seen, parse_range("percentile:99.9"), 8, false).most, 0.999, 0.02);
  EXPECT_LT(range_of(seen, parse_range("entropy"), 8, false).most, 10);
  EXPECT_EQ(range_of(seen, parse_range("minmax"), 8, false).least, 0);
  Observer even;
  even.add(Tensor::of_f32({4}, {-1, -0.5, 0.5, 2}));
  even.add(Tensor::of_f32({1}, {1}));
  EXPECT_EQ(even.whole().least, -1);
  EXPECT_NEAR(range_of(even, parse_range("average"), 8, false).most, 0.9 * 2 + 0.1 * 1, 1e-6);
  for (const std::string& name : range_names()) {
    EXPECT_EQ(parse_range(name).text(), name);
    const Range r = range_of(seen, parse_range(name), 8, false);
    EXPECT_LE(r.least, 0);
    EXPECT_GE(r.most, 0);
    EXPECT_LE(r.most, 50);
  }
  for (const char* bad : {"", "percentile:", "percentile:40", "percentile:101", "max"}) EXPECT_THROW(parse_range(bad), Error) << bad;
}

TEST(Calibration, NumbersThatAreNotFiniteAreCountedAndLeftOut) {
  Observer seen;
  seen.add(Tensor::of_f32({4}, {1, std::nanf(""), HUGE_VALF, -2}));
  EXPECT_EQ(seen.not_finite(), 2);
  EXPECT_EQ(seen.whole().most, 1);
  EXPECT_EQ(seen.whole().least, -2);
  Observer none;
  none.add(Tensor::of_f32({2}, {std::nanf(""), HUGE_VALF}));
  EXPECT_EQ(none.count(), 0);
  for (const std::string& name : range_names()) EXPECT_EQ(range_of(none, parse_range(name), 8, false).most, 0);
}

TEST(Calibration, HistogramKeepsItsCountsWhenItWidens) {
  Observer seen;
  for (float scale : {1e-3f, 1.0f, 100.0f, 0.1f}) {
    Tensor t = random_weights({1000}, 3, scale);
    seen.add(t);
  }
  double sum = 0;
  for (double b : seen.bins()) sum += b;
  EXPECT_EQ(sum, 4000);
}

TEST(Layers, GatheredInputsTimesWeightsIsTheConvolution) {
  Graph g = small_network();
  const std::vector<Layer> layers = layers_of(g);
  ASSERT_EQ(layers.size(), 10u);
  std::vector<ValueId> values;
  for (const Layer& l : layers) values.push_back(g[l.node].inputs[0]);
  for (const Layer& l : layers) values.push_back(g[l.node].outputs[0]);
  std::vector<Tensor> seen(values.size());
  visit_values(g, random_samples(g, 1), values, [&](size_t, size_t i, const Tensor& t) { seen[i] = t.clone(); });
  for (size_t l = 0; l < layers.size(); ++l) {
    const Tensor rows = weight_rows(g, layers[l]);
    const Tensor& y = seen[layers.size() + l];
    const Node& n = g[layers[l].node];
    const int64_t per_group = layers[l].rows / layers[l].group, places = y.size() / layers[l].rows;
    for (int64_t group = 0; group < layers[l].group; ++group) {
      const Tensor x = gather_inputs(g, layers[l], seen[l], group, 1 << 20, 1);
      ASSERT_EQ(x.dim(0), places);
      for (int64_t r = group * per_group; r < (group + 1) * per_group; ++r)
        for (int64_t p = 0; p < places; p += 3) {
          double sum = g[n.inputs[2]].constant.get(r);
          for (int64_t c = 0; c < layers[l].columns; ++c)
            sum += static_cast<double>(x.data<float>()[p * layers[l].columns + c]) * static_cast<double>(rows.data<float>()[r * layers[l].columns + c]);
          EXPECT_NEAR(y.data<float>()[r * places + p], sum, 1e-3) << layers[l].name;
        }
    }
  }
}

TEST(Scales, EqualizationLeavesTheNetworkAndBalancesIt) {
  double with = 0, without = 0;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    Graph g = small_network(seed);
    // Channels of very different size, as per-tensor quantizers fear them.
    for (const Layer& l : layers_of(g)) {
      if (l.name != "expand") continue;
      Tensor rows = weight_rows(g, l).clone();
      for (int64_t r = 0; r < l.rows; ++r)
        for (int64_t c = 0; c < l.columns; ++c) rows.data<float>()[r * l.columns + c] *= r % 5 == 0 ? 100.0f : 1.0f;
      set_weight_rows(g, l, rows);
    }
    const auto x = random_samples(g, 1).inputs(0);
    const auto before = answer(g, x);
    Graph equal = g;
    EXPECT_EQ(equalize(equal), 3) << "expand and depthwise, depthwise and project, squeeze and excite";
    verify(equal);
    EXPECT_LT(relative_error(answer(equal, x), before), 1e-10);
    const Graph per_tensor = quantize_network(g, parse_scheme("w:int8,tensor"), {}).graph, equalized = quantize_network(g, parse_scheme("w:int8,tensor equalize"), {}).graph;
    with += std::log(relative_error(answer(equalized, x), before));
    without += std::log(relative_error(answer(per_tensor, x), before));
  }
  EXPECT_LT(with, without);
}

TEST(Scales, SmoothingLeavesTheNetworkAndHelpsIt) {
  const Graph g = small_transformer();
  const Samples samples = random_samples(g, 8);
  const auto x = samples.inputs(0);
  const auto exact = answer(g, x);
  const Quantized plain = quantize_network(g, parse_scheme("w:int8 a:uint8,minmax"), samples), smoothed = quantize_network(g, parse_scheme("w:int8 a:uint8,minmax smooth"), samples);
  EXPECT_LT(relative_error(answer(smoothed.graph, x), exact), relative_error(answer(plain.graph, x), exact));
  // The float network itself: codes of 8 bits for weights alone after smoothing with α = 0.5 must stay near.
  EXPECT_LT(relative_error(answer(quantize_network(g, parse_scheme("w:int8 smooth"), samples).graph, x), exact), 1e-3);
}

TEST(Scales, BiasCorrectionTakesTheMeanErrorAway) {
  const Graph g = small_network(3);
  const Samples samples = random_samples(g, 16);
  const Quantized without = quantize_network(g, parse_scheme("w:int4,tensor ends:same"), samples), with = quantize_network(g, parse_scheme("w:int4,tensor ends:same bias"), samples);
  // The first layer reads the same inputs in all three: its mean by channel.
  auto means = [&](const Graph& q) {
    std::vector<double> m(16, 0);
    NodeId stem;
    for (NodeId id : q.order())
      if (q[id].name == "stem") stem = id;
    visit_values(q, samples, {q[stem].outputs[0]}, [&](size_t, size_t, const Tensor& t) {
      for (int64_t i = 0; i < t.size(); ++i) m[static_cast<size_t>(i / (t.size() / 16))] += static_cast<double>(t.data<float>()[i]);
    });
    return m;
  };
  const auto exact = means(g), off = means(without.graph), corrected = means(with.graph);
  double before = 0, after = 0;
  for (size_t i = 0; i < 16; ++i) before += std::abs(off[i] - exact[i]), after += std::abs(corrected[i] - exact[i]);
  EXPECT_LT(after, 0.02 * before + 1e-3);
}

TEST(Qdq, EverythingBetweenProductsIsOnCodes) {
  for (bool relu6 : {false, true}) {
    const Graph g = small_network(1, relu6);
    const Quantized q = quantize_network(g, default_scheme(), random_samples(g, 8));
    verify(q.graph);
    const Plan plan = make_plan(q.graph);
    for (const Step& s : plan.steps) {
      const Node& n = plan.graph[s.node];
      EXPECT_TRUE(n.op->name != "Conv" && n.op->name != "Add" && n.op->name != "Mul" && n.op->name != "Relu" && n.op->name != "Clip") << n.op->name << " in float";
    }
    // Limits that the codes imply are not written.
    EXPECT_EQ(count(q.graph, "Relu") + count(q.graph, "Clip"), 0);
  }
}

TEST(Qdq, IntegerArithmeticGivesWhatItsDefinitionGives) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const Graph g = small_network(seed, seed % 2 == 0);
    const Samples samples = random_samples(g, 8, seed);
    const Quantized q = quantize_network(g, default_scheme(), samples);
    for (size_t i = 0; i < 3; ++i) {
      const auto x = samples.inputs(i);
      const auto exact = answer(g, x), codes = answer(q.graph, x), as_written = answer(q.graph, x, false);
      EXPECT_LT(relative_error(codes, exact), 5e-3);
      EXPECT_LT(relative_error(codes, as_written), 1e-3) << "integers against the same network in float";
    }
  }
}

TEST(Qdq, FakeWeightsAreTheCodesOfTheirFloats) {
  const Graph g = small_network(2);
  const Samples samples = random_samples(g, 4);
  const std::vector<Layer> layers = layers_of(g);
  std::set<int32_t> products;
  std::map<int32_t, QuantizedTensor> weights;
  for (const Layer& l : layers) products.insert(l.node.index), weights.emplace(l.node.index, quantize(QuantizerSpec{}, weight_rows(g, l)));
  const QdqSites sites = find_sites(g, products);
  const auto seen = observe(g, samples, sites.values);
  std::map<int32_t, Grid> grids;
  for (size_t i = 0; i < seen.size(); ++i) {
    const Range r = range_of(seen[i], {}, 8, false);
    grids[sites.values[i].index] = uniform_grid(r.least, r.most, 8, false);
  }
  Graph stored = g, fake = g;
  insert_qdq(stored, sites, grids, layers, weights);
  insert_qdq(fake, sites, grids, layers, weights, {.fake_weights = true});
  verify(fake);
  EXPECT_EQ(count(fake, "QuantizeLinear") - count(stored, "QuantizeLinear"), static_cast<int>(layers.size()));
  for (size_t i = 0; i < 4; ++i) {
    const auto x = samples.inputs(i);
    // Biases are rounded to codes in the one and not in the other.
    EXPECT_LT(relative_error(answer(fake, x), answer(stored, x, false)), 1e-4);
  }
}

TEST(Quantize, EverySchemeSavesLoadsAndComputesTheSame) {
  const Graph g = small_network(5);
  const Samples samples = random_samples(g, 6);
  const auto x = samples.inputs(0);
  const auto exact = answer(g, x);
  const std::string file = testing::TempDir() + "/lathe-scheme.onnx";
  struct Case {
    const char* scheme;
    double most;
  } cases[] = {{"w:int8 a:uint8,minmax", 1e-2}, {"w:int8,tensor a:uint8,average", 2e-2}, {"w:int8,gptq a:uint8,mse bias", 1e-2}, {"w:int8,adaround a:uint8,entropy", 1e-1},
               {"w:int8 a:int8,percentile:99.99", 2e-2}, {"w:pow2:8 a:uint8,cosine", 2e-2}, {"w:uint8 a:uint8", 1e-2}, {"w:int4,g16,gptq", 0.1}, {"w:int4", 0.2}, {"w:uint4,g32,mse bias", 0.2},
               {"w:codebook:4,gptq", 0.1}, {"w:codebook:3", 0.3}, {"w:codebook:2 ends:same", 2}, {"w:twn", 2}, {"w:ttq,tensor bias", 2}, {"w:binary,gptq", 2}, {"w:log:4", 0.3}, {"w:apot:5", 0.3}, {"w:abc:2", 2},
               {"w:lq:2", 2}, {"w:dorefa:4", 1e6 /* its weights are of size one: for training */}, {"w:fp8", 1e-2}, {"w:e5m2", 3e-2}, {"w:int8 equalize", 1e-2}, {"w:int2,g8,awq", 2}, {"w:int8 float:first float:last a:uint8", 1e-2}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.scheme);
    const Scheme scheme = parse_scheme(c.scheme);
    EXPECT_EQ(parse_scheme(scheme.text()).text(), scheme.text());
    const Quantized q = quantize_network(g, scheme, samples);
    ASSERT_EQ(q.layers.size(), 10u);
    const auto now = answer(q.graph, x);
    EXPECT_LT(relative_error(now, exact), c.most);
    export_onnx(q.graph, file);
    Graph loaded = import_onnx(file).graph;
    EXPECT_EQ(answer(loaded, x), now);
    // Repeatable to the last bit.
    EXPECT_EQ(answer(quantize_network(g, scheme, samples).graph, x), now);
  }
}

TEST(Quantize, FewerBitsMakeASmallerFile) {
  Graph g;
  const ValueId x = g.add_input("x", DType::kF32, Shape{1, 512});
  ValueId y = x;
  for (int i = 0; i < 4; ++i) y = g.add("MatMul", {y, g.add_constant(random_weights({512, 512}, static_cast<uint64_t>(i) + 1, 0.05f))}, {}, "m" + std::to_string(i));
  g.outputs = {y};
  infer_shapes(g);
  const std::string file = testing::TempDir() + "/lathe-size.onnx";
  auto size = [&](const Graph& graph) {
    export_onnx(graph, file);
    return static_cast<double>(std::filesystem::file_size(file)) / (4 * 512 * 512);
  };
  EXPECT_NEAR(size(quantize_network(g, parse_scheme("w:int8 ends:same"), {}).graph), 1.0, 0.03);
  EXPECT_NEAR(size(quantize_network(g, parse_scheme("w:int4,g64 ends:same"), {}).graph), 0.5 + 4.0 / 64, 0.03);
  EXPECT_NEAR(size(quantize_network(g, parse_scheme("w:codebook:4 ends:same"), {}).graph), 0.5 + 64.0 / 512, 0.05);
  EXPECT_NEAR(size(quantize_network(g, parse_scheme("w:twn ends:same"), {}).graph), 0.25, 0.05);
  EXPECT_NEAR(size(quantize_network(g, parse_scheme("w:binary ends:same"), {}).graph), 0.125, 0.05);
}

TEST(Quantize, WhatCannotBeDoneSaysWhy) {
  const Graph g = small_network();
  const Samples samples = random_samples(g, 2);
  EXPECT_THROW(quantize_network(g, default_scheme(), {}), Error) << "no samples";
  EXPECT_THROW(quantize_network(g, parse_scheme("w:int4,gptq"), {}), Error);
  Scheme named = parse_scheme("w:int8");
  named.layers["nowhere"] = {};
  EXPECT_THROW(quantize_network(g, named, samples), Error);
  Graph empty;
  empty.outputs = {empty.add("Relu", {empty.add_input("x", DType::kF32, Shape{4})})};
  infer_shapes(empty);
  EXPECT_THROW(quantize_network(empty, default_scheme(), random_samples(empty, 1)), Error);
  const Samples bad{2, [&](size_t) { Tensor t = random_weights({1, 3, 16, 16}, 1); t.data<float>()[5] = std::nanf(""); return std::vector<Tensor>{t}; }};
  EXPECT_THROW(quantize_network(g, default_scheme(), bad), Error);
  for (const char* text : {"", "int8", "w:int8 b:uint8", "w:float", "w:int8 a:uint4", "w:int8 smooth=2", "w:int8 seed=x", "w:int8 ends:", "a:uint8,foo"}) EXPECT_THROW(parse_scheme(text), Error) << text;
}

TEST(Quantize, LayersCanBeChosen) {
  const Graph g = small_network();
  const Samples samples = random_samples(g, 4);
  Scheme scheme = default_scheme();
  scheme.layers["left"] = LayerScheme{};
  scheme.layers["depthwise"] = LayerScheme{parse_quantizer("codebook:4"), false};
  const Quantized q = quantize_network(g, scheme, samples);
  for (const LayerResult& l : q.layers) {
    if (l.layer.name == "left") EXPECT_FALSE(l.scheme.weights);
    else if (l.layer.name == "depthwise") EXPECT_FALSE(l.scheme.on_codes);
    else EXPECT_TRUE(l.scheme.on_codes);
  }
  const auto x = samples.inputs(0);
  EXPECT_LT(relative_error(answer(q.graph, x), answer(g, x)), 2e-2);
}

TEST(Sensitivity, MetricsAgreeOnWhoIsWorst) {
  const Graph g = small_network(4);
  const Samples samples = random_samples(g, 6);
  const std::vector<Layer> layers = layers_of(g);
  const auto effects = layer_effects(g, layers, {{parse_quantizer("int8"), true}, {parse_quantizer("int2"), false}, {}}, {}, samples);
  ASSERT_EQ(effects.size(), layers.size());
  for (const auto& e : effects) {
    EXPECT_LT(e[0].squared_error, e[1].squared_error);
    EXPECT_LE(e[0].divergence, e[1].divergence + 1e-9);
    EXPECT_EQ(e[2].squared_error, 0);
    EXPECT_GT(e[0].weight_noise, 0);
    EXPECT_GE(e[1].cosine_distance, 0);
  }
  const auto traces = fisher_traces(g, layers, samples, 2, 1);
  for (double t : traces) EXPECT_GE(t, 0);
  EXPECT_GT(*std::max_element(traces.begin(), traces.end()), 0);
  const auto seconds = layer_seconds(g, {}, layers, samples);
  for (double s : seconds) EXPECT_GE(s, 0);
}

TEST(Allocation, IsTheBestOfAllChoices) {
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> draw(0, 1);
  for (int trial = 0; trial < 30; ++trial) {
    std::vector<std::vector<LayerOption>> layers(5);
    for (auto& options : layers)
      for (int o = 0; o < 3; ++o) options.push_back({draw(random), draw(random), static_cast<int64_t>(draw(random) * 1000)});
    const double seconds = 1.5 + draw(random);
    const int64_t bytes = 1500 + static_cast<int64_t>(draw(random) * 2000);
    double best = HUGE_VAL;
    for (int c = 0; c < 243; ++c) {
      double error = 0, time = 0;
      int64_t size = 0;
      for (int l = 0, rest = c; l < 5; ++l, rest /= 3) {
        const LayerOption& o = layers[static_cast<size_t>(l)][static_cast<size_t>(rest % 3)];
        error += o.error, time += o.seconds, size += o.bytes;
      }
      if (time <= seconds && size <= bytes) best = std::min(best, error);
    }
    if (std::isinf(best)) {
      EXPECT_THROW(allocate(layers, seconds, bytes), Error);
      continue;
    }
    const Allocation a = allocate(layers, seconds, bytes);
    EXPECT_NEAR(a.error, best, 1e-5);
    EXPECT_LE(a.seconds, seconds * (1 + 1e-6));
    EXPECT_LE(a.bytes, bytes);
  }
}

TEST(Allocation, SolvesTwoHundredLayersOfSixSchemesInASecond) {
  std::mt19937_64 random(6);
  std::uniform_real_distribution<double> draw(0, 1);
  std::vector<std::vector<LayerOption>> layers(200);
  for (auto& options : layers) {
    const double size = 0.1 + draw(random), pain = draw(random);
    for (int bits : {2, 3, 4, 6, 8, 16}) options.push_back({pain * std::pow(4.0, -bits) * (0.8 + 0.4 * draw(random)), size * bits * (0.9 + 0.2 * draw(random)), static_cast<int64_t>(size * bits * 1000)});
  }
  const auto begin = std::chrono::steady_clock::now();
  const Allocation a = allocate(layers, 700, 0);
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(), 5) << "one second on a machine that does nothing else";
  EXPECT_LE(a.seconds, 700.001);
}

}  // namespace
}  // namespace lathe
