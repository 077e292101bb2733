#include "targets/mcu/tiles.h"

#include <algorithm>
#include <limits>
#include <map>

#include "planner/patches.h"

namespace lathe::mcu {
namespace {

// The estimate knows no scratch and no alignment: so many of its best for each stage are tried in earnest.
constexpr size_t kTried = 8;

template <class Key>
void sort_by(std::vector<PatchChoice>& choices, const Key& key) {
  std::stable_sort(choices.begin(), choices.end(), [&](const PatchChoice& a, const PatchChoice& b) { return key(a) < key(b); });
}

class Search {
 public:
  Search(Graph graph, const ProgramOptions& options, const TileWish& wish)
      : options_(options), wish_(wish), network_(plan_network(std::move(graph), options)), patches_(network_.graph, {.resident_input = !options.outside_input}, codes(), true) {}

  TiledProgram run() {
    std::vector<PatchChoice> choices = candidates();
    if (choices.empty()) refuse();
    // The estimate's order holds among the grids of one stage; between stages, what is written in place shifts it.
    if (wish_.most_arena)
      sort_by(choices, [](const PatchChoice& c) { return std::pair(c.macs(), c.stage_bytes); });
    else
      sort_by(choices, [](const PatchChoice& c) { return std::pair(c.stage_bytes, c.macs()); });
    std::map<size_t, size_t> tried;        // by stage
    std::map<size_t, int64_t> too_large;   // by stage: an estimate whose program did not keep the wish
    std::optional<TiledProgram> best;
    for (const PatchChoice& c : choices) {
      if (wish_.most_arena ? too_large.contains(c.nodes) && c.stage_bytes >= too_large[c.nodes] : ++tried[c.nodes] > kTried) continue;
      TiledProgram made = program_of(c);
      const int64_t arena = made.program.arena_bytes;
      if (!best || std::pair(arena, made.choice.macs) < std::pair(best->program.arena_bytes, best->choice.macs)) best = std::move(made);
      if (wish_.most_arena && arena <= *wish_.most_arena) return std::move(*best);
      too_large[c.nodes] = c.stage_bytes;
    }
    if (wish_.most_arena) fail(ErrorKind::kBudget, "tiles: the least arena is {} bytes, asked are {}", best->program.arena_bytes, wish_.most_arena.value_or(0));
    return std::move(*best);
  }

 private:
  ValueId codes() const {
    if (!network_.codes) fail(ErrorKind::kUnsupported, "tiles need a network whose one input is a picture that is rounded to codes first");
    return network_.codes;
  }
  std::vector<PatchChoice> candidates() const {
    const PatchPrefix& prefix = patches_.prefix();
    if (prefix.ends.empty()) fail(ErrorKind::kUnsupported, "no part of the network can run in tiles{}", prefix.stop.empty() ? "" : ": " + prefix.stop);
    std::optional<size_t> end;
    if (!wish_.end.empty()) end = patches_.end_named(wish_.end);
    PatchLimits limits{.cache = false, .most_overhead = wish_.grid && end ? std::numeric_limits<double>::max() : wish_.most_overhead};
    if (wish_.grid) limits.most_rows = wish_.grid->rows, limits.most_columns = wish_.grid->columns;
    std::vector<PatchChoice> list;
    patches_.for_each(limits, [&](const PatchChoice& c) {
      if (c.nodes == 0 || (end && c.nodes != *end) || size_of(network_.graph[prefix.stage(c.nodes).exit].dtype) != 1) return;
      if (wish_.grid && (c.grid.rows != wish_.grid->rows || c.grid.columns != wish_.grid->columns)) return;
      list.push_back(c);
    });
    return list;
  }

  TiledProgram program_of(const PatchChoice& c) const {
    ProgramOptions options = options_;
    options.tiles = Tiles{c.nodes, c.grid.rows, c.grid.columns};
    return {make_program(PlannedNetwork(network_), options), {*options.tiles, patches_.end_name(c.nodes), c.macs(), c.network_macs}};
  }

  [[noreturn]] void refuse() const {
    const std::string grid = wish_.grid ? fmt::format(" in {}x{} tiles", wish_.grid->rows, wish_.grid->columns) : "";
    fail(ErrorKind::kBudget, "tiles: no stage{}{} does at most {:.1f} % of the network's work twice", wish_.end.empty() ? "" : fmt::format(" that ends at '{}'", wish_.end), grid,
         100 * wish_.most_overhead);
  }

  const ProgramOptions& options_;
  const TileWish& wish_;
  PlannedNetwork network_;
  PatchSearch patches_;
};

}  // namespace

TiledProgram make_tiled_program(Graph graph, const ProgramOptions& options, const TileWish& wish) { return Search(std::move(graph), options, wish).run(); }

}  // namespace lathe::mcu
