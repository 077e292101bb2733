#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "core/device.h"
#include "core/file.h"
#include "options.h"
#include "plan_microcontroller.h"
#include "planner/scratchpad/picture.h"
#include "planner/scratchpad/simulate.h"
#include "planner/scratchpad/tiles.h"
#include "targets/mcu/budget.h"

namespace lathe::cli {
namespace {

struct Options {
  ModelOptions model;
  std::string svg, html, device, objective, method;
  int64_t scratchpad = 0;
  double time_limit = 60;
  bool json = false, tiles = false, baselines = false;
  TuneOptions tune;
  MicrocontrollerOptions microcontroller;
};

void print_json(const Options& o, const Plan& plan, bool bf16) {
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
  nlohmann::json j = {{"model", o.model.model}, {"precision", bf16 ? "bf16" : "fp32"}, {"steps", steps}, {"arena_bytes", plan.arena_bytes},
                      {"scratch_bytes", plan.scratch_bytes}, {"slices", plan.slices}, {"tensor_bytes", plan.tensor_bytes}, {"lower_bound", plan.lower_bound}};
  fmt::print("{}\n", j.dump());
}

// What the CPU session runs.
void plan_for_host(const Options& o) {
  if (!o.html.empty()) fail(ErrorKind::kUsage, "--html draws the plan of a scratchpad: --device or --scratchpad says which");
  if (!o.objective.empty() || !o.method.empty() || o.tiles || o.baselines)
    fail(ErrorKind::kUsage, "--objective, --method, --tiles and --baselines plan a scratchpad: --device or --scratchpad says which");
  PlanOptions options;
  o.tune.apply(options);
  CompiledModel model = o.model.open(options);
  const Plan& plan = model.session().plan();
  if (!o.svg.empty()) write_file(o.svg, plan_svg(plan));
  if (o.json) print_json(o, plan, model.plan_options().bf16);
  else fmt::print("{}", print_plan(plan));
}

std::string percent_of(int64_t part, int64_t whole) { return whole > 0 ? fmt::format("{:.1f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole)) : "-"; }

void plan_for_scratchpad(const Options& o, const std::optional<Device>& device) {
  const bool latency = o.objective == "latency", arena = o.objective == "arena";
  Scratchpad scratchpad;
  if (device) scratchpad = scratchpad_of(*device, latency);
  else if (latency) fail(ErrorKind::kUsage, "--objective latency needs a --device that says how fast it computes and reads");
  if (o.scratchpad > 0) scratchpad.capacity = o.scratchpad;
  ModelFile file(o.model.model, [](const std::string& why) { fmt::print(stderr, "lathe: note: {}\n", why); });
  PlanOptions options;
  options.input_shapes = o.model.input_shapes(file.graph());
  const Graph graph = lowered(file.graph(), options);
  FittedNetwork fitted;
  if (o.tiles) fitted = fit_in_tiles(graph, scratchpad);
  else fitted.network = schedule_network(graph, scratchpad);
  ScheduleProblem& problem = fitted.network.problem;
  bool exact_peak = false;
  const int64_t enough = capacity_without_traffic(problem, &exact_peak);
  // The arena objective: the smallest scratchpad that needs no traffic but the compulsory.
  if (arena) problem.capacity = enough;
  ScheduleOptions solving{.method = o.method == "ilp" ? ScheduleMethod::kIlp : o.method == "divide" ? ScheduleMethod::kDivide : ScheduleMethod::kGreedy, .time_limit = o.time_limit};
  const bool shows = ::isatty(2) != 0;
  if (shows)
    solving.progress = [](const ScheduleProgress& p) {
      const std::string gap = p.cost > 0 ? fmt::format("{:.1f} %", 100 * std::max(0.0, p.cost - p.bound) / p.cost) : "0 %";
      fmt::print(stderr, "\r\033[K{:.1f} s: {}; best {:.6g}, bound {:.6g}, gap {}", p.seconds, p.what, p.cost, p.bound, gap);
    };
  ScratchSchedule s = schedule_scratchpad(problem, solving);
  if (arena) {
    // Sums fit; where the addresses do not, a little more.
    while (!s.placed || s.cost > 0) {
      problem.capacity += std::max<int64_t>(problem.alignment, enough / 200);
      s = schedule_scratchpad(problem, solving);
    }
  }
  if (shows) fmt::print(stderr, "\r\033[K");
  const std::string title = fmt::format("{} on {} bytes", o.model.model, problem.capacity);
  if (!o.svg.empty()) write_file(o.svg, schedule_svg(problem, s, title));
  if (!o.html.empty()) write_file(o.html, schedule_html(problem, s, title));
  std::vector<Baseline> classic;
  if (o.baselines) classic = baselines(ScheduleIndex(problem));
  if (o.json) {
    nlohmann::json j = to_json(problem, s);
    j["model"] = o.model.model;
    j["objective"] = o.objective.empty() ? "traffic" : o.objective;
    j["capacity_without_traffic"] = enough;
    j["tiled_operators"] = fitted.tiles.tiled_nodes;
    j["tiles"] = fitted.tiles.tiles;
    if (o.baselines) j["baselines"] = nlohmann::json::array();
    for (const Baseline& b : classic)
      j["baselines"].push_back({{"order", b.order}, {"replacement", b.replacement}, {"placement", b.placement}, {"other_bytes", b.schedule.other_bytes()}});
    fmt::print("{}\n", j.dump());
    return;
  }
  fmt::print("{}", print_schedule(problem, s));
  if (fitted.tiles.tiles > 0) fmt::print("{} operators run in {} tiles\n", fitted.tiles.tiled_nodes, fitted.tiles.tiles);
  fmt::print("scratchpad {} bytes, used up to {}; {} bytes need no other traffic{}\n", problem.capacity, s.peak_bytes, enough, exact_peak ? "" : " (or fewer)");
  fmt::print("traffic: compulsory {} bytes; other {} ({} read again, {} written out), {} of the compulsory\n", s.compulsory_bytes, s.other_bytes(), s.load_bytes, s.store_bytes,
             percent_of(s.other_bytes(), s.compulsory_bytes));
  fmt::print("{}: lower bound {:.6g}, cost {:.6g}, gap {:.2f} %; found by {} in {:.2f} s\n", s.optimal() ? "optimal" : "best found", s.lower_bound, s.cost, 100 * s.gap(), s.method, s.solve_seconds);
  if (latency) fmt::print("{:.6g} s for operators and transfers, one after the other\n", s.seconds);
  for (const Baseline& b : classic) fmt::print("baseline {:<14} {:<18} {:<11} other traffic {:>12} bytes\n", b.order, b.replacement, b.placement, b.schedule.other_bytes());
}

}  // namespace

void add_plan(CLI::App& app) {
  auto* command = app.add_subcommand("plan", "Show the steps, kernels and memory that a model would run with, here or from a device's scratchpad");
  command->footer("Examples:\n  lathe plan model.onnx\n  lathe plan model.onnx --svg memory.svg\n"
                  "  lathe plan model.onnx --shape x=1x3x640x640 --precision bf16\n"
                  "  lathe plan model.onnx --json | jq .arena_bytes\n"
                  "  lathe plan model.onnx --device devices/scratchpad-1m.json --method ilp --time-limit 60 --html plan.html\n"
                  "  lathe plan model.onnx --scratchpad 2000000 --tiles --baselines\n"
                  "  lathe plan vit.int8.onnx --device devices/stm32f746.json --no-integrate\n\n"
                  "With --device or --scratchpad the order of operators, their tensors' addresses and what is moved out and back are planned together.\n"
                  "Exit code 3: an operator does not fit the scratchpad (--tiles cuts it).");
  auto o = std::make_shared<Options>();
  o->model.add_to(*command);
  command->add_option("--svg", o->svg, "Draw memory over time to this file")->type_name("FILE");
  command->add_option("--html", o->html, "Write a page with figures, picture and steps (scratchpads)")->type_name("FILE");
  o->model.add_precision(*command);
  o->tune.add_to(*command);
  command->add_option("--device", o->device, "A device whose first memory is a scratchpad (devices/scratchpad-*.json), or a microcontroller")->type_name("FILE");
  command->add_option("--scratchpad", o->scratchpad, "Bytes of the scratchpad (the device's)")->check(CLI::Range(int64_t{1}, int64_t{1} << 40));
  command->add_option("--objective", o->objective, "traffic: least bytes moved; latency: least time by the device's rates; arena: least memory without traffic (traffic)")
      ->check(CLI::IsMember({"traffic", "latency", "arena"}));
  command->add_option("--method", o->method, "greedy: in a moment; ilp: exact search, then an integer program; divide: piece by piece (greedy)")->check(CLI::IsMember({"greedy", "ilp", "divide"}));
  command->add_option("--time-limit", o->time_limit, "Seconds after which the best so far is taken, with its gap")->check(CLI::Range(0.01, 1e6))->capture_default_str();
  command->add_flag("--tiles", o->tiles, "Cut operators that do not fit into tiles");
  command->add_flag("--baselines", o->baselines, "Also what the classic orders, replacements and placements move");
  command->add_flag("--json", o->json, "One JSON object on stdout");
  command->add_flag("--no-decompose", o->microcontroller.no_decompose, "Microcontrollers: the picture is in SRAM, not read patch by patch from elsewhere");
  command->add_flag("--no-integrate", o->microcontroller.no_integrate, "Microcontrollers: transformers layer by layer, not token by token");
  command->add_flag("--no-overwrite", o->microcontroller.no_overwrite, "Microcontrollers: results beside what they are made of, not in its place");
  command->callback([o] {
    std::optional<Device> device;
    if (!o->device.empty()) device = read_device(o->device);
    MicrocontrollerOptions& m = o->microcontroller;
    m.json = o->json;
    m.svg = o->svg;
    const bool microcontroller = device && mcu::is_microcontroller(*device);
    if (!microcontroller && (m.no_decompose || m.no_integrate || m.no_overwrite))
      fail(ErrorKind::kUsage, "--no-decompose, --no-integrate and --no-overwrite plan a microcontroller: --device says which (devices/stm32f746.json)");
    if (!device && o->scratchpad == 0) return plan_for_host(*o);
    if (!microcontroller) return plan_for_scratchpad(*o, device);
    if (o->scratchpad > 0 || !o->objective.empty() || !o->method.empty() || o->tiles || o->baselines || !o->html.empty())
      fail(ErrorKind::kUsage, "{} is a microcontroller: --scratchpad, --objective, --method, --tiles, --baselines and --html are for other devices", device->name);
    plan_for_microcontroller(o->model, *device, m);
  });
}

}  // namespace lathe::cli
