// Runs a graph in ONNX Runtime, as a file and in another process, where `npm ci` in benchmarks/peers put it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "formats/onnx.h"
#include "graph/op.h"

namespace lathe::testing {

inline bool have_onnxruntime() {
  return std::filesystem::exists(LATHE_SOURCE "/benchmarks/peers/node_modules/onnxruntime-node") && std::system("command -v node > /dev/null") == 0;
}

// The first output, f32, for the f32 inputs of the graph in their order. Every node runs as it stands: with optimizations
// ONNX Runtime rounds the input of a product with weights in groups to 8 bits.
inline Tensor run_onnxruntime(const Graph& g, const std::vector<Tensor>& inputs) {
  const std::string stem = (std::filesystem::temp_directory_path() / ("lathe_ort_" + std::to_string(::getpid()))).string();
  export_onnx(g, stem + ".onnx");
  {
    std::ofstream request(stem + ".in", std::ios::binary);
    request << "[";
    for (size_t i = 0; i < inputs.size(); ++i) {
      request << (i ? "," : "") << R"({"name":")" << g[g.inputs[i]].name << R"(","type":"float32","dims":[)";
      for (size_t k = 0; k < inputs[i].shape().size(); ++k) request << (k ? "," : "") << inputs[i].shape()[k];
      request << "]}";
    }
    request << "]\n";
    for (const Tensor& t : inputs) request.write(static_cast<const char*>(t.raw()), static_cast<std::streamsize>(t.bytes()));
  }
  const std::string command = "cd " LATHE_SOURCE "/benchmarks/peers && node ort_serve.mjs " + stem + ".onnx 1 disabled < " + stem + ".in > " + stem + ".out 2> " + stem + ".err";
  const int status = std::system(command.c_str());
  std::ifstream answer(stem + ".out", std::ios::binary), errors(stem + ".err");
  std::string declaration, header;
  std::getline(answer, declaration);
  std::getline(answer, header);
  Tensor y(DType::kF32, *g[g.outputs[0]].shape);
  answer.read(static_cast<char*>(y.raw()), static_cast<std::streamsize>(y.bytes()));
  std::stringstream text;
  text << errors.rdbuf();
  EXPECT_EQ(status, 0) << text.str();
  EXPECT_TRUE(answer && header.find("\"error\"") == header.npos) << declaration << "\n" << header << "\n" << text.str();
  for (const char* ending : {".onnx", ".in", ".out", ".err"}) std::filesystem::remove(stem + ending);
  return y;
}

}  // namespace lathe::testing
