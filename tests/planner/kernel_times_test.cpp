// Kernel choice by measurement and the file that keeps the times.
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "core/file.h"
#include "planner/kernel_times.h"
#include "planner/plan.h"
#include "planner/tune.h"
#include "transform/passes.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

std::string scratch(const std::string& name) {
  fs::path folder = fs::path(testing::TempDir()) / ("lathe_times_" + std::to_string(getpid()));
  fs::create_directories(folder);
  std::string path = (folder / name).string();
  fs::remove(path);
  return path;
}

KernelTimesKey key_of(int i) { return {"machine", "build", 1, "request " + std::to_string(i), "a,b"}; }

Graph depthwise_network() {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 16, 12, 12});
  Tensor w(DType::kF32, {16, 1, 3, 3});
  for (int64_t i = 0; i < w.size(); ++i) w.set(i, 0.1 * static_cast<double>(i % 7));
  std::vector<int64_t> ones(4, 1);
  for (int layer = 0; layer < 3; ++layer) x = g.add("Conv", {x, g.add_constant(w)}, {{"pads", ones}, {"group", int64_t{16}}});
  g.outputs = {x};
  return g;
}

// As the planner sees it when it chooses kernels.
Graph fused_network() {
  Graph g = depthwise_network();
  specialize(g, {});
  clean_up(g);
  assign_layout(g);
  fuse(g);
  clean_up(g);
  return g;
}

// Nodes that more than one kernel supports.
std::vector<NodeId> choices(const Graph& g) {
  std::vector<NodeId> nodes;
  for (NodeId id : g.order())
    if (kernels_for({g, g[id]}).size() > 1) nodes.push_back(id);
  return nodes;
}

TEST(KernelTimes, KeepsWhatWasSaved) {
  std::string path = scratch("a.db");
  {
    KernelTimes times(path);
    EXPECT_FALSE(times.find(key_of(1), 2));
    times.add(key_of(1), {1.25e-5, 3e-7});
    EXPECT_TRUE(times.find(key_of(1), 2));
    times.save();
    EXPECT_TRUE(times.notices().empty());
  }
  KernelTimes times(path);
  auto found = times.find(key_of(1), 2);
  ASSERT_TRUE(found);
  EXPECT_EQ(*found, (std::vector<double>{1.25e-5, 3e-7}));
  EXPECT_FALSE(times.find(key_of(1), 2)->empty());
  for (int field = 0; field < 5; ++field) {
    KernelTimesKey other = key_of(1);
    if (field == 0) other.machine = "another";
    if (field == 1) other.build = "another";
    if (field == 2) other.threads = 2;
    if (field == 3) other.request = "another";
    if (field == 4) other.kernels = "b,a";
    EXPECT_FALSE(times.find(other, 2)) << field;
  }
  EXPECT_FALSE(KernelTimes(path).find(key_of(1), 3)) << "a row for two kernels is none for three";
}

TEST(KernelTimes, WithoutAFileItOnlyRemembers) {
  KernelTimes times("");
  times.add(key_of(1), {1, 2});
  times.save();
  EXPECT_TRUE(times.find(key_of(1), 2));
  EXPECT_TRUE(times.notices().empty());
}

TEST(KernelTimes, BrokenFilesCostANotice) {
  std::string garbage = scratch("garbage.db"), cut = scratch("cut.db"), folder = scratch("folder.db"), future = scratch("future.db");
  write_file(garbage, std::string(5000, 'x'));
  {
    KernelTimes times(cut);
    for (int i = 0; i < 500; ++i) times.add(key_of(i), {1, 2});
    times.save();
  }
  fs::resize_file(cut, 4096 * 3);
  fs::create_directory(folder);
  sqlite3* db = nullptr;
  ASSERT_EQ(sqlite3_open(future.c_str(), &db), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(db, "PRAGMA user_version = 99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(db);
  for (const std::string& path : {garbage, cut, folder, future, std::string("/proc/none/kernels.db")}) {
    KernelTimes times(path);
    for (int i = 0; i < 500; ++i) times.find(key_of(i), 2);
    times.add(key_of(1000), {1, 2});
    times.save();
    ASSERT_EQ(times.notices().size(), 1u) << path;
    EXPECT_NE(times.notices()[0].find(path), std::string::npos);
    EXPECT_TRUE(times.find(key_of(1000), 2)) << "goes on without the file";
  }
}

TEST(KernelTimes, RowsThatAreNoTimesCountAsAbsent) {
  std::string path = scratch("rows.db");
  { KernelTimes times(path); times.add(key_of(1), {1, 2}); times.save(); }
  for (const char* text : {"", "1", "1,2,3", "1,nan", "1,-2", "1,0", "a,b", "1,,2", "1 2", "1,inf"}) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(db, fmt::format("UPDATE kernel_times SET seconds = '{}'", text).c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(db);
    EXPECT_FALSE(KernelTimes(path).find(key_of(1), 2)) << text;
  }
}

TEST(KernelTimes, ReadOnlyFilesAreRead) {
  std::string path = scratch("readonly.db");
  { KernelTimes times(path); times.add(key_of(1), {1, 2}); times.save(); }
  fs::permissions(path, fs::perms::owner_read);
  KernelTimes times(path);
  EXPECT_TRUE(times.find(key_of(1), 2));
  times.add(key_of(2), {1, 2});
  times.save();
  if (geteuid() != 0) {  // root may write everywhere
    EXPECT_EQ(times.notices().size(), 1u);
  }
  fs::permissions(path, fs::perms::owner_all);
}

TEST(KernelTimes, SeveralProcessesWriteOneFile) {
  std::string path = scratch("shared.db");
  constexpr int kProcesses = 6, kRows = 25;
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) {
    pid_t child = fork();
    if (child == 0) {
      int notices = 0;
      for (int i = 0; i < kRows; ++i) {
        KernelTimes times(path);
        times.add(key_of(p * kRows + i), {1e-6 * (i + 1), 2e-6});
        times.save();
        notices += static_cast<int>(times.notices().size());
      }
      _exit(notices > 0);
    }
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  KernelTimes times(path);
  int found = 0;
  for (int i = 0; i < kProcesses * kRows; ++i) found += times.find(key_of(i), 2).has_value();
  EXPECT_EQ(found, kProcesses * kRows);
}

TEST(Tune, MeasuresOnceAndThenReads) {
  Graph g = fused_network();
  std::vector<NodeId> nodes = choices(g);
  ASSERT_EQ(nodes.size(), 3u);
  std::string path = scratch("tuner.db");
  for (int expected : {1, 0}) {  // three nodes of one form are one measurement; the second time none
    KernelTuner tuner(path);
    for (NodeId id : nodes) {
      std::unique_ptr<Kernel> kernel;
      EXPECT_GE(tuner.choose({g, g[id]}, kernels_for({g, g[id]}), &kernel), 0);
      EXPECT_TRUE(kernel);
    }
    EXPECT_EQ(tuner.measured(), expected);
    tuner.save();
  }
}

// The file decides: with times that say so another kernel is taken, and a tie keeps the first.
TEST(Tune, TakesTheFastestByTheTimes) {
  Graph g = fused_network();
  KernelRequest request{g, g[choices(g)[0]]};
  auto entries = kernels_for(request);
  std::string path = scratch("decides.db");
  {
    KernelTuner tuner(path);
    std::unique_ptr<Kernel> kernel;
    tuner.choose(request, entries, &kernel);
    tuner.save();
  }
  auto times = [&](double first, double second) {
    std::string text = fmt::format("{},{}", first, second);
    for (size_t i = 2; i < entries.size(); ++i) text += ",1";
    return text;
  };
  for (auto [text, expected] : {std::pair{times(2e-3, 1e-3), 1}, {times(1e-3, 2e-3), 0}, {times(1e-3, 0.99e-3), 0}}) {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(db, fmt::format("UPDATE kernel_times SET seconds = '{}'", text).c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(db);
    KernelTuner tuner(path);
    std::unique_ptr<Kernel> kernel;
    EXPECT_EQ(tuner.choose(request, entries, &kernel), expected) << text;
    EXPECT_EQ(tuner.measured(), 0);
  }
}

TEST(Tune, RequestsDifferByFormNotByWeights) {
  Graph g = fused_network();
  std::vector<NodeId> nodes = choices(g);
  ASSERT_EQ(nodes.size(), 3u);
  std::string text = request_text({g, g[nodes[0]]});
  EXPECT_EQ(text, request_text({g, g[nodes[1]]}));
  EXPECT_NE(text.find("f32[1, 12, 12, 16]"), std::string::npos) << text;
  EXPECT_NE(text.find("group=16"), std::string::npos) << text;
}

// A kernel that needs ten times as long as another is told from it, whatever else runs.
TEST(Tune, TimesTellFastFromSlow) {
  struct Spin : Kernel {
    explicit Spin(int n) : rounds(n) {}
    void run(const Tensor* const*, Tensor* const* outputs, void*) override {
      for (int i = 0; i < rounds; ++i)
        for (int64_t k = 0; k < outputs[0]->size(); ++k) outputs[0]->data<float>()[k] = static_cast<float>(i + k);
    }
    int rounds;
  } fast(20), slow(200);
  Graph g = fused_network();
  std::vector<char> sweep;
  for (bool swapped : {false, true}) {
    std::vector<Kernel*> kernels{swapped ? static_cast<Kernel*>(&slow) : &fast, swapped ? static_cast<Kernel*>(&fast) : &slow};
    std::vector<double> seconds = time_kernels({g, g[choices(g)[0]]}, kernels, sweep);
    EXPECT_GT(seconds[!swapped], 3 * seconds[swapped]);
  }
}

TEST(Tune, APlanTellsOfAFileThatCannotBeUsed) {
  std::string path = scratch("bad.db");
  write_file(path, std::string(5000, 'x'));
  PlanOptions options;
  options.tune = true;
  options.kernel_times = path;
  Plan plan = make_plan(depthwise_network(), options);
  ASSERT_EQ(plan.notices.size(), 1u);
  EXPECT_NE(plan.notices[0].find(path), std::string::npos);
}

}  // namespace
}  // namespace lathe
