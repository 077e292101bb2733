#include "quantize/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "graph/op.h"
#include "quantize/qdq.h"
#include "quantize/rounding.h"
#include "quantize/scales.h"
#include "transform/passes.h"

namespace lathe {
namespace {

// What the integer kernels multiply: int8 by tensor or channel, zero in the middle.
bool integer_weights(const QuantizerSpec& spec) {
  return (spec.family == Family::kUniform || spec.family == Family::kPowerOfTwo) && spec.symmetric && spec.granularity != Granularity::kGroup;
}

std::vector<LayerScheme> schemes_of(const std::vector<Layer>& layers, const Scheme& scheme) {
  std::vector<LayerScheme> result;
  for (size_t i = 0; i < layers.size(); ++i) {
    if (auto found = scheme.layers.find(layers[i].name); found != scheme.layers.end()) {
      result.push_back(found->second);
      continue;
    }
    LayerScheme s{scheme.weights, false};
    const bool first = i == 0, last = i + 1 == layers.size();
    if ((first && scheme.skip_first) || (last && scheme.skip_last)) s.weights.reset();
    else if ((first || last) && s.weights && scheme.first_and_last) s.weights = scheme.first_and_last;
    // One scale for all channels of a depthwise convolution loses most of them: by channel always, unless tensors were asked for.
    if (layers[i].depthwise && s.weights && s.weights->granularity == Granularity::kGroup) s.weights->granularity = Granularity::kChannel;
    s.on_codes = s.weights && scheme.activations && integer_weights(*s.weights);
    result.push_back(s);
  }
  return result;
}

// What a layer's rows are multiplied by, in places drawn from the samples: [places, columns] for each of its groups.
using LayerInputs = std::vector<Tensor>;

int64_t places_of(const Layer& layer, size_t samples) {
  const int64_t wanted = layer.depthwise ? 512 : std::max<int64_t>(2048, 2 * std::min<int64_t>(layer.columns, 4096));
  return std::max<int64_t>(4, wanted / static_cast<int64_t>(std::max<size_t>(samples, 1)));
}

int64_t input_bytes(const Layer& layer, size_t samples) {
  return places_of(layer, samples) * static_cast<int64_t>(samples) * layer.columns * layer.group * static_cast<int64_t>(sizeof(float));
}

std::vector<LayerInputs> inputs_of(const Graph& g, const std::vector<Layer>& layers, const Samples& samples, uint64_t seed,
                                   const std::function<void(double)>& progress) {
  std::vector<ValueId> values;
  values.reserve(layers.size());
  for (const Layer& l : layers) values.push_back(g[l.node].inputs[0]);
  std::vector<std::vector<std::vector<Tensor>>> parts(layers.size());  // by layer and group
  visit_values(g, samples, values, [&](size_t sample, size_t i, const Tensor& x) {
    parts[i].resize(static_cast<size_t>(layers[i].group));
    for (int64_t group = 0; group < layers[i].group; ++group)
      parts[i][static_cast<size_t>(group)].push_back(gather_inputs(g, layers[i], x, group, places_of(layers[i], samples.count), seed + sample));
  }, progress);
  std::vector<LayerInputs> result(layers.size());
  for (size_t i = 0; i < layers.size(); ++i)
    for (auto& group : parts[i]) {
      int64_t rows = 0;
      for (const Tensor& t : group) rows += t.dim(0);
      Tensor all(DType::kF32, {rows, layers[i].columns});
      char* to = all.data<char>();
      for (const Tensor& t : group) {
        std::memcpy(to, t.raw(), t.bytes());
        to += t.bytes();
      }
      group.clear();
      result[i].push_back(std::move(all));
    }
  return result;
}

Tensor rows_between(const Tensor& rows, int64_t begin, int64_t end) {
  Tensor part(DType::kF32, {end - begin, rows.dim(1)});
  std::memcpy(part.raw(), rows.data<float>() + begin * rows.dim(1), part.bytes());
  return part;
}

// Codes for one layer, group by group. `errors`: E[((W − W̃)·x)²] and E[(W·x)²], summed over rows.
QuantizedTensor round_layer(const QuantizerSpec& spec, Rounding rounding, const Layer& layer, const Tensor& rows, const LayerInputs& inputs, uint64_t seed,
                            Products& products, double* error, double* energy) {
  const bool neighbours = spec.family == Family::kUniform || spec.family == Family::kPowerOfTwo;
  // A tensor's one grid is fitted to all groups together.
  const bool apart = layer.group > 1 && spec.granularity != Granularity::kTensor;
  const bool learns = (layer.group == 1 || apart) && (rounding == Rounding::kGptq || (rounding == Rounding::kAdaRound && neighbours));
  QuantizedTensor whole = learns ? QuantizedTensor{spec, Tensor(code_type(spec), rows.shape()), {}} : quantize(spec, rows);
  const int64_t per_group = rows.dim(0) / layer.group;
  const Tensor near_rows = learns ? Tensor() : whole.dequantize();
  *error = *energy = 0;
  for (int64_t group = 0; group < layer.group; ++group) {
    const Tensor part = layer.group == 1 ? rows : rows_between(rows, group * per_group, (group + 1) * per_group);
    const Tensor moments = second_moments(inputs[static_cast<size_t>(group)], products);
    Tensor near;
    if (learns) {
      const QuantizedTensor q = rounding == Rounding::kGptq ? gptq(spec, part, moments, products) : adaround(spec, part, moments, products, {.seed = seed});
      std::memcpy(whole.codes.data<char>() + group * per_group * rows.dim(1), q.codes.raw(), q.codes.bytes());
      whole.grids.insert(whole.grids.end(), q.grids.begin(), q.grids.end());
      near = q.dequantize();
    } else {
      near = rows_between(near_rows, group * per_group, (group + 1) * per_group);
    }
    Tensor zero(DType::kF32, part.shape());
    std::memset(zero.raw(), 0, zero.bytes());
    *error += output_error(near, part, moments, products);
    *energy += output_error(zero, part, moments, products);
  }
  return whole;
}

// Means over whole pictures have an integer operator in other runtimes under their own name alone.
void name_global_pools(Graph& g) {
  for (NodeId id : g.order()) {
    Node& n = g[id];
    if (n.op->name != "ReduceMean" || !n.op->domain.empty() || n.inputs.size() < 2 || !n.inputs[1] || !g[n.inputs[1]].is_constant()) continue;
    const auto& shape = g[n.inputs[0]].shape;
    std::vector<int64_t> axes = g[n.inputs[1]].constant.to_i64();
    if (!shape || shape->size() != 4 || axes.size() != 2) continue;
    for (int64_t& a : axes) a = normalize_axis(a, 4);
    std::sort(axes.begin(), axes.end());
    if (axes[0] != 2 || axes[1] != 3) continue;
    const bool keeps = n.get_int("keepdims") != 0;
    n.op = &find_op("GlobalAveragePool");
    n.inputs.resize(1);
    n.attributes.clear();
    if (keeps) continue;
    const ValueId y = n.outputs[0];
    const ValueId flat = g.add("Flatten", {y}, {{"axis", int64_t{1}}});
    const NodeId flatten = g[flat].producer;
    const std::string name = g[y].name;
    g.replace_uses(y, flat);
    g[flatten].inputs[0] = y;
    g[y].name = g.fresh_name(name);
    g[flat].name = name;
  }
  infer_shapes(g);
}

// A bias is kept in i32, in units of input scale · weight scale. A channel of next to no weights beside a bias (its batch norm did
// that) gets a larger scale, so that the bias fits: its weights are lost in the bias's last digits anyway.
void make_room_for_bias(const Graph& g, const Layer& layer, const Grid& input, const Tensor& rows, QuantizedTensor* q) {
  const Node& n = g[layer.node];
  if (n.inputs.size() < 3 || !n.inputs[2] || !g[n.inputs[2]].is_constant() || g[n.inputs[2]].constant.size() != layer.rows) return;
  const Tensor& bias = g[n.inputs[2]].constant;
  std::vector<Grid> grids = q->grids;
  bool changed = false;
  for (int64_t r = 0; r < layer.rows; ++r) {
    Grid& grid = grids[grids.size() == 1 ? 0 : static_cast<size_t>(r)];
    const double least = std::abs(bias.get(r)) / (static_cast<double>(input.scale) * static_cast<double>(1 << 30));
    if (static_cast<double>(grid.scale) < least) grid.scale = static_cast<float>(least * 1.001), changed = true;
  }
  if (!changed) return;
  QuantizedTensor wider = with_grids(q->spec, rows, grids);
  for (int64_t r = 0; r < layer.rows; ++r)  // the other rows keep the codes that were chosen for them
    if (q->grids.size() > 1 && q->grids[static_cast<size_t>(r)].scale == grids[static_cast<size_t>(r)].scale)
      std::memcpy(wider.codes.data<char>() + r * layer.columns, q->codes.data<char>() + r * layer.columns, static_cast<size_t>(layer.columns));
  *q = std::move(wider);
}

// By output channel: the mean of what the exact weights make of the inputs, less that of the codes.
std::vector<float> mean_error(const Layer& layer, const Tensor& exact, const Tensor& near, const LayerInputs& inputs, const Grid* input_grid) {
  std::vector<float> change(static_cast<size_t>(layer.rows), 0);
  const int64_t per_group = layer.rows / layer.group, columns = layer.columns;
  for (int64_t group = 0; group < layer.group; ++group) {
    const Tensor& x = inputs[static_cast<size_t>(group)];
    std::vector<double> mean(static_cast<size_t>(columns), 0), rounded(static_cast<size_t>(columns), 0);
    for (int64_t p = 0; p < x.dim(0); ++p)
      for (int64_t c = 0; c < columns; ++c) {
        const float value = x.data<float>()[p * columns + c];
        mean[static_cast<size_t>(c)] += static_cast<double>(value);
        rounded[static_cast<size_t>(c)] += static_cast<double>(input_grid ? input_grid->fake(value) : value);
      }
    for (int64_t r = group * per_group; r < (group + 1) * per_group; ++r) {
      double sum = 0;
      for (int64_t c = 0; c < columns; ++c)
        sum += static_cast<double>(exact.data<float>()[r * columns + c]) * mean[static_cast<size_t>(c)] -
               static_cast<double>(near.data<float>()[r * columns + c]) * rounded[static_cast<size_t>(c)];
      change[static_cast<size_t>(r)] = static_cast<float>(sum / static_cast<double>(std::max<int64_t>(x.dim(0), 1)));
    }
  }
  return change;
}

// Factors of input channels by AWQ, for every value that only such layers read and whose maker can take them.
int scale_for_weights(Graph& g, const std::vector<Layer>& layers, const std::vector<LayerScheme>& schemes, const Samples& samples, uint64_t seed,
                      Products& products, const std::function<void(double)>& progress) {
  int count = 0;
  std::set<int32_t> done;
  for (size_t i = 0; i < layers.size(); ++i) {
    progress(static_cast<double>(i) / static_cast<double>(layers.size()));
    const ValueId v = g[layers[i].node].inputs[0];
    if (layers[i].op == "Conv" || !schemes[i].weights || !done.insert(v.index).second || !divisible(g, v)) continue;
    const std::vector<const Layer*> readers = only_readers(g, layers, v);
    if (readers.empty()) continue;
    int64_t rows = 0;
    for (const Layer* l : readers) rows += l->rows;
    Tensor together(DType::kF32, {rows, layers[i].columns});
    char* to = together.data<char>();
    for (const Layer* l : readers) {
      const Tensor part = weight_rows(g, *l);
      std::memcpy(to, part.raw(), part.bytes());
      to += part.bytes();
    }
    const Tensor x = inputs_of(g, {layers[i]}, samples, seed, nullptr)[0][0];
    std::vector<float> magnitude(static_cast<size_t>(layers[i].columns), 0);
    for (int64_t p = 0; p < x.dim(0); ++p)
      for (int64_t c = 0; c < x.dim(1); ++c) magnitude[static_cast<size_t>(c)] += std::abs(x.data<float>()[p * x.dim(1) + c]) / static_cast<float>(x.dim(0));
    const AwqScales scales = awq_scales(*schemes[i].weights, together, second_moments(x, products), magnitude, products);
    if (scales.alpha == 0) continue;
    divide_channels(g, v, scales.factors);
    for (const Layer* l : readers) multiply_inputs(g, *l, scales.factors), ++count;
  }
  return count;
}

}  // namespace

Quantized quantize_network(const Graph& graph, const Scheme& scheme, const Samples& samples, const QuantizeProgress& progress) {
  Quantized result{graph, {}, {}, 0};
  Graph& g = result.graph;
  auto stage = [&](const char* name) {
    return [&progress, name](double part) {
      if (progress) progress(name, part);
    };
  };
  name_global_pools(g);
  if (layers_of(g).empty()) fail(ErrorKind::kModel, "there is nothing to quantize: no convolution or matrix product with constant f32 weights");
  if (scheme.relu) result.notices.push_back(fmt::format("{} Relu6 became Relu", relu_for_relu6(g)));
  if (scheme.equalize) {
    const int pairs = equalize(g);
    result.notices.push_back(fmt::format("equalized {} pairs of layers", pairs));
  }
  const std::vector<Layer> layers = layers_of(g);
  for (const auto& chosen : scheme.layers)
    if (std::none_of(layers.begin(), layers.end(), [&](const Layer& l) { return l.name == chosen.first; })) fail(ErrorKind::kUsage, "the network has no layer \"{}\"", chosen.first);
  const std::vector<LayerScheme> schemes = schemes_of(layers, scheme);
  const bool on_codes_somewhere = std::any_of(schemes.begin(), schemes.end(), [](const LayerScheme& s) { return s.on_codes; });
  const bool wants_inputs = scheme.rounding != Rounding::kNearest || scheme.correct_bias;
  if (samples.count == 0 && (on_codes_somewhere || wants_inputs || scheme.smooth))
    fail(ErrorKind::kUsage, "scheme \"{}\" needs samples: ranges of activations, rounding that learns, bias and smooth are found by running the network", scheme.text());
  Products products;
  if (scheme.smooth) {
    std::vector<ValueId> values;
    std::vector<std::vector<float>> largest(layers.size());
    values.reserve(layers.size());
    for (const Layer& l : layers) values.push_back(g[l.node].inputs[0]);
    visit_values(g, samples, values, [&](size_t, size_t i, const Tensor& x) {
      if (layers[i].op == "Conv") return;
      largest[i].resize(static_cast<size_t>(layers[i].columns), 0);
      for (int64_t k = 0; k < x.size(); ++k) {
        float& m = largest[i][static_cast<size_t>(k % layers[i].columns)];
        m = std::max(m, std::abs(x.data<float>()[k]));
      }
    }, stage("smoothing"));
    const int count = smooth(g, layers, largest, *scheme.smooth);
    result.notices.push_back(fmt::format("smoothed the inputs of {} layers", count));
  }
  if (scheme.rounding == Rounding::kAwq) {
    const int count = scale_for_weights(g, layers, schemes, samples, scheme.seed, products, stage("scaling channels"));
    result.notices.push_back(fmt::format("scaled the input channels of {} layers", count));
  }

  std::set<int32_t> product_nodes;
  for (size_t i = 0; i < layers.size(); ++i)
    if (schemes[i].on_codes) product_nodes.insert(layers[i].node.index);
  QdqSites sites;
  std::map<int32_t, Grid> grids;
  if (!product_nodes.empty()) {
    sites = find_sites(g, product_nodes, scheme.everywhere);
    const ActivationScheme activations = scheme.activations.value_or(ActivationScheme{});
    const auto seen = observe(g, samples, sites.values, stage("calibrating"));
    for (size_t i = 0; i < sites.values.size(); ++i) {
      if (seen[i].not_finite() > 0) fail(ErrorKind::kModel, "{} holds numbers that are not finite for the samples: such a network cannot be quantized", g[sites.values[i]].name);
      const Range range = range_of(seen[i], activations.range, activations.bits, activations.symmetric);
      grids[sites.values[i].index] = uniform_grid(range.least, range.most, activations.bits, activations.symmetric);
    }
  }
  std::map<int32_t, QuantizedTensor> on_codes;
  int simulated = 0;
  // Layers in parts: what is kept of their inputs fits into memory.
  constexpr int64_t kMostBytes = int64_t{512} << 20;
  const Graph exact = g;  // biases and weights change below
  std::vector<LayerInputs> inputs;
  size_t inputs_begin = 0;
  for (size_t i = 0; i < layers.size(); ++i) {
    LayerResult r{layers[i], schemes[i], 0, std::numeric_limits<double>::quiet_NaN(), layers[i].rows * layers[i].columns * 32};
    if (schemes[i].weights) {
      const Tensor rows = weight_rows(g, layers[i]);
      if (wants_inputs && i >= inputs_begin + inputs.size()) {
        inputs_begin = i;
        std::vector<Layer> part;
        int64_t bytes = 0;
        for (size_t k = i; k < layers.size() && (part.empty() || bytes + input_bytes(layers[k], samples.count) <= kMostBytes); ++k) {
          part.push_back(layers[k]);
          bytes += input_bytes(layers[k], samples.count);
        }
        inputs = inputs_of(exact, part, samples, scheme.seed, stage("reading inputs"));
      }
      QuantizedTensor q;
      if (wants_inputs) {
        double error = 0, energy = 0;
        q = round_layer(*schemes[i].weights, scheme.rounding, layers[i], rows, inputs[i - inputs_begin], scheme.seed, products, &error, &energy);
        r.output_noise = energy > 0 ? error / energy : 0;
      } else {
        q = quantize(*schemes[i].weights, rows);
      }
      const Grid* input_grid = nullptr;
      if (schemes[i].on_codes) {
        input_grid = sites.grid_of(grids, g[layers[i].node].inputs[0]);
        if (input_grid) make_room_for_bias(g, layers[i], *input_grid, rows, &q);
      }
      const Tensor near = q.dequantize();
      r.weight_noise = relative_noise(near, rows);
      r.storage_bits = q.storage_bits();
      if (scheme.correct_bias) {
        add_to_bias(g, layers[i], mean_error(layers[i], rows, near, inputs[i - inputs_begin], input_grid));
      }
      if (schemes[i].on_codes) on_codes.emplace(layers[i].node.index, std::move(q));
      else if (!store_weights(g, layers[i], q)) ++simulated;
    }
    result.layers.push_back(std::move(r));
    stage("rounding weights")(static_cast<double>(i + 1) / static_cast<double>(layers.size()));
  }
  if (!product_nodes.empty()) insert_qdq(g, sites, grids, layers, on_codes);
  else infer_shapes(g), g.compact();
  if (simulated > 0)
    result.notices.push_back(fmt::format("the weights of {} layers have more than 16 levels or groups of them, which standard ONNX has no form for: they are stored as f32", simulated));
  result.values_on_codes = static_cast<int64_t>(sites.values.size());
  verify(g);
  return result;
}

}  // namespace lathe
