#include "factorize/low_rank.h"

#include <Eigen/Cholesky>
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/text.h"
#include "graph/op.h"
#include "quantize/matrix.h"
#include "transform/passes.h"

namespace lathe {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr int64_t kPlaces = 256;      // of a sample's map that weighting sees
constexpr double kRegularization = 1e-6;  // of the mean of the moments' diagonal: inputs that no sample had keep a little weight

Matrix matrix_of(const Tensor& t) {
  Matrix m(t.dim(0), t.dim(1));
  for (int64_t i = 0; i < t.size(); ++i) m.data()[i] = static_cast<double>(t.data<float>()[i]);
  return m;
}

Tensor tensor_of(const Matrix& m) {
  Tensor t(DType::kF32, {m.rows(), m.cols()});
  for (int64_t i = 0; i < t.size(); ++i) t.data<float>()[i] = static_cast<float>(m.data()[i]);
  return t;
}

int64_t rank_by(const LowRankOptions& o, const std::vector<double>& squares) {
  const auto most = static_cast<int64_t>(squares.size());
  if (o.ratio > 0) return std::clamp<int64_t>(static_cast<int64_t>(static_cast<double>(most) * o.ratio + 1e-9), 1, most);
  const double all = std::accumulate(squares.begin(), squares.end(), 0.0);
  double kept = 0;
  for (int64_t r = 0; r < most; ++r)
    if ((kept += squares[static_cast<size_t>(r)]) >= o.energy * all) return r + 1;
  return most;
}

// Two nodes in the place of the layer's, which goes.
void replace(Graph& g, const Layer& layer, const LowRank& w) {
  const Node n = g[layer.node];
  const std::string name = n.name.empty() ? g[n.outputs[0]].name : n.name;
  const int64_t rank = w.inner.dim(0);
  const auto constant = [&](const Tensor& t, const char* suffix) { return g.add_constant(t, g.fresh_name(g[n.inputs[1]].name + suffix)); };
  const auto node = [&](std::string_view op, std::vector<ValueId> inputs, Attributes attributes, const char* suffix) {
    const ValueId y = g.add(op, std::move(inputs), std::move(attributes), name + suffix);
    g[g[y].producer].scope = n.scope;
    return y;
  };
  std::vector<ValueId> outer_inputs(2);
  ValueId y;
  if (n.op->name == "Conv") {
    Shape inner = g[n.inputs[1]].constant.shape();
    const size_t axes = inner.size() - 2;
    inner[0] = rank;
    Attributes point{{"kernel_shape", std::vector<int64_t>(axes, 1)}};
    const ValueId x = node("Conv", {n.inputs[0], constant(w.inner.reshaped(inner), "_inner")}, n.attributes, "_inner");
    Shape outer(axes + 2, 1);
    outer[0] = layer.rows, outer[1] = rank;
    outer_inputs = {x, constant(w.outer.reshaped(outer), "_outer")};
    if (n.inputs.size() > 2 && n.inputs[2]) outer_inputs.push_back(n.inputs[2]);
    y = node("Conv", outer_inputs, point, "_outer");
  } else {
    const ValueId x = node("MatMul", {n.inputs[0], constant(transpose(w.inner, {1, 0}), "_inner")}, {}, "_inner");
    const ValueId outer = constant(transpose(w.outer, {1, 0}), "_outer");
    if (n.op->name == "Gemm" && n.inputs.size() > 2 && n.inputs[2]) y = node("Gemm", {x, outer, n.inputs[2]}, {}, "_outer");
    else y = node("MatMul", {x, outer}, {}, "_outer");
  }
  g.replace_uses(n.outputs[0], y);
  const std::string output = g[n.outputs[0]].name;
  g.remove(layer.node);
  g[n.outputs[0]].name = g.fresh_name(output + "_whole");
  g[y].name = output;
}

std::map<int32_t, Tensor> moments_of(const Graph& g, const std::vector<Layer>& layers, const LowRankOptions& o, const Samples& samples, const std::function<void(const std::string&, double)>& progress) {
  std::vector<ValueId> values;
  values.reserve(layers.size());
  for (const Layer& l : layers) values.push_back(g[l.node].inputs[0]);
  const Samples seen = samples.first(o.samples);
  Products products;
  std::map<int32_t, Tensor> sums;
  visit_values(
      g, seen, values,
      [&](size_t sample, size_t i, const Tensor& x) {
        const Tensor one = second_moments(gather_inputs(g, layers[i], x, 0, kPlaces, o.seed + sample), products);
        Tensor& sum = sums[layers[i].node.index];
        if (!sum.defined()) {
          sum = one.clone();
          return;
        }
        for (int64_t k = 0; k < one.size(); ++k) sum.data<float>()[k] += one.data<float>()[k];
      },
      [&](double part) {
        if (progress) progress("inputs of all layers", part);
      });
  return sums;
}

}  // namespace

double LowRank::left_out() const {
  const double all = std::accumulate(squares.begin(), squares.end(), 0.0);
  const double rest = std::accumulate(squares.begin() + static_cast<std::ptrdiff_t>(inner.dim(0)), squares.end(), 0.0);
  return all > 0 ? rest / all : 0;
}

int64_t Factorized::weights() const {
  return std::accumulate(layers.begin(), layers.end(), int64_t{0}, [](int64_t sum, const LowRankLayer& l) { return sum + l.weights; });
}
int64_t Factorized::weights_before() const {
  return std::accumulate(layers.begin(), layers.end(), int64_t{0}, [](int64_t sum, const LowRankLayer& l) { return sum + l.weights_before; });
}

LowRank low_rank(const Tensor& w, const Tensor& moments, const std::function<int64_t(const std::vector<double>&)>& rank_of) {
  Matrix m = matrix_of(w);
  if (!m.allFinite()) fail(ErrorKind::kInput, "weights that are no numbers have no singular values");
  Matrix root;
  if (moments.defined()) {
    Matrix whole = matrix_of(moments);
    if (!whole.allFinite()) fail(ErrorKind::kInput, "inputs that are no numbers weight nothing");
    const double mean = whole.trace() / static_cast<double>(whole.rows());
    whole.diagonal().array() += (mean > 0 ? mean : 1) * kRegularization;
    const Eigen::LLT<Matrix> factor(whole);
    if (factor.info() != Eigen::Success) fail(ErrorKind::kInput, "the inputs' moments are no positive definite matrix");
    root = factor.matrixL();
    m = (m * root).eval();
  }
  const Eigen::BDCSVD<Matrix> svd(m, Eigen::ComputeThinU | Eigen::ComputeThinV);
  LowRank result;
  for (Eigen::Index i = 0; i < svd.singularValues().size(); ++i) result.squares.push_back(svd.singularValues()[i] * svd.singularValues()[i]);
  const int64_t rank = rank_of(result.squares);
  require(rank >= 1 && rank <= static_cast<int64_t>(result.squares.size()), "a rank of {}", rank);
  // Both factors carry the root of the singular values, so that neither has numbers of another order than the other: rounding finds them alike.
  const Eigen::VectorXd scale = svd.singularValues().head(rank).cwiseSqrt();
  Matrix outer = svd.matrixU().leftCols(rank) * scale.asDiagonal();
  Matrix inner = scale.asDiagonal() * svd.matrixV().leftCols(rank).transpose();
  if (moments.defined()) inner = root.triangularView<Eigen::Lower>().transpose().solve(inner.transpose().eval()).transpose().eval();
  result.outer = tensor_of(outer);
  result.inner = tensor_of(inner);
  return result;
}

Factorized factorize(const Graph& graph, const LowRankOptions& o, const Samples& samples, const std::function<void(const std::string&, double)>& progress) {
  if (!(o.ratio >= 0 && o.ratio <= 1) || !(o.energy >= 0 && o.energy <= 1) || (o.ratio > 0) == (o.energy > 0))
    fail(ErrorKind::kUsage, "a rank of {} and a share of {}: one of them, above 0 and at most 1", o.ratio, o.energy);
  if (o.weighted && samples.count == 0) fail(ErrorKind::kUsage, "weighting by inputs needs samples");
  Factorized f;
  f.graph = graph;
  const std::vector<Layer> all = layers_of(graph);
  std::vector<Layer> chosen;
  for (const std::string& pattern : o.only)
    if (std::none_of(all.begin(), all.end(), [&](const Layer& l) { return matches(pattern, l.name); })) fail(ErrorKind::kUsage, "no layer is named like {}", pattern);
  for (const Layer& l : all) {
    LowRankLayer one{.layer = l, .weights = l.rows * l.columns, .weights_before = l.rows * l.columns, .macs = l.macs};
    if (!o.only.empty() && std::none_of(o.only.begin(), o.only.end(), [&](const std::string& p) { return matches(p, l.name); })) one.why = "not named";
    else if (l.group > 1) one.why = "grouped";
    else if (std::min(l.rows, l.columns) < 2) one.why = "a vector";
    else chosen.push_back(l);
    f.layers.push_back(std::move(one));
  }
  std::map<int32_t, Tensor> moments;
  if (o.weighted) moments = moments_of(graph, chosen, o, samples, progress);
  for (size_t i = 0, done = 0; i < f.layers.size(); ++i) {
    LowRankLayer& one = f.layers[i];
    const Layer& l = one.layer;
    if (!one.why.empty()) continue;
    if (progress) progress(l.name, static_cast<double>(done++) / static_cast<double>(chosen.size()));
    const auto found = moments.find(l.node.index);
    const LowRank w = low_rank(weight_rows(graph, l), found == moments.end() ? Tensor() : found->second, [&](const std::vector<double>& squares) { return rank_by(o, squares); });
    const int64_t rank = w.inner.dim(0), weights = rank * (l.rows + l.columns);
    if (weights >= one.weights_before && !o.enlarge) {
      one.why = fmt::format("rank {} makes {} weights of {}", rank, weights, one.weights_before);
      continue;
    }
    one.rank = rank;
    one.left_out = w.left_out();
    one.weights = weights;
    one.macs = l.macs / (l.rows * l.columns) * weights;
    replace(f.graph, l, w);
  }
  f.graph.compact();
  infer_shapes(f.graph);
  verify(f.graph);
  return f;
}

}  // namespace lathe
