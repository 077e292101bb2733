#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "core/file.h"
#include "host_device.h"
#include "options.h"
#include "runtime/bench.h"
#include "runtime/load.h"

namespace lathe::cli {
namespace {

struct Options {
  ModelOptions model;
  int runs = 20;
  double seconds = 1;
  uint64_t seed = 1;
  bool json = false, layers = false, reference = false, no_fuse = false;
  TuneOptions tune;
  std::string profile;
};

void write_trace(const std::string& path, const Session& session) {
  nlohmann::json events = nlohmann::json::array();
  double at = 0;
  for (size_t s = 0; s < session.plan().steps.size(); ++s) {
    const Step& step = session.plan().steps[s];
    const Node& n = session.plan().graph[step.node];
    const StepTime& t = session.step_times()[s];
    double us = t.runs ? t.seconds / static_cast<double>(t.runs) * 1e6 : 0;
    events.push_back({{"name", n.name}, {"cat", n.op->name}, {"ph", "X"}, {"ts", at}, {"dur", us}, {"pid", 1}, {"tid", 1},
                      {"args", {{"kernel", step.kernel_name}, {"macs", count_macs(session.plan(), n)}}}});
    at += us;
  }
  write_file(path, nlohmann::json{{"traceEvents", events}}.dump());
}

struct Layer {
  std::string name, op, kernel;
  std::string branch_of;  // the If that it stands in, whose time has its own in it
  double ms, percent;
  int64_t macs;
  double gflops;         // 0: no multiply–accumulates
  double limit_percent;  // of what the machine could do, 0: unknown
};

// What a layer could reach at best, in GFLOP/s: the measured rate of as many cores as the run may use.
double limit_of(const Device& host, const std::string& precision, int threads) {
  const ComputeUnit& cpu = host.compute.front();
  auto cores = static_cast<double>(std::min<int64_t>(threads, cpu.cores));
  return cores * (precision == "bf16" ? cpu.per_core.bf16.value_or(0) : cpu.per_core.f32.value_or(0));
}

// Of a branch that was never taken, nothing.
void add_layers(std::vector<Layer>& layers, const Session& session, double total, double limit, const std::string& branch_of) {
  const Plan& plan = session.plan();
  for (size_t s = 0; s < plan.steps.size(); ++s) {
    const Node& n = plan.graph[plan.steps[s].node];
    const StepTime& t = session.step_times()[s];
    if (!branch_of.empty() && t.runs == 0) continue;
    double each = t.runs ? t.seconds / static_cast<double>(t.runs) : 0;
    int64_t macs = count_macs(plan, n);
    double rate = macs > 0 && each > 0 ? 2e-9 * static_cast<double>(macs) / each : 0;
    layers.push_back({n.name, n.op->name, plan.steps[s].kernel_name, branch_of, each * 1e3, 100 * t.seconds / std::max(total, 1e-12), macs,
                      rate, limit > 0 ? 100 * rate / limit : 0});
    for (const Session* branch : session.branches_of_step(s)) add_layers(layers, *branch, total, limit, n.name);
  }
}

std::vector<Layer> layers_of(const Session& session, double limit) {
  double total = 0;
  for (const StepTime& t : session.step_times()) total += t.seconds;
  std::vector<Layer> layers;
  add_layers(layers, session, total, limit, "");
  return layers;
}

void print_layers(const std::vector<Layer>& layers, double limit, const std::string& precision, int threads) {
  fmt::print("\n{:<40} {:<24} {:>9} {:>6} {:>9} {:>8}\n", "layer", "kernel", "ms", "%", "GFLOP/s", "% limit");
  for (const Layer& l : layers)
    fmt::print("{:<40.40} {:<24} {:>9.3f} {:>6.1f} {:>9} {:>8}\n", (l.branch_of.empty() ? "" : "  ") + l.name, l.kernel, l.ms, l.percent,
               l.gflops > 0 ? fmt::format("{:.1f}", l.gflops) : "", l.limit_percent > 0 ? fmt::format("{:.1f}", l.limit_percent) : "");
  if (limit > 0)
    fmt::print("\nlimit: {:.1f} GFLOP/s of {} arithmetic on {} thread{} (lathe device)\n", limit, precision, threads,
               threads > 1 ? "s" : "");
}

nlohmann::json to_json(const std::vector<Layer>& layers) {
  nlohmann::json list = nlohmann::json::array();
  for (const Layer& l : layers) {
    nlohmann::json j = {{"name", l.name}, {"operator", l.op}, {"kernel", l.kernel}, {"ms", l.ms}, {"percent", l.percent}, {"macs", l.macs}};
    if (!l.branch_of.empty()) j["branch_of"] = l.branch_of;
    if (l.gflops > 0) j["gflops"] = l.gflops;
    if (l.limit_percent > 0) j["limit_percent"] = l.limit_percent;
    list.push_back(j);
  }
  return list;
}

void bench(const Options& o) {
  auto begin = std::chrono::steady_clock::now();
  PlanOptions plan_options;
  plan_options.reference = o.reference;
  plan_options.fuse = !o.no_fuse && !o.reference;
  o.tune.apply(plan_options);
  CompiledModel model = o.model.open(plan_options);
  Session& session = model.session();
  std::vector<Tensor> inputs = random_inputs(session.plan(), o.seed);
  session.run(inputs);
  // What was asked for, or what a .lathe file was packed with.
  std::string precision = model.plan_options().bf16 ? "bf16" : "fp32";
  int64_t batch = model.batch();
  double start_ms = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() * 1e3;
  double start_cpu_ms = process_cpu_seconds() * 1e3;
  bool terminal = ::isatty(2);
  Latency latency = time_session(session, inputs, o.runs, o.seconds, [&](double part) {
    if (terminal) fmt::print(stderr, "\rmeasuring {:3.0f} %", 100 * part);
  });
  if (terminal) fmt::print(stderr, "\r               \r");
  double median = latency.quantile(0.5);
  double throughput = static_cast<double>(batch) * 1e3 / median;
  if (o.layers || !o.profile.empty()) {
    session.set_profiling(true);
    for (int i = 0; i < std::max(o.runs / 2, 5); ++i) session.run(inputs);
  }
  if (!o.profile.empty()) write_trace(o.profile, session);
  double limit = o.layers ? limit_of(host_device(), precision, o.model.threads) : 0;
  if (o.json) {
    nlohmann::json j = {{"model", o.model.model}, {"precision", precision}, {"threads", o.model.threads}, {"batch", batch},
                        {"latency_ms", {{"min", latency.quantile(0)}, {"median", median}, {"p95", latency.quantile(0.95)}, {"p99", latency.quantile(0.99)}}},
                        {"runs", latency.sorted_ms.size()}, {"throughput_per_s", throughput}, {"start_ms", start_ms}, {"start_cpu_ms", start_cpu_ms}, {"run_cpu_ms", latency.least_cpu_ms},
                        {"arena_bytes", session.plan().arena_bytes}, {"rss_bytes", resident_bytes()},
                        {"peak_rss_bytes", peak_resident_bytes()}, {"macs", count_macs(session.plan())}};
    if (o.layers) j["layers"] = to_json(layers_of(session, limit));
    if (limit > 0) j["limit_gflops"] = limit;
    fmt::print("{}\n", j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    return;
  }
  fmt::print("{}: {} runs, batch {}, {} thread{}\n", o.model.model, latency.sorted_ms.size(), batch, o.model.threads, o.model.threads > 1 ? "s" : "");
  fmt::print("  latency    min {:.3f}  median {:.3f}  p95 {:.3f}  p99 {:.3f} ms\n", latency.quantile(0), median, latency.quantile(0.95), latency.quantile(0.99));
  fmt::print("  throughput {:.1f} per second, {:.1f} GFLOP/s\n", throughput, 2e-6 * static_cast<double>(count_macs(session.plan())) / median);
  fmt::print("  start      {:.1f} ms to the first answer\n", start_ms);
  fmt::print("  memory     arena {:.2f} MiB, resident {:.1f} MiB\n", static_cast<double>(session.plan().arena_bytes) / 1048576, static_cast<double>(resident_bytes()) / 1048576);
  if (o.layers) print_layers(layers_of(session, limit), limit, precision, o.model.threads);
}

}  // namespace

void add_bench(CLI::App& app) {
  auto* command = app.add_subcommand("bench", "Measure latency, throughput and memory of a model");
  command->footer("Examples:\n  lathe bench model.onnx\n  lathe bench model.onnx --threads 2 --batch 16 --layers\n"
                  "  lathe bench model.onnx --precision bf16 --json | jq .latency_ms.median\n"
                  "  lathe bench model.onnx --profile trace.json   (open in chrome://tracing)");
  auto o = std::make_shared<Options>();
  o->model.add_to(*command);
  command->add_option("--runs", o->runs, "At least so many runs")->check(CLI::Range(1, 1000000))->capture_default_str();
  command->add_option("--seconds", o->seconds, "And at least so long")->check(CLI::Range(0.0, 3600.0))->capture_default_str();
  command->add_option("--random", o->seed, "Seed of the inputs")->capture_default_str();
  o->model.add_precision(*command);
  command->add_flag("--layers", o->layers, "Time of each layer, and how near it comes to the limit of the machine");
  command->add_flag("--reference", o->reference, "Reference kernels only");
  command->add_flag("--no-fuse", o->no_fuse, "Without fusion and layout passes");
  o->tune.add_to(*command);
  command->add_option("--profile", o->profile, "Write a Chrome trace to this file")->type_name("FILE");
  command->add_flag("--json", o->json, "One JSON object on stdout");
  command->callback([o] { bench(*o); });
}

}  // namespace lathe::cli
