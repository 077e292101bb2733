// Quantization written into the network as standard ONNX: QuantizeLinear and DequantizeLinear around what is to be computed on
// codes, codes with DequantizeLinear instead of weights. Any runtime can run it; lathe's planner makes integer operators
// of it (transform/integer.cpp).
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "quantize/layers.h"
#include "quantize/quantizer.h"

namespace lathe {

// Where codes stand. A node computes on codes when it is a product that was chosen, or when all that it reads are
// codes and what it makes reaches such a product. Functions of one element and limits between two stay inside: Conv → Relu
// has no codes between.
struct QdqSites {
  std::vector<ValueId> values;          // rounded, in the order of the graph
  std::set<int32_t> nodes;              // node indices that compute on codes
  std::map<int32_t, int32_t> same_as;   // value index → of the value whose grid it must have, as its elements are those
  // Of a value, among grids by value index of the sites; null: it is not rounded.
  const Grid* grid_of(const std::map<int32_t, Grid>& grids, ValueId value) const;
};
// `products`: node indices of layers that compute on codes. With `everywhere` also layer norms, attention as exporters spell it, and sums with
// constants compute on codes, and what products make is rounded too, up to the network's end: what a device without floating point wants. Biases that are sums behind a
// product stay part of it.
QdqSites find_sites(const Graph& graph, const std::set<int32_t>& products, bool everywhere = false);

// The layer's weights become codes and what makes numbers of them (transform/quantize/weight_forms.h): DequantizeLinear of 8 or 4 bits, by group
// where grids are; up to 16 levels by codebooks in as few bits. Other quantizers have no standard form: their weights become the f32 numbers
// that the codes stand for. Says whether there was a form.
bool store_weights(Graph& graph, const Layer& layer, const QuantizedTensor& weights);

// What a grid makes of `value`: QuantizeLinear and DequantizeLinear behind it, which nobody reads yet. Returns the last's output. Zero
// points that are in `zeros`, if it is given, are used again: by whether codes are signed, and the point.
using ZeroPoints = std::map<std::pair<bool, int64_t>, ValueId>;
ValueId add_rounding(Graph& graph, ValueId value, const Grid& grid, ZeroPoints* zeros = nullptr);

struct QdqOptions {
  bool fake_weights = false;  // QuantizeLinear of float weights, as training wants them, instead of codes
  bool float_biases = false;  // of layers with codes up to ±63 stay in f32: the planner then has finer units for them (transform/integer.cpp)
};
// Puts the pairs in. `grids`: by value index of the sites; `weights`: by node index of the products, per tensor or channel, 8 bits, symmetric.
// Biases become i32 in units of input scale · weight scale.
void insert_qdq(Graph& graph, const QdqSites& sites, const std::map<int32_t, Grid>& grids, const std::vector<Layer>& layers,
                const std::map<int32_t, QuantizedTensor>& weights, const QdqOptions& options = {});

}  // namespace lathe
