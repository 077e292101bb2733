#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "host_device.h"
#include "kernels/probe.h"
#include "optimize/report.h"
#include "optimize/store.h"
#include "options.h"

namespace lathe::cli {
namespace {

struct Options {
  OptimizeRequest request;
  PictureOptions picture;
  std::string budget, output, metric, store, time_limit = "10m";
  bool json = false, force = false;
};

// "90", "90s", "10m", "1h"
double parse_duration(const std::string& text) {
  size_t end = 0;
  double value = -1;
  try {
    value = std::stod(text, &end);
  } catch (const std::exception&) {
  }
  std::string unit = text.substr(end);
  double factor = unit.empty() || unit == "s" ? 1 : unit == "m" ? 60 : unit == "h" ? 3600 : -1;
  if (!(value > 0 && value < 1e9) || factor < 0) fail(ErrorKind::kUsage, "--time {}: expected a time such as 90s, 10m or 1h", text);
  return value * factor;
}

double load_average() {
  double load = 0;
  return ::getloadavg(&load, 1) == 1 ? load : 0;
}

std::atomic<bool> interrupted{false};

// While it lives, the first Ctrl-C (or SIGTERM) asks the search to end with what it has; the next one ends the process as ever.
class Interruptible {
 public:
  Interruptible() {
    struct sigaction action = {};
    action.sa_handler = [](int number) {
      interrupted = true;
      ::sigaction(number, &before_[number == SIGTERM], nullptr);
    };
    for (int number : {SIGINT, SIGTERM}) {
      struct sigaction& before = before_[number == SIGTERM];
      if (::sigaction(number, nullptr, &before) == 0 && before.sa_handler != SIG_IGN) ::sigaction(number, &action, nullptr);
    }
  }
  ~Interruptible() {
    for (int number : {SIGINT, SIGTERM}) ::sigaction(number, &before_[number == SIGTERM], nullptr);
  }
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;

 private:
  static struct sigaction before_[2];
};
struct sigaction Interruptible::before_[2];

// A bar on a terminal; elsewhere a line for each stage.
class Bar {
 public:
  void operator()(const OptimizeProgress& p) {
    if (!terminal_) {
      if (p.stage != stage_) fmt::print(stderr, "{}{}\n", p.stage, p.best.empty() || p.best == best_ ? "" : " (best: " + p.best + ")");
      best_ = p.best;
    } else if (p.stage != stage_ || p.part >= part_ + 0.01) {
      constexpr int kWidth = 24;
      int full = static_cast<int>(p.part * kWidth);
      fmt::print(stderr, "\r\033[K[{:=<{}}{: <{}}] {}{}", "", full, "", kWidth - full, p.stage, p.best.empty() ? "" : " (best: " + p.best + ")");
    }
    if (p.stage == stage_ && p.part < part_ + 0.01) return;
    stage_ = p.stage;
    part_ = p.part;
  }
  void clear() const {
    if (terminal_) fmt::print(stderr, "\r\033[K");
  }

 private:
  bool terminal_ = ::isatty(2);
  std::string stage_, best_;
  double part_ = 0;
};

std::string cell(const nlohmann::json& j, double factor, const char* format) {
  if (j.is_null() || j["value"].is_null()) return "";
  return fmt::format(fmt::runtime(format), j["value"].get<double>() * factor, j["low"].get<double>() * factor, j["high"].get<double>() * factor);
}

void print_table(const nlohmann::json& report) {
  const auto& metric = report["metric"];
  const std::string name = metric["name"].get<std::string>();
  const bool drop = !report["baseline"]["drop"].is_null();
  const double unit = metric["share"].get<bool>() ? 100 : 1;
  fmt::print("{}: {} samples for evaluation and {} others for calibration, split by the seed; {} thread{}, seed {}\n"
             "metric: {}, against {}\nbudget: {} ({})\n\n", report["model"].get<std::string>(), report["data"]["samples"].get<int64_t>(),
             report["data"]["calibration"].get<int64_t>(),
             report["machine"]["threads"].get<int>(), report["machine"]["threads"].get<int>() > 1 ? "s" : "", report["seed"].get<uint64_t>(),
             name, metric["against"].get<std::string>(), report["budget"]["text"].get<std::string>(), report["budget"]["origin"].get<std::string>());
  size_t width = 9;
  for (const auto& t : report["trials"]) width = std::max(width, t["name"].get<std::string>().size());
  fmt::print("{:<{}} {:>24} {:>10} {:>9} {:>9} {:>9}  {:<30} verdict\n", "candidate", width, "speed-up (95 %)", "ms", "file MB", "error %", "agree %", drop ? fmt::format("drop of {}{} (95 %)", name, unit > 1 ? ", points" : "") : "");
  for (const auto& t : report["trials"]) {
    std::string verdict = t["outcome"].get<std::string>();
    if (!t["note"].get<std::string>().empty()) verdict += ": " + t["note"].get<std::string>();
    if (!t["measured"].get<bool>()) {
      fmt::print("{:<{}} {:>24} {:>10} {:>9} {:>9} {:>9}  {:<30} {}\n", t["name"].get<std::string>(), width, "", "", "", "", "", "", verdict);
      continue;
    }
    for (const auto& m : t["misses"]) verdict += "; " + m["text"].get<std::string>();
    fmt::print("{:<{}} {:>24} {:>10.3f} {:>9.2f} {:>9} {:>9}  {:<30} {}\n", t["name"].get<std::string>(), width, cell(t["speedup"], 1, "{:.3f} ({:.3f} to {:.3f})"),
               t["latency_ms"]["value"].get<double>(), t["size_bytes"].get<double>() / 1e6,
               t["largest_error"].is_null() ? "" : fmt::format("{:.2g}", 100 * t["largest_error"].get<double>()),
               cell(t["agreement"], 100, "{:.2f}"), drop ? cell(t["drop"], unit, unit > 1 ? "{:.2f} ({:.2f} to {:.2f})" : "{:.2g} ({:.2g} to {:.2g})") : "", verdict);
  }
  fmt::print("\n{}\n", report["reason"].get<std::string>());
}

void optimize_command(Options& o, const std::string& command) {
  OptimizeRequest& request = o.request;
  if (!o.budget.empty()) request.budget = parse_budget(o.budget);
  request.time_limit = parse_duration(o.time_limit);
  request.dataset.preprocess = o.picture.choices;
  if (!o.metric.empty()) request.metric = parse_metric(o.metric);
  request.store = o.store.empty() ? default_trial_store() : o.store == "none" ? "" : o.store;
  request.stop = [] { return interrupted.load(); };
  check_output(o.output, o.force);
  Bar bar;
  request.progress = [&](const OptimizeProgress& p) { bar(p); };
  ReportContext context{kVersion, command, host_identity(), load_average(), 0};
  fmt::print(stderr, "seed {}\n", request.seed);
  Device device = host_device();
  Optimization result;
  Interruptible interruptible;
  try {
    result = optimize(request, device);
  } catch (...) {
    bar.clear();
    throw;
  }
  bar.clear();
  context.load_after = load_average();
  nlohmann::json report = report_json(result, request, device, context);
  write_result(result, report, o.output, o.force);
  for (const std::string& notice : result.notices) fmt::print(stderr, "lathe: note: {}\n", notice);
  if (o.json) fmt::print("{}\n", report.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  else print_table(report);
  if (!result.chosen) fail(ErrorKind::kBudget, "{} The report is in {}.", result.reason, o.output);
  if (!o.json) fmt::print("written: {0}/model.onnx, {0}/report.html, {0}/report.json\n", o.output);
}

}  // namespace

void add_optimize(CLI::App& app) {
  auto* command = app.add_subcommand("optimize", "Find the best form of a model for this machine, by measurement");
  command->footer(
      "Examples:\n  lathe optimize model.onnx --data pictures -o out\n"
      "  lathe optimize model.onnx --data pictures --budget \"latency<=5ms, drop<=1%\" -o out --threads 2\n"
      "  lathe optimize model.onnx --data inputs.npz --budget \"error<=2%, size<=10MB\" -o out --force\n"
      "  lathe optimize model.onnx --data pictures --techniques bf16,tuned --time 2m -o out --json\n"
      "  lathe optimize detector.onnx --data pictures --labels boxes.json --metric map -o out\n\n"
      "Data: a folder of pictures (with labels.tsv: FILE<tab>CLASS<tab>NAME; or one subfolder a class), .npy or .npz.\n"
      "Labels of pictures: such a table, FILE<tab>CLASS<tab>X0<tab>Y0<tab>X1<tab>Y1, a COCO file of boxes, or a folder of\n"
      "PNG maps of classes; of arrays: a .npy of classes. Without labels the original's answers are the measure.\n"
      "Some samples are held back for calibration, and candidates are compared on the others alone.\n"
      "Budget: latency (ms, us, s), memory and size (kB, MB, MiB), drop (% or points), error (%), mse with <= or <,\n"
      "agreement, top1, top5, map, iou (%), cosine with >= or >. Without one: drop<=1% with labels, agreement>=99%\n"
      "for classifiers without, else error<=5%.\n"
      "Ctrl-C ends the search with what it has; asked again, it goes on from the store.\n"
      "Exit code 3: nothing meets the budget; OUT then holds the report alone.");
  auto o = std::make_shared<Options>();
  OptimizeRequest& r = o->request;
  command->add_option("MODEL", r.model, "An ONNX file")->required();
  command->add_option("--data", r.data, "Folder of pictures or arrays, or one .npy or .npz file")->required();
  command->add_option("-o,--output", o->output, "Folder to write, which must not exist")->required();
  command->add_flag("--force", o->force, "Replace an earlier result");
  command->add_option("--budget", o->budget, "What the result must keep to");
  command->add_option("--labels", r.dataset.labels, "What is known of the samples (see below), instead of labels.tsv, labels.json or labels/ in the folder")->type_name("FILE");
  command->add_option("--metric", o->metric, "What answers are measured by (as the model and the labels suggest)")->check(CLI::IsMember({"top1", "top5", "map", "iou", "cosine", "mse"}));
  command->add_option("--samples", r.dataset.limit, "At most so many samples for evaluation, drawn by the seed")->check(CLI::Range(int64_t{1}, int64_t{1000000}))->capture_default_str();
  command->add_option("--calibration", r.dataset.calibration, "So many others that techniques may be fitted to, at most a quarter of all")->check(CLI::Range(int64_t{0}, int64_t{1000000}))->capture_default_str();
  command->add_option("--techniques", r.only, "Only these")->delimiter(',');
  command->add_option("--exclude", r.exclude, "All but these")->delimiter(',');
  command->add_option("--threads", r.threads, "Threads that may be used")->check(CLI::Range(1, 1024))->capture_default_str();
  command->add_option("--seed", r.seed, "Of every random choice")->capture_default_str();
  command->add_option("--trials", r.trials, "Measure at most so many candidates")->check(CLI::Range(1, 100000))->capture_default_str();
  command->add_option("--time,--time-limit", o->time_limit, "Stop trying after this long")->capture_default_str();
  command->add_option("--store", o->store, "Where every measurement is kept, so that none is made twice and a search goes on where it was; none: nowhere (trials.db in the user's cache folder)")->type_name("FILE");
  command->add_option("--seconds", r.seconds_per_candidate, "Time each candidate for so long")->check(CLI::Range(0.0, 3600.0))->capture_default_str();
  command->add_option("--cache", r.kernel_times, "Where kernel times are kept ($LATHE_CACHE, else kernels.db in the user's cache folder)");
  o->picture.add_to(*command);
  command->add_flag("--json", o->json, "report.json on stdout");
  command->callback([o] { optimize_command(*o, command_line()); });
}

}  // namespace lathe::cli
