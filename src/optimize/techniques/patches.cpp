// The first stage of a network in strips of rows that stay in a near cache, where that measures faster here (planner/patch_steps.h).
#include "graph/op.h"
#include "optimize/technique.h"
#include "transform/passes.h"
#include "transform/patches.h"

namespace lathe::techniques {
namespace {

// Strips of the engine's maps follow from its own passes: here counts alone that a part of the network works at places of a map.
std::string obstacle_to_patches(const Candidate& c, const TechniqueContext& context) {
  if (!c.options.fuse) return "maps lie channels last in fused networks alone";
  Graph g = c.graph;
  try {
    specialize(g, context.input_shapes);
    clean_up(g);
    const PatchPrefix prefix = patchable_prefix(g);
    if (!prefix.ends.empty() && prefix.ends.back() > 1) return "";
    return prefix.stop.empty() ? "no two operators on maps stand at the beginning" : prefix.stop;
  } catch (const Error& e) {
    return e.what();
  }
}

}  // namespace

Technique patches() {
  Technique t;
  t.key = "patches";
  t.summary = "the first layers on strips of rows that stay in the cache, where that is faster on this machine";
  t.source = "Lin et al. 2021, MCUNetV2: Memory-efficient patch-based inference for tiny deep learning";
  t.applies_to = "convolutional networks on pictures";
  t.reproduction = "mcunetv2";
  t.stage = Technique::Stage::kPlan;
  t.exact = true;
  t.conflicts = {"unfused"};
  t.obstacle = obstacle_to_patches;
  t.apply = [](Candidate& c, const Settings&, const TechniqueContext&) { c.options.patches = true; };
  return t;
}

}  // namespace lathe::techniques
