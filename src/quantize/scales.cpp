#include "quantize/scales.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "graph/op.h"
#include "quantize/quantizer.h"

namespace lathe {
namespace {

bool one_reader(const Graph& g, const std::vector<std::vector<NodeId>>& consumers, ValueId v) {
  return consumers[static_cast<size_t>(v.index)].size() == 1 && std::find(g.outputs.begin(), g.outputs.end(), v) == g.outputs.end();
}

// A constant f32 vector of the last axis, or of the channels of pictures.
bool vector_constant(const Graph& g, ValueId v) {
  return v && g[v].is_constant() && g[v].dtype == DType::kF32 && g[v].constant.size() > 1 && g[v].constant.dim(-1) == g[v].constant.size();
}

// Which constants of which nodes are divided: the node, the input, and whether its rows (a weight's output channels) or elements are.
struct Place {
  NodeId node;
  size_t input;
  const Layer* layer;  // null: elements
};

// Where factors of `value` go; empty when nowhere.
std::vector<Place> places_of(const Graph& g, const std::vector<Layer>& layers, const std::vector<std::vector<NodeId>>& consumers, ValueId value) {
  ValueId v = value;
  std::vector<Place> places;
  for (int steps = 0; steps < 6; ++steps) {
    if (std::find(g.outputs.begin(), g.outputs.end(), v) != g.outputs.end()) return {};
    const NodeId id = g[v].producer;
    if (!id) return {};
    const Node& n = g[id];
    if (!n.op->domain.empty()) return {};
    const std::string& op = n.op->name;
    auto further = [&](ValueId next) {
      if (!one_reader(g, consumers, next)) return false;
      v = next;
      return true;
    };
    if (op == "LayerNormalization") {
      if (n.inputs.size() < 2 || !vector_constant(g, n.inputs[1]) || n.get_int("axis") != -1) return {};
      places.push_back({id, 1, nullptr});
      if (n.inputs.size() > 2 && n.inputs[2]) {
        if (!vector_constant(g, n.inputs[2])) return {};
        places.push_back({id, 2, nullptr});
      }
      return places;
    }
    if (op == "Relu" || op == "LeakyRelu" || op == "Identity") {
      if (!further(n.inputs[0])) return {};
      continue;
    }
    if (op == "Add") {  // a shift
      const size_t constant = vector_constant(g, n.inputs[1]) ? 1 : vector_constant(g, n.inputs[0]) ? 0 : 2;
      if (constant == 2) return {};
      places.push_back({id, constant, nullptr});
      if (!further(n.inputs[1 - constant])) return {};
      continue;
    }
    if (op == "Mul") {  // a scale takes it all
      const size_t constant = vector_constant(g, n.inputs[1]) ? 1 : vector_constant(g, n.inputs[0]) ? 0 : 2;
      if (constant == 2) return {};
      places.push_back({id, constant, nullptr});
      return places;
    }
    for (const Layer& l : layers)
      if (l.node == id) {
        places.push_back({id, 1, &l});
        if (n.inputs.size() > 2 && n.inputs[2]) {
          if (!g[n.inputs[2]].is_constant() || g[n.inputs[2]].constant.size() != l.rows) return {};
          places.push_back({id, 2, nullptr});
        }
        return places;
      }
    return {};
  }
  return {};
}

void divide(Graph& g, const std::vector<Place>& places, const std::vector<float>& factors) {
  for (const Place& p : places) {
    if (p.layer) {
      Tensor rows = weight_rows(g, *p.layer).clone();
      for (int64_t r = 0; r < rows.dim(0); ++r)
        for (int64_t c = 0; c < rows.dim(1); ++c) rows.data<float>()[r * rows.dim(1) + c] /= factors[static_cast<size_t>(r)];
      set_weight_rows(g, *p.layer, rows);
      continue;
    }
    const ValueId old = g[p.node].inputs[p.input];
    Tensor t = g[old].constant.clone();
    for (int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] /= factors[static_cast<size_t>(i)];
    const std::string name = g[old].name;
    const ValueId value = g.add_constant(t, name);  // others may read the old one
    g[p.node].inputs[p.input] = value;
  }
}

int64_t channels_read(const Layer& layer, const Graph& g) {
  if (layer.op != "Conv") return layer.columns;
  return g[g[layer.node].inputs[1]].constant.dim(1) * layer.group;
}

// Channel of the input that element (row, column) of the weights meets.
struct ChannelOf {
  int64_t taps = 1, per_group = 1, rows_per_group = 1;
  ChannelOf(const Graph& g, const Layer& layer) {
    if (layer.op != "Conv") {
      per_group = layer.columns;
      rows_per_group = layer.rows;
      return;
    }
    per_group = g[g[layer.node].inputs[1]].constant.dim(1);
    taps = layer.columns / per_group;
    rows_per_group = layer.rows / layer.group;
  }
  int64_t operator()(int64_t row, int64_t column) const { return row / rows_per_group * per_group + column / taps; }
};

}  // namespace

bool divisible(const Graph& graph, ValueId value) { return !places_of(graph, layers_of(graph), graph.consumers(), value).empty(); }

void divide_channels(Graph& graph, ValueId value, const std::vector<float>& factors) {
  const std::vector<Layer> layers = layers_of(graph);
  divide(graph, places_of(graph, layers, graph.consumers(), value), factors);
}

void multiply_inputs(Graph& graph, const Layer& layer, const std::vector<float>& factors) {
  Tensor rows = weight_rows(graph, layer).clone();
  const ChannelOf channel(graph, layer);
  for (int64_t r = 0; r < layer.rows; ++r)
    for (int64_t c = 0; c < layer.columns; ++c) rows.data<float>()[r * layer.columns + c] *= factors[static_cast<size_t>(channel(r, c))];
  set_weight_rows(graph, layer, rows);
}

std::vector<float> input_magnitudes(const Graph& graph, const Layer& layer) {
  const Tensor rows = weight_rows(graph, layer);
  const ChannelOf channel(graph, layer);
  std::vector<float> largest(static_cast<size_t>(channels_read(layer, graph)), 0);
  for (int64_t r = 0; r < layer.rows; ++r)
    for (int64_t c = 0; c < layer.columns; ++c) {
      float& m = largest[static_cast<size_t>(channel(r, c))];
      m = std::max(m, std::abs(rows.data<float>()[r * layer.columns + c]));
    }
  return largest;
}

int equalize(Graph& graph) {
  struct Pair {
    std::vector<Place> places;  // of the factors, in the first layer
    size_t first, second;       // layers
  };
  std::vector<Pair> pairs;
  const std::vector<Layer> layers = layers_of(graph);
  {
    const auto consumers = graph.consumers();
    for (size_t second = 0; second < layers.size(); ++second) {
      const ValueId v = graph[layers[second].node].inputs[0];
      if (layers[second].op != "Conv" || !one_reader(graph, consumers, v)) continue;
      auto places = places_of(graph, layers, consumers, v);
      if (places.empty() || !places[0].layer || places[0].layer->op != "Conv" || places[0].layer->rows != channels_read(layers[second], graph)) continue;
      const auto first = static_cast<size_t>(places[0].layer - layers.data());
      pairs.push_back({std::move(places), first, second});
    }
  }
  for (int iteration = 0; iteration < 20; ++iteration) {
    float moved = 0;
    for (const Pair& p : pairs) {
      const Tensor rows = weight_rows(graph, layers[p.first]);
      const std::vector<float> after = input_magnitudes(graph, layers[p.second]);
      std::vector<float> factors(after.size(), 1);
      for (size_t i = 0; i < after.size(); ++i) {
        float before = 0;
        for (int64_t c = 0; c < rows.dim(1); ++c) before = std::max(before, std::abs(rows.data<float>()[static_cast<int64_t>(i) * rows.dim(1) + c]));
        // A channel that is nothing on one side has no balance. Within 1e±4: beyond, biases lose their digits.
        if (before > 0 && after[i] > 0) factors[i] = std::clamp(std::sqrt(before * after[i]) / after[i], 1e-4f, 1e4f);
        moved = std::max(moved, std::abs(factors[i] - 1));
      }
      divide(graph, p.places, factors);
      multiply_inputs(graph, layers[p.second], factors);
    }
    if (moved < 1e-3f) break;
  }
  graph.compact();
  return static_cast<int>(pairs.size());
}

int relu_for_relu6(Graph& graph) {
  int count = 0;
  for (NodeId id : graph.order()) {
    Node& n = graph[id];
    if (n.op->name != "Clip" || !n.op->domain.empty() || n.inputs.size() != 3 || !n.inputs[1] || !n.inputs[2]) continue;
    const Value &low = graph[n.inputs[1]], &high = graph[n.inputs[2]];
    if (!low.is_constant() || !high.is_constant() || low.dtype != DType::kF32 || low.constant.get(0) != 0 || !(high.constant.get(0) > 0)) continue;
    n.op = &find_op("Relu");
    n.inputs.resize(1);
    n.attributes.clear();
    ++count;
  }
  return count;
}

int smooth(Graph& graph, const std::vector<Layer>& layers, const std::vector<std::vector<float>>& largest, double alpha) {
  std::set<int32_t> done;
  int count = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    const ValueId v = graph[layers[i].node].inputs[0];
    if (layers[i].op == "Conv" || largest[i].empty() || !done.insert(v.index).second) continue;
    const std::vector<const Layer*> readers = only_readers(graph, layers, v);
    const auto places = places_of(graph, layers, graph.consumers(), v);
    if (readers.empty() || places.empty()) continue;
    std::vector<float> weights(largest[i].size(), 0), factors(largest[i].size(), 1);
    for (const Layer* l : readers) {
      const std::vector<float> m = input_magnitudes(graph, *l);
      for (size_t c = 0; c < weights.size(); ++c) weights[c] = std::max(weights[c], m[c]);
    }
    for (size_t c = 0; c < factors.size(); ++c)
      if (largest[i][c] > 0 && weights[c] > 0)
        factors[c] = std::clamp(static_cast<float>(std::pow(static_cast<double>(largest[i][c]), alpha) / std::pow(static_cast<double>(weights[c]), 1 - alpha)), 1e-4f, 1e4f);
    divide(graph, places, factors);
    for (const Layer* l : readers) multiply_inputs(graph, *l, factors), ++count;
  }
  return count;
}

void add_to_bias(Graph& graph, const Layer& layer, const std::vector<float>& change) {
  Node& n = graph[layer.node];
  const auto rows = static_cast<int64_t>(change.size());
  if (layer.op == "MatMul") {
    // The Add of a constant that follows alone, or a new one.
    const ValueId y = n.outputs[0];
    const auto consumers = graph.consumers();
    const auto& readers = consumers[static_cast<size_t>(y.index)];
    if (readers.size() == 1 && graph[readers[0]].op->name == "Add" && graph[readers[0]].op->domain.empty()) {
      Node& add = graph[readers[0]];
      for (size_t i = 0; i < 2; ++i) {
        if (!vector_constant(graph, add.inputs[i]) || graph[add.inputs[i]].constant.size() != rows) continue;
        Tensor t = graph[add.inputs[i]].constant.clone();
        for (int64_t r = 0; r < rows; ++r) t.data<float>()[r] += change[static_cast<size_t>(r)];
        const std::string name = graph[add.inputs[i]].name;
        const ValueId value = graph.add_constant(t, name);
        graph[readers[0]].inputs[i] = value;
        return;
      }
    }
    const ValueId value = graph.add_constant(Tensor::of_f32({rows}, change), name_of_node(graph, layer.node) + "_bias");
    const ValueId sum = graph.add("Add", {y, value});
    const NodeId add = graph[sum].producer;
    graph.replace_uses(y, sum);
    graph[add].inputs[0] = y;
    return;
  }
  if (n.inputs.size() > 2 && n.inputs[2]) {
    if (!graph[n.inputs[2]].is_constant() || graph[n.inputs[2]].constant.size() != rows) return;
    Tensor t = graph[n.inputs[2]].constant.clone();
    for (int64_t r = 0; r < rows; ++r) t.data<float>()[r] += change[static_cast<size_t>(r)];
    const std::string name = graph[n.inputs[2]].name;
    const ValueId value = graph.add_constant(t.reshaped({rows}), name);
    graph[layer.node].inputs[2] = value;
    return;
  }
  const ValueId value = graph.add_constant(Tensor::of_f32({rows}, change), name_of_node(graph, layer.node) + "_bias");
  if (n.inputs.size() < 3) graph[layer.node].inputs.resize(2), graph[layer.node].inputs.push_back(value);
  else graph[layer.node].inputs[2] = value;
}

}  // namespace lathe
