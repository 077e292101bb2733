// Reproductions of firmware are whole, and those that take a moment pass.
#include "targets/reproductions.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "models/models.h"
#include "planner/token_memory.h"
#include "runtime/load.h"
#include "transform/passes.h"

namespace lathe {
namespace {

TEST(FirmwareReproductions, AreWhole) {
  for (const Reproduction& r : firmware_reproductions()) {
    EXPECT_TRUE(std::filesystem::exists(std::filesystem::path(LATHE_SOURCE) / "reproduce" / r.key / "README.md")) << r.key;
    EXPECT_FALSE(r.title.empty() || r.source.empty()) << r.key;
    for (const Check& c : r.checks) EXPECT_FALSE(c.name.empty() || c.published.empty() || c.passes.empty() || !c.run) << r.key;
  }
  EXPECT_GT(find_reproduction("mcunetv2", firmware_reproductions()).checks.size(), find_reproduction("mcunetv2").checks.size());
}

TEST(FirmwareReproductions, FiguresAreThePublished) {
  int run = 0;
  ReproduceContext quick;
  quick.quick = true;
  for (const Check& c : find_reproduction("mcuformer", firmware_reproductions()).checks) {
    if (!c.name.starts_with("memory") && !c.name.starts_with("ranks") && !c.name.starts_with("low rank")) continue;
    const CheckResult got = c.run(quick);
    EXPECT_EQ(got.state, CheckResult::State::kPassed) << c.name << ": " << got.measured;
    ++run;
  }
  EXPECT_EQ(run, 4);
}

TEST(TokenMemory, SizesAreFoundInTransformersAlone) {
  const auto sizes = [](const char* name, const BuildOptions& o) {
    Graph g = build_model(name, o);
    specialize(g, default_input_shapes(g));
    clean_up(g);
    return transformer_sizes(g);
  };
  const auto deit = sizes("deit_tiny", {});
  ASSERT_TRUE(deit);
  EXPECT_EQ(deit->tokens, 197);
  EXPECT_EQ(deit->width, 192);
  EXPECT_EQ(deit->heads, 3);
  EXPECT_EQ(deit->head, 64);
  EXPECT_EQ(deit->hidden, 768);
  EXPECT_EQ(deit->patch, 16);
  EXPECT_FALSE(sizes("resnet18", {}));
  EXPECT_FALSE(sizes("mobilenet_v2", {}));
  // Less with every technique.
  const int64_t all = token_memory(*deit).bytes;
  EXPECT_GT(token_memory(*deit, {.decompose = false}).bytes, all);
  EXPECT_GT(token_memory(*deit, {.integrate = false}).bytes, all);
  EXPECT_GT(token_memory(*deit, {.overwrite = false}).bytes, all);
}

}  // namespace
}  // namespace lathe
