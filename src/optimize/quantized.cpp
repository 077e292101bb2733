#include "optimize/quantized.h"

#include <algorithm>

#include "graph/op.h"
#include "transform/passes.h"

namespace lathe {

Samples calibration_samples(const TechniqueContext& context, size_t most) { return Samples{context.calibration.count, context.calibration.inputs}.first(most); }

Graph cleaned(const Candidate& candidate) {
  Graph graph = candidate.graph;
  clean_up(graph);
  return graph;
}

std::vector<std::string> layer_names(const Candidate& candidate) {
  std::vector<std::string> names;
  for (const Layer& l : layers_of(cleaned(candidate))) names.push_back(l.name);
  return names;
}

std::string nothing_to_quantize(const Candidate& candidate) {
  const Graph graph = cleaned(candidate);
  if (!layers_of(graph).empty()) return "";
  const auto order = graph.order();
  const bool quantized = std::any_of(order.begin(), order.end(), [&](NodeId id) { return graph[id].op->name == "QuantizeLinear" || graph[id].op->name == "DequantizeLinear"; });
  return quantized ? "the network is quantized already" : "no convolution or product with constant f32 weights";
}

void quantize_candidate(Candidate& candidate, const Scheme& scheme, bool bf16, const TechniqueContext& context) {
  Quantized q = quantize_network(cleaned(candidate), scheme, calibration_samples(context, kCalibrationSamples), [&](const std::string&, double part) { context.tell(part); });
  for (const LayerResult& l : q.layers) candidate.layers[l.layer.name] = !l.scheme.weights ? "float" : l.scheme.weights->text();
  candidate.graph = std::move(q.graph);
  candidate.options.fuse = candidate.options.integer = true;
  candidate.options.bf16 = bf16;
}

}  // namespace lathe
