// Metrics by hand, labels of every kind, and assessments of two networks.
#include "optimize/metrics.h"

#include <gmock/gmock.h>

#include <cmath>
#include <set>

#include "fixture.h"
#include "formats/npy.h"
#include "optimize/assess.h"
#include "optimize/evaluate.h"

namespace lathe {
namespace {

using testing::HasSubstr;

Tensor scores(std::vector<float> v) {
  auto count = static_cast<int64_t>(v.size());
  return Tensor::of_f32({1, count}, std::move(v));
}

class MetricsTest : public OptimizeTest {
 protected:
  // Pictures of one size for networks of fixed outputs.
  Graph picture_graph(int64_t side = 24) const {
    Graph g;
    ValueId x = g.add_input("x", DType::kF32, Shape{1, 3, side, side});
    g.outputs = {g.add("Relu", {x})};
    return g;
  }
  Dataset pictures(const std::string& labels, int64_t side = 24) {
    DatasetOptions o;
    o.labels = labels;
    o.preprocess.stretch = true;
    Dataset data(path("p"), path("m.onnx"), picture_graph(side), o);
    for (size_t i = 0; i < data.size(); ++i) data.inputs(i);
    return data;
  }
};

TEST_F(MetricsTest, AveragePrecisionByHand) {
  EXPECT_DOUBLE_EQ(average_precision({true, true}, 2), 1);
  EXPECT_DOUBLE_EQ(average_precision({}, 3), 0);
  // Recall ½ at precision 1, recall 1 at precision ⅔: 51 points (0 … 0.50) of 1, 50 of ⅔.
  EXPECT_NEAR(average_precision({true, false, true}, 2), (51 + 50 * 2.0 / 3) / 101, 1e-12);
  EXPECT_NEAR(average_precision({true, false}, 2), 51.0 / 101, 1e-12);
}

TEST_F(MetricsTest, BoxesAreJudgedByTheObjectThatTheyTake) {
  const std::vector<TrueBox> truth = {{0, 0, 10, 10, 0}, {20, 0, 30, 10, 0}, {40, 0, 60, 20, 1, true}, {0, 20, 10, 30, 1}};
  const std::vector<Detection> found = {{0, 0, 10, 10, 0.9f, 0, ""},     // the first object
                                        {1, 0, 11, 10, 0.8f, 0, ""},     // the same again: it is taken
                                        {20, 0, 30, 4.5, 0.7f, 0, ""},   // overlaps the second by 0.45
                                        {42, 2, 50, 10, 0.6f, 1, ""},    // lies on the crowd: counts neither way
                                        {0, 20, 10, 30, 0.5f, 0, ""}};   // of another class
  const std::vector<JudgedBox> half = judge_boxes(found, truth, 0.5f), less = judge_boxes(found, truth, 0.4f);
  const auto rights = [](const std::vector<JudgedBox>& list) {
    std::vector<bool> right;
    for (const JudgedBox& j : list) right.push_back(j.right);
    return right;
  };
  EXPECT_EQ(rights(half), (std::vector<bool>{true, false, false, false}));
  EXPECT_EQ(rights(less), (std::vector<bool>{true, false, true, false}));
  // Class 0: one of two objects found, first of all. Class 1: nothing. Class 2 does not occur.
  EXPECT_NEAR(mean_average_precision(half, {{0, 2}, {1, 1}, {2, 0}}), (51.0 / 101 + 0) / 2, 1e-12);
  EXPECT_EQ(mean_average_precision({}, {}), 1);
  EXPECT_EQ(mean_average_precision({}, {{3, 1}}), 0);
}

TEST_F(MetricsTest, CalibrationErrorByHand) {
  EXPECT_EQ(expected_calibration_error({}, {}), 0);
  EXPECT_NEAR(expected_calibration_error({0.9, 0.9, 0.9, 0.9}, {true, true, true, false}), 0.15, 1e-12);
  // Two bins: sure of 0.8 and always right, sure of 0.2 and never: 0.2 away each.
  EXPECT_NEAR(expected_calibration_error({0.8, 0.2}, {true, false}), 0.2, 1e-12);
  EXPECT_NEAR(expected_calibration_error({1, 1}, {true, true}), 0, 1e-12);
}

TEST_F(MetricsTest, McNemarIsTheExactTest) {
  EXPECT_EQ(mcnemar(0, 0), 1);
  EXPECT_NEAR(mcnemar(0, 5), 2 * std::pow(0.5, 5), 1e-12);
  EXPECT_NEAR(mcnemar(2, 10), 2 * (1 + 12 + 66) / 4096.0, 1e-12);
  EXPECT_EQ(mcnemar(3, 3), 1);
  EXPECT_NEAR(mcnemar(10, 2), mcnemar(2, 10), 1e-12);
  EXPECT_LT(mcnemar(1000, 1300), 1e-9);
}

TEST_F(MetricsTest, BootstrapOfTheMean) {
  Interval i = bootstrap_mean({1, 2, 3, 4, 5}, 1);
  EXPECT_EQ(i.value, 3);
  EXPECT_GT(i.low, 1.2);
  EXPECT_LT(i.low, 2.6);
  EXPECT_LE(i.high, 5);
  EXPECT_EQ(bootstrap_mean({2, 2}, 1).high, 2);
}

TEST_F(MetricsTest, TopClassesAgainstLabelsAndAgainstTheOriginal) {
  make_pictures("p", 1, false);
  Dataset labelled = pictures("");
  ASSERT_EQ(labelled.size(), 3u);
  std::vector<Tensor> example{scores({0, 0, 0, 0, 0, 0, 0})};
  auto top1 = make_metric(MetricKind::kTop1, labelled, {}, example), top5 = make_metric(MetricKind::kTop5, labelled, {}, example), before = make_metric(MetricKind::kTop1, labelled, {}, example);
  for (size_t i = 0; i < 3; ++i) {
    // Always class 6, then 5, …: the labels 0 to 2 are at places 7, 6 and 5; the original is always right.
    std::vector<Tensor> actual{scores({1, 2, 3, 4, 5, 6, 7})}, right{scores({0, 0, 0, 0, 0, 0, 0})};
    right[0].set(labelled.label(i), 1);
    top1->add(i, actual, right);
    top5->add(i, actual, right);
    before->add(i, right, right);
  }
  EXPECT_EQ(top1->value().value, 0);
  EXPECT_NEAR(top5->value().value, 1.0 / 3, 1e-12);
  EXPECT_EQ(before->value().value, 1);
  EXPECT_EQ(top1->drop_from(*before).value, 1);
  EXPECT_THROW(make_metric(MetricKind::kMap, labelled, {}, example), Error);
  EXPECT_THROW(parse_metric("top2"), Error);
}

TEST_F(MetricsTest, CosineAndSquares) {
  make_pictures("p", 1, false);
  Dataset data = pictures("");
  std::vector<Tensor> a{scores({3, 4})}, b{scores({4, 3})}, zero{scores({0, 0})};
  auto cosine = make_metric(MetricKind::kCosine, data, {}, a), squares = make_metric(MetricKind::kMse, data, {}, a), same = make_metric(MetricKind::kCosine, data, {}, a);
  cosine->add(0, a, b);
  squares->add(0, a, b);
  same->add(0, b, b);
  EXPECT_NEAR(cosine->value().value, 24.0 / 25, 1e-12);
  EXPECT_NEAR(squares->value().value, 1, 1e-12);
  EXPECT_NEAR(cosine->drop_from(*same).value, 1.0 / 25, 1e-12);
  auto nothing = make_metric(MetricKind::kCosine, data, {}, a);
  nothing->add(0, zero, zero);
  EXPECT_EQ(nothing->value().value, 1);
  nothing->add(1, zero, a);
  EXPECT_EQ(nothing->value().value, 0.5);
}

TEST_F(MetricsTest, BoxesByTableAndByCoco) {
  make_pictures("p", 1, false);  // red0, green0, blue0: 24 × 24
  std::filesystem::remove(path("p/labels.tsv"));
  write_file(path("boxes.tsv"), "file\tclass\tx0\ty0\tx1\ty1\nred0.png\t0\t0\t0\t12\t12\nred0.png\t1\t12\t12\t24\t24\nblue0.png\t0\t6\t6\t18\t18\n");
  write_file(path("coco.json"), R"({"images": [{"id": 7, "file_name": "red0.png"}, {"id": 8, "file_name": "blue0.png"}, {"id": 9, "file_name": "elsewhere.png"}],
    "categories": [{"id": 90, "name": "b"}, {"id": 3, "name": "a"}],
    "annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 12, 12]}, {"image_id": 7, "category_id": 90, "bbox": [12, 12, 12, 12]},
                    {"image_id": 8, "category_id": 3, "bbox": [6, 6, 12, 12], "iscrowd": 0}, {"image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1]}]})");
  for (const char* file : {"boxes.tsv", "coco.json"}) {
    Dataset data = pictures(path(file));
    EXPECT_EQ(data.truth(), Truth::kBoxes);
    EXPECT_EQ(data.size(), file[0] == 'b' ? 3u : 2u);  // the table leaves green0 without objects, COCO does not list it
    // Scores [1, N, 3] with a background, and corners.
    auto answer = [&](const std::string& name, bool shifted) {
      std::vector<float> s, b;
      auto box = [&](float x0, float y0, float x1, float y1, int c, float score) {
        s.insert(s.end(), {1 - score, c == 0 ? score : 0, c == 1 ? score : 0});
        b.insert(b.end(), {x0 / 24, y0 / 24, x1 / 24, y1 / 24});
      };
      const float d = shifted ? 3 : 0;  // overlap of 12 × 9 with 12 × 15: 0.6
      if (name == "red0.png") box(0, d, 12, 12 + d, 0, 0.9f), box(12, 12, 24, 24, 1, 0.8f);
      else if (name == "blue0.png") box(6, 6, 18, 18, 0, 0.7f), box(0, 0, 3, 3, 0, 0.0f);
      else box(0, 0, 3, 3, 0, 0.0f), box(3, 3, 6, 6, 0, 0.0f);
      return std::vector<Tensor>{Tensor::of_f32({1, 2, 3}, s), Tensor::of_f32({1, 2, 4}, b)};
    };
    std::vector<Tensor> example = answer("red0.png", false);
    EXPECT_EQ(default_metric(data, example), MetricKind::kMap);
    auto good = make_metric(MetricKind::kMap, data, {}, example), worse = make_metric(MetricKind::kMap, data, {}, example);
    for (size_t i = 0; i < data.size(); ++i) {
      good->add(i, answer(data.name(i), false), example);
      worse->add(i, answer(data.name(i), true), example);
    }
    EXPECT_NEAR(good->value().value, 1, 1e-12);
    // Class 1 is whole. Of class 0, at overlaps up to 0.60 all are right; beyond, the best of two is wrong: precision ½ up to recall ½.
    const double beyond = 51 * 0.5 / 101;
    EXPECT_NEAR(worse->value().value, (1 + (3 * 1 + 7 * beyond) / 10) / 2, 1e-6);
    EXPECT_NEAR(worse->drop_from(*good).value, 1 - worse->value().value, 1e-12);
  }
  auto fault_of = [&](const std::string& text, const std::string& file) {
    write_file(path(file), text);
    try {
      pictures(path(file));
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_THAT(fault_of("red0.png\t0\t5\t5\t5\t9\n", "a.tsv"), HasSubstr("no area"));
  EXPECT_THAT(fault_of("red0.png\t0\t1\t1\t5\t9\nblue0.png\t1\n", "b.tsv"), HasSubstr("line 2"));
  EXPECT_THAT(fault_of("{}", "a.json"), HasSubstr("no COCO file"));
  EXPECT_THAT(fault_of(R"({"images": [], "annotations": [], "categories": []})", "b.json"), HasSubstr("lists no picture"));
  EXPECT_THAT(fault_of(R"({"images": [{"id": 1, "file_name": "red0.png"}], "categories": [], "annotations": [{"image_id": 1, "category_id": 4, "bbox": [0, 0, 1, 1]}]})", "c.json"), HasSubstr("category 4"));
  EXPECT_THAT(fault_of("not json", "d.json"), HasSubstr("d.json"));
}

TEST_F(MetricsTest, MapsOfClasses) {
  make_pictures("p", 1, false, 8);
  std::filesystem::remove(path("p/labels.tsv"));
  std::filesystem::create_directories(path("p/labels"));
  // Gray PNGs: the left half class 0, the right half class 1, the last row left out (255). Written by way of RGB they are colours and refused.
  auto gray_png = [&](const std::string& file) {
    static const unsigned char kHead[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    auto crc = [](const std::string& s) {
      uint32_t c = ~0u;
      for (unsigned char b : s) {
        c ^= b;
        for (int k = 0; k < 8; ++k) c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
      }
      return ~c;
    };
    auto big = [](uint32_t v) { return std::string{static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8), static_cast<char>(v)}; };
    auto chunk = [&](const std::string& type, const std::string& data) { return big(static_cast<uint32_t>(data.size())) + type + data + big(crc(type + data)); };
    std::string raw;
    for (int y = 0; y < 8; ++y) {
      raw += '\0';
      for (int x = 0; x < 8; ++x) raw += static_cast<char>(y == 7 ? 255 : x >= 4);
    }
    uint32_t a = 1, b = 0;
    for (unsigned char c : raw) a = (a + c) % 65521, b = (b + a) % 65521;
    auto length = static_cast<uint16_t>(raw.size());
    std::string stored{0x78, 0x01, 0x01, static_cast<char>(length), static_cast<char>(length >> 8), static_cast<char>(~length), static_cast<char>(~length >> 8)};
    stored += raw + big((b << 16) | a);
    write_file(file, std::string(reinterpret_cast<const char*>(kHead), 8) + chunk("IHDR", big(8) + big(8) + std::string{8, 0, 0, 0, 0}) + chunk("IDAT", stored) + chunk("IEND", ""));
  };
  for (const char* name : {"red0", "green0"}) gray_png(path(std::string("p/labels/") + name + ".png"));
  EXPECT_THROW(pictures("", 8), Error);  // blue0 has none
  Image colours{8, 8, std::vector<uint8_t>(192, 9)};
  write_png(path("p/labels/blue0.png"), colours);
  EXPECT_THROW(read_label_map(path("p/labels/blue0.png")), Error);
  gray_png(path("p/labels/blue0.png"));
  EXPECT_EQ(read_label_map(path("p/labels/blue0.png")).labels[4], 1);
  Dataset data = pictures("", 8);
  EXPECT_EQ(data.truth(), Truth::kMap);
  Tensor right(DType::kI64, {1, 8, 8}), half(DType::kI64, {1, 8, 8});
  for (int64_t i = 0; i < 64; ++i) right.set_int(i, i % 8 >= 4), half.set_int(i, 0);
  auto good = make_metric(MetricKind::kIou, data, {}, {right}), bad = make_metric(MetricKind::kIou, data, {}, {right});
  for (size_t i = 0; i < data.size(); ++i) {
    good->add(i, {right}, {right});
    bad->add(i, {half}, {right});  // all of class 0
  }
  EXPECT_EQ(good->value().value, 1);
  EXPECT_NEAR(bad->value().value, (0.5 + 0) / 2, 1e-12);
  EXPECT_NEAR(bad->drop_from(*good).value, 0.75, 1e-12);
}

TEST_F(MetricsTest, ArraysWithClasses) {
  Tensor x(DType::kF32, {6, 8});
  for (int64_t i = 0; i < x.size(); ++i) x.set(i, static_cast<double>(i % 5));
  write_npy(path("x.npy"), x);
  Tensor y(DType::kI64, {6});
  for (int64_t i = 0; i < 6; ++i) y.set_int(i, i % 4);
  write_npy(path("y.npy"), y);
  DatasetOptions o;
  o.labels = path("y.npy");
  Dataset data(path("x.npy"), path("m.onnx"), regressor(), o);
  EXPECT_TRUE(data.labelled());
  EXPECT_EQ(data.label(5), 1);
  write_npy(path("y.npy"), Tensor(DType::kI64, {5}));
  EXPECT_THROW(Dataset(path("x.npy"), path("m.onnx"), regressor(), o), Error);
}

// No sample is on both sides, whatever the seed; the split is the seed's alone; digests tell data apart.
TEST_F(MetricsTest, CalibrationSamplesAreOthers) {
  make_pictures("p", 20, false);
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    DatasetOptions o;
    o.limit = 30;
    o.calibration = 10;
    o.seed = seed;
    Dataset data(path("p"), path("m.onnx"), classifier(), o), again(path("p"), path("m.onnx"), classifier(), o);
    EXPECT_EQ(data.size(), 30u);
    EXPECT_EQ(data.calibration_size(), 10u);
    std::set<std::string> names;
    for (size_t i = 0; i < 40; ++i) {
      EXPECT_TRUE(names.insert(data.name(i)).second);
      EXPECT_EQ(data.name(i), again.name(i));
    }
    EXPECT_EQ(data.digest(), again.digest());
    o.calibration = 1000;
    EXPECT_EQ(Dataset(path("p"), path("m.onnx"), classifier(), o).calibration_size(), 15u);
    EXPECT_NE(Dataset(path("p"), path("m.onnx"), classifier(), o).digest(), data.digest());
  }
}

TEST_F(MetricsTest, AssessmentsAgree) {
  make_pictures("p", 6, false);
  Candidate a, b;
  a.graph = classifier();
  b.graph = classifier(true);  // with a background class: the labels are one lower
  Dataset data(path("p"), path("m.onnx"), a.graph, {});
  Runner first(a, data.input_shapes()), second(b, data.input_shapes());
  Assessment alone = assess(first, nullptr, data, {}), both = assess(first, &second, data, {});
  EXPECT_EQ(alone.metric, MetricKind::kTop1);
  EXPECT_GT(alone.scores.at(MetricKind::kTop1).value, 0.9);
  ASSERT_TRUE(alone.calibration_error);
  EXPECT_FALSE(alone.other);
  ASSERT_TRUE(both.other);
  EXPECT_GT(both.other->scores.at(MetricKind::kTop1).value, 0.9);
  EXPECT_GT(both.other->agreement->value, 0.9) << "classes are compared by what they mean";
  EXPECT_GT(*both.other->mcnemar, 0.2);
  // Without labels another network is needed.
  std::filesystem::remove(path("p/labels.tsv"));
  Dataset bare(path("p"), path("m.onnx"), a.graph, {});
  EXPECT_THROW(assess(first, nullptr, bare, {}), Error);
  Assessment against = assess(first, &first, bare, {});
  EXPECT_EQ(against.scores.at(MetricKind::kTop1).value, 1);
  EXPECT_EQ(against.other->different, 0);
  EXPECT_FALSE(against.against_labels);
}

}  // namespace
}  // namespace lathe
