#include <algorithm>
#include <limits>

#include "graph/ops/axes.h"
#include "graph/ops/families.h"

namespace lathe::ops {
namespace {

using Ints = std::vector<int64_t>;

void infer_reshape(InferContext& c) {
  auto target = constant_ints(c, 1);
  const auto& in = c.shape(0);
  if (!target) {
    int64_t rank = list_length(c, 1);
    c.set_output(0, c.dtype(), rank < 0 ? std::nullopt : std::optional(unknown_shape(rank)));
    return;
  }
  check_model(static_cast<int64_t>(target->size()) <= kMaxRank, "Reshape to {} axes, at most {} are supported",
              target->size(), kMaxRank);
  bool allow_zero = c.node().get_int("allowzero") != 0;
  Shape out = *target;
  int64_t inferred = -1, known_out = 1;
  std::vector<bool> copied(in ? in->size() : 0, false);
  bool complete = in.has_value();
  for (size_t i = 0; i < out.size(); ++i) {
    check_model(out[i] >= -1, "Reshape to {}: a size is negative", to_string(*target));
    if (out[i] == -1) {
      check_model(inferred < 0, "Reshape to {}: only one size can be -1", to_string(*target));
      inferred = static_cast<int64_t>(i);
      continue;
    }
    if (out[i] == 0 && !allow_zero) {
      check_model(!in || i < in->size(), "Reshape of {} copies axis {}, which is not there",
                  in ? to_string(*in) : "", i);
      out[i] = in ? (*in)[i] : kUnknownDim;
      if (in) copied[i] = true;
      continue;
    }
    if (out[i] >= 0) known_out = checked_multiply(known_out, out[i]);
  }
  // Sizes that are copied from input to output, known or not, cancel out.
  int64_t known_in = 1;
  for (size_t i = 0; in && i < in->size(); ++i) {
    if (copied[i]) continue;
    if ((*in)[i] < 0) {
      complete = false;
    } else {
      known_in = checked_multiply(known_in, (*in)[i]);
    }
  }
  if (complete && inferred >= 0) {
    check_model(known_out != 0 && known_in % known_out == 0, "Reshape of {} to {}: the elements do not divide",
                to_string(*in), to_string(*target));
    out[inferred] = known_in / known_out;
  } else if (complete) {
    bool empty = std::find(in->begin(), in->end(), 0) != in->end() && std::find(out.begin(), out.end(), 0) != out.end();
    check_model(empty || known_in == known_out, "Reshape of {} to {}: {} elements cannot become {}", to_string(*in),
                to_string(*target), known_in, known_out);
  }
  c.set_output(0, c.dtype(), out);
}

void infer_transpose(InferContext& c) {
  const Ints& permutation = c.node().get_ints("perm");
  if (!c.shape(0)) {
    c.set_output(0, c.dtype(), permutation.empty() ? std::nullopt : std::optional(unknown_shape(permutation.size())));
    return;
  }
  const Shape& in = *c.shape(0);
  auto rank = static_cast<int64_t>(in.size());
  Ints axes = permutation;
  if (axes.empty()) {
    axes = all_axes(rank);
    std::reverse(axes.begin(), axes.end());
  }
  check_model(static_cast<int64_t>(axes.size()) == rank, "perm has {} entries for a tensor of rank {}", axes.size(), rank);
  for (int64_t axis : axes) check_model(axis >= 0, "perm holds {}", axis);  // what reads perm later need not ask
  axes = normalize_axes(axes, rank);
  Shape out;
  for (int64_t axis : axes) out.push_back(in[axis]);
  c.set_output(0, c.dtype(), out);
}

void infer_concat(InferContext& c) {
  std::optional<Shape> out;
  DType type = DType::kUndefined;
  size_t axis = 0;
  bool axis_known = true;
  int64_t total = 0;
  for (size_t k = 0; k < c.input_count(); ++k) {
    check_model(c.has_input(k), "Concat: input {} is missing", k);
    check_model(types_agree(c.dtype(k), type), "Concat of different types, {} and {}", name_of(type), name_of(c.dtype(k)));
    if (type == DType::kUndefined) type = c.dtype(k);
    if (!c.shape(k)) {
      axis_known = false;
      continue;
    }
    const Shape& in = *c.shape(k);
    if (!out) {
      axis = normalize_axis(c.node().get_int("axis"), static_cast<int64_t>(in.size()));
      out = in;
    }
    check_model(in.size() == out->size(), "Concat of different ranks: {} and {}", to_string(*out), to_string(in));
    for (size_t i = 0; i < in.size(); ++i) {
      if (i == axis) continue;
      check_model(in[i] < 0 || (*out)[i] < 0 || in[i] == (*out)[i],
                  "Concat along axis {} of {} and {}: other sizes must agree", axis, to_string(*out), to_string(in));
      (*out)[i] = std::max(in[i], (*out)[i]);
    }
    if (in[axis] < 0) {
      axis_known = false;
    } else {
      total = checked_add(total, in[axis]);
    }
  }
  if (out) (*out)[axis] = axis_known ? total : kUnknownDim;
  c.set_output(0, type, out);
}

void infer_split(InferContext& c) {
  auto count = static_cast<int64_t>(c.output_count());
  auto sizes = constant_ints(c, 1);
  check_model(!c.node().has("num_outputs") || c.node().get_int("num_outputs") == count,
              "num_outputs is {} but the node has {} outputs", c.node().get_int("num_outputs"), count);
  check_model(!sizes || static_cast<int64_t>(sizes->size()) == count, "split has {} sizes for {} outputs",
              sizes ? sizes->size() : 0, count);
  for (int64_t k = 0; k < count; ++k) c.set_output(k, c.dtype());
  if (!c.shape(0)) return;
  Shape out = *c.shape(0);
  size_t axis = normalize_axis(c.node().get_int("axis"), static_cast<int64_t>(out.size()));
  int64_t size = out[axis], sum = 0;
  if (!sizes && !c.has_input(1) && size >= 0) {
    // Equal parts; the last one is smaller when they do not divide.
    sizes = Ints();
    int64_t part = size / count + (size % count != 0);
    for (int64_t k = 0; k < count; ++k) sizes->push_back(k + 1 < count ? part : size - part * (count - 1));
  }
  for (int64_t k = 0; k < count; ++k) {
    out[axis] = sizes ? (*sizes)[k] : kUnknownDim;
    check_model(!sizes || out[axis] >= 0, "size {} along axis {} cannot be split into {} parts", size, axis, count);
    if (sizes) sum = checked_add(sum, out[axis]);
    c.set_output(k, c.dtype(), out);
  }
  check_model(!sizes || size < 0 || sum == size, "split sizes add up to {}, but the axis has size {}", sum, size);
}

void infer_slice(InferContext& c) {
  if (!c.shape(0)) return c.set_output(0, c.dtype());
  Shape out = *c.shape(0);
  auto rank = static_cast<int64_t>(out.size());
  auto starts = constant_ints(c, 1), ends = constant_ints(c, 2), axes = constant_ints(c, 3), steps = constant_ints(c, 4);
  int64_t length = list_length(c, 1);
  if (!c.has_input(3) && length >= 0) {
    check_model(length <= rank, "Slice of {} axes on a tensor of rank {}", length, rank);
    axes = all_axes(length);
  }
  if (!axes) return c.set_output(0, c.dtype(), unknown_shape(rank));
  axes = normalize_axes(*axes, rank);
  if (!c.has_input(4)) steps = Ints(axes->size(), 1);
  for (const auto* list : {&starts, &ends, &steps})
    check_model(!*list || (*list)->size() == axes->size(), "Slice: starts, ends, axes and steps differ in length");
  for (size_t k = 0; k < axes->size(); ++k) {
    int64_t& size = out[(*axes)[k]];
    if (!starts || !ends || !steps || size < 0) {
      size = kUnknownDim;
      continue;
    }
    int64_t step = (*steps)[k];
    check_model(step != 0, "Slice: the step of axis {} is 0", (*axes)[k]);
    check_model(step != std::numeric_limits<int64_t>::min(), "Slice: step {} is too large", step);
    auto wrap = [&](int64_t v) { return v < 0 ? v + size : v; };
    int64_t from, to;
    if (step > 0) {
      from = std::clamp<int64_t>(wrap((*starts)[k]), 0, size);
      to = std::clamp<int64_t>(wrap((*ends)[k]), 0, size);
      size = to > from ? (to - from - 1) / step + 1 : 0;
    } else {
      from = std::clamp<int64_t>(wrap((*starts)[k]), -1, size - 1);
      to = std::clamp<int64_t>(wrap((*ends)[k]), -1, size - 1);
      size = from > to ? (from - to - 1) / -step + 1 : 0;
    }
  }
  c.set_output(0, c.dtype(), out);
}

void infer_pad(InferContext& c) {
  const std::string& mode = c.node().get_string("mode");
  check_model(mode == "constant" || mode == "reflect" || mode == "edge" || mode == "wrap", "unknown Pad mode '{}'", mode);
  if (!c.shape(0)) return c.set_output(0, c.dtype());
  Shape out = *c.shape(0);
  auto rank = static_cast<int64_t>(out.size());
  auto pads = constant_ints(c, 1), axes = constant_ints(c, 3);
  if (!c.has_input(3)) axes = all_axes(rank);
  if (!axes) return c.set_output(0, c.dtype(), unknown_shape(rank));
  axes = normalize_axes(*axes, rank);
  check_model(!pads || pads->size() == 2 * axes->size(), "Pad has {} amounts for {} axes, expected two an axis",
              pads ? pads->size() : 0, axes->size());
  for (size_t k = 0; k < axes->size(); ++k) {
    int64_t& size = out[(*axes)[k]];
    if (!pads || size < 0) {
      size = kUnknownDim;
      continue;
    }
    for (int64_t amount : {(*pads)[k], (*pads)[k + axes->size()]}) {
      check_model(amount >= -kMaxTensorBytes && amount <= kMaxTensorBytes, "Pad by {} is too much", amount);
      size = checked_add(size, amount);
    }
    check_model(size >= 0, "Pad removes more than the whole axis {}", (*axes)[k]);
  }
  c.set_output(0, c.dtype(), out);
}

void infer_expand(InferContext& c) {
  auto target = constant_ints(c, 1);
  int64_t length = list_length(c, 1);
  if (!target) {
    if (!c.shape(0) || length < 0) return c.set_output(0, c.dtype());
    return c.set_output(0, c.dtype(), unknown_shape(std::max<int64_t>(length, c.shape(0)->size())));
  }
  for (int64_t size : *target) check_model(size >= 0, "Expand to {}: a size is negative", to_string(*target));
  if (!c.shape(0)) return c.set_output(0, c.dtype());
  c.set_output(0, c.dtype(), broadcast(*c.shape(0), *target));
}

void infer_tile(InferContext& c) {
  if (!c.shape(0)) return c.set_output(0, c.dtype());
  Shape out = *c.shape(0);
  auto repeats = constant_ints(c, 1);
  check_model(!repeats || repeats->size() == out.size(), "Tile has {} repeats for a tensor of rank {}",
              repeats ? repeats->size() : 0, out.size());
  for (size_t i = 0; i < out.size(); ++i) {
    check_model(!repeats || (*repeats)[i] >= 0, "Tile: a repeat is negative");
    out[i] = repeats && out[i] >= 0 ? checked_multiply(out[i], (*repeats)[i]) : kUnknownDim;
  }
  c.set_output(0, c.dtype(), out);
}

void infer_squeeze(InferContext& c) {
  auto axes = constant_ints(c, 1);
  if (!c.shape(0)) return c.set_output(0, c.dtype());
  const Shape& in = *c.shape(0);
  auto rank = static_cast<int64_t>(in.size());
  if (c.has_input(1) && !axes) {
    int64_t length = list_length(c, 1);
    check_model(length <= rank, "Squeeze of {} axes on a tensor of rank {}", length, rank);
    return c.set_output(0, c.dtype(), length < 0 ? std::nullopt : std::optional(unknown_shape(rank - length)));
  }
  std::vector<bool> drop(rank, false);
  if (axes) {
    for (int64_t axis : normalize_axes(*axes, rank)) {
      check_model(in[axis] < 0 || in[axis] == 1, "Squeeze of axis {} of {}: its size is not 1", axis, to_string(in));
      drop[axis] = true;
    }
  } else {
    if (!is_static(in)) return c.set_output(0, c.dtype());  // an unknown size may be 1
    for (int64_t i = 0; i < rank; ++i) drop[i] = in[i] == 1;
  }
  Shape out;
  for (int64_t i = 0; i < rank; ++i)
    if (!drop[i]) out.push_back(in[i]);
  c.set_output(0, c.dtype(), out);
}

void infer_unsqueeze(InferContext& c) {
  auto axes = constant_ints(c, 1);
  int64_t length = list_length(c, 1);
  if (!c.shape(0) || length < 0) return c.set_output(0, c.dtype());
  const Shape& in = *c.shape(0);
  auto rank = static_cast<int64_t>(in.size()) + length;
  check_model(rank <= kMaxRank, "Unsqueeze to rank {}, at most {} is supported", rank, kMaxRank);
  if (!axes) return c.set_output(0, c.dtype(), unknown_shape(rank));
  Shape out(rank, -2);
  for (int64_t axis : normalize_axes(*axes, rank)) out[axis] = 1;
  size_t next = 0;
  for (int64_t& size : out)
    if (size == -2) size = in[next++];
  c.set_output(0, c.dtype(), out);
}

void infer_flatten(InferContext& c) {
  if (!c.shape(0)) return c.set_output(0, c.dtype(), unknown_shape(2));
  const Shape& in = *c.shape(0);
  auto rank = static_cast<int64_t>(in.size());
  int64_t axis = c.node().get_int("axis");
  check_model(axis >= -rank && axis <= rank, "Flatten: axis {} is out of range for rank {}", axis, rank);
  if (axis < 0) axis += rank;
  Shape out = {1, 1};
  for (int64_t i = 0; i < rank; ++i) {
    int64_t& size = out[i >= axis];
    size = size < 0 || in[i] < 0 ? kUnknownDim : checked_multiply(size, in[i]);
  }
  c.set_output(0, c.dtype(), out);
}

void infer_shape(InferContext& c) {
  if (!c.shape(0)) return c.set_output(0, DType::kI64, unknown_shape(1));
  auto rank = static_cast<int64_t>(c.shape(0)->size());
  auto clip = [&](int64_t v) { return std::clamp<int64_t>(v < 0 ? v + rank : v, 0, rank); };
  int64_t start = clip(c.node().get_int("start")), end = clip(c.node().get_int("end"));
  c.set_output(0, DType::kI64, Shape{std::max<int64_t>(end - start, 0)});
}

void infer_center_crop_pad(InferContext& c) {
  if (!c.shape(0)) return c.set_output(0, c.dtype());
  Shape out = *c.shape(0);
  auto rank = static_cast<int64_t>(out.size());
  Ints axes = c.node().has("axes") ? normalize_axes(c.node().get_ints("axes"), rank) : all_axes(rank);
  auto target = constant_ints(c, 1);
  check_model(!target || target->size() == axes.size(), "CenterCropPad has {} sizes for {} axes",
              target ? target->size() : 0, axes.size());
  for (size_t k = 0; k < axes.size(); ++k) {
    check_model(!target || (*target)[k] >= 0, "CenterCropPad: a size is negative");
    out[axes[k]] = target ? (*target)[k] : kUnknownDim;
  }
  c.set_output(0, c.dtype(), out);
}

void infer_reverse_sequence(InferContext& c) {
  c.expect_rank(0, 2, kMaxRank);
  c.expect_rank(1, 1, 1);
  int64_t batch = c.node().get_int("batch_axis"), time = c.node().get_int("time_axis");
  check_model((batch == 0 && time == 1) || (batch == 1 && time == 0),
              "batch_axis {} and time_axis {} must be 0 and 1 or 1 and 0", batch, time);
  if (c.shape(0) && c.shape(1)) {
    int64_t in = (*c.shape(0))[batch], lengths = (*c.shape(1))[0];
    check_model(in < 0 || lengths < 0 || in == lengths, "{} sequence lengths for a batch of {}", lengths, in);
  }
  infer::same_as_first(c);
}

}  // namespace

void declare_shape(OpRegistry& r) {
  r.add({.name = "Reshape", .minimum_inputs = 2, .maximum_inputs = 2,
         .attributes = {{"allowzero", int64_t{0}}}, .infer = infer_reshape});
  r.add({.name = "Transpose", .attributes = {{"perm", Ints()}}, .infer = infer_transpose});
  r.add({.name = "Concat", .maximum_inputs = -1, .attributes = {{"axis", int64_t{0}, true}},
         .infer = infer_concat});
  r.add({.name = "Split", .maximum_inputs = 2, .maximum_outputs = -1,
         .attributes = {{"axis", int64_t{0}}, {"num_outputs", int64_t{0}}}, .infer = infer_split});
  r.add({.name = "Slice", .minimum_inputs = 3, .maximum_inputs = 5, .infer = infer_slice});
  r.add({.name = "Pad", .minimum_inputs = 2, .maximum_inputs = 4,
         .attributes = {{"mode", std::string("constant")}}, .infer = infer_pad});
  r.add({.name = "Expand", .minimum_inputs = 2, .maximum_inputs = 2, .infer = infer_expand});
  r.add({.name = "Tile", .minimum_inputs = 2, .maximum_inputs = 2, .infer = infer_tile});
  r.add({.name = "Squeeze", .maximum_inputs = 2, .infer = infer_squeeze});
  r.add({.name = "Unsqueeze", .minimum_inputs = 2, .maximum_inputs = 2, .infer = infer_unsqueeze});
  r.add({.name = "Flatten", .attributes = {{"axis", int64_t{1}}}, .infer = infer_flatten});
  r.add({.name = "Shape",
         .attributes = {{"start", int64_t{0}}, {"end", std::numeric_limits<int64_t>::max()}},
         .infer = infer_shape});
  r.add({.name = "Size", .infer = [](InferContext& c) { c.set_output(0, DType::kI64, Shape{}); }});
  r.add({.name = "CenterCropPad", .minimum_inputs = 2, .maximum_inputs = 2,
         .attributes = {{"axes", Ints()}}, .infer = infer_center_crop_pad});
  r.add({.name = "ReverseSequence", .minimum_inputs = 2, .maximum_inputs = 2,
         .attributes = {{"batch_axis", int64_t{1}}, {"time_axis", int64_t{0}}},
         .infer = infer_reverse_sequence});
}

}  // namespace lathe::ops
