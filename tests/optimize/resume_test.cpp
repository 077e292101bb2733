// Searches that are killed, stopped or run out of disk, and go on from their store.
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <chrono>
#include <fstream>
#include <random>
#include <set>
#include <thread>

#include "fixture.h"
#include "optimize/optimize.h"
#include "optimize/store.h"

namespace lathe {
namespace {

using testing::HasSubstr;

class ResumeTest : public OptimizeTest {
 protected:
  void SetUp() override {
    OptimizeTest::SetUp();
    device_.name = "test";
    device_.compute.push_back({.name = "cpu", .cores = 1, .threads = 1, .clock_mhz = {}, .instruction_sets = {}, .per_core = {}, .all_cores = {}});
    make_pictures("p", 8, false);
    export_onnx(classifier(false, 24), path("m.onnx"));
  }

  // Times that follow from the plans alone, so that two searches may be compared; each takes a moment, as real ones do.
  static PairedTimes time_by_signature(Runner& first, Runner& second, const PairedTimesOptions&) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    auto seconds = [](Runner& r) { return 1e-3 * (1 + static_cast<double>(std::hash<std::string>{}(r.signature()) % 1000) / 1000); };
    PairedTimes t;
    double a = seconds(first), b = seconds(second);
    t.first = {a};
    t.second = {b};
    t.ratio = {a / b, a / b * 0.999, a / b * 1.001};
    t.first_seconds = {a, a, a};
    t.second_seconds = {b, b, b};
    return t;
  }

  OptimizeRequest request(const std::string& store) {
    OptimizeRequest r;
    r.model = path("m.onnx");
    r.data = path("p");
    r.threads = 1;
    r.store = store;
    r.kernel_times = path("kernels.db");
    r.trials = 24;
    r.only = {"clean", "bf16", "threads", "unfused"};  // others decide by times that they measure themselves
    r.timer = [](Runner& a, Runner& b, Dataset&, const PairedTimesOptions& o) { return time_by_signature(a, b, o); };
    return r;
  }

  static std::vector<std::string> names(const Optimization& o) {
    std::vector<std::string> all;
    for (const Trial& t : o.trials) all.push_back(t.name() + (t.speedup ? fmt::format(" {} {}", t.speedup->value, t.quality->mean_error) : ""));
    return all;
  }

  // The error's text, or "".
  std::string fault_of(const OptimizeRequest& r) {
    try {
      optimize(r, device_);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

  Device device_;
};

TEST_F(ResumeTest, NothingIsMeasuredTwice) {
  OptimizeRequest r = request(path("a.db"));
  Optimization first = optimize(r, device_), second = optimize(r, device_);
  EXPECT_GT(first.measured_now, 20);
  EXPECT_EQ(first.from_store, 0);
  EXPECT_EQ(second.measured_now, 0);
  EXPECT_EQ(second.from_store, first.measured_now);
  EXPECT_EQ(names(first), names(second));
  EXPECT_EQ(first.chosen, second.chosen);
  // Another budget asks for nothing new, or for little: the choice is another one.
  r.budget = parse_budget("error<=50%");
  EXPECT_LT(optimize(r, device_).measured_now, first.measured_now / 2);
  // Other data and other seeds are other measurements.
  r = request(path("a.db"));
  r.seed = 2;
  EXPECT_GT(optimize(r, device_).measured_now, 20);
  std::filesystem::remove(path("p/red0.png"));
  std::filesystem::copy(path("p/blue0.png"), path("p/red0.png"));
  r.seed = 1;
  EXPECT_GT(optimize(r, device_).measured_now, 20);
}

// The process is killed at random moments, twenty times, and goes on: the answer is that of one that was left alone, and no trial
// is lost or there twice.
TEST_F(ResumeTest, KilledTwentyTimesItEndsAsIfUninterrupted) {
  const Optimization whole = optimize(request(path("whole.db")), device_);
  const int64_t rows = TrialStore(path("whole.db")).count();
  std::mt19937 random(7);
  int killed = 0, waits = 0;
  int64_t before = 0;
  for (; killed < 20 && waits < 200; ++waits) {
    pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      try {
        optimize(request(path("killed.db")), device_);
      } catch (...) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    // Into a start, or into a measurement, or into writing a row.
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60000));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
      ++killed;
    } else {
      ASSERT_EQ(WEXITSTATUS(status), 0);
      // Ended before it could be killed: a search from the start again.
      std::filesystem::remove(path("killed.db"));
      before = 0;
    }
    if (!std::filesystem::exists(path("killed.db"))) continue;
    int64_t now = TrialStore(path("killed.db")).count();
    EXPECT_GE(now, before) << "a trial is lost";
    before = now;
  }
  EXPECT_EQ(killed, 20);
  Optimization rest = optimize(request(path("killed.db")), device_);
  EXPECT_EQ(names(rest), names(whole));
  EXPECT_EQ(rest.chosen, whole.chosen);
  EXPECT_EQ(rest.reason, whole.reason);
  EXPECT_EQ(rest.from_store, before) << "what was measured before the last kill was taken from the store";
  EXPECT_EQ(rest.from_store + rest.measured_now, rows);
  EXPECT_EQ(TrialStore(path("killed.db")).count(), rows);
}

TEST_F(ResumeTest, StoppedItGivesTheBestOfWhatItHas) {
  OptimizeRequest r = request(path("a.db"));
  std::set<std::string> stages;
  r.progress = [&](const OptimizeProgress& p) { stages.insert(p.stage); };
  r.stop = [&] { return stages.contains("measuring bf16") && stages.size() > 8; };
  Optimization o = optimize(r, device_);
  EXPECT_TRUE(o.interrupted);
  ASSERT_TRUE(o.chosen);
  EXPECT_FALSE(o.best.graph.outputs.empty());
  EXPECT_THAT(o.notices, testing::Contains(HasSubstr("interrupted")));
  r.stop = nullptr;
  r.progress = nullptr;
  Optimization rest = optimize(r, device_);
  EXPECT_FALSE(rest.interrupted);
  EXPECT_GT(rest.from_store, 0);
  EXPECT_EQ(names(rest), names(optimize(request(path("b.db")), device_)));
  r.stop = [] { return true; };
  r.store = "";
  EXPECT_THAT(fault_of(r), HasSubstr("interrupted before the original was measured"));
}

TEST_F(ResumeTest, TrialsCanBeLimited) {
  OptimizeRequest r = request("");
  r.trials = 1;
  Optimization o = optimize(r, device_);
  int measured = 0;
  for (const Trial& t : o.trials) measured += t.measured();
  EXPECT_EQ(measured, 2);  // the original, and one candidate
}

// A file that may not grow (as on a full disk): one error, and what was written before is used afterwards.
TEST_F(ResumeTest, FullDiskKeepsTheStore) {
  OptimizeRequest r = request(path("a.db"));
  r.trials = 3;
  optimize(r, device_);
  const int64_t before = TrialStore(path("a.db")).count();
  ASSERT_GT(before, 2);
  auto size = static_cast<rlim_t>(std::filesystem::file_size(path("a.db")));
  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{size, size};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    r.trials = 24;
    std::string why = fault_of(r);
    ::_exit(why.find("cannot be written") != why.npos && why.find("full") != why.npos ? 0 : 1);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_GE(TrialStore(path("a.db")).count(), before);
  r.trials = 24;
  EXPECT_GE(optimize(r, device_).from_store, before);
}

TEST_F(ResumeTest, WhatIsWrongIsToldOnceAndTheStoreStays) {
  OptimizeRequest r = request(path("a.db"));
  r.trials = 3;
  optimize(r, device_);
  const int64_t before = TrialStore(path("a.db")).count();
  // A picture that cannot be read, wherever it falls.
  std::vector<uint8_t> good = read_file(path("p/red3.png"), 1 << 20);
  write_file(path("p/red3.png"), "no picture");
  EXPECT_THAT(fault_of(r), HasSubstr("red3.png"));
  write_file(path("p/red3.png"), {reinterpret_cast<const char*>(good.data()), good.size()});
  // A labels file of something else, and none.
  write_file(path("wrong.tsv"), "cat.png\t1\n");
  r.dataset.labels = path("wrong.tsv");
  EXPECT_THAT(fault_of(r), HasSubstr("no picture in"));
  r.dataset.labels = path("none.tsv");
  EXPECT_THAT(fault_of(r), HasSubstr("--labels"));
  r.dataset.labels = "";
  std::filesystem::create_directories(path("empty"));
  r.data = path("empty");
  EXPECT_THAT(fault_of(r), HasSubstr("found neither"));
  r.data = path("p");
  // A network that gives NaN.
  Graph g = classifier();
  g.outputs = {g.add("Log", {g.add("Sub", {g.add("Neg", {g.add("Abs", {g.outputs[0]})}), g.add_constant(Tensor::of_f32({1}, {1.f}))})})};
  export_onnx(g, path("nan.onnx"));
  r.model = path("nan.onnx");
  EXPECT_THAT(fault_of(r), HasSubstr("holds NaN"));
  r.model = path("m.onnx");
  EXPECT_EQ(TrialStore(path("a.db")).count(), before);
  EXPECT_EQ(optimize(r, device_).measured_now, 0);
}

TEST_F(ResumeTest, StoresThatAreNoneAreErrorsAndStay) {
  write_file(path("text.db"), "this is a letter to somebody, and long enough to be no empty database at all, you see ..........................");
  EXPECT_THAT(fault_of(request(path("text.db"))), HasSubstr("no file of trials"));
  EXPECT_GT(std::filesystem::file_size(path("text.db")), 100u);
  EXPECT_THAT(fault_of(request(path("no/such") + "\n/x" + std::string(300, 'x'))), HasSubstr("cannot be opened"));
  TrialStore store(path("a.db"));
  TrialKey key{"trial", "m", "d", "s", "c", "here", "now", 1};
  EXPECT_FALSE(store.find(key));
  store.add(key, {{"value", 0.1}});
  EXPECT_EQ(store.find(key)->at("value"), 0.1);
  key.seed = 2;
  EXPECT_FALSE(store.find(key));
  TrialStore second(path("a.db"));  // at the same time
  key.seed = 1;
  EXPECT_TRUE(second.find(key));
  second.add(key, {{"value", 0.2}});
  EXPECT_EQ(store.find(key)->at("value"), 0.2);
  EXPECT_EQ(store.count(), 1);
}

}  // namespace
}  // namespace lathe
