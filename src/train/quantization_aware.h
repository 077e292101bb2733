// Quantization in training: a Graph learns with weights and activations rounded as they will be
// (ai.lathe::FakeQuantize), and becomes standard ONNX that computes on few bits.
//
//   const QatScheme scheme = parse_qat_scheme("w:int4 a:uint4");
//   insert_fake_quantize(graph, scheme, samples);    // places as in post-training quantization,
//   scales that are parameters
//   ... train ...
//   finish_quantization(graph);                      // QDQ, codebooks, signs: what the engine has
//   integer, coded and XNOR kernels for
//
// Methods: Rokh et al. 2023, "A Comprehensive Survey on Model Quantization for Deep Neural Networks
// in Image Classification", sections on training.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "quantize/layers.h"
#include "quantize/quantizer.h"

namespace lathe {

struct QatScheme {
  std::optional<QuantizerSpec> weights;  // uniform and symmetric, TWN, TTQ, binary or DoReFa, of
                                         // channels or tensors; nothing: float
  bool learned =
      true;  // scales of uniform weights are learned (LSQ); false: max|w| / high in each step
  std::string weight_estimator;  // empty: clipped for learned scales, else identity
  std::string activations;       // uniform (LSQ), pact, hwgq, dorefa, sign; empty: float
  int activation_bits = 8;
  std::string activation_estimator;  // empty: clipped
  bool same_ends =
      false;        // first and last layer as the others; else int8 weights and uint8 activations
  double pull = 0;  // λ of what pulls weights to their levels
  std::string text() const;
};

// Words apart by spaces: w:int2 …
// int8|twn|ttq|binary|dorefa:BITS[,channel|tensor][,lsq|minmax][,ESTIMATOR], a:uint2 …
// uint8[,lsq]|pact:BITS|hwgq:BITS| dorefa:BITS|sign[,ESTIMATOR], ends:same, pull=λ; ESTIMATOR is
// identity, clipped, polynomial or annealed. Throws kUsage.
QatScheme parse_qat_scheme(std::string_view text);

// Puts the operators in; learned numbers become parameters of the graph. First scales are of least
// squared error: of weights as they are, of activations over `samples` (batches are best) with
// batch norms as in training where `batch_statistics`. Returns what the user should know. Throws
// kUsage without layers, and without samples where activations are rounded.
std::vector<std::string> insert_fake_quantize(Graph& graph, const QatScheme& scheme,
                                              const Samples& samples, bool batch_statistics = true);

// Of a graph with FakeQuantize, trained and stripped of what training alone uses. Batch norms
// behind convolutions fold into scales, exactly: codes stay (where a factor is negative they change
// sides). Uniform, ternary, binary and DoReFa weights before rounded activations are i4 and i8
// codes, activations u8 codes, which a Clip limits where they have fewer bits; weights of few
// levels otherwise are codebooks; signs of activations Where(x ≥ 0, 1, −1).
std::vector<std::string> finish_quantization(Graph& graph);

}  // namespace lathe
