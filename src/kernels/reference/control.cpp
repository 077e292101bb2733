#include <limits>

#include "kernels/reference/families.h"
#include "kernels/reference/strided.h"

namespace lathe::reference {
namespace {

using Ints = std::vector<int64_t>;

// A subgraph attribute with the part of the node's captures that is its own.
struct Body {
  const Graph& graph;
  std::vector<Tensor> captures;

  std::vector<Tensor> run(std::vector<Tensor> inputs) const {
    std::vector<Tensor> outputs = run_graph(graph, std::move(inputs), captures);
    for (const Tensor& t : outputs) check_model(t.defined(), "a subgraph left an output empty");
    return outputs;
  }
};

Body body_of(const Context& c, std::string_view attribute) {
  const auto& graph = c.node().get_graph(attribute);
  check_model(bool(graph), "attribute '{}' holds no graph", attribute);
  size_t skip = 0;  // captures follow the order of attribute names
  for (const auto& [name, value] : c.node().attributes) {
    if (name == attribute) break;
    if (const auto* other = std::get_if<std::shared_ptr<Graph>>(&value); other && *other)
      skip += (*other)->captured.size();
  }
  check_model(skip + graph->captured.size() <= c.captures().size(), "the subgraph captures {} values, the node lists {}",
              skip + graph->captured.size(), c.captures().size());
  auto first = c.captures().begin() + static_cast<int64_t>(skip);
  return {*graph, {first, first + static_cast<int64_t>(graph->captured.size())}};
}

// Exporters give while loops the largest integer as trip count, so an endless loop looks like any other until it
// runs. Loops over the tokens, boxes or frames of an input end after thousands; ten million trips of a body of one
// node take seconds.
constexpr int64_t kMostTrips = 10'000'000;
// What the trips of a loop may leave for its stacked outputs, before a host without that memory ends the process.
constexpr int64_t kMostStackedBytes = int64_t{1} << 34;

bool is_true(const Tensor& condition) {
  check_model(condition.size() == 1 && condition.dtype() == DType::kBool, "a condition must be one bool, found {}{}",
              name_of(condition.dtype()), to_string(condition.shape()));
  return condition.data<uint8_t>()[0] != 0;
}

Tensor bool_scalar(bool value) {
  Tensor t(DType::kBool, {});
  t.data<uint8_t>()[0] = value;
  return t;
}

Tensor i64_scalar(int64_t value) {
  Tensor t(DType::kI64, {});
  t.data<int64_t>()[0] = value;
  return t;
}

// Joins the results of all iterations along a new axis. Without any, the shape is what the body's rule
// says, unknown sizes taken as 0.
Tensor stack(const std::vector<Tensor>& parts, int64_t axis, bool reverse, const Value& declared) {
  Shape shape;
  if (parts.empty()) {
    shape = declared.shape.value_or(Shape{});
    for (int64_t& size : shape) size = std::max<int64_t>(size, 0);
    shape.insert(shape.begin() + normalize_axis(axis, static_cast<int64_t>(shape.size()) + 1), 0);
    return Tensor(declared.dtype, shape);
  }
  const Tensor& first = parts[0];
  axis = normalize_axis(axis, first.rank() + 1);
  shape = first.shape();
  shape.insert(shape.begin() + axis, static_cast<int64_t>(parts.size()));
  Tensor result(first.dtype(), shape);
  Ints strides = strides_of(shape), to_steps = strides;
  to_steps.erase(to_steps.begin() + axis);
  for (size_t i = 0; i < parts.size(); ++i) {
    check_model(parts[i].shape() == first.shape() && parts[i].dtype() == first.dtype(),
                "iterations give results of different shapes, {} and {}", to_string(first.shape()),
                to_string(parts[i].shape()));
    auto place = static_cast<int64_t>(reverse ? parts.size() - 1 - i : i);
    strided_copy(parts[i], 0, strides_of(first.shape()), result, place * strides[axis], to_steps, first.shape());
  }
  return result;
}

// One entry of a sequence, its axis removed.
Tensor entry_of(const Tensor& sequence, int64_t axis, int64_t index) {
  Ints strides = strides_of(sequence.shape()), steps = strides;
  Shape shape = sequence.shape();
  shape.erase(shape.begin() + axis);
  steps.erase(steps.begin() + axis);
  Tensor result(sequence.dtype(), shape);
  strided_copy(sequence, index * strides[axis], steps, result, 0, strides_of(shape), shape);
  return result;
}

void run_if(Context& c) {
  Body body = body_of(c, is_true(c.input()) ? "then_branch" : "else_branch");
  check_model(body.graph.inputs.empty() && body.graph.outputs.size() >= c.output_count(),
              "a branch of If must have no inputs and {} outputs", c.output_count());
  std::vector<Tensor> outputs = body.run({});
  for (size_t i = 0; i < c.output_count(); ++i) c.set_output(i, outputs[i]);
}

void run_loop(Context& c) {
  Body body = body_of(c, "body");
  size_t carried = c.input_count() - 2, count = body.graph.outputs.size();
  check_model(body.graph.inputs.size() == 2 + carried && count >= 1 + carried && count == 1 + c.output_count(),
              "the body of Loop has {} inputs and {} outputs, expected {} and {}", body.graph.inputs.size(), count,
              2 + carried, 1 + c.output_count());
  int64_t trips = std::numeric_limits<int64_t>::max();
  if (c.has_input(0)) {
    check_model(c.input(0).size() == 1, "the trip count must be one integer");
    trips = c.input(0).get_int(0);
  }
  bool go_on = !c.has_input(1) || is_true(c.input(1));
  std::vector<Tensor> state;
  for (size_t i = 0; i < carried; ++i) {
    check_model(c.has_input(2 + i), "Loop: carried value {} is missing", i);
    state.push_back(c.input(2 + i));
  }
  std::vector<std::vector<Tensor>> stacked(count - 1 - carried);
  int64_t stacked_bytes = 0;
  for (int64_t trip = 0; go_on && trip < trips; ++trip) {
    if (trip == kMostTrips)
      fail(ErrorKind::kUnsupported, "Loop has not ended after {} iterations, the most that lathe runs: its condition may never become false", trip);
    std::vector<Tensor> inputs = {i64_scalar(trip), bool_scalar(go_on)};
    inputs.insert(inputs.end(), state.begin(), state.end());
    std::vector<Tensor> outputs = body.run(std::move(inputs));
    go_on = is_true(outputs[0]);
    for (size_t i = 0; i < carried; ++i) state[i] = outputs[1 + i];
    for (size_t i = 0; i < stacked.size(); ++i) {
      stacked[i].push_back(outputs[1 + carried + i]);
      // A tensor takes about this much besides its elements.
      stacked_bytes += static_cast<int64_t>(outputs[1 + carried + i].bytes() + 256);
    }
    if (stacked_bytes > kMostStackedBytes)
      fail(ErrorKind::kUnsupported, "the outputs of Loop take more than {} bytes after {} iterations, the most that lathe keeps", kMostStackedBytes, trip + 1);
  }
  for (size_t i = 0; i < carried; ++i) c.set_output(i, state[i]);
  for (size_t i = 0; i < stacked.size(); ++i)
    if (c.has_output(carried + i))
      c.set_output(carried + i, stack(stacked[i], 0, false, body.graph[body.graph.outputs[1 + carried + i]]));
}

int64_t entry(const Ints& list, size_t i) { return i < list.size() ? list[i] : 0; }

void run_scan(Context& c) {
  Body body = body_of(c, "body");
  const Node& n = c.node();
  int64_t sequences = n.get_int("num_scan_inputs");
  check_model(sequences >= 1 && sequences <= static_cast<int64_t>(c.input_count()), "num_scan_inputs is {} of {} inputs",
              sequences, c.input_count());
  size_t states = c.input_count() - sequences, count = body.graph.outputs.size();
  check_model(body.graph.inputs.size() == c.input_count() && count == c.output_count() && count >= states,
              "the body of Scan has {} inputs and {} outputs, expected {} and {}", body.graph.inputs.size(), count,
              c.input_count(), c.output_count());
  std::vector<Tensor> state;
  for (size_t i = 0; i < c.input_count(); ++i) check_model(c.has_input(i), "Scan: input {} is missing", i);
  for (size_t i = 0; i < states; ++i) state.push_back(c.input(i));
  Ints axes;
  int64_t length = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    const Tensor& sequence = c.input(states + i);
    axes.push_back(normalize_axis(entry(n.get_ints("scan_input_axes"), i), sequence.rank()));
    int64_t size = sequence.shape()[axes.back()];
    check_model(i == 0 || size == length, "Scan over sequences of different lengths, {} and {}", length, size);
    length = size;
  }
  std::vector<std::vector<Tensor>> stacked(count - states);
  for (int64_t t = 0; t < length; ++t) {
    std::vector<Tensor> inputs = state;
    for (int64_t i = 0; i < sequences; ++i) {
      bool backward = entry(n.get_ints("scan_input_directions"), i) != 0;
      inputs.push_back(entry_of(c.input(states + i), axes[i], backward ? length - 1 - t : t));
    }
    std::vector<Tensor> outputs = body.run(std::move(inputs));
    for (size_t i = 0; i < states; ++i) state[i] = outputs[i];
    for (size_t i = 0; i < stacked.size(); ++i) stacked[i].push_back(outputs[states + i]);
  }
  for (size_t i = 0; i < states; ++i) c.set_output(i, state[i]);
  for (size_t i = 0; i < stacked.size(); ++i)
    c.set_output(states + i, stack(stacked[i], entry(n.get_ints("scan_output_axes"), i),
                                   entry(n.get_ints("scan_output_directions"), i) != 0,
                                   body.graph[body.graph.outputs[states + i]]));
}

}  // namespace

void register_control(Registry& r) {
  r.add("If", run_if);
  r.add("Loop", run_loop);
  r.add("Scan", run_scan);
}

}  // namespace lathe::reference
