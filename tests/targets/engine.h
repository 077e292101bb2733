// What tests of emitted C compare with: lathe's own engine, on inputs whose codes are anything.
#pragma once

#include <cstring>
#include <filesystem>
#include <random>

#include "core/file.h"
#include "formats/onnx.h"
#include "runtime/load.h"
#include "runtime/session.h"
#include "targets/mcu/emit.h"
#include "targets/mcu/emulate.h"
#include "targets/mcu/process.h"

namespace lathe::mcu {

// A folder of this process, gone with it.
inline std::string scratch(const std::string& name) {
  static const TemporaryFolder folder = TemporaryFolder::of_system("lathe_targets");
  return folder.file(name);
}

// Numbers that become codes drawn from all of them, or every seventh image from near one end.
inline Tensor random_input(const McuBorder& b, std::mt19937& random, int image) {
  const int least = b.type == DType::kI8 ? -128 : 0;
  Tensor x(b.scale != 0 ? DType::kF32 : b.type, b.model_shape);
  for (int64_t i = 0; i < x.size(); ++i) {
    int code = static_cast<int>(random() % 256);
    if (image % 7 == 5) code = code % 3;
    if (image % 7 == 6) code = 255 - code % 3;
    if (b.scale != 0)
      x.data<float>()[i] = static_cast<float>(code + least - b.zero) * b.scale;
    else
      x.set_int(i, code + least);
  }
  return x;
}

inline std::vector<std::vector<Tensor>> random_images(const std::vector<McuBorder>& borders, int count, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::vector<std::vector<Tensor>> images(static_cast<size_t>(count));
  for (int k = 0; k < count; ++k)
    for (const McuBorder& b : borders) images[k].push_back(random_input(b, random, k));
  return images;
}

// Outputs of the engine, image by image.
inline std::vector<std::vector<Tensor>> run_engine(Graph graph, const std::vector<std::vector<Tensor>>& images) {
  PlanOptions options;
  options.tokens = true;  // as the C does it
  options.input_shapes = default_input_shapes(graph);
  Session session(make_plan(std::move(graph), options));
  std::vector<std::vector<Tensor>> outputs;
  for (const auto& image : images) {
    outputs.emplace_back();
    for (const Tensor& y : session.run(image)) outputs.back().push_back(y.clone());
  }
  return outputs;
}

// How many elements of all outputs differ in their bits.
inline int64_t differences(const std::vector<std::vector<Tensor>>& a, const std::vector<std::vector<Tensor>>& b) {
  if (a.size() != b.size()) return -1;
  int64_t count = 0;
  for (size_t k = 0; k < a.size(); ++k) {
    if (a[k].size() != b[k].size()) return -1;
    for (size_t i = 0; i < a[k].size(); ++i) {
      const Tensor &x = a[k][i], &y = b[k][i];
      if (x.dtype() != y.dtype() || x.shape() != y.shape()) return -1;
      const size_t each = size_of(x.dtype());
      for (int64_t e = 0; e < x.size(); ++e)
        count += std::memcmp(static_cast<const char*>(x.raw()) + e * each, static_cast<const char*>(y.raw()) + e * each, each) != 0;
    }
  }
  return count;
}

inline bool have_arm() { return have_program("arm-none-eabi-gcc") && have_program("qemu-system-arm") && have_program("make"); }

}  // namespace lathe::mcu
