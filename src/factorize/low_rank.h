// Products of low rank: a convolution or matrix product with weights W becomes two, W ≈ B·A, by the singular value decomposition. What
// comes out is standard ONNX.
//
//   Factorized f = factorize(graph, {.ratio = 0.5}, samples);
//   export_onnx(f.graph, "low_rank.onnx");
//
// Of all matrices of rank r, the r largest singular values and their vectors leave the least squared error: the sum of the squares of the
// others (Eckart and Young 1936). Weighted, it is the squared error of what the layer makes of the samples' inputs that is least: with
// M = xᵀx / rows and its Cholesky factor M = L·Lᵀ, the decomposition is that of W·L (Yuan et al. 2023, ASVD and Wang et al. 2024,
// SVD-LLM, section 3: "truncation-aware data whitening").
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quantize/layers.h"

namespace lathe {

struct LowRankOptions {
  double ratio = 0;    // the rank of a layer is ⌊min(rows, columns)·ratio⌋, at least 1; 0: by `energy`
  double energy = 0;   // the least rank that leaves at most 1 − energy of the sum of squares
  bool weighted = false;  // needs samples
  std::vector<std::string> only = {};  // patterns of names of layers (core/text.h); empty: all
  bool enlarge = false;   // also layers that two factors make larger
  size_t samples = 64;    // that the weighting sees, at most
  uint64_t seed = 1;      // of the places of a map that it sees
};

struct LowRankLayer {
  Layer layer;
  int64_t rank = 0;              // 0: the layer stays as it is
  std::string why = {};          // it does
  double left_out = 0;           // of the sum of squares (weighted: of the output's), 0 … 1
  int64_t weights = 0, weights_before = 0;
  int64_t macs = 0;              // of one inference now; 0 where shapes are open
};

struct Factorized {
  Graph graph;
  std::vector<LowRankLayer> layers;
  int64_t weights() const;         // of all layers
  int64_t weights_before() const;
};

// `graph` as clean_up() leaves it. A convolution becomes one with the window and `rank` outputs, and one of 1×1; grouped ones stay.
// Throws kUsage for a ratio or energy outside 0 … 1, patterns that no layer has, and weighting without samples.
Factorized factorize(const Graph& graph, const LowRankOptions& options, const Samples& samples = {}, const std::function<void(const std::string& layer, double part)>& progress = nullptr);

// W [rows, columns] ≈ outer · inner, the inner matrix with orthonormal rows in the metric of `moments` ([columns, columns], or undefined:
// the usual one).
struct LowRank {
  Tensor outer, inner;           // [rows, rank], [rank, columns]
  std::vector<double> squares;   // of all singular values, falling
  double left_out() const;       // of their sum
};
// `rank_of` is told the squares of the singular values and says how many stay. Throws kInput for weights that are no numbers.
LowRank low_rank(const Tensor& w, const Tensor& moments, const std::function<int64_t(const std::vector<double>& squares)>& rank_of);

}  // namespace lathe
