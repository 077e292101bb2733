#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "tasks/classify.h"
#include "tasks/detect.h"
#include "tasks/draw.h"
#include "tasks/preprocess.h"
#include "tasks/segment.h"

namespace lathe {
namespace {

using nlohmann::json;

std::string scratch(const std::string& name) {
  std::string folder = testing::TempDir() + "lathe_tasks_" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  return folder + "/" + name;
}

Image plain(int width, int height, Color color) {
  Image image{width, height, std::vector<uint8_t>(size_t{3} * width * height)};
  fill_rectangle(image, 0, 0, width, height, color);
  return image;
}

TEST(PreprocessTest, JsonRoundTrip) {
  Preprocess p = Preprocess::imagenet(224, 224);
  p.colors = Preprocess::Colors::kBGR;
  p.layout = Preprocess::Layout::kNHWC;
  p.write(scratch("m.preprocess.json"));
  Preprocess back = Preprocess::read(scratch("m.preprocess.json"));
  EXPECT_EQ(back.to_json(), p.to_json());
  EXPECT_EQ(back.resize_shorter, 256);
  EXPECT_NE(p.describe().find("224x224"), std::string::npos);
  EXPECT_EQ(Preprocess::path_beside("a.b/m.onnx"), "a.b/m.preprocess.json");
  EXPECT_EQ(Preprocess::path_beside("a.b/m"), "a.b/m.preprocess.json");
}

TEST(PreprocessTest, RefusesBadJson) {
  for (const char* text :
       {"[]", "3", R"({"size": 3})", R"({"resize": 0})", R"({"resize": -1})", R"({"resize": 1e9})",
        R"({"resize": [1]})", R"({"crop": 224})", R"({"crop": [0, 2]})", R"({"mean": "x"})",
        R"({"mean": [1, 2]})", R"({"std": 0})", R"({"std": [1, 0, 1]})", R"({"layout": "CHW"})",
        R"({"colors": "rgb"})", R"({"interpolation": 3})", R"({"scale": null})"})
    EXPECT_THROW(Preprocess::from_json(json::parse(text), "test"), Error) << text;
  write_file(scratch("bad.json"), "{\"resize\": ");
  EXPECT_THROW(Preprocess::read(scratch("bad.json")), Error);
  EXPECT_THROW(Preprocess::read(scratch("none.json")), Error);
}

TEST(PreprocessTest, NormalizesAndOrdersColors) {
  Preprocess p;
  p.crop_width = p.crop_height = 2;
  p.scale = 1;
  p.mean = {10, 20, 30};
  p.std = {1, 2, 4};
  Tensor t = p.apply(plain(5, 4, {11, 24, 42}));
  EXPECT_EQ(t.shape(), (Shape{1, 3, 2, 2}));
  EXPECT_EQ(t.to_f32(), (std::vector<float>{1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3}));
  p.colors = Preprocess::Colors::kBGR;
  p.layout = Preprocess::Layout::kNHWC;
  t = p.apply(plain(5, 4, {11, 24, 42}));
  EXPECT_EQ(t.shape(), (Shape{1, 2, 2, 3}));
  EXPECT_EQ(t.get(0), 3);
  EXPECT_EQ(t.get(2), 1);
}

// Planes are resized as the channels of a picture are.
TEST(PreprocessTest, ResizeOfPlanesEqualsThatOfPictures) {
  for (auto [width, height, to_width, to_height] : {std::array{7, 5, 3, 4}, {7, 5, 7, 9}, {7, 5, 20, 5}, {1, 1, 4, 3}, {31, 17, 1, 1}, {6, 6, 6, 6}}) {
    Image image{width, height, std::vector<uint8_t>(size_t{3} * width * height)};
    for (size_t i = 0; i < image.rgb.size(); ++i) image.rgb[i] = static_cast<uint8_t>(i * i * 31 + i);
    std::vector<uint8_t> planes(image.rgb.size()), resized(size_t{3} * to_width * to_height);
    for (size_t i = 0; i < planes.size(); ++i) planes[i % 3 * width * height + i / 3] = image.rgb[i];
    resize_planes(planes.data(), 3, height, width, resized.data(), to_height, to_width);
    Image expected = resize(image, to_width, to_height);
    for (size_t i = 0; i < resized.size(); ++i) ASSERT_EQ(resized[i % 3 * to_width * to_height + i / 3], expected.rgb[i]) << to_width << " " << i;
  }
}

TEST(PreprocessTest, ResizeKeepsMeanAndSizes) {
  Image stripes = plain(8, 8, {0, 0, 0});
  for (int x = 0; x < 8; x += 2) fill_rectangle(stripes, x, 0, 1, 8, {200, 200, 200});
  Image small = resize(stripes, 2, 2);  // the filter sees all pixels: no stripe is lost
  for (uint8_t value : small.rgb) EXPECT_NEAR(value, 100, 15);
  EXPECT_EQ(Preprocess::imagenet(224, 224).apply(plain(300, 100, {1, 2, 3})).shape(), (Shape{1, 3, 224, 224}));
  EXPECT_THROW(resize(stripes, 0, 4), Error);
  EXPECT_THROW(resize(Image{}, 4, 4), Error);
  EXPECT_THROW(Preprocess::imagenet(224, 224).apply(plain(1, 1000000, {1, 2, 3})), Error);
}

TEST(Classify, TopKWithSoftmaxAndBackground) {
  Tensor scores = Tensor::of_f32({2, 3}, {1, 3, 2, 0.25f, 0.25f, 0.5f});
  auto results = classify(scores, 2, {"cat", "dog"});
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[0][0].index, 1);
  EXPECT_EQ(results[0][0].label, "cat");
  EXPECT_NEAR(results[0][0].probability, 0.66524f, 1e-4);
  EXPECT_EQ(results[1][0].probability, 0.5f);  // probabilities already: kept
  EXPECT_EQ(results[1][1].label, "background");
  EXPECT_EQ(to_json(results[0][0])["index"], 1);
}

TEST(Classify, RefusesBadInput) {
  EXPECT_THROW(classify(Tensor::of_f32({1, 2, 2}, {1, 2, 3, 4}), 1), Error);
  EXPECT_THROW(classify(Tensor::of_f32({1, 2}, {1, NAN}), 1), Error);
  EXPECT_THROW(classify(Tensor::of_f32({1, 2}, {1, INFINITY}), 1), Error);
  EXPECT_THROW(classify(Tensor::of_f32({1, 0}, {}), 1), Error);
  EXPECT_THROW(classify(Tensor::scalar(1), 1), Error);
  EXPECT_THROW(classify(Tensor::of_f32({1, 2}, {1, 2}), 0), Error);
}

TEST(Classify, ReadsLabelFiles) {
  write_file(scratch("l.txt"), "tench\r\ngreat white\r\n\n");
  EXPECT_EQ(read_labels(scratch("l.txt")), (std::vector<std::string>{"tench", "great white"}));
  write_file(scratch("l.tsv"), "file\tclass\tname\na.jpg\t2\tshark\nb.jpg\t0\ttench\n");
  EXPECT_EQ(read_labels(scratch("l.tsv")), (std::vector<std::string>{"tench", "", "shark"}));
  write_file(scratch("e.txt"), "\n");
  EXPECT_THROW(read_labels(scratch("e.txt")), Error);
  write_file(scratch("f.tsv"), "1\ta\nx\ty\n");
  EXPECT_THROW(read_labels(scratch("f.tsv")), Error);
}

TEST(Detect, ScoresAndBoxes) {
  Tensor scores = Tensor::of_f32({1, 3, 2}, {0.1f, 0.9f, 0.2f, 0.8f, 0.9f, 0.1f});
  Tensor boxes = Tensor::of_f32({1, 3, 4}, {0, 0, 0.5f, 0.5f, 0, 0, 0.5f, 0.45f, 0, 0, 1, 1});
  auto form = detector_form({scores, boxes});
  EXPECT_EQ(form, DetectorForm::kScoresBoxes);
  EXPECT_EQ(detector_form({boxes, scores}), DetectorForm::kScoresBoxes);
  auto found = detect({scores, boxes}, form, {});
  ASSERT_EQ(found.size(), 1u);  // the second overlaps the first, the third is background
  EXPECT_FLOAT_EQ(found[0].score, 0.9f);
  EXPECT_EQ(found[0].class_index, 0);
  auto pixels = to_picture(found, Preprocess::stretch(320, 240), 100, 200);
  EXPECT_FLOAT_EQ(pixels[0].x1, 50);
  EXPECT_FLOAT_EQ(pixels[0].y1, 100);
}

TEST(Detect, FastestDetGrid) {
  Tensor grid(DType::kF32, {1, 7, 2, 2});
  for (int64_t i = 0; i < grid.size(); ++i) grid.set(i, 0);
  grid.set(0 * 4 + 3, 0.81);  // objectness of cell (1, 1)
  grid.set(6 * 4 + 3, 0.64);  // class 1
  auto form = detector_form({grid});
  ASSERT_EQ(form, DetectorForm::kFastestDet);
  auto found = detect({grid}, form, {});
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].class_index, 1);
  EXPECT_NEAR(found[0].score, std::pow(0.81, 0.6) * std::pow(0.64, 0.4), 1e-5);
  EXPECT_FLOAT_EQ(found[0].x0, 0.25f);
  EXPECT_FLOAT_EQ(found[0].y1, 0.75f);
  EXPECT_EQ(detect({grid.reshaped({7, 2, 2})}, detector_form({grid.reshaped({7, 2, 2})}), {}).size(), 1u);
}

TEST(Detect, YoloForms) {
  DetectOptions options;
  options.input_width = options.input_height = 100;
  Tensor rows(DType::kF32, {1, 10, 7}), columns(DType::kF32, {1, 6, 10});
  for (Tensor* t : {&rows, &columns})
    for (int64_t i = 0; i < t->size(); ++i) t->set(i, 0);
  std::vector<float> row{50, 50, 20, 10, 0.9f, 0.1f, 0.8f}, column{50, 50, 20, 10, 0.1f, 0.7f};
  for (int i = 0; i < 7; ++i) rows.set(3 * 7 + i, row[i]);
  for (int i = 0; i < 6; ++i) columns.set(i * 10 + 3, column[i]);
  ASSERT_EQ(detector_form({rows}), DetectorForm::kYoloRows);
  ASSERT_EQ(detector_form({columns}), DetectorForm::kYoloColumns);
  auto a = detect({rows}, DetectorForm::kYoloRows, options);
  auto b = detect({columns}, DetectorForm::kYoloColumns, options);
  ASSERT_EQ(a.size(), 1u);
  ASSERT_EQ(b.size(), 1u);
  EXPECT_NEAR(a[0].score, 0.72f, 1e-6);
  EXPECT_NEAR(b[0].score, 0.7f, 1e-6);
  for (const Detection& d : {a[0], b[0]}) {
    EXPECT_NEAR(d.x0, 0.4f, 1e-6);
    EXPECT_NEAR(d.y1, 0.55f, 1e-6);
    EXPECT_EQ(d.class_index, 1);
  }
  EXPECT_THROW(detect({rows}, DetectorForm::kYoloRows, {}), Error);
}

TEST(Detect, RefusesOtherOutputs) {
  Tensor flat(DType::kF32, {1, 10}), cube(DType::kF32, {1, 3, 4, 4});
  EXPECT_THROW(detector_form({}), Error);
  EXPECT_THROW(detector_form({flat}), Error);
  EXPECT_THROW(detector_form({cube}), Error);
  EXPECT_THROW(detector_form({flat, flat}), Error);
  EXPECT_THROW(detect({flat}, DetectorForm::kScoresBoxes, {}), Error);
  EXPECT_THROW(detect({flat}, DetectorForm::kFastestDet, {}), Error);
  EXPECT_THROW(detect({flat}, DetectorForm::kYoloRows, {}), Error);
  EXPECT_THROW(detect({flat}, DetectorForm::kYoloColumns, {}), Error);
}

TEST(Segment, MapsAndScores) {
  Tensor map(DType::kI64, {1, 2, 2});
  for (int i = 0; i < 4; ++i) map.set_int(i, i == 3 ? 5 : 0);
  Segmentation a = segment(map);
  EXPECT_EQ(a.classes, (std::vector<int32_t>{0, 0, 0, 5}));
  EXPECT_EQ(to_json(a)["parts"][0]["share"], 0.75);
  Segmentation b = segment(Tensor::of_f32({1, 2, 1, 2}, {1, 2, 3, 0}));
  EXPECT_EQ(b.classes, (std::vector<int32_t>{1, 0}));
  EXPECT_EQ(resize(a, 4, 4).classes[15], 5);
  EXPECT_THROW(segment(Tensor::of_f32({2}, {1, 2})), Error);
  map.set_int(0, -3);
  EXPECT_THROW(segment(map), Error);
}

TEST(Draw, StaysInsideThePicture) {
  Image image = plain(40, 30, {9, 9, 9});
  draw_detections(image, {{-50, -50, 500, 500, 0.5f, 1, "thing"}, {35, 25, 39, 29, 0.9f, 2, "\xc3\xa9"}});
  draw_text(image, -3, 25, "ab~ !", 2, {255, 0, 0});
  EXPECT_NE(image.rgb, plain(40, 30, {9, 9, 9}).rgb);
  Image masked = plain(4, 4, {0, 0, 0});
  draw_segmentation(masked, {2, 1, {0, 3}}, 1.0f);
  EXPECT_EQ(masked.pixel(0, 0)[0] + masked.pixel(0, 0)[1] + masked.pixel(0, 0)[2], 0);
  Color color = class_color(3);
  EXPECT_EQ(masked.pixel(3, 3)[1], color[1]);
  EXPECT_NE(class_color(1), class_color(2));
}

}  // namespace
}  // namespace lathe
