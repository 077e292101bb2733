#include "graph/graph.h"

#include <gtest/gtest.h>

#include "graph/op.h"

namespace lathe {
namespace {

TEST(Graph, VerifyAcceptsASmallNetworkAndPrintsIt) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1, 8});
  ValueId y = g.add("Relu", {x}, {}, "y");
  g.outputs = {y};
  verify(g);
  EXPECT_EQ(print(g), "input %x: f32[1, 8]\n%y: f32[1, 8] = Relu(%x)\noutput %y\n");
}

TEST(Graph, VerifyFindsACycle) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1});
  ValueId a = g.add("Add", {x, x});
  ValueId b = g.add("Add", {a, x});
  g[g[a].producer].inputs[1] = b;
  g.outputs = {b};
  EXPECT_THROW(verify(g), Error);
}

TEST(Graph, VerifyFindsUnknownAttributesAndMissingInputs) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1});
  ValueId y = g.add("Relu", {x});
  g.outputs = {y};
  g[g[y].producer].attributes["alpha"] = 1.0f;
  EXPECT_THROW(verify(g), Error);
  g[g[y].producer].attributes.clear();
  g[g[y].producer].inputs.clear();
  EXPECT_THROW(verify(g), Error);
}

TEST(Graph, CompactDropsWhatNothingMentions) {
  Graph g;
  ValueId x = g.add_input("x", DType::kF32, Shape{1});
  ValueId dead = g.add("Neg", {x});
  ValueId y = g.add("Relu", {x});
  g.outputs = {y};
  g.remove(g[dead].producer);
  g.compact();
  EXPECT_EQ(g.node_count(), 1u);
  EXPECT_EQ(g.value_count(), 2u);
  verify(g);
}

TEST(Ops, UnknownOperatorsAreNamed) {
  try {
    find_op("NoSuchThing");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(e.what()).find("NoSuchThing"), std::string::npos);
  }
}

}  // namespace
}  // namespace lathe
