#include "optimize/trials.h"

#include <xxhash.h>

#include <algorithm>
#include <cmath>

#include "core/file.h"
#include "kernels/kernel.h"
#include "kernels/probe.h"
#include "runtime/load.h"

namespace lathe {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

// The reference kernels are plain loops; beyond so many multiply–accumulates one inference takes long
// (they do some 10⁸ a second).
constexpr int64_t kReferenceMacs = int64_t{2} << 30;
// Samples and share of the timing of each level of proxies.
constexpr size_t kProxySamples[] = {8, 32};
constexpr double kProxyTime[] = {0.1, 0.3};
constexpr size_t kSensitivitySamples = 8;
// Candidates that are kept: those that stand for one election by proxies, and the winner.
constexpr size_t kComposed = 5;
constexpr double kSensitivityTime = 0.05;

std::string digest_of(std::string_view bytes) {
  XXH128_hash_t h = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", h.high64, h.low64);
}

// Of the file, and of the constants where they lie in others.
std::string digest_of_model(const std::string& path, const Model& model) {
  auto map = MappedFile::open(path);
  std::string text = digest_of({reinterpret_cast<const char*>(map->data()), map->size()});
  if (!model.external_data) return text;
  for (size_t i = 0; i < model.graph.value_count(); ++i) {
    const Value& v = model.graph[ValueId{static_cast<int32_t>(i)}];
    if (v.is_constant()) text += digest_of({v.constant.data<char>(), v.constant.bytes()});
  }
  return digest_of(text);
}

json to_json(const Interval& i) { return {i.value, i.low, i.high}; }
Interval interval_from_json(const json& j) { return {j.at(0).get<double>(), j.at(1).get<double>(), j.at(2).get<double>()}; }
json to_json(const std::optional<Interval>& i) { return i ? to_json(*i) : json(nullptr); }
std::optional<Interval> optional_interval(const json& j) { return j.is_null() ? std::nullopt : std::optional(interval_from_json(j)); }

}  // namespace

json to_json(const Quality& q) {
  json scores = json::object();
  for (const auto& [kind, value] : q.scores) scores[std::string(name_of(kind))] = to_json(value);
  return {{"samples", q.samples}, {"finite", q.finite}, {"largest_error", q.largest_error}, {"mean_error", q.mean_error},
          {"signal_to_noise", q.signal_to_noise ? json(*q.signal_to_noise) : json(nullptr)}, {"agreement", to_json(q.agreement)},
          {"accuracy", to_json(q.accuracy)}, {"drop", to_json(q.drop)}, {"scores", scores}};
}

Quality quality_from_json(const json& j) {
  Quality q;
  q.samples = j.at("samples").get<int64_t>();
  q.finite = j.at("finite").get<bool>();
  q.largest_error = j.at("largest_error").get<double>();
  q.mean_error = j.at("mean_error").get<double>();
  if (!j.at("signal_to_noise").is_null()) q.signal_to_noise = j.at("signal_to_noise").get<double>();
  q.agreement = optional_interval(j.at("agreement"));
  q.accuracy = optional_interval(j.at("accuracy"));
  q.drop = optional_interval(j.at("drop"));
  for (const auto& [name, value] : j.at("scores").items()) q.scores[parse_metric(name)] = interval_from_json(value);
  return q;
}

json to_json(const Measurement& m) {
  return {{"broken", m.broken}, {"same_plan", m.same_plan}, {"latency", to_json(m.latency)}, {"speedup", to_json(m.speedup)}, {"turns", m.turns},
          {"memory", m.memory_bytes}, {"size", m.size_bytes}, {"quality", to_json(m.quality)}, {"signature", m.signature}, {"layers", m.layers}, {"notices", m.notices}};
}

Measurement measurement_from_json(const json& j) {
  Measurement m;
  m.broken = j.at("broken").get<std::string>();
  m.same_plan = j.at("same_plan").get<std::string>();
  m.latency = interval_from_json(j.at("latency"));
  m.speedup = interval_from_json(j.at("speedup"));
  m.turns = j.at("turns").get<int>();
  m.memory_bytes = j.at("memory").get<int64_t>();
  m.size_bytes = j.at("size").get<int64_t>();
  m.quality = quality_from_json(j.at("quality"));
  m.signature = j.at("signature").get<std::string>();
  m.layers = j.at("layers").get<LayerChoices>();
  m.notices = j.at("notices").get<std::vector<std::string>>();
  return m;
}

std::string label_of(const std::vector<Applied>& parts) {
  std::string text;
  for (const Applied& p : parts) text += (text.empty() ? "" : " + ") + label_of(*p.technique, p.settings);
  return text.empty() ? "original" : text;
}

Trials::Trials(const OptimizeRequest& request, const Device& device)
    : request_(request), store_(request.store), model_(import_onnx(request.model)),
      data_(request.data, request.model, model_.graph,
            [&] {
              DatasetOptions options = request.dataset;
              options.seed = request.seed;
              return options;
            }()),
      context_{.device = device, .threads = request.threads} {
  base_.graph = model_.graph;
  base_.threads = request.threads;
  base_.options.kernel_times = request.kernel_times;
  auto tell = progress("running the original on the data");
  // A sample that cannot be read is the user's to mend and no technique's fault.
  for (size_t i = 0; i < data_.calibration_size(); ++i) data_.inputs(data_.size() + i);
  data_digest_ = data_.digest();
  model_digest_ = digest_of_model(request.model, model_);
  runner_ = std::make_unique<Runner>(base_, data_.input_shapes());
  evaluation_ = std::make_unique<Evaluation>(*runner_, data_, tell, request.metric, request.metrics);
  std::vector<std::string> metrics;
  for (MetricKind kind : request.metrics) metrics.emplace_back(name_of(kind));
  conditions_ = json({{"threads", request.threads}, {"seconds", request.seconds_per_candidate}, {"samples", data_.size()}, {"calibration", data_.calibration_size()},
                      {"preparation", data_.preparation()}, {"metric", name_of(evaluation_->metric())}, {"metrics", metrics}, {"packing", packing_identity()}}).dump();
  context_.input_shapes = data_.input_shapes();
  context_.seed = request.seed;
  context_.calibration = {.count = data_.calibration_size(), .labelled = data_.labelled(),
                          .inputs = [this](size_t i) { return data_.inputs(data_.size() + i); },
                          .label = [this](size_t i) {
                            int64_t label = data_.label(data_.size() + i);
                            return label < 0 ? label : label + evaluation_->label_offset();
                          }};
  context_.recorded = [this](const std::string& what, const std::function<std::vector<double>()>& measure) {
    return stored("technique", what, [&] { return json(measure()); }).get<std::vector<double>>();
  };
  context_.progress = [this](double) {
    if (over()) throw Stopped{stopped_by_user()};
  };
  original_ = measurement_from_json(stored("original", canonical({}), [&] {
    Measurement m;
    m.quality = evaluation_->compare(*runner_);
    m.memory_bytes = runner_->memory_bytes();
    m.size_bytes = static_cast<int64_t>(onnx_bytes(base_.graph, plan_metadata(base_.options)).size());
    m.signature = digest_of(runner_->signature());
    PairedTimes times = time_against(*runner_, *runner_, data_, timing("original", 0.5));
    m.latency = times.first_seconds;
    m.speedup = {1, 1, 1};
    m.turns = static_cast<int>(times.first.size());
    return to_json(m);
  }));
  known_[canonical({})] = original_;
}

double Trials::elapsed() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }

void Trials::stop_if_asked() const {
  if (!finishing_ && stopped_by_user()) throw Stopped{true};
}

Evaluation::Progress Trials::progress(const std::string& stage) const {
  stop_if_asked();
  if (request_.progress) request_.progress({stage, 0, best_});
  return [this, stage](double part) {
    stop_if_asked();
    if (request_.progress) request_.progress({stage, part, best_});
  };
}

TrialKey Trials::key(const std::string& kind, const std::string& settings) const {
  return {kind, model_digest_, data_digest_, settings, conditions_, host_identity(), fmt::format("{}, techniques {}", kernel_build(), LATHE_TECHNIQUE_SOURCES), request_.seed};
}

template <class F>
json Trials::stored(const std::string& kind, const std::string& settings, F measure) {
  const TrialKey k = key(kind, settings);
  if (std::optional<json> found = store_.find(k)) return *found;
  if (kind != "original" && over()) throw Stopped{stopped_by_user()};
  json result = measure();
  // Cut short, it would be another measurement than the one that its key stands for.
  if (kind != "original" && over()) throw Stopped{stopped_by_user()};
  stop_if_asked();
  store_.add(k, result);
  // As it will be read the next time, to the last bit.
  return json::parse(result.dump());
}

PairedTimesOptions Trials::timing(const std::string& name, double part) const {
  PairedTimesOptions options;
  options.seconds = request_.seconds_per_candidate * part;
  if (part < 1) options.turns = std::max(15, static_cast<int>(options.turns * part));
  // Seeds that differ between candidates, the same from run to run.
  options.seed = request_.seed;
  for (unsigned char c : name) options.seed = options.seed * 1099511628211u + c;
  options.stop = [this] { return over(); };
  return options;
}

PairedTimes Trials::time_against(Runner& first, Runner& second, Dataset& data, const PairedTimesOptions& options) const {
  return request_.timer ? request_.timer(first, second, data, options) : time_pairs(first, second, data, options);
}

Measurement Trials::measure(const std::vector<Applied>& parts) {
  const std::string settings = canonical(parts);
  if (auto it = known_.find(settings); it != known_.end()) return it->second;
  Measurement m = measurement_from_json(stored("trial", settings, [&] { return to_json(measure_now(parts)); }));
  known_[settings] = m;
  return m;
}

Measurement Trials::measure_now(const std::vector<Applied>& parts) {
  const std::string name = label_of(parts);
  auto tell = progress("measuring " + name);
  Measurement m;
  try {
    Runner& runner = runner_of(parts);
    const Candidate& c = candidate(parts);
    m.notices = runner.plan().notices;
    m.layers = c.layers;
    m.memory_bytes = runner.memory_bytes();
    m.size_bytes = static_cast<int64_t>(onnx_bytes(c.graph, plan_metadata(c.options)).size());
    m.signature = digest_of(runner.signature());
    // The company without what changes no answers: planned the same, it takes the same time.
    std::vector<Applied> rest = parts;
    std::erase_if(rest, [](const Applied& a) { return a.technique->exact; });
    if (rest.size() < parts.size())
      if (auto it = known_.find(canonical(rest)); it != known_.end() && it->second.broken.empty() && it->second.signature == m.signature) {
        m.same_plan = label_of(rest);
        m.quality = it->second.quality;
        m.speedup = it->second.speedup;
        m.latency = it->second.latency;
        return m;
      }
    m.quality = evaluation_->compare(runner, [&](double part) { tell(part / 2); });
    if (!m.quality.finite) {
      m.broken = "its answers hold NaN or infinities where the original's do not";
      return m;
    }
    PairedTimes times = time_against(*runner_, runner, data_, timing(name));
    m.speedup = times.ratio;
    m.latency = times.second_seconds;
    m.turns = static_cast<int>(times.first.size());
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::kInput) throw;
    m = {};
    m.broken = e.what();
  }
  return m;
}

const Candidate& Trials::candidate(const std::vector<Applied>& parts) {
  const std::string settings = canonical(parts);
  auto it = std::find_if(composed_.begin(), composed_.end(), [&](const auto& entry) { return entry.first == settings; });
  if (it == composed_.end()) {
    if (composed_.size() >= kComposed) composed_.pop_back();
    composed_.emplace_front(settings, compose(base_, parts, context_));
  } else {
    composed_.splice(composed_.begin(), composed_, it);
  }
  return composed_.front().second;
}

Runner& Trials::runner_of(const std::vector<Applied>& parts) {
  std::string settings = canonical(parts);
  if (parts.empty()) return *runner_;
  if (planned_ != settings || !planned_runner_) {
    planned_runner_.reset();  // before the next one is made: both may be large
    planned_runner_ = std::make_unique<Runner>(candidate(parts), data_.input_shapes());
    planned_ = settings;
  }
  return *planned_runner_;
}

std::optional<std::vector<double>> Trials::proxy(const std::vector<Applied>& parts, int level) {
  json j = stored(fmt::format("proxy {}", level), canonical(parts), [&]() -> json {
    progress("looking at " + label_of(parts));
    try {
      Runner& runner = runner_of(parts);
      const Candidate& c = candidate(parts);
      Quality q = evaluation_->compare(runner, nullptr, kProxySamples[level]);
      if (!q.finite) return nullptr;
      PairedTimes times = time_against(*runner_, runner, data_, timing(label_of(parts), kProxyTime[level]));
      double size = static_cast<double>(onnx_bytes(c.graph, plan_metadata(c.options)).size());
      return {1 / times.ratio.value, q.mean_error, size / static_cast<double>(original_.size_bytes)};
    } catch (const Error& e) {
      if (e.kind() == ErrorKind::kInput) throw;
      return nullptr;
    }
  });
  if (j.is_null()) return std::nullopt;
  return j.get<std::vector<double>>();
}

Interval Trials::duel(const std::vector<Applied>& first, const std::vector<Applied>& second) {
  return interval_from_json(stored("duel", canonical(first) + "\n" + canonical(second), [&] {
    progress(fmt::format("{} against {}", label_of(second), label_of(first)));
    Runner one(candidate(first), data_.input_shapes());
    return to_json(time_against(one, runner_of(second), data_, timing(label_of(first) + " against " + label_of(second))).ratio);
  }));
}

Interval Trials::confirm(const std::vector<Applied>& parts) {
  return interval_from_json(stored("confirm", canonical(parts), [&] {
    progress("confirming " + label_of(parts));
    return to_json(time_against(*runner_, runner_of(parts), data_, timing("confirm " + label_of(parts))).ratio);
  }));
}

std::vector<LayerSensitivity> Trials::sensitivities(const Applied& part, double seconds) {
  const double end = elapsed() + seconds;
  std::vector<LayerSensitivity> all;
  auto read = [](const json& j) { return LayerSensitivity{j.at("layer").get<std::string>(), j.at("choice").get<std::string>(), j.at("error").get<double>(), j.at("seconds").get<double>()}; };
  auto write = [](const LayerSensitivity& s) { return json{{"layer", s.layer}, {"choice", s.choice}, {"error", s.error}, {"seconds", s.seconds}}; };
  if (part.technique->sensitivities) {
    json j = stored("sensitivities", canonical({part}), [&] {
      TechniqueContext context = context_;
      context.progress = progress("sensitivity of layers to " + label_of({part}));
      json list = json::array();
      for (const LayerSensitivity& s : part.technique->sensitivities(base_, context)) list.push_back(write(s));
      return list;
    });
    for (const json& one : j) all.push_back(read(one));
    return all;
  }
  for (const Knob& knob : part.technique->knobs) {
    if (knob.kind != Knob::Kind::kLayers) continue;
    std::unique_ptr<Runner> whole;  // the technique with all layers at their first choice
    double whole_error = 0;
    const std::vector<std::string> layers = knob.layers(base_, context_);
    for (size_t l = 0; l < layers.size(); ++l)
      for (size_t c = 1; c < knob.choices.size(); ++c) {
        Applied one = part;
        one.settings[knob.name] = LayerChoices{{layers[l], knob.choices[c]}};
        // What is in the store costs no time.
        if (elapsed() > end && !store_.find(key("layer", canonical({one})))) continue;
        json j = stored("layer", canonical({one}), [&]() -> json {
          progress(fmt::format("sensitivity of layer {} of {}", l + 1, layers.size()));
          if (!whole) {
            whole = std::make_unique<Runner>(candidate({part}), data_.input_shapes());
            whole_error = evaluation_->compare(*whole, nullptr, kSensitivitySamples).mean_error;
          }
          Runner& runner = runner_of({one});
          double error = evaluation_->compare(runner, nullptr, kSensitivitySamples).mean_error - whole_error;
          PairedTimes times = time_against(*whole, runner, data_, timing(label_of({one}), kSensitivityTime));
          return write({layers[l], knob.choices[c], error, times.first_seconds.value * (1 - 1 / times.ratio.value)});
        });
        all.push_back(read(j));
      }
  }
  return all;
}

// Time of each layer of the chosen plan and of the original's, in turns.
std::vector<LayerTime> Trials::layer_times(const std::vector<Applied>& parts) {
  json j = stored("layers", canonical(parts), [&] {
    progress("timing layers");
    Runner best(candidate(parts), data_.input_shapes());
    constexpr int kRuns = 10;
    for (Runner* r : {runner_.get(), &best}) r->session().set_profiling(true);
    for (int i = 0; i < kRuns; ++i)
      for (Runner* r : {runner_.get(), &best}) r->run(data_.inputs(static_cast<size_t>(i) % data_.size()));
    auto each = [](const StepTime& t) { return t.runs ? t.seconds / static_cast<double>(t.runs) : 0; };
    std::map<std::string, double> before;
    auto name_of_step = [](const Plan& p, size_t s) {
      const Node& n = p.graph[p.steps[s].node];
      return n.name.empty() ? p.graph[n.outputs[0]].name : n.name;
    };
    const Plan &old = runner_->plan(), &plan = best.plan();
    for (size_t s = 0; s < old.steps.size(); ++s) before[name_of_step(old, s)] += each(runner_->session().step_times()[s]);
    json list = json::array();
    for (size_t s = 0; s < plan.steps.size(); ++s) {
      const Node& n = plan.graph[plan.steps[s].node];
      auto it = before.find(name_of_step(plan, s));
      list.push_back({name_of_step(plan, s), n.op->name, plan.steps[s].kernel_name, name_of(plan.graph[n.outputs[0]].dtype), each(best.session().step_times()[s]),
                      it == before.end() ? json(nullptr) : json(it->second)});
    }
    runner_->session().set_profiling(false);
    return list;
  });
  std::vector<LayerTime> all;
  for (const json& l : j)
    all.push_back({l.at(0).get<std::string>(), l.at(1).get<std::string>(), l.at(2).get<std::string>(), l.at(3).get<std::string>(), l.at(4).get<double>(),
                   l.at(5).is_null() ? std::nullopt : std::optional(l.at(5).get<double>())});
  return all;
}

std::optional<double> Trials::reference_error(std::string* note) {
  int64_t macs = count_macs(runner_->plan());
  if (macs > kReferenceMacs) {
    *note = fmt::format("not checked: {:.1f} GMAC take too long in the reference kernels", static_cast<double>(macs) * 1e-9);
    return std::nullopt;
  }
  return stored("reference", canonical({}), [&]() -> json {
    progress("checking the original against the reference kernels");
    std::vector<Tensor> fast;
    for (const Tensor& t : runner_->run(data_.inputs(0))) fast.push_back(t.clone());
    Candidate plain = base_;
    plain.options.reference = true;
    plain.options.fuse = false;
    Runner reference(plain, data_.input_shapes());
    double error = largest_relative_error(fast, reference.run(data_.inputs(0)));
    return std::isfinite(error) ? json(error) : json(1e300);
  }).get<double>();
}

}  // namespace lathe
