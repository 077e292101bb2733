#include "targets/mcu/layers.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "graph/ops/attention.h"
#include "kernels/fixed_point.h"
#include "kernels/requantize.h"
#include "targets/mcu/c_text.h"
#include "targets/mcu/weights.h"
#include "transform/quantized.h"

namespace lathe::mcu {
namespace {

const char* code_name(DType type) { return type == DType::kI8 ? "s8" : type == DType::kU8 ? "u8" : type == DType::kF32 ? "f32" : "s32"; }

struct Writer : LayerText {
  const McuProgram& p;
  std::string name;
  std::set<std::string> form_names = {};
  std::map<std::string, std::string> arrays = {};  // contents → name, so that equal tables are there once

  int64_t outside_offset = 0;  // in the outside input: where the step that is being written begins
  bool is_outside(int t) const {
    while (p.tensors[t].view_of >= 0) t = p.tensors[t].view_of;
    return p.tensors[t].outside;
  }

  std::string address(int tensor, int64_t extra = 0) const {
    return mcu::address(p.tensors[tensor], extra);
  }
  std::string input_address(const McuStep& s, size_t i, int64_t extra = 0) {
    const int t = s.inputs[i];
    if (is_outside(t)) {
      outside_offset = extra;
      return "0";  // known when it runs
    }
    if (!p.tensors[t].constant.defined()) return address(t, extra);
    const Tensor& c = p.tensors[t].constant;
    std::vector<uint8_t> bytes(c.data<uint8_t>(), c.data<uint8_t>() + c.size());
    const std::string array = bytes_array(fmt::format("constant_{}", t), bytes);
    return extra ? fmt::format("{} + {}", array, extra) : array;
  }

  void add_array(const std::string& type, const std::string& array, size_t count, int64_t bytes, const std::string& contents) {
    weights_h += fmt::format("extern const {} {}[{}];\n", type, array, count);
    weights_c += fmt::format("const {} {}[{}] = {{{}}};\n", type, array, count, contents);
    weight_bytes += bytes;
  }
  // The name of an array of these elements: one that is there already, or a new one.
  std::string shared_array(const std::string& type, const std::string& stem, size_t count, size_t element_bytes, const std::string& contents) {
    const auto [at, added] = arrays.emplace(type + contents, fmt::format("{}_{}", name, stem));
    if (added) add_array(type, at->second, count, static_cast<int64_t>(count * element_bytes), contents);
    return at->second;
  }
  std::string bytes_array(const std::string& stem, const std::vector<uint8_t>& bytes) {
    return shared_array("uint8_t", stem, bytes.size(), sizeof(uint8_t), array_of(bytes, 24, [](uint8_t x) { return std::to_string(x); }));
  }
  std::string floats_array(const std::string& stem, const std::vector<float>& values) {
    return shared_array("float", stem, values.size(), sizeof(float), array_of(values, 6, exact));
  }

  void form(const std::string& form_name, const std::string& header, const std::string& structure, const std::string& body) {
    headers.insert(header);
    if (form_names.insert(form_name).second) forms += fmt::format("static void {}(const struct {} *l) {{ {} }}\n", form_name, structure, body);
  }

  // What a product's sums become, as flags of its form and as part of its name.
  static std::pair<std::string, std::string> output_form(const Node& n, const PackedProduct& packed, DType y) {
    const Requantize out = Requantize::of(n);
    std::string flags, text;
    if (y == DType::kF32 && out.type == DType::kF32) {
      flags = "OUT_FLOAT", text = "f32";
    } else if (out.type == DType::kI32) {
      flags = "OUT_SUMS", text = "s32";
    } else {
      const Requantize all = Requantize::all(out.type, out.zero);
      flags = out.type == DType::kI8 ? "OUT_SIGNED" : "0", text = code_name(out.type);
      if (packed.wide || out.low != all.low || out.high != all.high) flags += " | OUT_LIMITS", text += "_limits";
      if (!packed.table.empty()) flags += " | OUT_TABLE", text += "_table";
    }
    if (packed.wide_weights) flags += packed.depthwise ? " | WIDE" : " | OFFSETS", text += packed.depthwise ? "_wide" : "_offsets";
    return {flags, text};
  }

  static std::string window_text(const Node& n, const Shape& w) {
    const auto &s = n.get_ints("strides"), &d = n.get_ints("dilations");
    std::string text = fmt::format("{}x{}", w[2], w[3]);
    if (s[0] != 1 || s[1] != 1) text += s[0] == s[1] ? fmt::format("_stride{}", s[0]) : fmt::format("_stride{}x{}", s[0], s[1]);
    if (d[0] != 1 || d[1] != 1) text += fmt::format("_dilation{}x{}", d[0], d[1]);
    return text;
  }

  // The initializer of a layer's constants; returns also the name of its function and its structure.
  struct Layer {
    std::string function = {}, structure = {}, fields = {};
  };

  std::string product_arrays(const std::string& stem, const PackedProduct& packed) {
    std::string text = fmt::format(".parameters = {}", shared_array("uint32_t", stem + "_parameters", packed.parameters.size(), sizeof(uint32_t),
                                                                    array_of(packed.parameters, 10, [](uint32_t x) { return fmt::format("{:#010x}u", x); })));
    if (!packed.table.empty()) text += fmt::format(", .table = {}", bytes_array(stem + "_table", packed.table));
    return text;
  }

  static std::string limits_text(const Requantize& out) { return fmt::format(".y_zero = {}, .low = {}, .high = {}", out.zero, out.low, out.high); }
  // How scores become weights, and what those mix becomes codes.
  static std::string score_text(const Node& n) {
    const ScoreScale scale = ScoreScale::of(static_cast<double>(n.get_float("score_unit")));
    return fmt::format(".unit = {}, .unit_shift = {}, .least = {}, .ratio = {}LL", scale.unit.mantissa, scale.unit.exponent, scale.least, n.get_int("value_ratio"));
  }
  std::string codes_fields(const Node& n) const {
    const Requantize out = Requantize::of(n);
    return fmt::format(".x_zero = {}, {}", n.get_int("x_zero_point"), limits_text(out));
  }

  Layer dense(const std::string& stem, const McuStep& s) {
    const Node& n = p.graph[s.node];
    const PackedProduct packed = pack_product(p, s);
    const McuTensor &x = p.tensors[s.inputs[0]], &y = p.tensors[s.output];
    const bool is_signed = x.type == DType::kI8, matrix = n.op->name == "IntegerMatMul";
    const Shape& w = p.graph[n.inputs[1]].constant.shape();
    const auto [flags, to] = output_form(n, packed, y.type);
    const int64_t group = matrix ? 1 : n.get_int("group");
    const int64_t channels = matrix ? w[0] : w[1], outputs = matrix ? w[1] : w[0] / group;
    const bool words = channels % 4 == 0;
    Layer layer{.structure = "dense"};
    int64_t height = 1, width = 1, out_height = 1, out_width = 1;
    if (matrix) {
      width = out_width = element_count(y.shape) / outputs;
    } else {
      height = x.shape[1], width = x.shape[2], out_height = y.shape[1], out_width = y.shape[2];
    }
    const std::string rest = fmt::format("{}_to_{}{}", code_name(x.type), to, words ? "_words" : "");
    if (s.kind == StepKind::kRow) {
      layer.function = "multiply_row_" + rest;
      form(layer.function, "dense.h", "dense", fmt::format("multiply_row(l, {}, {}, {});", int{is_signed}, int{words}, flags));
    } else if (s.kind == StepKind::kPixels) {
      layer.function = "convolve_1x1_" + rest;
      form(layer.function, "dense.h", "dense", fmt::format("convolve_pixels(l, {}, {}, {});", int{is_signed}, int{words}, flags));
    } else {
      const auto &st = n.get_ints("strides"), &di = n.get_ints("dilations");
      const int64_t constant_channels = words || channels > 4 ? 0 : channels;
      layer.function =
          fmt::format("convolve_{}{}_{}", window_text(n, w), constant_channels ? fmt::format("_of_{}", constant_channels) : "", rest);
      form(layer.function, "dense.h", "dense",
           fmt::format("convolve(l, (struct dense_form){{{}, {}, {}, {}, {}, {}, {}, {}, {}}}, {});", w[2], w[3], st[0], st[1], di[0],
                       di[1], constant_channels, int{is_signed}, flags, int{words}));
    }
    layer.fields = fmt::format("  .x = {}, .y = {}, .columns = (uint32_t *)(arena + {}),\n  {},\n", input_address(s, 0, s.group * channels),
                               address(s.output, s.group * outputs * static_cast<int64_t>(size_of(y.type))), s.scratch_offset,
                               product_arrays(stem, packed));
    layer.fields += fmt::format(
        "  .height = {}, .width = {}, .channels = {}, .x_pixel = {},\n  .out_height = {}, .out_width = {}, .outputs = {}, .y_pixel = {},\n",
        height, width, channels, channels * group, out_height, out_width, outputs, outputs * group);
    if (s.kind == StepKind::kConvolve)
      layer.fields += fmt::format("  .pad_top = {}, .pad_left = {},\n", n.get_ints("pads")[0], n.get_ints("pads")[1]);
    layer.fields += fmt::format("  {}{}", codes_fields(n), s.in_place >= 0 && outputs > channels ? ", .backwards = 1" : "");
    return layer;
  }

  Layer depthwise(const std::string& stem, const McuStep& s) {
    const Node& n = p.graph[s.node];
    const PackedProduct packed = pack_product(p, s);
    const McuTensor &x = p.tensors[s.inputs[0]], &y = p.tensors[s.output];
    const Shape& w = p.graph[n.inputs[1]].constant.shape();
    const auto [flags, to] = output_form(n, packed, y.type);
    const auto &st = n.get_ints("strides"), &di = n.get_ints("dilations"), &pads = n.get_ints("pads");
    Layer layer{.structure = "depthwise"};
    layer.function = fmt::format("depthwise_{}_{}_to_{}", window_text(n, w), code_name(x.type), to);
    form(layer.function, "depthwise.h", "depthwise",
         fmt::format("convolve_channels(l, (struct depthwise_form){{{}, {}, {}, {}, {}, {}, {}, {}}});", w[2], w[3], st[0], st[1], di[0],
                     di[1], int{x.type == DType::kI8}, flags));
    const int64_t rows = std::max((y.shape[1] - 1) * st[0] + (w[2] - 1) * di[0] + 1, x.shape[1] + pads[0]);
    const int64_t columns = std::max((y.shape[2] - 1) * st[1] + (w[3] - 1) * di[1] + 1, x.shape[2] + pads[1]);
    layer.fields = fmt::format("  .x = {}, .y = {}, .plane = (int16_t *)(arena + {}),\n  {},\n", input_address(s, 0), address(s.output),
                               s.scratch_offset, product_arrays(stem, packed));
    layer.fields += fmt::format(
        "  .height = {}, .width = {}, .channels = {}, .multiplier = {},\n  .out_height = {}, .out_width = {}, .plane_height = {}, "
        ".plane_width = {},\n",
        x.shape[1], x.shape[2], x.shape[3], y.shape[3] / x.shape[3], y.shape[1], y.shape[2], rows, columns);
    layer.fields += fmt::format("  .pad_top = {}, .pad_left = {},\n  {}", pads[0], pads[1], codes_fields(n));
    return layer;
  }

  Layer binary(const McuStep& s) {
    const Node& n = p.graph[s.node];
    const bool add = s.kind == StepKind::kAdd;
    const McuTensor& y = p.tensors[s.output];
    const Shape& ys = y.shape;
    const bool swapped = p.tensors[s.inputs[0]].shape != ys;  // the operand that repeats comes second
    const size_t full = swapped ? 1 : 0, other = 1 - full;
    // [outer, 1, inner] of [outer, middle, inner].
    Shape repeat = p.tensors[s.inputs[other]].shape;
    repeat.insert(repeat.begin(), ys.size() - repeat.size(), 1);
    int64_t outer = 1, middle = 1, inner = 1;
    size_t i = 0;
    while (i < ys.size() && repeat[i] == ys[i]) outer *= ys[i++];
    while (i < ys.size() && repeat[i] == 1) middle *= ys[i++];
    for (; i < ys.size(); ++i) {
      if (repeat[i] != ys[i])
        fail(ErrorKind::kUnsupported, "node '{}' ({}): its operand of shape {} repeats along axes that stand apart", n.name, n.op->name,
             to_string(repeat));
      inner *= ys[i];
    }
    if (middle == 1) inner *= outer, outer = 1;
    struct Operand {
      float scale;
      int zero, flip;
      bool is_signed;
    } operand[2];
    for (int k = 0; k < 2; ++k) {
      const std::string side = k == 0 ? "a" : "b";
      const bool is_signed = p.tensors[s.inputs[k]].type == DType::kI8;
      operand[k] = {n.get_float(side + "_scale"), static_cast<int>(n.get_int(side + "_zero_point")), add && is_signed ? 128 : 0, is_signed};
    }
    Requantize out = Requantize::of(n);
    const float y_scale = n.get_float("y_scale");
    Layer layer{.structure = "binary"};
    layer.fields = fmt::format("  .a = {}, .b = {}, .y = {},\n  .outer = {}, .middle = {}, .inner = {},\n", input_address(s, full),
                               input_address(s, other), address(s.output), outer, middle, inner);
    if (add) {
      const int shift = out.type == DType::kI8 ? 128 : 0;
      const float ra = operand[0].scale / y_scale, rb = operand[1].scale / y_scale;
      const float constant = sum_constant(ra, operand[0].zero + operand[0].flip, rb, operand[1].zero + operand[1].flip, out.zero + shift);
      const float ratio[2] = {ra, rb};
      layer.fields +=
          fmt::format("  .a_ratio = {}, .b_ratio = {}, .constant = {},\n  .a_flip = {}, .b_flip = {}, .y_flip = {}, .low = {}, .high = {}",
                      exact(ratio[full]), exact(ratio[other]), exact(constant), operand[full].flip, operand[other].flip, shift,
                      out.low + shift, out.high + shift);
      layer.function = swapped ? "add_codes_swapped" : "add_codes";
    } else {
      layer.fields += fmt::format(
          "  .a_ratio = {}, .constant = {},\n  .a_zero = {}, .b_zero = {}, .a_signed = {}, .b_signed = {}, .low = {}, .high = {}",
          exact(operand[0].scale * operand[1].scale / y_scale), exact(static_cast<float>(out.zero)), operand[full].zero,
          operand[other].zero, int{operand[full].is_signed}, int{operand[other].is_signed}, out.low, out.high);
      layer.function = "multiply_codes";
    }
    headers.insert("elementwise.h");
    return layer;
  }

  Layer pool(const McuStep& s) {
    const Node& n = p.graph[s.node];
    const McuTensor &x = p.tensors[s.inputs[0]], &y = p.tensors[s.output];
    const auto &k = n.get_ints("kernel_shape"), &st = n.get_ints("strides"), &pads = n.get_ints("pads");
    Layer layer{.structure = "pool"};
    layer.fields =
        fmt::format("  .x = {}, .y = {},\n  .images = {}, .height = {}, .width = {}, .channels = {}, .out_height = {}, .out_width = {},\n",
                    input_address(s, 0), address(s.output), x.shape[0], x.shape[1], x.shape[2], x.shape[3], y.shape[1], y.shape[2]);
    layer.fields +=
        fmt::format("  .kernel_h = {}, .kernel_w = {}, .stride_h = {}, .stride_w = {}, .pad_top = {}, .pad_left = {}, .x_signed = {}", k[0],
                    k[1], st[0], st[1], pads[0], pads[1], int{x.type == DType::kI8});
    const std::string& kind = n.get_string("kind");
    if (kind != "Max")
      layer.fields += fmt::format(", .include_pad = {},\n  {}, .x_scale = {}, .y_scale = {}", int{n.get_int("count_include_pad") != 0},
                                  codes_fields(n), exact(n.get_float("x_scale")), exact(n.get_float("y_scale")));
    layer.function = kind == "Max" ? "pool_largest" : kind == "Mean" ? "pool_mean" : "pool_average";
    headers.insert("pooling.h");
    return layer;
  }

  Layer softmax(const std::string& stem, const McuStep& s) {
    const Node& n = p.graph[s.node];
    const McuTensor& x = p.tensors[s.inputs[0]];
    const double scale = n.get_float("x_scale");
    std::vector<float> powers(256);
    for (int i = 0; i < 256; ++i) powers[i] = static_cast<float>(std::exp(-i * scale));
    Layer layer{.structure = "softmax"};
    layer.fields = fmt::format(
        "  .x = {}, .y = {}, .powers = {},\n  .rows = {}, .width = {}, .x_flip = {}, .inverse = {}, {}",
        input_address(s, 0), address(s.output), floats_array(stem + "_powers", powers),
        element_count(x.shape) / x.shape.back(), x.shape.back(), x.type == DType::kI8 ? 128 : 0, exact(1.0f / n.get_float("y_scale")),
        limits_text(Requantize::of(n)));
    layer.function = "softmax_codes";
    headers.insert("elementwise.h");
    return layer;
  }

  // Whole numbers that a layer reads, of a type of C.
  std::string numbers_array(const std::string& stem, const Tensor& values, const char* type, const char* suffix) {
    std::vector<int64_t> list(static_cast<size_t>(values.size()));
    for (int64_t i = 0; i < values.size(); ++i) list[static_cast<size_t>(i)] = values.get_int(i);
    return shared_array(type, stem, list.size(), size_of(values.dtype()), array_of(list, 8, [&](int64_t x) { return fmt::format("{}{}", x, suffix); }));
  }

  Layer norm(const std::string& stem, const McuStep& s) {
    const Node& n = p.graph[s.node];
    const McuTensor& x = p.tensors[s.inputs[0]];
    const Tensor &weight = p.graph[n.inputs[1]].constant, &bias = p.graph[n.inputs[2]].constant;
    Layer layer{.function = "norm_rows", .structure = "norm"};
    layer.fields = fmt::format("  .x = {}, .y = {},\n  .weight = {}, .bias = {},\n", input_address(s, 0), address(s.output),
                               numbers_array(stem + "_weight", weight, "int32_t", ""), numbers_array(stem + "_bias", bias, "int64_t", "LL"));
    layer.fields += fmt::format("  .rows = {}, .width = {}, .is_signed = {}, .epsilon = {}LL,\n  {}", element_count(x.shape) / x.shape.back(),
                                x.shape.back(), int{x.type == DType::kI8}, n.get_int("epsilon"), limits_text(Requantize::of(n)));
    headers.insert("tokens.h");
    return layer;
  }

  Layer attention(const McuStep& s) {
    const Node& n = p.graph[s.node];
    const ops::AttentionSizes sizes = ops::fused_attention_sizes(n);
    Layer layer{.function = "attend", .structure = "attention"};
    const char* letters[] = {"q", "k", "v"};
    std::string places, steps, zeros;
    for (size_t i = 0; i < 3; ++i) {
      const ops::HeadView view = ops::head_view(n, fmt::format("{}_view", letters[i]));
      places += fmt::format(".{} = {}, ", letters[i], input_address(s, i, view.offset));
      steps += fmt::format(".{0}_head = {1}, .{0}_row = {2}, ", letters[i], view.head, view.row);
      zeros += fmt::format(".{}_zero = {}, ", letters[i], n.get_int(fmt::format("{}_zero_point", letters[i])));
    }
    const ops::HeadView y = ops::head_view(n, "y_view");
    layer.fields = fmt::format("  {}.y = {}, .scores = (int32_t *)(arena + {}),\n", places, address(s.output), s.scratch_offset);
    layer.fields += fmt::format("  .heads = {}, .share = {}, .queries = {}, .keys = {}, .size = {}, .value_size = {},\n", sizes.query_heads,
                                sizes.query_heads / sizes.kv_heads, sizes.queries, sizes.keys, sizes.head_size, sizes.value_size);
    layer.fields += fmt::format("  {}.y_head = {}, .y_row = {},\n  .is_signed = {}, {}\n", steps, y.head, y.row,
                                int{p.tensors[s.inputs[0]].type == DType::kI8}, zeros);
    layer.fields += fmt::format("  {},\n  {}", score_text(n), limits_text(Requantize::of(n)));
    headers.insert("tokens.h");
    return layer;
  }

  Layer moves(const std::string& stem, const McuStep& s) {
    headers.insert("elementwise.h");
    const McuTensor& y = p.tensors[s.output];
    if (s.kind == StepKind::kFill)
      return {"fill_block", "block",
              fmt::format("  .y = {}, .bytes = {}, .value = {}", address(s.output, s.rows.y_offset), s.rows.bytes, s.fill)};
    const std::string places = fmt::format("  .x = {}, .y = {},", input_address(s, 0, s.rows.x_offset), address(s.output, s.rows.y_offset));
    if (s.kind == StepKind::kCopyRows)
      return {"copy_rows", "rows",
              fmt::format("{} .rows = {}, .bytes = {}, .x_step = {}, .y_step = {}", places, s.rows.rows, s.rows.bytes, s.rows.x_step,
                          s.rows.y_step)};
    if (s.kind == StepKind::kLookUp) {
      const Tensor& t = p.graph[p.graph[s.node].inputs[1]].constant;
      const std::string entries = bytes_array(stem + "_table", {t.data<uint8_t>(), t.data<uint8_t>() + 256});
      return {"look_up", "lookup", fmt::format("{} .table = {}, .count = {}", places, entries, y.bytes())};
    }
    std::vector<int64_t> size(5 - s.sizes.size(), 1), step(5 - s.sizes.size(), 0);
    size.insert(size.end(), s.sizes.begin(), s.sizes.end());
    step.insert(step.end(), s.steps.begin(), s.steps.end());
    return {"move_axes", "moved", fmt::format("{} .size = {{{}}}, .step = {{{}}}", places, fmt::join(size, ", "), fmt::join(step, ", "))};
  }

  Layer layer_of(const std::string& stem, const McuStep& s) {
    switch (s.kind) {
      case StepKind::kConvolve:
      case StepKind::kPixels:
      case StepKind::kRow: return dense(stem, s);
      case StepKind::kDepthwise: return depthwise(stem, s);
      case StepKind::kAdd:
      case StepKind::kMultiply: return binary(s);
      case StepKind::kPool: return pool(s);
      case StepKind::kSoftmax: return softmax(stem, s);
      case StepKind::kNorm: return norm(stem, s);
      case StepKind::kAttention: return attention(s);
      case StepKind::kLookUp:
      case StepKind::kCopyRows:
      case StepKind::kFill:
      case StepKind::kMove: return moves(stem, s);
      case StepKind::kTokens:
      case StepKind::kHeads: break;
    }
    fail(ErrorKind::kInternal, "a step of unknown kind");
  }

  // Of a structure, what depends on how many rows there are.
  static std::string rows_of(const McuStep& one, int64_t width) {
    switch (one.kind) {
      case StepKind::kNorm: return " link.rows = rows;";
      case StepKind::kPixels: return " link.width = link.out_width = rows;";
      case StepKind::kAdd: return fmt::format(" link.inner = rows * {};", width);
      case StepKind::kLookUp: return fmt::format(" link.count = rows * {};", width);
      default: fail(ErrorKind::kInternal, "a step that does not go by rows");
    }
  }

  // What is done to a few rows: structures, and in `calls` the call of each for `rows` tokens from t on.
  std::string links(const std::string& stem, const McuStep& s, std::vector<std::string>& calls, std::vector<std::string>& called) {
    std::string text;
    for (size_t i = 0; i < s.inner.size(); ++i) {
      const McuStep& one = s.inner[i];
      const std::string own = fmt::format("{}_{}", stem, i);
      const Layer layer = layer_of(own, one);
      text += fmt::format("static const struct {} {} = {{\n{}}};\n", layer.structure, own, layer.fields);
      // Pointers into whole tensors go on by rows.
      std::string moves;
      const auto move = [&](const char* field, int t, bool untyped) {
        if (p.tensors[t].row_of < 0) return;
        const int64_t step = row_bytes(p.tensors[t]);
        moves += untyped ? fmt::format(" link.{0} = (uint8_t *)link.{0} + t * {1};", field, step)
                         : fmt::format(" link.{} += t * {};", field, step);
      };
      move(one.kind == StepKind::kAdd ? "a" : "x", one.inputs[0], false);
      if (one.inputs.size() > 1) move("b", one.inputs[1], false);
      move("y", one.output, one.kind == StepKind::kPixels);
      calls.push_back(fmt::format("{{ struct {} link = {};{}{} {}(&link); }}", layer.structure, own, moves, rows_of(one, p.tensors[one.output].shape[1]), layer.function));
      called.push_back(layer.function);
    }
    return text;
  }
  static int64_t row_bytes(const McuTensor& rows) { return rows.bytes() / rows.shape[0]; }

  // Two tokens at a time, and the last by itself where their number is odd.
  static std::string each_token(int64_t tokens, const std::string& indent) {
    return fmt::format("{0}for (int32_t t = 0; t < {1}; t += 2) {{\n{0}  const int32_t rows = t + 1 < {1} ? 2 : 1;\n", indent, tokens);
  }

  // One step that goes through the tokens.
  void emit_tokens(const std::string& stem, const McuStep& s) {
    std::vector<std::string> calls, called;
    layers += links(stem, s, calls, called);
    layers += fmt::format("static void run_{}(void) {{\n{}", stem, each_token(s.tokens, "  "));
    for (const std::string& call : calls) layers += "    " + call + "\n";
    layers += "  }\n}\n\n";
  }

  // One head after the other: keys and values of all tokens, then each token's query, scores and mixture.
  void emit_heads(const std::string& stem, const McuStep& s) {
    const Node& n = p.graph[s.node];
    const ops::AttentionSizes sizes = ops::fused_attention_sizes(n);
    std::vector<std::string> calls, called;
    layers += links(stem, s, calls, called);
    const size_t last = s.inner.size() - 1;
    const std::string product = fmt::format("{}_{}", stem, last);
    const int64_t channels = p.graph[p.graph[s.inner[last].node].inputs[1]].constant.dim(0);
    const int64_t pair = 4 + (channels + 3) / 4 * 2;  // words of parameters for two outputs
    const auto place = [&](size_t from_end) {
      return fmt::format("arena + {}", p.tensors[s.in_scratch[s.in_scratch.size() - from_end].first].offset);
    };
    const std::string query = place(4), keys = place(3), values = place(2), scores = place(1);
    const ops::HeadView q = ops::head_view(n, "q_view"), k = ops::head_view(n, "k_view"), v = ops::head_view(n, "v_view"),
                        y = ops::head_view(n, "y_view");
    const int is_signed = p.tensors[s.inner[last].output].type == DType::kI8;
    layers += fmt::format("static const struct attention {}_attend = {{\n  .q = {}, .k = {}, .v = {}, .y = {},\n  .scores = (int32_t *)({}),\n",
                          stem, query, keys, values, address(s.output), scores);
    layers += fmt::format("  .heads = 1, .share = 1, .keys = {0}, .size = {1}, .value_size = {2}, .q_row = {1}, .k_row = {1}, .v_row = {2}, .y_row = {3},\n",
                          sizes.keys, sizes.head_size, sizes.value_size, y.row);
    layers += fmt::format("  .is_signed = {}, .q_zero = {}, .k_zero = {}, .v_zero = {},\n", is_signed,
                          n.get_int("q_zero_point"), n.get_int("k_zero_point"), n.get_int("v_zero_point"));
    layers += fmt::format("  {}, {}}};\n", score_text(n), limits_text(Requantize::of(n)));
    // The outputs of one head stand together in the product's parameters.
    const auto part = [&](const ops::HeadView& view, int64_t size, const std::string& to) {
      return fmt::format("      product.parameters = {}.parameters + {} + h * {};\n      product.outputs = product.y_pixel = {};\n      product.y = {};\n      {}(&product);\n",
                         product, view.offset / 2 * pair, view.head / 2 * pair, size, to, called[last]);
    };
    const McuTensor& row = p.tensors[s.inner[last].inputs[0]];
    std::string begin;
    for (size_t i = 0; i < last; ++i) begin += "      " + calls[i] + "\n";
    begin += fmt::format("      struct dense product = {};{} product.width = product.out_width = rows;\n", product,
                         row.row_of >= 0 ? fmt::format(" product.x += t * {};", row_bytes(row)) : "");
    layers += fmt::format("static void run_{}(void) {{\n  for (int32_t h = 0; h < {}; ++h) {{\n{}{}", stem, sizes.query_heads, each_token(s.tokens, "    "), begin);
    layers += part(k, sizes.head_size, fmt::format("{} + t * {}", keys, sizes.head_size)) +
              part(v, sizes.value_size, fmt::format("{} + t * {}", values, sizes.value_size));
    layers += fmt::format("    }}\n{}{}", each_token(s.tokens, "    "), begin) + part(q, sizes.head_size, query);
    layers += fmt::format("      attend_some(&{0}_attend, rows, {0}_attend.y + h * {1} + t * {2});\n    }}\n  }}\n}}\n\n",
                          stem, y.head, y.row);
    headers.insert("tokens.h");
  }

  void emit_layers() {
    for (size_t i = 0; i < p.steps.size(); ++i) {
      const McuStep& s = p.steps[i];
      const std::string shapes =
          fmt::format("{} → {}", s.inputs.empty() ? "" : to_string(p.tensors[s.inputs[0]].shape), to_string(p.tensors[s.output].shape));
      weights_c += fmt::format("\n/* layer {}: {} */\n", i, comment(s.name));
      const int64_t before = weight_bytes;
      const std::string stem = fmt::format("layer_{:02}", i);
      const bool through = s.kind == StepKind::kTokens || s.kind == StepKind::kHeads;
      const Layer layer = through ? Layer{.function = s.kind == StepKind::kTokens ? "tokens" : "heads"} : layer_of(stem, s);
      layers +=
          fmt::format("/* layer {}: {}, {}{}\n * {} */\n", i, layer.function, shapes, s.in_place >= 0 ? ", in place" : "", comment(s.name));
      if (s.kind == StepKind::kTokens)
        emit_tokens(stem, s);
      else if (s.kind == StepKind::kHeads)
        emit_heads(stem, s);
      else
        layers += fmt::format("static const struct {0} layer_{1:02} = {{\n{2}}};\nstatic void run_layer_{1:02}(void) {{ {3} }}\n\n", layer.structure, i, layer.fields,
                              s.inputs.size() == 1 && is_outside(s.inputs[0])
                                  ? fmt::format("struct {0} layer = layer_{1:02}; layer.x = outside + {2}; {3}(&layer);", layer.structure, i, outside_offset, layer.function)
                                  : fmt::format("{}(&layer_{:02});", layer.function, i));
      functions.push_back(layer.function);
      table += fmt::format("    {{run_layer_{:02}, \"{}\"}},\n", i, layer.function);
      rows += fmt::format("| {} | {} | {} | {} | {} | {} | {} |\n", i, layer.function, comment(s.name), shapes, p.tensors[s.output].offset,
                          s.macs, weight_bytes - before);
    }
    const std::string empty = "\n/* layer ";  // layers without constants leave no comment behind
    for (size_t at = 0; (at = weights_c.find(empty, at)) != weights_c.npos;) {
      const size_t end = weights_c.find("*/\n", at) + 3;
      if (end >= weights_c.size() || weights_c.compare(end, empty.size(), empty) == 0)
        weights_c.erase(at, end - at);
      else
        at = end;
    }
  }
};

}  // namespace

LayerText write_layers(const McuProgram& program, const std::string& name) {
  Writer w{{}, program, name};
  w.emit_layers();
  LayerText text = std::move(w);
  return text;
}

}  // namespace lathe::mcu
