// MetaFormers against float64 code written from the papers: every mixer, norm, activation and head, the rates of drop path, and
// what cannot be built.
#include <gmock/gmock.h>

#include "../transform/both_ways.h"
#include "error_of.h"
#include "float64.h"

namespace lathe {
namespace {

using namespace testing;

struct Form {
  std::string model;
  std::vector<int64_t> depths, widths;
  std::string mixers, norm, activation, head;
  int64_t pool = 3;
  std::vector<int64_t> stem{7, 2, 3};
};

class Float64 {
 public:
  Float64(const Form& f, const Weights& w) : f_(f), w_(w), baseline_(f.model.find("poolformer_") != 0) {}

  Map run(Map x) {
    for (size_t stage = 0; stage < f_.depths.size(); ++stage) {
      const std::string down = fmt::format("stages.{}.downsample", stage);
      if (stage == 0) {
        x = conv(x, w_, "stem.conv", f_.stem[1], f_.stem[2]);
        if (baseline_) x = pixel_norm(x, w_, "stem.norm", 1e-6);
      } else {
        x = conv(baseline_ ? pixel_norm(x, w_, down + ".norm", 1e-6) : x, w_, down + ".conv", 2, 1);
      }
      if (w_.has("positions") && f_.mixers.find('A') == stage)
        for (size_t i = 0; i < x.v.size(); ++i) x.v[i] += w_.get("positions", static_cast<int64_t>(i));
      for (int64_t i = 0; i < f_.depths[stage]; ++i) x = block(x, fmt::format("stages.{}.blocks.{}.", stage, i), f_.mixers[stage]);
    }
    if (!baseline_) {
      x = mean(norm(x, "head.norm"));
    } else {
      x = pixel_norm(mean(x), w_, "head.norm", 1e-6);
    }
    if (f_.head == "mlp") {
      x = each(linear(x, w_, "head.fc1", true), [](double v) { return v > 0 ? v * v : 0; });
      return linear(pixel_norm(x, w_, "head.norm2", 1e-5), w_, "head.fc2", true);
    }
    return linear(x, w_, "head.fc", true);
  }

 private:
  Map block(const Map& x, const std::string& scope, char mixer) {
    const auto joined = [&](const Map& from, const Map& branch, const std::string& number) {
      const std::string layer = scope + "layer_scale" + number, res = scope + "res_scale" + number;
      return plus(w_.has(res) ? times_channels(from, w_, res) : from, w_.has(layer) ? times_channels(branch, w_, layer) : branch);
    };
    const Map y = joined(x, mix(norm(x, scope + "norm1"), scope + "mixer", mixer), "1");
    return joined(y, conv(activated(conv(norm(y, scope + "norm2"), w_, scope + "mlp.fc1"), scope + "mlp"), w_, scope + "mlp.fc2"), "2");
  }

  Map norm(const Map& x, const std::string& scope) {
    const double epsilon = baseline_ ? 1e-6 : 1e-5;
    if (f_.norm == "batch") return batch_norm(x, w_, scope, epsilon);
    return f_.norm == "group" ? whole_norm(x, w_, scope, epsilon) : pixel_norm(x, w_, scope, epsilon);
  }

  Map activated(const Map& x, const std::string& scope) {
    if (f_.activation == "gelu") return each(x, gelu);
    if (f_.activation == "silu") return each(x, silu);
    if (f_.activation == "relu") return each(x, [](double v) { return std::max(v, 0.0); });
    const bool star = f_.activation == "starrelu";
    const double s = star ? w_.get(scope + ".act.scale", 0) : 1, b = star ? w_.get(scope + ".act.bias", 0) : 0;
    return each(x, [&](double v) { return s * std::max(v, 0.0) * std::max(v, 0.0) + b; });
  }

  Map mix(const Map& x, const std::string& scope, char mixer) {
    Map y(x.c, x.h, x.w);
    switch (mixer) {
      case 'I': return x;
      case 'P':
        for (int64_t c = 0; c < x.c; ++c)
          for (int64_t i = 0; i < x.h; ++i)
            for (int64_t j = 0; j < x.w; ++j) {
              double sum = 0, count = 0;
              for (int64_t p = std::max<int64_t>(0, i - f_.pool / 2); p <= std::min(x.h - 1, i + f_.pool / 2); ++p)
                for (int64_t q = std::max<int64_t>(0, j - f_.pool / 2); q <= std::min(x.w - 1, j + f_.pool / 2); ++q, ++count)
                  sum += x.at(c, p, q);
              y.at(c, i, j) = sum / count - x.at(c, i, j);
            }
        return y;
      case 'D': return conv(x, w_, scope, 1, 1, x.c);
      case 'C':
        return conv(conv(activated(conv(x, w_, scope + ".pointwise1"), scope), w_, scope + ".depthwise", 1, 3, 2 * x.c), w_,
                    scope + ".pointwise2");
      case 'A': return attention(x, w_, scope, x.c / 32);
      default: {
        const int64_t n = x.pixels();  // out[m] = Σ A[m, n]·x[n], the matrix of F stored with its inputs first
        const Tensor& a = w_[scope + (mixer == 'R' ? ".matrix.frozen" : ".weight")];
        for (int64_t c = 0; c < x.c; ++c)
          for (int64_t m = 0; m < n; ++m)
            for (int64_t k = 0; k < n; ++k)
              y.v[static_cast<size_t>(c * n + m)] += a.get(mixer == 'R' ? m * n + k : k * n + m) * x.v[static_cast<size_t>(c * n + k)];
        return y;
      }
    }
  }

  const Form& f_;
  const Weights& w_;
  bool baseline_;
};

BuildOptions options_of(const Form& f, Shape input) {
  BuildOptions o{.classes = 10, .input = std::move(input), .depths = f.depths, .widths = f.widths, .seed = 3};
  o.more = {{"mixers", f.mixers},
            {"norm", f.norm},
            {"activation", f.activation},
            {"head", f.head},
            {"pool", std::to_string(f.pool)},
            {"layer_scale", "1"},
            {"stem", fmt::format("{}", fmt::join(f.stem, ","))}};
  if (f.model.find("poolformer_") != 0) o.more["layer_scale"] = "0";
  return o;
}

TEST(MetaFormer, EqualsFloat64OnOddSizes) {
  const Form forms[] = {{"poolformer_s12", {1, 1}, {24, 16}, "PP", "group", "gelu", "linear"},
                        {"poolformer_s12", {2, 1}, {8, 16}, "PI", "group", "gelu", "linear", 7},
                        {"poolformer_s12", {1, 1}, {8, 16}, "DF", "group", "silu", "linear", 3, {7, 4, 2}},
                        {"poolformer_s12", {1, 2}, {8, 32}, "PA", "layer", "gelu", "linear"},
                        {"poolformer_s12", {1, 1}, {8, 16}, "PR", "batch", "relu", "linear"},
                        {"identityformer_s12", {1, 2}, {16, 24}, "II", "group", "starrelu", "linear"},
                        {"randformer_s12", {1, 1, 1}, {8, 16, 24}, "IRR", "group", "starrelu", "linear"},
                        {"poolformerv2_s12", {1, 1, 2}, {8, 16, 24}, "PPP", "group", "starrelu", "linear"},
                        {"convformer_s18", {1, 1, 1}, {8, 16, 24}, "CCC", "layer", "starrelu", "mlp"},
                        {"convformer_s18", {1, 1}, {8, 16}, "CC", "layer", "squared-relu", "linear"},
                        {"caformer_s18", {1, 1, 2}, {8, 32, 64}, "CAA", "layer", "starrelu", "mlp"}};
  for (const Form& f : forms)
    for (const Shape& input : {Shape{3, 14, 9}, Shape{3, 1, 1}, Shape{1, 28, 31}}) {
      if (input[1] + 2 * f.stem[2] < f.stem[0]) continue;
      Graph g = build_model(f.model, options_of(f, input));
      randomize(g, 5);
      const Weights w(g);
      expect_same(g, [&](const Map& x) { return Float64(f, w).run(x); }, fmt::format("{} {} on {}", f.model, f.mixers, to_string(input)));
    }
}

// Norms and residuals as the engine runs them, with every mixer, on one of the small forms.
TEST(MetaFormer, TheEngineGivesTheSame) {
  const auto run = [](const std::string& model, BuildOptions o) {
    int transposes = 0;
    o.classes = 10;
    o.depths = {1, 1, 2, 1};
    o.widths = {16, 32, 64, 128};
    o.more["stem"] = "small";
    if (o.input.empty()) o.input = {3, 32, 32};
    Graph g = build_model(model, o);
    randomize(g, 9);
    for (int64_t batch : {1, 3}) {
      Graph sized = g;
      specialize(sized, {{"input", {batch, o.input[0], o.input[1], o.input[2]}}});
      transposes = compare(sized, fmt::format("{} {} of {}", model, batch, to_string(o.input)));
    }
    return transposes;
  };
  EXPECT_EQ(run("poolformer_s12", {}), 0);
  run("poolformer_s12", {.input = {1, 57, 31}});
  run("poolformer_s12", {.more = {{"mixers", "PDFA"}}});
  run("poolformer_s12", {.more = {{"norm", "batch"}}});
  run("poolformer_s12", {.more = {{"features", "1"}}});
  for (const char* model : {"identityformer_s12", "randformer_s12", "poolformerv2_s12", "convformer_s18", "caformer_s18"})
    EXPECT_EQ(run(model, {}), 0) << model;  // transposes
  run("caformer_s18", {.input = {3, 29, 35}});
}

TEST(MetaFormer, PoolingOfOnePixelTakesItsShare) {
  // Without a norm and with all else the identity: a corner counts 4 pixels, an edge 6, an inner one 9.
  Graph g = build_model("poolformer_s12", {.input = {1, 5, 5},
                                           .depths = {1},
                                           .widths = {1},
                                           .more = {{"norm", "none"},
                                                    {"mixers", "P"},
                                                    {"mlp", "0"},
                                                    {"residual", "0"},
                                                    {"layer_scale", "0"},
                                                    {"stem", "1,1,0"},
                                                    {"features", "1"}}});
  for (ValueId id : parameters_of(g).trained) g[id].constant.set(0, g[id].name.ends_with("bias") ? 0 : 1);
  specialize(g, {{"input", {1, 1, 5, 5}}});
  for (const auto& [pixel, share] : {std::pair<int64_t, double>{0, 1.0 / 4}, {2, 1.0 / 6}, {12, 1.0 / 9}}) {
    Tensor x(DType::kF32, {1, 1, 5, 5});
    for (int64_t i = 0; i < 25; ++i) x.set(i, i == pixel);
    EXPECT_NEAR(reference::run_graph(g, {x})[0].get(pixel), share - 1, 1e-6) << pixel;
  }
}

TEST(MetaFormer, StarReluOfNormalNumbersIsCentredAndOfUnitVariance) {
  const double s = 1 / std::sqrt(1.25), b = -s / 2;
  Graph g = build_model("convformer_s18",
                        {.classes = 10, .input = {3, 32, 32}, .depths = {1}, .widths = {8}, .more = {{"mixers", "C"}, {"head", "linear"}}});
  // The nodes of the first activation alone, on numbers of our own.
  const Node* relu = nullptr;
  for (NodeId id : g.order())
    if (!relu && g[id].op->name == "Relu") relu = &g[id];
  ASSERT_NE(relu, nullptr);
  constexpr int64_t kCount = 1'000'000;
  Builder draw("draw", {.seed = 1});
  Tensor x(DType::kF32, {kCount});
  for (int64_t i = 0; i < kCount; ++i) x.set(i, draw.normal());
  ValueId value = relu->outputs[0];
  Tensor y = reference::run_node(*relu, {x})[0];
  for (int step = 0; step < 3; ++step) {
    const Node& n = g[g.consumers()[static_cast<size_t>(value.index)][0]];
    const std::string& name = g[n.inputs[1]].name;
    Tensor second = y;
    if (name.ends_with("act.scale")) second = Tensor::of_f32({1}, {static_cast<float>(s)});
    if (name.ends_with("act.bias")) second = Tensor::of_f32({1}, {static_cast<float>(b)});
    y = reference::run_node(n, {y, second})[0];
    value = n.outputs[0];
  }
  double mean = 0, square = 0;
  for (int64_t i = 0; i < kCount; ++i) mean += y.get(i) / kCount;
  for (int64_t i = 0; i < kCount; ++i) square += (y.get(i) - mean) * (y.get(i) - mean) / kCount;
  EXPECT_NEAR(mean, 0, 0.005);
  EXPECT_NEAR(square, 1, 0.03);
}

TEST(MetaFormer, WeightsStartAsThePapersSay) {
  const auto deviation = [](const Tensor& t) {
    double square = 0;
    for (int64_t i = 0; i < t.size(); ++i) square += t.get(i) * t.get(i) / static_cast<double>(t.size());
    return std::sqrt(square);
  };
  const Graph pool = build_model("poolformer_s36", {.depths = {1, 1, 1, 1}}),
              conv = build_model("convformer_s18", {.depths = {1, 1, 1, 1}}),
              rand = build_model("randformer_s12", {.depths = {1, 1, 1, 1}});
  const Weights p(pool), c(conv), r(rand);
  EXPECT_NEAR(deviation(p["stages.2.blocks.0.mlp.fc1.weight"]), 0.02, 0.0005);
  EXPECT_NEAR(deviation(p["stem.conv.weight"]), 1 / std::sqrt(3 * 3 * 49), 0.002);  // uniform of ±1/√fan
  EXPECT_GT(deviation(p["stages.1.downsample.conv.bias"]), 0.01);
  EXPECT_FLOAT_EQ(static_cast<float>(p.get("stages.0.blocks.0.layer_scale1", 5)), 1e-6f);
  EXPECT_NEAR(deviation(c["stem.conv.weight"]), 0.02, 0.001);
  EXPECT_EQ(deviation(c["stem.conv.bias"]), 0);
  EXPECT_FALSE(c.has("stages.1.blocks.0.res_scale1"));
  EXPECT_EQ(c.get("stages.2.blocks.0.res_scale1", 0), 1);
  EXPECT_EQ(c.get("stages.0.blocks.0.mlp.act.scale", 0), 1);
  const Graph hybrid = build_model("poolformer_s12", {.depths = {1, 1, 1, 1}, .more = {{"mixers", "PPPA"}}});
  EXPECT_EQ(deviation(Weights(hybrid)["stages.3.blocks.0.mixer.projection.bias"]), 0);
  EXPECT_EQ(deviation(Weights(hybrid)["positions"]), 0);
  const Tensor& matrix = r["stages.3.blocks.0.mixer.matrix.frozen"];
  for (int64_t row = 0; row < 49; ++row) {
    double sum = 0;
    for (int64_t i = 0; i < 49; ++i) sum += matrix.get(row * 49 + i);
    EXPECT_NEAR(sum, 1, 1e-5);
  }
}

// init=xavier: uniform ± √(6 / (fan in + fan out)), whose deviation is √(2 / (fan in + fan out)), in every family that begins at 0.02.
TEST(MetaFormer, WeightsStartAtTheScaleOfTheirFans) {
  const auto deviation = [](const Tensor& t) {
    double square = 0;
    for (int64_t i = 0; i < t.size(); ++i) square += t.get(i) * t.get(i) / static_cast<double>(t.size());
    return std::sqrt(square);
  };
  const std::map<std::string, std::string> xavier = {{"init", "xavier"}};
  const Graph conv = build_model("convformer_s18", {.depths = {1, 1, 1, 1}, .more = xavier}), pool = build_model("poolformer_s12", {.depths = {1, 1, 1, 1}, .more = xavier}),
              vit = build_model("deit_tiny", {.depths = {1}, .more = xavier}), next = build_model("convnext_tiny", {.depths = {1, 1, 1, 1}, .more = xavier}),
              mcu = build_model("mcuformer", {.depths = {1}, .more = xavier});
  for (const auto& [graph, name, in, out] : std::vector<std::tuple<const Graph*, std::string, double, double>>{{&conv, "stages.2.blocks.0.mlp.fc1.weight", 320, 1280},
                                                                                                            {&conv, "stages.2.blocks.0.mixer.depthwise.weight", 49, 49},
                                                                                                            {&conv, "stem.conv.weight", 3 * 49, 64 * 49},
                                                                                                            {&pool, "stages.2.blocks.0.mlp.fc2.weight", 1280, 320},
                                                                                                            {&vit, "blocks.0.mlp.fc1.weight", 192, 768},
                                                                                                            {&next, "stages.1.blocks.0.fc1.weight", 192, 768},
                                                                                                            {&mcu, "blocks.0.mlp.fc1.weight", 192, 768}})
    EXPECT_NEAR(deviation(Weights(*graph)[name]) / std::sqrt(2 / (in + out)), 1, 0.02) << name;
  // The first paper's convolutions begin as torch's do, whatever the rest does.
  EXPECT_NEAR(deviation(Weights(pool)["stem.conv.weight"]), 1 / std::sqrt(3 * 3 * 49), 0.002);
  EXPECT_THAT(error_of("deit_tiny", {.more = {{"init", "zeros"}}}), ::testing::HasSubstr("init=zeros is none of truncated, xavier"));
}

TEST(MetaFormer, DropPathRisesOverAllBlocksAndIsOfTrainingAlone) {
  const auto rates = [](const Graph& g) {
    std::map<std::string, std::vector<float>> all;
    for (NodeId id : g.order())
      if (g[id].op->name == "DropPath") all[g[id].scope].push_back(g[id].get_float("rate"));
    return all;
  };
  const BuildOptions training{.training = true, .draw = false};
  const auto found = rates(build_model("poolformer_s12", training));
  EXPECT_FALSE(found.contains("stages.0.blocks.0"));  // its rate is 0
  int64_t block = 0;
  for (size_t stage = 0; stage < 4; ++stage)
    for (int64_t i = 0; i < (stage == 2 ? 6 : 2); ++i, ++block) {
      if (block == 0) continue;
      const auto at = found.find(fmt::format("stages.{}.blocks.{}", stage, i));
      ASSERT_NE(at, found.end()) << block;
      EXPECT_THAT(at->second,
                  ::testing::ElementsAre(::testing::FloatEq(static_cast<float>(0.1 * static_cast<double>(block) / 11)), ::testing::_))
          << block;
    }
  EXPECT_TRUE(rates(build_model("poolformer_s12", {.draw = false})).empty());
  const Graph head = build_model("caformer_b36", training);
  int dropouts = 0;
  for (NodeId id : head.order()) dropouts += head[id].op->name == "Dropout";
  EXPECT_EQ(dropouts, 1);
  EXPECT_EQ(count_model(head).parameters, 98'753'614);
}

TEST(MetaFormer, WhatCannotBeBuiltIsNamed) {
  const auto refused = [](const std::string& model, const BuildOptions& o, const char* what) {
    EXPECT_THAT(error_of(model, o), ::testing::HasSubstr(what));
  };
  refused("poolformer_s12", {.widths = {64, 0, 320, 512}}, "0 channels");
  refused("poolformer_s12", {.depths = {2, 0, 6, 2}}, "0 blocks");
  refused("poolformer_s12", {.depths = {2, 2, 2}}, "depths 2,2,2 name 3 stages");
  refused("poolformer_s12", {.more = {{"mixers", "PPP"}}}, "mixers=PPP (PPP) does not name 4 stages");
  refused("poolformer_s12", {.more = {{"mixers", "PPPX"}}}, "mixers=PPPX holds another letter");
  refused("poolformer_s12", {.more = {{"pool", "4"}}}, "pool=4 is even");
  refused("poolformer_s12", {.more = {{"pool", "x"}}}, "pool=x is not 1 number");
  refused("poolformer_s12", {.input = {3, 2, 8}}, "input of [3, 2, 8] is smaller than 3");
  refused("poolformer_s12", {.more = {{"norm", "rms"}}}, "norm=rms is none of group, layer");
  refused("poolformer_s12", {.more = {{"drop_path", "1.5"}}}, "drop_path=1.5 is no number");
  refused("poolformer_s12", {.more = {{"stem", "7,2"}}}, "stem=7,2 is not 3 numbers");
  refused("caformer_s18", {.widths = {64, 128, 320, 500}}, "widths: 500 channels of stage 4 are no multiple of 32");
  refused("convformer_s18", {.more = {{"head", "linear"}, {"head_dropout", "0.5"}}}, "head_dropout=0.5 needs head=mlp");
  // Random and spatial mixers are made for one size: another is refused where the network is planned.
  Graph g = build_model("randformer_s12",
                        {.classes = 10, .input = {3, 32, 32}, .depths = {1, 1, 1, 1}, .widths = {8, 8, 8, 8}, .more = {{"stem", "small"}}});
  EXPECT_THROW(specialize(g, {{"input", {1, 3, 64, 64}}}), Error);
}

}  // namespace
}  // namespace lathe
