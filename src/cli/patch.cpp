#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "options.h"
#include "planner/patches.h"
#include "transform/passes.h"
#include "transform/redistribute.h"

namespace lathe::cli {
namespace {

struct Options {
  std::string model, output, grid, end, cache = "none";
  std::vector<std::string> shapes;
  double most_overhead = 0.15, redistribute = 0;
  int64_t memory = 0;
  bool types = false, resident = false, json = false;
};

const char* policy(const PatchGrid& g) {
  return g.cache_rows ? g.cache_columns ? "keep both" : "keep rows" : g.cache_columns ? "keep columns" : "recompute";
}

nlohmann::json to_json(const PatchSearch& search, const PatchChoice& c) {
  return {{"end", c.nodes ? search.end_name(c.nodes) : ""}, {"nodes", c.nodes}, {"rows", c.grid.rows}, {"columns", c.grid.columns},
          {"cache_rows", c.grid.cache_rows}, {"cache_columns", c.grid.cache_columns}, {"bytes", c.bytes()}, {"stage_bytes", c.stage_bytes},
          {"rest_bytes", c.rest_bytes}, {"macs", c.macs()}, {"stage_overhead", c.stage_overhead()}, {"overhead", c.overhead()}};
}

void print_choice(const PatchSearch& search, const PatchChoice& c, std::string_view label) {
  fmt::print("{:<8} {:>12.1f} {:>12.1f} {:>11.1f} % {:>8.1f} %  {:<12} {}\n", label, static_cast<double>(c.bytes()) / 1024, static_cast<double>(c.stage_bytes) / 1024,
             100 * c.stage_overhead(), 100 * c.overhead(), c.nodes ? policy(c.grid) : "", c.nodes ? search.end_name(c.nodes) : "layer by layer");
}

class Command {
 public:
  explicit Command(const Options& o) : o_(o), graph_(load(o)), search_(graph_, memory_options(o)) {}

  void run() {
    const PatchChoice chosen = choose();
    nlohmann::json table = nlohmann::json::array();
    if (!o_.json) {
      fmt::print("{} operators can run patch by patch{}\n", search_.prefix().ends.empty() ? 0 : search_.prefix().ends.back(),
                 search_.prefix().stop.empty() ? "" : fmt::format("; then {}", search_.prefix().stop));
      fmt::print("{:<8} {:>12} {:>12} {:>13} {:>10}  {:<12} {}\n", "grid", "memory, KiB", "stage, KiB", "MACs, stage", "network", "overlap", "the stage ends at");
      print_choice(search_, search_.layer_by_layer(), "1x1");
    }
    for (int64_t side = 2; side <= 5; ++side) {
      PatchLimits limits = limits_of();
      std::optional<PatchChoice> best;
      limits.most_rows = limits.most_columns = side;
      search_.for_each(limits, [&](const PatchChoice& c) {
        if (c.grid.rows == side && c.grid.columns == side && (!best || std::pair(c.bytes(), c.macs()) < std::pair(best->bytes(), best->macs()))) best = c;
      });
      if (!best) continue;
      if (o_.json) table.push_back(to_json(search_, *best));
      else print_choice(search_, *best, fmt::format("{}x{}", side, side));
    }
    if (!o_.json) print_choice(search_, chosen, "chosen");
    nlohmann::json j = {{"model", o_.model}, {"stop", search_.prefix().stop}, {"layer_by_layer", to_json(search_, search_.layer_by_layer())},
                        {"grids", table}, {"chosen", to_json(search_, chosen)}};
    if (o_.redistribute > 0) j["redistribution"] = change_kernels(chosen);
    else if (!o_.output.empty()) write_patches(chosen);
    if (o_.json) fmt::print("{}\n", j.dump());
  }

 private:
  // A network whose kernels change goes to training: its batch norms stay.
  static Graph load(const Options& o) {
    ModelOptions shapes;
    shapes.shapes = o.shapes;
    Graph g = load_model(o.model).graph;
    specialize(g, shapes.input_shapes(g), true);
    if (o.redistribute <= 0) clean_up(g, true);
    return g;
  }
  static PatchMemoryOptions memory_options(const Options& o) { return {.bytes_per_element = o.types ? 0 : 1, .resident_input = o.resident}; }

  PatchLimits limits_of() const {
    PatchLimits limits{.cache = o_.cache == "any", .most_overhead = o_.most_overhead};
    if (o_.memory > 0) limits.most_bytes = o_.memory;
    if (o_.redistribute > 0) limits.most_overhead = 1e9;
    return limits;
  }

  PatchChoice choose() const {
    if (!o_.grid.empty()) {
      const auto [rows, columns] = parse_grid(o_.grid, fmt::format("--grid {}: expected ROWSxCOLUMNS, for instance 3x3", o_.grid));
      PatchGrid grid{rows, columns, o_.cache == "rows" || o_.cache == "both", o_.cache == "columns" || o_.cache == "both"};
      if (!o_.end.empty()) return search_.evaluate(search_.end_named(o_.end), grid);
      std::optional<PatchChoice> best;
      for (size_t nodes : search_.prefix().ends) {
        const Shape& exit = *graph_[search_.prefix().stage(nodes).exit].shape;
        if (grid.rows > exit[2] || grid.columns > exit[3]) continue;
        const PatchChoice c = search_.evaluate(nodes, grid);
        if (c.overhead() <= limits_of().most_overhead && (!best || std::pair(c.bytes(), c.macs()) < std::pair(best->bytes(), best->macs()))) best = c;
      }
      if (best) return *best;
      fail(ErrorKind::kBudget, "no stage runs in {} with at most {:.1f} % more multiply–accumulates{}", o_.grid, 100 * o_.most_overhead,
           search_.prefix().stop.empty() ? "" : ": " + search_.prefix().stop);
    }
    const std::optional<PatchChoice> best = o_.memory > 0 ? search_.fewest_macs(limits_of()) : search_.least_memory(limits_of());
    if (best) return *best;
    PatchLimits any = limits_of();
    any.most_bytes.reset();
    const std::optional<PatchChoice> least = search_.least_memory(any);
    fail(ErrorKind::kBudget, "patches of at most 5x5 need {} bytes at least with at most {:.1f} % more multiply–accumulates, asked are {}", least ? least->bytes() : 0,
         100 * o_.most_overhead, o_.memory);
  }

  void write_patches(const PatchChoice& c) {
    if (c.nodes > 0) run_in_patches(graph_, search_.prefix().stage(c.nodes), c.grid);
    verify(graph_);
    export_onnx(graph_, o_.output);
    if (!o_.json) fmt::print("{}: {} nodes, standard operators\n", o_.output, graph_.order().size());
  }

  nlohmann::json change_kernels(const PatchChoice& c) {
    if (c.nodes == 0) fail(ErrorKind::kUsage, "nothing runs in patches: there is no receptive field to move");
    const Redistribution done = redistribute(graph_, {.nodes = c.nodes, .grid = c.grid, .overhead = o_.redistribute});
    const PatchChoice after = PatchSearch(graph_, memory_options(o_)).evaluate(c.nodes, c.grid);
    nlohmann::json changes = nlohmann::json::array();
    for (const Redistribution::Change& change : done.changes) {
      changes.push_back({{"node", change.node}, {"before", change.before}, {"after", change.after}, {"in_stage", change.in_stage}});
      if (!o_.json)
        fmt::print("{} {}: {}x{} instead of {}x{}\n", change.in_stage ? "stage " : "behind", change.node, change.after, change.after, change.before, change.before);
    }
    if (!o_.json) {
      print_choice(search_, after, "after");
      fmt::print("receptive field {} instead of {} pixels, {} instead of {} multiply–accumulates layer by layer; train it further: lathe finetune\n", done.field,
                 done.field_before, done.macs, done.macs_before);
    }
    if (!o_.output.empty()) export_onnx(graph_, o_.output);
    return {{"changes", changes}, {"overhead_before", done.overhead_before}, {"overhead", done.overhead}, {"field_before", done.field_before},
            {"field", done.field}, {"macs_before", done.macs_before}, {"macs", done.macs}, {"after", to_json(search_, after)}};
  }

  const Options& o_;
  Graph graph_;
  PatchSearch search_;
};

}  // namespace

void add_patch(CLI::App& app) {
  auto* command = app.add_subcommand("patch", "Run the first part of a network on one tile after the other, for less memory");
  command->footer("Prints what each grid of tiles needs and costs. With -o writes the network tile by tile in standard ONNX, or, with --redistribute, the\n"
                  "network whose kernels are smaller in the stage and larger behind it, to be trained further.\n\nExamples:\n"
                  "  lathe patch model.onnx\n  lathe patch model.onnx --grid 3x3 -o patched.onnx\n  lathe patch model.int8.onnx --memory 65536 -o patched.onnx\n"
                  "  lathe patch model.onnx --grid 3x3 --end blocks.3.project.Conv --redistribute 0.05 -o moved.onnx");
  auto o = std::make_shared<Options>();
  command->add_option("MODEL", o->model, "An ONNX file")->required()->type_name("FILE");
  command->add_option("--shape", o->shapes, "Shape of an input whose sizes are open, for instance x=1x3x224x224 (repeat for several)")->type_name("NAME=SHAPE")->allow_extra_args(false);
  command->add_option("--grid", o->grid, "Tiles: rows and columns (the best up to 5x5)")->type_name("ROWSxCOLUMNS");
  command->add_option("--end", o->end, "The node after which the stage ends (the one that needs least memory)")->type_name("NODE");
  command->add_option("--cache", o->cache, "What tiles share: none is kept, rows, columns or both are; any: the best, without --grid")
      ->check(CLI::IsMember({"none", "rows", "columns", "both", "any"}))->capture_default_str();
  command->add_option("--most-overhead", o->most_overhead, "Multiply–accumulates of the network that may be done twice: 0.15 is 15 %")->check(CLI::Range(0.0, 1e9))->capture_default_str();
  command->add_option("--memory", o->memory, "Bytes of activations that there are: the fewest multiply–accumulates within them")->check(CLI::Range(int64_t{1}, int64_t{1} << 50))->type_name("BYTES");
  command->add_option("--redistribute", o->redistribute, "Change kernels until the tiles do so much twice at most")->check(CLI::Range(1e-6, 1e9))->type_name("PART");
  command->add_flag("--types", o->types, "Count the bytes of the model's own types, not one for each element");
  command->add_flag("--resident-input", o->resident, "The network's input is in memory as a whole");
  command->add_option("-o,--output", o->output, "Where to write")->type_name("FILE");
  command->add_flag("--json", o->json, "One JSON object on stdout");
  command->callback([o] {
    if (!o->end.empty() && o->grid.empty()) fail(ErrorKind::kUsage, "--end says where a stage of a given grid ends: give --grid too");
    if (o->cache == "any" && !o->grid.empty()) fail(ErrorKind::kUsage, "--cache any is for the search: with --grid say rows, columns, both or none");
    if (o->cache != "none" && o->cache != "any" && o->grid.empty()) fail(ErrorKind::kUsage, "--cache {} is for a given grid: give --grid too, or --cache any", o->cache);
    Command(*o).run();
  });
}

}  // namespace lathe::cli
