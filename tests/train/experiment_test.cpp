// Trainings that are compared: the same figures however many run at once.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "train/experiment.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

Experiment clips(const std::string& name) {
  TrainSettings s{.epochs = 1, .batch = 16, .rate = 1e-3};
  s.width = 0.125;
  return {name, "resnet3d_10", "generated:moving-shapes,count=64,frames=2,size=32,validation=16,test=40", s};
}

TEST(Experiment, FiguresAreTheSameHoweverManyRunAtOnce) {
  const fs::path folder = fs::path(::testing::TempDir()) / "lathe_experiment";
  fs::remove_all(folder);
  ReproduceContext one, three;
  one.jobs = 1;
  three.jobs = 3;
  three.keep = folder.string();
  const std::vector<Scores> a = scores_of(one, {clips("a"), clips("a b")}, 2), b = scores_of(three, {clips("a"), clips("a b")}, 2);
  ASSERT_EQ(a.size(), 2u);
  for (size_t i = 0; i < 2; ++i) EXPECT_EQ(a[i].values, b[i].values);
  EXPECT_EQ(a[0].values, a[1].values);  // the same experiment under another name
  EXPECT_EQ(a[0].values.size(), 2u);
  for (const char* kept : {"a-1", "a-2", "a-b-1", "a-b-2"}) EXPECT_TRUE(fs::exists(folder / kept / "model.onnx")) << kept;
  ReproduceContext more;
  more.seeds = 1;
  EXPECT_EQ(scores_of(more, {clips("a")}, 2)[0].values, std::vector<double>{a[0].values[0]});
  fs::remove_all(folder);
}

TEST(Experiment, WhatWasStoppedGoesOnToTheSameFigures) {
  const fs::path folder = fs::path(::testing::TempDir()) / "lathe_experiment_resumed";
  fs::remove_all(folder);
  ReproduceContext c;
  const Scores whole = scores_of(c, {clips("a")}, 2)[0];
  c.keep = folder.string();
  Experiment stopped = clips("a");
  stopped.settings.most_steps = 2;
  scores_of(c, {stopped}, 1);
  EXPECT_TRUE(fs::exists(folder / "a-1" / "checkpoint.safetensors"));
  EXPECT_FALSE(fs::exists(folder / "a-1" / "model.onnx"));
  c.resume = true;
  EXPECT_EQ(scores_of(c, {clips("a")}, 2)[0].values, whole.values);  // the second seed had not begun
  EXPECT_EQ(scores_of(c, {clips("a")}, 2)[0].values, whole.values);  // both are done
  Experiment other = clips("a");
  other.settings.rate = 0.5;
  EXPECT_THROW(scores_of(c, {other}, 1), Error);
  fs::remove_all(folder);
}

TEST(Experiment, ATeacherLearnsFirst) {
  const fs::path folder = fs::path(::testing::TempDir()) / "lathe_experiment_taught";
  fs::remove_all(folder);
  ReproduceContext c;
  c.keep = folder.string();
  Experiment student = clips("student");
  student.settings.distill = 0.9;
  student.teacher = std::make_shared<Experiment>(clips("teacher"));
  const Scores taught = scores_of(c, {student}, 1)[0];
  for (const char* kept : {"teacher-1", "student-1"}) EXPECT_TRUE(fs::exists(folder / kept / "model.onnx")) << kept;
  const auto settings = [&](const char* name) { return nlohmann::json::parse(std::ifstream(folder / name / "result.json")).at("settings"); };
  EXPECT_TRUE(settings("student-1").at("teacher").get<bool>());
  EXPECT_FALSE(settings("teacher-1").at("teacher").get<bool>());
  // The teacher is there already.
  c.resume = true;
  fs::remove_all(folder / "student-1");
  EXPECT_EQ(scores_of(c, {student}, 1)[0].values, taught.values);
  fs::remove_all(folder);
}

TEST(Experiment, WhoeverWantsTheEndGetsItWithCheckpoints) {
  const fs::path folder = fs::path(::testing::TempDir()) / "lathe_experiment_stopped";
  fs::remove_all(folder);
  ReproduceContext c;
  Experiment two_epochs = clips("a");
  two_epochs.settings.epochs = 2;  // it is asked at the end of each at the latest
  const Scores whole = scores_of(c, {two_epochs}, 2)[0];
  c.keep = folder.string();
  c.jobs = 1;
  c.stops = [] { return true; };
  EXPECT_THROW(scores_of(c, {two_epochs}, 2), Stopped);
  EXPECT_THROW(c.tell("more"), Stopped);
  EXPECT_TRUE(fs::exists(folder / "a-1" / "checkpoint.safetensors"));
  EXPECT_FALSE(fs::exists(folder / "a-1" / "model.onnx"));
  c.stops = nullptr;
  c.resume = true;
  EXPECT_EQ(scores_of(c, {two_epochs}, 2)[0].values, whole.values);
  fs::remove_all(folder);
}

TEST(Experiment, WhatOneThrowsIsThrown) {
  ReproduceContext c;
  c.jobs = 2;
  Experiment bad = clips("bad");
  bad.settings.schedule = "none";
  EXPECT_THROW(scores_of(c, {clips("good"), bad}, 1), Error);
}

TEST(Experiment, AGapHasTheErrorOfBothMeans) {
  const Scores a{.values = {91, 92, 93}}, b{.values = {90, 90, 90}};
  EXPECT_DOUBLE_EQ(gap(a, b).points, 2);
  EXPECT_DOUBLE_EQ(gap(a, b).error, 1 / std::sqrt(3.0));
  EXPECT_EQ(a.text(), "92.00 ± 1.00");
}

}  // namespace
}  // namespace lathe
