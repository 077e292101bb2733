#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "kernels/reference/reference.h"
#include "options.h"

namespace lathe::cli {
namespace {

std::string shape_text(const Value& v) {
  if (!v.shape) return "[…]";
  std::string text = "[";
  for (size_t i = 0; i < v.shape->size(); ++i) {
    std::string open = i < v.dim_names.size() && !v.dim_names[i].empty() ? v.dim_names[i] : "?";
    text += fmt::format("{}{}", i ? ", " : "", (*v.shape)[i] < 0 ? open : std::to_string((*v.shape)[i]));
  }
  return text + "]";
}

nlohmann::json describe(const Graph& g, const std::vector<ValueId>& ids) {
  nlohmann::json list = nlohmann::json::array();
  for (ValueId v : ids) list.push_back({{"name", g[v].name}, {"type", name_of(g[v].dtype)}, {"shape", shape_text(g[v])}});
  return list;
}

int64_t parameters(const Graph& g) {
  int64_t count = 0;
  std::vector<bool> seen(g.value_count(), false);
  for (NodeId id : g.order())
    for (ValueId v : g[id].inputs)
      if (v && g[v].is_constant() && is_float(g[v].dtype) && !seen[v.index]) {
        seen[v.index] = true;
        count += g[v].constant.size();
      }
  return count;
}

struct Options {
  std::string model;
  bool json = false, layers = false, check = false;
};

void inspect(const Options& o) {
  std::optional<PackedFile> packed;
  if (is_packed(o.model)) packed = PackedFile::open(o.model);
  if (packed && o.check) packed->check();
  Model m = load_model(o.model, {.allow_unknown = true});
  Graph& g = m.graph;
  std::map<std::string, int> operators;
  std::vector<std::string> problems;
  for (NodeId id : g.order()) {
    const Node& n = g[id];
    ++operators[n.op->domain.empty() ? n.op->name : n.op->domain + "::" + n.op->name];
    if (!n.op->supported) problems.push_back(fmt::format("node '{}': operator {} is not supported", n.name, n.op->name));
    else if (n.op->domain != kLatheDomain && !reference::find(n.op->name, n.op->domain)) problems.push_back(fmt::format("node '{}': operator {} has no kernel", n.name, n.op->name));
  }
  // Counts need concrete shapes: open sizes count as 1.
  Graph sized = g;
  if (problems.empty()) {
    try {
      for (auto& [name, shape] : default_input_shapes(sized))
        for (ValueId v : sized.inputs) if (sized[v].name == name) sized[v].shape = shape;
      infer_shapes(sized);
    } catch (const Error& e) {
      problems.push_back(e.what());
    }
  }
  int64_t activations = 0, macs = count_macs(sized);
  for (NodeId id : sized.order())
    for (ValueId v : sized[id].outputs)
      if (v && sized[v].shape && is_static(*sized[v].shape)) activations += element_count(*sized[v].shape) * static_cast<int64_t>(size_of(sized[v].dtype));
  if (o.json) {
    nlohmann::json layers = nlohmann::json::array();
    for (NodeId id : sized.order()) {
      const Node& n = sized[id];
      layers.push_back({{"name", n.name}, {"operator", n.op->name}, {"outputs", describe(sized, n.outputs)}, {"macs", count_macs(sized, n)}});
    }
    nlohmann::json j = {{"model", o.model}, {"producer", m.producer}, {"ir_version", m.ir_version}, {"opsets", m.opsets},
                        {"operators", operators}, {"nodes", g.order().size()}, {"parameters", parameters(g)}, {"macs", macs},
                        {"activation_bytes", activations}, {"inputs", describe(g, g.inputs)}, {"outputs", describe(g, g.outputs)},
                        {"layers", layers}, {"problems", problems}, {"runnable", problems.empty()}};
    if (packed) j["packed"] = {{"lathe", packed->origin().version}, {"machine", packed->origin().machine}, {"model", packed->origin().model},
                               {"batch", packed->origin().batch}, {"precision", packed->origin().options.bf16 ? "bf16" : "fp32"},
                               {"source", !packed->source().empty()}, {"stale", packed->stale()}};
    fmt::print("{}\n", j.dump());
    return;
  }
  fmt::print("{}\n  from        {} (IR {}", o.model, m.producer.empty() ? "unknown" : m.producer, m.ir_version);
  for (auto& [domain, version] : m.opsets) fmt::print(", {} {}", domain.empty() ? "opset" : domain, version);
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
  fmt::print("  parameters  {:.3f} M\n  MACs        {:.3f} M\n  activations {:.2f} MiB\n  operators  ", static_cast<double>(parameters(g)) * 1e-6, static_cast<double>(macs) * 1e-6, static_cast<double>(activations) / 1048576);
  for (auto& [name, count] : operators) fmt::print(" {} {},", count, name);
  fmt::print("\b \n");
  if (o.layers)
    for (NodeId id : sized.order()) {
      const Node& n = sized[id];
      fmt::print("  {:<44.44} {:<20} {:<24} {:>10.3f} M\n", n.name, n.op->name, shape_text(sized[n.outputs[0]]), static_cast<double>(count_macs(sized, n)) * 1e-6);
    }
  for (const std::string& p : problems) fmt::print("  cannot run: {}\n", p);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto* command = app.add_subcommand("inspect", "Say what a model holds, and what of it could not be run");
  command->footer("Examples:\n  lathe inspect model.onnx\n  lathe inspect model.onnx --layers\n  lathe inspect model.onnx --json | jq .macs");
  auto o = std::make_shared<Options>();
  command->add_option("MODEL", o->model, "An ONNX file, or a .lathe file (lathe pack)")->required();
  command->add_flag("--layers", o->layers, "One line a node");
  command->add_flag("--check", o->check, "Of a .lathe file: read all of it and compare the checksums");
  command->add_flag("--json", o->json, "One JSON object on stdout");
  command->callback([o] { inspect(*o); });
}

}  // namespace lathe::cli
