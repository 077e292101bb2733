#include "models/ssd.h"

#include <cmath>

#include "core/error.h"
#include "graph/op.h"

namespace lathe {
namespace {

struct Form {
  double scale, ratio;
};

std::vector<std::vector<Form>> forms_of(size_t maps, const AnchorOptions& o) {
  if (!(o.smallest > 0 && o.largest >= o.smallest)) fail(ErrorKind::kUsage, "anchors with scales {} to {}", o.smallest, o.largest);
  for (double ratio : o.ratios)
    if (!(ratio > 0)) fail(ErrorKind::kUsage, "anchors with ratio {}", ratio);
  if (o.height < 1 || o.width < 1) fail(ErrorKind::kUsage, "anchors of a picture of {}x{}", o.height, o.width);
  const auto scale = [&](size_t i) { return i == maps ? 1.0 : maps == 1 ? o.smallest : o.smallest + (o.largest - o.smallest) * static_cast<double>(i) / static_cast<double>(maps - 1); };
  std::vector<std::vector<Form>> all(maps);
  for (size_t i = 0; i < maps; ++i) {
    if (i == 0 && o.few_in_first) {
      all[0] = {{0.1, 1}, {scale(0), 2}, {scale(0), 0.5}};
      continue;
    }
    for (double ratio : o.ratios) all[i].push_back({scale(i), ratio});
    if (o.between) all[i].push_back({std::sqrt(scale(i) * scale(i + 1)), 1});
  }
  return all;
}

struct Centred {
  float x, y, w, h;
};
Centred centred(const Box& b) { return {(b.x0 + b.x1) / 2, (b.y0 + b.y1) / 2, b.x1 - b.x0, b.y1 - b.y0}; }

}  // namespace

std::vector<int64_t> anchors_per_cell(size_t maps, const AnchorOptions& options) {
  std::vector<int64_t> counts;
  for (const std::vector<Form>& forms : forms_of(maps, options)) counts.push_back(static_cast<int64_t>(forms.size()));
  return counts;
}

std::vector<Box> grid_anchors(const std::vector<std::array<int64_t, 2>>& maps, const AnchorOptions& options) {
  const std::vector<std::vector<Form>> forms = forms_of(maps.size(), options);
  const double shorter = static_cast<double>(std::min(options.height, options.width));
  const double tall = shorter / static_cast<double>(options.height), wide = shorter / static_cast<double>(options.width);
  std::vector<Box> anchors;
  for (size_t i = 0; i < maps.size(); ++i) {
    const auto [rows, columns] = maps[i];
    if (rows < 1 || columns < 1) fail(ErrorKind::kUsage, "anchors on a map of {}x{}", rows, columns);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column)
        for (const Form& f : forms[i]) {
          const double y = (static_cast<double>(row) + 0.5) / static_cast<double>(rows), x = (static_cast<double>(column) + 0.5) / static_cast<double>(columns);
          const double h = f.scale / std::sqrt(f.ratio) * tall, w = f.scale * std::sqrt(f.ratio) * wide;
          anchors.push_back({static_cast<float>(x - w / 2), static_cast<float>(y - h / 2), static_cast<float>(x + w / 2), static_cast<float>(y + h / 2)});
        }
  }
  return anchors;
}

BoxCode encode_box(const Box& box, const Box& anchor) {
  constexpr float kNotNought = 1e-8f;
  const Centred b = centred(box), a = centred(anchor);
  const float w = a.w + kNotNought, h = a.h + kNotNought;
  return {kCentreScale * (b.y - a.y) / h, kCentreScale * (b.x - a.x) / w, kSizeScale * std::log((b.h + kNotNought) / h), kSizeScale * std::log((b.w + kNotNought) / w)};
}

Box decode_box(const BoxCode& code, const Box& anchor) {
  const Centred a = centred(anchor);
  const float h = std::exp(std::min(code[2] / kSizeScale, kLargestLogSize)) * a.h, w = std::exp(std::min(code[3] / kSizeScale, kLargestLogSize)) * a.w;
  const float y = code[0] / kCentreScale * a.h + a.y, x = code[1] / kCentreScale * a.w + a.x;
  return {x - w / 2, y - h / 2, x + w / 2, y + h / 2};
}

std::vector<int64_t> match_anchors(const std::vector<Box>& anchors, const std::vector<Box>& boxes, float least) {
  std::vector<int64_t> owner(anchors.size(), -1), taker(anchors.size(), -1);
  std::vector<float> most(anchors.size(), 0);
  for (size_t k = 0; k < boxes.size(); ++k) {
    const Box& b = boxes[k];
    if (!(std::isfinite(b.x0) && std::isfinite(b.y0) && std::isfinite(b.x1) && std::isfinite(b.y1)))
      fail(ErrorKind::kInput, "box {} is ({}, {}, {}, {}): expected finite numbers", k, b.x0, b.y0, b.x1, b.y1);
    size_t best = 0;
    float best_overlap = 0;
    for (size_t i = 0; i < anchors.size(); ++i) {
      const float o = overlap(anchors[i], b);
      if (o > best_overlap) {
        best_overlap = o;
        best = i;
      }
      if (o > most[i]) {
        most[i] = o;
        owner[i] = o >= least ? static_cast<int64_t>(k) : -1;
      }
    }
    if (best_overlap > 0 && taker[best] < 0) taker[best] = static_cast<int64_t>(k);
  }
  for (size_t i = 0; i < anchors.size(); ++i)
    if (taker[i] >= 0) owner[i] = taker[i];
  return owner;
}

std::vector<Box> anchors_of(const Graph& g) {
  const auto refuse = [](const std::string& why) { fail(ErrorKind::kUnsupported, "a network with anchors is wanted, with outputs codes [N, A, 4] and logits [N, A, slots]: {}", why); };
  const auto maker = [&](ValueId v, std::string_view op) -> const Node& {
    const NodeId n = g[v].producer;
    if (!n || g[n].op->name != op) refuse(fmt::format("{} is not made by {}", g[v].name, op));
    return g[n];
  };
  const auto known = [&](ValueId v, size_t rank) { return g[v].shape && g[v].shape->size() == rank; };
  if (g.outputs.size() != 2) refuse(fmt::format("this one has {} outputs", g.outputs.size()));
  const ValueId codes = g.outputs[0], logits = g.outputs[1];
  if (!known(codes, 3) || !known(logits, 3) || (*g[codes].shape)[2] != 4 || (*g[codes].shape)[1] != (*g[logits].shape)[1] || (*g[logits].shape)[2] < 2)
    refuse(fmt::format("these are {} and {}", g[codes].shape ? to_string(*g[codes].shape) : "of any rank", g[logits].shape ? to_string(*g[logits].shape) : "of any rank"));
  std::vector<std::array<int64_t, 2>> maps;
  std::vector<int64_t> per_cell;
  for (ValueId part : maker(codes, "Concat").inputs) {
    const ValueId made = maker(maker(maker(part, "Reshape").inputs[0], "Transpose").inputs[0], "Conv").outputs[0];
    if (!known(made, 4)) refuse(g[made].name + " has no known shape");
    const Shape& s = *g[made].shape;
    maps.push_back({s[2], s[3]});
    per_cell.push_back(s[1] / 4);
  }
  const ValueId input = g.inputs.at(0);
  if (!known(input, 4)) refuse("the input is no picture");
  const AnchorOptions options{.height = (*g[input].shape)[2], .width = (*g[input].shape)[3]};
  if (anchors_per_cell(maps.size(), options) != per_cell) refuse(fmt::format("its maps have {} anchors a cell, and {} are known", fmt::join(per_cell, ", "), fmt::join(anchors_per_cell(maps.size(), options), ", ")));
  std::vector<Box> anchors = grid_anchors(maps, options);
  if (static_cast<int64_t>(anchors.size()) != (*g[codes].shape)[1]) refuse(fmt::format("{} boxes of {} anchors", (*g[codes].shape)[1], anchors.size()));
  return anchors;
}

void append_decoding(Graph& g, const std::vector<Box>& anchors) {
  const ValueId codes = g.outputs.at(0), logits = g.outputs.at(1);
  const auto op = [&](std::string_view name, std::vector<ValueId> inputs, Attributes attributes = {}) {
    const ValueId y = g.add(name, std::move(inputs), std::move(attributes), g.fresh_name("decode." + std::string(name)));
    g[g[y].producer].scope = "decode";
    return y;
  };
  const auto literal = [&](double value) { return g.add_constant(Tensor::scalar(static_cast<float>(value))); };
  const auto column = [&](const std::string& name, auto value) {
    Tensor t(DType::kF32, {static_cast<int64_t>(anchors.size()), 1});
    for (size_t i = 0; i < anchors.size(); ++i) t.data<float>()[i] = value(anchors[i]);
    return g.add_constant(t, "decode." + name + ".frozen");
  };
  const auto code = [&](int64_t i) { return op("Slice", {codes, g.add_constant(Tensor::of_i64({i})), g.add_constant(Tensor::of_i64({i + 1})), g.add_constant(Tensor::of_i64({2}))}); };
  // Start and end along one axis.
  const auto along = [&](const std::string& axis, int64_t i, auto first, auto last) {
    const ValueId size = column("size_" + axis, [&](const Box& a) { return last(a) - first(a); });
    const ValueId centre = column("centre_" + axis, [&](const Box& a) { return (first(a) + last(a)) / 2; });
    const ValueId middle = op("Add", {op("Mul", {op("Mul", {code(i), literal(1 / kCentreScale)}), size}), centre});
    const ValueId log = op("Min", {op("Mul", {code(i + 2), literal(1 / kSizeScale)}), literal(kLargestLogSize)});
    const ValueId half = op("Mul", {op("Mul", {op("Exp", {log}), size}), literal(0.5)});
    return std::pair(op("Sub", {middle, half}), op("Add", {middle, half}));
  };
  const auto [top, bottom] = along("y", 0, [](const Box& a) { return a.y0; }, [](const Box& a) { return a.y1; });
  const auto [left, right] = along("x", 1, [](const Box& a) { return a.x0; }, [](const Box& a) { return a.x1; });
  g.outputs = {op("Sigmoid", {logits}), op("Concat", {left, top, right, bottom}, {{"axis", int64_t{2}}})};
  for (size_t i = 0; i < 2; ++i) {
    Value& v = g[g.outputs[i]];
    v.name = i == 0 ? "scores" : "boxes";
    if (v.shape) v.dim_names.assign(v.shape->size(), "");
    if (v.shape && (*v.shape)[0] == kUnknownDim) v.dim_names[0] = "N";
  }
}

}  // namespace lathe
