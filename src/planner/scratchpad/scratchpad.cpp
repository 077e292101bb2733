#include "planner/scratchpad/scratchpad.h"

#include <algorithm>
#include <random>
#include <utility>

#include "core/error.h"
#include "planner/scratchpad/program.h"
#include "planner/scratchpad/search.h"
#include "planner/scratchpad/simulate.h"

namespace lathe {
namespace {

using Clock = std::chrono::steady_clock;

// Of a program that is worth handing to Cbc: beyond, its first relaxation alone takes minutes.
constexpr size_t kMostVariables = 12'000;
constexpr size_t kMostRelaxed = 30'000;

class Planner {
 public:
  Planner(const ScheduleProblem& problem, const ScheduleOptions& options)
      : index_(problem), options_(options), begin_(Clock::now()), deadline_(begin_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.time_limit))) {
    bound_ = forced_traffic(index_);
  }

  ScratchSchedule run() {
    hurried_ = true;
    greedy();
    hurried_ = false;
    if (options_.method != ScheduleMethod::kGreedy && best_.cost > 0) {
      classic();
      if (options_.method == ScheduleMethod::kIlp) program();
      if (options_.method == ScheduleMethod::kDivide) divide();
    }
    if (best_.cost <= bound_ * (1 + 1e-9) + 1e-9) complete_ = true;
    best_.lower_bound = std::min(bound_, best_.cost);
    best_.complete = complete_;
    best_.solve_seconds = since_begin();
    return best_;
  }

 private:
  double since_begin() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }
  double left() const { return options_.time_limit - since_begin(); }
  Deadline within(double seconds) const { return std::min(deadline_, Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds))); }
  bool settled() const { return have_ && best_.cost <= bound_ * (1 + 1e-9) + 1e-9; }
  void tell(const std::string& what) const {
    if (options_.progress) options_.progress({since_begin(), what, have_ ? best_.cost : 0, bound_});
  }

  bool offer(ScratchSchedule s, const std::string& method) {
    if (have_ && s.cost >= best_.cost) return false;
    best_ = std::move(s);
    best_.method = method;
    have_ = true;
    tell(method);
    return true;
  }
  // Addresses for choices that were made by sizes alone; where there are none, the same order with a smaller scratchpad on paper.
  bool offer(const std::vector<StepChoice>& choices, const std::string& method) {
    ScratchSchedule s = assemble(index_, choices);
    if (have_ && s.cost >= best_.cost) return false;
    if (place_schedule(index_, s, hurried_ ? 60 : left() < 1 ? 100 : 400, hurried_ || left() < 1 ? 500 : 20'000) == PackResult::kPlaced) return offer(std::move(s), method);
    std::vector<int> order;
    order.reserve(choices.size());
    for (const StepChoice& c : choices) order.push_back(c.op);
    for (double part : {0.99, 0.98, 0.965, 0.95, 0.93, 0.9, 0.87, 0.84, 0.8, 0.75}) {
      ScheduleProblem smaller = index_.problem;
      if ((hurried_ && since_begin() > 0.05) || Clock::now() > deadline_) break;
      smaller.capacity = static_cast<int64_t>(static_cast<double>(smaller.capacity) * part);
      if (smaller.capacity < index_.largest_demand) break;
      const ScheduleIndex tight(smaller);
      SearchResult found = search_schedules(tight, {.width = 64, .below = have_ ? best_.cost : 1e300, .order = order, .deadline = deadline_});
      if (!found.found) break;
      ScratchSchedule again = assemble(index_, found.choices);
      if (place_schedule(index_, again, hurried_ ? 40 : left() < 1 ? 60 : 200, hurried_ || left() < 1 ? 500 : 20'000) == PackResult::kPlaced) return offer(std::move(again), method);
    }
    return offer(simulate_placed(index_, order, Replacement::kBeladyWithSizes, ScratchPlacement::kBestFit), method);
  }

  // Under 100 ms for networks of some hundred operators.
  void greedy() {
    std::vector<std::vector<int>> orders = {index_.stored_order, depth_first_order(index_), greedy_memory_order(index_)};
    double least = 1e300;
    std::vector<int> best_order;
    for (const auto& order : orders) {
      const double cost = simulated_cost(index_, order, least);
      if (cost < least) least = cost, best_order = order;
    }
    offer(simulate(index_, best_order, Replacement::kBeladyWithSizes), "greedy");
    const auto over = [&] { return settled() || since_begin() > 0.075; };
    if (over()) return;
    // By sizes, then with addresses: what helps the one mostly helps the other.
    improve(best_order, least, Clock::now() + std::chrono::milliseconds(12), 1, 1, [&](const auto& order, double limit) { return simulated_cost(index_, order, limit); });
    offer(simulate(index_, best_order, Replacement::kBeladyWithSizes), "greedy, local search");
    if (over()) return;
    place_while_running(best_order, Clock::now() + std::chrono::milliseconds(20), 1, 1, {}, "greedy, local search with addresses");
    if (over()) return;
    beam({.width = 32, .below = best_.cost, .order = best_order, .deadline = within(0.01)}, "greedy, replacement by a beam");
    if (over()) return;
    beam({.width = std::clamp<size_t>(6000 / index_.operator_count, 4, 64), .below = best_.cost, .deadline = within(0.015)}, "greedy, beam");
  }

  void beam(const SearchOptions& options, const std::string& method) {
    SearchResult found = search_schedules(index_, options);
    if (found.exact && options.order.empty() && options.piece.empty()) settle(found);
    if (found.found) offer(found.choices, method);
  }
  // An exact search says what sizes allow: nothing costs less.
  void settle(const SearchResult& found) { bound_ = std::max(bound_, found.found ? found.cost : best_.cost); }

  // Some operators that follow each other, one mostly, to another place that their neighbours allow, as long as it does not cost more than what
  // was accepted `memory` moves before (late acceptance: Burke and Bykov 2017). Leaves the best order.
  template <class Cost>
  void improve(std::vector<int>& best_order, double& best_cost, Deadline until, size_t memory, uint64_t seed, Cost&& cost_of) const {
    const auto n = static_cast<int>(best_order.size());
    std::vector<int> order = best_order, position(order.size()), changed;
    const auto number = [&](int from, int to) {
      for (int t = from; t < to; ++t) position[static_cast<size_t>(order[static_cast<size_t>(t)])] = t;
    };
    number(0, n);
    double cost = best_cost;
    std::vector<double> accepted(memory, cost);
    std::mt19937_64 random(seed);
    for (size_t tries = 0; best_cost > bound_ && ((tries & 15) != 0 || Clock::now() < until); ++tries) {
      int length = 1;
      while (length < 24 && random() % 3 == 0) length *= 2;
      length = std::min(length, n);
      const int from = static_cast<int>(random() % static_cast<uint64_t>(n - length + 1)), end = from + length;
      // As far as no operator of them passes one that it waits for, or that waits for it.
      int low = 0, high = n;
      for (int t = from; t < end; ++t) {
        for (int j : index_.before[static_cast<size_t>(order[static_cast<size_t>(t)])]) if (int at = position[static_cast<size_t>(j)]; at < from) low = std::max(low, at + 1);
        for (int j : index_.after[static_cast<size_t>(order[static_cast<size_t>(t)])]) if (int at = position[static_cast<size_t>(j)]; at >= end) high = std::min(high, at);
      }
      if (high - low <= length) continue;
      const int to = low + static_cast<int>(random() % static_cast<uint64_t>(high - length - low + 1));  // where the first of them will stand
      if (to == from) continue;
      changed = order;
      if (to < from) std::rotate(changed.begin() + to, changed.begin() + from, changed.begin() + end);
      else std::rotate(changed.begin() + from, changed.begin() + end, changed.begin() + to + length);
      double& before = accepted[tries % memory];
      const double limit = std::max(cost, before);
      const double now = cost_of(changed, limit * (1 + 1e-12) + 1e-12);
      if (now <= limit) {
        cost = now;
        order.swap(changed);
        number(std::min(from, to), std::max(end, to + length));
        if (cost < best_cost) best_cost = cost, best_order = order;
      }
      before = cost;
    }
  }

  void classic() {
    for (Baseline& b : baselines(index_, within(0.4 * left()), true)) {
      if (b.schedule.placed) offer(std::move(b.schedule), fmt::format("{}, {}, {}", b.order, b.replacement, b.placement));
    }
  }

  void exact(double seconds) {
    SearchOptions options{.most_states = 400'000, .below = best_.cost, .deadline = within(seconds)};
    size_t shown = 0;
    options.progress = [&](size_t step, size_t states) {
      if (step >= shown + 5) tell(fmt::format("search, step {} of {}, {} states", step, index_.operator_count, states)), shown = step;
    };
    SearchResult found = search_schedules(index_, options);
    if (found.exact) settle(found);
    if (found.found) offer(found.choices, "dynamic programming");
    complete_ = complete_ || (found.exact && settled());
  }

  // Orders changed under the costs that they have with addresses given step by step.
  void place_while_running(std::vector<int>& order, Deadline until, size_t memory, uint64_t seed, const PlacingRule& rule, const std::string& method) {
    double cost = placed_cost(index_, order, rule, 1e300);
    improve(order, cost, until, memory, seed, [&](const auto& changed, double limit) { return placed_cost(index_, changed, rule, limit); });
    if (cost < best_.cost) offer(simulate_placed(index_, order, Replacement::kBeladyWithSizes, ScratchPlacement::kPlanned, rule), method);
  }

  // The orders of the best answer and of the classic ways, each changed for a while by sizes and then with addresses, by turns.
  void search_orders(double seconds) {
    const auto until = within(seconds);
    // Small networks are soon looked through; forty rounds of nothing better are enough.
    const double share = std::min(seconds / 16, 0.003 * static_cast<double>(index_.operator_count));
    std::vector<std::vector<int>> starts(1);
    for (const ScratchStep& s : best_.steps) starts[0].push_back(s.op);
    for (auto& order : {index_.stored_order, depth_first_order(index_), greedy_memory_order(index_)}) starts.push_back(order);
    const PlacingRule rules[] = {{8, 1}, {3, 0.5}, {20, 0.5}, {8, 0.25}, {60, 1}};
    double before = best_.cost;
    for (uint64_t round = 0, better = 0; Clock::now() < until && !settled() && round < better + 40; ++round) {
      if (best_.cost < before) before = best_.cost, better = round;
      std::vector<int>& order = starts[round % starts.size()];
      tell(fmt::format("changing orders, round {}", round + 1));
      if (round < 2 * starts.size()) {
        double cost = simulated_cost(index_, order, 1e300);
        improve(order, cost, std::min(until, within(0.3 * share)), 1 + 40 * (round % 3), round + 2, [&](const auto& changed, double limit) { return simulated_cost(index_, changed, limit); });
        if (cost < best_.cost) {
          offer(simulate(index_, order, Replacement::kBeladyWithSizes), "local search");
          beam({.width = 256, .below = best_.cost, .order = order, .deadline = within(0.2 * share)}, "local search, replacement by a beam");
        }
      }
      if (settled()) return;
      // The rule that suits the order best goes on.
      PlacingRule rule;
      double least = 1e300;
      for (const PlacingRule& r : rules)
        if (double cost = placed_cost(index_, order, r, least); cost < least) least = cost, rule = r;
      place_while_running(order, std::min(until, within(share)), 1 + 30 * (round % 3), round + 2, rule, "local search with addresses");
      // The worst start gives way to the best order so far, later.
      if (round >= starts.size() && round % starts.size() == 0)
        for (size_t t = 0; t < order.size(); ++t) order[t] = best_.steps[t].op;
    }
  }

  void program() {
    if (!options_.program_alone) {
      exact(0.2 * left());
      if (settled()) return;
      search_orders(0.5 * left());
      for (size_t width : {256, 2048}) {
        if (left() < 0.25 * options_.time_limit || settled()) break;
        beam({.width = width, .below = best_.cost, .deadline = within(0.4 * left())}, "beam");
      }
    }
    if (settled() || left() <= 0) return;
    const size_t size = schedule_program_size(index_);
    if (size <= kMostVariables) {
      const ProgramRun run = solve_schedule_program(index_, options_.form, left() * 0.9, &best_, [&](double best, double bound) {
        if (!options_.progress) return;
        options_.progress({since_begin(), "integer program", std::min(best_.cost, best), std::max(bound, bound_)});
      });
      bound_ = std::max(bound_, std::min(run.bound, run.schedule ? run.schedule->cost : run.bound));
      if (run.schedule) offer(*run.schedule, options_.form == PlacementForm::kFull ? "integer program with addresses" : "integer program");
      complete_ = complete_ || run.optimal;
    } else if (size <= kMostRelaxed) {
      bound_ = std::max(bound_, relaxed_bound(index_, left() * 0.9));
    }
  }

  // Pieces between places of the order that few tensors cross.
  std::vector<int> pieces(const std::vector<int>& order, size_t least) const {
    const size_t n = order.size();
    std::vector<int> position(n), piece(n, 0), crossing(n + 1, 0);
    for (size_t t = 0; t < n; ++t) position[static_cast<size_t>(order[t])] = static_cast<int>(t);
    for (size_t e = 0; e < index_.tensor_count; ++e) {
      if (index_.once[e] || index_.consumers[e].empty()) continue;
      int last = 0, first = index_.producer[e] >= 0 ? position[static_cast<size_t>(index_.producer[e])] : static_cast<int>(n);
      for (int k : index_.consumers[e]) {
        last = std::max(last, position[static_cast<size_t>(k)]);
        first = std::min(first, position[static_cast<size_t>(k)]);
      }
      for (int t = first + 1; t <= last; ++t) ++crossing[static_cast<size_t>(t)];
    }
    int now = 0;
    size_t begun = 0;
    for (size_t t = 0; t < n; ++t) {
      // A cut here, unless one that fewer tensors cross follows at once.
      const bool cut = t > 0 && t - begun >= least && crossing[t] <= options_.most_crossing && (t + 1 >= n || crossing[t + 1] >= crossing[t]);
      if (cut) ++now, begun = t;
      piece[static_cast<size_t>(order[t])] = now;
    }
    return piece;
  }

  void divide() {
    // The order that the best answer so far runs in, and the stored one: each suggests other cuts.
    std::vector<int> found_order;
    for (const ScratchStep& s : best_.steps) found_order.push_back(s.op);
    const double share = 0.1;
    for (size_t least : {size_t{8}, size_t{16}, size_t{32}})
      for (const std::vector<int>* order : {&index_.stored_order, &std::as_const(found_order)}) {
        if (settled() || left() <= 0) return;
        SearchOptions options{.most_states = 60'000, .below = best_.cost, .piece = pieces(*order, least), .deadline = within(std::max(0.05, share * left()))};
        const int count = 1 + *std::max_element(options.piece.begin(), options.piece.end());
        if (count < 2) continue;
        size_t shown = 0;
        options.progress = [&](size_t step, size_t states) {
          if (step >= shown + 10) tell(fmt::format("{} pieces, step {} of {}, {} states", count, step, index_.operator_count, states)), shown = step;
        };
        SearchResult found = search_schedules(index_, options);
        if (found.found) offer(found.choices, fmt::format("{} pieces", count));
      }
    search_orders(0.6 * left());
    if (settled() || left() <= 0) return;
    if (const size_t size = schedule_program_size(index_); size <= kMostVariables) bound_ = std::max(bound_, std::min(best_.cost, relaxed_bound(index_, left() * 0.9)));
  }

  const ScheduleIndex index_;
  const ScheduleOptions& options_;
  Clock::time_point begin_;
  Deadline deadline_;
  ScratchSchedule best_;
  bool have_ = false, complete_ = false;
  bool hurried_ = false;  // greedy: a tenth of a second is all there is
  double bound_ = 0;
};

}  // namespace

ScratchSchedule schedule_scratchpad(const ScheduleProblem& problem, const ScheduleOptions& options) {
  if (!(options.time_limit > 0) || options.time_limit > 1e7) fail(ErrorKind::kUsage, "a time limit of {} seconds", options.time_limit);
  return Planner(problem, options).run();
}

int64_t least_capacity(const ScheduleProblem& problem) { return ScheduleIndex(problem, false).largest_demand; }

int64_t capacity_without_traffic(const ScheduleProblem& problem, bool* exact) {
  const ScheduleIndex index(problem, false);
  int64_t peak = 0;
  const auto order = lowest_peak_order(index, std::min<int64_t>(int64_t{1} << 20, (int64_t{1} << 25) / static_cast<int64_t>(index.operator_count)), &peak);
  if (exact) *exact = order.has_value();
  if (order) return peak;
  return std::min({peak_of(index, index.stored_order), peak_of(index, depth_first_order(index)), peak_of(index, greedy_memory_order(index))});
}

// While operator k runs, every tensor that an operator before it in all orders has made (or read, if it is from outside) and one after it
// reads is either in the scratchpad or outside, and then has to come back. What the operands leave room for is less than all of them:
// the cheapest part that has to go, in fractions, is a bound. Bounds of operators that force different tensors add up.
double forced_traffic(const ScheduleIndex& index) {
  const auto ancestors = ancestors_of(index);
  const auto before = [&](int j, int k) { return ancestors[static_cast<size_t>(k)][static_cast<size_t>(j) / 64] >> (j % 64) & 1; };
  struct Forced {
    double cost;
    std::vector<int> tensors;
  };
  std::vector<Forced> all;
  for (int k = 0; k < static_cast<int>(index.operator_count); ++k) {
    const ScheduleOperator& o = index.problem.operators[static_cast<size_t>(k)];
    Forced f{0, {}};
    int64_t sum = index.demand[static_cast<size_t>(k)] - index.problem.capacity;
    for (size_t i = 0; i < index.tensor_count; ++i) {
      const int e = static_cast<int>(i);
      if (index.once[i] || index.consumers[i].empty()) continue;
      if (std::find(o.inputs.begin(), o.inputs.end(), e) != o.inputs.end() || std::find(o.outputs.begin(), o.outputs.end(), e) != o.outputs.end()) continue;
      bool made = false, read = false;
      if (index.producer[i] >= 0) made = before(index.producer[i], k);
      else for (int j : index.consumers[i]) made = made || (j != k && before(j, k));
      for (int j : index.consumers[i]) read = read || (j != k && before(k, j));
      if (made && read) f.tensors.push_back(e), sum += index.size[i];
    }
    if (sum <= 0) continue;
    const auto price = [&](int e) {
      return (index.load_cost(e) + (index.from_outside(e) || index.is_output(e) ? 0 : index.store_cost(e))) / static_cast<double>(index.size[static_cast<size_t>(e)]);
    };
    std::sort(f.tensors.begin(), f.tensors.end(), [&](int a, int b) { return price(a) < price(b); });
    for (int e : f.tensors) {
      const int64_t part = std::min(sum, index.size[static_cast<size_t>(e)]);
      f.cost += static_cast<double>(part) * price(e);
      if ((sum -= part) <= 0) break;
    }
    all.push_back(std::move(f));
  }
  std::sort(all.begin(), all.end(), [](const Forced& a, const Forced& b) { return a.cost > b.cost; });
  std::vector<char> taken(index.tensor_count, 0);
  double bound = 0;
  for (const Forced& f : all) {
    if (std::any_of(f.tensors.begin(), f.tensors.end(), [&](int e) { return taken[static_cast<size_t>(e)] != 0; })) continue;
    for (int e : f.tensors) taken[static_cast<size_t>(e)] = 1;
    bound += f.cost;
  }
  return bound;
}

}  // namespace lathe
