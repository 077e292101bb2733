#include "run_op.h"

namespace lathe::testing {
namespace {

TEST(Reshape, CopiesInfersAndKeepsZeros) {
  Tensor x = iota(DType::kF32, {2, 3, 4});
  EXPECT_EQ(run_op("Reshape", {x, ints({0, -1})})[0].shape(), (Shape{2, 12}));
  EXPECT_EQ(run_op("Reshape", {x, ints({4, -1, 2})})[0].shape(), (Shape{4, 3, 2}));
  Tensor empty(DType::kF32, {0, 3, 4});
  EXPECT_EQ(run_op("Reshape", {empty, ints({3, 4, 0})}, {{"allowzero", int64_t{1}}})[0].shape(), (Shape{3, 4, 0}));
  EXPECT_EQ(run_op("Reshape", {empty, ints({0, -1})})[0].shape(), (Shape{0, 12}));
  EXPECT_EQ(error_of("Reshape", {x, ints({-1, -1})}), ErrorKind::kModel);
  EXPECT_EQ(error_of("Reshape", {x, ints({5, -1})}), ErrorKind::kModel);
  EXPECT_EQ(error_of("Reshape", {x, ints({int64_t{1} << 40, int64_t{1} << 40})}), ErrorKind::kModel);
}

TEST(Reshape, UnknownBatchCancels) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{kUnknownDim, 3, 4});
  ValueId y = g.add("Reshape", {x, g.add_constant(ints({0, -1}))});
  EXPECT_EQ(g[y].shape, (Shape{kUnknownDim, 12}));
}

TEST(Transpose, PermutesEveryWidth) {
  for (DType type : {DType::kU8, DType::kF16, DType::kI32, DType::kF64}) {
    Tensor y = run_op("Transpose", {iota(type, {2, 3})})[0];
    EXPECT_EQ(y.shape(), (Shape{3, 2}));
    EXPECT_EQ(elements(y), (Values{0, 3, 1, 4, 2, 5}));
  }
  EXPECT_EQ(error_of("Transpose", {iota(DType::kF32, {2, 3})}, {{"perm", Ints{0, 0}}}), ErrorKind::kModel);
}

TEST(Slice, StepsBothWays) {
  Tensor x = iota(DType::kI32, {6});
  auto slice = [&](int64_t start, int64_t end, int64_t step) {
    return elements(run_op("Slice", {x, ints({start}), ints({end}), ints({0}), ints({step})})[0]);
  };
  EXPECT_EQ(slice(1, 1000, 2), (Values{1, 3, 5}));
  EXPECT_EQ(slice(-1, -1000, -2), (Values{5, 3, 1}));
  EXPECT_EQ(slice(20, 0, -4), (Values{5, 1}));
  EXPECT_EQ(slice(4, 2, 1), Values{});
  EXPECT_EQ(slice(0, 6, INT64_MAX), Values{0});
  EXPECT_EQ(error_of("Slice", {x, ints({0}), ints({1}), ints({0}), ints({0})}), ErrorKind::kModel);
  EXPECT_EQ(error_of("Slice", {x, ints({0}), ints({1}), ints({3})}), ErrorKind::kModel);
}

TEST(Split, LastPartIsSmaller) {
  std::vector<Tensor> y = run_op("Split", {iota(DType::kF32, {7})}, {{"num_outputs", int64_t{3}}}, 3);
  EXPECT_EQ(elements(y[2]), Values{6});
  y = run_op("Split", {iota(DType::kF32, {2, 3}), ints({1, 2})}, {{"axis", int64_t{1}}}, 2);
  EXPECT_EQ(elements(y[1]), (Values{1, 2, 4, 5}));
  EXPECT_EQ(error_of("Split", {iota(DType::kF32, {3}), ints({1, 1})}, {}, 2), ErrorKind::kModel);
}

TEST(Pad, EveryMode) {
  Tensor x = iota(DType::kF32, {3}, 1);
  auto pad = [&](const char* mode) { return elements(run_op("Pad", {x, ints({4, 2})}, {{"mode", std::string(mode)}})[0]); };
  EXPECT_EQ(pad("constant"), (Values{0, 0, 0, 0, 1, 2, 3, 0, 0}));
  EXPECT_EQ(pad("edge"), (Values{1, 1, 1, 1, 1, 2, 3, 3, 3}));
  EXPECT_EQ(pad("reflect"), (Values{1, 2, 3, 2, 1, 2, 3, 2, 1}));
  EXPECT_EQ(pad("wrap"), (Values{3, 1, 2, 3, 1, 2, 3, 1, 2}));
  EXPECT_EQ(elements(run_op("Pad", {x, ints({-1, 1}), of(DType::kF32, {}, {9})})[0]), (Values{2, 3, 9}));
  EXPECT_EQ(error_of("Pad", {x, ints({-2, -2})}), ErrorKind::kModel);
  EXPECT_EQ(error_of("Pad", {x, ints({INT64_MIN, INT64_MAX})}), ErrorKind::kModel);
  EXPECT_EQ(error_of("Pad", {Tensor(DType::kF32, {0}), ints({1, 0})}, {{"mode", std::string("edge")}}), ErrorKind::kModel);
}

TEST(Shapes, OtherForms) {
  Tensor x = iota(DType::kI64, {1, 2, 1, 3});
  EXPECT_EQ(run_op("Squeeze", {x})[0].shape(), (Shape{2, 3}));
  EXPECT_EQ(run_op("Squeeze", {x, ints({-2})})[0].shape(), (Shape{1, 2, 3}));
  EXPECT_EQ(error_of("Squeeze", {x, ints({1})}), ErrorKind::kModel);
  EXPECT_EQ(run_op("Unsqueeze", {iota(DType::kI64, {3, 4}), ints({2, 0})})[0].shape(), (Shape{1, 3, 1, 4}));
  EXPECT_EQ(run_op("Flatten", {x}, {{"axis", int64_t{4}}})[0].shape(), (Shape{6, 1}));
  EXPECT_EQ(run_op("Flatten", {x}, {{"axis", int64_t{-1}}})[0].shape(), (Shape{2, 3}));
  EXPECT_EQ(elements(run_op("Shape", {x}, {{"start", int64_t{-3}}, {"end", int64_t{-1}}})[0]), (Values{2, 1}));
  EXPECT_EQ(elements(run_op("Shape", {x}, {{"start", int64_t{3}}, {"end", int64_t{1}}})[0]), Values{});
  EXPECT_EQ(elements(run_op("Tile", {iota(DType::kI8, {1, 2}), ints({2, 2})})[0]), (Values{0, 1, 0, 1, 0, 1, 0, 1}));
  EXPECT_EQ(run_op("Tile", {iota(DType::kI8, {1, 2}), ints({0, 2})})[0].shape(), (Shape{0, 4}));
  EXPECT_EQ(elements(run_op("Expand", {iota(DType::kI8, {2, 1}), ints({3, 1, 2})})[0]), (Values{0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1}));
  EXPECT_EQ(elements(run_op("CenterCropPad", {iota(DType::kI8, {5}, 1), ints({2})})[0]), (Values{2, 3}));
  EXPECT_EQ(elements(run_op("CenterCropPad", {iota(DType::kI8, {2}, 1), ints({5})})[0]), (Values{0, 1, 2, 0, 0}));
  EXPECT_EQ(elements(run_op("Concat", {iota(DType::kF16, {2, 1}), iota(DType::kF16, {2, 2}, 5)}, {{"axis", int64_t{-1}}})[0]),
            (Values{0, 5, 6, 1, 7, 8}));
  EXPECT_EQ(elements(run_op("ReverseSequence", {iota(DType::kF32, {3, 2}), ints({3, 2})})[0]), (Values{4, 3, 2, 1, 0, 5}));
  EXPECT_EQ(error_of("ReverseSequence", {iota(DType::kF32, {3, 2}), ints({4, 2})}), ErrorKind::kModel);
}

TEST(Create, Forms) {
  Tensor t = run_op("ConstantOfShape", {ints({})}, {{"value", of(DType::kI8, {1}, {3})}})[0];
  EXPECT_EQ(t.shape(), Shape{});
  EXPECT_EQ(t.get_int(0), 3);
  auto i64 = [](int64_t v) { return of(DType::kI64, {}, {static_cast<double>(v)}); };
  EXPECT_EQ(elements(run_op("Range", {i64(10), i64(4), i64(-2)})[0]), (Values{10, 8, 6}));
  EXPECT_EQ(run_op("Range", {i64(1), i64(0), i64(1)})[0].size(), 0);
  EXPECT_EQ(error_of("Range", {i64(0), i64(3), i64(0)}), ErrorKind::kModel);
  auto f32 = [](double v) { return of(DType::kF32, {}, {v}); };
  EXPECT_EQ(run_op("Range", {f32(0), f32(1), f32(0.25)})[0].size(), 4);
  EXPECT_EQ(error_of("Range", {f32(0), f32(1), f32(0)}), ErrorKind::kModel);
  EXPECT_EQ(elements(run_op("EyeLike", {Tensor(DType::kI32, {2, 3})}, {{"k", int64_t{1}}, {"dtype", int64_t{11}}})[0]),
            (Values{0, 1, 0, 0, 0, 1}));
  Attributes random = {{"shape", Ints{1000}}, {"seed", 3.0f}};
  EXPECT_EQ(elements(run_op("RandomNormal", {}, random)[0]), elements(run_op("RandomNormal", {}, random)[0]));
  Tensor uniform = run_op("RandomUniform", {}, random)[0];
  for (double v : elements(uniform)) EXPECT_TRUE(v >= 0 && v <= 1);
}

}  // namespace
}  // namespace lathe::testing
