#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

const std::vector<std::string> kNoNames;
const std::vector<float> kNoNumbers;

bool known(int64_t size) { return size != kUnknownDim; }

// RNN, GRU and LSTM differ in the number of gates and in their states.
void infer_recurrent(InferContext& c, int64_t gates, size_t states) {
  c.expect_rank(0, 3, 3);
  c.expect_rank(1, 3, 3);
  c.expect_rank(2, 3, 3);
  const Node& node = c.node();
  const std::string& direction = node.get_string("direction");
  check_model(direction == "forward" || direction == "reverse" || direction == "bidirectional",
              "direction is '{}', expected forward, reverse or bidirectional", direction);
  int64_t directions = direction == "bidirectional" ? 2 : 1;
  bool batch_first = node.get_int("layout") != 0;
  int64_t hidden = node.get_int("hidden_size"), length = kUnknownDim, batch = kUnknownDim, width = kUnknownDim;
  check_model(hidden >= 0 && hidden < (1 << 30), "hidden_size is {}, expected a positive number", hidden);
  if (hidden == 0) hidden = c.shape(2) ? (*c.shape(2))[2] : kUnknownDim;  // not given
  check_model(hidden == kUnknownDim || (hidden > 0 && hidden < (1 << 30)), "R makes a hidden size of {}", hidden);
  if (c.shape(0)) {
    const Shape& x = *c.shape(0);
    length = x[batch_first], batch = x[!batch_first], width = x[2];
  }
  auto expect = [&](size_t i, const Shape& shape) {
    if (!c.has_input(i) || !c.shape(i)) return;
    const Shape& found = *c.shape(i);
    bool matches = found.size() == shape.size();
    for (size_t d = 0; matches && d < shape.size(); ++d)
      matches = !known(found[d]) || !known(shape[d]) || found[d] == shape[d];
    check_model(matches, "input {} has shape {}, expected {}", i, to_string(found), to_string(shape));
  };
  int64_t rows = known(hidden) ? gates * hidden : kUnknownDim;
  Shape state = batch_first ? Shape{batch, directions, hidden} : Shape{directions, batch, hidden};
  expect(1, {directions, rows, width});
  expect(2, {directions, rows, hidden});
  expect(3, {directions, known(rows) ? 2 * rows : kUnknownDim});
  expect(4, {batch});
  for (size_t i = 0; i < states; ++i) expect(5 + i, state);
  if (states == 2) expect(7, {directions, known(hidden) ? 3 * hidden : kUnknownDim});
  c.set_output(0, c.dtype(0), batch_first ? Shape{batch, length, directions, hidden}
                                          : Shape{length, directions, batch, hidden});
  for (size_t i = 0; i < states; ++i) c.set_output(1 + i, c.dtype(0), state);
}

void recurrent(OpRegistry& r, const char* name, int64_t gates, int states, std::vector<AttributeSpec> more) {
  std::vector<AttributeSpec> attributes = {
      {"activation_alpha", kNoNumbers}, {"activation_beta", kNoNumbers},      {"activations", kNoNames},
      {"clip", 0.0f},                   {"direction", std::string("forward")}, {"hidden_size", int64_t{0}},
      {"layout", int64_t{0}}};
  attributes.insert(attributes.end(), more.begin(), more.end());
  r.add({.name = name, .minimum_inputs = 3, .maximum_inputs = states == 2 ? 8 : 6, .minimum_outputs = 0,
         .maximum_outputs = 1 + states, .attributes = std::move(attributes),
         .infer = [gates, states](InferContext& c) { infer_recurrent(c, gates, static_cast<size_t>(states)); },
         .macs = [](const Graph& g, const Node& n) {
           const Shape &x = *g[n.inputs[0]].shape, &w = *g[n.inputs[1]].shape, &rec = *g[n.inputs[2]].shape;
           return x[0] * x[1] * (element_count(w) + element_count(rec));
         }});
}

}  // namespace

void declare_recurrent(OpRegistry& r) {
  recurrent(r, "RNN", 1, 1, {});
  recurrent(r, "GRU", 3, 1, {{"linear_before_reset", int64_t{0}}});
  recurrent(r, "LSTM", 4, 2, {{"input_forget", int64_t{0}}});
}

}  // namespace lathe::ops
