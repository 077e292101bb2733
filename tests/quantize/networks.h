// Networks that quantizers are tried on: convolutions of every kind with what stands between them in trained networks.
#pragma once

#include <random>

#include "graph/op.h"
#include "quantize/layers.h"
#include "transform/passes.h"

namespace lathe {

inline Tensor random_weights(Shape shape, uint64_t seed, float deviation = 0.3f, float mean = 0) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> draw(mean, deviation);
  Tensor t(DType::kF32, std::move(shape));
  for (int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] = draw(random);
  return t;
}

// Convolution, depthwise, residual, squeeze and excite, concatenation, pooling, classifier.
inline Graph small_network(uint64_t seed = 1, bool relu6 = false) {
  Graph g;
  uint64_t next = seed * 100;
  auto conv = [&](ValueId x, int64_t in, int64_t out, int64_t k, int64_t stride, int64_t group, const char* name) {
    const std::vector<int64_t> pads(4, k / 2), strides(2, stride);
    const float deviation = 1.2f / std::sqrt(static_cast<float>(in / group * k * k));
    return g.add("Conv", {x, g.add_constant(random_weights({out, in / group, k, k}, ++next, deviation)), g.add_constant(random_weights({out}, ++next, 0.1f))},
                 {{"pads", pads}, {"strides", strides}, {"group", group}}, name);
  };
  auto relu = [&](ValueId x) {
    if (!relu6) return g.add("Relu", {x});
    return g.add("Clip", {x, g.add_constant(Tensor::scalar(0)), g.add_constant(Tensor::scalar(6))});
  };
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 3, 16, 16});
  x = relu(conv(x, 3, 16, 3, 2, 1, "stem"));
  ValueId y = relu(conv(x, 16, 32, 1, 1, 1, "expand"));
  y = relu(conv(y, 32, 32, 3, 1, 32, "depthwise"));
  y = conv(y, 32, 16, 1, 1, 1, "project");
  x = g.add("Add", {x, y});
  ValueId s = g.add("GlobalAveragePool", {x});
  s = g.add("HardSigmoid", {conv(relu(conv(s, 16, 8, 1, 1, 1, "squeeze")), 8, 16, 1, 1, 1, "excite")});
  x = g.add("Mul", {x, s});
  ValueId left = relu(conv(x, 16, 16, 3, 1, 1, "left")), right = relu(conv(x, 16, 24, 3, 1, 4, "right"));
  right = conv(g.add("MaxPool", {right}, {{"kernel_shape", std::vector<int64_t>{3, 3}}, {"pads", std::vector<int64_t>(4, 1)}}), 24, 24, 1, 1, 1, "after");
  x = g.add("Concat", {left, right}, {{"axis", int64_t{1}}});
  x = g.add("Mul", {x, g.add("Sigmoid", {x})});
  x = g.add("Flatten", {g.add("GlobalAveragePool", {x})});
  g.outputs = {g.add("Gemm", {x, g.add_constant(random_weights({10, 40}, ++next)), g.add_constant(random_weights({10}, ++next, 0.1f))}, {{"transB", int64_t{1}}}, "head")};
  infer_shapes(g);
  return g;
}

// Two transformer-like blocks: layer norm, two products with a Gelu between, residual.
inline Graph small_transformer(uint64_t seed = 1) {
  Graph g;
  uint64_t next = seed * 1000;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 12, 32});
  for (int block = 0; block < 2; ++block) {
    Tensor scale = random_weights({32}, ++next, 0.1f, 1);
    for (int64_t i = 0; i < 3; ++i) scale.data<float>()[i * 9] *= 20;  // the channels that transformers have
    ValueId y = g.add("LayerNormalization", {x, g.add_constant(scale), g.add_constant(random_weights({32}, ++next, 0.1f))}, {{"axis", int64_t{-1}}});
    auto product = [&](ValueId v, int64_t in, int64_t out, const std::string& name) {
      return g.add("Add", {g.add("MatMul", {v, g.add_constant(random_weights({in, out}, ++next, 1 / std::sqrt(static_cast<float>(in))))}, {}, name), g.add_constant(random_weights({out}, ++next, 0.1f))});
    };
    y = product(g.add("Gelu", {product(y, 32, 64, "up" + std::to_string(block))}), 64, 32, "down" + std::to_string(block));
    x = g.add("Add", {x, y});
  }
  g.outputs = {x};
  infer_shapes(g);
  return g;
}

inline Samples random_samples(const Graph& graph, size_t count, uint64_t seed = 7) {
  const Shape shape = *graph[graph.inputs[0]].shape;
  return {count, [shape, seed](size_t i) { return std::vector<Tensor>{random_weights(shape, seed + i, 1)}; }};
}

}  // namespace lathe
