#include "optimize/quantized.h"

#include <algorithm>

#include "graph/op.h"
#include "runtime/load.h"
#include "transform/passes.h"

namespace lathe {

QuantizeInput::QuantizeInput(const std::string& model, const std::string& data, const DatasetOptions& options) : model_(load_model(model)) {
  clean_up(model_.graph);
  if (!data.empty()) data_.emplace(data, model, model_.graph, options);
}

Samples QuantizeInput::samples() {
  if (!data_) return {};
  return {data_->size(), [this](size_t i) { return data_->inputs(i); }};
}

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

std::vector<LayerEffect> int8_effects(const Graph& graph, const std::vector<Layer>& layers, const Samples& samples, const std::function<void(double)>& progress) {
  std::vector<LayerEffect> effects;
  for (const auto& of_layer : layer_effects(graph, layers, {{QuantizerSpec{}, true}}, {.range = {RangeMethod::kSquaredError}}, samples, progress)) effects.push_back(of_layer[0]);
  return effects;
}

std::vector<double> float_and_int8_seconds(const Graph& graph, const std::vector<Layer>& layers, const Samples& samples) {
  const Quantized q = quantize_network(graph, parse_scheme("w:int8 a:uint8,minmax"), samples);
  std::vector<double> both = layer_seconds(graph, {}, layers, samples), codes = layer_seconds(q.graph, {}, layers, samples);
  both.insert(both.end(), codes.begin(), codes.end());
  return both;
}

void quantize_candidate(Candidate& candidate, const Scheme& scheme, bool bf16, const TechniqueContext& context) {
  Quantized q = quantize_network(cleaned(candidate), scheme, calibration_samples(context, kCalibrationSamples), [&](const std::string&, double part) { context.tell(part); });
  for (const LayerResult& l : q.layers) candidate.layers[l.layer.name] = !l.scheme.weights ? "float" : l.scheme.weights->text();
  candidate.graph = std::move(q.graph);
  candidate.options.fuse = candidate.options.integer = true;
  candidate.options.bf16 = bf16;
}

}  // namespace lathe
