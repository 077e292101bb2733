// COSMA: Li, Gupta and Malik 2023, "Combined Scheduling, Memory Allocation and Tensor Replacement for Minimizing Off-Chip Data Accesses of DNN
// Accelerators", arXiv 2311.18246. reproduce/cosma/README.md says what each check stands for.
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>

#include "models/models.h"
#include "optimize/reproduce.h"
#include "planner/scratchpad/check.h"
#include "planner/scratchpad/program.h"
#include "planner/scratchpad/search.h"
#include "planner/scratchpad/simulate.h"
#include "planner/scratchpad/tiles.h"
#include "runtime/load.h"
#include "runtime/session.h"

namespace lathe::experiments {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

struct Net {
  std::string name;
  BuildOptions options = {};
};

// Those that the method's page names; the largest in its smaller form where it is to be quick.
std::vector<Net> networks(bool quick) {
  BuildOptions unet;
  unet.input = {3, 256, 256};
  unet.more = {{"padding", "same"}};
  return {{"mobilenet_v2", {}}, {"squeezenet1_1", {}}, {"resnet50", {}}, {"efficientnet_b0", {}}, {"densenet121", {}}, {"unet", unet}, {"vit_b_16", {}}, {quick ? "nasnet_a_mobile" : "nasnet_a_large", {}}};
}

PlanOptions shapes_of(const Graph& g) {
  PlanOptions options;
  options.input_shapes = default_input_shapes(g);
  return options;
}

// Weights are not drawn: sizes are all that is asked for.
Graph lowered_network(const Net& net) {
  BuildOptions options = net.options;
  options.draw = false;
  Graph g = build_model(net.name, options);
  const PlanOptions plan = shapes_of(g);
  return lowered(std::move(g), plan);
}

CheckResult less_traffic(const ReproduceContext& context) {
  const double limit = context.quick ? 3 : 55;
  double sum = 0, longest = 0;
  int count = 0, none = 0, optimal = 0, worse = 0;
  std::string lines;
  for (const Net& net : networks(context.quick)) {
    const Graph g = lowered_network(net);
    Scratchpad scratchpad{.capacity = int64_t{1} << 39};
    const int64_t enough = capacity_without_traffic(schedule_network(g, scratchpad).problem);
    lines += "\n          " + net.name + ":";
    for (double part : {0.25, 0.5, 0.75}) {
      context.tell(fmt::format("{} at {} of {} bytes", net.name, part, enough));
      scratchpad.capacity = static_cast<int64_t>(part * static_cast<double>(enough));
      const auto begin = Clock::now();
      const FittedNetwork fitted = fit_in_tiles(g, scratchpad);
      const double left = std::max(1.0, limit - seconds_since(begin));
      const ScratchSchedule s = schedule_scratchpad(fitted.network.problem, {.method = net.name.starts_with("nasnet") ? ScheduleMethod::kDivide : ScheduleMethod::kIlp, .time_limit = left});
      longest = std::max(longest, seconds_since(begin));
      (void)check_schedule(to_json(fitted.network.problem, s));  // throws where it is not sound
      double mean = 0;
      int64_t best = INT64_MAX, ways = 0;
      for (const Baseline& b : baselines(ScheduleIndex(fitted.network.problem))) {
        if (!b.schedule.placed) continue;
        mean += static_cast<double>(b.schedule.other_bytes());
        best = std::min(best, b.schedule.other_bytes());
        ++ways;
      }
      mean /= static_cast<double>(ways);
      worse += s.other_bytes() > best;
      optimal += s.optimal();
      if (mean == 0) {
        ++none;
        lines += fmt::format(" {}: none needed;", part);
        continue;
      }
      const double less = 1 - static_cast<double>(s.other_bytes()) / mean;
      sum += less;
      ++count;
      lines += fmt::format(" {}: {:.2f} MB against {:.2f} (best {:.2f}), {:.0f} % less, {};", part, static_cast<double>(s.other_bytes()) / 1e6, mean / 1e6, static_cast<double>(best) / 1e6, 100 * less,
                           s.optimal() ? "optimal" : fmt::format("gap {:.0f} %", 100 * s.gap()));
    }
  }
  const double less = sum / count;
  return CheckResult::of(less >= 0.8 && worse == 0 && longest <= 60,
                         fmt::format("{:.0f} % less than the mean of the classic ways over {} of {} cases (in {} nobody moves anything), above the best of them in {}; {} optimal; longest {:.1f} s{}", 100 * less,
                                     count, count + none, none, worse, optimal, longest, lines));
}

// A chain of operators over tensors of few bytes, in a memory that is short.
ScheduleProblem small_problem(std::mt19937_64& random, int n) {
  ScheduleProblem p;
  const auto draw = [&](int count) { return static_cast<int>(random() % static_cast<uint64_t>(count)); };
  for (int tries = 0; tries < 50; ++tries) {
    p = {};
    p.tensors.push_back({"x", 1 + draw(4), TensorKind::kInput});
    for (int k = 0; k < n; ++k) {
      ScheduleOperator o{fmt::format("op{}", k)};
      for (int i = 1 + draw(2); i >= 0; --i)
        if (const int e = std::max(0, k - draw(5)); std::find(o.inputs.begin(), o.inputs.end(), e) == o.inputs.end()) o.inputs.push_back(e);
      o.outputs.push_back(static_cast<int>(p.tensors.size()));
      p.tensors.push_back({fmt::format("t{}", k), 1 + draw(4), TensorKind::kIntermediate});
      p.operators.push_back(std::move(o));
    }
    std::vector<char> read(p.tensors.size(), 0);
    for (const ScheduleOperator& o : p.operators)
      for (int e : o.inputs) read[static_cast<size_t>(e)] = 1;
    for (size_t e = 1; e < p.tensors.size(); ++e)
      if (!read[e]) p.tensors[e].kind = TensorKind::kOutput;
    if (!read[0]) continue;
    p.capacity = 1000;
    const int64_t least = least_capacity(p), enough = capacity_without_traffic(p);
    if (enough <= least) continue;
    p.capacity = least + draw(static_cast<int>(enough - least));
    break;
  }
  return p;
}

CheckResult two_ways_agree(const ReproduceContext& context) {
  std::mt19937_64 random(context.seed);
  const int graphs = context.quick ? 40 : 300;
  int traffic = 0, differ = 0, full = 0;
  for (int i = 0; i < graphs; ++i) {
    context.tell(fmt::format("graph {} of {}", i + 1, graphs));
    const ScheduleProblem p = small_problem(random, 4 + i % 6);
    const ScheduleIndex index(p);
    const SearchResult exact = search_schedules(index, {});
    const ProgramRun cuts = solve_schedule_program(index, PlacementForm::kDecomposed, 60, nullptr);
    // Where placement binds, the program costs more than sizes alone say.
    const bool agree = exact.found && exact.exact && cuts.optimal && (cuts.cuts > 0 ? cuts.schedule->cost >= exact.cost : cuts.schedule->cost == exact.cost);
    differ += !agree;
    traffic += agree && cuts.schedule->cost > 0;
    if (p.operators.size() > 5) continue;
    const ProgramRun inside = solve_schedule_program(index, PlacementForm::kFull, 60, nullptr);
    ++full;
    differ += !(inside.schedule && cuts.schedule && inside.schedule->cost == cuts.schedule->cost);
  }
  return CheckResult::of(differ == 0 && traffic > graphs / 4, fmt::format("{} of {} graphs differ ({} need traffic; addresses inside the program on {})", differ, graphs, traffic, full));
}

CheckResult divide_is_near(const ReproduceContext& context) {
  double worst = 1;
  int known = 0;
  for (const Net& net : networks(context.quick)) {
    if (net.name.starts_with("nasnet")) continue;
    const Graph g = lowered_network(net);
    Scratchpad scratchpad{.capacity = int64_t{1} << 39};
    const int64_t enough = capacity_without_traffic(schedule_network(g, scratchpad).problem);
    for (double part : {0.5, 0.75}) {
      context.tell(fmt::format("{} at {}", net.name, part));
      scratchpad.capacity = static_cast<int64_t>(part * static_cast<double>(enough));
      const FittedNetwork fitted = fit_in_tiles(g, scratchpad);
      const ScratchSchedule whole = schedule_scratchpad(fitted.network.problem, {.method = ScheduleMethod::kIlp, .time_limit = context.quick ? 1.0 : 30.0});
      if (!whole.optimal()) continue;
      const ScratchSchedule divided = schedule_scratchpad(fitted.network.problem, {.method = ScheduleMethod::kDivide, .time_limit = context.quick ? 1.0 : 30.0});
      ++known;
      worst = std::max(worst, whole.cost > 0 ? divided.cost / whole.cost : divided.cost > 0 ? INFINITY : 1);
    }
  }
  return CheckResult::of(known > 0 && worst <= 1.05, fmt::format("{:.3f} of the optimum at most, {} cases with a known optimum", worst, known));
}

CheckResult runs_the_same(const ReproduceContext& context) {
  double worst = 0;
  int runs = 0;
  int64_t moved = 0;
  for (const Net& net : networks(context.quick)) {
    if (context.quick && net.name != "squeezenet1_1" && net.name != "mobilenet_v2" && net.name != "efficientnet_b0") continue;
    context.tell(net.name);
    BuildOptions options = net.options;
    if (net.name == "nasnet_a_large") options.input = {3, 99, 99};
    Graph g = build_model(net.name, options);
    const PlanOptions plan = shapes_of(g);
    const Graph low = lowered(g, plan);
    Session session(make_plan(std::move(g), plan));
    const std::vector<Tensor> x = random_inputs(session.plan(), context.seed);
    const std::vector<Tensor>& expected = session.run(x);
    Scratchpad scratchpad{.capacity = int64_t{1} << 39};
    const int64_t enough = capacity_without_traffic(schedule_network(low, scratchpad).problem);
    for (double part : {0.25, 0.6}) {
      scratchpad.capacity = static_cast<int64_t>(part * static_cast<double>(enough));
      const FittedNetwork fitted = fit_in_tiles(low, scratchpad);
      const ScratchSchedule s = schedule_scratchpad(fitted.network.problem);
      const std::vector<Tensor> parts = run_schedule(fitted.network, to_json(fitted.network.problem, s), fitted.tiles.cut(x));
      const std::vector<Tensor> got = fitted.tiles.join(parts, low);
      moved += s.other_bytes();
      ++runs;
      for (size_t i = 0; i < got.size(); ++i) {
        double range = 1e-30, error = 0;
        for (int64_t k = 0; k < got[i].size(); ++k) {
          range = std::max(range, std::fabs(expected[i].get(k)));
          const double difference = std::fabs(expected[i].get(k) - got[i].get(k));
          error = std::max(error, std::isnan(difference) ? INFINITY : difference);
        }
        worst = std::max(worst, error / range);
      }
    }
  }
  return CheckResult::of(worst <= 1e-4 && moved > 0, fmt::format("largest difference {:.1e} of the range, {} runs that moved {:.1f} MB out and back", worst, runs, static_cast<double>(moved) / 1e6));
}

CheckResult arenas_are_least(const ReproduceContext& context) {
  double worst = 0, slowest = 0, order_worst = 0;
  std::string unproven;
  const std::vector<std::string> names = {"mobilenet_v1", "mobilenet_v2", "resnet18", "resnet50", "densenet121", "squeezenet1_1", "efficientnet_b0", "vit_b_16", "convnext_tiny", "unet", "nasnet_a_large"};
  for (const std::string& name : names) {
    context.tell(name);
    BuildOptions options;
    options.draw = false;
    Graph g = build_model(name, options);
    const Plan plan = make_plan(g, shapes_of(g));
    worst = std::max(worst, static_cast<double>(plan.arena_bytes - plan.scratch_bytes) / static_cast<double>(plan.lower_bound));
    // The same buffers again, for the time; and what other orders of the operators could save.
    std::vector<Buffer> buffers;
    for (const Placement& p : plan.placements)
      if (p.offset >= 0) buffers.push_back({p.bytes, p.first_step, p.last_step, 0});
    const auto begin = Clock::now();
    place_buffers(buffers);
    slowest = std::max(slowest, seconds_since(begin));
    ScheduleProblem p = schedule_network(plan.graph, {.capacity = int64_t{1} << 39}).problem;
    const auto outside = [&](int e) { return p.tensors[static_cast<size_t>(e)].kind == TensorKind::kInput || p.tensors[static_cast<size_t>(e)].kind == TensorKind::kWeight; };
    for (ScheduleOperator& o : p.operators) {
      std::erase_if(o.inputs, outside);
      std::erase_if(o.in_place, [&](const InPlaceOption& option) { return outside(option.input); });
    }
    const ScheduleIndex index(p, false);
    bool exact = false;
    const int64_t least = capacity_without_traffic(p, &exact);
    order_worst = std::max(order_worst, static_cast<double>(peak_of(index, index.stored_order)) / static_cast<double>(least));
    if (!exact) unproven += " " + name;
  }
  return CheckResult::of(worst <= 1.02 && slowest <= 0.1 && order_worst <= 1.02,
                         fmt::format("{:.4f} of the bound at most ({} networks), addresses in {:.1f} ms at most; the order's peak is {:.4f} of the least over all orders at most{}", worst, names.size(), 1e3 * slowest, order_worst,
                                     unproven.empty() ? "" : ", which is not proved for" + unproven));
}

CheckResult time_is_kept(const ReproduceContext& context) {
  Scratchpad scratchpad{.capacity = int64_t{1} << 39};
  const Graph g = lowered_network({"squeezenet1_1", {}});
  scratchpad.capacity = capacity_without_traffic(schedule_network(g, scratchpad).problem) / 4;
  const FittedNetwork fitted = fit_in_tiles(g, scratchpad);
  double worst = 0, greedy = 0;
  for (double limit : context.quick ? std::vector<double>{1, 3} : std::vector<double>{1, 5, 20}) {
    for (ScheduleMethod method : {ScheduleMethod::kIlp, ScheduleMethod::kDivide}) {
      const auto begin = Clock::now();
      (void)schedule_scratchpad(fitted.network.problem, {.method = method, .time_limit = limit});
      worst = std::max(worst, seconds_since(begin) / limit);
    }
  }
  for (int i = 0; i < 3; ++i) {
    const auto begin = Clock::now();
    (void)schedule_scratchpad(fitted.network.problem);
    greedy = i == 0 ? seconds_since(begin) : std::min(greedy, seconds_since(begin));
  }
  return CheckResult::of(worst <= 1.1 && greedy <= 0.1, fmt::format("{:.3f} of the limit at most; the greedy planner takes {:.0f} ms for {} operators", worst, 1e3 * greedy, fitted.network.problem.operators.size()));
}

}  // namespace

Reproduction cosma() {
  return {"cosma", "Order, placement and replacement planned together", "Li, Gupta and Malik 2023, arXiv 2311.18246",
          {{"two ways agree", "the integer program is exact (section 3)", "dynamic program, integer program with cuts, and with addresses inside: the same cost on all random graphs", true, two_ways_agree},
           {"less traffic", "84 % fewer non-compulsory accesses than other methods on average, 85 % divided (abstract)", "at least 80 % less than the mean of the classic ways at 1/4, 1/2 and 3/4 of what needs none, never more than the best of them, each within 60 s", true, less_traffic},
           {"divided", "a divide-and-conquer heuristic for large networks (abstract)", "at most 1.05 of the optimum where that is known", true, divide_is_near},
           {"results", "a schedule computes what the network does", "run from the schedule's text in tiles: within 1e-4 of the plain run", true, runs_the_same},
           {"arenas", "none: the CPU's plans", "at most 1.02 of the lower bound, addresses within 100 ms, and no order is better by more than 2 %", true, arenas_are_least},
           {"time", "optimal in seconds (abstract)", "limits kept within 10 %, the greedy planner within 100 ms", true, time_is_kept}}};
}

}  // namespace lathe::experiments
