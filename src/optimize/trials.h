// Measuring candidates against the original, each thing once: what the store has is taken from there, and everything that a decision
// rests on goes through it. A Measurement does not know the budget, so that another budget asks for no new one.
//
//   Trials trials(request, device);
//   Measurement m = trials.measure({{&find_technique("bf16"), {}}});
//   Interval lead = trials.duel(first, second);
#pragma once

#include <chrono>
#include <list>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "optimize/optimize.h"
#include "optimize/store.h"

namespace lathe {

struct Measurement {
  std::string broken;               // why it could not be measured; "" when it was
  std::string same_plan;            // label of the candidate that is planned step for step the same, and whose times these are
  Interval latency, speedup;        // seconds; paired, against the original
  int turns = 0;
  int64_t memory_bytes = 0, size_bytes = 0;
  Quality quality;
  std::string signature;            // digest of Runner::signature()
  LayerChoices layers;
  std::vector<std::string> notices; // of planning
};
nlohmann::json to_json(const Measurement& m);
Measurement measurement_from_json(const nlohmann::json& j);
nlohmann::json to_json(const Quality& q);
Quality quality_from_json(const nlohmann::json& j);

std::string label_of(const std::vector<Applied>& parts);  // "bf16 + tuned"; "original" for none

// Thrown out of a measurement that the user or the clock ends; what it would have given is not kept.
struct Stopped {
  bool by_user;
};

class Trials {
 public:
  // Reads model and data, measures the original. Throws Error for everything that makes the search impossible, and Stopped.
  Trials(const OptimizeRequest& request, const Device& device);

  const Measurement& original() const { return original_; }
  // Throws Stopped, and Error kInput: that is the data's or the store's fault and no candidate's.
  Measurement measure(const std::vector<Applied>& parts);
  bool known(const std::vector<Applied>& parts) { return known_.contains(canonical(parts)); }
  // Of a few samples and turns: relative time, mean error, relative size. Nothing when it cannot be planned or run.
  std::optional<std::vector<double>> proxy(const std::vector<Applied>& parts, int level);
  // How many times as fast `second` is as `first`.
  Interval duel(const std::vector<Applied>& first, const std::vector<Applied>& second);
  // The speed-up over the original measured again with other random choices.
  Interval confirm(const std::vector<Applied>& parts);
  // What each choice of each layer does to the network with `part` alone applied (LayerSensitivity); measured layer by layer where
  // the technique does not say. Takes `seconds` at most; layers beyond that are left out.
  std::vector<LayerSensitivity> sensitivities(const Applied& part, double seconds);
  std::vector<LayerTime> layer_times(const std::vector<Applied>& parts);
  // Largest difference of the original's plan from the reference kernels on one sample; a note instead where it was not taken.
  std::optional<double> reference_error(std::string* note);

  // Valid until the next call. The last few are kept: fitting one to data takes long.
  const Candidate& candidate(const std::vector<Applied>& parts);
  const Candidate& base() const { return base_; }
  const TechniqueContext& context() const { return context_; }
  Dataset& data() { return data_; }
  const Evaluation& evaluation() const { return *evaluation_; }
  const std::map<std::string, std::string>& metadata() const { return model_.metadata; }
  TrialStore& store() { return store_; }
  double elapsed() const;
  // The time is up, or the user has had enough.
  bool over() const { return !finishing_ && (stopped_by_user() || elapsed() > request_.time_limit); }
  bool stopped_by_user() const { return request_.stop && request_.stop(); }
  // From now on nothing is cut short: the answer depends on what is measured last.
  void finish() { finishing_ = true; }
  Evaluation::Progress progress(const std::string& stage) const;
  void tell_best(const std::string& text) { best_ = text; }

 private:
  template <class F>
  nlohmann::json stored(const std::string& kind, const std::string& settings, F measure);
  TrialKey key(const std::string& kind, const std::string& settings) const;
  Measurement measure_now(const std::vector<Applied>& parts);
  Runner& runner_of(const std::vector<Applied>& parts);
  PairedTimesOptions timing(const std::string& name, double part = 1) const;
  PairedTimes time_against(Runner& first, Runner& second, Dataset& data, const PairedTimesOptions& options) const;
  void stop_if_asked() const;

  const OptimizeRequest& request_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  TrialStore store_;  // before all that takes long: a file that cannot be used is told at once
  Model model_;
  Dataset data_;
  TechniqueContext context_;
  Candidate base_;
  std::string model_digest_, data_digest_, conditions_, best_;
  std::unique_ptr<Runner> runner_;  // of the original
  std::unique_ptr<Evaluation> evaluation_;
  Measurement original_;
  std::map<std::string, Measurement> known_;  // by canonical()
  std::list<std::pair<std::string, Candidate>> composed_;  // by canonical(), the last used first
  // The last candidate that was planned: duels and confirmations come in a row.
  std::string planned_;
  bool finishing_ = false;
  std::unique_ptr<Runner> planned_runner_;
};

}  // namespace lathe
