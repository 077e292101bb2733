#include "optimize/dataset.h"

#include <gmock/gmock.h>

#include "fixture.h"
#include "formats/npy.h"

namespace lathe {
namespace {

using testing::HasSubstr;

class DatasetTest : public OptimizeTest {
 protected:
  std::string fault_of(const std::string& data, const Graph& graph, const DatasetOptions& options = {}) {
    try {
      Dataset set(data, path("m.onnx"), graph, options);
      for (size_t i = 0; i < set.size(); ++i) set.inputs(i);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kInput) << e.what();
      return e.what();
    }
    return "";
  }
};

TEST_F(DatasetTest, PicturesByTableAndBySubfolder) {
  for (bool subfolders : {false, true}) {
    std::string name = subfolders ? "sub" : "table";
    make_pictures(name, 4, subfolders);
    Dataset data(path(name), path("m.onnx"), classifier(), {});
    ASSERT_EQ(data.size(), 12u);
    EXPECT_TRUE(data.labelled());
    EXPECT_TRUE(data.pictures());
    for (size_t i = 0; i < data.size(); ++i) {
      int64_t expected = data.name(i).find("red") != std::string::npos ? 0 : data.name(i).find("green") != std::string::npos ? 1 : 2;
      EXPECT_EQ(data.label(i), expected);
      EXPECT_EQ(data.inputs(i)[0].shape(), (Shape{1, 3, 16, 16}));
    }
    EXPECT_THAT(data.preparation(), HasSubstr("16x16"));
  }
}

TEST_F(DatasetTest, TheLimitDrawsBySeed) {
  make_pictures("p", 10, false);
  auto names = [&](uint64_t seed) {
    DatasetOptions options;
    options.limit = 7;
    options.seed = seed;
    Dataset data(path("p"), path("m.onnx"), classifier(), options);
    EXPECT_EQ(data.size(), 7u);
    EXPECT_EQ(data.found(), 30);
    std::string all;
    for (size_t i = 0; i < data.size(); ++i) all += data.name(i) + " ";
    return all;
  };
  EXPECT_EQ(names(1), names(1));
  EXPECT_NE(names(1), names(2));
}

TEST_F(DatasetTest, ArraysOneAFileOrManyInOne) {
  std::filesystem::create_directories(path("a"));
  Tensor many(DType::kF32, {5, 8});
  for (int64_t i = 0; i < many.size(); ++i) many.set(i, static_cast<double>(i));
  write_npy(path("a/many.npy"), many);
  write_npz(path("a/one.npz"), {{"whatever", Tensor::of_f32({1, 8}, std::vector<float>(8, 3.f))}});
  Dataset data(path("a"), path("m.onnx"), regressor(), {});
  ASSERT_EQ(data.size(), 6u);
  EXPECT_FALSE(data.labelled());
  EXPECT_EQ(data.inputs(2)[0].get(0), 16);
  EXPECT_EQ(data.inputs(5)[0].get(7), 3);
  EXPECT_EQ(Dataset(path("a/many.npy"), path("m.onnx"), regressor(), {}).size(), 5u);
}

TEST_F(DatasetTest, SeveralInputsComeByName) {
  Graph g;
  ValueId a = g.add_input("a", DType::kF32, Shape{1, 4}), b = g.add_input("b", DType::kF32, Shape{1, 4});
  g.outputs = {g.add("Add", {a, b})};
  write_npz(path("x.npz"), {{"b", Tensor::of_f32({2, 4}, {1, 1, 1, 1, 2, 2, 2, 2})}, {"a", Tensor::of_f32({2, 4}, std::vector<float>(8, 9.f))}});
  Dataset data(path("x.npz"), path("m.onnx"), g, {});
  ASSERT_EQ(data.size(), 2u);
  EXPECT_EQ(data.inputs(1)[0].get(0), 9);
  EXPECT_EQ(data.inputs(1)[1].get(0), 2);
  write_npz(path("lacks.npz"), {{"a", Tensor::of_f32({1, 4}, std::vector<float>(4, 1.f))}});
  EXPECT_THAT(fault_of(path("lacks.npz"), g), HasSubstr("no array 'b'"));
  write_npz(path("uneven.npz"), {{"a", Tensor(DType::kF32, {2, 4})}, {"b", Tensor(DType::kF32, {3, 4})}});
  EXPECT_THAT(fault_of(path("uneven.npz"), g), HasSubstr("another input"));
}

TEST_F(DatasetTest, FaultsSayWhatIsWrong) {
  EXPECT_THAT(fault_of(path("none"), classifier()), HasSubstr("no such file"));
  std::filesystem::create_directories(path("empty"));
  EXPECT_THAT(fault_of(path("empty"), classifier()), HasSubstr("found neither"));
  make_pictures("p", 2, false);
  write_file(path("p/labels.tsv"), "file\tclass\nred0.png\tred\n");
  EXPECT_THAT(fault_of(path("p"), classifier()), HasSubstr("line 2"));
  write_file(path("p/labels.tsv"), "gone.png\t1\n");
  EXPECT_THAT(fault_of(path("p"), classifier()), HasSubstr("gone.png"));
  write_file(path("p/labels.tsv"), "../../etc/passwd\t1\n");
  EXPECT_THAT(fault_of(path("p"), classifier()), HasSubstr("no picture in"));
  write_file(path("p/labels.tsv"), "red0.png\t-1\n");
  EXPECT_NE(fault_of(path("p"), classifier()), "");
  write_file(path("p/labels.tsv"), "red0.png\t1\n");
  write_file(path("p/red0.png"), "this is no picture");
  EXPECT_THAT(fault_of(path("p"), classifier()), HasSubstr("red0.png"));
  write_npy(path("p/x.npy"), Tensor(DType::kF32, {1, 3, 16, 16}));
  EXPECT_THAT(fault_of(path("p"), classifier()), HasSubstr("both pictures and arrays"));
  write_npy(path("wide.npy"), Tensor(DType::kF32, {1, 9}));
  EXPECT_THAT(fault_of(path("wide.npy"), regressor()), HasSubstr("expects [1, 8]"));
  write_file(path("text.txt"), "x");
  EXPECT_THAT(fault_of(path("text.txt"), regressor()), HasSubstr("expected a folder"));
}

}  // namespace
}  // namespace lathe
