// Large raw tensors are read where they lie in the file: at any alignment the same elements, and broken files the
// same errors as from memory.
#include "formats/onnx_strip.h"

#include <gtest/gtest.h>

#include <random>

#include "../folder_test.h"
#include "core/file.h"
#include "formats/onnx.h"
#include "graph/op.h"

namespace lathe {
namespace {


class Strip : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    Graph g;
    ValueId y = g.add_input("x", DType::kF32, Shape{1, 40});
    std::string stem;
    for (int i = 0; i < 9; ++i) {  // names of all lengths put the elements at all alignments
      Tensor w(DType::kF32, {40, 40});
      for (int64_t k = 0; k < w.size(); ++k) w.set(k, static_cast<double>(i * 10000 + k));
      y = g.add("MatMul", {y, g.add_constant(w, stem += 'w')});
    }
    g.outputs = {g.add("Add", {y, g.add_constant(Tensor::of_f32({40}, std::vector<float>(40, 2)), "small")})};
    export_onnx(g, path());
    bytes_ = read_file(path(), 1 << 24);
  }
  std::string path() const { return (folder_ / "net.onnx").string(); }
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }
  std::vector<uint8_t> bytes_;
};

TEST_F(Strip, LeavesLargeTensorsInTheFile) {
  auto stripped = onnx_io::strip_raw_data(bytes_);
  ASSERT_TRUE(stripped);
  EXPECT_LT(stripped->proto.size(), 4096u);
  EXPECT_EQ(std::count_if(stripped->raw.begin(), stripped->raw.end(), [](auto raw) { return raw.size() == 6400; }), 9);
  EXPECT_EQ(std::count_if(stripped->raw.begin(), stripped->raw.end(), [](auto raw) { return raw.empty(); }), 1);
}

TEST_F(Strip, ReadsTheSameFromFileAndMemory) {
  Model file = import_onnx(path()), memory = import_onnx_bytes(text());
  ASSERT_EQ(print(file.graph), print(memory.graph));
  for (size_t i = 0; i < file.graph.value_count(); ++i) {
    const Tensor &a = file.graph[ValueId{static_cast<int32_t>(i)}].constant, &b = memory.graph[ValueId{static_cast<int32_t>(i)}].constant;
    ASSERT_EQ(a.defined(), b.defined());
    if (!a.defined()) continue;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a.raw()) % sizeof(float), 0u);
    ASSERT_EQ(a.bytes(), b.bytes());
    EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.bytes()), 0);
  }
}

TEST_F(Strip, BrokenFilesAreErrorsAsFromMemory) {
  std::mt19937 random(1);
  int refused = 0;
  for (int round = 0; round < 400; ++round) {
    std::vector<uint8_t> broken = bytes_;
    if (round % 2) broken.resize(random() % broken.size());
    else for (int i = 0; i < 4; ++i) broken[random() % (round % 3 ? 200 : broken.size())] = static_cast<uint8_t>(random());
    std::string_view view(reinterpret_cast<const char*>(broken.data()), broken.size());
    write_file(path(), view);
    auto outcome = [](auto&& read) {
      try {
        return print(read().graph);
      } catch (const Error& e) {
        return std::string("error");
      }
    };
    std::string from_file = outcome([&] { return import_onnx(path()); });
    EXPECT_EQ(from_file, outcome([&] { return import_onnx_bytes(view, folder_); })) << round;
    refused += from_file == "error";
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace lathe
