#include "optimize/optimize.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <tuple>

#include "optimize/search.h"
#include "optimize/trials.h"

namespace lathe {
namespace {

using Outcome = Trial::Outcome;

// Rounding in f32 through a deep network stays below this (measured on the shared models: below 10⁻⁵).
constexpr double kReferenceTolerance = 1e-3;
// Of the time, for what single layers do: without it the search learns that from whole candidates.
constexpr double kSensitivityShare = 0.15;
// Those whose speed-up is below this part of the best one's cannot be told to be the fastest by measuring longer.
constexpr double kContender = 0.97;
constexpr size_t kContenders = 6;
constexpr size_t kNearest = 3;

BudgetField field_of(MetricKind kind) {
  switch (kind) {
    case MetricKind::kTop1: return BudgetField::kTop1;
    case MetricKind::kTop5: return BudgetField::kTop5;
    case MetricKind::kMap: return BudgetField::kMap;
    case MetricKind::kIou: return BudgetField::kIou;
    case MetricKind::kCosine: return BudgetField::kCosine;
    default: return BudgetField::kMse;
  }
}

// The metrics that the budget names are measured, and the first of them is the metric where none is given.
OptimizeRequest with_metrics(OptimizeRequest request) {
  for (MetricKind kind : kMetrics) {
    if (!request.budget || !request.budget->asks_for(field_of(kind))) continue;
    if (!request.metric) request.metric = kind;
    if (std::find(request.metrics.begin(), request.metrics.end(), kind) == request.metrics.end()) request.metrics.push_back(kind);
  }
  std::sort(request.metrics.begin(), request.metrics.end());
  return request;
}

// Candidates as points: a dimension for each technique (0: without it, else one of the settings that it was tried with), and one for
// each layer that it lets be chosen.
class CandidateSpace {
 public:
  struct Choice {
    const Technique* technique;
    std::vector<Settings> settings;
    size_t dimension;
  };
  struct Layer {
    size_t choice;  // index of its technique
    const Knob* knob;
    std::string name;
    size_t dimension;
  };

  void add(const Technique& technique, std::vector<Settings> settings, const Candidate& base, const TechniqueContext& context) {
    choices_.push_back({&technique, std::move(settings), dimensions_.size()});
    dimensions_.push_back({technique.key, static_cast<int>(choices_.back().settings.size()) + 1});
    for (const Knob& knob : technique.knobs) {
      if (knob.kind != Knob::Kind::kLayers || knob.choices.size() < 2) continue;
      for (const std::string& layer : knob.layers(base, context)) {
        layers_.push_back({choices_.size() - 1, &knob, layer, dimensions_.size()});
        dimensions_.push_back({technique.key + "." + layer, static_cast<int>(knob.choices.size())});
      }
    }
  }

  const std::vector<Dimension>& dimensions() const { return dimensions_; }
  const std::vector<Choice>& choices() const { return choices_; }
  const std::vector<Layer>& layers() const { return layers_; }

  std::vector<Applied> parts_of(const Point& p) const {
    std::vector<Applied> parts;
    for (size_t i = 0; i < choices_.size(); ++i) {
      const Choice& c = choices_[i];
      if (p[c.dimension] == 0) continue;
      Applied part{c.technique, c.settings[static_cast<size_t>(p[c.dimension]) - 1]};
      for (const Layer& l : layers_) {
        if (l.choice != i || p[l.dimension] == 0) continue;
        LayerChoices set = part.settings.layers(l.knob->name);
        set[l.name] = l.knob->choices[static_cast<size_t>(p[l.dimension])];
        part.settings[l.knob->name] = std::move(set);
      }
      parts.push_back(std::move(part));
    }
    return parts;
  }

  // Of what conflicts the first in the catalogue stays; layers of a technique that is not applied have no choice.
  Point repaired(Point p) const {
    for (size_t i = 0; i < choices_.size(); ++i)
      for (size_t j = 0; j < i; ++j)
        if (p[choices_[i].dimension] && p[choices_[j].dimension] && conflict(*choices_[i].technique, *choices_[j].technique)) p[choices_[i].dimension] = 0;
    for (const Layer& l : layers_)
      if (p[choices_[l.choice].dimension] == 0) p[l.dimension] = 0;
    return p;
  }

 private:
  std::vector<Dimension> dimensions_;
  std::vector<Choice> choices_;
  std::vector<Layer> layers_;
};

class Optimizer {
 public:
  Optimizer(const OptimizeRequest& request, const Device& device) : request_(with_metrics(request)) {
    // A misspelt name is told before anything is measured.
    for (const auto& list : {request_.only, request_.exclude})
      for (const std::string& key : list) find_technique(key);
    trials_ = std::make_unique<Trials>(request_, device);
  }

  Optimization run() {
    result_.metadata = trials_->metadata();
    take_original();
    set_budget();
    try {
      check_reference();
      try_singly();
      look_at_layers();
      search_together();
    } catch (const Stopped& stopped) {
      end(stopped);
    }
    trials_->finish();
    mark_front();
    choose();
    finish();
    return std::move(result_);
  }

 private:
  void end(const Stopped& stopped) { (stopped.by_user ? result_.interrupted : result_.out_of_time) = true; }

  void take_original() {
    Trial t;
    take(t, trials_->original());
    t.outcome = Outcome::kOriginal;
    t.confirmed = Interval{1, 1, 1};
    result_.trials.push_back(t);
    index_[canonical({})] = 0;
  }

  static void take(Trial& t, const Measurement& m) {
    t.quality = m.quality;
    t.speedup = m.speedup;
    t.latency = m.latency;
    t.turns = m.turns;
    t.memory_bytes = m.memory_bytes;
    t.size_bytes = m.size_bytes;
    t.layers = m.layers;
  }

  void set_budget() {
    const Evaluation& e = trials_->evaluation();
    result_.classifies = e.classifies();
    result_.labelled = trials_->data().truth() != Truth::kNone;
    result_.metric = e.metric();
    result_.against_original = e.against_original();
    if (request_.budget) {
      result_.budget = *request_.budget;
      result_.budget_origin = "given";
    } else {
      result_.budget = default_budget(result_.metric, result_.against_original, &result_.budget_origin);
    }
    Figures figures = result_.trials[0].figures();
    if (result_.budget.asks_for(BudgetField::kDrop) && !figures.drop)
      fail(ErrorKind::kUsage, "the budget asks for a drop, which the metric mse has not; use mse<=… or error<=…");
    if (result_.budget.asks_for(BudgetField::kAgreement) && !figures.agreement)
      fail(ErrorKind::kUsage, "the budget asks for agreement, which only classifiers and integer outputs have; use error<=…");
    if (result_.against_original && result_.budget.asks_for(BudgetField::kDrop))
      result_.notices.push_back(fmt::format("there are no labels: {} is measured against the original's answers, and its drop is what no longer agrees", name_of(result_.metric)));
    result_.trials[0].misses = check(result_.budget, figures);
  }

  // That the plan which everything is compared with gives what the plain loops give.
  void check_reference() {
    try {
      result_.reference_error = trials_->reference_error(&result_.reference_note);
    } catch (const Stopped& stopped) {
      if (stopped.by_user) throw;
      result_.reference_note = "not checked: the time limit was reached before";
    }
    if (result_.reference_error && *result_.reference_error > kReferenceTolerance)
      result_.notices.push_back(fmt::format("the original's fast plan differs from the reference kernels by {:.2g} of the output's range on {}: "
                                            "either the network magnifies rounding, or a kernel is wrong", *result_.reference_error, trials_->data().name(0)));
  }

  bool wanted(const Technique& t) const {
    auto has = [&](const std::vector<std::string>& list) { return std::find(list.begin(), list.end(), t.key) != list.end(); };
    return (request_.only.empty() || has(request_.only)) && !has(request_.exclude);
  }

  int trials_left() const { return request_.trials - measured_; }

  // Measures a candidate, once. Its index among the trials.
  size_t attempt(const std::vector<Applied>& parts) {
    const std::string settings = canonical(parts);
    if (auto it = index_.find(settings); it != index_.end()) return it->second;
    Measurement m = trials_->measure(parts);
    ++measured_;
    Trial t;
    t.parts = parts;
    for (const Applied& p : parts) t.techniques.push_back(label_of(*p.technique, p.settings));
    for (const std::string& notice : m.notices)
      if (std::find(result_.notices.begin(), result_.notices.end(), notice) == result_.notices.end()) result_.notices.push_back(notice);
    if (!m.broken.empty()) {
      t.outcome = Outcome::kBroken;
      t.note = m.broken;
    } else {
      take(t, m);
      t.misses = check(result_.budget, t.figures());
      if (!m.same_plan.empty()) {
        t.outcome = Outcome::kSamePlan;
        t.note = fmt::format("planned step for step as {}: nothing to time", m.same_plan);
      } else if (t.speedup->low > 1) {
        t.outcome = Outcome::kFaster;
      } else {
        t.outcome = Outcome::kNotFaster;
        t.note = t.speedup->high < 1 ? "slower than the original" : "not told apart from the original";
      }
    }
    result_.trials.push_back(std::move(t));
    index_[settings] = result_.trials.size() - 1;
    tell_best();
    return result_.trials.size() - 1;
  }

  void tell_best() {
    const Trial* best = nullptr;
    for (const Trial& t : result_.trials)
      if (t.outcome == Outcome::kFaster && t.misses.empty() && (!best || t.speedup->value > best->speedup->value)) best = &t;
    if (best) trials_->tell_best(fmt::format("{}, {:.2f} times as fast", best->name(), best->speedup->value));
  }

  void leave_out(const Technique& t, const std::string& label, Outcome outcome, std::string note) {
    Trial trial;
    trial.parts = {{&t, {}}};
    trial.techniques = {label};
    trial.outcome = outcome;
    trial.note = std::move(note);
    result_.trials.push_back(std::move(trial));
  }

  void try_singly() {
    std::optional<Stopped> stopped;
    for (const Technique& t : catalogue()) {
      if (!wanted(t)) continue;
      if (std::string why = obstacle(t, trials_->base(), trials_->context()); !why.empty()) {
        leave_out(t, t.key, Outcome::kNotApplicable, why);
        continue;
      }
      std::vector<Settings> all = settings_of(t, trials_->base(), trials_->context()), usable;
      for (const Settings& s : all) {
        if (!stopped && trials_left() <= 0) {
          leave_out(t, label_of(t, s), Outcome::kOutOfTime, fmt::format("{} candidates were measured before", request_.trials));
          continue;
        }
        if (!stopped) {
          try {
            if (result_.trials[attempt({{&t, s}})].outcome != Outcome::kBroken) usable.push_back(s);
            continue;
          } catch (const Stopped& s_now) {
            stopped = s_now;
          }
        }
        leave_out(t, label_of(t, s), Outcome::kOutOfTime, stopped->by_user ? "the search was interrupted before" : "the time limit was reached before");
      }
      if (!usable.empty()) space_.add(t, std::move(usable), trials_->base(), trials_->context());
    }
    if (stopped) throw *stopped;
  }

  void look_at_layers() {
    if (trials_left() <= 0) return;
    for (const CandidateSpace::Choice& c : space_.choices()) {
      bool chooses = std::any_of(space_.layers().begin(), space_.layers().end(), [&](const auto& l) { return space_.choices()[l.choice].technique == c.technique; });
      if (!chooses) continue;
      for (const LayerSensitivity& s : trials_->sensitivities({c.technique, c.settings[0]}, kSensitivityShare * request_.time_limit)) effects_[c.technique->key].push_back(s);
    }
  }

  static constexpr size_t kObjectives = 3;  // time and size over the original's, mean error

  Objectives objectives_of_trial(const Trial& t) const {
    return {1 / t.speedup->value, t.quality->mean_error, static_cast<double>(t.size_bytes) / static_cast<double>(std::max<int64_t>(result_.trials[0].size_bytes, 1))};
  }

  Evaluated evaluated(const Point& p, const Trial& t) const {
    if (!t.measured() || t.outcome == Outcome::kBroken) return {p, {}, false};
    return {p, objectives_of_trial(t), t.misses.empty()};
  }

  void search_together() {
    if (space_.dimensions().empty() || trials_left() <= 0) return;
    SearchProblem problem;
    problem.dimensions = space_.dimensions();
    problem.objectives = kObjectives;
    problem.repair = [&](Point p) { return space_.repaired(std::move(p)); };
    Point zeros(space_.dimensions().size(), 0);
    problem.known.push_back(evaluated(zeros, result_.trials[0]));
    for (const CandidateSpace::Choice& c : space_.choices())
      for (size_t s = 0; s < c.settings.size(); ++s) {
        Point p = zeros;
        p[c.dimension] = static_cast<int>(s) + 1;
        problem.known.push_back(evaluated(p, result_.trials[index_.at(canonical(space_.parts_of(p)))]));
      }
    const double original = result_.trials[0].latency.value;
    for (const CandidateSpace::Layer& l : space_.layers())
      for (const LayerSensitivity& s : effects_[space_.choices()[l.choice].technique->key]) {
        if (s.layer != l.name) continue;
        auto it = std::find(l.knob->choices.begin(), l.knob->choices.end(), s.choice);
        if (it == l.knob->choices.end()) continue;
        problem.effects.push_back({l.dimension, static_cast<int>(it - l.knob->choices.begin()), {-s.seconds / original, s.error, 0}});
      }
    for (size_t i = 0; i + 1 < space_.layers().size(); ++i)
      if (space_.layers()[i].choice == space_.layers()[i + 1].choice) problem.pairs.emplace_back(space_.layers()[i].dimension, space_.layers()[i + 1].dimension);
    problem.evaluate = [&](const Point& p) -> std::optional<Evaluated> { return evaluated(p, result_.trials[attempt(space_.parts_of(p))]); };
    for (int level : {0, 1}) problem.proxies.emplace_back([&, level](const Point& p) { return trials_->proxy(space_.parts_of(p), level); });
    search(problem, {trials_left(), request_.seed});
  }

  // Pareto: latency, loss and size.
  void mark_front() {
    for (Trial& t : result_.trials) {
      if (!t.measured() || t.outcome == Outcome::kBroken) continue;
      t.on_front = std::none_of(result_.trials.begin(), result_.trials.end(), [&](const Trial& o) {
        return &o != &t && o.measured() && o.outcome != Outcome::kBroken && dominates(objectives_of_trial(o), objectives_of_trial(t));
      });
    }
  }

  // A second measurement, with other random choices, of those that would be chosen.
  bool confirmed(size_t index) {
    Trial& t = result_.trials[index];
    if (t.outcome != Outcome::kFaster) return true;
    t.confirmed = trials_->confirm(t.parts);
    if (t.confirmed->low > 1) return true;
    t.outcome = Outcome::kNotFaster;
    t.note = "its lead was not seen again in a second measurement";
    return false;
  }

  // How much is done to the network: what does less is preferred to what is not faster beyond doubt.
  static std::tuple<size_t, size_t, double> effort(const Trial& t) {
    size_t exceptions = 0;
    for (const Applied& p : t.parts)
      for (const auto& [name, value] : p.settings)
        if (const auto* layers = std::get_if<LayerChoices>(&value)) exceptions += layers->size();
        else ++exceptions;
    return {t.parts.size(), exceptions, t.quality->mean_error};
  }

  // Of the fastest, in turns with each other.
  std::optional<size_t> fastest() {
    std::vector<size_t> order;
    for (size_t i = 0; i < result_.trials.size(); ++i) {
      const Trial& t = result_.trials[i];
      if (t.outcome == Outcome::kFaster && t.misses.empty()) order.push_back(i);
    }
    if (order.empty()) return std::nullopt;
    auto speed = [&](size_t i) { return result_.trials[i].speedup->value; };
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return speed(a) > speed(b); });
    const double best = speed(order[0]);
    std::erase_if(order, [&](size_t i) { return speed(i) < kContender * best; });
    if (order.size() > kContenders) order.resize(kContenders);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return effort(result_.trials[a]) < effort(result_.trials[b]); });
    size_t incumbent = order[0];
    for (size_t i = 1; i < order.size(); ++i) {
      if (speed(order[i]) <= speed(incumbent)) continue;
      if (trials_->duel(result_.trials[incumbent].parts, result_.trials[order[i]].parts).low > 1) incumbent = order[i];
      else result_.trials[order[i]].note = fmt::format("not told apart from {}", result_.trials[incumbent].name());
    }
    return incumbent;
  }

  void choose() {
    while (std::optional<size_t> best = fastest()) {
      if (!confirmed(*best)) continue;
      result_.chosen = best;
      break;
    }
    if (!result_.chosen) {
      // None is faster: the original before what changes nothing, and that before what is slower.
      auto meets = [&](const Trial& t) { return t.measured() && t.outcome != Outcome::kBroken && t.misses.empty(); };
      for (size_t i = 0; i < result_.trials.size(); ++i) {
        const Trial& t = result_.trials[i];
        if (!meets(t) || (result_.chosen && result_.trials[*result_.chosen].speedup->value >= t.speedup->value)) continue;
        result_.chosen = i;
        if (i == 0) break;
      }
    }
    if (!result_.chosen) find_nearest();
    explain();
  }

  void find_nearest() {
    std::vector<std::pair<double, size_t>> order;
    for (size_t i = 0; i < result_.trials.size(); ++i) {
      const Trial& t = result_.trials[i];
      if (!t.measured() || t.outcome == Outcome::kBroken) continue;
      double excess = 0;
      for (const Miss& m : t.misses) excess += m.limit.excess(m.measured);
      order.emplace_back(excess, i);
    }
    std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 0; i < std::min(kNearest, order.size()); ++i) result_.nearest.push_back(order[i].second);
  }

  static std::string text_of(const std::vector<Miss>& misses) {
    std::string text;
    for (const Miss& m : misses) text += (text.empty() ? "" : "; ") + m.text();
    return text;
  }

  void explain() {
    if (!result_.chosen) {
      const Trial& t = result_.trials[result_.nearest.at(0)];
      result_.reason = fmt::format("No candidate meets the budget. The nearest is {}: {}.", t.name(), text_of(t.misses));
      for (size_t i = 1; i < result_.nearest.size(); ++i)
        result_.reason += fmt::format(" {} {}: {}.", i == 1 ? "Then" : "And", result_.trials[result_.nearest[i]].name(), text_of(result_.trials[result_.nearest[i]].misses));
      return;
    }
    const Trial& t = result_.trials[*result_.chosen];
    const Trial& original = result_.trials[0];
    if (*result_.chosen == 0) {
      result_.reason = "The original is handed back: no candidate that meets the budget is faster than it beyond doubt.";
    } else if (t.outcome == Outcome::kFaster) {
      result_.reason = fmt::format("{} is the fastest of those that meet the budget: {:.2f} times as fast as the original (95 % interval {:.2f} to {:.2f}), measured again {:.2f} ({:.2f} to {:.2f}).",
                                   t.name(), t.speedup->value, t.speedup->low, t.speedup->high, t.confirmed->value, t.confirmed->low, t.confirmed->high);
    } else {
      const Interval shown = t.confirmed.value_or(*t.speedup);
      result_.reason = fmt::format("{} meets the budget, but it is NOT faster than the original (ratio {:.2f}, {:.2f} to {:.2f}). The original does not meet the budget: {}.",
                                   t.name(), shown.value, shown.low, shown.high, text_of(original.misses));
    }
    if (*result_.chosen != 0 && is_share(result_.metric) && t.quality->drop && t.quality->drop->high > 0.01)
      result_.reason += fmt::format(" With {} samples the drop of {} is known only to lie between {:.1f} and {:.1f} points.", t.quality->samples, name_of(result_.metric), 100 * t.quality->drop->low, 100 * t.quality->drop->high);
  }

  void record_layers() {
    std::map<std::string, LayerRecord> records;
    std::vector<std::string> order;
    for (const CandidateSpace::Layer& l : space_.layers()) {
      const Technique& t = *space_.choices()[l.choice].technique;
      std::string id = t.key + "\n" + l.name;
      if (!records.contains(id)) order.push_back(id);
      LayerRecord& r = records[id];
      r.name = l.name;
      r.technique = t.key;
      if (!result_.chosen) continue;
      const Trial& chosen = result_.trials[*result_.chosen];
      bool used = std::any_of(chosen.parts.begin(), chosen.parts.end(), [&](const Applied& p) { return p.technique == &t; });
      if (auto it = chosen.layers.find(l.name); used && it != chosen.layers.end()) {
        r.choice = it->second;
        if (auto bits = l.knob->bits.find(it->second); bits != l.knob->bits.end()) r.bits = bits->second;
      }
    }
    for (const auto& [key, all] : effects_)
      for (const LayerSensitivity& s : all)
        if (auto it = records.find(key + "\n" + s.layer); it != records.end()) it->second.options.push_back({s.choice, s.error, s.seconds});
    for (const std::string& id : order) result_.layer_choices.push_back(std::move(records[id]));
  }

  void finish() {
    if (result_.chosen) {
      result_.best = trials_->candidate(result_.trials[*result_.chosen].parts);
      result_.layers = trials_->layer_times(result_.trials[*result_.chosen].parts);
    }
    record_layers();
    Dataset& data = trials_->data();
    result_.preparation = data.preparation();
    result_.input_shapes = data.input_shapes();
    result_.samples = static_cast<int64_t>(data.size());
    result_.calibration_samples = static_cast<int64_t>(data.calibration_size());
    result_.samples_found = data.found();
    result_.label_offset = trials_->evaluation().label_offset();
    result_.from_store = trials_->store().found();
    result_.measured_now = trials_->store().added();
    result_.seconds = trials_->elapsed();
    if (result_.out_of_time) result_.notices.emplace_back("the time limit was reached: not everything was tried");
    if (result_.interrupted) result_.notices.emplace_back("the search was interrupted: the result is the best of what was measured until then");
  }

  const OptimizeRequest request_;
  std::unique_ptr<Trials> trials_;
  CandidateSpace space_;
  std::map<std::string, std::vector<LayerSensitivity>> effects_;  // by technique
  std::map<std::string, size_t> index_;                           // of trials, by canonical()
  int measured_ = 0;
  Optimization result_;
};

}  // namespace

Figures Trial::figures() const {
  Figures f;
  f.latency = latency.value;
  f.memory = static_cast<double>(memory_bytes);
  f.size = static_cast<double>(size_bytes);
  if (!quality) return f;
  f.error = quality->largest_error;
  if (quality->drop) f.drop = quality->drop->value;
  if (quality->agreement) f.agreement = quality->agreement->value;
  for (const auto& [kind, value] : quality->scores) {
    std::optional<double>* all[] = {&f.top1, &f.top5, &f.map, &f.iou, &f.cosine, &f.mse};
    *all[static_cast<int>(kind)] = value.value;
  }
  return f;
}

std::string Trial::name() const { return techniques.empty() ? "original" : fmt::format("{}", fmt::join(techniques, " + ")); }

Budget default_budget(MetricKind metric, bool against_original, std::string* why) {
  if (is_share(metric) && !against_original) {
    *why = fmt::format("default for labelled data: at most a point of {}", metric == MetricKind::kTop1 ? "accuracy" : name_of(metric));
    return parse_budget("drop<=1%");
  }
  if (metric == MetricKind::kTop1) {
    *why = "default without labels: nearly always the original's class";
    return parse_budget("agreement>=99%");
  }
  if (is_share(metric)) {
    *why = fmt::format("default without labels: nearly the original's answers, by {}", name_of(metric));
    return parse_budget("drop<=1%");
  }
  // bf16 has 8 bits: through some tens of layers it stays below this on the shared models.
  *why = "default for networks that do not classify: outputs near the original's";
  return parse_budget("error<=5%");
}

Optimization optimize(const OptimizeRequest& request, const Device& device) {
  try {
    return Optimizer(request, device).run();
  } catch (const Stopped&) {
    fail(ErrorKind::kInput, "interrupted before the original was measured: there is no result");
  }
}

}  // namespace lathe
