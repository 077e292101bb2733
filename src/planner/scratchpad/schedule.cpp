#include "planner/scratchpad/schedule.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace lathe {

ScratchSchedule assemble(const ScheduleIndex& index, const std::vector<StepChoice>& choices) {
  const ScheduleProblem& p = index.problem;
  ScratchSchedule s;
  s.compulsory_bytes = index.compulsory;
  std::vector<char> resident(index.tensor_count, 0), outside(index.tensor_count, 0), touched(index.tensor_count, 0), done(index.operator_count, 0);
  std::vector<int> uses(index.tensor_count);
  for (size_t e = 0; e < index.tensor_count; ++e) {
    uses[e] = static_cast<int>(index.consumers[e].size());
    outside[e] = index.from_outside(static_cast<int>(e));
  }
  int64_t now = 0;
  std::vector<int> dead;
  const auto drop = [&](ScratchStep& step, int e) {
    const auto i = static_cast<size_t>(e);
    require(resident[i], "tensor '{}' is dropped and was not there", p.tensors[i].name);
    if (uses[i] > 0 && !outside[i]) {
      step.stores.push_back(e);
      outside[i] = 1;
      s.store_bytes += p.tensors[i].bytes;
      s.cost += index.store_cost(e);
    }
    resident[i] = 0;
    now -= index.size[i];
  };
  const auto load = [&](ScratchStep& step, int e) {
    const auto i = static_cast<size_t>(e);
    require(outside[i], "tensor '{}' is loaded and was never written", p.tensors[i].name);
    step.loads.push_back({e, -1});
    if (touched[i] || !index.from_outside(e)) {
      s.load_bytes += p.tensors[i].bytes;
      s.cost += index.load_cost(e);
    }
    touched[i] = resident[i] = 1;
    now += index.size[i];
  };
  for (const StepChoice& c : choices) {
    ScratchStep step;
    step.op = c.op;
    const auto k = static_cast<size_t>(c.op);
    const ScheduleOperator& o = p.operators[k];
    require(!done[k], "operator '{}' runs twice", o.name);
    for (int j : index.before[k]) require(done[static_cast<size_t>(j)], "operator '{}' runs before '{}'", o.name, p.operators[static_cast<size_t>(j)].name);
    done[k] = 1;
    for (int e : dead) step.evictions.push_back(e);
    dead.clear();
    for (int e : c.evict) drop(step, e), step.evictions.push_back(e);
    for (int e : c.relocate) drop(step, e), step.evictions.push_back(e);
    for (int e : o.inputs)
      if (!resident[static_cast<size_t>(e)]) load(step, e);
    for (int e : o.inputs) --uses[static_cast<size_t>(e)];
    int64_t peak = now + index.scratch[k];
    for (int e : o.outputs) {
      const auto i = static_cast<size_t>(e);
      auto option = std::find_if(c.in_place.begin(), c.in_place.end(), [&](const InPlaceOption& x) { return x.output == e; });
      if (option != c.in_place.end()) {
        require(index.size[i] <= index.size[static_cast<size_t>(option->input)], "operator '{}' is to make more in place than there is", o.name);
        drop(step, option->input);  // the store, if one is needed, comes before the operator
        step.in_place.push_back(*option);
        peak -= index.size[i];
      }
      step.outputs.push_back({e, -1});
      resident[i] = 1;
      now += index.size[i];
      peak += index.size[i];
      if (index.is_output(e)) step.writes.push_back(e), outside[i] = 1;
    }
    require(peak <= p.capacity, "operator '{}' finds {} bytes in a scratchpad of {}", o.name, peak, p.capacity);
    s.peak_bytes = std::max(s.peak_bytes, peak);
    for (const auto* list : {&o.inputs, &o.outputs})
      for (int e : *list)
        if (const auto i = static_cast<size_t>(e); uses[i] == 0 && resident[i]) {
          resident[i] = 0;
          now -= index.size[i];
          dead.push_back(e);
        }
    s.steps.push_back(std::move(step));
  }
  require(s.steps.size() == index.operator_count, "{} of {} operators run", s.steps.size(), index.operator_count);
  // Costs are in seconds where operators have times.
  double compulsory = 0;
  for (size_t e = 0; e < index.tensor_count; ++e) {
    if (index.from_outside(static_cast<int>(e)) && !index.consumers[e].empty()) compulsory += index.load_cost(static_cast<int>(e));
    if (index.is_output(static_cast<int>(e))) compulsory += index.store_cost(static_cast<int>(e));
  }
  s.seconds = s.cost + compulsory;
  for (const ScheduleOperator& o : p.operators) s.seconds += o.seconds;
  return s;
}

std::vector<PackItem> residences(const ScheduleIndex& index, const ScratchSchedule& s, std::vector<std::vector<Residence>>* owners) {
  std::vector<PackItem> items;
  std::vector<int> item_of(index.tensor_count, -1);
  if (owners) owners->clear();
  const auto begin = [&](int e, int t) {
    item_of[static_cast<size_t>(e)] = static_cast<int>(items.size());
    items.push_back({{{t, t, index.size[static_cast<size_t>(e)]}}});
    if (owners) owners->push_back({{t, e}});
  };
  const int end = static_cast<int>(s.steps.size());
  for (int t = 0; t < end; ++t) {
    const ScratchStep& step = s.steps[static_cast<size_t>(t)];
    // Everything that stays through step t has been extended to it; what goes before it must not be.
    for (int e : step.evictions) {
      auto& part = items[static_cast<size_t>(item_of[static_cast<size_t>(e)])].parts.back();
      part.last = std::min(part.last, t - 1);
      item_of[static_cast<size_t>(e)] = -1;
    }
    for (const PlacedTensor& l : step.loads) begin(l.tensor, t);
    for (const PlacedTensor& out : step.outputs) {
      auto option = std::find_if(step.in_place.begin(), step.in_place.end(), [&](const InPlaceOption& x) { return x.output == out.tensor; });
      if (option == step.in_place.end()) {
        begin(out.tensor, t);
        continue;
      }
      const int item = item_of[static_cast<size_t>(option->input)];
      item_of[static_cast<size_t>(option->input)] = -1;
      item_of[static_cast<size_t>(out.tensor)] = item;
      // The input's height counts at this step, the output's from the next on.
      items[static_cast<size_t>(item)].parts.back().last = t;
      items[static_cast<size_t>(item)].parts.push_back({t + 1, t, index.size[static_cast<size_t>(out.tensor)]});
      if (owners) (*owners)[static_cast<size_t>(item)].push_back({t, out.tensor});
    }
    for (size_t e = 0; e < index.tensor_count; ++e)
      if (item_of[e] >= 0) {
        auto& part = items[static_cast<size_t>(item_of[e])].parts.back();
        part.last = std::max(part.last, t);
      }
    if (int64_t bytes = index.scratch[static_cast<size_t>(step.op)]; bytes > 0) {
      items.push_back({{{t, t, bytes}}});
      if (owners) owners->push_back({{t, -1}});
    }
  }
  // An output in place that nothing reads has no step of its own.
  for (PackItem& item : items)
    std::erase_if(item.parts, [](const PackItem::Part& part) { return part.last < part.first; });
  return items;
}

PackResult place_schedule(const ScheduleIndex& index, ScratchSchedule& s, int tries, int64_t nodes) {
  std::vector<std::vector<Residence>> owners;
  std::vector<PackItem> items = residences(index, s, &owners);
  const PackResult result = pack_within(items, index.problem.capacity, tries, nodes);
  if (result != PackResult::kPlaced) return result;
  s.placed = true;
  s.peak_bytes = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    s.peak_bytes = std::max(s.peak_bytes, items[i].address + items[i].height());
    for (const Residence& r : owners[i]) {
      ScratchStep& step = s.steps[static_cast<size_t>(r.step)];
      if (r.tensor < 0) step.scratch_address = items[i].address;
      for (auto* list : {&step.loads, &step.outputs})
        for (PlacedTensor& placed : *list)
          if (placed.tensor == r.tensor) placed.address = items[i].address;
    }
  }
  return result;
}

nlohmann::json to_json(const ScheduleProblem& problem, const ScratchSchedule& s) {
  using nlohmann::json;
  json tensors = json::array(), operators = json::array(), steps = json::array();
  for (const ScheduleTensor& t : problem.tensors) tensors.push_back({{"name", t.name}, {"bytes", t.bytes}, {"kind", name_of(t.kind)}});
  const auto pairs = [](const std::vector<InPlaceOption>& options) {
    json list = json::array();
    for (const InPlaceOption& o : options) list.push_back({o.input, o.output});
    return list;
  };
  const auto placed = [](const std::vector<PlacedTensor>& tensors) {
    json list = json::array();
    for (const PlacedTensor& t : tensors) list.push_back({t.tensor, t.address});
    return list;
  };
  for (const ScheduleOperator& o : problem.operators) {
    json j = {{"name", o.name}, {"inputs", o.inputs}, {"outputs", o.outputs}};
    if (!o.in_place.empty()) j["in_place"] = pairs(o.in_place);
    if (o.scratch > 0) j["scratch"] = o.scratch;
    operators.push_back(std::move(j));
  }
  for (const ScratchStep& step : s.steps) {
    json j = {{"run", step.op}, {"outputs", placed(step.outputs)}};
    if (!step.stores.empty()) j["store"] = step.stores;
    if (!step.evictions.empty()) j["evict"] = step.evictions;
    if (!step.loads.empty()) j["load"] = placed(step.loads);
    if (!step.in_place.empty()) j["in_place"] = pairs(step.in_place);
    if (step.scratch_address >= 0) j["scratch"] = step.scratch_address;
    if (!step.writes.empty()) j["write"] = step.writes;
    steps.push_back(std::move(j));
  }
  return {{"format", "lathe scratchpad schedule 1"}, {"capacity", problem.capacity}, {"alignment", problem.alignment}, {"tensors", tensors}, {"operators", operators},
          {"steps", steps}, {"method", s.method}, {"peak_bytes", s.peak_bytes}, {"compulsory_bytes", s.compulsory_bytes}, {"load_bytes", s.load_bytes},
          {"store_bytes", s.store_bytes}, {"cost", s.cost}, {"lower_bound", s.lower_bound}, {"gap", s.gap()}, {"optimal", s.optimal()},
          {"complete", s.complete}, {"seconds", s.seconds}, {"solve_seconds", s.solve_seconds}};
}

std::string print_schedule(const ScheduleProblem& problem, const ScratchSchedule& s) {
  std::string text = fmt::format("{:>4}  {:<36} {:>12}  {}\n", "step", "operator", "address", "before it");
  const auto names = [&](const char* what, const auto& list, auto id) {
    std::string line;
    for (const auto& x : list) line += (line.empty() ? "" : ", ") + problem.tensors[static_cast<size_t>(id(x))].name;
    return line.empty() ? line : fmt::format("{} {}; ", what, line);
  };
  const auto plain = [](int e) { return e; };
  const auto of = [](const PlacedTensor& t) { return t.tensor; };
  for (size_t t = 0; t < s.steps.size(); ++t) {
    const ScratchStep& step = s.steps[t];
    std::string moves = names("store", step.stores, plain) + names("load", step.loads, of) + names("write", step.writes, plain);
    if (!moves.empty()) moves.resize(moves.size() - 2);
    text += fmt::format("{:>4}  {:<36} {:>12}  {}\n", t, problem.operators[static_cast<size_t>(step.op)].name, step.outputs.empty() ? "-" : std::to_string(step.outputs[0].address), moves);
  }
  return text;
}

}  // namespace lathe
