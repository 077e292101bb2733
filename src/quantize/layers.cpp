#include "quantize/layers.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "graph/op.h"
#include "graph/ops/window.h"
#include "quantize/quantizer.h"
#include "runtime/session.h"
#include "transform/passes.h"

namespace lathe {

std::string name_of_node(const Graph& graph, NodeId node) {
  const Node& n = graph[node];
  return n.name.empty() && !n.outputs.empty() ? graph[n.outputs[0]].name : n.name;
}

std::vector<Layer> layers_of(const Graph& graph) {
  const auto consumers = graph.consumers();
  std::vector<Layer> layers;
  for (NodeId id : graph.order()) {
    const Node& n = graph[id];
    if (!n.op->domain.empty() || n.inputs.size() < 2 || !n.inputs[1] || graph[n.inputs[0]].is_constant()) continue;
    const Value& w = graph[n.inputs[1]];
    if (!w.is_constant() || w.dtype != DType::kF32 || w.constant.size() == 0 || consumers[static_cast<size_t>(n.inputs[1].index)].size() != 1) continue;
    Layer layer{id, name_of_node(graph, id), n.op->name};
    if (layer.op == "Conv") {
      if (w.constant.rank() < 3) continue;
      layer.group = n.get_int("group");
      layer.depthwise = layer.group > 1 && w.constant.dim(1) == 1;
    } else if (layer.op == "Gemm") {
      if (n.get_float("alpha") != 1 || n.get_float("beta") != 1 || n.get_int("transA") != 0) continue;
      layer.axis = n.get_int("transB") ? 0 : 1;
    } else if (layer.op == "MatMul") {
      if (w.constant.rank() != 2) continue;
      layer.axis = 1;
    } else {
      continue;
    }
    layer.rows = w.constant.dim(layer.axis);
    layer.columns = w.constant.size() / layer.rows;
    if (n.op->macs && graph[n.outputs[0]].shape && is_static(*graph[n.outputs[0]].shape) && graph[n.inputs[0]].shape && is_static(*graph[n.inputs[0]].shape))
      layer.macs = n.op->macs(graph, n);
    layers.push_back(std::move(layer));
  }
  return layers;
}

std::vector<const Layer*> only_readers(const Graph& graph, const std::vector<Layer>& layers, ValueId value) {
  std::vector<const Layer*> readers;
  const auto consumers = graph.consumers();
  for (NodeId id : consumers[static_cast<size_t>(value.index)]) {
    auto found = std::find_if(layers.begin(), layers.end(), [&](const Layer& l) { return l.node == id && l.op != "Conv" && graph[id].inputs[0] == value; });
    if (found == layers.end()) return {};
    readers.push_back(&*found);
  }
  return readers;
}

std::map<std::string, Shape> input_shapes_of(const Graph& graph, const Samples& samples) {
  std::map<std::string, Shape> shapes;
  const std::vector<Tensor> first = samples.inputs(0);
  for (size_t i = 0; i < graph.inputs.size(); ++i) shapes[graph[graph.inputs[i]].name] = first[i].shape();
  return shapes;
}

Tensor weight_rows(const Graph& graph, const Layer& layer) { return to_rows(graph[graph[layer.node].inputs[1]].constant, layer.axis); }

void set_weight_rows(Graph& graph, const Layer& layer, const Tensor& rows) {
  const ValueId old = graph[layer.node].inputs[1];
  const std::string name = graph[old].name;
  const ValueId value = graph.add_constant(from_rows(rows, graph[old].constant.shape(), layer.axis), name);
  graph[layer.node].inputs[1] = value;
}

void visit_values(const Graph& graph, const Samples& samples, const std::vector<ValueId>& values,
                  const std::function<void(size_t, size_t, const Tensor&)>& visit, const std::function<void(double)>& progress) {
  if (samples.count == 0 || values.empty()) return;
  const std::map<std::string, Shape> shapes = input_shapes_of(graph, samples);
  // Some values at a time: all of a large network's would not fit into memory side by side.
  constexpr int64_t kMostBytes = int64_t{768} << 20;
  Graph shaped = graph;
  specialize(shaped, shapes);
  auto bytes = [&](ValueId v) { return shaped[v].shape && is_static(*shaped[v].shape) ? element_count(*shaped[v].shape) * 4 : 0; };
  std::vector<std::vector<size_t>> parts(1);
  int64_t held = 0;
  std::vector<size_t> inputs;  // values that are the graph's inputs, by index in `values`
  for (size_t i = 0; i < values.size(); ++i) {
    if (std::find(graph.inputs.begin(), graph.inputs.end(), values[i]) != graph.inputs.end()) {
      inputs.push_back(i);
      continue;
    }
    if (held > 0 && held + bytes(values[i]) > kMostBytes) parts.emplace_back(), held = 0;
    parts.back().push_back(i);
    held += bytes(values[i]);
  }
  for (size_t p = 0; p < parts.size(); ++p) {
    std::unique_ptr<Session> session;
    std::map<int32_t, size_t> outputs;
    if (!parts[p].empty()) {
      Graph part = graph;
      part.outputs.clear();
      for (size_t i : parts[p])
        if (outputs.emplace(values[i].index, part.outputs.size()).second) part.outputs.push_back(values[i]);
      PlanOptions options;
      options.input_shapes = shapes;
      session = std::make_unique<Session>(make_plan(std::move(part), options));
    }
    for (size_t s = 0; s < samples.count; ++s) {
      const std::vector<Tensor> x = samples.inputs(s);
      if (p == 0)
        for (size_t i : inputs) visit(s, i, x[static_cast<size_t>(std::find(graph.inputs.begin(), graph.inputs.end(), values[i]) - graph.inputs.begin())]);
      if (session) {
        const auto& y = session->run(x);
        for (size_t i : parts[p]) visit(s, i, y[outputs.at(values[i].index)]);
      }
      if (progress) progress((static_cast<double>(p) + static_cast<double>(s + 1) / static_cast<double>(samples.count)) / static_cast<double>(parts.size()));
    }
  }
}

Tensor gather_inputs(const Graph& graph, const Layer& layer, const Tensor& input, int64_t group, int64_t places, uint64_t seed) {
  std::mt19937_64 random(seed);
  const Node& n = graph[layer.node];
  const float* x = input.data<float>();
  if (layer.op != "Conv") {
    const int64_t rows = input.size() / layer.columns;
    places = std::min(places, rows);
    Tensor result(DType::kF32, {places, layer.columns});
    for (int64_t p = 0; p < places; ++p) {
      const int64_t row = places == rows ? p : static_cast<int64_t>(random() % static_cast<uint64_t>(rows));
      std::memcpy(result.data<float>() + p * layer.columns, x + row * layer.columns, static_cast<size_t>(layer.columns) * sizeof(float));
    }
    return result;
  }
  const Tensor& w = graph[n.inputs[1]].constant;
  const auto axes = static_cast<size_t>(w.rank() - 2);
  const int64_t batch = input.dim(0), channels = input.dim(1), per_group = w.dim(1);
  const Shape size = ops::spatial_of(input.shape());
  const ops::Window window = ops::resolve_window(size, ops::window_attributes(n, ops::spatial_of(w.shape())));
  const int64_t positions = product(window.outputs, 0, axes), taps = product(window.kernel, 0, axes);
  const int64_t all = batch * positions;
  places = std::min(places, all);
  Tensor result(DType::kF32, {places, layer.columns});
  std::memset(result.raw(), 0, result.bytes());
  const int64_t plane = channels == 0 || batch == 0 ? 0 : input.size() / batch / channels;
  for (int64_t p = 0; p < places; ++p) {
    int64_t at = places == all ? p : static_cast<int64_t>(random() % static_cast<uint64_t>(all));
    const int64_t image = at / positions;
    at %= positions;
    std::vector<int64_t> corner(axes);
    for (size_t i = axes; i-- > 0; at /= window.outputs[i]) corner[i] = at % window.outputs[i] * window.strides[i] - window.begin[i];
    for (int64_t t = 0; t < taps; ++t) {
      int64_t rest = t, offset = 0, unit = 1;
      bool inside = true;
      for (size_t i = axes; i-- > 0; rest /= window.kernel[i]) {
        const int64_t coordinate = corner[i] + rest % window.kernel[i] * window.dilations[i];
        inside &= coordinate >= 0 && coordinate < size[i];
        offset += coordinate * unit;
        unit *= size[i];
      }
      if (!inside) continue;
      for (int64_t c = 0; c < per_group; ++c)
        result.data<float>()[p * layer.columns + c * taps + t] = x[(image * channels + group * per_group + c) * plane + offset];
    }
  }
  return result;
}

}  // namespace lathe
