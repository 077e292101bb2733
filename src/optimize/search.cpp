#include "optimize/search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "core/error.h"

namespace lathe {
namespace {

using Random = std::mt19937_64;
using Matrix = std::vector<std::vector<double>>;

// Of the evolutionary search on the model. The spaces are of some tens of dimensions: more of either finds the same points.
constexpr size_t kPopulation = 48;
constexpr int kGenerations = 20;
// Share of the trials that may go into learning what single choices do.
constexpr double kDesignShare = 0.3;
// Points that stand for an election by proxies.
constexpr size_t kElectors = 4;
// Every so many-th trial goes for speed at the edge of what is feasible and not for the front.
constexpr size_t kEdgeTurn = 3;

double uniform(Random& random) { return std::uniform_real_distribution<double>(0, 1)(random); }

// L of A = L·Lᵀ; A is made safe by what stands on its diagonal.
Matrix cholesky(Matrix a) {
  const size_t n = a.size();
  for (size_t j = 0; j < n; ++j) {
    for (size_t k = 0; k < j; ++k)
      for (size_t i = j; i < n; ++i) a[i][j] -= a[i][k] * a[j][k];
    double root = std::sqrt(std::max(a[j][j], 1e-12));
    for (size_t i = j; i < n; ++i) a[i][j] /= root;
    for (size_t i = 0; i < j; ++i) a[i][j] = 0;
  }
  return a;
}

std::vector<double> forward(const Matrix& l, std::vector<double> b) {
  for (size_t i = 0; i < b.size(); ++i) {
    for (size_t k = 0; k < i; ++k) b[i] -= l[i][k] * b[k];
    b[i] /= l[i][i];
  }
  return b;
}

std::vector<double> backward(const Matrix& l, std::vector<double> b) {
  for (size_t i = b.size(); i-- > 0;) {
    for (size_t k = i + 1; k < b.size(); ++k) b[i] -= l[k][i] * b[k];
    b[i] /= l[i][i];
  }
  return b;
}

// One column a choice that is not the first, behind them one a pair (both dimensions at the same choice, and not the first), and
// before all a constant.
class Features {
 public:
  Features(const std::vector<Dimension>& dimensions, const std::vector<std::pair<size_t, size_t>>& pairs) : pairs_(pairs) {
    for (const Dimension& d : dimensions) {
      begin_.push_back(count_);
      count_ += static_cast<size_t>(d.choices - 1);
    }
    first_pair_ = count_;
    count_ += pairs_.size();
  }
  size_t count() const { return count_; }
  size_t column(size_t dimension, int choice) const { return begin_[dimension] + static_cast<size_t>(choice) - 1; }
  std::vector<double> of(const Point& p) const {
    std::vector<double> x(count_, 0);
    for (size_t d = 0; d < p.size(); ++d)
      if (p[d] > 0) x[column(d, p[d])] = 1;
    for (size_t i = 0; i < pairs_.size(); ++i)
      if (int c = p[pairs_[i].first]; c > 0 && c == p[pairs_[i].second]) x[first_pair_ + i] = 1;
    return x;
  }

 private:
  std::vector<std::pair<size_t, size_t>> pairs_;
  std::vector<size_t> begin_;
  size_t first_pair_ = 0;
  size_t count_ = 1;  // column 0: the constant, set by the model
};

// Bayesian linear regression of one objective.
class LinearModel {
 public:
  // `effects`: what is expected of each column, or empty.
  void fit(const Matrix& x, const std::vector<double>& y, const std::vector<double>& effects) {
    effects_ = effects;
    double best = std::numeric_limits<double>::infinity();
    const bool positive = std::all_of(y.begin(), y.end(), [](double v) { return v > 0; });
    for (bool logarithm : {false, true}) {
      if (logarithm && !positive) continue;
      for (double ridge : {0.01, 0.1, 1.0, 10.0}) {
        LinearModel m;
        m.effects_ = logarithm ? std::vector<double>{} : effects;
        double error = m.fit_one(x, y, logarithm, ridge);
        if (error < best) {
          best = error;
          *this = std::move(m);
        }
      }
    }
  }

  double mean(const std::vector<double>& x) const { return restore(weights_, x); }
  // One set of weights from what is believed after the observations.
  std::vector<double> draw(Random& random) const {
    std::normal_distribution<double> normal;
    std::vector<double> z(weights_.size());
    for (double& v : z) v = normal(random) * noise_;
    z = backward(factor_, std::move(z));  // covariance noise²·(L·Lᵀ)⁻¹
    for (size_t i = 0; i < z.size(); ++i) z[i] += weights_[i];
    return z;
  }
  double restore(const std::vector<double>& weights, const std::vector<double>& x) const {
    double sum = weights[0];
    for (size_t i = 1; i < x.size(); ++i) sum += x[i] * weights[i];
    sum = sum * scale_ + shift_ + expected(x);
    return logarithm_ ? std::exp(std::min(sum, 700.0)) : sum;
  }

 private:
  double expected(const std::vector<double>& x) const {
    double sum = 0;
    for (size_t i = 1; i < x.size() && !effects_.empty(); ++i) sum += x[i] * effects_[i];
    return sum;
  }

  // Returns the squared error of the objective itself when each point in turn is left out.
  double fit_one(const Matrix& x, const std::vector<double>& y, bool logarithm, double ridge) {
    logarithm_ = logarithm;
    const size_t n = y.size(), f = x[0].size();
    std::vector<double> t(n);
    for (size_t i = 0; i < n; ++i) t[i] = (logarithm ? std::log(y[i]) : y[i]) - expected(x[i]);
    shift_ = std::accumulate(t.begin(), t.end(), 0.0) / static_cast<double>(n);
    double squares = 0;
    for (double& v : t) v -= shift_, squares += v * v;
    scale_ = std::sqrt(squares / static_cast<double>(n));
    if (!(scale_ > 0)) scale_ = 1;
    for (double& v : t) v /= scale_;
    Matrix a(f, std::vector<double>(f, 0));
    std::vector<double> b(f, 0);
    auto row = [&](size_t i) {
      std::vector<double> r = x[i];
      r[0] = 1;
      return r;
    };
    for (size_t i = 0; i < n; ++i) {
      std::vector<double> r = row(i);
      for (size_t p = 0; p < f; ++p) {
        if (r[p] == 0) continue;
        b[p] += r[p] * t[i];
        for (size_t q = 0; q < f; ++q) a[p][q] += r[p] * r[q];
      }
    }
    for (size_t p = 0; p < f; ++p) a[p][p] += p == 0 ? 1e-6 : ridge;
    factor_ = cholesky(std::move(a));
    weights_ = backward(factor_, forward(factor_, b));
    double left_out = 0, residual = 0;
    for (size_t i = 0; i < n; ++i) {
      std::vector<double> r = row(i);
      double predicted = std::inner_product(r.begin(), r.end(), weights_.begin(), 0.0);
      std::vector<double> h = forward(factor_, r);
      double leverage = std::min(std::inner_product(h.begin(), h.end(), h.begin(), 0.0), 0.999);
      double without = t[i] - (t[i] - predicted) / (1 - leverage);
      double value = without * scale_ + shift_ + expected(x[i]);
      double error = (logarithm ? std::exp(std::min(value, 700.0)) : value) - y[i];
      left_out += error * error;
      residual += (t[i] - without) * (t[i] - without);
    }
    noise_ = std::sqrt(residual / static_cast<double>(n));
    return left_out;
  }

  bool logarithm_ = false;
  double shift_ = 0, scale_ = 1, noise_ = 1;
  std::vector<double> weights_, effects_;
  Matrix factor_;
};

std::vector<size_t> front_of(const std::vector<Objectives>& points) {
  std::vector<size_t> front;
  for (size_t i = 0; i < points.size(); ++i)
    if (std::none_of(points.begin(), points.end(), [&](const Objectives& o) { return dominates(o, points[i]); })) front.push_back(i);
  return front;
}

// How far a point's neighbours on its front are, summed over the objectives (Deb et al. 2002, section III-B).
std::vector<double> crowding(const std::vector<Objectives>& points, const std::vector<size_t>& members) {
  std::vector<double> distance(points.size(), 0);
  if (members.empty()) return distance;
  for (size_t m = 0; m < points[members[0]].size(); ++m) {
    std::vector<size_t> order = members;
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return points[a][m] < points[b][m]; });
    double span = points[order.back()][m] - points[order[0]][m];
    distance[order[0]] = distance[order.back()] = std::numeric_limits<double>::infinity();
    for (size_t i = 1; i + 1 < order.size(); ++i)
      if (span > 0) distance[order[i]] += (points[order[i + 1]][m] - points[order[i - 1]][m]) / span;
  }
  return distance;
}

class Searcher {
 public:
  Searcher(const SearchProblem& problem, const SearchOptions& options)
      : problem_(problem), options_(options), features_(problem.dimensions, problem.pairs), random_(options.seed) {
    for (const Evaluated& e : problem.known) note(e);
  }

  std::vector<Evaluated> run() {
    design();
    while (!done()) {
      if (measured_.size() < 2) {
        if (!evaluate(fresh_random())) break;
        continue;
      }
      fit();
      std::optional<Point> next = choose();
      if (!next || !evaluate(*next)) break;
    }
    return std::move(result_);
  }

  std::vector<Evaluated> run_random() {
    while (!done() && evaluate(fresh_random())) {
    }
    return std::move(result_);
  }

 private:
  bool done() const { return ended_ || static_cast<int>(result_.size()) >= options_.trials; }
  Point repaired(Point p) const { return problem_.repair ? problem_.repair(std::move(p)) : p; }
  Point zeros() const { return Point(problem_.dimensions.size(), 0); }

  void note(const Evaluated& e) {
    seen_.insert(e.point);
    if (!e.objectives.empty()) measured_.push_back(e);
  }

  // False when there is nothing to evaluate or no time for it.
  bool evaluate(const std::optional<Point>& p) {
    if (!p || done()) return false;
    std::optional<Evaluated> e = problem_.evaluate(*p);
    if (!e) {
      ended_ = true;
      return false;
    }
    require(e->objectives.empty() || e->objectives.size() == problem_.objectives, "a point has {} objectives, expected {}", e->objectives.size(), problem_.objectives);
    e->point = *p;
    note(*e);
    result_.push_back(std::move(*e));
    return true;
  }

  Point random_point() {
    Point p;
    for (const Dimension& d : problem_.dimensions) p.push_back(std::uniform_int_distribution<int>(0, d.choices - 1)(random_));
    return repaired(std::move(p));
  }

  std::optional<Point> fresh_random() {
    // A space of few points is soon exhausted: then draws repeat.
    for (int i = 0; i < 2000; ++i)
      if (Point p = random_point(); !seen_.contains(p)) return p;
    return std::nullopt;
  }

  // What nothing is known of: the corners, then random points and their opposites, which tell most of all choices at once.
  void design() {
    std::set<size_t> unknown;
    for (size_t d = 0; d < problem_.dimensions.size(); ++d)
      for (int c = 1; c < problem_.dimensions[d].choices; ++c) unknown.insert(features_.column(d, c));
    for (const auto& e : problem_.effects) unknown.erase(features_.column(e.dimension, e.choice));
    for (const Evaluated& e : measured_)
      for (size_t d = 0; d < e.point.size(); ++d)
        if (e.point[d] > 0) unknown.erase(features_.column(d, e.point[d]));
    const auto most = static_cast<size_t>(std::ceil(kDesignShare * options_.trials));
    auto offer = [&](Point p) {
      p = repaired(std::move(p));
      if (!seen_.contains(p) && result_.size() < most) evaluate(p);
    };
    offer(zeros());
    int choices = 0;
    for (const Dimension& d : problem_.dimensions) choices = std::max(choices, d.choices);
    for (int c = 1; c < choices; ++c) {
      Point p;
      for (const Dimension& d : problem_.dimensions) p.push_back(std::min(c, d.choices - 1));
      offer(std::move(p));
    }
    for (size_t i = 0; i < unknown.size() && result_.size() < most && !done(); ++i) {
      Point p = random_point(), opposite;
      for (size_t d = 0; d < p.size(); ++d) opposite.push_back((p[d] + problem_.dimensions[d].choices / 2) % problem_.dimensions[d].choices);
      offer(std::move(p));
      offer(std::move(opposite));
    }
  }

  void fit() {
    Matrix x;
    for (const Evaluated& e : measured_) x.push_back(features_.of(e.point));
    models_.assign(problem_.objectives, {});
    for (size_t m = 0; m < problem_.objectives; ++m) {
      std::vector<double> y, effects;
      for (const Evaluated& e : measured_) y.push_back(e.objectives[m]);
      if (!problem_.effects.empty()) {
        effects.assign(features_.count(), 0);
        for (const auto& e : problem_.effects) effects[features_.column(e.dimension, e.choice)] = e.change[m];
      }
      models_[m].fit(x, y, effects);
    }
  }

  Objectives predict(const std::vector<std::vector<double>>& weights, const Point& p) const {
    std::vector<double> x = features_.of(p);
    Objectives o;
    for (size_t m = 0; m < models_.size(); ++m) o.push_back(models_[m].restore(weights[m], x));
    return o;
  }

  Point child_of(const Point& a, const Point& b) {
    Point p;
    const double rate = 1.0 / static_cast<double>(std::max<size_t>(a.size(), 1));
    for (size_t d = 0; d < a.size(); ++d) {
      p.push_back(uniform(random_) < 0.5 ? a[d] : b[d]);
      if (uniform(random_) < rate) p.back() = std::uniform_int_distribution<int>(0, problem_.dimensions[d].choices - 1)(random_);
    }
    return repaired(std::move(p));
  }

  // NSGA-II on the sampled model; every point that was not evaluated yet and was once in the population.
  std::vector<std::pair<Point, Objectives>> evolve(const std::vector<std::vector<double>>& weights) {
    std::set<Point> population;
    std::vector<Objectives> values;
    for (const Evaluated& e : measured_) values.push_back(e.objectives);
    for (size_t i : front_of(values)) population.insert(measured_[i].point);
    for (size_t i = 0; i < 4 * kPopulation && population.size() < kPopulation; ++i) population.insert(random_point());
    std::set<Point> visited = population;
    std::vector<Point> parents(population.begin(), population.end());
    for (int generation = 0; generation < kGenerations; ++generation) {
      std::set<Point> all(parents.begin(), parents.end());
      for (size_t i = 0; i < kPopulation; ++i) {
        const Point &a = parents[random_() % parents.size()], &b = parents[random_() % parents.size()];
        all.insert(child_of(a, b));
      }
      visited.insert(all.begin(), all.end());
      std::vector<Point> pool(all.begin(), all.end());
      values.clear();
      for (const Point& p : pool) values.push_back(predict(weights, p));
      std::vector<int> ranks = domination_ranks(values);
      std::vector<double> space(pool.size(), 0);
      for (int r = 0; r <= *std::max_element(ranks.begin(), ranks.end()); ++r) {
        std::vector<size_t> members;
        for (size_t i = 0; i < pool.size(); ++i)
          if (ranks[i] == r) members.push_back(i);
        std::vector<double> d = crowding(values, members);
        for (size_t i : members) space[i] = d[i];
      }
      std::vector<size_t> order(pool.size());
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return ranks[a] != ranks[b] ? ranks[a] < ranks[b] : space[a] > space[b]; });
      parents.clear();
      for (size_t i = 0; i < std::min(kPopulation, order.size()); ++i) parents.push_back(pool[order[i]]);
    }
    std::vector<std::pair<Point, Objectives>> fresh;
    for (const Point& p : visited)
      if (!seen_.contains(p)) fresh.emplace_back(p, predict(weights, p));
    return fresh;
  }

  Objectives reference() const {
    Objectives r = problem_.reference;
    if (!r.empty()) return r;
    r = measured_[0].objectives;
    for (const Evaluated& e : measured_)
      for (size_t m = 0; m < r.size(); ++m) r[m] = std::max(r[m], e.objectives[m]);
    for (double& v : r) v += 1e-9 + 1e-6 * std::fabs(v);
    return r;
  }

  // Beyond the feasible as far as half way to what is known not to be.
  double edge() const {
    double inside = -std::numeric_limits<double>::infinity(), outside = std::numeric_limits<double>::infinity();
    for (const Evaluated& e : measured_)
      if (e.feasible) inside = std::max(inside, e.objectives[1]);
    for (const Evaluated& e : measured_)
      if (!e.feasible && e.objectives[1] > inside) outside = std::min(outside, e.objectives[1]);
    if (!std::isfinite(inside)) inside = 0;
    return std::isfinite(outside) ? (inside + outside) / 2 : inside;
  }

  std::optional<Point> choose() {
    std::vector<std::vector<double>> weights;
    for (const LinearModel& m : models_) weights.push_back(m.draw(random_));
    std::vector<std::pair<Point, Objectives>> candidates = evolve(weights);
    if (candidates.empty()) return fresh_random();
    std::vector<Objectives> values, front;
    for (const Evaluated& e : measured_) values.push_back(e.objectives);
    for (size_t i : front_of(values)) front.push_back(values[i]);
    const Objectives worst = reference();
    const double before = hypervolume(front, worst);
    const bool constrained = problem_.objectives > 1 && std::any_of(measured_.begin(), measured_.end(), [](const Evaluated& e) { return !e.feasible; });
    const bool for_speed = constrained && result_.size() % kEdgeTurn == kEdgeTurn - 1;
    const double limit = for_speed ? edge() : 0;
    std::vector<std::pair<double, size_t>> gain;
    for (size_t i = 0; i < candidates.size(); ++i) {
      const Objectives& o = candidates[i].second;
      if (for_speed) {
        gain.emplace_back(o[1] <= limit ? -o[0] : -std::numeric_limits<double>::max(), i);
        continue;
      }
      std::vector<Objectives> with = front;
      with.push_back(o);
      gain.emplace_back(hypervolume(std::move(with), worst) - before, i);
    }
    std::stable_sort(gain.begin(), gain.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    // Where the sampled model sees nothing left to win, a point of its front that is not known.
    if (!for_speed && gain[0].first <= 0) {
      std::vector<Objectives> predicted;
      predicted.reserve(candidates.size());
      for (const auto& c : candidates) predicted.push_back(c.second);
      std::vector<size_t> best = front_of(predicted);
      return candidates[best[random_() % best.size()]].first;
    }
    std::vector<Point> electors;
    for (size_t i = 0; i < std::min(kElectors, gain.size()); ++i)
      if (i == 0 || gain[i].first > 0.25 * gain[0].first) electors.push_back(candidates[gain[i].second].first);
    return elect(std::move(electors), front, worst);
  }

  // Successive halving (Jamieson and Talwalkar 2016) by proxies.
  std::optional<Point> elect(std::vector<Point> electors, const std::vector<Objectives>& front, const Objectives& worst) {
    for (const auto& proxy : problem_.proxies) {
      if (electors.size() < 2) break;
      std::vector<std::pair<double, size_t>> order;
      for (size_t i = 0; i < electors.size(); ++i) {
        std::optional<Objectives> o = proxy(electors[i]);
        if (!o) continue;
        std::vector<Objectives> with = front;
        with.push_back(*o);
        order.emplace_back(hypervolume(std::move(with), worst), i);
      }
      if (order.empty()) return electors[0];  // evaluate() says whether that is the end
      std::stable_sort(order.begin(), order.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
      std::vector<Point> left;
      for (size_t i = 0; i < (order.size() + 1) / 2; ++i) left.push_back(electors[order[i].second]);
      electors = std::move(left);
    }
    return electors[0];
  }

  const SearchProblem& problem_;
  const SearchOptions options_;
  Features features_;
  Random random_;
  std::set<Point> seen_;
  std::vector<Evaluated> measured_, result_;
  std::vector<LinearModel> models_;
  bool ended_ = false;
};

}  // namespace

bool dominates(const Objectives& a, const Objectives& b) {
  bool better = false;
  for (size_t m = 0; m < a.size(); ++m) {
    if (a[m] > b[m]) return false;
    better = better || a[m] < b[m];
  }
  return better;
}

std::vector<int> domination_ranks(const std::vector<Objectives>& points) {
  std::vector<int> rank(points.size(), -1);
  size_t left = points.size();
  for (int r = 0; left > 0; ++r) {
    std::vector<size_t> members;
    for (size_t i = 0; i < points.size(); ++i) {
      if (rank[i] >= 0) continue;
      bool free = true;
      for (size_t j = 0; j < points.size() && free; ++j) free = rank[j] >= 0 || !dominates(points[j], points[i]);
      if (free) members.push_back(i);
    }
    require(!members.empty(), "objectives that cannot be compared");
    for (size_t i : members) rank[i] = r;
    left -= members.size();
  }
  return rank;
}

double hypervolume(std::vector<Objectives> points, const Objectives& reference) {
  const size_t axes = reference.size();
  std::erase_if(points, [&](const Objectives& p) {
    for (size_t m = 0; m < axes; ++m)
      if (!(p[m] < reference[m])) return true;
    return false;
  });
  if (points.empty()) return 0;
  const size_t last = axes - 1;
  if (axes == 1) return reference[0] - std::min_element(points.begin(), points.end())->at(0);
  // Slices along the last axis: each is the volume, one axis less, of what lies below it.
  std::sort(points.begin(), points.end(), [&](const Objectives& a, const Objectives& b) { return a[last] < b[last]; });
  const Objectives rest(reference.begin(), reference.end() - 1);
  double volume = 0;
  if (axes == 2) {
    double best = reference[0];
    for (size_t i = 0; i < points.size(); ++i) {
      best = std::min(best, points[i][0]);
      volume += (reference[0] - best) * ((i + 1 < points.size() ? points[i + 1][1] : reference[1]) - points[i][1]);
    }
    return volume;
  }
  std::vector<Objectives> below;
  for (size_t i = 0; i < points.size(); ++i) {
    below.emplace_back(points[i].begin(), points[i].end() - 1);
    double height = (i + 1 < points.size() ? points[i + 1][last] : reference[last]) - points[i][last];
    if (height > 0) volume += height * hypervolume(below, rest);
  }
  return volume;
}

std::vector<Objectives> objectives_of(const std::vector<Evaluated>& evaluated) {
  std::vector<Objectives> all;
  for (const Evaluated& e : evaluated)
    if (!e.objectives.empty()) all.push_back(e.objectives);
  return all;
}

std::vector<Evaluated> search(const SearchProblem& problem, const SearchOptions& options) { return Searcher(problem, options).run(); }
std::vector<Evaluated> random_search(const SearchProblem& problem, const SearchOptions& options) { return Searcher(problem, options).run_random(); }

}  // namespace lathe
