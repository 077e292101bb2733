// Memory and products of patch-based execution: the published figures, and search against exhaustion.
#include "planner/patches.h"

#include <gtest/gtest.h>

#include <chrono>

#include "../transform/patch_networks.h"
#include "models/models.h"
#include "planner/plan.h"
#include "runtime/session.h"
#include "transform/passes.h"

namespace lathe {
namespace {

Graph cleaned(Graph g) {
  specialize(g, default_input_shapes(g));
  clean_up(g);
  return g;
}

// MobileNetV2 without what follows its last block: the table counts the blocks alone.
Graph mobilenet_blocks(double width, int64_t size) {
  BuildOptions options;
  options.width = width;
  options.input = {3, size, size};
  Graph g = cleaned(build_model("mobilenet_v2", options));
  for (size_t i = 0; i < g.node_count(); ++i)
    if (g[NodeId{static_cast<int32_t>(i)}].scope.starts_with("stages.6.") && g[NodeId{static_cast<int32_t>(i)}].op->name == "Conv") g.outputs = {g[NodeId{static_cast<int32_t>(i)}].outputs[0]};
  remove_dead(g);
  g.compact();
  return g;
}

// How many nodes lie before the end of block `block`, 0 being the stem: the block's last convolution, or the sum after it.
size_t nodes_until(const Graph& g, const PatchPrefix& prefix, int block) {
  const auto block_of = [&](const Node& n) {
    int stage = 0, index = 0;
    if (std::sscanf(n.scope.c_str(), "stages.%d.blocks.%d", &stage, &index) != 2) return 0;
    constexpr int kBefore[] = {1, 2, 4, 7, 11, 14, 17};
    return kBefore[stage] + index;
  };
  size_t last = 0;
  for (size_t end : prefix.ends)
    if (block_of(g[prefix.whole.nodes[end - 1].node]) <= block) last = end;
  return last;
}

struct Row {
  double width;
  int64_t size;
  int block;
  int64_t grid, bytes;
  double overhead;  // of the blocks, as printed
};

// Page 2.3. Bytes are whole numbers here; the page prints KiB.
TEST(PatchMemory, MobileNetV2AsPublished) {
  const std::vector<Row> rows = {
      {0.35, 144, 2, 2, 91632, 0.013},   {0.35, 144, 2, 3, 82944, 0.027},   {0.35, 144, 2, 4, 82944, 0.041},   {0.35, 144, 3, 2, 100704, 0.052},
      {0.35, 144, 3, 3, 77760, 0.107},   {0.35, 144, 3, 4, 77760, 0.166},   {0.35, 144, 4, 2, 105072, 0.076},  {0.35, 144, 4, 3, 62112, 0.158},
      {0.35, 144, 4, 4, 48288, 0.248},   {0.35, 144, 5, 2, 125616, 0.187},  {0.35, 144, 5, 3, 95520, 0.409},   {0.35, 144, 5, 4, 77856, 0.66},
      {1.0, 224, 3, 2, 564480, 0.020},   {1.0, 224, 3, 3, 564480, 0.041},   {1.0, 224, 3, 4, 564480, 0.063},   {1.0, 224, 4, 2, 468704, 0.032},
      {1.0, 224, 4, 3, 287936, 0.065},   {1.0, 224, 4, 4, 200704, 0.100},   {1.0, 224, 5, 2, 528992, 0.085},   {1.0, 224, 5, 3, 385472, 0.179},
      {1.0, 224, 5, 4, 244928, 0.283}};
  for (auto [width, size, whole] : {std::tuple{0.35, int64_t{144}, int64_t{311040}}, {1.0, int64_t{224}, int64_t{1505280}}}) {
    const Graph g = mobilenet_blocks(width, size);
    const PatchSearch search(g);
    EXPECT_EQ(peak_bytes(g), whole);
    EXPECT_EQ(search.layer_by_layer().bytes(), whole);
    for (const Row& r : rows) {
      if (r.width != width) continue;
      const PatchChoice c = search.evaluate(nodes_until(g, search.prefix(), r.block), {.rows = r.grid, .columns = r.grid});
      const std::string text = fmt::format("width {}, block {}, {}x{}", r.width, r.block, r.grid, r.grid);
      EXPECT_EQ(c.bytes(), r.bytes) << text;
      EXPECT_NEAR(c.overhead(), r.overhead, r.overhead == 0.66 ? 0.005 : 0.0005 + 1e-9) << text;
      // The operators that are really there count as many.
      Graph patched = g;
      run_in_patches(patched, search.prefix().stage(c.nodes), c.grid);
      EXPECT_EQ(count_macs(patched), c.macs()) << text;
      EXPECT_EQ(count_macs(g), c.network_macs) << text;
    }
  }
}

TEST(PatchMemory, TheSearchFindsTheTablesMinimum) {
  const Graph g = mobilenet_blocks(0.35, 144);
  const PatchSearch search(g);
  const auto best = search.least_memory({.most_rows = 4, .most_columns = 4, .cache = false});
  ASSERT_TRUE(best.has_value());
  EXPECT_LE(best->bytes(), 48288);
  const auto within = search.fewest_macs({.cache = false, .most_bytes = 64 << 10});
  ASSERT_TRUE(within.has_value());
  EXPECT_LE(within->bytes(), 64 << 10);
  EXPECT_LE(within->overhead(), 0.159);  // block 4 in 3×3
  EXPECT_FALSE(search.least_memory({.most_bytes = 1000}).has_value());
  EXPECT_EQ(search.fewest_macs()->macs(), search.layer_by_layer().macs());  // without limits nothing is done twice
}

// Which positions of a map an output tile needs, one by one.
std::vector<std::vector<bool>> marked(const Graph& g, const PatchStage& stage, int axis, int64_t begin, int64_t end) {
  const PatchTiling numbers(g, stage, axis, 1, false);
  std::vector<std::vector<bool>> needed;
  for (size_t m = 0; m < numbers.maps().size(); ++m) needed.emplace_back(static_cast<size_t>(numbers.extent(m)), false);
  for (int64_t p = begin; p < end; ++p) needed[numbers.index(stage.exit)][static_cast<size_t>(p)] = true;
  for (size_t i = stage.nodes.size(); i-- > 0;) {
    const PatchNode& n = stage.nodes[i];
    for (ValueId out : g[n.node].outputs) {
      const std::vector<bool>& from = needed[numbers.index(out)];
      for (size_t k = 0; k < n.inputs.size(); ++k) {
        if (n.inputs[k] == PatchInput::kFixed) continue;
        std::vector<bool>& to = needed[numbers.index(g[n.node].inputs[k])];
        const PatchWindow w = n.inputs[k] == PatchInput::kSame ? PatchWindow{} : n.window[static_cast<size_t>(axis)];
        for (size_t p = 0; p < from.size(); ++p)
          for (int64_t tap = 0; from[p] && tap < w.reach(); ++tap) {  // those between dilated taps are read with them
            const int64_t at = static_cast<int64_t>(p) * w.stride - w.before + tap;
            if (at >= 0 && at < static_cast<int64_t>(to.size())) to[static_cast<size_t>(at)] = true;
          }
      }
    }
  }
  return needed;
}

TEST(PatchRanges, AreTheHullOfWhatIsNeededPositionByPosition) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const Graph g = testing::PatchNetwork(seed, false).make(5);
    const PatchPrefix prefix = patchable_prefix(g);
    const PatchStage stage = prefix.stage(prefix.ends.back());
    // A tile in the padding of a Pad holds one position that it does not need.
    const bool pads = std::any_of(stage.nodes.begin(), stage.nodes.end(), [](const PatchNode& n) { return n.pads; });
    for (int axis : {0, 1})
      for (int64_t tiles = 1; tiles <= 4; ++tiles) {
        const PatchTiling tiling(g, stage, axis, tiles, false);
        const size_t exit = tiling.index(stage.exit);
        for (int64_t t = 0; t < tiling.tiles(); ++t) {
          const auto needed = marked(g, stage, axis, tiling.made(t, exit).begin, tiling.made(t, exit).end);
          for (size_t m = 0; m < needed.size(); ++m) {
            const auto first = std::find(needed[m].begin(), needed[m].end(), true);
            const auto last = std::find(needed[m].rbegin(), needed[m].rend(), true);
            const PatchRange expected = first == needed[m].end() ? PatchRange{} : PatchRange{first - needed[m].begin(), static_cast<int64_t>(needed[m].rend() - last)};
            const PatchRange got = tiling.held(t, m);
            if (pads) {
              EXPECT_TRUE(expected.size() == 0 || (got.begin <= expected.begin && got.end >= expected.end));
            } else {
              EXPECT_EQ(got, expected) << "network " << seed << ", axis " << axis << ", tile " << t << " of " << tiles << ", map " << m;
            }
          }
        }
      }
  }
}

TEST(PatchRanges, WithCacheNothingIsMadeTwice) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const Graph g = testing::PatchNetwork(seed, false).make(5);
    const PatchPrefix prefix = patchable_prefix(g);
    const PatchStage stage = prefix.stage(prefix.ends.back());
    const PatchTiling tiling(g, stage, 0, 4, true), whole(g, stage, 0, 1, false);
    for (size_t m = 1; m < tiling.maps().size(); ++m) {
      int64_t end = 0, made = 0;
      for (int64_t t = 0; t < tiling.tiles(); ++t) {
        const PatchRange range = tiling.made(t, m);
        if (range.size() <= 0) continue;
        EXPECT_GE(range.begin, end);
        end = range.end;
        made += range.size();
      }
      EXPECT_LE(made, whole.made(0, m).size());
    }
    EXPECT_LE(PatchSearch(g).evaluate(prefix.ends.back(), {.rows = 4, .cache_rows = true}).overhead(), 0);
  }
}

// Bytes and products of a choice, worked out from the tiles' operators as they stand in the patched graph.
TEST(PatchMemory, ProductsAreThoseOfTheWrittenTiles) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const Graph g = testing::PatchNetwork(seed, false).make(4);
    const PatchSearch search(g);
    for (const PatchGrid& grid : {PatchGrid{2, 3}, PatchGrid{3, 2, true, false}, PatchGrid{2, 2, false, true}, PatchGrid{3, 3, true, true}}) {
      Graph patched = g;
      const PatchStage stage = search.prefix().stage(search.prefix().ends.back());
      run_in_patches(patched, stage, grid);
      EXPECT_EQ(count_macs(patched), search.evaluate(stage.nodes.size(), grid).macs()) << seed;
    }
  }
}

// Ten networks: the search is exhaustion in order, so what is compared is each choice weighed alone.
TEST(PatchSearch, EqualsWeighingEveryChoiceAlone) {
  for (const char* name : {"mobilenet_v1", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "resnet18", "resnet34", "resnet50", "efficientnet_b0", "tiny_vgg", "lenet5"}) {
    const Graph g = cleaned(build_model(name));
    const auto begin = std::chrono::steady_clock::now();
    const PatchSearch search(g);
    const auto best = search.least_memory({.most_overhead = 0.15});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    EXPECT_LT(seconds, 1) << name;
    ASSERT_TRUE(best.has_value());
    PatchChoice least = search.layer_by_layer();
    for (size_t nodes : search.prefix().ends)
      for (int64_t rows = 1; rows <= 5; ++rows)
        for (int64_t columns = 1; columns <= 5; ++columns)
          for (int policy = 0; policy < 4; ++policy) {
            const Shape& exit = *g[search.prefix().stage(nodes).exit].shape;
            if (rows > exit[2] || columns > exit[3] || rows * columns == 1) continue;
            const PatchChoice c = search.evaluate(nodes, {rows, columns, (policy & 1) != 0, (policy & 2) != 0});
            if (c.overhead() <= 0.15 && std::pair(c.bytes(), c.macs()) < std::pair(least.bytes(), least.macs())) least = c;
          }
    EXPECT_EQ(best->bytes(), least.bytes()) << name;
    EXPECT_EQ(best->macs(), least.macs()) << name;
    // The chosen policy is beaten by none in both.
    const std::vector<PatchChoice> front = search.pareto_front({.most_overhead = 0.15});
    EXPECT_TRUE(std::any_of(front.begin(), front.end(), [&](const PatchChoice& c) { return c.bytes() == best->bytes() && c.macs() == best->macs(); })) << name;
    search.for_each({.most_overhead = 0.15}, [&](const PatchChoice& c) {
      EXPECT_FALSE((c.bytes() < best->bytes() && c.macs() <= best->macs()) || (c.bytes() <= best->bytes() && c.macs() < best->macs())) << name;
    });
  }
}

}  // namespace
}  // namespace lathe
