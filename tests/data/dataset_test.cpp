#include "data/dataset.h"

#include <zlib.h>

#include <map>
#include <set>

#include "fixture.h"
#include "formats/npy.h"

namespace lathe {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::set<std::string> names_of(const TrainingSet& set) {
  std::set<std::string> names;
  for (size_t i = 0; i < set.size(); ++i) names.insert(set.name(i));
  return names;
}

// Every sample in one part only.
void expect_apart(const DataParts& d) {
  std::set<std::string> all;
  size_t count = 0;
  for (const auto& part : {d.train, d.validation, d.test}) {
    std::set<std::string> names = names_of(*part);
    EXPECT_EQ(names.size(), part->size());
    count += names.size();
    all.insert(names.begin(), names.end());
  }
  EXPECT_EQ(all.size(), count);
}

std::vector<int64_t> counts_of(const TrainingSet& set) {
  std::vector<int64_t> counts(set.classes().size());
  for (size_t i = 0; i < set.size(); ++i) ++counts.at(static_cast<size_t>(set.label(i)));
  return counts;
}

std::string idx(int axes, std::vector<int> sizes, const std::string& elements) {
  std::string bytes{0, 0, 8, static_cast<char>(axes)};
  for (int size : sizes) bytes += {0, 0, static_cast<char>(size >> 8), static_cast<char>(size)};
  return bytes + elements;
}

class TrainingSetTest : public DataTest {
 protected:
  void idx_set(const std::string& part, int count, int classes) {
    std::string pixels, labels;
    for (int i = 0; i < count; ++i) {
      pixels += std::string(6, static_cast<char>(i));
      labels += static_cast<char>(i % classes);
    }
    write("idx/" + part + "-images-idx3-ubyte", idx(3, {count, 2, 3}, pixels));
    write("idx/" + part + "-labels-idx1-ubyte", idx(1, {count}, labels));
  }
};

TEST_F(TrainingSetTest, FashionMnist) {
  if (!std::filesystem::exists("/usr/share/datasets/fashion-mnist"))
    GTEST_SKIP() << "Debian's package dataset-fashion-mnist is not installed";
  DataParts d = open_dataset("fashion-mnist");
  EXPECT_EQ(d.train->size(), 55000u);
  EXPECT_EQ(d.validation->size(), 5000u);
  EXPECT_EQ(d.test->size(), 10000u);
  expect_apart(d);
  EXPECT_THAT(counts_of(*d.train), testing::Each(5500));
  EXPECT_THAT(counts_of(*d.validation), testing::Each(500));
  EXPECT_EQ(d.train->classes()[9], "ankle boot");
  Sample s = d.test->sample(0);
  EXPECT_EQ(s.input.shape(), (Shape{1, 28, 28}));
  EXPECT_EQ(s.label, 9);
  // The split is fixed: figures of one year are compared with those of the next.
  uint64_t digest = 0;
  for (size_t i = 0; i < d.validation->size(); ++i)
    for (char c : d.validation->name(i).substr(d.validation->name(i).find('['))) digest = digest * 31 + static_cast<uint64_t>(c);
  EXPECT_EQ(digest, 818906651111732747u);
  ChannelStatistics statistics = channel_statistics(*d.train, 55000);
  EXPECT_NEAR(statistics.mean.at(0), 0.2860, 0.001);  // the published figures of the whole 60 000
  EXPECT_NEAR(statistics.std.at(0), 0.3530, 0.001);
  EXPECT_EQ(open_dataset("fashion-mnist,validation=0,limit=1000").train->size(), 1000u);
}

TEST_F(TrainingSetTest, CifarAsJpegFolders) {
  const std::string folder = std::string(LATHE_ASSETS) + "/cifar10";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no shared pictures in " << LATHE_ASSETS;
  DataParts d = open_dataset(folder);
  EXPECT_EQ(d.train->size(), 5400u);
  EXPECT_EQ(d.validation->size(), 600u);
  EXPECT_EQ(d.test->size(), 1500u);
  expect_apart(d);
  EXPECT_THAT(d.train->classes(), ElementsAre("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"));
  EXPECT_EQ(d.train->sample(0).input.shape(), (Shape{3, 32, 32}));
  EXPECT_EQ(open_dataset(folder + ",colors=gray").train->sample(0).input.shape(), (Shape{1, 32, 32}));
}

TEST_F(TrainingSetTest, GraySamplesInColours) {
  idx_set("train", 200, 4);
  const DataParts gray = open_dataset(path("idx")), colours = open_dataset(path("idx") + ",colors=RGB,limit=50");
  EXPECT_EQ(colours.train->size(), 50u);
  EXPECT_EQ(colours.train->classes(), gray.train->classes());
  for (const auto& [a, b] : {std::pair{gray.test, colours.test}, {gray.validation, colours.validation}}) {
    ASSERT_EQ(a->size(), b->size());
    const Sample x = a->sample(3), y = b->sample(3);
    EXPECT_EQ(x.label, y.label);
    EXPECT_EQ(a->name(3), b->name(3));
    ASSERT_EQ(y.input.shape(), (Shape{3, x.input.dim(1), x.input.dim(2)}));
    for (int64_t i = 0; i < y.input.size(); ++i) EXPECT_EQ(y.input.get_int(i), x.input.get_int(i % x.input.size()));
  }
  EXPECT_THAT(fault_of(path("idx") + ",colors=gray", ErrorKind::kUsage), HasSubstr("colors must be RGB where samples are no pictures in files, found 'gray'"));
}

TEST_F(TrainingSetTest, IdxInPlainFiles) {
  idx_set("train", 200, 4);
  idx_set("t10k", 40, 4);
  DataParts d = open_dataset(path("idx"));
  EXPECT_EQ(d.train->size(), 180u);
  EXPECT_THAT(counts_of(*d.validation), testing::Each(5));
  EXPECT_EQ(d.test->size(), 40u);
  for (size_t i = 0; i < d.test->size(); ++i) {
    EXPECT_EQ(d.test->sample(i).input.get_int(5), static_cast<int64_t>(i));
    EXPECT_EQ(d.test->sample(i).label, static_cast<int64_t>(i) % 4);
  }
  write("idx/t10k-labels-idx1-ubyte", idx(1, {40}, std::string(40, 4)));
  EXPECT_THAT(fault_of(path("idx")), HasSubstr("has the label 4"));
  write("idx/train-labels-idx1-ubyte", idx(1, {199}, std::string(199, 0)));
  EXPECT_THAT(fault_of(path("idx")), HasSubstr("a u8 label for each of 200 pictures"));
  std::filesystem::remove(path("idx/train-labels-idx1-ubyte"));
  EXPECT_THAT(fault_of(path("idx")), HasSubstr("has no labels beside it"));
  std::filesystem::remove(path("idx/train-images-idx3-ubyte"));
  EXPECT_THAT(fault_of(path("idx")), HasSubstr("found no data"));
}

TEST_F(TrainingSetTest, CifarBinaries) {
  std::string batch;
  for (int i = 0; i < 50; ++i) batch += static_cast<char>(i % 10) + std::string(3072, static_cast<char>(i));
  write("c10/data_batch_1.bin", batch);
  write("c10/data_batch_2.bin", batch);
  write("c10/test_batch.bin", batch);
  DataParts d = open_dataset(path("c10") + ",validation=10");
  EXPECT_EQ(d.train->size(), 90u);
  EXPECT_EQ(d.validation->size(), 10u);
  EXPECT_EQ(d.test->size(), 50u);
  EXPECT_EQ(d.test->sample(17).label, 7);
  EXPECT_EQ(d.test->sample(17).input.get_int(3071), 17);
  EXPECT_EQ(d.train->classes()[1], "automobile");
  write("c10/test_batch.bin", batch + "x");
  EXPECT_THAT(fault_of(path("c10")), HasSubstr("expected rows of 3073"));
}

TEST_F(TrainingSetTest, ArraysOfEitherLayout) {
  Tensor y = Tensor::of_i64({0, 1, 2, 0, 1, 2, 0, 1, 2, 0});
  for (auto [shape, expected] : {std::pair{Shape{10, 4, 5}, Shape{1, 4, 5}},
                                 {Shape{10, 3, 4, 5}, Shape{3, 4, 5}},
                                 {Shape{10, 4, 5, 3}, Shape{3, 4, 5}},
                                 {Shape{10, 3, 4, 5, 6}, Shape{3, 4, 5, 6}},
                                 {Shape{10, 4, 5, 6, 1}, Shape{1, 4, 5, 6}}}) {
    Tensor x = noise(shape, 1);
    write_npz(path("a.npz"), {{"x", x}, {"y", y}});
    DataParts d = open_dataset(path("a.npz") + ",validation=0,test=0");
    ASSERT_EQ(d.train->size(), 10u);
    Sample s = d.train->sample(7);
    EXPECT_EQ(s.input.shape(), expected);
    EXPECT_EQ(s.label, 1);
    const bool last = shape.back() != expected.back();
    // Channel 0 at the second place of the last axis.
    EXPECT_EQ(s.input.get_int(1), x.get_int(7 * s.input.size() + (last ? expected[0] : 1)));
  }
  write_npz(path("f.npz"), {{"x_train", noise({4, 3, 3, 3}, 1, DType::kF64)}, {"y_train", y.reshaped({10, 1})}});
  EXPECT_THAT(fault_of(path("f.npz")), HasSubstr("an integer label for each of 4"));
  write_npz(path("f.npz"), {{"x_train", noise({10, 3, 3, 3}, 1, DType::kF64)},
                            {"y_train", y.reshaped({10, 1})},
                            {"x_test", noise({1, 3, 3, 3}, 1)},
                            {"y_test", Tensor::of_i64({3})}});
  EXPECT_THAT(fault_of(path("f.npz")), HasSubstr("label 3"));
  write_npz(path("f.npz"), {{"x_train", noise({10, 3, 3, 3}, 1, DType::kF64)},
                            {"y_train", y.reshaped({10, 1})},
                            {"x_test", noise({1, 3, 3, 3}, 1)},
                            {"y_test", Tensor::of_i64({2})}});
  DataParts d = open_dataset(path("f.npz"));
  EXPECT_EQ(d.train->sample(0).input.dtype(), DType::kF32);
  EXPECT_EQ(d.validation->size(), 1u);
  EXPECT_EQ(d.test->size(), 1u);
  write_npz(path("n.npz"), {{"x", noise({10, 3, 3}, 1)}});
  EXPECT_THAT(fault_of(path("n.npz")), HasSubstr("no labels 'y'"));
  write_npz(path("n.npz"), {{"x", noise({3, 3, 3}, 1)}, {"y", Tensor::of_i64({0, -1, 0})}});
  EXPECT_THAT(fault_of(path("n.npz")), HasSubstr("is -1"));
}

TEST_F(TrainingSetTest, ClassFoldersAreSplitBySeedAndInProportion) {
  for (int i = 0; i < 40; ++i) picture("p/cat/" + std::to_string(i) + ".png", static_cast<unsigned>(i));
  for (int i = 0; i < 20; ++i) picture("p/dog/" + std::to_string(i) + ".jpg", static_cast<unsigned>(i));
  DataParts d = open_dataset(path("p") + ",test=12,validation=0.25");
  expect_apart(d);
  EXPECT_THAT(counts_of(*d.test), ElementsAre(8, 4));
  EXPECT_THAT(counts_of(*d.validation), ElementsAre(8, 4));
  EXPECT_THAT(counts_of(*d.train), ElementsAre(24, 12));
  EXPECT_EQ(names_of(*open_dataset(path("p") + ",test=12").test), names_of(*d.test));
  EXPECT_NE(names_of(*open_dataset(path("p") + ",test=12,seed=2").test), names_of(*d.test));
  EXPECT_EQ(open_dataset(path("p") + ",limit=9,limit-evaluation=3").train->size(), 9u);
  EXPECT_EQ(open_dataset(path("p") + ",limit=9,limit-evaluation=3").test->size(), 3u);
  const DataParts limited = open_dataset(path("p") + ",limit-evaluation=3,limit-validation=2");
  EXPECT_EQ(limited.validation->size(), 2u);
  EXPECT_EQ(limited.test->size(), 3u);
  EXPECT_THAT(fault_of(path("p") + ",test=60"), HasSubstr("keep one to train on"));
  EXPECT_THAT(fault_of(path("p") + ",nonsense=1", ErrorKind::kUsage), HasSubstr("no option 'nonsense'"));
  EXPECT_THAT(fault_of(path("p") + ",seed=x", ErrorKind::kUsage), HasSubstr("must be a number"));
  EXPECT_THAT(fault_of(path("p") + ",seed=1,seed=2", ErrorKind::kUsage), HasSubstr("given twice"));
  EXPECT_THAT(fault_of(path("p") + ",validation", ErrorKind::kUsage), HasSubstr("key=value"));
  EXPECT_THAT(fault_of(path("elsewhere")), HasSubstr("no such file or folder"));
  check_class_count(*d.train, 2);
  EXPECT_THROW(check_class_count(*d.train, 10), Error);
}

TEST_F(TrainingSetTest, FoldersThatComeInParts) {
  for (const char* part : {"train", "val", "test"})
    for (const char* name : {"a", "b"}) picture(std::string("p/") + part + "/" + name + "/1.png", 1);
  DataParts d = open_dataset(path("p"));
  EXPECT_EQ(d.train->size() * 100 + d.validation->size() * 10 + d.test->size(), 222u);
  EXPECT_THAT(fault_of(path("p") + ",validation=0.5", ErrorKind::kUsage), HasSubstr("do not bring"));
  std::filesystem::rename(path("p/val/b"), path("p/val/c"));
  EXPECT_THAT(fault_of(path("p")), HasSubstr("the validation part has 2 classes"));
  std::filesystem::remove(path("p/val/c/1.png"));
  EXPECT_THAT(fault_of(path("p")), HasSubstr("holds no picture"));
}

TEST_F(TrainingSetTest, ClearErrorsForWhatIsMissingOrBroken) {
  std::filesystem::create_directories(path("empty"));
  EXPECT_THAT(fault_of(path("empty")), HasSubstr("found no data"));
  picture("flat/1.png", 1);
  EXPECT_THAT(fault_of(path("flat")), HasSubstr("1 pictures without labels"));
  picture("p/a/1.png", 1);
  write("p/b/broken.jpg", "\xff\xd8\xff this is no picture");
  DataParts d = open_dataset(path("p") + ",validation=0,test=0");
  try {
    d.train->sample(1);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("broken.jpg"));
    EXPECT_EQ(e.kind(), ErrorKind::kInput);
  }
  write("text.txt", "x");
  EXPECT_THAT(fault_of(path("text.txt")), HasSubstr("expected a folder, .npz or .json"));
}

TEST_F(TrainingSetTest, NumberedFoldersSayTheirClass) {
  for (const char* name : {"10", "9", "0"}) picture(std::string("p/") + name + "/1.png", 1);
  DataParts d = open_dataset(path("p") + ",validation=0,test=0");
  ASSERT_EQ(d.train->classes().size(), 11u);
  std::set<int64_t> labels;
  for (size_t i = 0; i < 3; ++i) labels.insert(d.train->label(i));
  EXPECT_EQ(labels, (std::set<int64_t>{0, 9, 10}));
}

TEST_F(TrainingSetTest, TablesOfClassesAndBoxesAndMaps) {
  for (int i = 0; i < 4; ++i) picture("t/" + std::to_string(i) + ".png", static_cast<unsigned>(i));
  write("t/labels.tsv", "file\tclass\n0.png\t1\n2.png\t3\n");
  DataParts d = open_dataset(path("t") + ",validation=0,test=0");
  EXPECT_EQ(d.train->size(), 2u);
  EXPECT_EQ(d.train->classes().size(), 4u);
  EXPECT_EQ(d.train->label(1), 3);
  EXPECT_THAT(fault_of(path("t") + ",classes=3"), HasSubstr("has class 3"));
  write("t/labels.tsv", "0.png\t1\t2\t2\t5\t6\n");
  d = open_dataset(path("t") + ",validation=0,test=0");
  EXPECT_EQ(d.train->truth(), TrainingTruth::kBoxes);
  EXPECT_EQ(d.train->size(), 4u);
  EXPECT_EQ(d.train->sample(0).boxes.at(0).x1, 5);
  std::filesystem::remove(path("t/labels.tsv"));
  std::filesystem::create_directories(path("t/labels"));
  EXPECT_THAT(fault_of(path("t"), ErrorKind::kUsage), HasSubstr("classes=N"));
  EXPECT_THAT(fault_of(path("t") + ",classes=2"), HasSubstr("no map of classes for"));
}

// An 8-bit grey PNG whose pixels are classes.
std::string label_png(uint32_t width, uint32_t height, const std::string& labels) {
  auto big = [](uint32_t v) {
    return std::string{static_cast<char>(v >> 24), static_cast<char>(v >> 16), static_cast<char>(v >> 8), static_cast<char>(v)};
  };
  auto chunk = [&](const std::string& body) {
    return big(static_cast<uint32_t>(body.size() - 4)) + body +
           big(static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(body.data()), body.size())));
  };
  std::string rows;
  for (uint32_t y = 0; y < height; ++y) rows += '\0' + labels.substr(y * width, width);
  std::string packed(compressBound(rows.size()), '\0');
  uLongf size = packed.size();
  EXPECT_EQ(compress(reinterpret_cast<Bytef*>(packed.data()), &size, reinterpret_cast<const Bytef*>(rows.data()), rows.size()), Z_OK);
  packed.resize(size);
  return "\x89PNG\r\n\x1a\n" + chunk("IHDR" + big(width) + big(height) + std::string("\x08\0\0\0\0", 5)) + chunk("IDAT" + packed) +
         chunk("IEND");
}

TEST_F(TrainingSetTest, MapsOfClasses) {
  picture("m/a.png", 1, 3, 2);
  write("m/labels/a.png", label_png(3, 2, std::string("\0\1\2\2\1\377", 6)));
  DataParts d = open_dataset(path("m") + ",classes=3,validation=0,test=0");
  EXPECT_EQ(d.train->truth(), TrainingTruth::kMask);
  Sample s = d.train->sample(0);
  EXPECT_EQ(s.input.shape(), (Shape{3, 2, 3}));
  EXPECT_THAT(s.mask.to_i64(), ElementsAre(0, 1, 2, 2, 1, 255));
  write("m/labels/a.png", label_png(2, 2, std::string(4, '\0')));
  try {
    d.train->sample(0);
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("2 x 2 pixels, its picture 3 x 2"));
  }
  picture("voc/JPEGImages/x.jpg", 1, 3, 2);
  write("voc/Annotations/x.xml", "<annotation/>");
  write("voc/SegmentationClass/x.png", label_png(3, 2, std::string(6, '\5')));
  DataParts voc = open_dataset(path("voc") + ",task=masks,validation=0,test=0");
  EXPECT_EQ(voc.train->classes().size(), 21u);
  EXPECT_EQ(voc.train->sample(0).mask.get_int(5), 5);
  EXPECT_THAT(fault_of(path("voc")), HasSubstr("name no object"));
}

constexpr const char* kCoco = R"({"images": [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png"}],
  "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
  "annotations": [{"image_id": 2, "category_id": 7, "bbox": [1, 2, 3, 4]}]})";

TEST_F(TrainingSetTest, Coco) {
  for (const char* part : {"train2017", "val2017"}) {
    write(std::string("coco/annotations/instances_") + part + ".json", kCoco);
    for (const char* name : {"1.png", "2.png"}) picture(std::string("coco/") + part + "/" + name, 1);
  }
  DataParts d = open_dataset(path("coco"));
  EXPECT_EQ(d.train->size(), 2u);
  EXPECT_EQ(d.validation->size(), 2u);
  EXPECT_EQ(d.test->size(), 0u);
  EXPECT_THAT(d.train->classes(), ElementsAre("cat", "dog"));
  EXPECT_TRUE(d.train->sample(0).boxes.empty());
  EXPECT_EQ(d.train->sample(1).boxes.at(0).class_index, 1);
  DataParts one = open_dataset(path("coco/annotations/instances_val2017.json") + ",validation=0,test=0,images=" + path("coco/val2017"));
  EXPECT_EQ(one.train->size(), 2u);
  write("coco/annotations/instances_train2014.json", kCoco);
  EXPECT_THAT(fault_of(path("coco")), HasSubstr("2 files"));
  std::filesystem::remove(path("coco/annotations/instances_train2014.json"));
  std::filesystem::remove(path("coco/train2017/2.png"));
  EXPECT_THAT(fault_of(path("coco")), HasSubstr("lists 2.png, which is not in"));
}

TEST_F(TrainingSetTest, Voc) {
  auto annotation = [](const std::string& name) {
    return "<annotation><object><name>" + name +
           "</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>6</xmax><ymax>9</ymax></bndbox></object></annotation>";
  };
  for (const char* name : {"1", "2", "3"}) {
    picture(std::string("voc/JPEGImages/") + name + ".jpg", 1);
    write(std::string("voc/Annotations/") + name + ".xml", annotation(name[0] == '2' ? "cat" : "dog"));
  }
  write("voc/ImageSets/Main/train.txt", "1\n2\n");
  write("voc/ImageSets/Main/val.txt", "3 -1\n");
  DataParts d = open_dataset(path("voc"));
  EXPECT_EQ(d.train->size(), 2u);
  EXPECT_EQ(d.validation->size(), 1u);
  EXPECT_THAT(d.train->classes(), ElementsAre("cat", "dog"));
  const Sample s = d.validation->sample(0);
  EXPECT_EQ(s.boxes.at(0).class_index, 1);
  EXPECT_EQ(s.boxes.at(0).x0, 1);
  EXPECT_EQ(s.boxes.at(0).y1, 9);
  write("voc/classes.txt", "dog\n");
  EXPECT_THAT(fault_of(path("voc")), HasSubstr("a 'cat', which classes.txt does not name"));
  std::filesystem::remove(path("voc/classes.txt"));
  std::filesystem::remove(path("voc/Annotations/2.xml"));
  EXPECT_THAT(fault_of(path("voc")), HasSubstr("has no label"));
}

TEST_F(TrainingSetTest, DataIsFoundInTheEnvironmentsFolder) {
  picture("kept/pets/a/1.png", 1);
  picture("kept/pets/b/1.png", 1);
  ::setenv("LATHE_DATA", path("kept").c_str(), 1);
  EXPECT_EQ(open_dataset("pets,validation=0,test=0").train->size(), 2u);
  EXPECT_THAT(fault_of("cars"), HasSubstr("$LATHE_DATA"));
  ::unsetenv("LATHE_DATA");
}

}  // namespace
}  // namespace lathe
