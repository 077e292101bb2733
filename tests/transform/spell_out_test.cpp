// Operators that are products, moves or maxima in disguise give the same without their reference kernels.
#include <gtest/gtest.h>

#include "graph/op.h"
#include "planner/plan.h"
#include "runtime/load.h"
#include "runtime/session.h"

namespace lathe {
namespace {

// Runs both ways; whether a step of `op` is left.
bool left_over(const Graph& graph, std::string_view op) {
  PlanOptions slow;
  slow.reference = true;
  slow.fuse = false;
  Session fast(make_plan(graph)), plain(make_plan(graph, slow));
  const std::vector<Tensor> inputs = random_inputs(fast.plan().graph, 5);
  const Tensor &a = fast.run(inputs)[0], &b = plain.run(inputs)[0];
  EXPECT_EQ(a.shape(), b.shape());
  for (int64_t k = 0; k < a.size(); ++k) {
    if (std::abs(a.get(k) - b.get(k)) <= 1e-5 * std::max(1.0, std::abs(b.get(k)))) continue;
    ADD_FAILURE() << "element " << k << " is " << a.get(k) << ", expected " << b.get(k);
    break;
  }
  bool found = false;
  for (const Step& s : fast.plan().steps) found |= fast.plan().graph[s.node].op->name == op;
  return found;
}

Graph einsum(const std::string& equation, const std::vector<Shape>& shapes, bool constant = false) {
  Graph g;
  std::vector<ValueId> inputs;
  for (size_t i = 0; i < shapes.size(); ++i)
    inputs.push_back(i == 1 && constant ? g.add_constant(random_tensor(DType::kF32, shapes[i], 9)) : g.add_input("x" + std::to_string(i), DType::kF32, shapes[i]));
  g.outputs = {g.add("Einsum", inputs, {{"equation", equation}})};
  return g;
}

TEST(SpellOut, EinsumsBecomeProducts) {
  const std::tuple<const char*, Shape, Shape> cases[] = {
      {"ij,jk->ik", {3, 5}, {5, 7}},         {"bhid,bhjd->bhij", {2, 3, 4, 8}, {2, 3, 5, 8}}, {"bhij,bhjd->bihd", {2, 3, 4, 5}, {2, 3, 5, 8}},
      {"nkctv,kvw->nctw", {2, 3, 4, 5, 6}, {3, 6, 7}}, {"...i,ij->...j", {2, 3, 5}, {5, 4}},      {"bnd,hdk->bhnk", {2, 5, 6}, {3, 6, 4}},
      {"i,j->ij", {4}, {6}},                 {"ab,cb", {3, 4}, {5, 4}},                       {"bic,bjc->bji", {2, 3, 4}, {2, 5, 4}}};
  for (const auto& [equation, a, b] : cases)
    for (bool constant : {false, true}) EXPECT_FALSE(left_over(einsum(equation, {a, b}, constant), "Einsum")) << equation;
  EXPECT_FALSE(left_over(einsum("abcd->dacb", {{2, 3, 4, 5}}), "Einsum"));
}

// What is no product stays, and is right.
TEST(SpellOut, OtherEinsumsStay) {
  EXPECT_TRUE(left_over(einsum("ii->i", {{4, 4}}), "Einsum"));
  EXPECT_TRUE(left_over(einsum("ij->i", {{4, 3}}), "Einsum"));
  EXPECT_TRUE(left_over(einsum("ij,ij->ij", {{4, 3}, {4, 3}}), "Einsum"));
  EXPECT_TRUE(left_over(einsum("ij,k->i", {{4, 3}, {5}}), "Einsum"));
  EXPECT_TRUE(left_over(einsum("ij,jk,kl->il", {{2, 3}, {3, 4}, {4, 5}}), "Einsum"));
  EXPECT_TRUE(left_over(einsum("...ij,...jk->...ik", {{2, 3, 4}, {1, 4, 5}}), "Einsum"));
}

TEST(SpellOut, SpaceAndDepthAreMoves) {
  for (const char* mode : {"DCR", "CRD"}) {
    Graph g;
    g.outputs = {g.add("DepthToSpace", {g.add_input("x", DType::kF32, Shape{2, 36, 3, 5})}, {{"blocksize", int64_t{3}}, {"mode", std::string(mode)}})};
    EXPECT_FALSE(left_over(g, "DepthToSpace"));
  }
  Graph g;
  g.outputs = {g.add("SpaceToDepth", {g.add_input("x", DType::kF32, Shape{2, 3, 8, 12})}, {{"blocksize", int64_t{4}}})};
  EXPECT_FALSE(left_over(g, "SpaceToDepth"));
}

TEST(SpellOut, TheGreatestOfAPlane) {
  for (const Shape& shape : {Shape{2, 5, 7, 3}, Shape{2, 5, 7}, Shape{1, 4, 3, 2, 5}}) {
    Graph g;
    g.outputs = {g.add("GlobalMaxPool", {g.add_input("x", DType::kF32, shape)})};
    EXPECT_FALSE(left_over(g, "GlobalMaxPool"));
  }
}

}  // namespace
}  // namespace lathe
