// What moves elements, and the arithmetic of shapes.
#include "graph/op.h"
#include "train/lower.h"

namespace lathe {
namespace {

at::Tensor whole_numbers(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

Tensors reshape(const LowerCall& c) {
  std::vector<int64_t> shape = c.ints(1);
  if (c.node.get_int("allowzero") == 0)
    for (size_t i = 0; i < shape.size(); ++i)
      if (shape[i] == 0) shape[i] = c.in().size(static_cast<int64_t>(i));
  return {c.in().reshape(shape)};
}

Tensors flatten(const LowerCall& c) {
  int64_t axis = c.node.get_int("axis"), rows = 1;
  if (axis < 0) axis += c.in().dim();
  for (int64_t i = 0; i < axis; ++i) rows *= c.in().size(i);
  return {c.in().reshape({rows, c.in().numel() / std::max<int64_t>(rows, 1)})};
}

Tensors transpose(const LowerCall& c) {
  std::vector<int64_t> order = c.node.get_ints("perm");
  if (order.empty())
    for (int64_t i = c.in().dim(); i-- > 0;) order.push_back(i);
  return {c.in().permute(order)};
}

Tensors concat(const LowerCall& c) { return {at::cat(c.inputs, c.node.get_int("axis"))}; }

Tensors split(const LowerCall& c) {
  const int64_t axis = normalize_axis(c.node.get_int("axis"), c.in().dim()), size = c.in().size(axis);
  std::vector<int64_t> sizes;
  if (c.has(1)) {
    sizes = c.ints(1);
  } else {
    const auto parts = static_cast<int64_t>(c.node.outputs.size()), each = (size + parts - 1) / parts;
    for (int64_t i = 0; i < parts; ++i) sizes.push_back(std::min(each, size - i * each));
  }
  return c.in().split_with_sizes(sizes, axis);
}

Tensors slice(const LowerCall& c) {
  const std::vector<int64_t> starts = c.ints(1), ends = c.ints(2);
  std::vector<int64_t> axes, steps(starts.size(), 1);
  if (c.has(3)) axes = c.ints(3);
  else
    for (size_t i = 0; i < starts.size(); ++i) axes.push_back(static_cast<int64_t>(i));
  if (c.has(4)) steps = c.ints(4);
  at::Tensor y = c.in();
  for (size_t i = 0; i < starts.size(); ++i) {
    const int64_t axis = normalize_axis(axes[i], y.dim()), size = y.size(axis);
    int64_t start = starts[i] < 0 ? starts[i] + size : starts[i], end = ends[i] < -size ? -1 : ends[i] < 0 ? ends[i] + size : ends[i];
    if (steps[i] > 0) {
      start = std::clamp<int64_t>(start, 0, size);
      y = y.slice(axis, start, std::clamp<int64_t>(end, start, size), steps[i]);
      continue;
    }
    // Backwards: the elements by their indices.
    start = std::clamp<int64_t>(start, -1, size - 1);
    end = std::clamp<int64_t>(end, -1, size - 1);
    std::vector<int64_t> indices;
    for (int64_t at = start; at > end; at += steps[i]) indices.push_back(at);
    y = y.index_select(axis, whole_numbers(indices).to(y.device()));
  }
  return {y};
}

Tensors gather(const LowerCall& c) {
  const int64_t axis = normalize_axis(c.node.get_int("axis"), c.in().dim()), size = c.in().size(axis);
  at::Tensor indices = c.in(1).to(c.in().device(), at::kLong);
  indices = at::where(indices < 0, indices + size, indices);
  std::vector<int64_t> shape = c.in().sizes().slice(0, static_cast<size_t>(axis)).vec();
  shape.insert(shape.end(), indices.sizes().begin(), indices.sizes().end());
  const c10::IntArrayRef rest = c.in().sizes().slice(static_cast<size_t>(axis) + 1);
  shape.insert(shape.end(), rest.begin(), rest.end());
  return {c.in().index_select(axis, indices.reshape({-1})).reshape(shape)};
}

Tensors gather_elements(const LowerCall& c) {
  const int64_t axis = normalize_axis(c.node.get_int("axis"), c.in().dim());
  const at::Tensor indices = c.in(1).to(c.in().device(), at::kLong);
  return {at::gather(c.in(), axis, at::where(indices < 0, indices + c.in().size(axis), indices))};
}

std::vector<int64_t> axes_of(const LowerCall& c, int64_t rank) {
  std::vector<int64_t> axes = c.has(1) ? c.ints(1) : std::vector<int64_t>();
  for (int64_t& a : axes) a = normalize_axis(a, rank);
  std::sort(axes.begin(), axes.end());
  return axes;
}

Tensors squeeze(const LowerCall& c) {
  if (!c.has(1)) return {c.in().squeeze()};
  std::vector<int64_t> axes = axes_of(c, c.in().dim());
  at::Tensor y = c.in();
  for (size_t i = axes.size(); i-- > 0;) y = y.squeeze(axes[i]);
  return {y};
}

Tensors unsqueeze(const LowerCall& c) {
  at::Tensor y = c.in();
  for (int64_t axis : axes_of(c, c.in().dim() + c.in(1).numel())) y = y.unsqueeze(axis);
  return {y};
}

Tensors expand(const LowerCall& c) { return {c.in().expand(broadcast(c.in().sizes().vec(), c.ints(1)))}; }

Tensors pad(const LowerCall& c) {
  const std::vector<int64_t> given = c.ints(1);
  const auto rank = static_cast<size_t>(c.in().dim());
  std::vector<int64_t> axes, all(2 * rank, 0), from_last;
  if (c.has(3)) axes = c.ints(3);
  else
    for (size_t i = 0; i < rank; ++i) axes.push_back(static_cast<int64_t>(i));
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto axis = static_cast<size_t>(normalize_axis(axes[i], c.in().dim()));
    all[axis] = given[i];
    all[rank + axis] = given[axes.size() + i];
  }
  for (size_t i = rank; i-- > 0;) {
    from_last.push_back(all[i]);
    from_last.push_back(all[rank + i]);
  }
  const std::string& mode = c.node.get_string("mode");
  if (mode == "constant") return {at::constant_pad_nd(c.in(), from_last, c.has(2) ? c.in(2).item() : at::Scalar(0))};
  while (from_last.size() > 2 && from_last[from_last.size() - 1] == 0 && from_last[from_last.size() - 2] == 0) from_last.resize(from_last.size() - 2);
  namespace F = torch::nn::functional;
  if (mode == "reflect") return {F::pad(c.in(), F::PadFuncOptions(from_last).mode(torch::kReflect))};
  if (mode == "edge") return {F::pad(c.in(), F::PadFuncOptions(from_last).mode(torch::kReplicate))};
  return {F::pad(c.in(), F::PadFuncOptions(from_last).mode(torch::kCircular))};
}

Tensors depth_to_space(const LowerCall& c) {
  const int64_t b = c.node.get_int("blocksize"), n = c.in().size(0), channels = c.in().size(1) / (b * b), h = c.in().size(2), w = c.in().size(3);
  if (c.node.get_string("mode") == "DCR") return {c.in().reshape({n, b, b, channels, h, w}).permute({0, 3, 4, 1, 5, 2}).reshape({n, channels, h * b, w * b})};
  return {c.in().reshape({n, channels, b, b, h, w}).permute({0, 1, 4, 2, 5, 3}).reshape({n, channels, h * b, w * b})};
}
Tensors space_to_depth(const LowerCall& c) {
  const int64_t b = c.node.get_int("blocksize"), n = c.in().size(0), channels = c.in().size(1), h = c.in().size(2) / b, w = c.in().size(3) / b;
  return {c.in().reshape({n, channels, h, b, w, b}).permute({0, 3, 5, 1, 2, 4}).reshape({n, channels * b * b, h, w})};
}

// Pictures [N, C, H, W], to the nearest element or linearly.
Tensors resize(const LowerCall& c) {
  const std::string &mode = c.node.get_string("mode"), &coordinates = c.node.get_string("coordinate_transformation_mode");
  if (c.in().dim() != 4 || !c.node.get_ints("axes").empty()) fail(ErrorKind::kUnsupported, "{}: only pictures are resized in training", c.node.name);
  std::vector<int64_t> size(2);
  std::vector<double> scales(2);
  for (int64_t i = 0; i < 2; ++i) {
    const int64_t before = c.in().size(2 + i);
    if (c.has(3)) {
      size[i] = c.ints(3)[2 + i];
      scales[i] = static_cast<double>(size[i]) / static_cast<double>(before);
    } else {
      scales[i] = c.in(2)[2 + i].item<double>();
      size[i] = static_cast<int64_t>(std::floor(static_cast<double>(before) * scales[i]));
    }
  }
  const c10::optional<double> sh = scales[0], sw = scales[1];
  if (mode == "linear" && (coordinates == "half_pixel" || coordinates == "pytorch_half_pixel")) return {at::upsample_bilinear2d(c.in(), size, false, sh, sw)};
  if (mode == "linear" && coordinates == "align_corners") return {at::upsample_bilinear2d(c.in(), size, true)};
  if (mode == "nearest" && coordinates == "asymmetric" && c.node.get_string("nearest_mode") == "floor") return {at::upsample_nearest2d(c.in(), size, sh, sw)};
  if (mode == "nearest" && scales[0] == std::floor(scales[0]) && scales[1] == std::floor(scales[1])) return {at::upsample_nearest2d(c.in(), size, sh, sw)};
  fail(ErrorKind::kUnsupported, "{}: Resize of mode {}, {} cannot be trained", c.node.name, mode, coordinates);
}

Tensors shape_of(const LowerCall& c) {
  const int64_t rank = c.in().dim();
  int64_t start = c.node.get_int("start"), end = c.node.get_int("end");
  if (start < 0) start += rank;
  if (end < 0) end += rank;
  std::vector<int64_t> sizes;
  for (int64_t i = std::max<int64_t>(start, 0); i < std::min(end, rank); ++i) sizes.push_back(c.in().size(i));
  return {whole_numbers(sizes)};
}

Tensors constant_of_shape(const LowerCall& c) {
  if (!c.node.has("value")) return {at::zeros(c.ints(0), at::kFloat)};
  const at::Tensor value = to_torch(c.node.get_tensor("value"));
  return {at::full(c.ints(0), value.item(), value.options())};
}

}  // namespace

void lower_moves(LoweringRegistry& r) {
  r.add("Reshape", reshape);
  r.add("Flatten", flatten);
  r.add("Transpose", transpose);
  r.add("Concat", concat);
  r.add("Split", split);
  r.add("Slice", slice);
  r.add("Gather", gather);
  r.add("GatherElements", gather_elements);
  r.add("Squeeze", squeeze);
  r.add("Unsqueeze", unsqueeze);
  r.add("Expand", expand);
  r.add("Pad", pad);
  r.add("DepthToSpace", depth_to_space);
  r.add("SpaceToDepth", space_to_depth);
  r.add("Resize", resize);
  r.add("Shape", shape_of);
  r.add("ConstantOfShape", constant_of_shape);
  r.add("Tile", +[](const LowerCall& c) { return Tensors{c.in().repeat(c.ints(1))}; });
  r.add("Range", +[](const LowerCall& c) { return Tensors{at::arange(c.in(0).item(), c.in(1).item(), c.in(2).item(), c.in(0).options())}; });
}

}  // namespace lathe
