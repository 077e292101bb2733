// The search: tries techniques alone and together, measures each against the original, keeps what wins and
// meets the budget.
//
//   Optimization result = optimize({.model = "net.onnx", .data = "pictures", .budget = parse_budget("drop<=1%")}, device);
//   write_result(result, request, "out");           // report.h
//
// The original is the untouched model as lathe plans it in fp32. A candidate is kept as faster only when the
// whole 95 % interval of its paired ratio is beyond 1, and the chosen one is measured a second time, with
// other random choices, because the best of several is partly the luckiest.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "formats/onnx.h"
#include "optimize/budget.h"
#include "optimize/evaluate.h"

namespace lathe {

struct OptimizeProgress {
  std::string stage;  // "measuring bf16"
  double part = 0;    // of the stage
};

struct OptimizeRequest {
  std::string model, data;
  DatasetOptions dataset;
  std::optional<Budget> budget;             // nothing: default_budget()
  std::vector<std::string> only, exclude;   // techniques, by key
  int threads = 1;
  uint64_t seed = 1;
  double time_limit = 600;                  // seconds; what was measured until then is used
  double seconds_per_candidate = 2;         // of timing
  std::string kernel_times;                 // see PlanOptions
  std::function<void(const OptimizeProgress&)> progress = nullptr;
};

struct Trial {
  std::vector<std::string> techniques;  // empty: the original
  enum class Outcome { kOriginal, kFaster, kNotFaster, kSamePlan, kBroken, kNotApplicable, kOutOfTime } outcome = Outcome::kOriginal;
  std::string note;                     // why not, in a sentence
  std::optional<Interval> speedup;      // paired, against the original
  std::optional<Interval> confirmed;    // the same, measured again
  Interval latency;                     // seconds
  int turns = 0;
  int64_t memory_bytes = 0, size_bytes = 0;
  std::optional<Quality> quality;
  std::vector<Miss> misses;             // limits of the budget that it does not meet
  bool on_front = false;                // no other is faster and nearer to the original
  bool measured() const { return quality.has_value(); }
  Figures figures() const;
  std::string name() const;             // "original", "bf16 + tuned"
};

struct LayerTime {
  std::string name, op, kernel, type;
  double seconds = 0;
  std::optional<double> original_seconds;  // of the layer of that name, where the original has one
};

struct Optimization {
  Budget budget;
  std::string budget_origin;     // who set it: "given", or why the default is what it is
  std::vector<Trial> trials;     // the original first
  std::optional<size_t> chosen;  // nothing: no candidate meets the budget
  std::optional<size_t> nearest; // then: the one that misses it by least
  std::string reason;            // why this one, in a few sentences
  Candidate best;                // the chosen one; the network to be written
  std::vector<LayerTime> layers; // of the chosen one, in the order of the plan
  std::map<std::string, std::string> metadata;  // of the model given
  std::map<std::string, Shape> input_shapes;    // of one sample
  std::string preparation;       // of the data
  int64_t samples = 0, samples_found = 0, label_offset = 0;
  bool classifies = false, labelled = false, out_of_time = false;
  std::optional<double> reference_error;  // of the original's plan against the reference kernels, one sample
  std::string reference_note;             // why it was not checked, or what it means
  double seconds = 0;
  std::vector<std::string> notices;
};

// What is asked for when the user sets no budget: a drop of at most a point with labels, else nearly the
// same answers.
Budget default_budget(bool classifies, bool labelled, std::string* why);

Optimization optimize(const OptimizeRequest& request, const Device& device);

}  // namespace lathe
