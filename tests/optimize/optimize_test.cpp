// The search on small networks of our own, and what it is made of: timing in turns, comparison of answers, techniques.
#include "optimize/optimize.h"

#include <gmock/gmock.h>

#include <cmath>

#include "fixture.h"
#include "formats/npy.h"
#include "runtime/load.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using testing::HasSubstr;
using Outcome = Trial::Outcome;

class SearchTest : public OptimizeTest {
 protected:
  void SetUp() override {
    OptimizeTest::SetUp();
    device_.name = "test";
    device_.compute.push_back({.name = "cpu", .cores = 1, .threads = 1, .clock_mhz = {}, .instruction_sets = {}, .per_core = {}, .all_cores = {}});
  }

  OptimizeRequest request(const Graph& graph, const std::string& data) {
    export_onnx(graph, path("m.onnx"));
    OptimizeRequest r;
    r.model = path("m.onnx");
    r.data = data;
    r.seconds_per_candidate = 0.05;
    r.kernel_times = path("kernels.db");
    return r;
  }

  static const Trial& trial(const Optimization& result, const std::string& name) {
    for (const Trial& t : result.trials)
      if (t.name() == name) return t;
    ADD_FAILURE() << "no trial " << name;
    return result.trials[0];
  }

  Device device_;
};

TEST_F(SearchTest, ClassifierWithLabels) {
  make_pictures("p", 12, false);
  Optimization r = optimize(request(classifier(), path("p")), device_);
  EXPECT_TRUE(r.classifies);
  EXPECT_TRUE(r.labelled);
  EXPECT_EQ(r.samples, 27);
  EXPECT_EQ(r.calibration_samples, 9);
  EXPECT_EQ(r.label_offset, 0);
  EXPECT_EQ(to_string(r.budget), "drop <= 1 points");
  ASSERT_TRUE(r.reference_error);
  EXPECT_LT(*r.reference_error, 1e-4);
  const Trial& original = r.trials[0];
  EXPECT_EQ(original.quality->largest_error, 0);
  EXPECT_GT(original.quality->accuracy->value, 0.9);
  EXPECT_EQ(original.quality->drop->high, 0);
  EXPECT_EQ(trial(r, "clean").outcome, Outcome::kSamePlan);
  EXPECT_LT(trial(r, "clean").size_bytes, original.size_bytes);
  const Trial& half = trial(r, "bf16");
  EXPECT_TRUE(half.quality->finite);
  EXPECT_GT(half.quality->largest_error, 0);
  EXPECT_LT(half.quality->largest_error, 0.05);
  EXPECT_GT(*half.quality->signal_to_noise, 20);
  EXPECT_GE(half.turns, 5);
  EXPECT_EQ(trial(r, "threads").outcome, Outcome::kNotApplicable);
  EXPECT_EQ(trial(r, "unfused").outcome, Outcome::kNotApplicable);
  ASSERT_TRUE(r.chosen);
  EXPECT_FALSE(r.layers.empty());
  EXPECT_FALSE(r.reason.empty());
  // Whatever was chosen is not slower than the original, or is the original.
  const Trial& chosen = r.trials[*r.chosen];
  EXPECT_TRUE(*r.chosen == 0 || (chosen.speedup->low > 1 && chosen.confirmed->low > 1));
}

TEST_F(SearchTest, FindsTheBackgroundClass) {
  make_pictures("p", 6, true);
  Optimization r = optimize(request(classifier(true), path("p")), device_);
  EXPECT_EQ(r.label_offset, 1);
  EXPECT_GT(r.trials[0].quality->accuracy->value, 0.9);
}

TEST_F(SearchTest, WithoutLabelsAgreementIsTheMeasure) {
  make_pictures("p", 4, false);
  std::filesystem::remove(path("p/labels.tsv"));
  OptimizeRequest q = request(classifier(), path("p"));
  Optimization r = optimize(q, device_);
  EXPECT_EQ(to_string(r.budget), "agreement >= 99 %");
  EXPECT_FALSE(r.trials[0].quality->accuracy);
  EXPECT_EQ(r.trials[0].quality->agreement->value, 1);
  // What is lost then is agreement, and that is said.
  q.budget = parse_budget("drop<=1%");
  r = optimize(q, device_);
  EXPECT_TRUE(r.against_original);
  EXPECT_THAT(r.notices, testing::Contains(HasSubstr("there are no labels")));
  const Quality& half = *trial(r, "bf16").quality;
  EXPECT_NEAR(half.drop->value, 1 - half.agreement->value, 1e-12);
  q.metric = MetricKind::kMap;
  EXPECT_THROW(optimize(q, device_), Error);
}

TEST_F(SearchTest, ArraysAndThreadsAndMeasuredUnfused) {
  Tensor x(DType::kF32, {20, 8});
  for (int64_t i = 0; i < x.size(); ++i) x.set(i, std::sin(static_cast<double>(i)));
  write_npy(path("x.npy"), x);
  OptimizeRequest q = request(regressor(), path("x.npy"));
  q.threads = 2;
  Optimization r = optimize(q, device_);
  EXPECT_FALSE(r.classifies);
  EXPECT_EQ(to_string(r.budget), "error <= 5 %");
  EXPECT_TRUE(trial(r, "threads(threads=1)").measured());
  EXPECT_TRUE(trial(r, "unfused").measured());
  EXPECT_LT(trial(r, "unfused").quality->largest_error, 1e-5);
}

TEST_F(SearchTest, NothingMeetsAnImpossibleBudget) {
  make_pictures("p", 3, false);
  OptimizeRequest q = request(classifier(), path("p"));
  q.budget = parse_budget("latency<=1ns, size<=1B");
  Optimization r = optimize(q, device_);
  EXPECT_FALSE(r.chosen);
  ASSERT_GE(r.nearest.size(), 2u);
  EXPECT_EQ(r.trials[r.nearest[0]].misses.size(), 2u);
  EXPECT_THAT(r.reason, HasSubstr("No candidate meets the budget"));
  EXPECT_THAT(r.reason, HasSubstr("above what latency <= 0.001 µs allows"));
}

// A size that only the slower or equal candidate meets: it is handed back, and the reason says that it is no faster.
TEST_F(SearchTest, SaysWhenTheChosenIsNotFaster) {
  make_pictures("p", 3, false);
  OptimizeRequest q = request(classifier(), path("p"));
  q.only = {"clean"};
  Optimization all = optimize(q, device_);
  q.budget = parse_budget(fmt::format("size<={}B", trial(all, "clean").size_bytes));
  Optimization r = optimize(q, device_);
  ASSERT_TRUE(r.chosen);
  EXPECT_EQ(r.trials[*r.chosen].name(), "clean");
  EXPECT_THAT(r.reason, HasSubstr("NOT faster"));
}

TEST_F(SearchTest, TechniquesCanBeNamedAndLeftOut) {
  make_pictures("p", 3, false);
  OptimizeRequest q = request(classifier(), path("p"));
  q.only = {"bf16", "clean"};
  q.exclude = {"clean"};
  Optimization r = optimize(q, device_);
  ASSERT_GE(r.trials.size(), 2u);
  EXPECT_EQ(r.trials[1].name(), "bf16");
  for (const Trial& t : r.trials) EXPECT_EQ(t.name().find("clean"), std::string::npos);
  q.only = {"warp"};
  EXPECT_THROW(optimize(q, device_), Error);
}

TEST_F(SearchTest, TheTimeLimitEndsTheSearch) {
  make_pictures("p", 3, false);
  OptimizeRequest q = request(classifier(), path("p"));
  q.time_limit = 1e-9;
  Optimization r = optimize(q, device_);
  EXPECT_TRUE(r.out_of_time);
  EXPECT_EQ(trial(r, "bf16").outcome, Outcome::kOutOfTime);
  ASSERT_TRUE(r.chosen);
  EXPECT_EQ(*r.chosen, 0u);
}

TEST_F(SearchTest, LabelsBeyondTheClassesAreRefused) {
  make_pictures("p", 3, false);
  write_file(path("p/labels.tsv"), "red0.png\t0\nblue0.png\t17\n");
  EXPECT_THROW(optimize(request(classifier(), path("p")), device_), Error);
}

// Products of three channels between functions that have no table of codes: rounding to codes and back costs more than the product.
TEST_F(SearchTest, WhereInt8LosesTheFasterStaysAndTheReportSaysWhy) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 3, 64, 64});
  Tensor w(DType::kF32, {3, 3, 1, 1});
  for (int64_t i = 0; i < 9; ++i) w.set(i, std::cos(static_cast<double>(i)));
  for (int i = 0; i < 8; ++i) x = g.add("Conv", {g.add("Sin", {x}), g.add_constant(w.clone())}, {}, "c" + std::to_string(i));
  g.outputs = {x};
  infer_shapes(g);
  Tensor samples(DType::kF32, {12, 3, 64, 64});
  for (int64_t i = 0; i < samples.size(); ++i) samples.set(i, std::sin(0.37 * static_cast<double>(i)));
  write_npy(path("x.npy"), samples);
  OptimizeRequest q = request(g, path("x.npy"));
  q.only = {"int8"};
  q.budget = parse_budget("error<=50%");
  Optimization r = optimize(q, device_);
  // What else runs on the machine can hide the difference from a measurement, and not from all.
  const auto told_apart = [&] { return trial(r, "int8").speedup && trial(r, "int8").speedup->high < 1; };
  for (int again = 0; again < 3 && !told_apart(); ++again) r = optimize(q, device_);
  const Trial& int8 = trial(r, "int8");
  ASSERT_TRUE(int8.measured()) << int8.note;
  EXPECT_LT(int8.speedup->high, 1);
  EXPECT_EQ(int8.outcome, Outcome::kNotFaster);
  EXPECT_THAT(int8.note, HasSubstr("slower than the original"));
  ASSERT_TRUE(r.chosen);
  // The original, or what leaves nearly all layers in float.
  int on_codes = 0;
  for (const auto& [layer, choice] : r.trials[*r.chosen].layers) on_codes += choice != "float";
  EXPECT_LE(on_codes, 1) << r.reason;
}

// The twice as deep network loses, whichever stands first.
TEST_F(SearchTest, PairedTimesTellFastFromSlow) {
  make_pictures("p", 3, false);
  Candidate light, heavy;
  light.graph = classifier(false, 8);
  heavy.graph = classifier(false, 64);
  Dataset data(path("p"), path("m.onnx"), light.graph, {});
  Runner a(light, data.input_shapes()), b(heavy, data.input_shapes());
  PairedTimes slower = time_pairs(a, b, data, {0.2, 31, 1, nullptr}), faster = time_pairs(b, a, data, {0.2, 31, 1, nullptr});
  EXPECT_LT(slower.ratio.high, 1);
  EXPECT_GT(faster.ratio.low, 1);
  EXPECT_GT(b.memory_bytes(), a.memory_bytes());
  EXPECT_NE(a.signature(), b.signature());
}

// A network whose answers are wrong everywhere: each number of the comparison by hand.
TEST_F(SearchTest, ComparesAnswers) {
  make_pictures("p", 5, false);
  Candidate original, wrong;
  original.graph = classifier();
  wrong.graph = classifier();
  Graph& g = wrong.graph;
  ValueId y = g.outputs[0];
  g.outputs = {g.add("Neg", {y})};
  Dataset data(path("p"), path("m.onnx"), original.graph, {});
  Runner a(original, data.input_shapes()), b(wrong, data.input_shapes());
  Evaluation evaluation(a, data);
  Quality q = evaluation.compare(b);
  EXPECT_EQ(q.agreement->value, 0);
  EXPECT_NEAR(q.drop->value, evaluation.accuracy()->value, 1e-12);
  EXPECT_NEAR(*q.signal_to_noise, -6.02, 0.01);  // the noise is twice the signal
  g.outputs = {g.add("Log", {g.add("Neg", {g.add("Abs", {y})})})};
  Runner c(wrong, data.input_shapes());
  EXPECT_FALSE(evaluation.compare(c).finite);
}

TEST_F(SearchTest, RelativeErrorHandlesOddTensors) {
  Tensor a = Tensor::of_f32({2}, {0, 2}), b = Tensor::of_f32({2}, {0, 1}), n = Tensor::of_f32({2}, {0, NAN});
  EXPECT_DOUBLE_EQ(largest_relative_error({b}, {a}), 0.5);
  EXPECT_TRUE(std::isinf(largest_relative_error({n}, {a})));
  EXPECT_EQ(largest_relative_error({n}, {n}), 0);
  EXPECT_TRUE(std::isinf(largest_relative_error({a}, {})));
  EXPECT_TRUE(std::isinf(largest_relative_error({a.reshaped({1, 2})}, {a})));
}

// Every technique leaves a network that is valid, that standard ONNX can say, and that gives what was measured
// after it was written and read.
TEST_F(SearchTest, TechniquesSurviveTheFile) {
  Graph g = classifier(false, 40);
  TechniqueContext context{device_, 4};
  for (const Technique& t : catalogue()) {
    EXPECT_FALSE(t.summary.empty()) << t.key;
    Candidate base;
    base.graph = g;
    base.threads = 4;
    if (!obstacle(t, base, context).empty()) continue;
    std::vector<Settings> settings = settings_of(t, base, context);
    ASSERT_FALSE(settings.empty()) << t.key;
    Candidate c = base;
    t.apply(c, settings[0], context);
    verify(c.graph);
    export_onnx(c.graph, path("t.onnx"), plan_metadata(c.options));
    Model back = import_onnx(path("t.onnx"));
    for (const auto& [domain, version] : back.opsets) EXPECT_EQ(domain, "") << t.key;
    PlanOptions options = planned_options(back);
    EXPECT_EQ(options.bf16, c.options.bf16);
    EXPECT_EQ(options.tune, c.options.tune);
    EXPECT_EQ(options.patches, c.options.patches);
    options.tune = c.options.tune = false;
    options.input_shapes = c.options.input_shapes = {{"image", {1, 3, 16, 16}}};
    Session first(make_plan(c.graph, c.options)), second(make_plan(back.graph, options));
    auto inputs = random_inputs(first.plan(), 3);
    EXPECT_LT(largest_relative_error(second.run(inputs), first.run(inputs)), 1e-6) << t.key;
  }
}

// A layer set to f32 keeps its weights and its precision, in the plan and through the file.
TEST_F(SearchTest, Bf16LayerByLayer) {
  const Technique& half = find_technique("bf16");
  TechniqueContext context{device_};
  Candidate base;
  base.graph = classifier(false, 40);
  std::vector<std::string> layers = half.knobs[0].layers(base, context);
  EXPECT_THAT(layers, testing::ElementsAre("stem", "body", "head"));
  Candidate all = compose(base, {{&half, {}}}, context), some = compose(base, {{&half, {{"layers", LayerChoices{{"body", "f32"}}}}}}, context);
  EXPECT_EQ(some.layers.at("body"), "f32");
  EXPECT_EQ(some.layers.at("stem"), "bf16");
  EXPECT_THAT(some.applied[0], HasSubstr("bf16(layers=1 f32 #"));
  std::map<std::string, Shape> shapes = {{"image", {1, 3, 16, 16}}};
  auto type_of_input = [&](const Plan& plan, const std::string& name) {
    for (const Step& s : plan.steps)
      if (plan.graph[s.node].name == name) return plan.graph[plan.graph[s.node].inputs[0]].dtype;
    ADD_FAILURE() << "no step " << name;
    return DType::kUndefined;
  };
  all.options.input_shapes = some.options.input_shapes = shapes;
  EXPECT_EQ(type_of_input(make_plan(all.graph, all.options), "body"), DType::kBF16);
  Plan plan = make_plan(some.graph, some.options);
  EXPECT_EQ(type_of_input(plan, "body"), DType::kF32);
  EXPECT_EQ(type_of_input(plan, "head"), DType::kBF16);
  export_onnx(some.graph, path("some.onnx"), plan_metadata(some.options));
  Model back = import_onnx(path("some.onnx"));
  PlanOptions options = planned_options(back);
  EXPECT_TRUE(options.bf16 && options.bf16_marked);
  options.input_shapes = shapes;
  Session first(std::move(plan)), second(make_plan(back.graph, options));
  auto inputs = random_inputs(first.plan(), 3);
  EXPECT_EQ(largest_relative_error(second.run(inputs), first.run(inputs)), 0);
}

TEST_F(SearchTest, KnobsGiveTheirValues) {
  TechniqueContext context{device_};
  Candidate c;
  Knob range = Knob::range("percentile", "", 99.9, 99, 100, 3), choice = Knob::choice("calibration", "", {"entropy", "mse"});
  EXPECT_EQ(values_of(range, c, context).size(), 4u);
  EXPECT_EQ(std::get<double>(values_of(range, c, context)[0]), 99.9);
  EXPECT_EQ(std::get<double>(values_of(Knob::range("x", "", 1, 0.01, 1, 3, true), c, context)[2]), 0.1);
  Technique t;
  t.key = "t";
  t.knobs = {range, choice};
  std::vector<Settings> settings = settings_of(t, c, context);
  ASSERT_EQ(settings.size(), 5u);
  EXPECT_EQ(label_of(t, settings[0]), "t");
  EXPECT_EQ(label_of(t, settings[4]), "t(calibration=mse)");
  EXPECT_EQ(settings[4].choice("calibration", "entropy"), "mse");
  EXPECT_THROW(settings[4].whole("calibration", 1), Error);
  EXPECT_EQ(canonical({{&t, settings[4]}, {&find_technique("clean"), {}}}), canonical({{&find_technique("clean"), {}}, {&t, settings[4]}}));
  // What a technique needs is asked before the technique itself.
  t.obstacle = [](const Candidate&, const TechniqueContext&) { return std::string("its own"); };
  t.need = Technique::Need::kData;
  EXPECT_THAT(obstacle(t, c, context), HasSubstr("held back"));
  context.calibration.count = 3;
  EXPECT_EQ(obstacle(t, c, context), "its own");
  t.need = Technique::Need::kLabels;
  EXPECT_THAT(obstacle(t, c, context), HasSubstr("labelled"));
}

TEST_F(SearchTest, HalfTheFileForBf16) {
  Candidate c;
  c.graph = classifier(false, 64);
  export_onnx(c.graph, path("wide.onnx"));
  find_technique("bf16").apply(c, {}, TechniqueContext{device_});
  export_onnx(c.graph, path("half.onnx"));
  EXPECT_LT(static_cast<double>(std::filesystem::file_size(path("half.onnx"))), 0.6 * static_cast<double>(std::filesystem::file_size(path("wide.onnx"))));
}

TEST_F(SearchTest, MetadataThatIsNoPlanIsAnError) {
  Model m;
  m.metadata["lathe.precision"] = "fp3";
  EXPECT_THROW(planned_options(m), Error);
  m.metadata = {{"lathe.precision", "bf16"}, {"author", "somebody"}};
  EXPECT_TRUE(planned_options(m).bf16);
}

}  // namespace
}  // namespace lathe
