#include "models/cell.h"

#include <algorithm>
#include <charconv>
#include <sstream>

namespace lathe {
namespace {

// Convolution and norm, each named; `x` is used as it is.
ValueId conv_norm(Builder& b, const std::string& name, ValueId x, const ConvSpec& spec) {
  auto scope = b.scope(name);
  return b.batch_norm(b.conv(x, spec));
}

// ReLU, depthwise, 1×1, norm: no norm between the two convolutions.
ValueId separable(Builder& b, const std::string& name, ValueId x, int64_t filters, int64_t kernel, int64_t stride, int64_t dilation) {
  auto scope = b.scope(name);
  x = b.relu(x);
  {
    auto inner = b.scope("depthwise");
    x = b.depthwise(x, kernel, stride, kSamePad, false, dilation);
  }
  return conv_norm(b, "pointwise", x, {.out = filters});
}

// 1×1 at the stride on every second pixel, and on every second of the picture shifted by one: half of the filters each, the odd
// one in the second. The norm over both is one for each, whose channels are its own.
ValueId factorized_reduction(Builder& b, ValueId x, int64_t filters, int64_t stride) {
  if (stride == 1) return conv_norm(b, "path", x, {.out = filters});
  const ValueId first = conv_norm(b, "path1", x, {.out = filters / 2, .stride = stride});
  const ValueId shifted = b.op("Pad", {x, b.graph().add_constant(Tensor::of_i64({0, 0, -1, -1, 0, 0, 1, 1}))});
  return b.concat({first, conv_norm(b, "path2", shifted, {.out = filters - filters / 2, .stride = stride})});
}

bool same_size(const Builder& b, ValueId x, ValueId y) { return b.shape(x)[2] == b.shape(y)[2] && b.shape(x)[3] == b.shape(y)[3]; }

ValueId apply(Builder& b, const std::string& name, ValueId x, int64_t filters, int64_t stride) {
  auto scope = b.scope(name);
  const int64_t size = name.back() - '0';
  const auto narrow = [&](ValueId v) { return b.channels(v) == filters ? v : conv_norm(b, "project", v, {.out = filters}); };
  if (name == "id") return stride == 1 && b.channels(x) == filters ? x : conv_norm(b, "project", b.relu(x), {.out = filters, .stride = stride});
  if (name == "conv1" || name == "conv3") return conv_norm(b, "conv", b.relu(x), {.out = filters, .kernel = size, .stride = stride, .pad = kSamePad});
  if (name == "conv1x3" || name == "conv1x7") {
    x = conv_norm(b, "row", b.relu(x), {.out = filters, .kernel = {1, size}, .stride = {1, stride}, .pad = kSamePad});
    return conv_norm(b, "column", b.relu(x), {.out = filters, .kernel = {size, 1}, .stride = {stride, 1}, .pad = kSamePad});
  }
  if (name == "dil3") return conv_norm(b, "conv", b.relu(x), {.out = filters, .kernel = size, .stride = stride, .pad = kSamePad, .dilation = 2});
  if (name.starts_with("dilsep")) return separable(b, "0", x, filters, size, stride, 2);
  if (name.starts_with("sep")) return separable(b, "1", separable(b, "0", x, filters, size, stride, 1), filters, size, 1, 1);
  const PoolSpec pool{.kernel = size, .stride = stride, .pad = kSamePad};
  return narrow(name.starts_with("avg") ? b.average_pool(x, pool) : b.max_pool(x, pool));
}

size_t state_of(std::string_view text, const std::string& entry) {
  size_t state = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), state);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) fail(ErrorKind::kUsage, "cell entry {}: \"{}\" is no state", entry, text);
  return state;
}

Cell::Part part_of(const std::string& text, const std::string& entry, size_t made) {
  const size_t colon = text.find(':');
  if (colon == text.npos) fail(ErrorKind::kUsage, "cell entry {}: \"{}\" is not OPERATION:STATE", entry, text);
  Cell::Part part{text.substr(0, colon), state_of(std::string_view(text).substr(colon + 1), entry)};
  const std::vector<std::string>& known = cell_operations();
  if (std::find(known.begin(), known.end(), part.operation) == known.end())
    fail(ErrorKind::kUsage, "cell entry {}: no operation \"{}\"; there are {}", entry, part.operation, fmt::join(known, ", "));
  if (part.state >= made) fail(ErrorKind::kUsage, "cell entry {}: state {} is not made before it; there are 0 to {}", entry, part.state, made - 1);
  return part;
}

}  // namespace

const std::vector<std::string>& cell_operations() {
  static const std::vector<std::string> all = {"id",   "conv1", "conv3", "conv1x3", "conv1x7", "dil3", "dilsep3", "dilsep5",
                                               "sep3", "sep5",  "sep7",  "avg3",    "max3",    "max5", "max7"};
  return all;
}

Cell parse_cell(const std::string& text) {
  Cell cell;
  std::istringstream words(text);
  std::string word;
  bool ended = false;
  while (words >> word) {
    if (ended) fail(ErrorKind::kUsage, "cell entry {}: nothing may follow \"out\"", word);
    if (word.starts_with("out:")) {
      ended = true;
      for (size_t at = 4; at <= word.size();) {
        const size_t comma = std::min(word.find(',', at), word.size());
        const size_t state = state_of(std::string_view(word).substr(at, comma - at), word);
        if (state >= cell.steps.size() + 2) fail(ErrorKind::kUsage, "cell entry {}: state {} is never produced; there are 0 to {}", word, state, cell.steps.size() + 1);
        if (std::find(cell.output.begin(), cell.output.end(), state) != cell.output.end()) fail(ErrorKind::kUsage, "cell entry {}: state {} twice", word, state);
        cell.output.push_back(state);
        at = comma + 1;
      }
      continue;
    }
    const size_t join = word.find_first_of("+&"), made = cell.steps.size() + 2;
    if (join == word.npos) fail(ErrorKind::kUsage, "cell entry {}: expected two operations joined by + or &", word);
    cell.steps.push_back({part_of(word.substr(0, join), word, made), part_of(word.substr(join + 1), word, made), word[join] == '&'});
  }
  if (cell.steps.empty()) fail(ErrorKind::kUsage, "cell \"{}\" makes no state", text);
  std::vector<bool> read(cell.steps.size() + 2, false);
  for (const Cell::Step& s : cell.steps) read[s.left.state] = read[s.right.state] = true;
  if (!ended)
    for (size_t i = 0; i < read.size(); ++i)
      if (!read[i]) cell.output.push_back(i);
  for (size_t i = 2; i < read.size(); ++i)
    if (!read[i] && std::find(cell.output.begin(), cell.output.end(), i) == cell.output.end()) fail(ErrorKind::kUsage, "cell \"{}\": state {} is never used", text, i);
  return cell;
}

ValueId build_cell(Builder& b, const Cell& cell, const CellPlace& place) {
  const int64_t filters = place.filters;
  std::vector<ValueId> states(2);
  ValueId previous = place.previous ? place.previous : place.net;
  if (place.previous) {
    auto scope = b.scope("previous");
    if (!same_size(b, previous, place.net)) previous = factorized_reduction(b, b.relu(previous), filters, 2);
    else if (b.channels(previous) != filters) previous = conv_norm(b, "conv", b.relu(previous), {.out = filters});
  }
  states[0] = conv_norm(b, "begin", b.relu(place.net), {.out = filters});
  states[1] = previous;
  for (const Cell::Step& step : cell.steps) {
    auto scope = b.scope(fmt::format("states.{}", states.size()));
    const auto side = [&](const std::string& name, const Cell::Part& part) {
      auto inner = b.scope(name);
      const ValueId y = apply(b, part.operation, states[part.state], filters, part.state < 2 ? place.stride : 1);
      return part.operation == "id" ? y : b.drop_path(y, place.drop_rate, place.scheduled);
    };
    const ValueId left = side("left", step.left), right = side("right", step.right);
    if (!same_size(b, left, right)) fail(ErrorKind::kUsage, "cell: state {} joins {} and {}", states.size(), to_string(b.shape(left)), to_string(b.shape(right)));
    states.push_back(step.concat ? b.concat({left, right}) : b.add(left, right));
  }
  std::vector<ValueId> output;
  for (size_t i : cell.output) {
    ValueId y = states[i];
    const bool halve = !same_size(b, y, states.back());
    if (halve || (i < 2 && b.channels(y) != filters)) {
      auto scope = b.scope(fmt::format("output.{}", i));
      y = factorized_reduction(b, y, filters, halve ? 2 : 1);
    }
    output.push_back(y);
  }
  return output.size() == 1 ? output[0] : b.concat(output);
}

}  // namespace lathe
