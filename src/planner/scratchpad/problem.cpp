#include "planner/scratchpad/problem.h"

#include <algorithm>
#include <bit>
#include <queue>

#include "core/error.h"

namespace lathe {

const char* name_of(TensorKind kind) {
  constexpr const char* names[] = {"input", "weight", "intermediate", "output"};
  return names[static_cast<int>(kind)];
}

namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 40;

void check_tensors(const ScheduleProblem& p) {
  if (p.alignment < 1 || p.alignment > (1 << 20)) fail(ErrorKind::kInput, "an alignment of {} bytes; 1 to {} are possible", p.alignment, 1 << 20);
  if (p.capacity < 1 || p.capacity > kMaxBytes) fail(ErrorKind::kInput, "a scratchpad of {} bytes; 1 to 2^40 are possible", p.capacity);
  if (p.operators.empty()) fail(ErrorKind::kInput, "there is no operator to schedule");
  for (const ScheduleTensor& t : p.tensors) {
    if (t.bytes < 1) fail(ErrorKind::kInput, "tensor '{}' has {} bytes: what has no elements cannot be scheduled; fold it away first", t.name, t.bytes);
    if (t.bytes >= kMaxBytes) fail(ErrorKind::kInput, "tensor '{}' has {} bytes; less than 2^40 are possible", t.name, t.bytes);
  }
}

}  // namespace

ScheduleIndex::ScheduleIndex(const ScheduleProblem& p, bool needs_capacity) : problem(p), tensor_count(p.tensors.size()), operator_count(p.operators.size()) {
  check_tensors(p);
  const auto rounded = [&](int64_t bytes) { return (bytes + p.alignment - 1) / p.alignment * p.alignment; };
  size.resize(tensor_count);
  for (size_t e = 0; e < tensor_count; ++e) size[e] = rounded(p.tensors[e].bytes);
  producer.assign(tensor_count, -1);
  consumers.resize(tensor_count);
  before.resize(operator_count);
  after.resize(operator_count);
  scratch.resize(operator_count);
  for (size_t k = 0; k < operator_count; ++k) {
    const ScheduleOperator& o = p.operators[k];
    if (o.scratch < 0 || o.scratch >= kMaxBytes) fail(ErrorKind::kInput, "operator '{}' needs {} bytes of its own; 0 to 2^40 are possible", o.name, o.scratch);
    scratch[k] = rounded(o.scratch);
    for (const auto* list : {&o.inputs, &o.outputs})
      for (int e : *list) {
        if (e < 0 || static_cast<size_t>(e) >= tensor_count) fail(ErrorKind::kInput, "operator '{}' names tensor {} of {}", o.name, e, tensor_count);
        if (std::count(list->begin(), list->end(), e) > 1) fail(ErrorKind::kInput, "operator '{}' names tensor '{}' twice", o.name, p.tensors[static_cast<size_t>(e)].name);
      }
    for (int e : o.outputs) {
      auto& made = producer[static_cast<size_t>(e)];
      if (made >= 0) fail(ErrorKind::kInput, "tensor '{}' is made by '{}' and by '{}'", p.tensors[static_cast<size_t>(e)].name, p.operators[static_cast<size_t>(made)].name, o.name);
      made = static_cast<int>(k);
    }
    for (int e : o.inputs) consumers[static_cast<size_t>(e)].push_back(static_cast<int>(k));
    for (const InPlaceOption& option : o.in_place)
      if (std::count(o.inputs.begin(), o.inputs.end(), option.input) != 1 || std::count(o.outputs.begin(), o.outputs.end(), option.output) != 1)
        fail(ErrorKind::kInput, "operator '{}' is to work in place on what is not its input and output", o.name);
  }
  once.assign(tensor_count, 0);
  for (size_t e = 0; e < tensor_count; ++e) {
    const bool outside = p.tensors[e].kind == TensorKind::kInput || p.tensors[e].kind == TensorKind::kWeight;
    if (outside != (producer[e] < 0))
      fail(ErrorKind::kInput, "tensor '{}' is an {} and {}", p.tensors[e].name, name_of(p.tensors[e].kind), outside ? "has a producer" : "nothing makes it");
    once[e] = outside && consumers[e].size() <= 1;
    if (outside && !consumers[e].empty()) compulsory += p.tensors[e].bytes;
    if (p.tensors[e].kind == TensorKind::kOutput) compulsory += p.tensors[e].bytes;
    if (!outside)
      for (int k : consumers[e]) {
        before[static_cast<size_t>(k)].push_back(producer[e]);
        after[static_cast<size_t>(producer[e])].push_back(k);
      }
  }
  for (auto* lists : {&before, &after})
    for (auto& list : *lists) {
      std::sort(list.begin(), list.end());
      list.erase(std::unique(list.begin(), list.end()), list.end());
    }
  // The lowest index that is ready goes next: the stored order, where it is one.
  std::vector<int> waits(operator_count);
  std::priority_queue<int, std::vector<int>, std::greater<>> ready;
  for (size_t k = 0; k < operator_count; ++k)
    if ((waits[k] = static_cast<int>(before[k].size())) == 0) ready.push(static_cast<int>(k));
  while (!ready.empty()) {
    int k = ready.top();
    ready.pop();
    stored_order.push_back(k);
    for (int j : after[static_cast<size_t>(k)])
      if (--waits[static_cast<size_t>(j)] == 0) ready.push(j);
  }
  if (stored_order.size() < operator_count)
    for (size_t k = 0; k < operator_count; ++k)
      if (waits[k] > 0) fail(ErrorKind::kInput, "operator '{}' waits for itself: the network has a cycle", p.operators[k].name);
  demand.resize(operator_count);
  for (size_t k = 0; k < operator_count; ++k) {
    const ScheduleOperator& o = p.operators[k];
    int64_t sum = scratch[k];
    for (const auto* list : {&o.inputs, &o.outputs})
      for (int e : *list) sum += size[static_cast<size_t>(e)];
    // At best each output takes the place of an input of its own.
    std::vector<char> taken(tensor_count, 0);
    for (const InPlaceOption& option : o.in_place) {
      const auto i = static_cast<size_t>(option.input), out = static_cast<size_t>(option.output);
      if (taken[i] || taken[out] || size[out] > size[i]) continue;
      taken[i] = taken[out] = 1;
      sum -= size[out];
    }
    demand[k] = sum;
    largest_demand = std::max(largest_demand, sum);
    if (needs_capacity && sum > p.capacity)
      fail(ErrorKind::kBudget, "operator '{}' needs {} bytes at once for its operands, the scratchpad has {}: it has to run in tiles (--tiles), each on a part of its output, "
           "or on a larger scratchpad", o.name, sum, p.capacity);
  }
}

std::vector<std::vector<uint64_t>> ancestors_of(const ScheduleIndex& index) {
  const size_t words = (index.operator_count + 63) / 64;
  std::vector<std::vector<uint64_t>> all(index.operator_count, std::vector<uint64_t>(words, 0));
  for (int k : index.stored_order) {
    auto& mine = all[static_cast<size_t>(k)];
    mine[static_cast<size_t>(k) / 64] |= uint64_t{1} << (k % 64);
    for (int j : index.before[static_cast<size_t>(k)])
      for (size_t w = 0; w < words; ++w) mine[w] |= all[static_cast<size_t>(j)][w];
  }
  return all;
}

Windows windows_of(const ScheduleIndex& index) {
  const auto ancestors = ancestors_of(index);
  const size_t n = index.operator_count;
  Windows w{std::vector<int>(n, 0), std::vector<int>(n, 0)};
  std::vector<int> descendants(n, 0);
  for (size_t k = 0; k < n; ++k) {
    int count = 0;
    for (uint64_t word : ancestors[k]) count += std::popcount(word);
    w.first[k] = count - 1;
    for (size_t j = 0; j < n; ++j)
      if (j != k && (ancestors[k][j / 64] >> (j % 64) & 1)) ++descendants[j];
  }
  for (size_t k = 0; k < n; ++k) w.last[k] = static_cast<int>(n) - 1 - descendants[k];
  return w;
}

}  // namespace lathe
