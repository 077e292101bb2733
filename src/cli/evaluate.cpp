#include <fmt/format.h>

#include <unistd.h>

#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "optimize/assess.h"
#include "options.h"
#include "runtime/load.h"
#include "tasks/classify.h"

namespace lathe::cli {
namespace {

struct Options {
  std::string model, data, metric, against, names, precision;
  DatasetOptions dataset;
  PictureOptions picture;
  int threads = 1;
  int64_t worst = 10;
  bool json = false;
};

// The network with what the file says of its own planning.
Candidate network_of(const std::string& path, const Options& o) {
  Model model = load_model(path);
  Candidate c;
  c.options = plan_options_for(model, {}, [&](PlanOptions& plan) {
    if (!o.precision.empty()) plan.bf16 = o.precision == "bf16", plan.bf16_marked = false;
  });
  c.graph = std::move(model.graph);
  c.threads = o.threads;
  return c;
}

// Inputs of both are given in their order.
std::map<std::string, Shape> shapes_for(const Candidate& other, const Candidate& first, const std::map<std::string, Shape>& shapes, const std::string& name) {
  std::map<std::string, Shape> result;
  if (other.graph.inputs.size() != first.graph.inputs.size())
    fail(ErrorKind::kInput, "{} takes {} inputs, the other model {}", name, other.graph.inputs.size(), first.graph.inputs.size());
  for (size_t i = 0; i < other.graph.inputs.size(); ++i) {
    const Value &v = other.graph[other.graph.inputs[i]], &w = first.graph[first.graph.inputs[i]];
    if (v.dtype != w.dtype) fail(ErrorKind::kInput, "{}: input '{}' is {}, that of the other model {}", name, v.name, name_of(v.dtype), name_of(w.dtype));
    result[v.name] = shapes.at(w.name);
  }
  return result;
}

std::string score_text(MetricKind kind, const Interval& i) {
  const double unit = is_share(kind) ? 100 : 1;
  return is_share(kind) ? fmt::format("{:.2f} % ({:.2f} to {:.2f})", i.value * unit, i.low * unit, i.high * unit) : fmt::format("{:.6g} ({:.6g} to {:.6g})", i.value, i.low, i.high);
}

class ClassNames {
 public:
  explicit ClassNames(const std::string& file, int64_t offset) : offset_(offset) {
    if (!file.empty()) names_ = read_labels(file);
  }
  // Numbered as the network does.
  std::string of(int64_t c) const {
    int64_t at = c - offset_;
    if (c < 0) return "?";
    if (offset_ > 0 && c == 0) return "0 (background)";
    return at < static_cast<int64_t>(names_.size()) && !names_[static_cast<size_t>(at)].empty() ? fmt::format("{} ({})", at, names_[static_cast<size_t>(at)]) : std::to_string(at);
  }

 private:
  std::vector<std::string> names_;
  int64_t offset_;
};

void print(const Options& o, const Dataset& data, const Assessment& a) {
  const ClassNames names(o.names, a.label_offset);
  fmt::print("{}: {} samples{}, {}\n", o.model, a.samples, data.found() > a.samples ? fmt::format(" drawn from {}", data.found()) : "", data.preparation());
  for (const auto& [kind, value] : a.scores) fmt::print("{:<8} {}  against {}\n", name_of(kind), score_text(kind, value), a.against_labels ? "labels" : o.against);
  if (a.label_offset) fmt::print("the network's class 0 is the background: classes are numbered as the labels do\n");
  if (a.calibration_error)
    fmt::print("calibration error {:.2f} % (15 bins); mean confidence {:.2f} %\n", 100 * *a.calibration_error, 100 * a.mean_confidence);
  if (!a.confusion.empty()) fmt::print("most confused, of {} pairs:\n", a.confused_pairs);
  for (const Confusion& c : a.confusion) fmt::print("  {:>4}  {} taken for {}\n", c.count, names.of(c.truth), names.of(c.predicted));
  if (!a.other) return;
  const Assessment::Other& other = *a.other;
  fmt::print("\nagainst {}:\n", o.against);
  if (a.against_labels)
    for (const auto& [kind, value] : other.scores) fmt::print("  its {:<6} {}\n", name_of(kind), score_text(kind, value));
  if (other.drop && a.against_labels) {
    const double unit = is_share(a.metric) ? 100 : 1;
    fmt::print("  drop of {} {:.3g}{} ({:.3g} to {:.3g})\n", name_of(a.metric), unit * other.drop->value, unit > 1 ? " points" : "", unit * other.drop->low, unit * other.drop->high);
  }
  if (other.mcnemar) fmt::print("  right only there {}, only here {}: McNemar's p {:.3g}\n", other.lost, other.won, *other.mcnemar);
  if (other.agreement) fmt::print("  same class on {:.2f} % ({:.2f} to {:.2f})\n", 100 * other.agreement->value, 100 * other.agreement->low, 100 * other.agreement->high);
  fmt::print("  largest difference {:.3g} % of the output's range, mean over samples {:.3g} %\n", 100 * other.largest_error, 100 * other.mean_error);
  for (size_t i = 0; i < std::min<size_t>(other.differences.size(), static_cast<size_t>(o.worst)); ++i) {
    const Disagreement& d = other.differences[i];
    if (a.classifies) {
      fmt::print("  {}: here {}, there {}{}\n", d.sample, names.of(d.first), names.of(d.second), d.truth < 0 ? "" : fmt::format(", truth {}", names.of(d.truth + a.label_offset)));
    } else {
      fmt::print("  {}: {:.3g} %\n", d.sample, 100 * d.largest_error);
    }
  }
  if (a.classifies && other.different > o.worst) fmt::print("  … {} samples in all (--json lists them)\n", other.different);
}

void evaluate_command(Options& o) {
  omp_set_num_threads(o.threads);
  o.dataset.preprocess = o.picture.choices;
  Candidate first = network_of(o.model, o);
  Dataset data(o.data, o.model, first.graph, o.dataset);
  const auto shapes = data.input_shapes();
  Runner network(first, shapes);
  std::unique_ptr<Runner> other;
  if (!o.against.empty()) {
    Options plain = o;
    plain.precision.clear();
    Candidate second = network_of(o.against, plain);
    other = std::make_unique<Runner>(second, shapes_for(second, first, shapes, o.against));
  }
  AssessOptions options;
  options.worst = static_cast<size_t>(o.worst);
  if (!o.metric.empty()) options.metric = parse_metric(o.metric);
  const bool shows = ::isatty(2) != 0;
  if (shows) options.progress = [](double part) { fmt::print(stderr, "\r{:3.0f} %", 100 * part); };
  Assessment a = assess(network, other.get(), data, options);
  if (shows) fmt::print(stderr, "\r\033[K");
  if (!o.json) {
    print(o, data, a);
    return;
  }
  nlohmann::json j = {{"model", o.model}, {"data", o.data}, {"found", data.found()}, {"preparation", data.preparation()}, {"seed", o.dataset.seed}};
  j.update(to_json(a));
  if (a.other) j["other"]["model"] = o.against;
  fmt::print("{}\n", j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
}

}  // namespace

void add_evaluate(CLI::App& app) {
  auto* command = app.add_subcommand("evaluate", "Measure how good a model's answers are, alone or against another model");
  command->footer(
      "Examples:\n  lathe evaluate model.onnx --data pictures\n  lathe evaluate small.onnx --data pictures --against model.onnx\n"
      "  lathe evaluate detector.onnx --data pictures --labels boxes.json --metric map\n"
      "  lathe evaluate model.onnx --data inputs.npz --labels classes.npy --json | jq .value\n\n"
      "Intervals are of 95 %. With labels: accuracy, the classes that are confused most, and the calibration error (how far the\n"
      "network's confidence is from how often it is right). --against compares sample by sample; a small McNemar's p says\n"
      "that the two differ by more than chance. Labels are given as for lathe optimize.");
  auto o = std::make_shared<Options>();
  command->add_option("MODEL", o->model, "An ONNX file, or a .lathe file with its model inside")->required()->type_name("FILE");
  command->add_option("--data", o->data, "Folder of pictures or arrays, or one .npy or .npz file")->required();
  command->add_option("--labels", o->dataset.labels, "What is known of the samples, instead of labels.tsv, labels.json or labels/ in the folder")->type_name("FILE");
  command->add_option("--metric", o->metric, "What answers are measured by (as the model and the labels suggest)")->check(CLI::IsMember({"top1", "top5", "map", "iou", "cosine", "mse"}));
  command->add_option("--against", o->against, "Another model, which gets the same inputs")->type_name("FILE");
  command->add_option("--names", o->names, "Names of the classes, one a line")->type_name("FILE");
  command->add_option("--samples", o->dataset.limit, "At most so many samples, drawn by the seed")->check(CLI::Range(int64_t{1}, int64_t{1000000}))->capture_default_str();
  command->add_option("--worst", o->worst, "Pairs of classes and samples to tell")->check(CLI::Range(int64_t{0}, int64_t{100000}))->capture_default_str();
  command->add_option("--seed", o->dataset.seed, "Of the samples that are drawn")->capture_default_str();
  command->add_option("--threads", o->threads, "Threads")->check(CLI::Range(1, 1024))->capture_default_str();
  command->add_option("--precision", o->precision, "fp32 or bf16, of MODEL (as the model says, else fp32)")->check(CLI::IsMember({"fp32", "bf16"}));
  o->picture.add_to(*command);
  command->add_flag("--json", o->json, "One JSON object on stdout");
  command->callback([o] { evaluate_command(*o); });
}

}  // namespace lathe::cli
