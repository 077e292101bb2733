// A small classifier and pictures for it, made anew for each test: coloured pictures whose class is their colour,
// and a network that tells the colours apart.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "../folder_test.h"
#include "core/file.h"
#include "formats/image.h"
#include "formats/onnx.h"
#include "graph/op.h"

namespace lathe {

class OptimizeTest : public FolderTest {
 protected:

  // `size`² pictures of 3 classes, `count` each: labels.tsv, or a folder for each class.
  void make_pictures(const std::string& name, int count, bool subfolders, int size = 24) const {
    std::mt19937 random(11);
    std::string table = "file\tclass\tname\n";
    const char* names[] = {"red", "green", "blue"};
    for (int c = 0; c < 3; ++c)
      for (int i = 0; i < count; ++i) {
        Image image{size, size, std::vector<uint8_t>(static_cast<size_t>(3 * size * size))};
        for (size_t k = 0; k < image.rgb.size(); ++k) image.rgb[k] = static_cast<uint8_t>(random() % 100 + (k % 3 == static_cast<size_t>(c) ? 120 : 0));
        std::string file = std::string(names[c]) + std::to_string(i) + ".png";
        // Numbered in the order of their names, folders would be blue, green, red: so they are called by class.
        std::filesystem::path where = folder_ / name / (subfolders ? std::to_string(c) : "");
        std::filesystem::create_directories(where);
        write_png((where / file).string(), image);
        table += file + "\t" + std::to_string(c) + "\t" + names[c] + "\n";
      }
    if (!subfolders) write_file(path(name + "/labels.tsv"), table);
  }

  // Convolutions, a batch norm and a pool, then the mean of each colour: right on most of the pictures.
  // `background`: one more class before the others.
  Graph classifier(bool background = false, int64_t width = 16) const {
    std::mt19937 random(5);
    std::normal_distribution<float> normal(0, 0.08f);
    auto weights = [&](Shape shape, bool identity) {
      Tensor t(DType::kF32, shape);
      for (int64_t i = 0; i < t.size(); ++i) t.set(i, normal(random));
      // The middle of each filter passes its own channel on.
      int64_t area = shape[2] * shape[3];
      for (int64_t c = 0; identity && c < 3; ++c) t.set((c * shape[1] + c) * area + area / 2, 1);
      return t;
    };
    auto filled = [](Shape shape, double value) {
      Tensor t(DType::kF32, std::move(shape));
      for (int64_t i = 0; i < t.size(); ++i) t.set(i, value);
      return t;
    };
    Graph g;
    std::vector<int64_t> ones(4, 1);
    ValueId x = g.add_input("image", DType::kF32, Shape{kUnknownDim, 3, 16, 16});
    x = g.add("Conv", {x, g.add_constant(weights({width, 3, 3, 3}, true)), g.add_constant(filled({width}, 0.1))}, {{"pads", ones}}, "stem");
    x = g.add("BatchNormalization", {x, g.add_constant(filled({width}, 1.1)), g.add_constant(filled({width}, 0.0)), g.add_constant(filled({width}, 0.05)), g.add_constant(filled({width}, 0.9))});
    x = g.add("Conv", {x, g.add_constant(weights({width, width, 3, 3}, true))}, {{"pads", ones}}, "body");
    x = g.add("Flatten", {g.add("GlobalAveragePool", {x})});
    int64_t classes = background ? 4 : 3;
    Tensor head(DType::kF32, {width, classes});
    for (int64_t i = 0; i < head.size(); ++i) head.set(i, normal(random));
    for (int64_t c = 0; c < 3; ++c) head.set(c * classes + c + background, 2);
    Tensor bias = filled({classes}, 0);
    if (background) bias.set(0, -100);
    x = g.add("Gemm", {x, g.add_constant(head), g.add_constant(bias)}, {}, "head");
    g[x].name = "scores";
    g.outputs = {x};
    return g;
  }

  // Two layers on vectors of 8.
  Graph regressor() const {
    Graph g;
    ValueId x = g.add_input("x", DType::kF32, Shape{1, 8});
    Tensor a(DType::kF32, {8, 32}), b(DType::kF32, {32, 4});
    for (int64_t i = 0; i < a.size(); ++i) a.set(i, static_cast<double>(i % 7) / 7 - 0.4);
    for (int64_t i = 0; i < b.size(); ++i) b.set(i, static_cast<double>(i % 5) / 5 - 0.3);
    x = g.add("MatMul", {g.add("Relu", {g.add("MatMul", {x, g.add_constant(a)}, {}, "first")}), g.add_constant(b)}, {}, "second");
    g.outputs = {x};
    return g;
  }

};

}  // namespace lathe
