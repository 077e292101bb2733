#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "runtime/inspect.h"
#include "runtime/load.h"

namespace lathe::cli {
namespace {

struct Options {
  std::string model;
  bool json = false, layers = false, check = false;
};

nlohmann::json describe_all(const Graph& g, const std::vector<ValueId>& ids) {
  nlohmann::json list = nlohmann::json::array();
  for (ValueId v : ids)
    if (v) list.push_back({{"name", g[v].name}, {"type", name_of(g[v].dtype)}, {"shape", shape_text(g[v])}});
  return list;
}

void print_json(const Options& o, const Model& m, const Inspection& found, const std::optional<PackedFile>& packed) {
  const NetworkSummary& s = found.summary;
  const Graph& sized = found.sized;
  nlohmann::json layers = nlohmann::json::array();
  for (NodeId id : sized.order()) {
    const Node& n = sized[id];
    layers.push_back({{"name", n.name}, {"operator", n.op->name}, {"outputs", describe_all(sized, n.outputs)}, {"macs", count_macs(sized, n)}});
  }
  nlohmann::json j = {{"model", o.model}, {"producer", s.producer}, {"ir_version", m.ir_version}, {"opsets", s.opsets},
                      {"operators", s.operators}, {"nodes", s.nodes}, {"parameters", s.parameters}, {"macs", s.macs},
                      {"activation_bytes", s.activation_bytes}, {"inputs", describe_all(m.graph, m.graph.inputs)},
                      {"outputs", describe_all(m.graph, m.graph.outputs)}, {"layers", layers}, {"problems", s.problems},
                      {"runnable", s.runnable()}};
  if (packed) {
    const PackedOrigin& origin = packed->origin();
    j["packed"] = {{"lathe", origin.version}, {"machine", origin.machine}, {"model", origin.model}, {"batch", origin.batch},
                   {"precision", origin.options.bf16 ? "bf16" : "fp32"}, {"source", !packed->source().empty()}, {"stale", packed->stale()}};
  }
  fmt::print("{}\n", j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

void print_text(const Options& o, const Model& m, const Inspection& found, const std::optional<PackedFile>& packed) {
  const NetworkSummary& s = found.summary;
  const Graph &g = m.graph, &sized = found.sized;
  fmt::print("{}\n  from        {} (IR {}", o.model, s.producer.empty() ? "unknown" : s.producer, m.ir_version);
  for (auto& [domain, version] : s.opsets) fmt::print(", {} {}", domain.empty() ? "opset" : domain, version);
  fmt::print(")\n");
  if (packed) {
    const PackedOrigin& origin = packed->origin();
    fmt::print("  packed      by lathe {} from {}, batch {}, {}, {} model inside{}\n", origin.version, origin.model, origin.batch,
               origin.options.bf16 ? "bf16" : "fp32", packed->source().empty() ? "no" : "the", o.check ? ", checksums good" : "");
    fmt::print("  for         {}\n", origin.machine);
    if (!packed->stale().empty()) fmt::print("  stale       {}\n", packed->stale());
  }
  for (ValueId v : g.inputs) fmt::print("  input       {} {} {}\n", g[v].name, name_of(g[v].dtype), shape_text(g[v]));
  for (ValueId v : g.outputs) fmt::print("  output      {} {} {}\n", g[v].name, name_of(g[v].dtype), shape_text(g[v]));
  fmt::print("  parameters  {:.3f} M\n  MACs        {:.3f} M\n  activations {:.2f} MiB\n", static_cast<double>(s.parameters) * 1e-6,
             static_cast<double>(s.macs) * 1e-6, static_cast<double>(s.activation_bytes) / 1048576);
  std::vector<std::string> counts;
  for (auto& [name, count] : s.operators) counts.push_back(fmt::format("{} {}", count, name));
  fmt::print("  operators   {}\n", fmt::join(counts, ", "));
  if (o.layers) {
    fmt::print("\n  {:<44} {:<20} {:<24} {:>12}\n", "layer", "operator", "output", "MACs");
    for (NodeId id : sized.order()) {
      const Node& n = sized[id];
      ValueId first = n.outputs.empty() ? ValueId{} : n.outputs[0];
      fmt::print("  {:<44.44} {:<20} {:<24} {:>10.3f} M\n", n.name, n.op->name, first ? shape_text(sized[first]) : "",
                 static_cast<double>(count_macs(sized, n)) * 1e-6);
    }
  }
  for (const std::string& p : s.problems) fmt::print("  cannot run: {}\n", p);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto* command = app.add_subcommand("inspect", "Say what a model holds, and what of it could not be run");
  command->footer("Examples:\n  lathe inspect model.onnx\n  lathe inspect model.onnx --layers\n  lathe inspect model.onnx --json | jq .macs\n"
                  "  lathe inspect model.lathe --check\n\n"
                  "Sizes that the model leaves open count as 1. What cannot be run is told, and no failure: exit code 0.");
  auto o = std::make_shared<Options>();
  command->add_option("MODEL", o->model, "An ONNX file, or a .lathe file (lathe pack)")->required()->type_name("FILE");
  command->add_flag("--layers", o->layers, "One line a node");
  command->add_flag("--check", o->check, "Of a .lathe file: read all of it and compare the checksums");
  command->add_flag("--json", o->json, "One JSON object on stdout");
  command->callback([o] {
    std::optional<PackedFile> packed;
    if (is_packed(o->model)) packed = PackedFile::open(o->model);
    else if (o->check) fail(ErrorKind::kUsage, "--check: {} is no .lathe file", o->model);
    if (packed && o->check) packed->check();
    Model model = load_model(o->model, {.allow_unknown = true});
    Inspection found = inspect(model);
    if (o->json) print_json(*o, model, found, packed);
    else print_text(*o, model, found, packed);
  });
}

}  // namespace lathe::cli
