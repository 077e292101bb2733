#include "planner/scratchpad/program.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "core/error.h"
#include "planner/integer_program.h"

namespace lathe {
namespace {

using Terms = std::vector<std::pair<int, double>>;

// Chains of operators that are the same in all but their names, between the same tensors and the same operator: which runs first is only a
// matter of names. Pairs of first operators.
std::vector<std::pair<int, int>> twin_branches(const ScheduleIndex& index) {
  std::map<std::vector<int64_t>, int> last_of;
  std::vector<std::pair<int, int>> pairs;
  for (int first : index.stored_order) {
    std::vector<int64_t> signature;
    int k = first, from = -1;
    bool is_branch = true;
    while (is_branch) {
      const ScheduleOperator& o = index.problem.operators[static_cast<size_t>(k)];
      std::vector<int64_t> shared, fixed;
      bool has_inner = false;
      for (int e : o.inputs) {
        if (e == from) has_inner = true;
        else if (index.once[static_cast<size_t>(e)]) fixed.push_back(index.problem.tensors[static_cast<size_t>(e)].bytes);
        else shared.push_back(e);
      }
      std::sort(shared.begin(), shared.end());
      std::sort(fixed.begin(), fixed.end());
      signature.push_back(-1);
      signature.insert(signature.end(), shared.begin(), shared.end());
      signature.push_back(-2);
      signature.insert(signature.end(), fixed.begin(), fixed.end());
      signature.insert(signature.end(), {index.scratch[static_cast<size_t>(k)], has_inner, static_cast<int64_t>(o.in_place.size())});
      for (const InPlaceOption& option : o.in_place) signature.push_back(option.input == from ? -3 : option.input);
      if (o.outputs.size() != 1) {
        is_branch = false;
        break;
      }
      const int out = o.outputs[0];
      signature.insert(signature.end(), {index.problem.tensors[static_cast<size_t>(out)].bytes, index.is_output(out)});
      const auto& consumers = index.consumers[static_cast<size_t>(out)];
      if (consumers.size() != 1) {
        is_branch = consumers.empty();
        signature.push_back(-4);
        break;
      }
      const int next = consumers[0];
      const ScheduleOperator& n = index.problem.operators[static_cast<size_t>(next)];
      const bool joins = std::any_of(n.inputs.begin(), n.inputs.end(), [&](int e) { return e != out && !index.from_outside(e); });
      if (joins) {
        signature.insert(signature.end(), {-5, next});
        for (const InPlaceOption& option : n.in_place) signature.push_back(option.input == out);
        break;
      }
      from = out;
      k = next;
    }
    if (!is_branch) continue;
    auto [found, fresh] = last_of.try_emplace(signature, first);
    if (fresh) continue;
    pairs.emplace_back(found->second, first);
    found->second = first;
  }
  return pairs;
}

class Model {
 public:
  Model(const ScheduleIndex& index, PlacementForm form) : index_(index), windows_(windows_of(index)), steps_(static_cast<int>(index.operator_count)) {
    unit_ = 1;
    for (size_t e = 0; e < index.tensor_count; ++e) unit_ = std::max({unit_, index.load_cost(static_cast<int>(e)), index.store_cost(static_cast<int>(e))});
    add_orders();
    add_residences();
    add_capacity();
    for (auto [a, b] : twin_branches(index)) {
      Terms terms;
      for (int t = 0; t < steps_; ++t) {
        if (has_x(a, t)) terms.emplace_back(x(a, t), t);
        if (has_x(b, t)) terms.emplace_back(x(b, t), -t);
      }
      program.add_row(-kNoLimit, -1, terms);
    }
    if (form == PlacementForm::kFull) add_addresses();
  }

  IntegerProgram program;
  double unit() const { return unit_; }
  double compulsory() const { return compulsory_; }  // what the objective counts although any schedule pays it

  std::vector<StepChoice> choices(const std::vector<double>& v) const {
    std::vector<StepChoice> all;
    const auto on = [&](int variable) { return v[static_cast<size_t>(variable)] > 0.5; };
    std::vector<int> uses(index_.tensor_count);
    for (size_t e = 0; e < index_.tensor_count; ++e) uses[e] = static_cast<int>(index_.consumers[e].size());
    std::vector<char> here(index_.tensor_count, 0);
    for (int t = 0; t < steps_; ++t) {
      StepChoice c;
      for (size_t k = 0; k < index_.operator_count; ++k)
        if (has_x(static_cast<int>(k), t) && on(x(static_cast<int>(k), t))) c.op = static_cast<int>(k);
      require(c.op >= 0, "the program runs nothing at step {}", t);
      const ScheduleOperator& o = index_.problem.operators[static_cast<size_t>(c.op)];
      for (size_t e = 0; e < index_.tensor_count; ++e) {
        if (!here[e] || uses[e] == 0) continue;
        const int r = residence(static_cast<int>(e), t), l = load(static_cast<int>(e), t);
        if (r < 0 || !on(r)) c.evict.push_back(static_cast<int>(e)), here[e] = 0;
        else if (l >= 0 && on(l)) c.relocate.push_back(static_cast<int>(e));
      }
      for (const auto& p : places_)
        if (p.op == c.op && p.step == t && on(p.variable)) c.in_place.push_back(o.in_place[p.option]);
      for (int e : o.inputs) --uses[static_cast<size_t>(e)], here[static_cast<size_t>(e)] = !index_.once[static_cast<size_t>(e)];
      for (int e : o.outputs) here[static_cast<size_t>(e)] = 1;
      for (const InPlaceOption& p : c.in_place) here[static_cast<size_t>(p.input)] = 0;
      all.push_back(std::move(c));
    }
    return all;
  }

  // The variables of a schedule, for a warm start: those of the full form but for its addresses.
  std::vector<double> values_of(const ScratchSchedule& s) const {
    std::vector<double> v(program.variables(), 0);
    std::vector<char> here(index_.tensor_count, 0), written(index_.tensor_count, 0);
    for (int t = 0; t < steps_; ++t) {
      const ScratchStep& step = s.steps[static_cast<size_t>(t)];
      if (!has_x(step.op, t)) return {};
      v[static_cast<size_t>(x(step.op, t))] = 1;
      for (int e : step.stores) written[static_cast<size_t>(e)] = 1;
      for (int e : step.evictions) here[static_cast<size_t>(e)] = 0;
      for (const PlacedTensor& l : step.loads) {
        here[static_cast<size_t>(l.tensor)] = 1;
        if (int variable = load(l.tensor, t); variable >= 0) v[static_cast<size_t>(variable)] = 1;
      }
      for (const PlacedTensor& out : step.outputs) here[static_cast<size_t>(out.tensor)] = 1;
      for (size_t e = 0; e < index_.tensor_count; ++e)
        if (int variable = here[e] ? residence(static_cast<int>(e), t) : -1; variable >= 0) v[static_cast<size_t>(variable)] = 1;
      for (const InPlaceOption& p : step.in_place) here[static_cast<size_t>(p.input)] = 0;
      for (const auto& p : places_)
        if (p.op == step.op && p.step == t)
          for (const InPlaceOption& q : step.in_place) {
            const InPlaceOption& mine = index_.problem.operators[static_cast<size_t>(p.op)].in_place[p.option];
            if (mine.input == q.input && mine.output == q.output) v[static_cast<size_t>(p.variable)] = 1;
          }
    }
    for (size_t e = 0; e < index_.tensor_count; ++e)
      if (writes_[e] >= 0 && written[e]) v[static_cast<size_t>(writes_[e])] = 1;
    return v;
  }

  // Not all of these residences at once.
  void forbid(const ScratchSchedule& s, const std::vector<PackItem>& items, const std::vector<std::vector<Residence>>& owners, const std::vector<char>& chosen) {
    Terms terms;
    double ones = 0;
    const auto negated = [&](int variable) { terms.emplace_back(variable, -1), ones += 1; };
    for (size_t i = 0; i < items.size(); ++i) {
      if (!chosen[i]) continue;
      for (size_t part = 0; part < owners[i].size() && part < items[i].parts.size(); ++part) {
        const Residence& owner = owners[i][part];
        const PackItem::Part& span = items[i].parts[part];
        const int op = s.steps[static_cast<size_t>(owner.step)].op;
        if (owner.tensor < 0 || index_.once[static_cast<size_t>(owner.tensor)] || residence(owner.tensor, owner.step) < 0) {
          negated(x(op, owner.step));  // comes and goes with its operator
        } else {
          for (int t = owner.step; t <= span.last; ++t) {
            negated(residence(owner.tensor, t));
            if (int l = load(owner.tensor, t); t > owner.step && l >= 0) terms.emplace_back(l, 1);
          }
        }
        if (part > 0)
          for (const auto& p : places_)
            if (p.op == op && p.step == owner.step && index_.problem.operators[static_cast<size_t>(op)].in_place[p.option].output == owner.tensor) negated(p.variable);
      }
    }
    program.add_row(1 - ones, kNoLimit, terms);
  }

  // Of the full form: addresses into a schedule that was assembled from the same values.
  void take_addresses(const std::vector<double>& v, ScratchSchedule& s) const {
    s.placed = true;
    s.peak_bytes = 0;
    for (int t = 0; t < steps_; ++t) {
      ScratchStep& step = s.steps[static_cast<size_t>(t)];
      const auto take = [&](int slot) {
        const auto bytes = static_cast<int64_t>(std::llround(v[static_cast<size_t>(addresses_[static_cast<size_t>(t)].at(slot))])) * scale_;
        return bytes;
      };
      for (auto* list : {&step.loads, &step.outputs})
        for (PlacedTensor& p : *list) p.address = take(p.tensor), s.peak_bytes = std::max(s.peak_bytes, p.address + index_.size[static_cast<size_t>(p.tensor)]);
      if (index_.scratch[static_cast<size_t>(step.op)] > 0) {
        step.scratch_address = take(scratch_slot(step.op));
        s.peak_bytes = std::max(s.peak_bytes, step.scratch_address + index_.scratch[static_cast<size_t>(step.op)]);
      }
    }
  }

 private:
  bool has_x(int k, int t) const { return t >= windows_.first[static_cast<size_t>(k)] && t <= windows_.last[static_cast<size_t>(k)]; }
  int x(int k, int t) const { return orders_[static_cast<size_t>(k)] + t - windows_.first[static_cast<size_t>(k)]; }
  int residence(int e, int t) const {
    const Span& s = spans_[static_cast<size_t>(e)];
    return s.residences >= 0 && t >= s.first && t <= s.last ? s.residences + t - s.first : -1;
  }
  int load(int e, int t) const {
    const Span& s = spans_[static_cast<size_t>(e)];
    return s.loads >= 0 && t >= s.first_load && t <= s.last ? s.loads + t - s.first_load : -1;
  }
  int scratch_slot(int k) const { return static_cast<int>(index_.tensor_count) + k; }

  void add_orders() {
    const size_t n = index_.operator_count;
    orders_.resize(n);
    for (size_t k = 0; k < n; ++k) {
      orders_[k] = static_cast<int>(program.variables());
      Terms once;
      for (int t = windows_.first[k]; t <= windows_.last[k]; ++t) once.emplace_back(program.add_binary(0), 1);
      program.add_row(1, 1, once);
    }
    for (int t = 0; t < steps_; ++t) {
      Terms one;
      for (size_t k = 0; k < n; ++k) if (has_x(static_cast<int>(k), t)) one.emplace_back(x(static_cast<int>(k), t), 1);
      program.add_row(1, 1, one);
    }
    // k has run by t only if j had by t − 1.
    for (size_t k = 0; k < n; ++k)
      for (int j : index_.before[k])
        for (int t = windows_.first[k]; t <= windows_.last[k]; ++t) {
          if (t - 1 >= windows_.last[static_cast<size_t>(j)]) break;
          Terms terms;
          for (int u = windows_.first[k]; u <= t; ++u) terms.emplace_back(x(static_cast<int>(k), u), 1);
          for (int u = windows_.first[static_cast<size_t>(j)]; u < t; ++u) terms.emplace_back(x(j, u), -1);
          program.add_row(-kNoLimit, 0, terms);
        }
  }

  void add_residences() {
    spans_.resize(index_.tensor_count);
    writes_.assign(index_.tensor_count, -1);
    for (size_t i = 0; i < index_.tensor_count; ++i) {
      const int e = static_cast<int>(i);
      if (index_.once[i] || index_.consumers[i].empty()) continue;
      Span& s = spans_[i];
      const int made = index_.producer[i];
      s.first = steps_;
      s.last = 0;
      for (int k : index_.consumers[i]) {
        s.first = std::min(s.first, windows_.first[static_cast<size_t>(k)]);
        s.last = std::max(s.last, windows_.last[static_cast<size_t>(k)]);
      }
      s.first_load = s.first;
      if (made >= 0) s.first = windows_.first[static_cast<size_t>(made)];
      s.residences = static_cast<int>(program.variables());
      for (int t = s.first; t <= s.last; ++t) program.add_binary(0);
      s.loads = static_cast<int>(program.variables());
      for (int t = s.first_load; t <= s.last; ++t) program.add_binary(index_.load_cost(e) / unit_);
      if (made < 0) compulsory_ += index_.load_cost(e) / unit_;
      if (made >= 0 && !index_.is_output(e)) writes_[i] = program.add_binary(index_.store_cost(e) / unit_);
      for (int t = s.first; t <= s.last; ++t) {
        Terms used, operand = {{residence(e, t), -1}}, kept = {{residence(e, t), 1}};
        for (int k : index_.consumers[i]) if (has_x(k, t)) used.emplace_back(x(k, t), 1);
        operand.insert(operand.end(), used.begin(), used.end());
        if (made >= 0 && has_x(made, t)) operand.emplace_back(x(made, t), 1), kept.emplace_back(x(made, t), -1);
        if (int before = residence(e, t - 1); before >= 0) kept.emplace_back(before, -1);
        if (operand.size() > 1) program.add_row(-kNoLimit, 0, operand);  // at most one of them runs at t
        if (int l = load(e, t); l >= 0) {
          kept.emplace_back(l, -1);
          for (auto& term : used) term.second = -1;
          used.emplace_back(l, 1);
          program.add_row(-kNoLimit, 0, used);
          if (writes_[i] >= 0) program.add_row(-kNoLimit, 0, {{l, 1}, {writes_[i], -1}});
        }
        program.add_row(-kNoLimit, 0, kept);
      }
    }
  }

  void add_capacity() {
    for (size_t k = 0; k < index_.operator_count; ++k) {
      const ScheduleOperator& o = index_.problem.operators[k];
      for (int t = windows_.first[k]; t <= windows_.last[k] && !o.in_place.empty(); ++t) {
        std::map<int, Terms> by_tensor;
        for (size_t option = 0; option < o.in_place.size(); ++option) {
          const InPlaceOption& p = o.in_place[option];
          if (index_.size[static_cast<size_t>(p.output)] > index_.size[static_cast<size_t>(p.input)]) continue;
          const int v = program.add_binary(0);
          places_.push_back({static_cast<int>(k), t, option, v});
          by_tensor[p.input].emplace_back(v, 1);
          by_tensor[p.output].emplace_back(v, 1);
          if (int next = residence(p.input, t + 1); next >= 0) {
            Terms gone = {{v, 1}, {next, 1}};
            if (int l = load(p.input, t + 1); l >= 0) gone.emplace_back(l, -1);
            program.add_row(-kNoLimit, 1, gone);
          }
        }
        for (auto& [tensor, terms] : by_tensor) {
          terms.emplace_back(x(static_cast<int>(k), t), -1);
          program.add_row(-kNoLimit, 0, terms);
        }
      }
    }
    const auto most = static_cast<double>(index_.problem.capacity);
    for (int t = 0; t < steps_; ++t) {
      Terms terms;
      for (size_t e = 0; e < index_.tensor_count; ++e)
        if (int r = residence(static_cast<int>(e), t); r >= 0) terms.emplace_back(r, static_cast<double>(index_.size[e]) / most);
      for (size_t k = 0; k < index_.operator_count; ++k) {
        if (!has_x(static_cast<int>(k), t)) continue;
        int64_t own = index_.scratch[k];
        for (const auto* list : {&index_.problem.operators[k].inputs, &index_.problem.operators[k].outputs})
          for (int e : *list) if (spans_[static_cast<size_t>(e)].residences < 0) own += index_.size[static_cast<size_t>(e)];
        if (own > 0) terms.emplace_back(x(static_cast<int>(k), t), static_cast<double>(own) / most);
      }
      for (const auto& p : places_)
        if (p.step == t)
          terms.emplace_back(p.variable, -static_cast<double>(index_.size[static_cast<size_t>(index_.problem.operators[static_cast<size_t>(p.op)].in_place[p.option].output)]) / most);
      program.add_row(-kNoLimit, 1 + 1e-9, terms);
    }
  }

  // Whole units: the capacity may leave a rest, which no address can use.
  double units(int64_t bytes) const {
    const int64_t whole = bytes / scale_;
    return static_cast<double>(whole);
  }
  // a[e,t] in units of what all sizes are multiples of; for each pair and step one lies above the other where both are there.
  void add_addresses() {
    scale_ = 0;
    for (int64_t s : index_.size) scale_ = std::gcd(scale_, s);
    for (int64_t s : index_.scratch) scale_ = std::gcd(scale_, s);
    const auto most = units(index_.problem.capacity);
    addresses_.resize(static_cast<size_t>(steps_));
    struct There { int slot, variable; double height; };  // variable 1: it is there
    for (int t = 0; t < steps_; ++t) {
      std::vector<There> there;
      for (size_t e = 0; e < index_.tensor_count; ++e)
        if (int r = residence(static_cast<int>(e), t); r >= 0) there.push_back({static_cast<int>(e), r, units(index_.size[e])});
      for (size_t k = 0; k < index_.operator_count; ++k) {
        if (!has_x(static_cast<int>(k), t)) continue;
        const int v = x(static_cast<int>(k), t);
        for (const auto* list : {&index_.problem.operators[k].inputs, &index_.problem.operators[k].outputs})
          for (int e : *list) if (spans_[static_cast<size_t>(e)].residences < 0) there.push_back({e, v, units(index_.size[static_cast<size_t>(e)])});
        if (index_.scratch[k] > 0) there.push_back({scratch_slot(static_cast<int>(k)), v, units(index_.scratch[k])});
      }
      auto& a = addresses_[static_cast<size_t>(t)];
      for (const There& e : there) a[e.slot] = program.add_variable(0, std::max(0.0, most - e.height), 0, true);
      for (const There& e : there) {
        const int now = residence(e.slot < static_cast<int>(index_.tensor_count) ? e.slot : 0, t);
        if (e.slot >= static_cast<int>(index_.tensor_count) || now != e.variable) continue;
        const int before = residence(e.slot, t - 1), l = load(e.slot, t);
        if (before < 0) continue;
        for (double sign : {1.0, -1.0}) {  // stays where it was
          Terms terms = {{a[e.slot], sign}, {addresses_[static_cast<size_t>(t - 1)].at(e.slot), -sign}, {now, most}, {before, most}};
          if (l >= 0) terms.emplace_back(l, -most);
          program.add_row(-kNoLimit, 2 * most, terms);
        }
      }
      for (size_t i = 0; i < there.size(); ++i)
        for (size_t j = i + 1; j < there.size(); ++j) {
          const There &e = there[i], &f = there[j];
          if (e.variable != f.variable && is_order(e.variable) && is_order(f.variable)) continue;  // of two operators
          const int b = program.add_binary(0);
          Terms below = {{a[e.slot], 1}, {a[f.slot], -1}, {b, most}, {e.variable, most}, {f.variable, most}};
          Terms above = {{a[f.slot], 1}, {a[e.slot], -1}, {b, -most}, {e.variable, most}, {f.variable, most}};
          for (const auto& p : places_) {
            const InPlaceOption& o = index_.problem.operators[static_cast<size_t>(p.op)].in_place[p.option];
            if (p.step != t || !((o.input == e.slot && o.output == f.slot) || (o.input == f.slot && o.output == e.slot))) continue;
            below.emplace_back(p.variable, -most);
            above.emplace_back(p.variable, -most);
          }
          program.add_row(-kNoLimit, 3 * most - e.height, below);
          program.add_row(-kNoLimit, 2 * most - f.height, above);
        }
      for (const auto& p : places_) {
        if (p.step != t) continue;
        const InPlaceOption& o = index_.problem.operators[static_cast<size_t>(p.op)].in_place[p.option];
        for (double sign : {1.0, -1.0}) program.add_row(-kNoLimit, most, {{a.at(o.input), sign}, {a.at(o.output), -sign}, {p.variable, most}});
      }
    }
  }
  bool is_order(int variable) const { return variable <= orders_.back() + windows_.last.back() - windows_.first.back(); }

  struct Span { int first = 0, first_load = 0, last = -1, residences = -1, loads = -1; };
  struct Place { int op, step; size_t option; int variable; };
  const ScheduleIndex& index_;
  Windows windows_;
  int steps_;
  double unit_ = 1, compulsory_ = 0;
  int64_t scale_ = 1;
  std::vector<int> orders_, writes_;
  std::vector<Span> spans_;
  std::vector<Place> places_;
  std::vector<std::map<int, int>> addresses_;
};

// Fewer items that still cannot be placed: each that can be left out is.
std::vector<char> smallest_conflict(const std::vector<PackItem>& items, int64_t height) {
  std::vector<char> chosen(items.size(), 1);
  for (size_t i = 0; i < items.size(); ++i) {
    chosen[i] = 0;
    std::vector<PackItem> rest;
    for (size_t j = 0; j < items.size(); ++j) if (chosen[j]) rest.push_back(items[j]);
    if (pack_within(rest, height, 50, 20'000) != PackResult::kImpossible) chosen[i] = 1;
  }
  return chosen;
}

double seconds_since(std::chrono::steady_clock::time_point begin) { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); }

}  // namespace

size_t schedule_program_size(const ScheduleIndex& index) {
  const Windows w = windows_of(index);
  size_t count = 0;
  for (size_t k = 0; k < index.operator_count; ++k) count += static_cast<size_t>(w.last[k] - w.first[k] + 1);
  for (size_t e = 0; e < index.tensor_count; ++e) {
    if (index.once[e] || index.consumers[e].empty()) continue;
    int last = 0, first = index.producer[e] >= 0 ? w.first[static_cast<size_t>(index.producer[e])] : static_cast<int>(index.operator_count);
    for (int k : index.consumers[e]) {
      last = std::max(last, w.last[static_cast<size_t>(k)]);
      first = std::min(first, w.first[static_cast<size_t>(k)]);
    }
    count += 2 * static_cast<size_t>(last - first + 1);
  }
  return count;
}

ProgramRun solve_schedule_program(const ScheduleIndex& index, PlacementForm form, double seconds, const ScratchSchedule* start, const std::function<void(double, double)>& progress) {
  const auto begin = std::chrono::steady_clock::now();
  Model model(index, form);
  ProgramRun run;
  run.variables = model.program.variables();
  run.rows = model.program.rows();
  std::vector<double> first = start && form == PlacementForm::kDecomposed ? model.values_of(*start) : std::vector<double>();
  while (true) {
    const double left = seconds - seconds_since(begin);
    if (left <= 0) return run;
    ProgramOptions options{.seconds = left, .start = first};
    if (progress)
      options.progress = [&](double best, double bound) {
        progress(best < kNoLimit ? (best - model.compulsory()) * model.unit() : best, std::max(0.0, (bound - model.compulsory()) * model.unit()));
      };
    ProgramSolution solution = solve(model.program, options);
    if (solution.impossible) return run;  // with cuts that are right it cannot be: the time was up
    run.bound = std::max(run.bound, (solution.bound - model.compulsory()) * model.unit());
    if (!solution.found) return run;
    ScratchSchedule s = assemble(index, model.choices(solution.x));
    if (form == PlacementForm::kFull) {
      model.take_addresses(solution.x, s);
      run.schedule = std::move(s);
      run.optimal = solution.optimal;
      if (run.optimal) run.bound = run.schedule->cost;
      return run;
    }
    const PackResult placed = place_schedule(index, s, 400, 2'000'000);
    if (placed == PackResult::kPlaced) {
      run.optimal = solution.optimal;
      if (run.optimal) run.bound = s.cost;
      run.schedule = std::move(s);
      return run;
    }
    if (placed == PackResult::kUnknown || !solution.optimal) return run;
    std::vector<std::vector<Residence>> owners;
    const std::vector<PackItem> items = residences(index, s, &owners);
    model.forbid(s, items, owners, smallest_conflict(items, index.problem.capacity));
    ++run.cuts;
    first.clear();
  }
}

double relaxed_bound(const ScheduleIndex& index, double seconds) {
  Model model(index, PlacementForm::kDecomposed);
  const ProgramSolution solution = solve(model.program, {.seconds = seconds, .relaxed = true});
  return solution.optimal ? std::max(0.0, (solution.bound - model.compulsory()) * model.unit()) : 0;
}

}  // namespace lathe
