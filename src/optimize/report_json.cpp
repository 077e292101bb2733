#include <cmath>
#include <nlohmann/json.hpp>

#include "optimize/report.h"

namespace lathe {
namespace {

using nlohmann::json;

// JSON has no infinities and no NaN.
json number(double x) { return std::isfinite(x) ? json(x) : json(nullptr); }
json interval(const Interval& i, double factor = 1) {
  return {{"value", number(i.value * factor)}, {"low", number(i.low * factor)}, {"high", number(i.high * factor)}};
}
json optional_interval(const std::optional<Interval>& i) { return i ? interval(*i) : json(nullptr); }

std::string name_of(Trial::Outcome outcome) {
  constexpr const char* names[] = {"original", "faster", "not faster", "same plan", "broken", "not applicable", "out of time"};
  return names[static_cast<int>(outcome)];
}

json trial_json(const Trial& t) {
  json j = {{"name", t.name()}, {"techniques", t.techniques}, {"outcome", name_of(t.outcome)}, {"note", t.note}, {"measured", t.measured()}};
  if (!t.measured()) return j;
  const Quality& q = *t.quality;
  json misses = json::array(), scores = json::object();
  for (const auto& [kind, value] : q.scores) scores[std::string(name_of(kind))] = interval(value);
  for (const Miss& m : t.misses)
    misses.push_back({{"limit", m.limit.text()}, {"measured", number(m.measured)}, {"text", m.text()}});
  j.update({{"latency_ms", interval(t.latency, 1e3)}, {"speedup", optional_interval(t.speedup)}, {"confirmed_speedup", optional_interval(t.confirmed)},
            {"turns", t.turns}, {"memory_bytes", t.memory_bytes}, {"size_bytes", t.size_bytes}, {"samples", q.samples},
            {"finite", q.finite}, {"largest_error", number(q.largest_error)}, {"mean_error", number(q.mean_error)},
            {"signal_to_noise_db", q.signal_to_noise ? number(*q.signal_to_noise) : json(nullptr)},
            {"agreement", optional_interval(q.agreement)}, {"accuracy", optional_interval(q.accuracy)}, {"metrics", scores}, {"drop", optional_interval(q.drop)},
            {"layers", t.layers}, {"meets_budget", t.misses.empty()}, {"misses", misses}, {"on_front", t.on_front}});
  return j;
}

}  // namespace

json report_json(const Optimization& r, const OptimizeRequest& request, const Device& device, const ReportContext& context) {
  const Trial& original = r.trials[0];
  json nearest = json::array(), choices = json::array();
  for (size_t i : r.nearest) nearest.push_back({{"name", r.trials[i].name()}, {"misses", trial_json(r.trials[i])["misses"]}});
  for (const LayerRecord& l : r.layer_choices) {
    json options = json::array();
    for (const auto& o : l.options) options.push_back({{"choice", o.choice}, {"error", number(o.error)}, {"ms", number(o.seconds * 1e3)}});
    choices.push_back({{"name", l.name}, {"technique", l.technique}, {"choice", l.choice}, {"bits", l.bits}, {"effects", options}});
  }
  json trials = json::array(), front = json::array(), limits = json::array(), layers = json::array();
  for (const Trial& t : r.trials) {
    trials.push_back(trial_json(t));
    if (t.on_front) front.push_back(t.name());
  }
  for (const Limit& l : r.budget.limits)
    limits.push_back({{"field", name_of(l.field)}, {"strict", l.strict}, {"value", l.value}, {"text", l.text()}});
  for (const LayerTime& l : r.layers)
    layers.push_back({{"name", l.name}, {"operator", l.op}, {"kernel", l.kernel}, {"type", l.type}, {"ms", l.seconds * 1e3},
                      {"original_ms", l.original_seconds ? json(*l.original_seconds * 1e3) : json(nullptr)}});
  json best = nullptr;
  if (r.chosen) {
    const Trial& t = r.trials[*r.chosen];
    // The second measurement is the one that choosing the best of several did not favour.
    const Interval speedup = t.confirmed.value_or(t.speedup.value_or(Interval{1, 1, 1}));
    best = {{"name", t.name()}, {"techniques", t.techniques}, {"speedup", interval(speedup)}, {"latency_ms", t.latency.value * 1e3},
            {"drop", t.quality->drop ? json(t.quality->drop->value) : json(nullptr)}, {"largest_error", number(t.quality->largest_error)},
            {"agreement", t.quality->agreement ? json(t.quality->agreement->value) : json(nullptr)},
            {"size_ratio", static_cast<double>(t.size_bytes) / static_cast<double>(std::max<int64_t>(original.size_bytes, 1))},
            {"metric", t.quality->scores.contains(r.metric) ? interval(t.quality->scores.at(r.metric)) : json(nullptr)}, {"threads", r.best.threads}};
  }
  return {{"lathe", context.version}, {"command", context.command}, {"model", request.model},
          {"machine", {{"name", device.name}, {"identity", context.machine}, {"threads", request.threads}, {"load_before", context.load_before}, {"load_after", context.load_after}}},
          {"data", {{"path", request.data}, {"samples", r.samples}, {"calibration", r.calibration_samples}, {"found", r.samples_found}, {"preparation", r.preparation},
                    {"labelled", r.labelled}, {"classifies", r.classifies}, {"label_offset", r.label_offset}}},
          {"budget", {{"text", to_string(r.budget)}, {"origin", r.budget_origin}, {"limits", limits}}},
          {"metric", {{"name", name_of(r.metric)}, {"against", r.against_original ? "the original's answers" : "labels"}, {"higher_is_better", higher_is_better(r.metric)}, {"share", is_share(r.metric)}}},
          {"store", {{"path", request.store}, {"measured", r.measured_now}, {"found", r.from_store}}},
          {"seed", request.seed}, {"seconds", r.seconds}, {"out_of_time", r.out_of_time}, {"interrupted", r.interrupted}, {"reason", r.reason},
          {"reference_check", {{"largest_error", r.reference_error ? number(*r.reference_error) : json(nullptr)}, {"note", r.reference_note}}},
          {"baseline", trials[0]}, {"best", best}, {"nearest", r.nearest.empty() ? json(nullptr) : json(r.trials[r.nearest[0]].name())}, {"nearest_candidates", nearest},
          {"trials", trials}, {"front", front}, {"layers", layers}, {"layer_choices", choices}, {"notices", r.notices}};
}

}  // namespace lathe
