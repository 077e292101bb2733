#include <cmath>

#include "run_op.h"

namespace lathe::testing {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

TEST(Reduce, AxesAndEmptySets) {
  Tensor x = iota(DType::kF32, {2, 3});
  EXPECT_EQ(elements(run_op("ReduceSum", {x, ints({1})}, {{"keepdims", int64_t{0}}})[0]), (Values{3, 12}));
  EXPECT_EQ(run_op("ReduceSum", {x})[0].shape(), (Shape{1, 1}));
  EXPECT_EQ(elements(run_op("ReduceSum", {x, ints({})}, {{"noop_with_empty_axes", int64_t{1}}})[0]), elements(x));
  Tensor none(DType::kF32, {2, 0});
  EXPECT_EQ(elements(run_op("ReduceMax", {none, ints({1})})[0]), (Values{-kInf, -kInf}));
  EXPECT_EQ(elements(run_op("ReduceLogSumExp", {none, ints({1})})[0]), (Values{-kInf, -kInf}));
  EXPECT_EQ(elements(run_op("ReduceProd", {none, ints({1})})[0]), (Values{1, 1}));
  EXPECT_EQ(elements(run_op("ReduceMin", {Tensor(DType::kI8, {0})})[0]), Values{127});
  EXPECT_EQ(elements(run_op("ReduceMax", {of(DType::kBool, {2}, {0, 1})})[0]), Values{1});
  EXPECT_EQ(elements(run_op("ReduceMax", {of(DType::kU8, {2}, {200, 100})})[0]), Values{200});
  EXPECT_NEAR(run_op("ReduceLogSumExp", {of(DType::kF32, {2}, {1000, 1000})})[0].get(0), 1000 + std::log(2.0), 1e-3);
  EXPECT_EQ(error_of("ReduceSum", {x, ints({2})}), ErrorKind::kModel);
  EXPECT_EQ(error_of("ReduceSum", {x, ints({1, -1})}), ErrorKind::kModel);
}

TEST(ArgMax, TiesAndLast) {
  Tensor x = of(DType::kF32, {1, 4}, {1, 3, 3, 2});
  EXPECT_EQ(run_op("ArgMax", {x}, {{"axis", int64_t{-1}}})[0].get_int(0), 1);
  EXPECT_EQ(run_op("ArgMax", {x}, {{"axis", int64_t{1}}, {"select_last_index", int64_t{1}}})[0].get_int(0), 2);
  EXPECT_EQ(error_of("ArgMin", {Tensor(DType::kF32, {2, 0})}, {{"axis", int64_t{1}}}), ErrorKind::kModel);
}

TEST(TopK, OrdersWithTiesAndNaN) {
  Tensor x = of(DType::kF32, {5}, {1, NAN, 3, 3, -1});
  auto y = run_op("TopK", {x, ints({3})}, {}, 2);
  EXPECT_EQ(elements(y[1]), (Values{1, 2, 3}));
  y = run_op("TopK", {x, ints({2})}, {{"largest", int64_t{0}}}, 2);
  EXPECT_EQ(elements(y[1]), (Values{4, 0}));
  EXPECT_EQ(error_of("TopK", {x, ints({6})}, {}, 2), ErrorKind::kModel);
}

TEST(CumSum, ExclusiveReverse) {
  Tensor x = iota(DType::kI32, {4}, 1), axis = ints({0});
  EXPECT_EQ(elements(run_op("CumSum", {x, axis})[0]), (Values{1, 3, 6, 10}));
  EXPECT_EQ(elements(run_op("CumSum", {x, axis}, {{"exclusive", int64_t{1}}, {"reverse", int64_t{1}}})[0]),
            (Values{9, 7, 4, 0}));
  EXPECT_EQ(elements(run_op("CumProd", {x, axis}, {{"exclusive", int64_t{1}}})[0]), (Values{1, 1, 2, 6}));
}

TEST(Gather, Forms) {
  Tensor x = iota(DType::kF32, {3, 2});
  EXPECT_EQ(elements(run_op("Gather", {x, ints({-1, 0})})[0]), (Values{4, 5, 0, 1}));
  EXPECT_EQ(error_of("Gather", {x, ints({3})}), ErrorKind::kInput);
  EXPECT_EQ(error_of("Gather", {x, of(DType::kF32, {1}, {0})}), ErrorKind::kModel);
  Tensor pairs = of(DType::kI64, {2, 2}, {0, 1, -1, 0});
  EXPECT_EQ(elements(run_op("GatherND", {x, pairs})[0]), (Values{1, 4}));
  EXPECT_EQ(elements(run_op("GatherElements", {x, of(DType::kI32, {1, 2}, {2, -2})})[0]), (Values{4, 3}));
  EXPECT_EQ(error_of("GatherElements", {x, of(DType::kI32, {1, 3}, {0, 0, 0})}), ErrorKind::kModel);
}

TEST(Scatter, Reductions) {
  Tensor x = iota(DType::kF32, {4}, 1), at = ints({1, 1}), updates = of(DType::kF32, {2}, {5, 7});
  auto scatter = [&](const char* how) {
    return elements(run_op("ScatterElements", {x, at, updates}, {{"reduction", std::string(how)}})[0]);
  };
  EXPECT_EQ(scatter("none"), (Values{1, 7, 3, 4}));
  EXPECT_EQ(scatter("add"), (Values{1, 14, 3, 4}));
  EXPECT_EQ(scatter("mul"), (Values{1, 70, 3, 4}));
  EXPECT_EQ(scatter("max"), (Values{1, 7, 3, 4}));
  EXPECT_EQ(scatter("min"), (Values{1, 2, 3, 4}));
  EXPECT_EQ(error_of("ScatterElements", {x, at, updates}, {{"reduction", std::string("xor")}}), ErrorKind::kModel);
  Tensor rows = of(DType::kI64, {1, 1}, {-1});
  EXPECT_EQ(elements(run_op("ScatterND", {iota(DType::kI8, {2, 2}), rows, iota(DType::kI8, {1, 2}, 8)})[0]),
            (Values{0, 1, 8, 9}));
  EXPECT_EQ(error_of("ScatterND", {iota(DType::kI8, {2, 2}), rows, iota(DType::kI8, {2}, 8)}), ErrorKind::kModel);
}

TEST(Index, OtherForms) {
  EXPECT_EQ(elements(run_op("NonZero", {of(DType::kF32, {2, 2}, {0, 1, 2, 0})})[0]), (Values{0, 1, 1, 0}));
  EXPECT_EQ(run_op("NonZero", {of(DType::kI64, {}, {3})})[0].shape(), (Shape{0, 1}));
  EXPECT_EQ(elements(run_op("OneHot", {ints({1, -1, 7}), ints({3}), of(DType::kI8, {2}, {0, 1})})[0]),
            (Values{0, 1, 0, 0, 0, 1, 0, 0, 0}));
  auto u = run_op("Unique", {of(DType::kF32, {5}, {2, 1, 1, 3, 2})}, {{"sorted", int64_t{0}}}, 4);
  EXPECT_EQ(elements(u[0]), (Values{2, 1, 3}));
  EXPECT_EQ(elements(u[1]), (Values{0, 1, 3}));
  EXPECT_EQ(elements(u[2]), (Values{0, 1, 1, 2, 0}));
  EXPECT_EQ(elements(u[3]), (Values{2, 2, 1}));
  EXPECT_EQ(elements(run_op("Compress", {iota(DType::kI8, {2, 3}), of(DType::kBool, {2}, {0, 1})}, {{"axis", int64_t{1}}})[0]),
            (Values{1, 4}));
  EXPECT_EQ(error_of("Compress", {iota(DType::kI8, {1}), of(DType::kBool, {2}, {0, 1})}), ErrorKind::kModel);
  EXPECT_EQ(elements(run_op("Trilu", {iota(DType::kI8, {2, 2}, 1)}, {{"upper", int64_t{0}}})[0]), (Values{1, 0, 3, 4}));
  EXPECT_EQ(elements(run_op("TensorScatter", {Tensor(iota(DType::kI8, {1, 3, 1})), iota(DType::kI8, {1, 2, 1}, 8), ints({2})},
                            {{"mode", std::string("circular")}})[0]),
            (Values{9, 1, 8}));
  EXPECT_EQ(error_of("TensorScatter", {iota(DType::kI8, {1, 3, 1}), iota(DType::kI8, {1, 2, 1}), ints({2})}), ErrorKind::kInput);
}

TEST(Quantize, PerAxisBlockedAndNarrow) {
  Tensor x = of(DType::kF32, {2, 2}, {1, 2, 3, -4});
  Tensor per_axis = of(DType::kF32, {2}, {1, 0.5});
  EXPECT_EQ(elements(run_op("QuantizeLinear", {x, per_axis, of(DType::kI8, {2}, {0, 1})})[0]), (Values{1, 5, 3, -7}));
  Tensor blocks = of(DType::kF32, {2, 1}, {1, 2});
  EXPECT_EQ(elements(run_op("QuantizeLinear", {x, blocks}, {{"block_size", int64_t{2}}, {"output_dtype", int64_t{22}}})[0]),
            (Values{1, 2, 2, -2}));
  Tensor one = of(DType::kF32, {}, {1});
  EXPECT_EQ(elements(run_op("QuantizeLinear", {of(DType::kF32, {3}, {0.5, 1.5, 300}), one})[0]), (Values{0, 2, 255}));
  Tensor q = run_op("DequantizeLinear", {of(DType::kI4, {2}, {-8, 7}), of(DType::kF16, {}, {0.5}), of(DType::kI4, {}, {1})})[0];
  EXPECT_EQ(q.dtype(), DType::kF16);
  EXPECT_EQ(elements(q), (Values{-4.5, 3}));
  EXPECT_EQ(error_of("QuantizeLinear", {x, of(DType::kF32, {3}, {1, 1, 1})}), ErrorKind::kModel);
  auto d = run_op("DynamicQuantizeLinear", {of(DType::kF32, {3}, {0, 0, 0})}, {}, 3);
  EXPECT_EQ(elements(d[0]), (Values{0, 0, 0}));
}

TEST(Loss, IgnoredAndWeighted) {
  Tensor x = of(DType::kF32, {2, 2}, {-1, -2, -3, -4}), labels = ints({0, -1}), weights = of(DType::kF32, {2}, {2, 3});
  EXPECT_EQ(run_op("NegativeLogLikelihoodLoss", {x, labels, weights}, {{"ignore_index", int64_t{-1}}})[0].get(0), 1);
  EXPECT_EQ(error_of("NegativeLogLikelihoodLoss", {x, labels}), ErrorKind::kInput);
  auto y = run_op("SoftmaxCrossEntropyLoss", {of(DType::kF32, {1, 2}, {0, 0}), ints({1})}, {}, 2);
  EXPECT_NEAR(y[0].get(0), std::log(2.0), 1e-6);
  EXPECT_NEAR(y[1].get(0), -std::log(2.0), 1e-6);
}

}  // namespace
}  // namespace lathe::testing
