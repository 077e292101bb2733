// Small models on disk for tests of the command, the library and the installed package.
#pragma once

#include <unistd.h>

#include <filesystem>

#include "formats/onnx.h"
#include "graph/op.h"

namespace lathe {

// A folder of this process, gone with it.
inline std::filesystem::path scratch_folder() {
  struct Folder {
    std::filesystem::path path = std::filesystem::temp_directory_path() / ("lathe_cli_" + std::to_string(::getpid()));
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  };
  static Folder folder;
  return folder.path;
}

inline Tensor ramp(Shape shape, float step) {
  Tensor t(DType::kF32, std::move(shape));
  for (int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] = step * static_cast<float>((i * 7) % 11 - 5);
  return t;
}

// image [N, 3, 8, 8] → scores [N, 4], by a convolution, a mean and a product.
inline std::string classifier() {
  Graph g;
  ValueId x = g.add_input("image", DType::kF32, Shape{kUnknownDim, 3, 8, 8});
  g[x].dim_names = {"N", "", "", ""};
  ValueId w = g.add_constant(ramp({6, 3, 3, 3}, 0.05f), "w"), b = g.add_constant(ramp({6}, 0.1f), "b");
  ValueId c = g.add("Conv", {x, w, b}, {{"pads", std::vector<int64_t>(4, 1)}}, "conv");
  ValueId p = g.add("GlobalAveragePool", {g.add("Relu", {c}, {}, "relu")}, {}, "pool");
  ValueId y = g.add("Gemm", {g.add("Flatten", {p}, {}, "flat"), g.add_constant(ramp({6, 4}, 0.3f), "v")}, {}, "gemm");
  g[y].name = "scores";
  g.outputs = {y};
  infer_shapes(g);
  std::string path = (scratch_folder() / "classifier.onnx").string();
  export_onnx(g, path);
  return path;
}

// sum [2, 3] f32 = a [2, 3] f32 + cast(b [2, N] i64, N = 3)
inline std::string two_inputs() {
  Graph g;
  ValueId a = g.add_input("a", DType::kF32, Shape{2, 3});
  ValueId b = g.add_input("deep/b", DType::kI64, Shape{2, kUnknownDim});
  ValueId y = g.add("Add", {a, g.add("Cast", {b}, {{"to", int64_t{1}}}, "cast")}, {}, "add");
  g[y].name = "deep/sum";
  g.outputs = {y};
  infer_shapes(g);
  std::string path = (scratch_folder() / "two.onnx").string();
  export_onnx(g, path);
  return path;
}

}  // namespace lathe
