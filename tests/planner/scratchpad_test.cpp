#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <random>

#include "core/error.h"
#include "planner/scratchpad/check.h"
#include "planner/scratchpad/program.h"
#include "planner/scratchpad/scratchpad.h"
#include "planner/scratchpad/search.h"
#include "planner/scratchpad/simulate.h"

namespace lathe {
namespace {

using ::testing::HasSubstr;

// A network of `n` operators: each reads one to three tensors made before it, or from outside; sizes of one to four bytes.
ScheduleProblem draw_problem(std::mt19937_64& random, int n) {
  ScheduleProblem p;
  const auto draw = [&](int count) { return static_cast<int>(random() % static_cast<uint64_t>(count)); };
  const auto add = [&](TensorKind kind) {
    p.tensors.push_back({"t" + std::to_string(p.tensors.size()), 1 + draw(4), kind});
    return static_cast<int>(p.tensors.size()) - 1;
  };
  std::vector<int> there = {add(TensorKind::kInput)};
  if (draw(2)) there.push_back(add(TensorKind::kWeight));
  for (int k = 0; k < n; ++k) {
    ScheduleOperator o{"op" + std::to_string(k)};
    for (int i = 1 + draw(std::min<int>(3, static_cast<int>(there.size()))); i > 0; --i) {
      const int e = there[static_cast<size_t>(std::max(0, static_cast<int>(there.size()) - 1 - draw(6)))];
      if (std::find(o.inputs.begin(), o.inputs.end(), e) == o.inputs.end()) o.inputs.push_back(e);
    }
    if (draw(3) == 0) o.inputs.push_back(add(TensorKind::kWeight));
    for (int i = draw(6) == 0 ? 2 : 1; i > 0; --i) {
      o.outputs.push_back(add(TensorKind::kIntermediate));
      there.push_back(o.outputs.back());
    }
    if (draw(3) == 0) o.in_place.push_back({o.inputs[static_cast<size_t>(draw(static_cast<int>(o.inputs.size())))], o.outputs[0]});
    if (draw(5) == 0) o.scratch = 1 + draw(2);
    p.operators.push_back(std::move(o));
  }
  std::vector<char> read(p.tensors.size(), 0);
  for (const ScheduleOperator& o : p.operators)
    for (int e : o.inputs) read[static_cast<size_t>(e)] = 1;
  for (size_t e = 0; e < p.tensors.size(); ++e)
    if (p.tensors[e].kind == TensorKind::kIntermediate && (!read[e] || draw(8) == 0)) p.tensors[e].kind = TensorKind::kOutput;
  p.capacity = 1000;
  const int64_t least = least_capacity(p), most = std::max(least, capacity_without_traffic(p));
  p.capacity = least + draw(static_cast<int>(most - least + 1) / 2 + 1);
  return p;
}

// One of those in which memory is short, most of the time.
ScheduleProblem random_problem(std::mt19937_64& random, int n) {
  ScheduleProblem p;
  for (int tries = 0; tries < 30; ++tries) {
    p = draw_problem(random, n);
    if (capacity_without_traffic(p) > p.capacity) break;
  }
  return p;
}

// All orders × all residences × all addresses, by nothing but trying: is there a schedule that costs less than `cost`?
class Oracle {
 public:
  explicit Oracle(const ScheduleProblem& p) : p_(p), n_(p.operators.size()), uses_(p.tensors.size(), 0), made_(p.tensors.size(), 0), written_(p.tensors.size(), 0), touched_(p.tensors.size(), 0),
                                               item_(p.tensors.size(), -1), done_(n_, 0) {
    for (const ScheduleOperator& o : p.operators)
      for (int e : o.inputs) ++uses_[static_cast<size_t>(e)];
    for (size_t e = 0; e < p.tensors.size(); ++e) made_[e] = written_[e] = outside(static_cast<int>(e));
  }
  bool cheaper_than(double cost) {
    limit_ = cost;
    return step(0, 0);
  }

 private:
  struct Item { std::vector<std::array<int, 3>> parts; };  // first, last, height
  bool outside(int e) const { return p_.tensors[static_cast<size_t>(e)].kind == TensorKind::kInput || p_.tensors[static_cast<size_t>(e)].kind == TensorKind::kWeight; }
  int bytes(int e) const { return static_cast<int>(p_.tensors[static_cast<size_t>(e)].bytes); }

  bool step(int t, double cost) {
    if (cost >= limit_) return false;
    if (t == static_cast<int>(n_)) return fits();
    for (size_t k = 0; k < n_; ++k) {
      if (done_[k]) continue;
      const ScheduleOperator& o = p_.operators[k];
      if (!std::all_of(o.inputs.begin(), o.inputs.end(), [&](int e) { return made_[static_cast<size_t>(e)] != 0; })) continue;
      std::vector<int> here;
      for (size_t e = 0; e < item_.size(); ++e) if (item_[e] >= 0) here.push_back(static_cast<int>(e));
      done_[k] = 1;
      const bool found = fates(t, k, here, 0, cost);
      done_[k] = 0;
      if (found) return true;
    }
    return false;
  }
  // Each tensor that is there stays, goes, or (an operand) moves to another address through the memory outside.
  bool fates(int t, size_t k, const std::vector<int>& here, size_t at, double cost) {
    if (cost >= limit_) return false;
    const ScheduleOperator& o = p_.operators[k];
    if (at == here.size()) return loads(t, k, cost);
    const int e = here[at];
    const auto i = static_cast<size_t>(e);
    if (fates(t, k, here, at + 1, cost)) return true;
    const int item = item_[i];
    const char written = written_[i];
    item_[i] = -1;
    double price = 0;
    if (uses_[i] > 0 && !written) price = bytes(e), written_[i] = 1;
    const bool found = fates(t, k, here, at + 1, cost + price);
    item_[i] = item;
    written_[i] = written;
    (void)o;
    return found;
  }
  bool loads(int t, size_t k, double cost) {
    const ScheduleOperator& o = p_.operators[k];
    const auto items = items_;
    const auto item = item_;
    const auto touched = touched_;
    for (int e : o.inputs) {
      const auto i = static_cast<size_t>(e);
      if (item_[i] >= 0) continue;
      if (touched_[i] || !outside(e)) cost += bytes(e);
      touched_[i] = 1;
      item_[i] = static_cast<int>(items_.size());
      items_.push_back({{{t, t, bytes(e)}}});
    }
    bool found = false;
    for (size_t choice = 0; choice <= o.in_place.size() && !found; ++choice) {  // at most one of them at a time in these problems
      const auto items_before = items_;
      const auto item_before = item_;
      const auto written_before = written_;
      found = run(t, k, choice == 0 ? nullptr : &o.in_place[choice - 1], cost);
      items_ = items_before;
      item_ = item_before;
      written_ = written_before;
    }
    items_ = items;
    item_ = item;
    touched_ = touched;
    return found;
  }
  bool run(int t, size_t k, const InPlaceOption* place, double cost) {
    const ScheduleOperator& o = p_.operators[k];
    for (size_t e = 0; e < item_.size(); ++e)
      if (item_[e] >= 0) items_[static_cast<size_t>(item_[e])].parts.back()[1] = t;
    for (int e : o.inputs) --uses_[static_cast<size_t>(e)];
    bool allowed = true;
    for (int e : o.outputs) {
      const auto i = static_cast<size_t>(e);
      if (place && place->output == e) {
        const auto in = static_cast<size_t>(place->input);
        allowed = bytes(e) <= bytes(place->input);
        if (uses_[in] > 0 && !written_[in]) cost += bytes(place->input), written_[in] = 1;
        item_[i] = item_[in];
        item_[in] = -1;
        items_[static_cast<size_t>(item_[i])].parts.push_back({t + 1, t, bytes(e)});
      } else {
        item_[i] = static_cast<int>(items_.size());
        items_.push_back({{{t, t, bytes(e)}}});
      }
      if (p_.tensors[i].kind == TensorKind::kOutput) written_[i] = 1;
      made_[i] = 1;
    }
    if (o.scratch > 0) items_.push_back({{{t, t, static_cast<int>(o.scratch)}}});
    int64_t sum = o.scratch;
    for (const Item& item : items_)
      for (const auto& part : item.parts) if (part[0] <= t && t <= part[1]) sum += part[2];
    if (o.scratch > 0) sum -= o.scratch;
    std::vector<int> dead;
    for (const auto* list : {&o.inputs, &o.outputs})
      for (int e : *list) if (uses_[static_cast<size_t>(e)] == 0 && item_[static_cast<size_t>(e)] >= 0) dead.push_back(e);
    for (int e : dead) item_[static_cast<size_t>(e)] = -1;
    const bool found = allowed && sum <= p_.capacity && step(t + 1, cost);
    for (int e : o.inputs) ++uses_[static_cast<size_t>(e)];
    for (int e : o.outputs) made_[static_cast<size_t>(e)] = 0;
    return found;
  }
  bool fits() {
    addresses_.assign(items_.size(), -1);
    return place(0);
  }
  bool place(size_t i) {
    if (i == items_.size()) return true;
    int height = 0;
    for (const auto& part : items_[i].parts) height = std::max(height, part[2]);
    for (int a = 0; a + height <= p_.capacity; ++a) {
      bool free = true;
      for (size_t j = 0; j < i && free; ++j)
        for (const auto& p : items_[i].parts)
          for (const auto& q : items_[j].parts)
            if (p[0] <= q[1] && q[0] <= p[1] && a < addresses_[j] + q[2] && addresses_[j] < a + p[2]) free = false;
      addresses_[i] = a;
      if (free && place(i + 1)) return true;
    }
    return false;
  }

  const ScheduleProblem& p_;
  size_t n_;
  std::vector<int> uses_;
  std::vector<char> made_, written_, touched_;
  std::vector<int> item_;
  std::vector<char> done_;
  std::vector<Item> items_;
  std::vector<int> addresses_;
  double limit_ = 0;
};

// The text is executed by something that knows nothing else; what it counts is what the schedule says.
void expect_sound(const ScheduleProblem& p, const ScratchSchedule& s, const std::string& what) {
  const ScheduleRun run = check_schedule(to_json(p, s));
  EXPECT_EQ(run.compulsory_bytes, s.compulsory_bytes) << what;
  EXPECT_EQ(run.load_bytes, s.load_bytes) << what;
  EXPECT_EQ(run.store_bytes, s.store_bytes) << what;
  EXPECT_LE(run.peak_bytes, p.capacity) << what;
  EXPECT_LE(s.lower_bound, s.cost + 1e-9) << what;
}

// LATHE_EXHAUSTIVE=500 runs as many networks of up to nine operators (some minutes); without it a sample runs.
int64_t sample(int64_t small) {
  const char* text = std::getenv("LATHE_EXHAUSTIVE");
  return text ? std::max(small, int64_t{std::atoll(text)}) : small;
}

TEST(Scratchpad, EqualsExhaustiveSearch) {
  std::mt19937_64 random(7);
  const int64_t networks = sample(30);
  int binding = 0, fragmented = 0;
  for (int64_t i = 0; i < networks; ++i) {
    const int n = 2 + static_cast<int>(i % (networks > 30 ? 8 : 6));
    const ScheduleProblem p = random_problem(random, n);
    const std::string what = "network " + std::to_string(i);
    ScratchSchedule best = schedule_scratchpad(p, {.method = ScheduleMethod::kIlp, .time_limit = 120});
    expect_sound(p, best, what);
    EXPECT_TRUE(best.optimal() || best.complete) << what;
    EXPECT_FALSE(Oracle(p).cheaper_than(best.cost)) << what;
    binding += best.cost > 0;
    // The program alone: by cuts, and for the smaller ones with addresses inside.
    ScratchSchedule alone = schedule_scratchpad(p, {.method = ScheduleMethod::kIlp, .time_limit = 120, .program_alone = true});
    expect_sound(p, alone, what);
    EXPECT_EQ(alone.cost, best.cost) << what;
    const ScheduleIndex index(p);
    const ProgramRun decomposed = solve_schedule_program(index, PlacementForm::kDecomposed, 120, nullptr);
    ASSERT_TRUE(decomposed.optimal) << what;
    EXPECT_EQ(decomposed.schedule->cost, best.cost) << what;
    fragmented += decomposed.cuts > 0;
    if (n <= 5) {
      const ProgramRun full = solve_schedule_program(index, PlacementForm::kFull, 120, nullptr);
      ASSERT_TRUE(full.schedule.has_value()) << what;
      expect_sound(p, *full.schedule, what + ", addresses in the program");
      EXPECT_EQ(full.schedule->cost, best.cost) << what;
    }
    const ScratchSchedule greedy = schedule_scratchpad(p);
    expect_sound(p, greedy, what);
    EXPECT_GE(greedy.cost, best.cost) << what;
    EXPECT_LE(greedy.lower_bound, best.cost) << what;
    const ScratchSchedule divided = schedule_scratchpad(p, {.method = ScheduleMethod::kDivide, .time_limit = 2});
    expect_sound(p, divided, what);
    EXPECT_LE(divided.cost, best.cost * 1.05 + 1e-9) << what;
  }
  EXPECT_GT(binding, networks / 5);  // memories are tight
  std::printf("%lld networks, %d with traffic, %d where placement took cuts\n", static_cast<long long>(networks), binding, fragmented);
}

TEST(Scratchpad, EveryBaselineIsSoundAndNoneBeatsTheOptimum) {
  std::mt19937_64 random(11);
  for (int i = 0; i < 40; ++i) {
    const ScheduleProblem p = random_problem(random, 3 + i % 10);
    const double best = schedule_scratchpad(p, {.method = ScheduleMethod::kIlp, .time_limit = 30}).cost;
    for (const Baseline& b : baselines(ScheduleIndex(p))) {
      const std::string what = fmt::format("network {}: {}, {}, {}", i, b.order, b.replacement, b.placement);
      if (b.schedule.placed) {
        expect_sound(p, b.schedule, what);
        EXPECT_GE(b.schedule.cost, best) << what;
      }
    }
  }
}

TEST(Scratchpad, PackingWithinEqualsTryingAllAddresses) {
  std::mt19937_64 random(3);
  int impossible = 0;
  for (int i = 0; i < 3000; ++i) {
    std::vector<PackItem> items;
    for (int k = 7 + static_cast<int>(random() % 4); k > 0; --k) {
      const int first = static_cast<int>(random() % 5), last = first + static_cast<int>(random() % 3);
      items.push_back({{{first, last, 1 + static_cast<int64_t>(random() % 3)}}});
      if (random() % 4 == 0) items.back().parts.push_back({last + 1, last + 1 + static_cast<int>(random() % 2), 1});
    }
    const int64_t height = pack_bound(items);
    std::vector<int64_t> at(items.size());
    const std::function<bool(size_t)> place = [&](size_t x) {
      if (x == items.size()) return true;
      for (at[x] = 0; at[x] + items[x].height() <= height; ++at[x]) {
        bool free = true;
        for (size_t y = 0; y < x; ++y)
          for (const auto& p : items[x].parts)
            for (const auto& q : items[y].parts)
              if (p.first <= q.last && q.first <= p.last && at[x] < at[y] + q.height && at[y] < at[x] + p.height) free = false;
        if (free && place(x + 1)) return true;
      }
      return false;
    };
    std::vector<PackItem> copy = items;
    const PackResult result = pack_within(copy, height, 20, 10'000'000);
    EXPECT_EQ(result, place(0) ? PackResult::kPlaced : PackResult::kImpossible) << i;
    impossible += result == PackResult::kImpossible;
  }
  EXPECT_GT(impossible, 3);  // sums fit and no placement does
}

ScheduleProblem chain() {
  return {.tensors = {{"x", 4, TensorKind::kInput}, {"a", 4, TensorKind::kIntermediate}, {"y", 4, TensorKind::kOutput}}, .operators = {{"first", {0}, {1}}, {"second", {1}, {2}}}, .capacity = 8};
}

std::string error_of(const ScheduleProblem& p, ErrorKind kind) {
  try {
    schedule_scratchpad(p);
  } catch (const Error& e) {
    EXPECT_EQ(static_cast<int>(e.kind()), static_cast<int>(kind)) << e.what();
    return e.what();
  }
  return "no error";
}

TEST(Scratchpad, WhatCanNeverBePlannedIsSaidFirst) {
  ScheduleProblem p = chain();
  p.capacity = 7;
  EXPECT_THAT(error_of(p, ErrorKind::kBudget), AllOf(HasSubstr("'first' needs 8 bytes"), HasSubstr("has 7"), HasSubstr("tiles")));
  p = chain();
  p.tensors[1].bytes = 0;
  EXPECT_THAT(error_of(p, ErrorKind::kInput), HasSubstr("'a' has 0 bytes"));
  p.tensors[1].bytes = int64_t{1} << 40;
  EXPECT_THAT(error_of(p, ErrorKind::kInput), HasSubstr("2^40"));
  p = chain();
  p.operators[0].inputs.push_back(2);
  EXPECT_THAT(error_of(p, ErrorKind::kInput), HasSubstr("cycle"));
  p = chain();
  p.operators[1].outputs = {1};
  EXPECT_THAT(error_of(p, ErrorKind::kInput), HasSubstr("is made by"));
  p = chain();
  p.operators[0].inputs = {7};
  EXPECT_THAT(error_of(p, ErrorKind::kInput), HasSubstr("tensor 7 of 3"));
  p = chain();
  p.capacity = 0;
  EXPECT_THAT(error_of(p, ErrorKind::kInput), HasSubstr("scratchpad of 0 bytes"));
  p = chain();
  p.operators.clear();
  EXPECT_THAT(error_of(p, ErrorKind::kInput), HasSubstr("no operator"));
}

TEST(Scratchpad, InPlaceMakesRoom) {
  ScheduleProblem p = chain();
  p.capacity = 4;
  for (ScheduleOperator& o : p.operators) o.in_place = {{o.inputs[0], o.outputs[0]}};
  const ScratchSchedule s = schedule_scratchpad(p);
  expect_sound(p, s, "in place");
  EXPECT_EQ(s.other_bytes(), 0);
  EXPECT_EQ(s.peak_bytes, 4);
}

TEST(Scratchpad, ReadingAndWritingMayCostDifferently) {
  // While "big" runs, either a (an intermediate: written and read back) or w (a weight, read again) has to go.
  ScheduleProblem p{.tensors = {{"x", 1, TensorKind::kInput}, {"w", 3, TensorKind::kWeight}, {"a", 2, TensorKind::kIntermediate}, {"b", 6, TensorKind::kIntermediate},
                                {"c", 1, TensorKind::kIntermediate}, {"y", 1, TensorKind::kOutput}},
                    .operators = {{"one", {0, 1}, {2}}, {"big", {2}, {3}}, {"two", {3}, {4}}, {"three", {1, 2, 4}, {5}}},
                    .capacity = 10};
  const ScratchSchedule equal = schedule_scratchpad(p, {.method = ScheduleMethod::kIlp});
  EXPECT_EQ(equal.load_bytes + equal.store_bytes, 3);  // the weight again
  p.load_cost = 10;
  const ScratchSchedule dear = schedule_scratchpad(p, {.method = ScheduleMethod::kIlp});
  expect_sound(p, dear, "dear");
  EXPECT_TRUE(dear.optimal());
}

TEST(Scratchpad, ATextThatBreaksARuleIsFound) {
  std::mt19937_64 random(5);
  ScheduleProblem p;
  ScratchSchedule s;
  do {
    p = random_problem(random, 8);
    s = schedule_scratchpad(p);
  } while (s.store_bytes == 0);
  const nlohmann::json good = to_json(p, s);
  const auto expect_broken = [&](const char* what, auto change) {
    nlohmann::json bad = good;
    change(bad);
    EXPECT_THROW(check_schedule(bad), Error) << what;
  };
  expect_broken("an operator is missing", [](auto& j) { j["steps"].erase(j["steps"].size() - 1); });
  expect_broken("an operator runs twice", [](auto& j) { j["steps"].push_back(j["steps"].back()); });
  expect_broken("overlap", [](auto& j) { for (auto& step : j["steps"]) for (auto& out : step["outputs"]) out[1] = 0; });
  expect_broken("outside", [](auto& j) { j["steps"][0]["outputs"][0][1] = j["capacity"]; });
  expect_broken("no load", [](auto& j) { for (auto& step : j["steps"]) step.erase("load"); });
  expect_broken("no store", [](auto& j) { for (auto& step : j["steps"]) step.erase("store"); });
  expect_broken("no output", [](auto& j) { for (auto& step : j["steps"]) step.erase("write"); });
  expect_broken("another format", [](auto& j) { j["format"] = "x"; });
  expect_broken("no tensors", [](auto& j) { j.erase("tensors"); });
}

TEST(Scratchpad, TheTimeLimitIsKept) {
  std::mt19937_64 random(9);
  ScheduleProblem p = random_problem(random, 60);
  p.capacity = least_capacity(p);
  for (double limit : {3.0, 5.0}) {  // a busy machine takes some tenths of a second to wake a process
    int told = 0;
    const auto begin = std::chrono::steady_clock::now();
    const ScratchSchedule s = schedule_scratchpad(p, {.method = ScheduleMethod::kIlp, .time_limit = limit, .program_alone = true, .progress = [&](const ScheduleProgress&) { ++told; }});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    expect_sound(p, s, "stopped");
    EXPECT_LE(seconds, limit * 1.1 + 0.1);
    EXPECT_GT(told, 0);
    EXPECT_GE(s.gap(), 0);
    EXPECT_LE(s.gap(), 1);
  }
}

TEST(Scratchpad, TheLowestPeakIsThatOfAllOrders) {
  std::mt19937_64 random(13);
  for (int i = 0; i < 60; ++i) {
    ScheduleProblem p = random_problem(random, 2 + i % 6);
    const ScheduleIndex index(p, false);
    std::vector<int> order(p.operators.size());
    for (size_t k = 0; k < order.size(); ++k) order[k] = static_cast<int>(k);
    int64_t least = INT64_MAX;
    do {
      std::vector<int> position(order.size());
      for (size_t t = 0; t < order.size(); ++t) position[static_cast<size_t>(order[t])] = static_cast<int>(t);
      bool possible = true;
      for (size_t k = 0; k < order.size(); ++k)
        for (int j : index.before[k]) possible = possible && position[static_cast<size_t>(j)] < position[k];
      if (possible) least = std::min(least, peak_of(index, order));
    } while (std::next_permutation(order.begin(), order.end()));
    bool exact = false;
    EXPECT_EQ(capacity_without_traffic(p, &exact), least) << i;
    EXPECT_TRUE(exact);
  }
}

}  // namespace
}  // namespace lathe
