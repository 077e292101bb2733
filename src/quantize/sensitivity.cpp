#include "quantize/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "graph/op.h"
#include "quantize/qdq.h"
#include "runtime/session.h"
#include "transform/passes.h"

namespace lathe {
namespace {

bool is_scores(const Tensor& t) { return t.dtype() == DType::kF32 && t.size() > 1 && t.rank() >= 2 && *std::max_element(t.shape().begin(), t.shape().end()) == t.size(); }

// Answers of the float network, and comparison with them.
class Reference {
 public:
  Reference(const Graph& graph, const Samples& samples) : samples_(samples) {
    PlanOptions options;
    options.input_shapes = input_shapes_of(graph, samples);
    Session session(make_plan(graph, options));
    for (size_t i = 0; i < samples.count; ++i) {
      std::vector<Tensor> own;
      for (const Tensor& t : session.run(samples.inputs(i))) own.push_back(t.clone());
      answers_.push_back(std::move(own));
    }
    if (answers_.empty()) return;
    scores_ = is_scores(answers_[0][0]);
    // Scores that are probabilities already are not made so again.
    if (scores_) {
      double sum = 0;
      bool positive = true;
      for (float x : answers_[0][0].to_f32()) sum += static_cast<double>(x), positive &= x >= 0;
      probabilities_ = positive && std::abs(sum - 1) < 1e-3;
    }
    for (const auto& sample : answers_)
      for (size_t o = 0; o < sample.size(); ++o) {
        if (sample[o].dtype() != DType::kF32) continue;
        range_.resize(std::max(range_.size(), o + 1), {HUGE_VAL, -HUGE_VAL});
        for (int64_t i = 0; i < sample[o].size(); ++i) {
          range_[o].first = std::min(range_[o].first, sample[o].get(i));
          range_[o].second = std::max(range_[o].second, sample[o].get(i));
        }
      }
  }

  bool scores() const { return scores_; }

  LayerEffect compare(const Graph& changed) const {
    PlanOptions options;
    options.input_shapes = input_shapes_of(changed, samples_);
    Session session(make_plan(changed, options));
    LayerEffect effect;
    double error = 0, square = 0, near_square = 0, product = 0, mean = 0;
    int64_t count = 0, flips = 0;
    for (size_t s = 0; s < samples_.count; ++s) {
      const auto& y = session.run(samples_.inputs(s));
      for (size_t o = 0; o < y.size(); ++o) {
        if (y[o].dtype() != DType::kF32) continue;
        const float *near = y[o].data<float>(), *exact = answers_[s][o].data<float>();
        const double width = std::max(range_[o].second - range_[o].first, 1e-30);
        for (int64_t i = 0; i < y[o].size(); ++i) {
          const double a = static_cast<double>(near[i]), b = static_cast<double>(exact[i]);
          error += (a - b) * (a - b);
          square += b * b;
          near_square += a * a;
          product += a * b;
          mean += std::abs(a - b) / width;
        }
        count += y[o].size();
      }
      if (scores_) {
        effect.divergence += divergence(answers_[s][0], y[0]) / static_cast<double>(samples_.count);
        auto best = [](const Tensor& t) { return std::max_element(t.data<float>(), t.data<float>() + t.size()) - t.data<float>(); };
        flips += best(answers_[s][0]) != best(y[0]);
      }
    }
    effect.squared_error = square > 0 ? error / square : 0;
    effect.mean_error = count ? mean / static_cast<double>(count) : 0;
    effect.cosine_distance = square > 0 && near_square > 0 ? std::max(0.0, 1 - product / std::sqrt(square * near_square)) : 0;
    effect.changed = static_cast<double>(flips) / static_cast<double>(std::max<size_t>(samples_.count, 1));
    return effect;
  }

 private:
  // Σ p·ln(p/q), of softmaxes.
  double divergence(const Tensor& p, const Tensor& q) const {
    auto logs = [&](const Tensor& t) {
      std::vector<double> l;
      for (float x : t.to_f32()) l.push_back(probabilities_ ? std::log(std::max(static_cast<double>(x), 1e-12)) : static_cast<double>(x));
      const double most = *std::max_element(l.begin(), l.end());
      double sum = 0;
      for (double x : l) sum += std::exp(x - most);
      for (double& x : l) x -= most + std::log(sum);
      return l;
    };
    const auto a = logs(p), b = logs(q);
    double sum = 0;
    for (size_t i = 0; i < a.size(); ++i) sum += std::exp(a[i]) * (a[i] - b[i]);
    return std::max(sum, 0.0);
  }

  Samples samples_;
  std::vector<std::vector<Tensor>> answers_;
  std::vector<std::pair<double, double>> range_;
  bool scores_ = false, probabilities_ = false;
};

}  // namespace

std::vector<std::vector<LayerEffect>> layer_effects(const Graph& graph, const std::vector<Layer>& layers, const std::vector<LayerScheme>& options,
                                                    const ActivationScheme& activations, const Samples& samples, const std::function<void(double)>& progress) {
  if (samples.count == 0) fail(ErrorKind::kUsage, "sensitivities need samples");
  const Reference reference(graph, samples);
  std::vector<ValueId> inputs;
  inputs.reserve(layers.size());
  for (const Layer& l : layers) inputs.push_back(graph[l.node].inputs[0]);
  std::vector<Observer> seen;
  if (std::any_of(options.begin(), options.end(), [](const LayerScheme& s) { return s.on_codes; })) seen = observe(graph, samples, inputs);
  std::vector<std::vector<LayerEffect>> effects(layers.size(), std::vector<LayerEffect>(options.size()));
  for (size_t l = 0; l < layers.size(); ++l) {
    const Tensor rows = weight_rows(graph, layers[l]);
    for (size_t o = 0; o < options.size(); ++o) {
      if (progress) progress(static_cast<double>(l * options.size() + o) / static_cast<double>(layers.size() * options.size()));
      if (!options[o].weights) continue;
      Graph one = graph;
      const Tensor near = quantize(*options[o].weights, rows).dequantize();
      set_weight_rows(one, layers[l], near);
      if (options[o].on_codes) {
        const Range range = range_of(seen[l], activations.range, activations.bits, activations.symmetric);
        const Grid grid = uniform_grid(range.least, range.most, activations.bits, activations.symmetric);
        const ValueId x = add_rounding(one, inputs[l], grid);
        one[layers[l].node].inputs[0] = x;
      }
      effects[l][o] = reference.compare(one);
      effects[l][o].weight_noise = relative_noise(near, rows);
    }
  }
  if (progress) progress(1);
  return effects;
}

std::vector<double> fisher_traces(const Graph& graph, const std::vector<Layer>& layers, const Samples& samples, int probes, uint64_t seed,
                                  const std::function<void(double)>& progress) {
  if (samples.count == 0) fail(ErrorKind::kUsage, "sensitivities need samples");
  const Reference reference(graph, samples);
  if (!reference.scores()) fail(ErrorKind::kUsage, "the Fisher information is of networks whose first output is a row of scores");
  std::mt19937_64 random(seed);
  std::vector<double> traces;
  for (size_t l = 0; l < layers.size(); ++l) {
    const Tensor rows = weight_rows(graph, layers[l]);
    double square = 0;
    for (int64_t i = 0; i < rows.size(); ++i) square += std::pow(static_cast<double>(rows.data<float>()[i]), 2);
    const double epsilon = 1e-2 * std::sqrt(square / static_cast<double>(rows.size()));
    double sum = 0;
    for (int p = 0; p < probes && epsilon > 0; ++p) {
      Tensor moved = rows.clone();
      for (int64_t i = 0; i < rows.size(); ++i) moved.data<float>()[i] += static_cast<float>(random() & 1 ? epsilon : -epsilon);
      Graph one = graph;
      set_weight_rows(one, layers[l], moved);
      sum += 2 * reference.compare(one).divergence / (epsilon * epsilon);
    }
    traces.push_back(sum / probes / static_cast<double>(rows.size()));
    if (progress) progress(static_cast<double>(l + 1) / static_cast<double>(layers.size()));
  }
  return traces;
}

std::vector<double> layer_seconds(const Graph& graph, const PlanOptions& options, const std::vector<Layer>& layers, const Samples& samples) {
  PlanOptions with_shapes = options;
  with_shapes.input_shapes = input_shapes_of(graph, samples);
  Session session(make_plan(graph, with_shapes));
  const std::vector<Tensor> x = samples.inputs(0);
  session.run(x);
  std::map<std::string, double> least;
  for (int run = 0; run < 9; ++run) {
    session.set_profiling(false);
    session.set_profiling(true);
    session.run(x);
    std::map<std::string, double> now;
    const Plan& plan = session.plan();
    // A step between two layers counts for the one before: it moves or rounds what that made.
    std::string layer;
    for (size_t s = 0; s < plan.steps.size(); ++s) {
      const std::string name = name_of_node(plan.graph, plan.steps[s].node);
      if (std::any_of(layers.begin(), layers.end(), [&](const Layer& l) { return l.name == name; })) layer = name;
      now[layer] += session.step_times()[s].seconds;
    }
    for (const auto& [name, seconds] : now) {
      auto [it, first] = least.emplace(name, seconds);
      it->second = std::min(it->second, seconds);
    }
  }
  std::vector<double> result;
  result.reserve(layers.size());
  for (const Layer& l : layers) result.push_back(least.contains(l.name) ? least[l.name] : 0);
  return result;
}

}  // namespace lathe
