#include "optimize/optimize.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>

#include "runtime/load.h"

namespace lathe {
namespace {

using Clock = std::chrono::steady_clock;
using Outcome = Trial::Outcome;

// The reference kernels are plain loops; beyond so many multiply–accumulates one inference takes long
// (they do some 10⁸ a second).
constexpr int64_t kReferenceMacs = int64_t{2} << 30;
// Rounding in f32 through a deep network stays below this (measured on the shared models: below 10⁻⁵).
constexpr double kReferenceTolerance = 1e-3;

class Search {
 public:
  Search(const OptimizeRequest& request, const Device& device)
      : request_(request), context_{device, request.threads}, model_(import_onnx(request.model)), data_(make_data()) {
    base_.graph = model_.graph;
    base_.threads = request.threads;
    base_.options.kernel_times = request.kernel_times;
  }

  Optimization run() {
    result_.metadata = model_.metadata;
    for (const auto& list : {request_.only, request_.exclude})
      for (const std::string& key : list) find_technique(key);
    measure_original();
    set_budget();
    check_reference();
    try_singly();
    combine();
    mark_front();
    choose();
    if (result_.chosen) profile();
    finish();
    return std::move(result_);
  }

 private:
  Dataset make_data() {
    DatasetOptions options = request_.dataset;
    options.seed = request_.seed;
    return Dataset(request_.data, request_.model, model_.graph, options);
  }

  double elapsed() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }
  bool late() {
    if (elapsed() > request_.time_limit) result_.out_of_time = true;
    return result_.out_of_time;
  }
  Evaluation::Progress progress(const std::string& stage) {
    if (request_.progress) request_.progress({stage, 0});
    return [this, stage](double part) {
      if (request_.progress) request_.progress({stage, part});
    };
  }

  void measure_original() {
    auto tell = progress("running the original on the data");
    original_ = std::make_unique<Runner>(base_, data_.input_shapes());
    evaluation_ = std::make_unique<Evaluation>(*original_, data_, tell);
    Trial t;
    t.outcome = Outcome::kOriginal;
    t.quality = evaluation_->compare(*original_);
    t.speedup = t.confirmed = Interval{1, 1, 1};
    t.memory_bytes = original_->memory_bytes();
    t.size_bytes = size_of_file(base_);
    PairedTimes times = time_pairs(*original_, *original_, data_, {request_.seconds_per_candidate / 2, 31, request_.seed, nullptr});
    t.latency = times.first_seconds;
    t.turns = static_cast<int>(times.first.size());
    result_.trials.push_back(t);
    candidates_.push_back(base_);
  }

  void set_budget() {
    result_.classifies = evaluation_->classifies();
    result_.labelled = data_.labelled();
    if (request_.budget) {
      result_.budget = *request_.budget;
      result_.budget_origin = "given";
    } else {
      result_.budget = default_budget(result_.classifies, result_.labelled, &result_.budget_origin);
    }
    Figures figures = result_.trials[0].figures();
    if (result_.budget.asks_for(BudgetField::kDrop) && !figures.drop)
      fail(ErrorKind::kUsage, "the budget asks for a drop of accuracy, which needs {}", result_.labelled
           ? "a network with one output of class scores; use error<=…" : "labels (labels.tsv or a subfolder for each class); use agreement>=…");
    if (result_.budget.asks_for(BudgetField::kAgreement) && !figures.agreement)
      fail(ErrorKind::kUsage, "the budget asks for agreement, which only classifiers and integer outputs have; use error<=…");
    result_.trials[0].misses = check(result_.budget, figures);
  }

  // That the plan which everything is compared with gives what the plain loops give.
  void check_reference() {
    int64_t macs = count_macs(original_->plan());
    if (macs > kReferenceMacs) {
      result_.reference_note = fmt::format("not checked: {:.1f} GMAC take too long in the reference kernels", static_cast<double>(macs) * 1e-9);
      return;
    }
    auto tell = progress("checking the original against the reference kernels");
    std::vector<Tensor> fast;
    for (const Tensor& t : original_->run(data_.inputs(0))) fast.push_back(t.clone());
    Candidate plain = base_;
    plain.options.reference = true;
    plain.options.fuse = false;
    Runner reference(plain, data_.input_shapes());
    result_.reference_error = largest_relative_error(fast, reference.run(data_.inputs(0)));
    if (*result_.reference_error > kReferenceTolerance)
      result_.notices.push_back(fmt::format("the original's fast plan differs from the reference kernels by {:.2g} of the output's range on {}: "
                                            "either the network magnifies rounding, or a kernel is wrong", *result_.reference_error, data_.name(0)));
  }

  int64_t size_of_file(const Candidate& c) {
    namespace fs = std::filesystem;
    std::string pattern = (fs::temp_directory_path() / "lathe-size-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) fail(ErrorKind::kInput, "no folder can be made in {}", fs::temp_directory_path().string());
    struct Folder {
      std::string path;
      ~Folder() { std::error_code ignored; fs::remove_all(path, ignored); }
    } folder{pattern};
    export_onnx(c.graph, folder.path + "/model.onnx", plan_metadata(c.options));
    return static_cast<int64_t>(fs::file_size(folder.path + "/model.onnx"));
  }

  bool wanted(const Technique& t) const {
    auto has = [&](const std::vector<std::string>& list) { return std::find(list.begin(), list.end(), t.key) != list.end(); };
    return (request_.only.empty() || has(request_.only)) && !has(request_.exclude);
  }

  // Measures a candidate against the original and, when given, against `rival`: what is added must pay. `exact`:
  // what was done to the original (to the rival, if there is one) changes no weights. Returns the index of its trial.
  size_t attempt(Candidate candidate, std::vector<std::string> keys, bool exact, Runner* rival = nullptr, size_t rival_trial = 0, Interval* over_rival = nullptr) {
    Trial t;
    t.techniques = std::move(keys);
    std::string name = t.name();
    auto store = [&](Outcome outcome, std::string note) {
      t.outcome = outcome;
      t.note = std::move(note);
      result_.trials.push_back(t);
      candidates_.push_back(std::move(candidate));
      return result_.trials.size() - 1;
    };
    if (late()) return store(Outcome::kOutOfTime, "the time limit was reached before");
    auto tell = progress("measuring " + name);
    try {
      auto runner = std::make_unique<Runner>(candidate, data_.input_shapes());
      for (const std::string& notice : runner->plan().notices)
        if (std::find(result_.notices.begin(), result_.notices.end(), notice) == result_.notices.end()) result_.notices.push_back(notice);
      t.memory_bytes = runner->memory_bytes();
      t.size_bytes = size_of_file(candidate);
      size_t same_as = rival ? rival_trial : 0;
      if (exact && runner->signature() == (rival ? *rival : *original_).signature()) {
        t.quality = result_.trials[same_as].quality;
        t.speedup = result_.trials[same_as].speedup;
        t.latency = result_.trials[same_as].latency;
        t.misses = check(result_.budget, t.figures());
        return store(Outcome::kSamePlan, fmt::format("planned step for step as {}: nothing to time", result_.trials[same_as].name()));
      }
      t.quality = evaluation_->compare(*runner, [&](double part) { tell(part / 2); });
      if (!t.quality->finite) {
        t.misses = check(result_.budget, t.figures());
        return store(Outcome::kBroken, "its answers hold NaN or infinities where the original's do not");
      }
      PairedTimes times = time_pairs(*original_, *runner, data_, timing(name));
      t.speedup = times.ratio;
      t.latency = times.second_seconds;
      t.turns = static_cast<int>(times.first.size());
      if (rival) *over_rival = time_pairs(*rival, *runner, data_, timing(name)).ratio;
      t.misses = check(result_.budget, t.figures());
      if (t.speedup->low > 1) return store(Outcome::kFaster, "");
      return store(Outcome::kNotFaster, t.speedup->high < 1 ? "slower than the original" : "not told apart from the original");
    } catch (const Error& e) {
      t.quality.reset();
      return store(Outcome::kBroken, e.what());
    }
  }

  PairedTimesOptions timing(const std::string& name) {
    PairedTimesOptions options;
    options.seconds = request_.seconds_per_candidate;
    // Seeds that differ between candidates, the same from run to run.
    options.seed = request_.seed;
    for (unsigned char c : name) options.seed = options.seed * 1099511628211u + c;
    options.stop = [this] { return late(); };
    return options;
  }

  void try_singly() {
    for (const Technique& t : catalogue()) {
      if (!wanted(t)) continue;
      std::string why = obstacle(t, base_, context_);
      if (!why.empty()) {
        Trial trial;
        trial.techniques = {t.key};
        trial.outcome = Outcome::kNotApplicable;
        trial.note = why;
        result_.trials.push_back(trial);
        candidates_.push_back({});
        continue;
      }
      for (const Settings& s : settings_of(t, base_, context_)) {
        Candidate c = base_;
        t.apply(c, s, context_);
        c.applied = {label_of(t, s)};
        size_t index = attempt(std::move(c), {label_of(t, s)}, t.exact);
        steps_.push_back({&t, s, index});
      }
    }
  }

  struct Step {
    const Technique* technique;
    Settings settings;
    size_t trial;
  };

  // Limits on speed and size may be met in company; those on answers are not bettered by adding to them.
  bool keeps_answers(size_t index) const {
    return std::none_of(result_.trials[index].misses.begin(), result_.trials[index].misses.end(), [](const Miss& m) {
      return m.limit.field == BudgetField::kDrop || m.limit.field == BudgetField::kError || m.limit.field == BudgetField::kAgreement;
    });
  }

  // Greedy: to the fastest, the others are added one by one, best first, and stay when the company is faster
  // with them than without. Those that did not win alone are tried too: other kernels may be the best for bf16.
  void combine() {
    std::vector<Step> order;
    for (const Step& s : steps_)
      if (Outcome o = result_.trials[s.trial].outcome; o != Outcome::kBroken && o != Outcome::kOutOfTime && keeps_answers(s.trial)) order.push_back(s);
    std::stable_sort(order.begin(), order.end(), [&](const Step& a, const Step& b) {
      bool first = result_.trials[a.trial].outcome == Outcome::kFaster, second = result_.trials[b.trial].outcome == Outcome::kFaster;
      if (first != second) return first;
      return result_.trials[a.trial].speedup->value > result_.trials[b.trial].speedup->value;
    });
    if (order.empty() || result_.trials[order[0].trial].outcome != Outcome::kFaster) return;
    std::vector<Step> team{order[0]};
    size_t incumbent_trial = order[0].trial;
    auto incumbent = std::make_unique<Runner>(candidates_[incumbent_trial], data_.input_shapes());
    for (size_t i = 1; i < order.size() && !late(); ++i) {
      std::vector<Step> together = team;
      together.push_back(order[i]);
      if (!compatible(together)) continue;
      std::stable_sort(together.begin(), together.end(), [](const Step& a, const Step& b) { return a.technique->stage < b.technique->stage; });
      Candidate c = base_;
      for (const Step& s : together) {
        s.technique->apply(c, s.settings, context_);
        c.applied.push_back(label_of(*s.technique, s.settings));
      }
      Interval gain{0, 0, 0};
      std::vector<std::string> keys = c.applied;
      size_t index = attempt(std::move(c), std::move(keys), order[i].technique->exact, incumbent.get(), incumbent_trial, &gain);
      Trial& t = result_.trials[index];
      if (t.outcome != Outcome::kFaster || !keeps_answers(index)) continue;
      if (gain.low <= 1) {
        t.outcome = Outcome::kNotFaster;  // than what does less to the network
        t.note = fmt::format("not told apart from {}", result_.trials[incumbent_trial].name());
        continue;
      }
      incumbent = std::make_unique<Runner>(candidates_[index], data_.input_shapes());
      incumbent_trial = index;
      team = std::move(together);
    }
  }

  static bool compatible(const std::vector<Step>& team) {
    for (const Step& a : team)
      for (const Step& b : team) {
        if (&a == &b) continue;
        if (conflict(*a.technique, *b.technique)) return false;  // one setting of a technique at a time
      }
    return true;
  }

  // Pareto: latency against loss.
  void mark_front() {
    auto loss = [](const Trial& t) { return t.quality->largest_error; };
    for (Trial& t : result_.trials) {
      if (!t.measured() || t.outcome == Outcome::kBroken) continue;
      t.on_front = std::none_of(result_.trials.begin(), result_.trials.end(), [&](const Trial& o) {
        if (&o == &t || !o.measured() || o.outcome == Outcome::kBroken) return false;
        bool no_worse = o.speedup->value >= t.speedup->value && loss(o) <= loss(t);
        return no_worse && (o.speedup->value > t.speedup->value || loss(o) < loss(t));
      });
    }
  }

  // A second measurement, with other random choices, of those that would be chosen.
  bool confirmed(size_t index) {
    Trial& t = result_.trials[index];
    if (t.outcome != Outcome::kFaster) return true;
    auto tell = progress("confirming " + t.name());
    Runner runner(candidates_[index], data_.input_shapes());
    PairedTimesOptions options = timing("confirm " + t.name());
    options.stop = nullptr;  // the answer depends on it: it is not cut short
    t.confirmed = time_pairs(*original_, runner, data_, options).ratio;
    if (t.confirmed->low > 1) return true;
    t.outcome = Outcome::kNotFaster;
    t.note = "its lead was not seen again in a second measurement";
    return false;
  }

  void choose() {
    auto meets = [&](const Trial& t) { return t.measured() && t.outcome != Outcome::kBroken && t.misses.empty(); };
    std::vector<size_t> order;
    for (size_t i = 0; i < result_.trials.size(); ++i)
      if (meets(result_.trials[i])) order.push_back(i);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      const Trial &x = result_.trials[a], &y = result_.trials[b];
      bool first = x.outcome == Outcome::kFaster, second = y.outcome == Outcome::kFaster;
      if (first != second) return first;
      if (first) return x.speedup->value > y.speedup->value;
      // None is faster: the original before what changes nothing, and that before what is slower.
      if ((a == 0) != (b == 0)) return a == 0;
      return x.speedup->value > y.speedup->value;
    });
    for (size_t index : order) {
      bool was_faster = result_.trials[index].outcome == Outcome::kFaster;
      if (!confirmed(index) && was_faster && order.size() > 1) continue;
      result_.chosen = index;
      break;
    }
    // Everything that looked faster failed its second measurement: the best of what remains.
    if (!result_.chosen && !order.empty()) result_.chosen = meets(result_.trials[0]) ? 0 : order[0];
    if (!result_.chosen) find_nearest();
    explain();
  }

  void find_nearest() {
    double least = INFINITY;
    for (size_t i = 0; i < result_.trials.size(); ++i) {
      const Trial& t = result_.trials[i];
      if (!t.measured() || t.outcome == Outcome::kBroken) continue;
      double excess = 0;
      for (const Miss& m : t.misses) excess += m.limit.excess(m.measured);
      if (excess < least) {
        least = excess;
        result_.nearest = i;
      }
    }
  }

  void explain() {
    if (!result_.chosen) {
      const Trial& t = result_.trials[*result_.nearest];
      std::string by;
      for (const Miss& m : t.misses) by += (by.empty() ? "" : "; ") + m.text();
      result_.reason = fmt::format("No candidate meets the budget. The nearest is {}: {}.", t.name(), by);
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
      std::string why;
      for (const Miss& m : original.misses) why += (why.empty() ? "" : "; ") + m.text();
      result_.reason = fmt::format("{} meets the budget, but it is NOT faster than the original (ratio {:.2f}, {:.2f} to {:.2f}). The original does not meet the budget: {}.",
                                   t.name(), shown.value, shown.low, shown.high, why);
    }
    if (t.quality->drop && t.quality->drop->high > 0.01 && *result_.chosen != 0)
      result_.reason += fmt::format(" With {} samples the drop of accuracy is known only to lie between {:.1f} and {:.1f} points.", t.quality->samples, 100 * t.quality->drop->low, 100 * t.quality->drop->high);
  }

  // Time of each layer of the chosen plan and of the original's, in turns.
  void profile() {
    result_.best = candidates_[*result_.chosen];
    Runner best(result_.best, data_.input_shapes());
    constexpr int kRuns = 10;
    for (Runner* r : {original_.get(), &best}) r->session().set_profiling(true);
    for (int i = 0; i < kRuns; ++i)
      for (Runner* r : {original_.get(), &best}) r->run(data_.inputs(static_cast<size_t>(i) % data_.size()));
    auto each = [](const StepTime& t) { return t.runs ? t.seconds / static_cast<double>(t.runs) : 0; };
    std::map<std::string, double> before;
    auto name_of_step = [](const Plan& p, size_t s) {
      const Node& n = p.graph[p.steps[s].node];
      return n.name.empty() ? p.graph[n.outputs[0]].name : n.name;
    };
    const Plan &old = original_->plan(), &plan = best.plan();
    for (size_t s = 0; s < old.steps.size(); ++s) before[name_of_step(old, s)] += each(original_->session().step_times()[s]);
    for (size_t s = 0; s < plan.steps.size(); ++s) {
      const Node& n = plan.graph[plan.steps[s].node];
      LayerTime t{name_of_step(plan, s), n.op->name, plan.steps[s].kernel_name, std::string(name_of(plan.graph[n.outputs[0]].dtype)),
                  each(best.session().step_times()[s]), std::nullopt};
      if (auto it = before.find(t.name); it != before.end()) t.original_seconds = it->second;
      result_.layers.push_back(std::move(t));
    }
  }

  void finish() {
    result_.preparation = data_.preparation();
    result_.input_shapes = data_.input_shapes();
    result_.samples = static_cast<int64_t>(data_.size());
    result_.samples_found = data_.found();
    result_.label_offset = evaluation_->label_offset();
    result_.seconds = elapsed();
    if (result_.out_of_time) result_.notices.emplace_back("the time limit was reached: not everything was tried");
  }

  const OptimizeRequest& request_;
  TechniqueContext context_;
  Clock::time_point begin_ = Clock::now();
  Model model_;
  Dataset data_;
  Candidate base_;
  std::unique_ptr<Runner> original_;
  std::unique_ptr<Evaluation> evaluation_;
  std::vector<Candidate> candidates_;  // by trial; empty where not applicable
  std::vector<Step> steps_;            // techniques tried alone
  Optimization result_;
};

}  // namespace

Figures Trial::figures() const {
  Figures f;
  f.latency = latency.value;
  f.memory = static_cast<double>(memory_bytes);
  f.size = static_cast<double>(size_bytes);
  if (quality) {
    f.error = quality->largest_error;
    if (quality->drop) f.drop = quality->drop->value;
    if (quality->agreement) f.agreement = quality->agreement->value;
  }
  return f;
}

std::string Trial::name() const { return techniques.empty() ? "original" : fmt::format("{}", fmt::join(techniques, " + ")); }

Budget default_budget(bool classifies, bool labelled, std::string* why) {
  if (classifies && labelled) {
    *why = "default for labelled data: at most a point of accuracy";
    return parse_budget("drop<=1%");
  }
  if (classifies) {
    *why = "default without labels: nearly always the original's class";
    return parse_budget("agreement>=99%");
  }
  // bf16 has 8 bits: through some tens of layers it stays below this on the shared models.
  *why = "default for networks that do not classify: outputs near the original's";
  return parse_budget("error<=5%");
}

Optimization optimize(const OptimizeRequest& request, const Device& device) { return Search(request, device).run(); }

}  // namespace lathe
