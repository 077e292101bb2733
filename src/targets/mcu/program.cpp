#include "targets/mcu/program.h"

#include <algorithm>
#include <set>

#include "planner/plan.h"
#include "runtime/load.h"
#include "targets/mcu/arena.h"
#include "targets/mcu/tokens.h"
#include "transform/patches.h"
#include "transform/quantized.h"

namespace lathe::mcu {
namespace {

// Nothing on a microcontroller is larger, and 32-bit sizes in the emitted C stay exact.
constexpr int64_t kMostBytes = int64_t{1} << 28;

bool is_code(DType type) { return type == DType::kU8 || type == DType::kI8; }

class Lowering {
 public:
  // `whole`: what tiles are put together to, if there are any.
  explicit Lowering(McuProgram& program, ValueId whole = {}) : p_(program), g_(program.graph), whole_(whole) {
    readers_ = g_.consumers();
    for (ValueId v : g_.outputs) outputs_.insert(v.index);
    if (whole_) find_tiles(whole_, 0, 0);
  }

  void run(const std::vector<NodeId>& order) {
    for (ValueId v : g_.inputs) input(v);
    for (NodeId id : order) {
      if (!done_.contains(id.index)) lower(id);
      for (ValueId v : std::vector<ValueId>(g_[id].outputs))
        if (v && tiles_.contains(v.index)) put_tile(id, v);
    }
    for (ValueId v : g_.outputs) output(v);
  }

 private:
  [[noreturn]] void refuse(const Node& n, const std::string& why) const {
    fail(ErrorKind::kUnsupported, "node '{}' ({}): {}", n.name, n.op->name, why);
  }

  int add_tensor(std::string name, DType type, Shape shape, Tensor constant = {}) {
    McuTensor t{.name = std::move(name), .type = type, .shape = std::move(shape), .constant = std::move(constant)};
    if (t.bytes() > kMostBytes)
      fail(ErrorKind::kUnsupported, "tensor '{}' takes {} bytes, more than any microcontroller has", t.name, t.bytes());
    p_.tensors.push_back(std::move(t));
    return static_cast<int>(p_.tensors.size()) - 1;
  }
  int tensor_of(ValueId v, const Node& reader) {
    if (auto at = tensor_.find(v.index); at != tensor_.end()) return at->second;
    if (!g_[v].is_constant()) refuse(reader, fmt::format("its input '{}' is not made of codes", g_[v].name));
    return tensor_[v.index] = add_tensor(g_[v].name, g_[v].dtype, g_[v].constant.shape(), g_[v].constant);
  }

  // An input that is rounded to codes is wanted as those, and where they are moved to channels-last, moved.
  void input(ValueId v) {
    const Value& value = g_[v];
    if (value.shape->size() > 1 && (*value.shape)[0] > 1 && value.shape->size() == 4)
      fail(ErrorKind::kInput, "input '{}' has shape {}: a microcontroller takes one image at a time", value.name, to_string(*value.shape));
    McuBorder border{.name = value.name, .model_shape = *value.shape};
    ValueId codes = v;
    if (value.dtype == DType::kF32) {
      if (readers_[v.index].empty()) {
        border.tensor = add_tensor(value.name, DType::kU8, *value.shape);
        border.scale = 1;
        p_.inputs.push_back(std::move(border));
        return;
      }
      std::optional<TensorScale> scale;
      for (NodeId reader : readers_[v.index]) {
        const Node& n = g_[reader];
        std::optional<TensorScale> found;
        if (n.op->name == "QuantizeLinear" && n.op->domain.empty() && n.inputs[0] == v) found = tensor_scale(g_, n);
        if (!found) refuse(n, fmt::format("it reads the input '{}' in float; quantize the network first (lathe quantize)", value.name));
        if (scale && !(*scale == *found)) refuse(n, fmt::format("the input '{}' is rounded to codes in two ways", value.name));
        scale = found;
        codes = n.outputs[0];
        done_.insert(reader.index);
        rounded_.push_back(codes);
      }
      border.scale = scale->scale;
      border.zero = scale->zero;
    } else if (!is_code(value.dtype)) {
      fail(ErrorKind::kUnsupported, "input '{}' is {}: expected f32, i8 or u8", value.name, name_of(value.dtype));
    }
    Shape shape = *value.shape;
    std::vector<NodeId> readers;
    for (ValueId r : rounded_.empty() ? std::vector<ValueId>{codes} : rounded_)
      readers.insert(readers.end(), readers_[r.index].begin(), readers_[r.index].end());
    const bool moved =
        shape.size() == 4 && !readers.empty() && !outputs_.contains(codes.index) &&
        std::all_of(readers.begin(), readers.end(), [&](NodeId id) {
          return g_[id].op->name == "Transpose" && g_[id].op->domain.empty() && g_[id].get_ints("perm") == std::vector<int64_t>{0, 2, 3, 1};
        });
    if (moved) shape = {shape[0], shape[2], shape[3], shape[1]};
    border.channels_last = moved;
    border.tensor = add_tensor(value.name, g_[codes].dtype, shape);
    tensor_[codes.index] = border.tensor;
    for (ValueId r : rounded_) tensor_[r.index] = border.tensor;
    if (moved)
      for (NodeId id : readers) {
        tensor_[g_[id].outputs[0].index] = border.tensor;
        done_.insert(id.index);
      }
    rounded_.clear();
    border.type = g_[codes].dtype;
    p_.inputs.push_back(std::move(border));
  }

  // Codes that become numbers at the end stay codes.
  void output(ValueId v) {
    const Value value = g_[v];
    McuBorder border{.name = value.name, .model_shape = *value.shape};
    if (auto left = left_out_.find(v.index); left != left_out_.end()) {
      border.note = fmt::format("the {} that the model ends with is left to the caller", g_[g_[v].producer].op->name);
      v = left->second;
    }
    if (auto at = numbers_.find(v.index); at != numbers_.end()) {
      border.tensor = at->second.tensor;
      border.scale = at->second.scale.scale;
      border.zero = at->second.scale.zero;
    } else if (auto found = tensor_.find(v.index); found != tensor_.end()) {
      border.tensor = found->second;
    } else {
      fail(ErrorKind::kUnsupported, "output '{}' is a constant or an input: there is nothing to compute", value.name);
    }
    border.type = p_.tensors[border.tensor].type;
    p_.outputs.push_back(std::move(border));
  }

  // Where each tile of `v` begins. What joins them is no step: a tile is copied to its place when it is made (put_tile).
  void find_tiles(ValueId v, int64_t row, int64_t column) {
    const NodeId id = g_[v].producer;
    const Node& n = g_[id];
    const bool joins = n.op->name == "Concat" && n.op->domain.empty() && (n.get_int("axis") == 1 || n.get_int("axis") == 2);
    if (!joins) {
      tiles_[v.index] = {row, column};
      return;
    }
    done_.insert(id.index);
    for (ValueId part : n.inputs) {
      find_tiles(part, row, column);
      const auto axis = static_cast<size_t>(n.get_int("axis"));
      (axis == 1 ? row : column) += (*g_[part].shape)[axis];
    }
  }
  void put_tile(NodeId id, ValueId v) {
    const auto [row, column] = tiles_.at(v.index);
    const Shape &x = *g_[v].shape, &y = *g_[whole_].shape;
    const auto whole = tensor_.find(whole_.index);
    McuStep s = step(StepKind::kCopyRows, id);
    s.inputs = {tensor_.at(v.index)};
    s.output = whole != tensor_.end() ? whole->second : tensor_[whole_.index] = add_tensor(g_[whole_].name, g_[whole_].dtype, y);
    s.rows = {x[1], x[2] * x[3], x[2] * x[3], y[2] * y[3], 0, (row * y[2] + column) * y[3]};
    p_.steps.push_back(std::move(s));
    p_.tile_steps = p_.steps.size();
  }

  McuStep step(StepKind kind, NodeId id) {
    const Node& n = g_[id];
    return {.kind = kind, .node = id, .name = n.scope.empty() || n.name.starts_with(n.scope) ? n.name : n.scope + "." + n.name};
  }
  // The output of a node that makes one tensor of known type and shape.
  int make_output(const Node& n) {
    const Value& y = g_[n.outputs[0]];
    return tensor_[n.outputs[0].index] = add_tensor(y.name, y.dtype, *y.shape);
  }

  void lower(NodeId id) {
    const Node& n = g_[id];
    const std::string& op = n.op->name;
    for (const auto* list : {&n.inputs, &n.outputs})
      for (ValueId v : *list)
        if (v && (!g_[v].shape || !is_static(*g_[v].shape))) refuse(n, "its shapes depend on data");
    if (n.op->domain == "ai.lathe") {
      if (op == "IntegerConv") return convolution(id);
      if (op == "IntegerMatMul") return product(id);
      if (op == "IntegerAdd" || op == "IntegerMul") return binary(id);
      if (op == "IntegerPool" || op == "Pool") return pool(id);
      if (op == "IntegerSoftmax") return simple(StepKind::kSoftmax, id, 0);
      if (op == "IntegerLayerNorm") return norm(id);
      if (op == "IntegerAttention") return attention(id);
      if (op == "Table") return simple(StepKind::kLookUp, id, 0);
      if (op == "ChannelShuffle") return shuffle(id);
    } else if (n.op->domain.empty()) {
      if (op == "Reshape" || op == "Flatten" || op == "Squeeze" || op == "Unsqueeze" || op == "Identity") return view(id);
      if (op == "DequantizeLinear") return dequantize(id);
      if (op == "Concat") return concat(id);
      if (op == "Slice" || op == "Split") return cut(id);
      if (op == "Gather") return pick(id);
      if (op == "Transpose") return transpose(id);
      if (op == "Pad") return pad(id);
      // In float at the very end: what is largest stays largest.
      if (op == "Softmax" && g_[n.outputs[0]].dtype == DType::kF32 && outputs_.contains(n.outputs[0].index) &&
          readers_[n.outputs[0].index].empty()) {
        left_out_[n.outputs[0].index] = n.inputs[0];
        return;
      }
    }
    std::string why = "it has no form on codes of 8 bits here";
    if (!n.outputs.empty() && n.outputs[0] && g_[n.outputs[0]].dtype == DType::kF32)
      why = "it runs in float; quantize it too (lathe quantize, with the word everywhere in its scheme), or leave it out of the network";
    refuse(n, why);
  }

  void check_codes(const Node& n, size_t input) const {
    if (!is_code(g_[n.inputs[input]].dtype))
      refuse(n, fmt::format("its input '{}' is {}, expected i8 or u8", g_[n.inputs[input]].name, name_of(g_[n.inputs[input]].dtype)));
  }
  // Weights, multipliers and zero points of a product must be known.
  void check_product(const Node& n) const {
    check_codes(n, 0);
    for (size_t i = 1; i < n.inputs.size(); ++i)
      if (n.inputs[i] && !(g_[n.inputs[i]].is_constant() && g_[n.inputs[i]].constant.has_elements()))
        refuse(n, fmt::format("its input {} is not constant", i));
  }

  void convolution(NodeId id) {
    const Node& n = g_[id];
    check_product(n);
    const Shape &x = *g_[n.inputs[0]].shape, &w = *g_[n.inputs[1]].shape, &y = *g_[n.outputs[0]].shape;
    if (x[0] != 1) refuse(n, fmt::format("it takes {} images at once, expected one", x[0]));
    const int64_t group = n.get_int("group"), in = tensor_of(n.inputs[0], n);
    const int out = make_output(n);
    const auto& pads = n.get_ints("pads");
    const int64_t taps = w[1] * w[2] * w[3], macs = y[1] * y[2] * y[3] * taps;
    const bool codes = size_of(g_[n.outputs[0]].dtype) == 1;
    if (w[1] == 1 && group == x[3] && group > 1 && codes) {
      McuStep s = step(StepKind::kDepthwise, id);
      s.inputs = {static_cast<int>(in)};
      s.output = out;
      s.macs = macs;
      // In 16 bits, and what the last pair of a row reads beyond.
      const auto& strides = n.get_ints("strides");
      const auto& dilations = n.get_ints("dilations");
      const int64_t rows = std::max((y[1] - 1) * strides[0] + (w[2] - 1) * dilations[0] + 1, x[1] + std::max<int64_t>(pads[0], 0));
      const int64_t columns = std::max((y[2] - 1) * strides[1] + (w[3] - 1) * dilations[1] + 1, x[2] + std::max<int64_t>(pads[1], 0));
      if (pads[0] < 0 || pads[1] < 0) refuse(n, "negative padding is not supported");
      s.scratch_bytes = (rows * columns + 4) * 2;
      if (y[3] == x[3] && y[1] * y[2] <= x[1] * x[2]) s.may_overwrite = 0;
      p_.steps.push_back(std::move(s));
      return;
    }
    const bool pixels = w[2] == 1 && w[3] == 1 && group == 1 && n.get_ints("strides") == std::vector<int64_t>{1, 1} &&
                        pads == std::vector<int64_t>{0, 0, 0, 0};
    for (int64_t k = 0; k < group; ++k) {
      McuStep s = step(pixels ? StepKind::kPixels : StepKind::kConvolve, id);
      s.inputs = {static_cast<int>(in)};
      s.output = out;
      s.macs = macs / group;
      s.group = k;
      const int64_t quads = (taps + 3) / 4;
      s.scratch_bytes = quads * 16 + (pixels ? 0 : quads * 4);
      if (pixels && codes) s.may_overwrite = 0;
      p_.steps.push_back(std::move(s));
    }
  }

  void product(NodeId id) {
    const Node& n = g_[id];
    check_product(n);
    const Shape &w = *g_[n.inputs[1]].shape, &y = *g_[n.outputs[0]].shape;
    const int64_t rows = element_count(y) / w[1];
    McuStep s = step(rows == 1 ? StepKind::kRow : StepKind::kPixels, id);
    s.inputs = {tensor_of(n.inputs[0], n)};
    s.output = make_output(n);
    s.macs = element_count(y) * w[0];
    s.scratch_bytes = (w[0] + 3) / 4 * 16;
    if (size_of(g_[n.outputs[0]].dtype) == 1) s.may_overwrite = 0;
    p_.steps.push_back(std::move(s));
  }

  void simple(StepKind kind, NodeId id, int in_place) {
    const Node& n = g_[id];
    check_codes(n, 0);
    if (kind == StepKind::kLookUp && !(is_code(g_[n.outputs[0]].dtype) && g_[n.inputs[1]].is_constant()))
      refuse(n, "its table is not constant codes");
    McuStep s = step(kind, id);
    s.inputs = {tensor_of(n.inputs[0], n)};
    s.output = make_output(n);
    s.may_overwrite = in_place;
    p_.steps.push_back(std::move(s));
  }

  void binary(NodeId id) {
    const Node& n = g_[id];
    for (size_t i : {0, 1}) check_codes(n, i);
    McuStep s = step(n.op->name == "IntegerAdd" ? StepKind::kAdd : StepKind::kMultiply, id);
    s.inputs = {tensor_of(n.inputs[0], n), tensor_of(n.inputs[1], n)};
    s.output = make_output(n);
    const Shape& y = *g_[n.outputs[0]].shape;
    if (*g_[n.inputs[0]].shape == y)
      s.may_overwrite = 0;
    else if (*g_[n.inputs[1]].shape == y)
      s.may_overwrite = 1;
    else
      refuse(n, "both of its operands repeat");
    p_.steps.push_back(std::move(s));
  }

  void norm(NodeId id) {
    const Node& n = g_[id];
    for (size_t i : {1, 2})
      if (!g_[n.inputs[i]].is_constant()) refuse(n, fmt::format("its input {} is not constant", i));
    simple(StepKind::kNorm, id, 0);
  }

  // Reads heads where the products made them, one row of scores at a time.
  void attention(NodeId id) {
    const Node& n = g_[id];
    if (n.get_int("batch") != 1) refuse(n, fmt::format("it takes {} images at once, expected one", n.get_int("batch")));
    McuStep s = step(StepKind::kAttention, id);
    for (size_t i : {0, 1, 2}) {
      check_codes(n, i);
      s.inputs.push_back(tensor_of(n.inputs[i], n));
    }
    for (size_t i : {1, 2})
      if (g_[n.inputs[i]].dtype != g_[n.inputs[0]].dtype) refuse(n, "its queries, keys and values are not of one type");
    s.output = make_output(n);
    s.scratch_bytes = n.get_int("keys") * 4;
    s.macs = n.op->macs(g_, n);
    p_.steps.push_back(std::move(s));
  }

  // One entry of an axis: the class token.
  void pick(NodeId id) {
    const Node& n = g_[id];
    check_codes(n, 0);
    const Value& index = g_[n.inputs[1]];
    if (!index.is_constant() || index.constant.size() != 1) refuse(n, "only one constant entry can be taken");
    const Shape& x = *g_[n.inputs[0]].shape;
    const auto axis = static_cast<size_t>(normalize_axis(n.get_int("axis"), static_cast<int64_t>(x.size())));
    const int64_t outer = lathe::product(x, 0, axis), inner = lathe::product(x, axis + 1, x.size());
    int64_t at = index.constant.get_int(0);
    if (at < 0) at += x[axis];
    if (at < 0 || at >= x[axis]) refuse(n, fmt::format("entry {} of an axis of {}", index.constant.get_int(0), x[axis]));
    McuStep s = step(StepKind::kCopyRows, id);
    s.inputs = {tensor_of(n.inputs[0], n)};
    s.output = make_output(n);
    s.rows = {outer, inner, x[axis] * inner, inner, at * inner, 0};
    p_.steps.push_back(std::move(s));
  }

  void pool(NodeId id) {
    const Node& n = g_[id];
    check_codes(n, 0);
    if (n.op->name == "Pool") {
      if (n.get_string("kind") != "Max") refuse(n, "it runs in float; quantize it too");
    }
    simple(StepKind::kPool, id, -1);
  }

  void view(NodeId id) {
    const Node& n = g_[id];
    if (auto at = numbers_.find(n.inputs[0].index); at != numbers_.end()) {
      numbers_[n.outputs[0].index] = at->second;
      return;
    }
    const int from = tensor_of(n.inputs[0], n);
    // The same bytes under another shape: a tensor of its own, whose place is that of the first.
    const int to = make_output(n);
    p_.tensors[to].view_of = from;
  }

  // At the end of the network alone.
  void dequantize(NodeId id) {
    const Node& n = g_[id];
    auto scale = tensor_scale(g_, n);
    if (!scale) refuse(n, "its scale is not one constant");
    numbers_[n.outputs[0].index] = {tensor_of(n.inputs[0], n), *scale};
    for (NodeId reader : readers_[n.outputs[0].index]) {
      const Node& r = g_[reader];
      const bool views = r.op->domain.empty() && (r.op->name == "Softmax" || r.op->name == "Reshape" || r.op->name == "Flatten" ||
                                                  r.op->name == "Squeeze" || r.op->name == "Unsqueeze" || r.op->name == "Identity");
      if (!views)
        refuse(r, "it reads numbers, not codes: it runs in float; quantize it too (lathe quantize, with the word everywhere in its scheme), or leave it out of the network");
    }
  }

  void concat(NodeId id) {
    const Node& n = g_[id];
    const Shape& y = *g_[n.outputs[0]].shape;
    if (!is_code(g_[n.outputs[0]].dtype)) refuse(n, "it joins tensors that are not codes");
    const auto axis = static_cast<size_t>(normalize_axis(n.get_int("axis"), static_cast<int64_t>(y.size())));
    const int64_t outer = lathe::product(y, 0, axis), inner = lathe::product(y, axis + 1, y.size());
    std::vector<int> inputs;
    for (ValueId v : n.inputs) inputs.push_back(tensor_of(v, n));
    const int out = make_output(n);
    int64_t at = 0;
    for (size_t i = 0; i < inputs.size(); ++i) {
      const int64_t bytes = (*g_[n.inputs[i]].shape)[axis] * inner;
      McuStep s = step(StepKind::kCopyRows, id);
      s.inputs = {inputs[i]};
      s.output = out;
      s.rows = {outer, bytes, bytes, y[axis] * inner, 0, at};
      at += bytes;
      p_.steps.push_back(std::move(s));
    }
  }

  void cut(NodeId id) {
    const Node& n = g_[id];
    const Shape& x = *g_[n.inputs[0]].shape;
    check_codes(n, 0);
    const auto rank = static_cast<int64_t>(x.size());
    const int from = tensor_of(n.inputs[0], n);
    auto copy = [&](ValueId v, size_t axis, int64_t begin) {
      const Shape& y = *g_[v].shape;
      const int64_t outer = lathe::product(x, 0, axis), inner = lathe::product(x, axis + 1, x.size());
      McuStep s = step(StepKind::kCopyRows, id);
      s.inputs = {from};
      s.output = tensor_[v.index] = add_tensor(g_[v].name, g_[v].dtype, y);
      s.rows = {outer, y[axis] * inner, x[axis] * inner, y[axis] * inner, begin * inner, 0};
      p_.steps.push_back(std::move(s));
    };
    if (n.op->name == "Split") {
      const auto axis = static_cast<size_t>(normalize_axis(n.get_int("axis"), rank));
      int64_t begin = 0;
      for (ValueId v : n.outputs) {
        copy(v, axis, begin);
        begin += (*g_[v].shape)[axis];
      }
      return;
    }
    for (size_t i = 1; i < n.inputs.size(); ++i)
      if (n.inputs[i] && !g_[n.inputs[i]].is_constant()) refuse(n, "what it cuts depends on data");
    const std::vector<int64_t> starts = g_[n.inputs[1]].constant.to_i64();
    std::vector<int64_t> axes, steps(starts.size(), 1);
    if (has_input(n, 3))
      axes = g_[n.inputs[3]].constant.to_i64();
    else
      for (size_t i = 0; i < starts.size(); ++i) axes.push_back(static_cast<int64_t>(i));
    if (has_input(n, 4)) steps = g_[n.inputs[4]].constant.to_i64();
    if (rank > 5) refuse(n, "tensors of more than five axes are not supported");
    McuStep s = step(StepKind::kMove, id);
    s.inputs = {from};
    s.sizes = *g_[n.outputs[0]].shape;
    s.steps = strides_of(x);
    const std::vector<int64_t> strides = s.steps;
    for (size_t i = 0; i < starts.size(); ++i) {
      const auto axis = static_cast<size_t>(normalize_axis(axes[i], rank));
      const int64_t start = starts[i] < 0 ? starts[i] + x[axis] : starts[i];
      s.rows.x_offset += std::clamp<int64_t>(start, 0, x[axis] - (steps[i] < 0 ? 1 : 0)) * strides[axis];
      s.steps[axis] = steps[i] * strides[axis];
    }
    if (s.steps == strides) copy_rows_instead(s, x);
    s.output = make_output(n);
    p_.steps.push_back(std::move(s));
  }

  // A part of x that is cut along one axis, or along two that follow each other behind axes of one entry: rows of bytes that stand together.
  static void copy_rows_instead(McuStep& s, const Shape& x) {
    const Shape& y = s.sizes;
    size_t first = x.size(), last = 0;
    for (size_t i = 0; i < x.size(); ++i)
      if (x[i] != y[i]) first = std::min(first, i), last = i;
    if (first > last) first = last = 0;
    const int64_t inner = lathe::product(x, last + 1, x.size()), outer = lathe::product(y, 0, first);
    const bool two = last == first + 1 && outer == 1;
    if (!two && first != last) return;
    s.kind = StepKind::kCopyRows;
    s.rows = {two ? y[first] : outer, y[last] * inner, x[last] * inner, y[last] * inner, s.rows.x_offset, 0};
    s.sizes.clear(), s.steps.clear();
  }

  void transpose(NodeId id) {
    const Node& n = g_[id];
    check_codes(n, 0);
    if (g_[n.inputs[0]].shape->size() > 5) refuse(n, "tensors of more than five axes are not supported");
    McuStep s = step(StepKind::kMove, id);
    s.inputs = {tensor_of(n.inputs[0], n)};
    s.output = make_output(n);
    const Shape& x = *g_[n.inputs[0]].shape;
    std::vector<int64_t> order = n.get_ints("perm");
    if (order.empty())
      for (size_t i = x.size(); i-- > 0;) order.push_back(static_cast<int64_t>(i));
    const std::vector<int64_t> strides = strides_of(x);
    for (int64_t axis : order) {
      s.sizes.push_back(x[axis]);
      s.steps.push_back(strides[axis]);
    }
    p_.steps.push_back(std::move(s));
  }

  // Channel i of group g becomes channel i·groups + g: one tensor, or one for each group.
  void shuffle(NodeId id) {
    const Node& n = g_[id];
    for (size_t i = 0; i < n.inputs.size(); ++i) check_codes(n, i);
    const Shape& y = *g_[n.outputs[0]].shape;
    const auto axis = static_cast<size_t>(normalize_axis(n.get_int("axis"), static_cast<int64_t>(y.size())));
    const int64_t outer = lathe::product(y, 0, axis), inner = lathe::product(y, axis + 1, y.size()), groups = n.get_int("group"), each = y[axis] / groups;
    std::vector<int> inputs;
    for (ValueId v : n.inputs) inputs.push_back(tensor_of(v, n));
    const int out = make_output(n);
    for (size_t i = 0; i < inputs.size(); ++i) {
      McuStep s = step(inputs.size() == 1 ? StepKind::kMove : StepKind::kCopyRows, id);
      s.inputs = {inputs[i]};
      s.output = out;
      if (inputs.size() == 1) {
        s.sizes = {outer, each, groups, inner};
        s.steps = {y[axis] * inner, inner, each * inner, 1};
      } else {
        s.rows = {outer * each, inner, inner, groups * inner, 0, static_cast<int64_t>(i) * inner};
      }
      p_.steps.push_back(std::move(s));
    }
  }

  // Constant padding of pictures: a block of the value, and the rows of x within.
  void pad(NodeId id) {
    const Node& n = g_[id];
    check_codes(n, 0);
    const Shape &x = *g_[n.inputs[0]].shape, &y = *g_[n.outputs[0]].shape;
    if (n.get_string("mode") != "constant" || !g_[n.inputs[1]].is_constant() || (has_input(n, 2) && !g_[n.inputs[2]].is_constant()))
      refuse(n, "only constant padding is supported");
    std::vector<int64_t> pads = g_[n.inputs[1]].constant.to_i64(), begin(x.size(), 0);
    std::vector<int64_t> axes;
    if (has_input(n, 3))
      axes = g_[n.inputs[3]].constant.to_i64();
    else
      for (size_t i = 0; i < x.size(); ++i) axes.push_back(static_cast<int64_t>(i));
    for (size_t i = 0; i < pads.size(); ++i) {
      if (pads[i] < 0) refuse(n, "negative padding is not supported");
      if (i < axes.size()) begin[static_cast<size_t>(normalize_axis(axes[i], static_cast<int64_t>(x.size())))] = pads[i];
    }
    const int from = tensor_of(n.inputs[0], n), to = make_output(n);
    McuStep whole = step(StepKind::kFill, id);
    whole.output = to;
    whole.rows.bytes = element_count(y);
    whole.fill = has_input(n, 2) ? static_cast<int>(g_[n.inputs[2]].constant.get_int(0)) & 255 : 0;
    p_.steps.push_back(std::move(whole));
    // Rows along the last padded axis that stand together; one step for each index of the axes before it.
    size_t last = 0, first = x.size();
    for (size_t i = 0; i < x.size(); ++i)
      if (x[i] != y[i]) last = i, first = std::min(first, i);
    if (first >= last) first = last;
    if (last - first > 1) refuse(n, "padding along three axes or axes apart is not supported");
    const int64_t inner = lathe::product(x, last + 1, x.size());
    const bool two = first != last;
    const int64_t x_row = x[last] * inner, y_row = y[last] * inner, outer = lathe::product(x, 0, first);
    for (int64_t o = 0; o < (two ? outer : 1); ++o) {
      McuStep s = step(StepKind::kCopyRows, id);
      s.inputs = {from};
      s.output = to;
      if (two)
        s.rows = {x[first], x_row, x_row, y_row, o * x[first] * x_row, (o * y[first] + begin[first]) * y_row + begin[last] * inner};
      else
        s.rows = {outer, x_row, x_row, y_row, 0, begin[last] * inner};
      p_.steps.push_back(std::move(s));
    }
  }

  struct Numbers {
    int tensor;
    TensorScale scale;
  };
  McuProgram& p_;
  Graph& g_;
  ValueId whole_;
  std::map<int32_t, std::pair<int64_t, int64_t>> tiles_;  // by value: first row and column in the whole
  std::vector<std::vector<NodeId>> readers_;
  std::set<int32_t> outputs_, done_;
  std::vector<ValueId> rounded_;
  std::map<int32_t, int> tensor_;        // by value
  std::map<int32_t, ValueId> left_out_;  // outputs, by value: what the last operator reads
  std::map<int32_t, Numbers> numbers_;   // by value: codes that were turned to numbers
};

}  // namespace

bool is_quantized(const Graph& g) {
  for (NodeId id : g.order())
    if (g[id].op->name == "QuantizeLinear" || g[id].op->name == "QLinearConv" || g[id].op->name == "QLinearMatMul") return true;
  return false;
}

std::string_view name_of(StepKind kind) {
  constexpr std::string_view kNames[] = {"convolution", "pixels", "row",    "depthwise", "add",  "multiply", "pool", "softmax",
                                         "norm",        "attention", "tokens", "heads",  "look up", "copy",    "fill", "move"};
  return kNames[static_cast<size_t>(kind)];
}

int64_t McuProgram::bytes_alive(size_t step) const {
  // Tensors that begin where another does share its bytes.
  std::map<int64_t, int64_t> places;
  for (const McuTensor& t : tensors)
    if (t.view_of < 0 && t.row_of < 0 && !t.constant.defined() && !t.outside && t.first_step <= static_cast<int>(step) && static_cast<int>(step) <= t.last_step)
      places[t.offset] = std::max(places[t.offset], t.bytes());
  int64_t sum = steps[step].scratch_bytes;
  for (const auto& [offset, bytes] : places) sum += bytes;
  return sum;
}

// What reads it must take its place at run time: steps with one input do.
static void leave_input_outside(McuProgram& p) {
  if (p.inputs.size() != 1) fail(ErrorKind::kUsage, "the network has {} inputs; one can stay outside", p.inputs.size());
  const int input = p.inputs[0].tensor;
  for (const McuStep& s : p.steps)
    for (int t : s.inputs) {
      int from = t;
      while (p.tensors[from].view_of >= 0) from = p.tensors[from].view_of;
      if (from == input && s.inputs.size() != 1) fail(ErrorKind::kUnsupported, "step '{}' reads the input beside another tensor: it cannot stay outside", s.name);
    }
  for (const McuBorder& b : p.outputs)
    if (b.tensor == input) fail(ErrorKind::kUnsupported, "the input is an output too: it cannot stay outside");
  p.tensors[input].outside = true;
}

void place(McuProgram& p, bool in_place) {
  constexpr int64_t kAlignment = 8;
  const int end = static_cast<int>(p.steps.size());
  const auto count = p.tensors.size();
  for (McuTensor& t : p.tensors) {
    t.first_step = end + 1;
    t.last_step = -1;
  }
  auto origin = [&](int t) {
    while (p.tensors[t].view_of >= 0) t = p.tensors[t].view_of;
    return t;
  };
  auto used = [&](int t, int step) {
    McuTensor& tensor = p.tensors[origin(t)];
    tensor.first_step = std::min(tensor.first_step, step);
    tensor.last_step = std::max(tensor.last_step, step);
  };
  for (const McuBorder& b : p.inputs) used(b.tensor, 0);
  for (int s = 0; s < end; ++s) {
    for (int t : p.steps[s].inputs) used(t, s);
    used(p.steps[s].output, s);
  }
  for (const McuBorder& b : p.outputs) used(b.tensor, end);
  // Who begins where whom: the output of a step in the place of an input that nothing reads any more.
  std::vector<int> root(count);
  for (size_t i = 0; i < count; ++i) root[i] = static_cast<int>(i);
  for (int s = 0; s < end; ++s) {
    McuStep& step = p.steps[s];
    const int wanted = step.may_overwrite;
    step.in_place = -1;
    if (wanted < 0) continue;
    const bool elementwise = step.kind == StepKind::kAdd || step.kind == StepKind::kMultiply || step.kind == StepKind::kSoftmax || step.kind == StepKind::kNorm ||
                             step.kind == StepKind::kLookUp;
    if (!in_place && !elementwise) continue;
    auto free = [&](int input) {
      const int from = origin(step.inputs[input]);
      if (p.tensors[from].constant.defined() || p.tensors[from].outside || p.tensors[from].last_step != s || p.tensors[origin(step.output)].first_step != s)
        return false;
      for (size_t i = 0; i < step.inputs.size(); ++i)
        if (static_cast<int>(i) != input && origin(step.inputs[i]) == from) return false;
      return true;
    };
    int taken = -1;
    if (free(wanted))
      taken = wanted;
    else if (step.inputs.size() == 2 && wanted == 0 && p.tensors[step.inputs[1]].bytes() == p.tensors[step.output].bytes() && free(1))
      taken = 1;
    if (taken < 0) continue;
    step.in_place = taken;
    root[origin(step.output)] = root[origin(step.inputs[taken])];
  }
  std::vector<ArenaBuffer> buffers;
  std::vector<int> buffer_of(count, -1);
  for (size_t i = 0; i < count; ++i) {
    const McuTensor& t = p.tensors[i];
    if (t.view_of >= 0 || t.constant.defined() || t.outside || t.last_step < 0) continue;
    const int r = root[i];
    if (buffer_of[r] < 0) {
      buffer_of[r] = static_cast<int>(buffers.size());
      buffers.push_back({.first_step = p.tensors[r].first_step, .bytes = {}});
    }
    ArenaBuffer& b = buffers[buffer_of[r]];
    b.bytes.resize(std::max<size_t>(b.bytes.size(), static_cast<size_t>(t.last_step - b.first_step + 1)), 0);
    for (int s = t.first_step; s <= t.last_step; ++s) b.bytes[s - b.first_step] = std::max(b.bytes[s - b.first_step], t.bytes());
  }
  std::vector<int> scratch_of(p.steps.size(), -1);
  for (int s = 0; s < end; ++s) {
    if (p.steps[s].scratch_bytes == 0) continue;
    scratch_of[s] = static_cast<int>(buffers.size());
    buffers.push_back({.first_step = s, .bytes = {p.steps[s].scratch_bytes}});
  }
  p.arena_bytes = place_arena(buffers, kAlignment);
  p.lower_bound = arena_lower_bound(buffers);
  for (size_t i = 0; i < count; ++i) {
    const int r = root[origin(static_cast<int>(i))];
    if (!p.tensors[i].constant.defined() && buffer_of[r] >= 0) p.tensors[i].offset = buffers[buffer_of[r]].offset;
  }
  for (int s = 0; s < end; ++s) {
    McuStep& step = p.steps[s];
    if (scratch_of[s] >= 0) step.scratch_offset = buffers[scratch_of[s]].offset;
    for (const auto& [t, at] : step.in_scratch) p.tensors[t].offset = step.scratch_offset + at;
    for (McuStep& one : step.inner) one.scratch_offset = step.scratch_offset + step.inner_scratch;
  }
  for (McuTensor& t : p.tensors)
    if (t.row_of >= 0) t.offset = p.tensors[t.row_of].offset;
}

// From the input on, past rounding and the move to channels-last: what the first layer reads.
static ValueId codes_of_picture(const Graph& g) {
  if (g.inputs.size() != 1) return {};
  ValueId v = g.inputs[0];
  if (!g[v].shape || g[v].shape->size() != 4) return {};
  const Shape& x = *g[v].shape;
  const Shape moved{x[0], x[2], x[3], x[1]};
  const std::vector<std::vector<NodeId>> readers = g.consumers();
  bool last = false;
  while (!last && readers[v.index].size() == 1) {
    const Node& n = g[readers[v.index][0]];
    last = (n.op->name == "Transpose" || n.op->name == "Reshape") && n.op->domain.empty() && g[n.outputs[0]].shape == moved;
    if (!last && !(n.op->name == "QuantizeLinear" && n.op->domain.empty())) return {};
    v = n.outputs[0];
  }
  return last && size_of(g[v].dtype) == 1 ? v : ValueId{};
}

PlannedNetwork plan_network(Graph graph, const ProgramOptions& options) {
  PlanOptions plan_options;
  plan_options.reference = true;  // constants stay as they are: no kernel packs them
  plan_options.slice = false;
  plan_options.tokens = true;
  for (const auto& [name, shape] : default_input_shapes(graph)) plan_options.input_shapes[name] = shape;
  for (const auto& [name, shape] : options.input_shapes) plan_options.input_shapes[name] = shape;
  Plan plan = make_plan(std::move(graph), plan_options);
  PlannedNetwork network{.graph = std::move(plan.graph), .order = {}, .codes = {}};
  for (const Step& s : plan.steps) network.order.push_back(s.node);
  network.codes = codes_of_picture(network.graph);
  return network;
}

McuProgram make_program(PlannedNetwork network, const ProgramOptions& options) {
  McuProgram program;
  program.name = network.graph.name;
  program.graph = std::move(network.graph);
  ValueId whole;
  if (options.tiles) {
    if (!network.codes) fail(ErrorKind::kUnsupported, "tiles need a network whose one input is a picture that is rounded to codes first");
    const PatchStage stage = patchable_prefix(program.graph, network.codes, true).stage(options.tiles->nodes);
    whole = run_in_patches(program.graph, stage, {.rows = options.tiles->rows, .columns = options.tiles->columns});
    network.order = program.graph.order();
  }
  Lowering(program, whole).run(network.order);
  if (options.outside_input) leave_input_outside(program);
  if (options.integrate) integrate_tokens(program);
  for (const McuStep& s : program.steps) program.macs += s.macs;
  order_and_place(program, options.in_place);
  return program;
}

McuProgram make_program(Graph graph, const ProgramOptions& options) { return make_program(plan_network(std::move(graph), options), options); }

}  // namespace lathe::mcu
