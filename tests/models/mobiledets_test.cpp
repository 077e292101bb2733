// MobileDets: counts of stages and heads, layers and whole networks against float64 code, the boxes that come out.
#include <gmock/gmock.h>

#include "../transform/both_ways.h"
#include "error_of.h"
#include "float64.h"
#include "graph/op.h"
#include "models/ssd.h"
#include "same_padding.h"
#include "tasks/detect.h"

namespace lathe {
namespace {

using namespace testing;
using ::testing::HasSubstr;

const std::vector<std::string> kNames = {"mobiledet_cpu", "mobiledet_edgetpu", "mobiledet_dsp", "mobiledet_gpu"};

Graph sized_for(const Graph& g, int64_t batch) {
  Graph sized = g;
  Shape shape = *g[g.inputs[0]].shape;
  shape[0] = batch;
  specialize(sized, {{"input", shape}});
  return sized;
}

// Parameters and MACs of what stands in scopes that begin so.
std::pair<int64_t, int64_t> counted(const Graph& g, const Graph& sized, const std::string& scope) {
  int64_t parameters = 0, macs = 0;
  for (ValueId v : parameters_of(g).trained)
    if (g[v].name.starts_with(scope)) parameters += g[v].constant.size();
  for (NodeId n : sized.order())
    if (sized[n].scope.starts_with(scope) && sized[n].op->macs) macs += sized[n].op->macs(sized, sized[n]);
  return {parameters, macs};
}

TEST(MobileDets, StagesAndHeadsCountAsThePage) {
  const std::vector<std::pair<std::string, std::vector<std::pair<int64_t, int64_t>>>> table = {
      {"C1.", {{1'064, 18'022'656}, {2'672, 64'716'800}, {2'096, 49'152'000}, {1'952, 46'694'400}}},
      {"C2.", {{1'768, 11'674'112}, {62'336, 393'216'000}, {78'144, 491'929'600}, {26'400, 165'068'800}}},
      {"C3.", {{71'040, 66'387'968}, {249'856, 397'312'000}, {455'936, 724'582'400}, {912'896, 1'454'899'200}}},
      {"C4.", {{1'532'192, 237'335'552}, {1'145'728, 466'611'200}, {3'183'904, 1'262'169'600}, {7'583'744, 3'027'763'200}}},
      {"C5.", {{1'400'376, 74'585'984}, {1'316'448, 151'939'200}, {2'119'872, 235'520'000}, {3'164'928, 315'494'400}}},
      {"extra.", {{366'144, 9'469'376}, {427'584, 15'613'376}, {390'720, 11'926'976}, {427'584, 15'613'376}}},
      {"head.", {{792'471, 26'752'128}, {941'919, 43'772'928}, {871'407, 41'123'328}, {951'743, 47'651'328}}}};
  const std::vector<int64_t> with_statistics = {4'205'423, 4'196'095, 7'159'343, 13'109'151}, residuals = {12, 15, 15, 15};
  for (size_t i = 0; i < kNames.size(); ++i) {
    const Graph g = build_model(kNames[i], {.draw = false}), sized = sized_for(g, 1);
    for (const auto& [scope, told] : table) EXPECT_EQ(counted(g, sized, scope), told[i]) << kNames[i] << " " << scope;
    int64_t all = 0, adds = 0;
    const Parameters p = parameters_of(g);
    for (const auto* list : {&p.trained, &p.statistics})
      for (ValueId v : *list) all += g[v].constant.size();
    EXPECT_EQ(all, with_statistics[i]) << kNames[i];
    for (NodeId n : g.order()) adds += g[n].op->name == "Add";
    EXPECT_EQ(adds, residuals[i]) << kNames[i];
  }
}

TEST(MobileDets, MapsOfAPictureThatIsNotSquare) {
  const Graph g = sized_for(build_model("mobiledet_dsp", {.input = {3, 640, 320}, .draw = false}), 1);
  std::vector<std::pair<int64_t, int64_t>> maps;
  for (NodeId n : g.order())
    if (g[n].scope.ends_with(".box.project") && g[n].op->name == "Conv") maps.emplace_back((*g[g[n].outputs[0]].shape)[2], (*g[g[n].outputs[0]].shape)[3]);
  EXPECT_THAT(maps, ::testing::ElementsAre(std::pair(40, 20), std::pair(20, 10), std::pair(10, 5), std::pair(5, 3), std::pair(3, 2), std::pair(2, 1)));
  EXPECT_EQ(*g[g.outputs[0]].shape, (Shape{1, 3 * 800 + 6 * (200 + 50 + 15 + 6 + 2), 4}));
  EXPECT_EQ(*g[g.outputs[1]].shape, (Shape{1, 3 * 800 + 6 * (200 + 50 + 15 + 6 + 2), 91}));
  const Graph small = sized_for(build_model("mobiledet_cpu", {.classes = 3, .input = {3, 96, 96}, .width = 0.25, .draw = false}), 1);
  EXPECT_EQ(*small[small.outputs[1]].shape, (Shape{1, 204, 4}));
}

// The networks in float64, layer by layer as the page lists them.
class Detector {
 public:
  Detector(const Weights& w, bool squeeze, double width) : w_(w), squeeze_(squeeze), width_(width) {}

  static int64_t scaled(double channels, double factor) { return std::max<int64_t>(8, 8 * std::llround(std::floor(channels * factor / 8 + 0.5))); }

  Map conv_norm(const Map& x, const std::string& scope, int64_t stride, bool act, int64_t groups = 1) const {
    const Map y = batch_norm(conv(same(x, w_[scope + ".weight"].shape()[2], stride), w_, scope, stride, 0, groups), w_, scope + ".norm", epsilon);
    return act ? active(y) : y;
  }
  void stem(int64_t f) {
    scope_ = "C1.";
    x_ = conv_norm(x_, "C1.stem", 2, true);
    EXPECT_EQ(x_.c, scaled(static_cast<double>(f), width_));
  }
  void stage(int c) {
    scope_ = "C" + std::to_string(c) + ".";
    layer_ = 0;
  }
  void ibn(int64_t f, int64_t k, int64_t e, int64_t s, bool residual) {
    begin(f);
    Map y = conv_norm(x_, at_ + "expand", 1, true);
    EXPECT_EQ(y.c, e * x_.c);
    expect_kernel("depthwise", k);
    end(excited(conv_norm(y, at_ + "depthwise", s, true, y.c)), residual);
  }
  void ibn0(int64_t f) {
    begin(f);
    end(excited(conv_norm(x_, at_ + "depthwise", 1, true, x_.c)), false);
  }
  void fused(int64_t f, int64_t k, int64_t e, int64_t s, bool residual) {
    begin(f);
    expect_kernel("expand", k);
    const Map y = conv_norm(x_, at_ + "expand", s, true);
    EXPECT_EQ(y.c, e * x_.c);
    end(excited(y), residual);
  }
  void tucker(int64_t f, double in, double out, bool residual) {
    begin(f);
    const Map y = conv_norm(x_, at_ + "compress", 1, true), z = conv_norm(y, at_ + "core", 1, true);
    EXPECT_EQ(y.c, scaled(static_cast<double>(x_.c), in));
    EXPECT_EQ(z.c, scaled(static_cast<double>(out_), out));
    end(excited(z), residual);
  }
  // Codes of all boxes, [A, 4] in one column.
  Map codes(const Map& c4, const Map& c5) {
    squeeze_ = false;
    epsilon = 0.001;
    std::vector<Map> maps{c4, c5};
    for (int i = 0; i < 4; ++i) {
      const std::string scope = "extra." + std::to_string(i) + ".";
      const Map y = conv_norm(maps.back(), scope + "reduce", 1, true);
      maps.push_back(conv_norm(conv_norm(y, scope + "depthwise", 2, true, y.c), scope + "expand", 1, true));
    }
    Map all(1, 0, 1);
    for (size_t i = 0; i < maps.size(); ++i) {
      const std::string scope = "head." + std::to_string(i) + ".box.";
      const Map y = conv(conv_norm(maps[i], scope + "depthwise", 1, true, maps[i].c), w_, scope + "project");
      for (int64_t row = 0; row < y.h; ++row)
        for (int64_t column = 0; column < y.w; ++column)
          for (int64_t c = 0; c < y.c; ++c) all.v.push_back(y.at(c, row, column));
    }
    all.h = static_cast<int64_t>(all.v.size());
    return all;
  }

  void start(const Map& x) { x_ = x; }
  const Map& map() const { return x_; }
  double epsilon = 0.01;

 private:
  Map active(const Map& x) const {
    return each(x, [&](double v) { return squeeze_ ? v * std::clamp(v + 3, 0.0, 6.0) / 6 : std::clamp(v, 0.0, 6.0); });
  }
  void begin(int64_t f) {
    at_ = scope_ + std::to_string(layer_++) + ".";
    out_ = scaled(static_cast<double>(f), width_);
  }
  void end(const Map& y, bool residual) {
    const Map z = conv_norm(y, at_ + "project", 1, false);
    EXPECT_EQ(z.c, out_) << at_;
    x_ = residual ? plus(z, x_) : z;
  }
  void expect_kernel(const std::string& name, int64_t k) const { EXPECT_EQ(w_[at_ + name + ".weight"].shape()[3], k) << at_; }
  Map excited(Map x) const {
    if (!squeeze_) return x;
    const Map hidden = active(conv(mean(x), w_, at_ + "squeeze.reduce")), gate = conv(hidden, w_, at_ + "squeeze.expand");
    EXPECT_EQ(hidden.c, scaled(static_cast<double>(x.c), 0.25));
    for (int64_t c = 0; c < x.c; ++c)
      for (int64_t i = 0; i < x.h; ++i)
        for (int64_t j = 0; j < x.w; ++j) x.at(c, i, j) /= 1 + std::exp(-gate.at(c, 0, 0));
    return x;
  }

  const Weights& w_;
  bool squeeze_;
  double width_;
  Map x_{0, 0, 0};
  std::string scope_, at_;
  int64_t layer_ = 0, out_ = 0;
};

Map cpu(const Weights& w, const Map& picture, double width) {
  Detector d(w, true, width);
  d.start(picture);
  d.stem(16);
  d.ibn0(8);
  d.stage(2);
  d.ibn(16, 3, 4, 2, false);
  d.stage(3);
  d.ibn(32, 3, 8, 2, false);
  for (int i = 0; i < 3; ++i) d.ibn(32, 3, 4, 1, true);
  d.stage(4);
  d.ibn(72, 5, 8, 2, false);
  d.ibn(72, 3, 8, 1, true);
  d.ibn(72, 5, 4, 1, true);
  d.ibn(72, 3, 4, 1, true);
  d.ibn(72, 3, 8, 1, false);
  for (int i = 0; i < 3; ++i) d.ibn(72, 3, 8, 1, true);
  const Map c4 = d.map();
  d.stage(5);
  d.ibn(104, 5, 8, 2, false);
  for (int i = 0; i < 2; ++i) d.ibn(104, 5, 4, 1, true);
  d.ibn(104, 3, 4, 1, true);
  d.ibn(144, 3, 8, 1, false);
  return d.codes(c4, d.map());
}

Map dsp(const Weights& w, const Map& picture, double width) {
  Detector d(w, false, width);
  d.start(picture);
  d.stem(32);
  d.ibn0(24);
  d.stage(2);
  d.fused(32, 3, 4, 2, false);
  d.fused(32, 3, 4, 1, true);
  d.ibn(32, 3, 4, 1, true);
  d.tucker(32, 0.25, 0.75, true);
  d.stage(3);
  d.fused(64, 3, 8, 2, false);
  d.ibn(64, 3, 4, 1, true);
  for (int i = 0; i < 2; ++i) d.fused(64, 3, 4, 1, true);
  d.stage(4);
  d.fused(120, 3, 8, 2, false);
  d.ibn(120, 3, 4, 1, true);
  for (int i = 0; i < 2; ++i) d.ibn(120, 3, 8, 1, true);
  d.fused(144, 3, 8, 1, false);
  for (int i = 0; i < 3; ++i) d.ibn(144, 3, 8, 1, true);
  const Map c4 = d.map();
  d.stage(5);
  d.ibn(160, 3, 4, 2, false);
  d.ibn(160, 3, 4, 1, true);
  d.fused(160, 3, 4, 1, true);
  d.tucker(160, 0.75, 0.75, true);
  d.ibn(240, 3, 8, 1, false);
  return d.codes(c4, d.map());
}

TEST(MobileDets, EqualsFloat64OnOddAndEvenSides) {
  for (const Shape& input : {Shape{3, 33, 33}, Shape{3, 64, 40}, Shape{3, 47, 62}}) {
    for (const auto& [name, network] : {std::pair("mobiledet_cpu", &cpu), std::pair("mobiledet_dsp", &dsp)}) {
      const double width = 0.15;
      Graph g = build_model(name, {.classes = 3, .input = input, .width = width});
      randomize(g, 7);
      const Weights w(g);
      expect_same(g, [&, f = network](const Map& x) { return f(w, x, width); }, name + to_string(input));
    }
  }
}

TEST(MobileDets, TheEngineGivesTheSame) {
  for (const std::string& name : kNames) {
    Graph g = build_model(name, {.classes = 3, .input = {3, 97, 64}, .width = 0.25, .more = {{"output", name == "mobiledet_dsp" ? "boxes" : "codes"}}});
    randomize(g, 8);
    compare(sized_for(g, 1), name);
  }
}

TEST(MobileDets, BoxesAreWhatTheCodesSay) {
  const auto built = [](const char* output) {
    Graph g = build_model("mobiledet_cpu", {.classes = 3, .input = {3, 80, 48}, .width = 0.25, .more = {{"output", output}}});
    randomize(g, 9);
    return sized_for(g, 1);
  };
  const Graph raw = built("codes"), decoded = built("boxes");
  const Tensor picture = random_tensor(DType::kF32, {1, 3, 80, 48}, 4);
  const std::vector<Tensor> codes = reference::run_graph(raw, {picture}), boxes = reference::run_graph(decoded, {picture});
  const std::vector<Box> anchors = grid_anchors({{5, 3}, {3, 2}, {2, 1}, {1, 1}, {1, 1}, {1, 1}}, {.height = 80, .width = 48});
  ASSERT_EQ(codes[0].shape(), (Shape{1, static_cast<int64_t>(anchors.size()), 4}));
  ASSERT_EQ(boxes[1].shape(), codes[0].shape());
  ASSERT_EQ(boxes[0].shape(), (Shape{1, static_cast<int64_t>(anchors.size()), 4}));  // background and three classes
  for (size_t i = 0; i < anchors.size(); ++i) {
    const auto at = static_cast<int64_t>(4 * i);
    BoxCode code;
    for (int64_t k = 0; k < 4; ++k) code[static_cast<size_t>(k)] = static_cast<float>(codes[0].get(at + k));
    const Box box = decode_box(code, anchors[i]);
    const double corners[] = {box.x0, box.y0, box.x1, box.y1};
    for (int64_t k = 0; k < 4; ++k) EXPECT_NEAR(boxes[1].get(at + k), corners[k], 1e-5 * std::max(1.0, std::abs(corners[k]))) << i;
    for (int64_t k = 0; k < 4; ++k) EXPECT_NEAR(boxes[0].get(at + k), 1 / (1 + std::exp(-codes[1].get(at + k))), 1e-6) << i;
  }
  // Two outputs of four numbers a box: the second are the boxes.
  ASSERT_EQ(detector_form(boxes), DetectorForm::kScoresBoxes);
  DetectOptions options;
  options.min_score = 0.01f;
  const std::vector<Detection> found = detect(boxes, DetectorForm::kScoresBoxes, options);
  ASSERT_FALSE(found.empty());
  double best = 0;
  for (int64_t i = 0; i < boxes[0].size(); ++i)
    if (i % 4 != 0) best = std::max(best, boxes[0].get(i));
  EXPECT_FLOAT_EQ(found[0].score, static_cast<float>(best));
}

TEST(MobileDets, BeginsWithFewDetections) {
  const Graph g = build_model("mobiledet_cpu", {.width = 0.25});
  const Weights w(g);
  EXPECT_FLOAT_EQ(static_cast<float>(w.get("head.0.class.project.bias", 5)), -4.6f);
  for (int64_t slot : {0, 91, 182}) EXPECT_FLOAT_EQ(static_cast<float>(w.get("head.0.class.project.bias", slot)), 4.6f);  // background
  EXPECT_EQ(w.get("head.0.box.project.bias", 5), 0);
  EXPECT_EQ(w["head.1.class.project.bias"].size(), 6 * 91);
}

TEST(MobileDets, WhatCannotBeBuiltIsNamed) {
  EXPECT_THAT(error_of("mobiledet_tpu", {}), HasSubstr("no model mobiledet_tpu; there are mobiledet_cpu, mobiledet_edgetpu"));
  EXPECT_THAT(error_of("mobiledet_cpu", {.width = 0}), HasSubstr("width 0"));
  EXPECT_THAT(error_of("mobiledet_cpu", {.width = -1}), HasSubstr("width -1"));
  EXPECT_THAT(error_of("mobiledet_cpu", {.input = {3, 320, 32}}), HasSubstr("[3, 320, 32]; the side is at least 33"));
  EXPECT_THAT(error_of("mobiledet_cpu", {.classes = -3}), HasSubstr("-3 classes"));
  EXPECT_THAT(error_of("mobiledet_cpu", {.depths = {1}}), HasSubstr("stages are as they were found"));
  EXPECT_THAT(error_of("mobiledet_cpu", {.more = {{"head", "yolo"}}}), HasSubstr("head=yolo is none of ssdlite, features"));
  EXPECT_THAT(error_of("mobiledet_cpu", {.more = {{"head", "features"}, {"output", "boxes"}}}), HasSubstr("output=boxes is of the ssdlite head"));
  EXPECT_THAT(error_of("mobiledet_cpu", {.more = {{"heads", "1"}}}), HasSubstr("no option heads; it has head, output"));
  const auto stage = [](const std::string& text) { return BuildOptions{.more = {{"C3", text}}}; };
  EXPECT_THAT(error_of("mobiledet_cpu", stage("")), HasSubstr("none of I, S, F, T at character 1"));
  EXPECT_THAT(error_of("mobiledet_cpu", stage("Q32")), HasSubstr("none of I, S, F, T at character 1"));
  EXPECT_THAT(error_of("mobiledet_cpu", stage("I32 ")), HasSubstr("none of I, S, F, T at character 5"));
  EXPECT_THAT(error_of("mobiledet_cpu", stage("I")), HasSubstr("no channels of 1 to 4096"));
  EXPECT_THAT(error_of("mobiledet_cpu", stage("I99999999999999999999")), HasSubstr("no channels of 1 to 4096"));
  EXPECT_THAT(error_of("mobiledet_cpu", stage("3I32")), HasSubstr("no * behind a number of layers"));
  EXPECT_THAT(error_of("mobiledet_cpu", stage("0*I32")), HasSubstr("no number of layers of 1 to 64"));
  EXPECT_THAT(error_of("mobiledet_cpu", stage("I32k4")), HasSubstr("an even window of 4"));
  EXPECT_THAT(error_of("mobiledet_cpu", stage("I32s3")), HasSubstr("no stride of 1 to 2"));
  EXPECT_THAT(error_of("mobiledet_cpu", stage("I32x")), HasSubstr("none of k, e, s, i, o, r at character 4"));
  EXPECT_THAT(error_of("mobiledet_cpu", stage("I32e8s2r")), HasSubstr("a residual in layer 1"));
}

// Stages of other kinds of layers: the published written out is the published network, and others may hold as many products.
TEST(MobileDets, StagesCanBeSaid) {
  const auto counted = [](std::map<std::string, std::string> stages) {
    return count_model(build_model("mobiledet_cpu", {.classes = 3, .input = {3, 96, 96}, .width = 0.25, .more = std::move(stages), .draw = false}));
  };
  const ModelCounts published = counted({});
  const ModelCounts said = counted({{"C1", "S8"}, {"C2", "I16e4s2"}, {"C3", "I32e8s2 3*I32e4r"}, {"C4", "I72k5e8s2 I72e8r I72k5e4r I72e4r I72e8 3*I72e8r"}, {"C5", "I104k5e8s2 2*I104k5e4r I104e4r I144e8"}});
  EXPECT_EQ(said.parameters, published.parameters);
  EXPECT_EQ(said.macs, published.macs);
  const ModelCounts fused = counted({{"C3", "F32e2s2 3*F32e2r"}, {"C4", "F72k5e3s2 F72e2r F72k5e1r F72e1r F72e2 3*F72e2r"}});
  EXPECT_NEAR(static_cast<double>(fused.macs), static_cast<double>(published.macs), 0.005 * static_cast<double>(published.macs));
  EXPECT_NE(fused.parameters, published.parameters);
}

}  // namespace
}  // namespace lathe
