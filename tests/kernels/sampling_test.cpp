// Resize, Pad, Gather, Expand, Tile, reductions and places of extremes against the reference, for every instruction set.
#include "kernel_tester.h"

namespace lathe {
namespace {

class SamplingKernel : public EveryKernel {};

TEST_P(SamplingKernel, Resizes) {
  const Shape shapes[] = {{1, 3, 5, 7}, {2, 6, 4, 16}, {1, 9, 9, 33}, {3, 4, 1, 2}, {1, 1, 17, 20}};
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const char* mode : {"nearest", "linear", "cubic"})
      for (const char* how : {"half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel_symmetric"})
        for (const Shape& shape : shapes)
          for (const std::vector<float>& scales : {std::vector<float>{1, 2, 2, 1}, {1, 1, 1.7f, 2.3f}, {1, 1, 0.5f, 0.6f}, {1, 3, 1, 1}, {1, 1, 1, 2}, {1, 1, 1, 1}}) {
            omp_set_num_threads(1 + turn++ % 3);
            Attributes a{{"mode", std::string(mode)}, {"coordinate_transformation_mode", std::string(how)}, {"antialias", int64_t{turn % 4 == 0 && *mode != 'n'}},
                         {"nearest_mode", std::string(turn % 2 ? "floor" : "round_prefer_ceil")}, {"exclude_outside", int64_t{turn % 5 == 0 && *mode == 'c'}}};
            Tensor x = random_tensor(type, shape, random);
            if (turn % 3 == 0) x.set(0, INFINITY);
            Case c = make_case("Resize", {x, {}, Tensor::of_f32({4}, scales)}, {false, false, true}, a,
                               fmt::format("{} {} {} resize of {} by {} {} {}", name_of(type), mode, how, to_string(shape), scales[1], scales[2], scales[3]));
            check(c, *mode == 'n' ? 0 : tolerance(type));
          }
}

TEST_P(SamplingKernel, Pads) {
  const DType types[] = {DType::kF32, DType::kBF16, DType::kU8, DType::kF64};
  int turn = 0;
  for (const char* mode : {"constant", "edge", "reflect", "wrap"})
    for (const Ints& pads : {Ints{0, 0, 1, 2, 0, 0, 2, 1}, Ints{0, 0, 0, 0, 0, 0, 0, 0}, Ints{1, 0, 0, 3, 0, 2, 0, 0}, Ints{0, 1, 2, 0, 0, 1, 2, 0}, Ints{0, -1, 0, -2, 0, 0, -1, 1}})
      for (DType type : types) {
        omp_set_num_threads(1 + turn++ % 3);
        Tensor x(type, {2, 3, 4, 5}), value(type, {});
        for (int64_t i = 0; i < x.size(); ++i) x.set(i, static_cast<double>(i % 50));
        value.set(0, 7);
        Case c = make_case("Pad", {x, Tensor::of_i64(pads), turn % 3 ? value : Tensor()}, {false, true, turn % 2 == 0}, {{"mode", std::string(mode)}},
                           fmt::format("{} {} pad, turn {}", name_of(type), mode, turn));
        check(c, 0);
      }
}

// Rows that are as short as one number: several elements are copied at once, and filled.
TEST_P(SamplingKernel, PadsShortRows) {
  for (DType type : {DType::kU8, DType::kBF16, DType::kF32})
    for (int64_t width : {1, 2, 4, 8})
      for (const Ints& pads : {Ints{0, 0, 1, 0}, Ints{1, 0, 0, 0}, Ints{1, 0, 2, 0}}) {
        Tensor x(type, {2, width}), value(type, {});
        for (int64_t i = 0; i < x.size(); ++i) x.set(i, static_cast<double>(i + 1));
        value.set(0, 7);
        Case c = make_case("Pad", {x, Tensor::of_i64(pads), value}, {false, true, true}, {}, fmt::format("{} pad of rows of {}", name_of(type), width));
        check(c, 0);
      }
}

TEST_P(SamplingKernel, GathersExpandsAndTiles) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16, DType::kI64, DType::kBool})
    for (int64_t axis : {0, 1, 2, -1}) {
      omp_set_num_threads(1 + turn++ % 3);
      Tensor x(type, {3, 5, 4});
      for (int64_t i = 0; i < x.size(); ++i) x.set(i, static_cast<double>(type == DType::kBool ? i % 2 : i));
      Tensor one(DType::kI64, {});
      one.set_int(0, turn % 2 ? 1 : -1);
      for (const Tensor& indices : {one, Tensor::of_i64({2, 0, 0, -1, 1, 2}), Tensor::of_i64({0, 2}).reshaped({2, 1})}) {
        Case c = make_case("Gather", {x, indices}, {false, true}, {{"axis", axis}}, fmt::format("gather of {} along {}", name_of(type), axis));
        check(c, 0);
      }
      Case tile = make_case("Tile", {x, Tensor::of_i64({2, 1, 3})}, {false, true}, {}, "tile");
      check(tile, 0);
      for (const Ints& to : {Ints{2, 3, 5, 4}, Ints{1}, Ints{3, 5, 4}}) {
        Case expand = make_case("Expand", {x, Tensor::of_i64(to)}, {false, true}, {}, "expand");
        check(expand, 0);
      }
      Tensor thin = random_tensor(DType::kF32, {5, 1}, random);
      Case expand = make_case("Expand", {thin, Tensor::of_i64({2, 5, 33})}, {false, true}, {}, "expand a column");
      check(expand, 0);
    }
}

TEST_P(SamplingKernel, Reduces) {
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const char* op : {"ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"})
      for (const Shape& shape : {Shape{3, 5, 7, 33}, Shape{2, 1, 70}, Shape{129}, Shape{4, 16}})
        for (const Ints& axes : {Ints{}, Ints{-1}, Ints{0}, Ints{1}, Ints{0, 2}, Ints{1, 3}, Ints{0, 1}}) {
          if (std::any_of(axes.begin(), axes.end(), [&](int64_t a) { return a >= static_cast<int64_t>(shape.size()); })) continue;
          omp_set_num_threads(1 + turn++ % 3);
          Tensor x = random_tensor(type, shape, random);
          if (turn % 4 == 0) x.set(turn % x.size(), turn % 8 ? NAN : -INFINITY);
          Case c = make_case(op, {x, axes.empty() ? Tensor() : Tensor::of_i64(axes)}, {false, true}, {{"keepdims", int64_t{turn % 2}}},
                             fmt::format("{} {} of {} over {}", name_of(type), op, to_string(shape), to_string(axes)));
          check(c, type == DType::kBF16 ? 1.0 / 128 : 1e-5);
        }
}

TEST_P(SamplingKernel, FindsExtremes) {
  int turn = 0;
  for (const char* op : {"ArgMax", "ArgMin"})
    for (const Shape& shape : {Shape{3, 5, 21}, Shape{2, 40, 3}, Shape{17}, Shape{4, 1, 100}})
      for (int64_t axis : {0, -1, 1})
        for (int64_t last : {0, 1})
          for (int kind = 0; kind < 4; ++kind) {
            if (axis >= static_cast<int64_t>(shape.size())) continue;
            omp_set_num_threads(1 + turn++ % 3);
            Tensor x = random_tensor(DType::kF32, shape, random);
            for (int64_t i = 0; i < x.size(); ++i) {
              if (kind == 1) x.set(i, std::round(x.get(i) * 2));  // many equal
              if (kind == 2 && i % 7 == 3) x.set(i, NAN);
              if (kind == 3) x.set(i, turn % 2 ? INFINITY : -INFINITY);
            }
            Case c = make_case(op, {x}, {false}, {{"axis", axis}, {"keepdims", int64_t{turn % 2}}, {"select_last_index", last}},
                               fmt::format("{} of {} along {}, last {}, kind {}", op, to_string(shape), axis, last, kind));
            check(c, 0);
          }
}

TEST_P(SamplingKernel, SamplesAGrid) {
  int turn = 0;
  for (const char* mode : {"linear", "bilinear", "nearest"})
    for (const char* padding : {"zeros", "border"})
      for (int64_t align : {0, 1})
        for (const auto& [picture, points] : {std::pair{Shape{2, 3, 7, 5}, Shape{4, 6}}, {Shape{1, 17, 1, 9}, Shape{1, 130}}, {Shape{3, 1, 6, 6}, Shape{31, 9}}}) {
          omp_set_num_threads(1 + turn++ % 3);
          Tensor x = random_tensor(DType::kF32, picture, random), grid = random_tensor(DType::kF32, {picture[0], points[0], points[1], 2}, random, -1.4f, 1.4f);
          for (int64_t i = 0; i < 8 && i < grid.size(); ++i) grid.set(i * 3 % grid.size(), std::array{NAN, INFINITY, -INFINITY, 1.0f, -1.0f, 0.0f, 1e30f, 0.5f}[i]);
          if (turn % 2) x.set(0, turn % 4 == 1 ? NAN : INFINITY);
          Case c = make_case("GridSample", {x, grid}, {false, false}, {{"mode", std::string(mode)}, {"padding_mode", std::string(padding)}, {"align_corners", align}},
                             fmt::format("{} of {} at {}, {}, align {}", mode, to_string(picture), to_string(points), padding, align));
          check(c, 2e-6, 1);
        }
}

TEST_P(SamplingKernel, FindsTheGreatestFew) {
  int turn = 0;
  for (const Shape& shape : {Shape{1}, Shape{7}, Shape{3, 40}, Shape{2, 33, 5}, Shape{4, 1, 300}})
    for (int64_t axis = 0; axis < static_cast<int64_t>(shape.size()); ++axis)
      for (bool largest : {true, false})
        for (int64_t kept : {int64_t{1}, shape[axis] / 9, shape[axis] / 2, shape[axis]}) {
          if (kept == 0) continue;
          omp_set_num_threads(1 + turn++ % 3);
          Tensor x = random_tensor(DType::kF32, shape, random, -3, 3);
          if (turn % 3 == 0)  // many equal ones
            for (int64_t i = 0; i < x.size(); ++i) x.set(i, std::round(x.get(i)));
          if (turn % 2)
            for (int64_t i = 0; i < x.size() && i < 6; ++i) x.set((i * 11 + 2) % x.size(), std::array{NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-40f}[i]);
          Case c = make_case("TopK", {x, Tensor::of_i64({kept})}, {false, true}, {{"axis", axis}, {"largest", int64_t{largest}}},
                             fmt::format("{} of {} along {}, largest {}, turn {}", kept, to_string(shape), axis, largest, turn), 2);
          check(c, 0);
        }
}

TEST_P(SamplingKernel, ConvolvesTransposed) {
  struct Window {
    int64_t kernel, stride, pad, dilation, extra;
  };
  int turn = 0;
  for (DType type : {DType::kF32, DType::kBF16})
    for (const Window& v : {Window{2, 2, 0, 1, 0}, Window{3, 2, 1, 1, 1}, Window{4, 2, 1, 1, 0}, Window{3, 1, 1, 1, 0}, Window{1, 3, 0, 1, 2}, Window{3, 3, 2, 2, 0}, Window{2, 1, 1, 1, 0}})
      for (int64_t channels : {1, 2, 6, 24})
        for (int64_t outputs : {1, 7, 16, 33}) {
          omp_set_num_threads(1 + turn++ % 3);
          // Pictures of several strips too.
          const int64_t n = 1 + turn % 2, h = turn % 16 == 0 ? 60 : 3 + turn % 5, w = turn % 16 == 0 ? 70 : 2 + turn % 7;
          const char* const activations[] = {"", "Relu", "Sigmoid", "Clip"};
          Attributes a{{"strides", Ints{v.stride, v.stride}}, {"pads", Ints{v.pad, 0, 0, v.pad}}, {"dilations", Ints{v.dilation, v.dilation}},
                       {"output_padding", Ints{v.extra, v.extra}}, {"activation", std::string(activations[turn % 4])}, {"alpha", -0.2f}, {"beta", 0.3f}};
          Case c = make_case("ai.lathe::ConvTranspose",
                             {random_tensor(type, {n, h, w, channels}, random), random_tensor(DType::kF32, {channels, outputs, v.kernel, v.kernel}, random),
                              turn % 3 ? random_tensor(DType::kF32, {outputs}, random) : Tensor()},
                             {false, true, true}, a,
                             fmt::format("{} transposed conv {}x{}x{}x{} to {}, window {}/{} pad {}", name_of(type), n, h, w, channels, outputs, v.kernel, v.stride, v.pad));
          // The kernel rounds weights that the reference takes as they are, and Clip hides how large the sums were.
          check(c, tolerance(type), type == DType::kBF16 ? 1 : 1e-6);
        }
}

INSTANTIATE_TEST_SUITE_P(Isa, SamplingKernel, ::testing::ValuesIn(available_isas()), [](const auto& info) { return info.param; });

}  // namespace
}  // namespace lathe
