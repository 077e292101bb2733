// The search: tries techniques alone and together, measures each against the original, keeps what wins and
// meets the budget.
//
//   Optimization result = optimize({.model = "net.onnx", .data = "pictures", .budget = parse_budget("drop<=1%")}, device);
//   write_result(result, request, "out");           // report.h
//
// The original is the untouched model as lathe plans it in fp32. A candidate is kept as faster only when the
// whole 95 % interval of its paired ratio is beyond 1; of several that are, the plainest stays unless another is faster than it
// beyond doubt, in turns with it; and the chosen one is measured a second time, with other random choices, because the best of
// several is partly the luckiest.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/onnx.h"
#include "optimize/budget.h"
#include "optimize/evaluate.h"
#include "optimize/technique.h"

namespace lathe {

struct OptimizeProgress {
  std::string stage;  // "measuring bf16"
  double part = 0;    // of the stage
  std::string best;   // so far: "bf16, 1.51 times as fast"; "" before anything is
};

struct OptimizeRequest {
  std::string model, data;
  DatasetOptions dataset = {.preprocess = {}, .labels = "", .limit = 500, .calibration = 100, .seed = 1};  // the seed below is taken
  std::optional<MetricKind> metric;         // nothing: default_metric()
  std::vector<MetricKind> metrics;          // others that are wanted too; those that the budget names are added
  std::optional<Budget> budget;             // nothing: default_budget()
  std::vector<std::string> only, exclude;   // techniques, by key
  int threads = 1;
  uint64_t seed = 1;
  int trials = 40;                          // candidates measured in full, at most
  double time_limit = 600;                  // seconds of this run; what was measured until then is used
  double seconds_per_candidate = 2;         // of timing
  std::string store;                        // file of trials (store.h); "": none
  std::string kernel_times;                 // see PlanOptions
  std::function<void(const OptimizeProgress&)> progress = nullptr;
  std::function<bool()> stop = nullptr;     // true: end as soon as can be, with what there is
  // How two networks are timed against each other; nothing: in turns, on this machine (time_pairs()).
  std::function<PairedTimes(Runner& first, Runner& second, Dataset&, const PairedTimesOptions&)> timer = nullptr;
};

struct Trial {
  std::vector<Applied> parts;           // empty: the original
  std::vector<std::string> techniques;  // their labels
  enum class Outcome { kOriginal, kFaster, kNotFaster, kSamePlan, kBroken, kNotApplicable, kOutOfTime } outcome = Outcome::kOriginal;
  std::string note;                     // why not, in a sentence
  std::optional<Interval> speedup;      // paired, against the original
  std::optional<Interval> confirmed;    // the same, measured again
  Interval latency;                     // seconds
  int turns = 0;
  int64_t memory_bytes = 0, size_bytes = 0;
  std::optional<Quality> quality;
  LayerChoices layers;
  std::vector<Miss> misses;             // limits of the budget that it does not meet
  bool on_front = false;                // no other is faster, nearer to the original and smaller
  bool measured() const { return quality.has_value(); }
  Figures figures() const;
  std::string name() const;             // "original", "bf16 + tuned"
};

struct LayerTime {
  std::string name, op, kernel, type;
  double seconds = 0;
  std::optional<double> original_seconds;  // of the layer of that name, where the original has one
};

// What is known of a layer whose precision could be chosen.
struct LayerRecord {
  std::string name, technique;
  std::string choice;                // in the chosen candidate; "": it does not use the technique
  int bits = 0;                      // of a weight under it; 0: not told
  struct Option {
    std::string choice;
    double error = 0, seconds = 0;   // LayerSensitivity
  };
  std::vector<Option> options;       // those whose effect was measured
};

struct Optimization {
  Budget budget;
  std::string budget_origin;     // who set it: "given", or why the default is what it is
  MetricKind metric = MetricKind::kTop1;
  bool against_original = true;  // no labels: the original's answers are the truth
  std::vector<Trial> trials;     // the original first
  std::optional<size_t> chosen;  // nothing: no candidate meets the budget
  std::vector<size_t> nearest;   // then: those that miss it by least, the nearest first
  std::string reason;            // why this one, in a few sentences
  Candidate best;                // the chosen one; the network to be written
  std::vector<LayerTime> layers; // of the chosen one, in the order of the plan
  std::vector<LayerRecord> layer_choices;
  std::map<std::string, std::string> metadata;  // of the model given
  std::map<std::string, Shape> input_shapes;    // of one sample
  std::string preparation;       // of the data
  int64_t samples = 0, calibration_samples = 0, samples_found = 0, label_offset = 0;
  bool classifies = false, labelled = false, out_of_time = false, interrupted = false;
  std::optional<double> reference_error;  // of the original's plan against the reference kernels, one sample
  std::string reference_note;             // why it was not checked, or what it means
  int64_t measured_now = 0, from_store = 0;  // measurements
  double seconds = 0;
  std::vector<std::string> notices;
};

// What is asked for when the user sets no budget: with a metric that is a share, at most a point of it; for classifiers without
// labels nearly always the original's class; else outputs near the original's.
Budget default_budget(MetricKind metric, bool against_original, std::string* why);

// Throws Error when nothing can be measured (budgets that cannot be checked, unreadable data, a store that cannot be written), and
// when `stop` says so before the original was.
Optimization optimize(const OptimizeRequest& request, const Device& device);

}  // namespace lathe
