// The search beats random search on the recorded tables of benchmarks/search, at 40 trials over 5 seeds.
#include "../../benchmarks/search/recorded.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "optimize/reproduce.h"
#include "optimize/technique.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

TEST(RecordedTrials, SearchBeatsRandom) {
  int tables = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(LATHE_SOURCE) / "benchmarks/search")) {
    if (entry.path().extension() != ".tsv") continue;
    ++tables;
    RecordedTable table = read_table(entry.path().string());
    size_t whole = 1;
    for (const Dimension& d : table.dimensions) whole *= static_cast<size_t>(d.choices);
    EXPECT_EQ(table.points.size(), whole) << "every point of the space is there";
    Comparison c = compare(table, 40, 5);
    EXPECT_GE(c.ratio, 1.15) << entry.path();
    EXPECT_LE(c.guided, c.all);
  }
  EXPECT_GE(tables, 2);
}

// What a technique says of its reproduction is there, and every check says what it stands for.
TEST(Reproductions, AreWhole) {
  for (const Technique& t : catalogue()) {
    EXPECT_FALSE(t.applies_to.empty()) << t.key;
    EXPECT_FALSE(t.source.empty()) << t.key;
    if (!t.reproduction.empty()) {
      EXPECT_EQ(find_reproduction(t.reproduction).key, t.reproduction);
    }
  }
  for (const Reproduction& r : reproductions()) {
    EXPECT_TRUE(fs::exists(fs::path(LATHE_SOURCE) / "reproduce" / r.key / "README.md")) << r.key;
    for (const Check& c : r.checks) EXPECT_FALSE(c.name.empty() || c.published.empty() || c.passes.empty() || !c.run) << r.key;
  }
  EXPECT_THROW(find_reproduction("none"), Error);
}

}  // namespace
}  // namespace lathe
