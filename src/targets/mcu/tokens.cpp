#include "targets/mcu/tokens.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "graph/ops/attention.h"
#include "targets/mcu/weights.h"

namespace lathe::mcu {
namespace {

constexpr int64_t kAlignment = 8;
constexpr int64_t kRows = 2;  // tokens at a time: products take two pixels together (c/dense.h)

class Integration {
 public:
  explicit Integration(McuProgram& p) : p_(p), gone_(p.steps.size(), false), joined_(p.steps.size()) {
    for (size_t s = 0; s < p.steps.size(); ++s) {
      for (int t : p.steps[s].inputs) readers_[origin(t)].insert(s);
      writers_[origin(p.steps[s].output)].push_back(s);
    }
    for (const McuBorder& b : p.outputs) kept_.insert(origin(b.tensor));
  }

  void run() {
    for (size_t s = 0; s < gone_.size(); ++s)
      if (p_.steps[s].kind == StepKind::kAttention) heads(s);
    for (size_t s = 0; s < gone_.size(); ++s)
      if (!gone_[s] && !joined_[s]) chain(s);
    std::vector<McuStep> steps;
    for (size_t s = 0; s < gone_.size(); ++s) {
      if (joined_[s]) steps.push_back(std::move(*joined_[s]));
      else if (!gone_[s]) steps.push_back(std::move(p_.steps[s]));
    }
    p_.steps = std::move(steps);
  }

 private:
  int origin(int t) const {
    while (p_.tensors[static_cast<size_t>(t)].view_of >= 0) t = p_.tensors[static_cast<size_t>(t)].view_of;
    return t;
  }
  const McuTensor& tensor(int t) const { return p_.tensors[static_cast<size_t>(t)]; }
  static int64_t width(const McuTensor& t) { return t.shape.empty() ? 1 : t.shape.back(); }
  static int64_t rows(const McuTensor& t) { return element_count(t.shape) / std::max<int64_t>(width(t), 1); }
  bool one_byte(int t) const { return size_of(tensor(t).type) == 1; }

  // Each row of the output is made of the same row of its one tensor.
  bool by_rows(size_t s) const {
    const McuStep& step = p_.steps[s];
    if (gone_[s] || joined_[s] || step.inputs.empty() || !one_byte(step.output) || tensor(step.inputs[0]).constant.defined() || tensor(origin(step.inputs[0])).outside) return false;
    if (rows(tensor(step.inputs[0])) != rows(tensor(step.output)) || rows(tensor(step.output)) < 2) return false;
    return step.kind == StepKind::kNorm || is_product(s) || (step.kind == StepKind::kLookUp && width(tensor(step.inputs[0])) == width(tensor(step.output)));
  }
  bool is_product(size_t s) const { return p_.steps[s].kind == StepKind::kPixels && p_.graph[p_.steps[s].node].op->name == "IntegerMatMul"; }
  // The one step that makes a tensor, where nothing but `reader` reads it.
  std::optional<size_t> maker_for(int t, size_t reader) const {
    const int from = origin(t);
    const auto made = writers_.find(from);
    const auto read = readers_.find(from);
    if (made == writers_.end() || made->second.size() != 1 || read->second.size() != 1 || !read->second.contains(reader) || kept_.contains(from)) return std::nullopt;
    return made->second[0];
  }

  int add(McuTensor t) {
    p_.tensors.push_back(std::move(t));
    return static_cast<int>(p_.tensors.size()) - 1;
  }
  int row_of(int t) { return add({.name = tensor(t).name, .type = tensor(t).type, .shape = {kRows, width(tensor(t))}, .row_of = t}); }
  // A tensor in the step's scratch.
  int in_scratch(McuStep& step, const std::string& name, DType type, Shape shape) {
    const int t = add({.name = name, .type = type, .shape = std::move(shape)});
    step.in_scratch.emplace_back(t, step.scratch_bytes);
    step.scratch_bytes += (tensor(t).bytes() + kAlignment - 1) / kAlignment * kAlignment;
    return t;
  }
  // `s` for a few rows, from `from` to `to`.
  McuStep link(size_t s, int from, int to) const {
    McuStep one = p_.steps[s];
    one.inputs = {from};
    one.output = to;
    one.may_overwrite = one.in_place = -1;
    return one;
  }
  // Products take turns with one scratch.
  static void add_columns(McuStep& step) {
    step.inner_scratch = step.scratch_bytes;
    int64_t most = 0;
    for (const McuStep& one : step.inner) most = std::max(most, one.scratch_bytes);
    step.scratch_bytes += (most + kAlignment - 1) / kAlignment * kAlignment;
  }

  void heads(size_t a) {
    const McuStep& attention = p_.steps[a];
    const Node& n = p_.graph[attention.node];
    const ops::AttentionSizes sizes = ops::fused_attention_sizes(n);
    const int all = origin(attention.inputs[0]);
    if (origin(attention.inputs[1]) != all || origin(attention.inputs[2]) != all || sizes.query_heads != sizes.kv_heads || sizes.queries != sizes.keys || sizes.queries < 2) return;
    const std::optional<size_t> product = maker_for(all, a);
    if (!product || !is_product(*product) || !by_rows(*product)) return;
    if (has_wide_weights(p_.graph, p_.graph[p_.steps[*product].node])) return;  // a head's parameters are found by the size of narrow ones
    const int64_t outputs = width(tensor(p_.steps[*product].output));
    for (const auto& [view, size] : {std::pair{"q_view", sizes.head_size}, {"k_view", sizes.head_size}, {"v_view", sizes.value_size}}) {
      const ops::HeadView v = ops::head_view(n, view);
      // Parameters of a product stand in pairs of outputs.
      if (v.row != outputs || v.offset % 2 != 0 || v.head % 2 != 0 || size % 2 != 0) return;
    }
    std::vector<size_t> links{*product};
    int x = p_.steps[*product].inputs[0];
    for (std::optional<size_t> before = maker_for(x, links.front()); before && by_rows(*before); before = maker_for(x, links.front())) {
      links.insert(links.begin(), *before);
      x = p_.steps[*before].inputs[0];
      if (p_.steps[*before].kind == StepKind::kNorm) break;
    }
    McuStep step{.kind = StepKind::kHeads, .node = attention.node, .name = attention.name, .inputs = {x}, .output = attention.output, .macs = attention.macs};
    step.tokens = sizes.keys;
    int from = row_of(x);
    for (size_t i = 0; i + 1 < links.size(); ++i) {
      const McuTensor& made = tensor(p_.steps[links[i]].output);
      const int to = in_scratch(step, made.name, made.type, {kRows, width(made)});
      step.inner.push_back(link(links[i], from, to));
      step.macs += p_.steps[links[i]].macs * 2 * sizes.query_heads;
      from = to;
    }
    const McuTensor made = tensor(p_.steps[*product].output);
    step.macs += p_.steps[*product].macs;
    const int q = in_scratch(step, made.name + "_query", made.type, {kRows, sizes.head_size});
    in_scratch(step, made.name + "_keys", made.type, {sizes.keys, sizes.head_size});
    in_scratch(step, made.name + "_values", made.type, {sizes.keys, sizes.value_size});
    in_scratch(step, made.name + "_scores", DType::kI32, {sizes.keys});
    step.inner.push_back(link(*product, from, q));
    add_columns(step);
    for (size_t s : links) gone_[s] = true;
    gone_[a] = true;
    joined_[a] = std::move(step);
  }

  void chain(size_t first) {
    if (!by_rows(first)) return;
    std::vector<size_t> links{first};
    std::optional<size_t> sum;
    int residual = -1;
    for (;;) {
      const int out = origin(p_.steps[links.back()].output);
      const auto read = readers_.find(out);
      if (read == readers_.end() || read->second.size() != 1 || kept_.contains(out) || writers_.at(out).size() != 1) break;
      const size_t next = *read->second.begin();
      if (by_rows(next) && origin(p_.steps[next].inputs[0]) == out) {
        links.push_back(next);
        continue;
      }
      const McuStep& s = p_.steps[next];
      if (gone_[next] || joined_[next] || s.kind != StepKind::kAdd || s.inputs.size() != 2) break;
      const size_t other = origin(s.inputs[0]) == out ? 1 : 0;
      if (origin(s.inputs[other]) == out || tensor(s.inputs[other]).constant.defined() || element_count(tensor(s.inputs[other]).shape) != element_count(tensor(s.output).shape) ||
          width(tensor(s.inputs[other])) != width(tensor(s.output)))
        break;
      sum = next;
      residual = s.inputs[other];
      break;
    }
    const bool multiplies = std::any_of(links.begin(), links.end(), [&](size_t s) { return is_product(s); });
    if (!multiplies || links.size() + (sum ? 1 : 0) < 2) return;
    const size_t last = sum ? *sum : links.back();
    const int x = p_.steps[first].inputs[0];
    McuStep step{.kind = StepKind::kTokens, .node = p_.steps[last].node, .name = p_.steps[last].name, .inputs = {x}, .output = p_.steps[last].output};
    step.tokens = rows(tensor(step.output));
    int from = row_of(x);
    for (const size_t at : links) {
      const McuTensor made = tensor(p_.steps[at].output);
      const int to = at == last ? row_of(step.output) : in_scratch(step, made.name, made.type, {kRows, width(made)});
      step.inner.push_back(link(at, from, to));
      step.macs += p_.steps[at].macs;
      from = to;
    }
    if (sum) {
      McuStep add = p_.steps[*sum];
      const size_t other = origin(add.inputs[0]) == origin(p_.steps[links.back()].output) ? 1 : 0;
      const int beside = row_of(residual);
      add.inputs = other == 1 ? std::vector<int>{from, beside} : std::vector<int>{beside, from};
      add.output = row_of(step.output);
      add.may_overwrite = add.in_place = -1;
      step.inner.push_back(std::move(add));
      if (origin(residual) != origin(x)) step.inputs.push_back(residual);
      // A row of the result is written when that of the residual, and of what the chain begins with, has been read.
      step.may_overwrite = static_cast<int>(step.inputs.size()) - 1;
    }
    add_columns(step);
    for (size_t s : links) gone_[s] = true;
    gone_[last] = true;
    joined_[last] = std::move(step);
  }

  McuProgram& p_;
  std::vector<bool> gone_;
  std::vector<std::optional<McuStep>> joined_;  // by the last of the steps that it stands for
  std::map<int, std::set<size_t>> readers_;     // by tensor
  std::map<int, std::vector<size_t>> writers_;
  std::set<int> kept_;
};

}  // namespace

void integrate_tokens(McuProgram& program) { Integration(program).run(); }

}  // namespace lathe::mcu
