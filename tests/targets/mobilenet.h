// The network on which the memory of firmware is measured.
#pragma once

#include "models/models.h"
#include "quantize/quantize.h"
#include "runtime/load.h"
#include "transform/passes.h"

namespace lathe::mcu {

// MobileNetV2 at a width of 0.35 for 144×144, quantized with noise.
inline const Graph& mobilenet() {
  static const Graph graph = [] {
    Graph g = build_model("mobilenet_v2", {.input = {3, 144, 144}, .width = 0.35});
    specialize(g, default_input_shapes(g));
    clean_up(g);
    const Shape shape = *g[g.inputs[0]].shape;
    const Samples samples{4, [&](size_t i) { return std::vector<Tensor>{random_tensor(DType::kF32, shape, i)}; }};
    return quantize_network(g, parse_scheme("w:int8 a:uint8,minmax"), samples).graph;
  }();
  return graph;
}

}  // namespace lathe::mcu
