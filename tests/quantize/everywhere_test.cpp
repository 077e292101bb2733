// A vision transformer whose every value is codes: nothing is left in float between its input and its answer.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "graph/op.h"
#include "kernels/reference/reference.h"
#include "models/models.h"
#include "networks.h"
#include "planner/plan.h"
#include "quantize/quantize.h"
#include "transform/passes.h"
#include "transform/quantized.h"

namespace lathe {
namespace {

Graph network(const std::string& name, std::map<std::string, std::string> more) {
  Graph g = build_model(name, {.classes = 10, .input = {3, 32, 32}, .depths = {2}, .widths = {96}, .more = std::move(more), .seed = 3});
  // Fresh weights are small: attention would be even, and norms and biases all alike.
  uint64_t seed = 1;
  for (ValueId v : parameters_of(g).trained) {
    Tensor& t = g[v].constant;
    const bool norm = g[v].name.find("norm") != std::string::npos && g[v].name.ends_with("weight");
    const Tensor noise = random_weights(t.shape(), ++seed, t.rank() == 1 ? 0.1f : 1 / std::sqrt(static_cast<float>(t.rank() == 2 ? t.dim(0) : t.size() / t.dim(0))), norm ? 1 : 0);
    t = noise;
  }
  return g;
}

Samples pictures(size_t count) {
  return {count, [](size_t i) { return std::vector<Tensor>{random_weights({1, 3, 32, 32}, 900 + i, 1)}; }};
}

TEST(Everywhere, NothingOfATransformerStaysInFloat) {
  for (const auto& [name, more] : {std::pair<std::string, std::map<std::string, std::string>>{"deit_tiny", {{"patch", "8"}, {"heads", "3"}}}, {"mcuformer", {{"patch", "8"}, {"heads", "2"}, {"rank", "0.5"}, {"relative", "0"}}}}) {
    Graph g = network(name, more);
    clean_up(g);
    const Quantized q = quantize_network(g, parse_scheme("w:int8 a:int8 everywhere"), pictures(8));
    const Graph whole = lowered(q.graph, {.input_shapes = {{"input", {1, 3, 32, 32}}}, .tokens = true});
    verify(whole);
    std::set<std::string> floats;
    int borders = 0, transposes = 0;
    for (NodeId id : whole.order()) {
      const Node& n = whole[id];
      const bool reads = std::any_of(n.inputs.begin(), n.inputs.end(), [&](ValueId v) { return v && !whole[v].is_constant() && whole[v].dtype == DType::kF32; });
      const bool makes = whole[n.outputs[0]].dtype == DType::kF32;
      transposes += n.op->name == "Transpose";
      if (n.op->name == "QuantizeLinear" || n.op->name == "DequantizeLinear") ++borders;
      else if (reads) floats.insert(n.op->name);
      else if (makes && n.outputs[0] != whole.outputs[0]) floats.insert(n.op->name + " makes f32");
    }
    EXPECT_TRUE(floats.empty()) << name << ": " << ::testing::PrintToString(floats);
    EXPECT_EQ(borders, 1) << name;  // of the input; the last product makes numbers
    EXPECT_EQ(transposes, 1) << name;  // of the picture: heads are read and written where they lie
    double dot = 0, a2 = 0, b2 = 0, same = 0, total = 0;
    for (uint64_t i = 0; i < 6; ++i) {
      const Tensor x = random_weights({1, 3, 32, 32}, 300 + i, 1);
      Graph sized = g;
      specialize(sized, {{"input", {1, 3, 32, 32}}});
      const Tensor a = reference::run_graph(sized, {x})[0], b = reference::run_graph(whole, {x})[0];
      int64_t best_a = 0, best_b = 0;
      for (int64_t k = 0; k < a.size(); ++k) {
        dot += a.get(k) * b.get(k);
        a2 += a.get(k) * a.get(k);
        b2 += b.get(k) * b.get(k);
        if (a.get(k) > a.get(best_a)) best_a = k;
        if (b.get(k) > b.get(best_b)) best_b = k;
      }
      same += best_a == best_b;
      ++total;
    }
    EXPECT_GT(dot / std::sqrt(a2 * b2), 0.98) << name;
    EXPECT_GE(same, total - 1) << name;
  }
}

TEST(Everywhere, ByDefaultNormsStayInFloat) {
  Graph g = network("deit_tiny", {{"patch", "8"}, {"heads", "3"}});
  clean_up(g);
  const Quantized few = quantize_network(g, parse_scheme("w:int8 a:int8"), pictures(2)), all = quantize_network(g, parse_scheme("w:int8 a:int8 everywhere"), pictures(2));
  EXPECT_LT(few.values_on_codes, all.values_on_codes);
  EXPECT_EQ(parse_scheme("w:int8 a:int8 everywhere").text(), parse_scheme(parse_scheme("w:int8 a:int8 everywhere").text()).text());
}

}  // namespace
}  // namespace lathe
