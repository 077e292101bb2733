// A whole network, quantized by a scheme, with samples of the user's.
//
//   Scheme scheme = parse_scheme("w:int8 a:uint8,entropy equalize bias");
//   Quantized q = quantize_network(graph, scheme, samples);
//   export_onnx(q.graph, "int8.onnx");
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quantize/calibrate.h"
#include "quantize/quantizer.h"

namespace lathe {

// How codes of weights are chosen, given their grids.
enum class Rounding { kNearest, kAdaRound, kGptq, kAwq };

struct ActivationScheme {
  int bits = 8;
  bool symmetric = false;
  RangeSpec range;
  bool operator==(const ActivationScheme&) const = default;
};

struct LayerScheme {
  std::optional<QuantizerSpec> weights;  // nothing: the layer stays in float
  bool on_codes = false;                 // also its activations: it computes on codes
  bool operator==(const LayerScheme&) const = default;
};

struct Scheme {
  std::optional<QuantizerSpec> weights = QuantizerSpec{};
  std::optional<ActivationScheme> activations;  // nothing: weights only
  Rounding rounding = Rounding::kNearest;
  bool relu = false;          // Relu6 becomes Relu: equalization goes through Relu alone; it changes the network
  bool equalize = false;      // cross-layer equalization before
  bool correct_bias = false;  // after
  bool everywhere = false;    // norms, attention and sums with constants compute on codes too (qdq.h)
  std::optional<double> smooth;  // SmoothQuant's α
  std::optional<QuantizerSpec> first_and_last;  // their weights, where they are to be finer than the others
  bool skip_first = false, skip_last = false;   // stay in float
  std::map<std::string, LayerScheme> layers = {};  // by layer name, instead of the above
  uint64_t seed = 1;
  std::string text() const;
};

// Words apart by spaces: w:QUANTIZER[,nearest|adaround|gptq|awq], a:uint8|int8[,CALIBRATION], relu, equalize, bias, everywhere, smooth[=0.5], ends:QUANTIZER (of the first and last layer; int8 where the others have fewer bits) or ends:same,
// float:first, float:last, seed=N. Throws kUsage.
Scheme parse_scheme(std::string_view text);
// What most networks want: int8 weights by channel with errors that make each other good, uint8 activations in ranges of least squared
// error, bias correction.
Scheme default_scheme();

struct LayerResult {
  Layer layer;
  LayerScheme scheme;
  double weight_noise = 0;  // squared error of the weights over their squares
  double output_noise = 0;  // the same of what the layer makes, for the inputs that the float network gives it; NaN: not measured
  int64_t storage_bits = 0;
};

struct Quantized {
  Graph graph;
  std::vector<LayerResult> layers;
  std::vector<std::string> notices;
  int64_t values_on_codes = 0;
};

using QuantizeProgress = std::function<void(const std::string& stage, double part)>;

// `graph` as clean_up() leaves it. Samples are needed for activations and for rounding that learns; throws kUsage without.
Quantized quantize_network(const Graph& graph, const Scheme& scheme, const Samples& samples, const QuantizeProgress& progress = nullptr);

}  // namespace lathe
