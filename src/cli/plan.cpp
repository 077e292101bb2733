#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "commands.h"
#include "core/file.h"
#include "options.h"

namespace lathe::cli {

void add_plan(CLI::App& app) {
  auto* command = app.add_subcommand("plan", "Show the steps, kernels and memory that a model would run with");
  command->footer("Examples:\n  lathe plan model.onnx\n  lathe plan model.onnx --svg memory.svg\n"
                  "  lathe plan model.onnx --shape x=1x3x640x640 --precision bf16\n"
                  "  lathe plan model.onnx --json | jq .arena_bytes");
  struct Options {
    ModelOptions model;
    std::string svg;
    bool json = false;
    TuneOptions tune;
  };
  auto o = std::make_shared<Options>();
  o->model.add_to(*command);
  command->add_option("--svg", o->svg, "Draw memory over time to this file")->type_name("FILE");
  o->model.add_precision(*command);
  o->tune.add_to(*command);
  command->add_flag("--json", o->json, "One JSON object on stdout");
  command->callback([o] {
    PlanOptions options;
    o->tune.apply(options);
    CompiledModel model = o->model.open(options);
    const Plan& plan = model.session().plan();
    if (!o->svg.empty()) write_file(o->svg, plan_svg(plan));
    if (!o->json) {
      fmt::print("{}", print_plan(plan));
      return;
    }
    const std::vector<std::string_view> layouts = layouts_of(plan);
    nlohmann::json steps = nlohmann::json::array();
    for (const Step& step : plan.steps) {
      const Node& n = plan.graph[step.node];
      nlohmann::json outputs = nlohmann::json::array();
      for (ValueId v : n.outputs) {
        if (!v) continue;
        const Placement& p = plan.placements[plan.placements[v.index].root.index];
        outputs.push_back({{"name", plan.graph[v].name}, {"type", name_of(plan.graph[v].dtype)},
                           {"shape", plan.graph[v].shape.value_or(Shape{})}, {"layout", layouts[v.index]}, {"offset", p.offset}, {"bytes", p.bytes}});
      }
      steps.push_back({{"node", n.name}, {"operator", n.op->name}, {"kernel", step.kernel_name}, {"outputs", outputs}});
    }
    nlohmann::json j = {{"model", o->model.model}, {"precision", model.plan_options().bf16 ? "bf16" : "fp32"}, {"steps", steps}, {"arena_bytes", plan.arena_bytes},
                        {"scratch_bytes", plan.scratch_bytes}, {"slices", plan.slices}, {"tensor_bytes", plan.tensor_bytes}, {"lower_bound", plan.lower_bound}};
    fmt::print("{}\n", j.dump());
  });
}

}  // namespace lathe::cli
