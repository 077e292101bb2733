#include "quantize/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/op.h"
#include "quantize/qdq.h"
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

double relative_noise(const Tensor& near, const Tensor& exact) {
  double error = 0, square = 0;
  for (int64_t i = 0; i < exact.size(); ++i) {
    const double e = static_cast<double>(near.data<float>()[i]) - static_cast<double>(exact.data<float>()[i]);
    error += e * e;
    square += static_cast<double>(exact.data<float>()[i]) * static_cast<double>(exact.data<float>()[i]);
  }
  return square > 0 ? error / square : 0;
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
  std::vector<Layer> layers = layers_of(g);
  if (layers.empty()) fail(ErrorKind::kModel, "there is nothing to quantize: no convolution or matrix product with constant f32 weights");
  for (const auto& [name, unused] : scheme.layers)
    if (std::none_of(layers.begin(), layers.end(), [&](const Layer& l) { return l.name == name; })) fail(ErrorKind::kUsage, "the network has no layer \"{}\"", name);
  const std::vector<LayerScheme> schemes = schemes_of(layers, scheme);
  const bool wants_samples = std::any_of(schemes.begin(), schemes.end(), [](const LayerScheme& s) { return s.on_codes; });
  if (wants_samples && samples.count == 0) fail(ErrorKind::kUsage, "a scheme with activations needs samples to find their ranges");

  std::set<int32_t> products;
  for (size_t i = 0; i < layers.size(); ++i)
    if (schemes[i].on_codes) products.insert(layers[i].node.index);
  QdqSites sites;
  std::map<int32_t, Grid> grids;
  if (!products.empty()) {
    sites = find_sites(g, products);
    const ActivationScheme activations = scheme.activations.value_or(ActivationScheme{});
    const auto seen = observe(g, samples, sites.values, stage("calibrating"));
    for (size_t i = 0; i < sites.values.size(); ++i) {
      if (seen[i].not_finite() > 0) fail(ErrorKind::kModel, "{} holds numbers that are not finite for the samples: such a network cannot be quantized", g[sites.values[i]].name);
      const Range range = range_of(seen[i], activations.range, activations.bits, activations.symmetric);
      grids[sites.values[i].index] = uniform_grid(range.least, range.most, activations.bits, activations.symmetric);
    }
  }
  std::map<int32_t, QuantizedTensor> on_codes;
  for (size_t i = 0; i < layers.size(); ++i) {
    LayerResult r{layers[i], schemes[i], 0, std::numeric_limits<double>::quiet_NaN(), layers[i].rows * layers[i].columns * 32};
    if (schemes[i].weights) {
      const Tensor rows = weight_rows(g, layers[i]);
      QuantizedTensor q = quantize(*schemes[i].weights, rows);
      r.weight_noise = relative_noise(q.dequantize(), rows);
      r.storage_bits = q.storage_bits();
      if (schemes[i].on_codes) on_codes.emplace(layers[i].node.index, std::move(q));
      else if (q.spec.family == Family::kUniform || q.spec.family == Family::kPowerOfTwo) store_codes(g, layers[i], q);
      else set_weight_rows(g, layers[i], q.dequantize());
    }
    result.layers.push_back(std::move(r));
    stage("rounding weights")(static_cast<double>(i + 1) / static_cast<double>(layers.size()));
  }
  if (!products.empty()) insert_qdq(g, sites, grids, layers, on_codes);
  else infer_shapes(g), g.compact();
  result.values_on_codes = static_cast<int64_t>(sites.values.size());
  verify(g);
  return result;
}

}  // namespace lathe
