// Cases that the ONNX node tests leave out: several spatial ranks, empty operands, and input that must be
// refused instead of read out of bounds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kernels/reference/reference.h"

namespace lathe::reference {
namespace {

using testing::ElementsAre;
using testing::Each;
using testing::FloatNear;

std::vector<Tensor> run(const char* op, std::vector<Tensor> inputs, Attributes attributes = {}, int outputs = 1) {
  Node node;
  node.op = &find_op(op);
  node.name = op;
  node.attributes = std::move(attributes);
  for (size_t i = 0; i < inputs.size(); ++i)
    node.inputs.push_back(inputs[i].defined() ? ValueId{static_cast<int32_t>(i)} : ValueId{});
  for (int i = 0; i < outputs; ++i) node.outputs.push_back(ValueId{i});
  return run_node(node, std::move(inputs));
}

Tensor filled(Shape shape, float value) {
  std::vector<float> values(element_count(shape), value);
  return Tensor::of_f32(std::move(shape), values);
}

Tensor counting(Shape shape) {
  std::vector<float> values(element_count(shape));
  std::iota(values.begin(), values.end(), 0.0f);
  return Tensor::of_f32(std::move(shape), values);
}

std::vector<int64_t> ints(std::initializer_list<int64_t> values) { return values; }

TEST(ReferenceConv, CountsItsTapsInEveryRank) {
  for (size_t rank = 1; rank <= 3; ++rank) {
    Shape in(rank + 2, 3), weight(rank + 2, 3);
    in[0] = 1, in[1] = 4, weight[0] = 2, weight[1] = 2;  // two groups
    Tensor y = run("Conv", {filled(in, 1), filled(weight, 1)}, {{"group", int64_t{2}}})[0];
    EXPECT_EQ(y.size(), 2);
    EXPECT_THAT(y.to_f32(), Each(2 * std::pow(3.0f, static_cast<float>(rank))));
  }
}

TEST(ReferenceConv, GivesTheSameInHalfPrecision) {
  Tensor x = counting({1, 2, 5, 4}), w = counting({3, 2, 2, 3});
  Attributes attributes = {{"strides", ints({2, 1})}, {"pads", ints({1, 0, 0, 1})}};
  std::vector<float> wide = run("Conv", {x, w}, attributes)[0].to_f32();
  std::vector<float> narrow = run("Conv", {cast(x, DType::kF16), cast(w, DType::kF16)}, attributes)[0].to_f32();
  ASSERT_EQ(wide.size(), narrow.size());
  for (size_t i = 0; i < wide.size(); ++i) EXPECT_NEAR(wide[i], narrow[i], 2e-3 * wide[i] + 1e-3);
}

TEST(ReferenceConvTranspose, UndoesTheShapeOfConv) {
  Tensor y = run("ConvTranspose", {filled({1, 2, 4}, 1), filled({2, 3, 3}, 1)}, {{"strides", ints({2})}})[0];
  EXPECT_THAT(y.shape(), ElementsAre(1, 3, 9));
  EXPECT_THAT(std::vector<float>(y.data<float>(), y.data<float>() + 9), ElementsAre(2, 2, 4, 2, 4, 2, 4, 2, 2));
}

TEST(ReferencePool, AverageDividesByWhatItCounts) {
  Tensor x = filled({1, 1, 3}, 6);
  Attributes attributes = {{"kernel_shape", ints({3})}, {"pads", ints({1, 1})}};
  EXPECT_THAT(run("AveragePool", {x}, attributes)[0].to_f32(), ElementsAre(6, 6, 6));
  attributes["count_include_pad"] = int64_t{1};
  EXPECT_THAT(run("AveragePool", {x}, attributes)[0].to_f32(), ElementsAre(4, 6, 4));
}

TEST(ReferencePool, IndicesLeadBackThroughMaxUnpool) {
  Tensor x = Tensor::of_f32({1, 1, 2, 4}, {1, 5, 2, 0, 3, 4, 8, 7});
  Attributes attributes = {{"kernel_shape", ints({2, 2})}, {"strides", ints({2, 2})}};
  std::vector<Tensor> pooled = run("MaxPool", {x}, attributes, 2);
  EXPECT_THAT(pooled[1].to_i64(), ElementsAre(1, 6));
  EXPECT_THAT(run("MaxUnpool", {pooled[0], pooled[1]}, attributes)[0].to_f32(), ElementsAre(0, 5, 0, 0, 0, 0, 8, 0));
  pooled[1] = pooled[1].clone();
  pooled[1].set_int(0, 8);
  EXPECT_THROW(run("MaxUnpool", {pooled[0], pooled[1]}, attributes), Error);
}

TEST(ReferenceMatMul, BroadcastsBatchesAndVectors) {
  EXPECT_THAT(run("MatMul", {filled({2, 1, 3, 4}, 1), filled({5, 4, 2}, 2)})[0].shape(), ElementsAre(2, 5, 3, 2));
  EXPECT_THAT(run("MatMul", {filled({4}, 1), filled({4}, 2)})[0].to_f32(), ElementsAre(8));
  EXPECT_THAT(run("MatMul", {filled({2, 0}, 1), filled({0, 2}, 2)})[0].to_f32(), Each(0.0f));
  EXPECT_THROW(run("MatMul", {filled({2, 3}, 1), filled({2, 3}, 1)}), Error);
}

TEST(ReferenceEinsum, TakesTracesAndEllipses) {
  auto equation = [](const char* text) { return Attributes{{"equation", std::string(text)}}; };
  EXPECT_THAT(run("Einsum", {counting({3, 3})}, equation("ii->"))[0].to_f32(), ElementsAre(12));
  EXPECT_THAT(run("Einsum", {filled({2, 3, 4}, 1), filled({4, 5}, 1)}, equation("...k,kn"))[0].shape(),
              ElementsAre(2, 3, 5));
  EXPECT_THROW(run("Einsum", {counting({3, 3})}, equation("ij->k")), Error);
  EXPECT_THROW(run("Einsum", {counting({3, 3})}, equation("ijk->i")), Error);
}

TEST(ReferenceSoftmax, SurvivesLargeValues) {
  EXPECT_THAT(run("Softmax", {Tensor::of_f32({2}, {1e30f, 1e30f})})[0].to_f32(), ElementsAre(0.5f, 0.5f));
}

TEST(ReferenceAttention, MaskedRowsAreZero) {
  Tensor q = filled({1, 1, 2, 4}, 1), mask(DType::kBool, {2, 2});
  for (int64_t i = 0; i < 4; ++i) mask.set_int(i, i < 2 ? 0 : 1);
  EXPECT_THAT(run("Attention", {q, q, q, mask})[0].to_f32(), ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
}

TEST(ReferenceResize, EveryModeKeepsAConstant) {
  Tensor x = filled({1, 1, 5, 7}, 3), scales = Tensor::of_f32({4}, {1, 1, 0.6f, 2.5f});
  for (const char* mode : {"nearest", "linear", "cubic"})
    for (const char* where : {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"})
      for (int64_t antialias : {0, 1}) {
        Tensor y = run("Resize", {x, Tensor(), scales},
                       {{"mode", std::string(mode)}, {"coordinate_transformation_mode", std::string(where)},
                        {"antialias", antialias}})[0];
        EXPECT_THAT(y.shape(), ElementsAre(1, 1, 3, 17));
        EXPECT_THAT(y.to_f32(), Each(FloatNear(3, 1e-5f))) << mode << ' ' << where;
      }
}

TEST(ReferenceGridSample, IdentityGridReturnsTheImage) {
  Tensor theta = Tensor::of_f32({1, 2, 3}, {1, 0, 0, 0, 1, 0});
  Tensor grid = run("AffineGrid", {theta, Tensor::of_i64({1, 1, 3, 4})})[0], x = counting({1, 1, 3, 4});
  for (const char* mode : {"linear", "nearest", "cubic"}) {
    std::vector<float> y = run("GridSample", {x, grid}, {{"mode", std::string(mode)}})[0].to_f32();
    for (size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], x.data<float>()[i], 1e-5) << mode;
  }
}

TEST(ReferenceDft, InverseReturnsTheSignal) {
  Tensor x = counting({1, 7, 1});
  Tensor spectrum = run("DFT", {x}, {{"onesided", int64_t{1}}})[0];
  EXPECT_THAT(spectrum.shape(), ElementsAre(1, 4, 2));
  Tensor length(DType::kI64, {});
  length.set_int(0, 7);
  Tensor back = run("DFT", {spectrum, length}, {{"onesided", int64_t{1}}, {"inverse", int64_t{1}}})[0];
  EXPECT_THAT(back.shape(), ElementsAre(1, 7, 1));
  for (int64_t i = 0; i < 7; ++i) EXPECT_NEAR(back.get(i), static_cast<double>(i), 1e-5);
}

TEST(ReferenceLstm, ShortSequencesStopEarly) {
  Tensor x = filled({3, 2, 1}, 1), w = filled({1, 4, 1}, 1), r = filled({1, 4, 1}, 0), lengths(DType::kI32, {2});
  lengths.set_int(0, 1);
  lengths.set_int(1, 3);
  std::vector<Tensor> y = run("LSTM", {x, w, r, Tensor(), lengths}, {{"hidden_size", int64_t{1}}}, 3);
  EXPECT_EQ(y[0].get(2), 0);                    // the first sequence is over
  EXPECT_EQ(y[1].get(0), y[0].get(0));          // its state is that of its last step
  EXPECT_EQ(y[1].get(1), y[0].get(5));
  lengths.set_int(0, 4);
  EXPECT_THROW(run("LSTM", {x, w, r, Tensor(), lengths}, {{"hidden_size", int64_t{1}}}, 3), Error);
}

TEST(ReferenceErrors, BadOperandsAreRefused) {
  Tensor image = filled({1, 2, 4, 4}, 1), batch(DType::kI64, {1});
  batch.set_int(0, 1);
  EXPECT_THROW(run("RoiAlign", {image, filled({1, 4}, 1), batch}), Error);
  EXPECT_THROW(run("DepthToSpace", {image}, {{"blocksize", int64_t{0}}}), Error);
  EXPECT_THROW(run("GroupNormalization", {image, filled({2}, 1), filled({2}, 1)}, {{"num_groups", int64_t{3}}}), Error);
  EXPECT_THROW(run("Conv", {image, filled({3, 3, 1, 1}, 1)}), Error);
  EXPECT_THROW(run("Conv", {image, filled({3, 2, 1, 1}, 1), filled({2}, 1)}), Error);
  EXPECT_THROW(run("MatMulInteger", {Tensor::of_i64({1}), Tensor::of_i64({1})}), Error);
  EXPECT_THROW(run("Resize", {image, Tensor(), filled({4}, 0)}), Error);
  EXPECT_THROW(run("Resize", {image}), Error);
}

}  // namespace
}  // namespace lathe::reference
