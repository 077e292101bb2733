// Whole trainings in small: that they learn, stop, go on to the same bits, and refuse what cannot be trained.
#include "train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "formats/onnx.h"
#include "formats/safetensors.h"
#include "graph/op.h"
#include "models/models.h"
#include "train/head.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

// Pictures [1, 8, 8] of noise with a bright quarter, which is the class.
class Quarters : public TrainingSet {
 public:
  Quarters(size_t size, uint64_t seed, size_t classes = 4) : size_(size), seed_(seed) {
    for (size_t i = 0; i < classes; ++i) classes_.push_back("quarter " + std::to_string(i));
  }
  size_t size() const override { return size_; }
  Sample sample(size_t i) const override {
    Random random(seed_, i);
    Sample s{.input = Tensor(DType::kU8, {1, 8, 8}), .label = label(i), .boxes = {}, .mask = {}};
    for (int64_t y = 0; y < 8; ++y)
      for (int64_t x = 0; x < 8; ++x) s.input.set_int(y * 8 + x, static_cast<int64_t>(random.below(120)) + (y / 4 * 2 + x / 4 == s.label ? 100 : 0));
    return s;
  }
  int64_t label(size_t i) const override { return static_cast<int64_t>(i * 7 % 4); }
  std::string name(size_t i) const override { return "quarter " + std::to_string(i); }
  bool in_memory() const override { return true; }

 private:
  size_t size_;
  uint64_t seed_;
};

// Pictures [1, 40, 40] of grey noise with up to two squares, bright or dark, which are the classes.
class Squares : public TrainingSet {
 public:
  Squares(size_t size, uint64_t seed) : size_(size), seed_(seed) {
    classes_ = {"bright", "dark"};
    truth_ = TrainingTruth::kBoxes;
  }
  size_t size() const override { return size_; }
  Sample sample(size_t i) const override {
    Random random(seed_, i);
    const auto below = [&](int64_t n) { return static_cast<int64_t>(random.below(static_cast<uint64_t>(n))); };
    Sample s{.input = Tensor(DType::kU8, {1, 40, 40}), .label = -1, .boxes = {}, .mask = {}};
    for (int64_t p = 0; p < 1600; ++p) s.input.set_int(p, 110 + below(36));
    const int64_t count = below(3);
    for (int64_t k = 0; k < count; ++k) {
      const int64_t side = 10 + below(7), x = k * 20 + below(21 - side), y = below(41 - side), kind = below(2);
      for (int64_t row = y; row < y + side; ++row)
        for (int64_t column = x; column < x + side; ++column) s.input.set_int(row * 40 + column, kind == 0 ? 240 : 10);
      s.boxes.push_back({static_cast<float>(x), static_cast<float>(y), static_cast<float>(x + side), static_cast<float>(y + side), kind});
    }
    return s;
  }
  int64_t label(size_t) const override { return -1; }
  std::string name(size_t i) const override { return "squares " + std::to_string(i); }
  bool in_memory() const override { return true; }

 private:
  size_t size_;
  uint64_t seed_;
};

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("lathe_train_" + std::to_string(::getpid()) + ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string folder(const char* name) const { return (folder_ / name).string(); }

  static Graph network(int64_t classes = 4) {
    BuildOptions o;
    o.training = true;
    o.seed = 3;
    Builder b("small", o);
    ValueId x = b.input({1, 8, 8});
    for (int i = 0; i < 2; ++i) {
      auto scope = b.scope("conv" + std::to_string(i));
      x = b.drop_path(b.relu(b.batch_norm(b.conv(x, {.out = 8, .kernel = 3, .stride = 2, .pad = 1}))), i * 0.1);
    }
    auto scope = b.scope("head");
    return b.finish({b.linear(b.dropout(b.flatten(x), 0.1), classes)});
  }
  static TrainRequest request(const std::string& folder = "") {
    TrainRequest r;
    r.network = network();
    r.name = "small";
    r.data = {std::make_shared<Quarters>(320, 1), std::make_shared<Quarters>(64, 2), std::make_shared<Quarters>(100, 3), "quarters"};
    r.options.schedule.epochs = 3;
    r.options.schedule.rate = 0.01;
    r.options.loader.batch = 32;
    r.options.threads = 1;
    r.options.ema = 0.9;
    r.folder = folder;
    return r;
  }
  static TrainRequest box_request(const std::string& folder = "") {
    TrainRequest r = request(folder);
    r.network = build_model("mobiledet_cpu", {.classes = 2, .input = {1, 40, 40}, .width = 0.25, .seed = 4, .training = true});
    r.data = {std::make_shared<Squares>(320, 1), std::make_shared<Squares>(32, 2), std::make_shared<Squares>(64, 3), "squares"};
    r.options.schedule.epochs = 10;
    r.options.schedule.rate = 0.005;
    r.options.loader.batch = 16;
    r.options.loader.mean = {0.5f};
    r.options.loader.std = {0.2f};
    r.options.ema = 0;
    return r;
  }
  static std::string error_of(TrainRequest r) {
    try {
      train(std::move(r));
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
  // Stopped after 1 step, and every `steps` further ones, it ends with the same bits.
  void expect_in_parts(const TrainRequest& asked, const std::string& expected, int64_t steps) const {
    int64_t parts = 0;
    for (int64_t most = 1;; most += steps, ++parts) {
      TrainRequest r = asked;
      r.folder = folder("parts");
      r.options.most_steps = most;
      r.options.resume = parts > 0;
      const TrainResult part = train(std::move(r));
      if (!part.stopped) {
        EXPECT_EQ(onnx_bytes(part.network), expected);
        break;
      }
      ASSERT_LT(parts, 20);
    }
    EXPECT_GE(parts, 2);
  }
  fs::path folder_;
};

TEST_F(TrainerTest, LearnsAndTheEngineSaysTheSame) {
  int64_t reports = 0;
  const TrainResult r = train(request(folder("a")), [&](const TrainProgress&) { ++reports; });
  EXPECT_GT(r.test_score, 0.95);
  EXPECT_NEAR(r.test_score, r.torch_score, 1e-9);
  EXPECT_EQ(r.epochs.size(), 3u);
  EXPECT_GE(reports, 3);
  EXPECT_LT(r.epochs[2].loss, r.epochs[0].loss);
  for (NodeId n : r.network.order()) EXPECT_TRUE(r.network[n].op->name != "DropPath" && r.network[n].op->name != "Dropout");
  for (const char* file : {"checkpoint.safetensors", "log.jsonl", "log.html", "model.onnx", "result.json"}) EXPECT_TRUE(fs::exists(folder("a") + "/" + file)) << file;
  const std::vector<uint8_t> json = read_file(folder("a") + "/result.json", 1 << 20);
  EXPECT_NEAR(nlohmann::json::parse(json)["test_accuracy"].get<double>(), r.test_score, 1e-12);
}

// By single steps, at the end of an epoch, in the middle of what makes a step: always the same bits.
TEST_F(TrainerTest, GoesOnToTheSameBits) {
  for (int64_t accumulate : {1, 3}) {
    TrainRequest whole = request(folder("whole"));
    whole.options.accumulate = accumulate;
    whole.options.loader.mixup = 0.2;
    whole.options.loader.augment = parse_augment("flip,crop=1");
    const TrainRequest asked = whole;
    expect_in_parts(asked, onnx_bytes(train(std::move(whole)).network), 7);
    fs::remove_all(folder("parts"));
    fs::remove_all(folder("whole"));
  }
}

TEST_F(TrainerTest, BoxesAreLearntAndTheEngineSaysTheSame) {
  std::string measure;
  TrainRequest asked = box_request(folder("a"));
  asked.options.schedule.epochs = 40;
  const TrainResult r = train(std::move(asked), [&](const TrainProgress& p) { measure = p.measure; });
  EXPECT_EQ(measure, "mAP@0.5");
  EXPECT_EQ(r.measure, "mAP@0.5");
  // 800 steps: far from done, and far from chance, which finds next to nothing.
  EXPECT_GT(r.test_score, 0.1);
  // Codes that libtorch makes, decoded here, against the boxes that the engine makes.
  EXPECT_NEAR(r.test_score, r.torch_score, 1e-3);
  EXPECT_LT(r.epochs.back().loss, r.epochs.front().loss / 2);
  ASSERT_EQ(r.network.outputs.size(), 2u);
  EXPECT_EQ(r.network[r.network.outputs[0]].name, "scores");
  EXPECT_EQ((*r.network[r.network.outputs[1]].shape)[2], 4);
  const nlohmann::json j = nlohmann::json::parse(read_file(folder("a") + "/result.json", 1 << 20));
  EXPECT_EQ(j["measure"], "mAP@0.5");
  EXPECT_NEAR(j["test_mAP@0.5"].get<double>(), r.test_score, 1e-12);
  EXPECT_NEAR(j["last_epoch"]["validation_mAP@0.5"].get<double>(), r.epochs.back().validation_score, 1e-12);
  const std::vector<uint8_t> labels = read_file(folder("a") + "/model.labels.txt", 100);
  EXPECT_EQ(std::string(labels.begin(), labels.end()), "bright\ndark\n");
}

TEST_F(TrainerTest, TrainingOfBoxesGoesOnToTheSameBits) {
  TrainRequest whole = box_request(folder("whole"));
  whole.options.schedule.epochs = 2;
  whole.options.accumulate = 3;
  whole.options.ema = 0.9;
  whole.options.loader.augment = parse_augment("flip,ssd-crop");
  const TrainRequest asked = whole;
  expect_in_parts(asked, onnx_bytes(train(std::move(whole)).network), 5);
}

// The rate of a scheduled drop path is a part of training that is done: with several batches a step too it ends at its own.
TEST_F(TrainerTest, ScheduledDropPathEndsAtItsRate) {
  TrainRequest r = request();
  BuildOptions o;
  o.training = true;
  Builder b("scheduled", o);
  ValueId x = b.input({1, 8, 8});
  x = b.drop_path(b.relu(b.conv(x, {.out = 8, .kernel = 3, .stride = 2, .pad = 1, .bias = true})), 0.6, true);
  auto scope = b.scope("head");
  r.network = b.finish({b.linear(b.flatten(x), 4)});
  r.options.accumulate = 3;
  EXPECT_TRUE(std::isfinite(train(std::move(r)).epochs.back().loss));
}

// With learned scales of weights and activations.
TEST_F(TrainerTest, RoundedNetworksLearnAndGoOnToTheSameBits) {
  for (const char* scheme : {"w:int4 a:uint4", "w:ttq", "w:binary a:sign,annealed"}) {
    TrainRequest whole = request(folder("whole"));
    whole.options.quantize = scheme;
    const TrainRequest asked = whole;
    const TrainResult done = train(std::move(whole));
    EXPECT_GT(done.test_score, 0.8) << scheme;
    EXPECT_NEAR(done.test_score, done.torch_score, 0.02) << scheme;
    for (int64_t steps : {13, 0}) {
      TrainRequest r = asked;
      r.folder = folder("parts");
      r.options.most_steps = steps;
      r.options.resume = steps == 0;
      const TrainResult part = train(std::move(r));
      EXPECT_EQ(part.stopped, steps > 0);
      if (!part.stopped) {
        EXPECT_EQ(onnx_bytes(part.network), onnx_bytes(done.network)) << scheme;
      }
    }
    fs::remove_all(folder("parts"));
    fs::remove_all(folder("whole"));
  }
}

TEST_F(TrainerTest, ASeedGivesTheSameNetwork) {
  EXPECT_EQ(onnx_bytes(train(request()).network), onnx_bytes(train(request()).network));
  TrainRequest other = request();
  other.options.seed = 2;
  EXPECT_NE(onnx_bytes(train(std::move(other)).network), onnx_bytes(train(request()).network));
}

// Activations that are made again: the same weights, with dropout, drop path and statistics of batches.
TEST_F(TrainerTest, RecomputingChangesNothing) {
  Graph g = build_model("resnet18", {.classes = 4, .input = {1, 8, 8}, .width = 0.125, .more = {{"stem", "small"}}, .seed = 1, .training = true});
  std::vector<std::vector<float>> weights[2];
  for (bool recompute : {false, true}) {
    TrainRequest r = request();
    r.network = g;
    r.options.recompute = recompute;
    r.options.schedule.epochs = 1;
    const Graph trained = train(std::move(r)).network;
    const Parameters p = parameters_of(trained);
    for (const auto* list : {&p.trained, &p.statistics})
      for (ValueId v : *list) weights[recompute].push_back(trained[v].constant.to_f32());
  }
  ASSERT_EQ(weights[0].size(), weights[1].size());
  for (size_t i = 0; i < weights[0].size(); ++i)
    for (size_t k = 0; k < weights[0][i].size(); ++k) ASSERT_NEAR(weights[0][i][k], weights[1][i][k], 1e-5) << i;
  TrainRequest small = request();
  small.options.recompute = true;
  EXPECT_GT(train(std::move(small)).test_score, 0.9);
}

// Products in bf16, with each kind of norm and attention behind them.
TEST_F(TrainerTest, ProductsInBf16Learn) {
  for (const char* network : {"", "caformer_s18", "poolformer_s12", "mobilenet_v2"}) {
    TrainRequest r = request();
    if (*network) {
      const bool former = std::string(network).ends_with("former_s18") || std::string(network).ends_with("former_s12");
      BuildOptions o{.classes = 4, .input = {1, 8, 8}, .seed = 1, .training = true};
      if (former) o.depths = {1, 1, 1, 1}, o.widths = {8, 16, 32, 32};
      else o.width = 0.125;
      r.network = build_model(network, o);
      r.options.schedule.epochs = 1;
    }
    r.options.bf16 = true;
    const TrainResult done = train(std::move(r));
    EXPECT_TRUE(std::isfinite(done.epochs.back().loss)) << network;
    if (!*network) {
      EXPECT_GT(done.test_score, 0.9);
    }
  }
}

TEST_F(TrainerTest, AnotherTrainingsCheckpointIsRefused) {
  TrainRequest r = request(folder("a"));
  r.options.most_steps = 4;
  train(std::move(r));
  TrainRequest other = request(folder("a"));
  other.options.resume = true;
  other.options.schedule.rate = 0.02;
  EXPECT_THAT(error_of(std::move(other)), ::testing::AllOf(::testing::HasSubstr("rate 0.01"), ::testing::HasSubstr("0.02")));
  TrainRequest grown = request(folder("a"));
  grown.options.resume = true;
  grown.network = build_model("resnet18", {.classes = 4, .input = {1, 8, 8}, .width = 0.125});
  EXPECT_THAT(error_of(std::move(grown)), ::testing::HasSubstr("no network/"));
  write_file(folder("a") + "/checkpoint.safetensors", "nonsense");
  TrainRequest broken = request(folder("a"));
  broken.options.resume = true;
  EXPECT_NE(error_of(std::move(broken)), "");
}

TEST_F(TrainerTest, DivergenceStopsWithTheReasonAndTheCheckpoint) {
  TrainRequest r = request(folder("a"));
  r.options.optimizer.name = "sgd";
  r.options.schedule = {.name = "constant", .rate = 1e4, .epochs = 5};
  r.options.checkpoint_seconds = 0;
  EXPECT_THAT(error_of(std::move(r)), ::testing::HasSubstr("diverges at a rate of 1e+04"));
  const Safetensors kept = read_safetensors(folder("a") + "/checkpoint.safetensors");
  for (const auto& [name, t] : kept.tensors)
    for (int64_t i = 0; i < t.size(); ++i) ASSERT_TRUE(std::isfinite(t.get(i))) << name;
}

TEST_F(TrainerTest, FrozenParametersStay) {
  TrainRequest r = request();
  r.options.freeze = {"conv0.*"};
  const Graph before = r.network;
  const Graph after = train(std::move(r)).network;
  const auto weights = [](const Graph& g, const std::string& name) {
    for (size_t i = 0; i < g.value_count(); ++i)
      if (g[ValueId{static_cast<int32_t>(i)}].name == name) return g[ValueId{static_cast<int32_t>(i)}].constant.to_f32();
    return std::vector<float>();
  };
  EXPECT_EQ(weights(before, "conv0.weight"), weights(after, "conv0.weight"));
  EXPECT_NE(weights(before, "conv1.weight"), weights(after, "conv1.weight"));
  TrainRequest none = request();
  none.options.freeze = {"conv9.*"};
  EXPECT_THAT(error_of(std::move(none)), ::testing::HasSubstr("conv9.*"));
}

TEST_F(TrainerTest, EveryModeOfConvolutionsWithNormsTrains) {
  for (ConvBnMode mode : {ConvBnMode::kTrain, ConvBnMode::kEval, ConvBnMode::kTune, ConvBnMode::kDeploy}) {
    TrainRequest r = request();
    r.options.conv_bn = mode;
    EXPECT_GT(train(std::move(r)).test_score, 0.8) << name_of(mode);
  }
}

TEST_F(TrainerTest, ATeacherIsLearntToo) {
  TrainRequest r = request();
  r.teacher = std::make_shared<Graph>(train(request()).network);
  r.options.distill = 1;  // its answers alone
  EXPECT_GT(train(std::move(r)).test_score, 0.9);
}

TEST_F(TrainerTest, OptionsOfTheLossAndTheSteps) {
  TrainRequest r = request();
  r.options.label_smoothing = 0.1;
  r.options.clip = 1;
  r.options.loader.cutmix = 1;
  r.options.optimizer.name = "lamb";
  EXPECT_GT(train(std::move(r)).test_score, 0.5);
}

TEST_F(TrainerTest, WhatCannotBeTrainedIsNamed) {
  TrainRequest classes = request();
  classes.network = network(3);
  EXPECT_NE(error_of(std::move(classes)), "");
  TrainRequest channels = request();
  channels.network = build_model("resnet18", {.classes = 4, .input = {3, 8, 8}, .width = 0.125});
  EXPECT_THAT(error_of(std::move(channels)), ::testing::HasSubstr("3 channels, samples have 1"));
  TrainRequest all = request();
  all.options.freeze = {"*"};
  EXPECT_THAT(error_of(std::move(all)), ::testing::HasSubstr("nothing is left to train"));
  TrainRequest no_anchors = box_request();
  no_anchors.network = build_model("resnet18", {.classes = 2, .input = {1, 40, 40}, .width = 0.125});
  EXPECT_THAT(error_of(std::move(no_anchors)), ::testing::HasSubstr("codes [N, A, 4] and logits"));
  TrainRequest slots = box_request();
  slots.network = build_model("mobiledet_cpu", {.classes = 5, .input = {1, 40, 40}, .width = 0.25, .training = true});
  EXPECT_THAT(error_of(std::move(slots)), ::testing::HasSubstr("5"));
  TrainRequest taught = box_request();
  taught.teacher = std::make_shared<Graph>(taught.network);
  EXPECT_THAT(error_of(std::move(taught)), ::testing::HasSubstr("teacher"));
  TrainRequest smooth = box_request();
  smooth.options.label_smoothing = 0.1;
  EXPECT_THAT(error_of(std::move(smooth)), ::testing::HasSubstr("label smoothing"));
  TrainRequest schedule = request();
  schedule.options.schedule.name = "linear";
  EXPECT_THAT(error_of(std::move(schedule)), ::testing::HasSubstr("a schedule linear"));
}

TEST_F(TrainerTest, ANewHeadHasFreshWeightsAndTheRestStays) {
  Graph g = train(request()).network;
  const std::string head = replace_head(g, 7, 1);
  EXPECT_EQ(head, "head.weight");
  EXPECT_EQ((*g[g.outputs[0]].shape)[1], 7);
  verify(g);
  Graph again = g;
  replace_head(again, 7, 1);
  EXPECT_EQ(onnx_bytes(g), onnx_bytes(again));
  Graph none;
  none.outputs = {none.add("Relu", {none.add_input("x", DType::kF32, Shape{1, 4})})};
  EXPECT_THROW(replace_head(none, 7, 1), Error);
}

}  // namespace
}  // namespace lathe
