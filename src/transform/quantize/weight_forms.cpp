#include "transform/quantize/weight_forms.h"

#include <algorithm>
#include <cmath>

#include "kernels/coded_weights.h"

namespace lathe {
namespace {

using Ints = std::vector<int64_t>;

// `made` takes the place and the name of a constant.
void take_place(Graph& g, ValueId weight, ValueId made) {
  require(g[made].dtype == g[weight].dtype && g[made].shape == g[weight].shape, "weight '{}' of shape {} cannot be stored as {}{}", g[weight].name,
          to_string(*g[weight].shape), name_of(g[made].dtype), g[made].shape ? to_string(*g[made].shape) : "");
  g[made].name = g[weight].name;
  g[g[made].producer].name = g[weight].name;
  g[weight].name += "_whole";
  g.replace_uses(weight, made);
}

Shape weight_shape(const Graph& g, ValueId weight) {
  require(g[weight].is_constant() && g[weight].dtype == DType::kF32 && g[weight].constant.rank() >= 1, "'{}' is no constant of f32", g[weight].name);
  return g[weight].constant.shape();
}

ValueId unpack(Graph& g, const Tensor& codes, int bits, const Shape& shape, const std::string& name) {
  return g.add("ai.lathe::UnpackBits", {g.add_constant(pack_bits(codes, bits), name + "_packed")}, {{"bits", int64_t{bits}}, {"shape", shape}});
}

// Codes of `shape`, as i32.
ValueId unpack_indices(Graph& g, const Tensor& codes, int bits, const Shape& shape, const std::string& name) {
  ValueId made;
  if (bits == 3) {
    Tensor low(DType::kU8, codes.shape()), high(DType::kU8, codes.shape()), two(DType::kU8, {});
    for (int64_t i = 0; i < codes.size(); ++i) {
      low.set_int(i, codes.get_int(i) & 3);
      high.set_int(i, codes.get_int(i) >> 2);
    }
    two.set_int(0, 2);
    const ValueId third = g.add("BitShift", {unpack(g, high, 1, shape, name + "_high"), g.add_constant(two)}, {{"direction", std::string("LEFT")}});
    made = g.add("BitwiseOr", {unpack(g, low, 2, shape, name), third});
  } else {
    made = unpack(g, codes, bits, shape, name);
  }
  return g.add("Cast", {made}, {{"to", static_cast<int64_t>(DType::kI32)}});
}

}  // namespace

Tensor pack_bits(const Tensor& codes, int bits) {
  require(bits == 1 || bits == 2 || bits == 4, "codes of {} bits do not fill a byte", bits);
  for (int64_t i = 0; i < codes.size(); ++i) require(codes.get_int(i) >= 0 && codes.get_int(i) < 1 << bits, "code {} does not fit {} bits", codes.get_int(i), bits);
  return pack_codes(codes, bits);
}

void store_as_groups(Graph& g, ValueId weight, const Tensor& codes, const Tensor& scales, const Tensor* zeros, int axis, int64_t group) {
  const Shape shape = weight_shape(g, weight);
  require(codes.shape() == shape, "codes of shape {} for weight '{}' of shape {}", to_string(codes.shape()), g[weight].name, to_string(shape));
  const std::string name = g[weight].name;
  std::vector<ValueId> inputs{g.add_constant(codes, name + "_q"), g.add_constant(scales, name + "_scale")};
  if (zeros) inputs.push_back(g.add_constant(*zeros, name + "_zero"));
  Attributes attributes{{"axis", int64_t{axis}}};
  if (group) attributes["block_size"] = group;
  take_place(g, weight, g.add("DequantizeLinear", std::move(inputs), std::move(attributes)));
}

void store_as_codebook(Graph& g, ValueId weight, const Tensor& indices, const Tensor& codebooks, int bits, int axis) {
  const Shape shape = weight_shape(g, weight);
  const std::string name = g[weight].name;
  require(indices.shape() == shape && bits >= 1 && bits <= 4, "indices of shape {} and {} bits for weight '{}' of shape {}", to_string(indices.shape()), bits,
          name, to_string(shape));
  const int64_t entries = codebooks.shape().back();
  for (int64_t i = 0; i < indices.size(); ++i) require(indices.get_int(i) < entries, "index {} into a codebook of {}", indices.get_int(i), entries);
  const ValueId book = g.add_constant(codebooks, name + "_codebook");
  if (codebooks.rank() == 1) return take_place(g, weight, g.add("Gather", {book, unpack_indices(g, indices, bits, shape, name)}, {{"axis", int64_t{0}}}));
  const int64_t at = normalize_axis(axis, static_cast<int64_t>(shape.size())), rows = shape[at];
  require(codebooks.dim(0) == rows, "{} codebooks for the {} entries of axis {}", codebooks.dim(0), rows, at);
  // The codes with `axis` first; `back` undoes it.
  Ints order{at}, back(shape.size());
  for (int64_t i = 0; i < static_cast<int64_t>(shape.size()); ++i)
    if (i != at) order.push_back(i);
  Shape moved;
  for (size_t i = 0; i < order.size(); ++i) {
    moved.push_back(shape[order[i]]);
    back[order[i]] = static_cast<int64_t>(i);
  }
  const int64_t rest = rows ? indices.size() / rows : 0;
  ValueId made = g.add("GatherElements", {book, unpack_indices(g, at == 0 ? indices : transpose(indices, order), bits, {rows, rest}, name)}, {{"axis", int64_t{1}}});
  if (moved.size() != 2) made = g.add("Reshape", {made, g.add_constant(Tensor::of_i64(moved))});
  if (at != 0) made = g.add("Transpose", {made}, {{"perm", back}});
  take_place(g, weight, made);
}

void store_as_signs(Graph& g, ValueId weight, const Tensor& signs, const Tensor& alphas, int axis) {
  const int64_t rows = alphas.size();
  Tensor books(DType::kF32, rows == 1 ? Shape{2} : Shape{rows, 2});
  for (int64_t i = 0; i < rows; ++i) {
    books.set(2 * i, -alphas.get(i));
    books.set(2 * i + 1, alphas.get(i));
  }
  store_as_codebook(g, weight, signs, books, 1, axis);
}

namespace {

const Node* maker(const Graph& g, ValueId v, std::string_view op, std::string_view domain = "") {
  if (!v || !g[v].producer) return nullptr;
  const Node& n = g[g[v].producer];
  return !n.dead && n.op->name == op && n.op->domain == domain ? &n : nullptr;
}

bool constant(const Graph& g, ValueId v) { return v && g[v].is_constant() && g[v].constant.has_elements(); }

// The codes that unpack_indices() stands for, and their bits.
std::optional<std::pair<Tensor, int>> indices_of(const Graph& g, ValueId v, bool elements) {
  const Node* cast = maker(g, v, "Cast");
  if (!cast || (g[v].dtype != DType::kI32 && g[v].dtype != DType::kI64)) return std::nullopt;
  auto plane = [&](ValueId packed, int* bits) -> std::optional<Tensor> {
    const Node* n = maker(g, packed, "UnpackBits", kLatheDomain);
    if (!n || !constant(g, n->inputs[0])) return std::nullopt;
    *bits = static_cast<int>(n->get_int("bits"));
    const Tensor& from = g[n->inputs[0]].constant;
    Tensor codes(DType::kU8, elements ? n->get_ints("shape") : Shape{0});
    const int64_t in_byte = 8 / *bits;
    const auto* bytes = from.data<uint8_t>();
    for (int64_t i = 0; i < codes.size(); ++i) codes.data<uint8_t>()[i] = static_cast<uint8_t>(bytes[i / in_byte] >> i % in_byte * *bits & ((1 << *bits) - 1));
    return codes;
  };
  int bits = 0, third_bits = 0;
  if (auto codes = plane(cast->inputs[0], &bits)) return std::pair{*codes, bits};
  const Node* both = maker(g, cast->inputs[0], "BitwiseOr");
  const Node* shift = both ? maker(g, both->inputs[1], "BitShift") : nullptr;
  if (!shift || shift->get_string("direction") != "LEFT" || !constant(g, shift->inputs[1])) return std::nullopt;
  if (g[shift->inputs[1]].constant.size() != 1 || g[shift->inputs[1]].constant.get_int(0) != 2) return std::nullopt;
  auto low = plane(both->inputs[0], &bits), high = plane(shift->inputs[0], &third_bits);
  if (!low || !high || bits != 2 || third_bits != 1 || low->shape() != high->shape()) return std::nullopt;
  for (int64_t i = 0; i < low->size(); ++i) low->data<uint8_t>()[i] |= static_cast<uint8_t>(high->data<uint8_t>()[i] << 2);
  return std::pair{*low, 3};
}

// Reshape and Transpose between the product and what makes its weights, outermost first.
std::vector<const Node*> moves_above(const Graph& g, ValueId* v) {
  std::vector<const Node*> moves;
  for (int i = 0; i < 4; ++i) {
    const Node* n = maker(g, *v, "Transpose");
    if (!n) n = maker(g, *v, "Reshape");
    if (!n || !g[*v].shape || !is_static(*g[*v].shape) || !g[n->inputs[0]].shape || !is_static(*g[n->inputs[0]].shape)) break;
    moves.push_back(n);
    *v = n->inputs[0];
  }
  return moves;
}

Tensor moved(const Graph& g, Tensor t, const std::vector<const Node*>& moves) {
  for (size_t i = moves.size(); i-- > 0;) {
    const Node& n = *moves[i];
    if (n.op->name == "Reshape") {
      t = t.reshaped(*g[n.outputs[0]].shape);
      continue;
    }
    Ints perm = n.get_ints("perm");
    if (perm.empty())
      for (int64_t k = t.rank(); k-- > 0;) perm.push_back(k);
    t = transpose(t, perm);
  }
  return t;
}

// [first axis of `order`, the others].
Tensor as_rows(const Tensor& t, const Ints& order) {
  const Tensor turned = std::is_sorted(order.begin(), order.end()) ? t : transpose(t, order);
  return turned.reshaped({turned.dim(0), turned.dim(0) ? turned.size() / turned.dim(0) : 0});
}

bool finite(const Tensor& t) {
  for (int64_t i = 0; i < t.size(); ++i)
    if (!std::isfinite(t.get(i))) return false;
  return true;
}

std::optional<CodedWeights> by_codebook(const Graph& g, ValueId v, const Ints& order) {
  const std::vector<const Node*> moves = moves_above(g, &v);
  const Node* n = maker(g, v, "Gather");
  const bool each = !n;
  if (each) n = maker(g, v, "GatherElements");
  if (!n || !constant(g, n->inputs[0]) || g[v].dtype != DType::kF32) return std::nullopt;
  const Tensor& book = g[n->inputs[0]].constant;
  if (book.rank() != (each ? 2 : 1) || normalize_axis(n->get_int("axis"), book.rank()) != book.rank() - 1) return std::nullopt;
  const int64_t entries = book.shape().back();
  if (entries < 1 || entries > 16 || !finite(book)) return std::nullopt;
  auto indices = indices_of(g, n->inputs[1], true);
  if (!indices) return std::nullopt;
  const Tensor& codes = indices->first;
  for (int64_t i = 0; i < codes.size(); ++i)
    if (codes.data<uint8_t>()[i] >= entries) return std::nullopt;
  CodedWeights w;
  w.bits = indices->second;
  const Tensor whole = moved(g, codes, moves);
  if (whole.rank() != static_cast<int64_t>(order.size())) return std::nullopt;
  w.codes = as_rows(whole, order);
  const int64_t rows = w.codes.dim(0);
  if (!each) {
    w.codebook = book.reshaped({1, entries});
    return w;
  }
  // Which codebook each element has: it must be that of its row.
  if (codes.rank() != 2 || codes.dim(0) != book.dim(0)) return std::nullopt;
  Tensor owner(DType::kI32, codes.shape());
  for (int64_t i = 0; i < owner.size(); ++i) owner.data<int32_t>()[i] = static_cast<int32_t>(i / std::max<int64_t>(codes.dim(1), 1));
  owner = as_rows(moved(g, owner, moves), order);
  if (rows == 0 || owner.dim(1) == 0) return std::nullopt;
  w.codebook = Tensor(DType::kF32, {rows, entries});
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t* row = owner.data<int32_t>() + r * owner.dim(1);
    if (std::any_of(row, row + owner.dim(1), [&](int32_t k) { return k != row[0]; })) return std::nullopt;
    for (int64_t e = 0; e < entries; ++e) w.codebook.set(r * entries + e, book.get(row[0] * entries + e));
  }
  return w;
}

// Where groups lie as they stand in the weight, without a look at each element: one scale for all or for each row, or
// groups along the axis that is the innermost of a row.
bool plain_groups(const Node& n, const Tensor& codes, const Tensor& scales, const Tensor* zeros, const Ints& order, CodedWeights& w) {
  if (codes.rank() != static_cast<int64_t>(order.size()) || (zeros && zeros->size() != scales.size())) return false;
  const int64_t block = n.get_int("block_size"), axis = normalize_axis(n.get_int("axis"), codes.rank()), size = codes.dim(axis);
  const int64_t rows = codes.dim(order[0]), rest = codes.size() / rows;
  if (block == 0 && (scales.size() == 1 || axis == order[0])) {
    w.group = rest;
    w.scales = Tensor(DType::kF32, {rows, 1});
    if (zeros) w.zeros = Tensor(codes.dtype(), {rows, 1});
    for (int64_t r = 0; r < rows; ++r) {
      w.scales.set(r, scales.get(scales.size() == 1 ? 0 : r));
      if (zeros) w.zeros.set_int(r, zeros->get_int(zeros->size() == 1 ? 0 : r));
    }
  } else if (block > 0 && order.size() > 1 && axis == order.back() && (size % block == 0 || rest == size)) {
    w.group = std::min(block, rest);
    w.scales = as_rows(scales, order);
    if (zeros) w.zeros = as_rows(*zeros, order);
  } else {
    return false;
  }
  w.bits = bits_of(codes.dtype());
  w.codes = as_rows(codes, order);
  return true;
}

std::optional<CodedWeights> by_groups(const Graph& g, ValueId v, const Ints& order) {
  const std::vector<const Node*> moves = moves_above(g, &v);
  const Node* n = maker(g, v, "DequantizeLinear");
  if (!n || g[v].dtype != DType::kF32 || !constant(g, n->inputs[0]) || !constant(g, n->inputs[1]) || g[n->inputs[1]].dtype != DType::kF32) return std::nullopt;
  const Tensor &codes = g[n->inputs[0]].constant, &scales = g[n->inputs[1]].constant;
  const DType type = codes.dtype();
  if (type != DType::kI4 && type != DType::kU4 && type != DType::kI8 && type != DType::kU8) return std::nullopt;
  const bool has_zeros = n->inputs.size() > 2 && n->inputs[2];
  if ((has_zeros && !constant(g, n->inputs[2])) || !finite(scales) || codes.size() == 0) return std::nullopt;
  CodedWeights w;
  if (moves.empty() && plain_groups(*n, codes, scales, has_zeros ? &g[n->inputs[2]].constant : nullptr, order, w)) return w;
  // The scale of each element, by its number; where the weight is turned, they turn with it.
  const int64_t block = n->get_int("block_size"), axis = normalize_axis(n->get_int("axis"), codes.rank());
  const int64_t size = codes.dim(axis), inner = product(codes.shape(), static_cast<size_t>(axis) + 1, codes.shape().size());
  const int64_t blocks = block ? scales.dim(axis) : 0;
  if (scales.size() > kMaxDimension) return std::nullopt;
  Tensor number(DType::kI32, codes.shape());
  auto* numbers = number.data<int32_t>();
  for (int64_t i = 0; i < number.size(); ++i) {
    const int64_t along = i / inner % size;
    numbers[i] = static_cast<int32_t>(block ? (i / (inner * size) * blocks + along / block) * inner + i % inner : scales.size() == 1 ? 0 : along);
  }
  const Tensor whole = moved(g, codes, moves);
  if (whole.rank() != static_cast<int64_t>(order.size())) return std::nullopt;
  w.bits = bits_of(type);
  w.codes = as_rows(whole, order);
  number = as_rows(moved(g, number, moves), order);
  const int64_t rows = w.codes.dim(0), rest = w.codes.dim(1);
  // Groups: the runs of one number in the first row, which all rows must share.
  const auto* first = number.data<int32_t>();
  w.group = 1;
  while (w.group < rest && first[w.group] == first[0]) ++w.group;
  const int64_t groups = (rest + w.group - 1) / w.group;
  w.scales = Tensor(DType::kF32, {rows, groups});
  if (has_zeros) w.zeros = Tensor(type, {rows, groups});
  const Tensor* zeros = has_zeros ? &g[n->inputs[2]].constant : nullptr;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t k = 0; k < groups; ++k) {
      const int32_t* begin = first + r * rest + k * w.group;
      const int32_t* end = first + r * rest + std::min(rest, (k + 1) * w.group);
      if (std::any_of(begin, end, [&](int32_t i) { return i != *begin; })) return std::nullopt;
      w.scales.set(r * groups + k, scales.get(*begin));
      if (zeros) w.zeros.set_int(r * groups + k, zeros->get_int(zeros->size() == 1 ? 0 : *begin));
    }
  return w;
}

}  // namespace

bool is_coded(const Graph& g, ValueId v) {
  moves_above(g, &v);
  if (const Node* n = maker(g, v, "DequantizeLinear")) return constant(g, n->inputs[0]) && constant(g, n->inputs[1]);
  const Node* n = maker(g, v, "Gather");
  if (!n) n = maker(g, v, "GatherElements");
  return n && constant(g, n->inputs[0]) && indices_of(g, n->inputs[1], false).has_value();
}

std::optional<CodedWeights> coded_weights_of(const Graph& g, ValueId v, const Ints& order) {
  if (!g[v].shape || g[v].shape->size() != order.size() || !is_static(*g[v].shape) || element_count(*g[v].shape) == 0) return std::nullopt;
  auto w = by_codebook(g, v, order);
  return w ? w : by_groups(g, v, order);
}

}  // namespace lathe
