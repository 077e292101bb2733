// Plans whose first stage runs in strips of rows: the same outputs as whole maps, in sessions, batches, .lathe files.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "../transform/patch_networks.h"
#include "planner/packed.h"
#include "runtime/load.h"
#include "runtime/session.h"

namespace lathe {
namespace {

using testing::PatchNetwork;

Plan plan_with(const Graph& g, std::optional<PatchSetting> setting) {
  PlanOptions options;
  options.patch_setting = setting;
  return make_plan(g, options);
}

// Every setting of a network's plan with 2 to 5 strips.
std::vector<PatchSetting> settings_of(const Graph& g) {
  const Plan plan = plan_with(g, std::nullopt);
  std::vector<PatchSetting> settings;
  const std::vector<PatchSetting> guesses = patch_settings(plan.graph, 1);
  if (guesses.empty()) return settings;
  const ValueId entry = guesses[0].entry;
  for (size_t nodes = 1; nodes <= plan.steps.size(); ++nodes)
    for (int64_t strips = 2; strips <= 5; ++strips)
      for (bool cache : {false, true}) {
        const PatchSetting setting{entry, nodes, strips, cache};
        try {
          const PatchStage stage = stage_in_strips(plan.graph, setting);
          if ((*plan.graph[stage.exit].shape)[1] >= strips) settings.push_back(setting);
        } catch (const Error& e) {
          EXPECT_EQ(e.kind(), ErrorKind::kInput) << e.what();
        }
      }
  return settings;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.shape(), b.shape());
  double most = 0, range = 1e-30;
  for (int64_t i = 0; i < a.size(); ++i) range = std::max(range, std::abs(b.get(i)));
  for (int64_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a.get(i) - b.get(i)));
  return most / range;
}

void compare_networks(bool quantized, int networks) {
  int cases = 0, kept = 0;
  for (int seed = 0; seed < networks; ++seed) {
    const Graph g = PatchNetwork(static_cast<uint64_t>(seed) + (quantized ? 5000 : 4000), quantized).make(2 + seed % 5);
    Session whole(plan_with(g, std::nullopt));
    const std::vector<Tensor> inputs = random_inputs(whole.plan(), static_cast<uint64_t>(seed));
    const Tensor expected = whole.run(inputs)[0].clone();
    for (const PatchSetting& setting : settings_of(g)) {
      const std::string text = fmt::format("network {}, {} nodes, {} strips, cache {}", seed, setting.nodes, setting.strips, setting.cache);
      std::optional<Plan> plan;
      try {
        plan = plan_with(g, setting);
      } catch (const Error& e) {
        ASSERT_EQ(e.kind(), ErrorKind::kUnsupported) << text << ": " << e.what();  // a node that only the reference can run
        continue;
      }
      ASSERT_TRUE(plan->patches);
      Session strips(std::move(*plan));
      for (int turn = 0; turn < 2; ++turn) {  // nothing of the first run is left for the second
        const Tensor& got = strips.run(inputs)[0];
        if (quantized) {
          ASSERT_EQ(std::memcmp(got.raw(), expected.raw(), expected.bytes()), 0) << text << "\n" << print_plan(strips.plan());
        } else {
          ASSERT_LE(largest_difference(got, expected), 1e-6) << text << "\n" << print_plan(strips.plan());
        }
      }
      ++cases;
      for (size_t m = 0; m < strips.plan().patches->maps().size(); ++m) kept += strips.plan().patches->persists(m);
    }
  }
  EXPECT_GT(cases, 3 * networks);
  EXPECT_GT(kept, networks);
}

TEST(PatchSessions, NetworksOfCodesHaveTheSameBits) { compare_networks(true, std::getenv("LATHE_LONG_TESTS") ? 200 : 40); }
TEST(PatchSessions, NetworksAgree) { compare_networks(false, std::getenv("LATHE_LONG_TESTS") ? 200 : 40); }

// A picture whose stage is wide, and what follows it.
Graph network(int64_t batch = 1) {
  Graph g;
  const auto weights = [&](Shape s, uint64_t seed) {
    Tensor t = random_tensor(DType::kF32, s, seed);
    for (int64_t i = 0; i < t.size(); ++i) t.set(i, (t.get(i) - 0.5) / 4);
    return g.add_constant(t);
  };
  using Ints = std::vector<int64_t>;
  ValueId x = g.add_input("x", DType::kF32, Shape{batch, 3, 48, 40});
  x = g.add("Relu", {g.add("Conv", {x, weights({16, 3, 3, 3}, 1)}, {{"pads", Ints(4, 1)}, {"strides", Ints{2, 2}}})});
  x = g.add("Relu", {g.add("Conv", {x, weights({16, 1, 3, 3}, 2)}, {{"pads", Ints(4, 1)}, {"group", int64_t{16}}})});
  const ValueId a = g.add("Conv", {x, weights({8, 16, 1, 1}, 3)});
  ValueId y = g.add("Relu", {g.add("Conv", {a, weights({32, 8, 1, 1}, 4)})});
  y = g.add("Relu", {g.add("Conv", {y, weights({32, 1, 3, 3}, 5)}, {{"pads", Ints(4, 1)}, {"group", int64_t{32}}})});
  x = g.add("Add", {a, g.add("Conv", {y, weights({8, 32, 1, 1}, 6)})});
  g[x].name = "map";
  g.outputs = {g.add("ReduceMean", {x, g.add_constant(Tensor::of_i64({2, 3}))}), x};
  return g;
}

PatchSetting longest(const Graph& g, int64_t strips) {
  std::vector<PatchSetting> settings = settings_of(g);
  EXPECT_FALSE(settings.empty());
  PatchSetting last = settings.back();
  last.strips = strips;
  return last;
}

TEST(PatchSessions, AnOutputInsideTheCallersMemoryIsWrittenThere) {
  const Graph g = network();
  PatchSetting setting{{}, 0, 4, true};
  for (const PatchSetting& s : settings_of(g))
    if (s.nodes > setting.nodes) setting = s;
  Session whole(plan_with(g, std::nullopt)), strips(plan_with(g, setting));
  const std::vector<Tensor> inputs = random_inputs(whole.plan(), 1);
  const Tensor expected = whole.run(inputs)[1].clone();
  Tensor memory(DType::kF32, expected.shape());
  strips.bind_output(1, memory);
  strips.run(inputs);
  EXPECT_LE(largest_difference(memory, expected), 1e-6);
  strips.bind_output(1, {});
  memory.set(0, 12345);
  EXPECT_LE(largest_difference(strips.run(inputs)[1], expected), 1e-6);
  EXPECT_EQ(memory.get(0), 12345);
}

TEST(PatchSessions, ABatchInSlicesRunsInStripsImageByImage) {
  Graph g = network(4);
  PlanOptions options;
  const Plan one = plan_with(network(), std::nullopt);
  options.input_shapes["x"] = {4, 3, 48, 40};
  Session whole(make_plan(g, options));
  const std::vector<Tensor> inputs = random_inputs(whole.plan(), 1);
  const Tensor expected = whole.run(inputs)[0].clone();
  options.patch_setting = longest(network(), 3);
  if (whole.plan().slices == 4) {
    Session strips(make_plan(g, options));
    ASSERT_TRUE(strips.plan().patches);
    EXPECT_LE(largest_difference(strips.run(inputs)[0], expected), 1e-6);
  } else {
    EXPECT_THROW((void)make_plan(g, options), Error);  // a batch is no stretch of rows
  }
}

TEST(PatchSessions, TimesAreThoseOfTheNodes) {
  const Graph g = network();
  Session strips(plan_with(g, longest(g, 4)));
  strips.set_profiling(true);
  const std::vector<Tensor> inputs = random_inputs(strips.plan(), 1);
  for (int i = 0; i < 3; ++i) strips.run(inputs);
  for (size_t s = 0; s < strips.plan().steps.size(); ++s) {
    EXPECT_EQ(strips.step_times()[s].runs, 3) << s;
    if (!strips.plan().steps[s].view) {
      EXPECT_GT(strips.step_times()[s].seconds, 0) << s;
    }
  }
}

TEST(PatchSessions, MapsBetweenTakeTheRowsOfAStrip) {
  const Graph g = network();
  const Plan whole = plan_with(g, std::nullopt), strips = plan_with(g, longest(g, 6));
  int64_t before = 0, after = 0;
  for (const Placement& p : whole.placements) before += p.offset >= 0 ? p.bytes : 0;
  for (const Placement& p : strips.placements) after += p.offset >= 0 ? p.bytes : 0;
  EXPECT_LT(after, before * 2 / 3);
  EXPECT_NE(print_plan(strips).find("6 strips of rows"), std::string::npos);
}

class PackedPatches : public ::testing::Test {
 protected:
  void SetUp() override { file_ = std::filesystem::temp_directory_path() / fmt::format("lathe_patches_{}.lathe", ::getpid()); }
  void TearDown() override { std::filesystem::remove(file_); }
  std::filesystem::path file_;
};

TEST_F(PackedPatches, ComeBackAsTheyWere) {
  for (bool quantized : {false, true}) {
    const Graph g = quantized ? PatchNetwork(5003, true).make(5) : network();
    const PatchSetting setting = longest(g, 3);
    PlanOptions options;
    options.patch_setting = setting;
    Plan plan = make_plan(g, options);
    write_packed(plan, {.model = "net.onnx", .options = options}, "", file_.string());
    Session made(std::move(plan)), read(PackedFile::open(file_.string()).plan());
    ASSERT_TRUE(read.plan().patches);
    EXPECT_EQ(read.plan().patches->setting(), setting);
    EXPECT_EQ(read.plan().arena_bytes, made.plan().arena_bytes);
    const std::vector<Tensor> inputs = random_inputs(made.plan(), 3);
    const Tensor expected = made.run(inputs)[0].clone();
    const Tensor& got = read.run(inputs)[0];
    EXPECT_EQ(std::memcmp(got.raw(), expected.raw(), expected.bytes()), 0);
  }
}

TEST(PatchPlans, SettingsThatDoNotFitAreErrors) {
  const Graph g = network();
  const PatchSetting good = longest(g, 3);
  for (PatchSetting bad : {PatchSetting{{-1}, 3, 2, true}, PatchSetting{{1 << 20}, 3, 2, true}, PatchSetting{good.entry, 0, 2, true}, PatchSetting{good.entry, 1000, 2, true},
                           PatchSetting{good.entry, good.nodes, 0, true}, PatchSetting{good.entry, good.nodes, 1000, true}, PatchSetting{good.entry, good.nodes, -5, false}}) {
    try {
      (void)plan_with(g, bad);
      ADD_FAILURE() << bad.nodes << " nodes, " << bad.strips << " strips";
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInput) << e.what();
    }
  }
}

TEST(PatchPlans, MeasuringKeepsWhatIsFasterOrNothing) {
  const Graph g = network();
  PlanOptions options;
  options.patches = true;
  const std::string cache = (std::filesystem::temp_directory_path() / fmt::format("lathe_patches_{}.db", ::getpid())).string();
  options.kernel_times = cache;
  Session measured(make_plan(g, options)), whole(plan_with(g, std::nullopt));
  EXPECT_FALSE(measured.plan().patches) << "its maps fit the cache";
  const std::vector<Tensor> inputs = random_inputs(whole.plan(), 3);
  EXPECT_LE(largest_difference(measured.run(inputs)[0], whole.run(inputs)[0]), 1e-6);
  std::filesystem::remove(cache);
}

}  // namespace
}  // namespace lathe
