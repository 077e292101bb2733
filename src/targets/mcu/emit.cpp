#include "targets/mcu/emit.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/file.h"
#include "core/version.h"
#include "formats/npy.h"
#include "graph/ops/attention.h"
#include "kernels/fixed_point.h"
#include "kernels/requantize.h"
#include "mcu_sources.h"
#include "runtime/load.h"
#include "targets/mcu/weights.h"
#include "transform/quantized.h"

namespace lathe::mcu {
namespace {

namespace fs = std::filesystem;

// Both memories of QEMU's MPS2 boards.
constexpr int64_t kBoardBytes = int64_t{4} << 20;

// A float as C99 reads it back to the bit.
std::string exact(float value) {
  if (value == 0) return std::signbit(value) ? "-0.0f" : "0.0f";
  return fmt::format("{:a}f", value);
}

std::string shape_text(const Shape& shape) { return to_string(shape); }

std::string upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

// Safe inside a comment of C.
std::string comment(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 32 || c == '\\') c = ' ';
  for (size_t at; (at = text.find("*/")) != text.npos;) text[at] = '+';
  for (size_t at; (at = text.find("/*")) != text.npos;) text[at] = '+';
  return text.substr(0, 100);
}

template <class T, class Format>
std::string array_of(const std::vector<T>& values, size_t a_line, Format format) {
  std::string text;
  for (size_t i = 0; i < values.size(); ++i) {
    if (i % a_line == 0) text += "\n  ";
    fmt::format_to(std::back_inserter(text), "{}{}", format(values[i]),
                   i + 1 < values.size() ? (i % a_line + 1 == a_line ? "," : ", ") : "");
  }
  return text;
}

const char* code_name(DType type) { return type == DType::kI8 ? "s8" : type == DType::kU8 ? "u8" : type == DType::kF32 ? "f32" : "s32"; }

struct Emitter {
  const McuProgram& p;
  const Device& device;
  const FirmwareOptions& options;
  std::string name = options.name, NAME = upper(options.name);
  std::string weights_c = {}, weights_h = {}, layers = {}, table = {};
  std::map<std::string, std::string> forms = {};  // name → body
  std::vector<std::string> form_order = {};
  std::set<std::string> headers = {};
  std::vector<std::string> functions = {};  // by layer
  std::string rows = {};                    // of the read-me
  int64_t weight_bytes = 0;
  std::map<std::string, std::string> arrays = {};  // contents → name, so that equal tables are there once

  int64_t outside_offset = 0;  // in the outside input: where the step that is being written begins
  bool is_outside(int t) const {
    while (p.tensors[t].view_of >= 0) t = p.tensors[t].view_of;
    return p.tensors[t].outside;
  }

  std::string address(int tensor, int64_t extra = 0) const {
    const McuTensor& t = p.tensors[tensor];
    return fmt::format("arena + {}", t.offset + extra);
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
  std::string bytes_array(const std::string& stem, const std::vector<uint8_t>& bytes) {
    std::string contents = array_of(bytes, 24, [](uint8_t x) { return std::to_string(x); });
    auto [at, added] = arrays.emplace("u8" + contents, fmt::format("{}_{}", name, stem));
    if (added) add_array("uint8_t", at->second, bytes.size(), static_cast<int64_t>(bytes.size()), contents);
    return at->second;
  }
  std::string floats_array(const std::string& stem, const std::vector<float>& values) {
    std::string contents = array_of(values, 6, exact);
    auto [at, added] = arrays.emplace("f32" + contents, fmt::format("{}_{}", name, stem));
    if (added) add_array("float", at->second, values.size(), static_cast<int64_t>(values.size() * 4), contents);
    return at->second;
  }

  void form(const std::string& form_name, const std::string& header, const std::string& structure, const std::string& body) {
    headers.insert(header);
    if (!forms.emplace(form_name, fmt::format("static void {}(const struct {} *l) {{ {} }}\n", form_name, structure, body)).second) return;
    form_order.push_back(form_name);
  }

  // What a product's sums become, as flags of its form and as part of its name.
  static std::pair<std::string, std::string> output_form(const Node& n, const PackedProduct& packed, DType y) {
    const Requantize out = Requantize::of(n);
    if (y == DType::kF32 && out.type == DType::kF32) return {"OUT_FLOAT", "f32"};
    if (out.type == DType::kI32) return {"OUT_SUMS", "s32"};
    const Requantize all = Requantize::all(out.type, out.zero);
    std::string flags = out.type == DType::kI8 ? "OUT_SIGNED" : "0", text = code_name(out.type);
    if (packed.wide || out.low != all.low || out.high != all.high) flags += " | OUT_LIMITS", text += "_limits";
    if (!packed.table.empty()) flags += " | OUT_TABLE", text += "_table";
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
    int64_t weights = 0;
  };

  std::string product_arrays(const std::string& stem, const PackedProduct& packed) {
    const std::string parameters = fmt::format("{}_{}_parameters", name, stem);
    add_array("uint32_t", parameters, packed.parameters.size(), static_cast<int64_t>(packed.parameters.size() * 4),
              array_of(packed.parameters, 10, [](uint32_t x) { return fmt::format("{:#010x}u", x); }));
    std::string text = fmt::format(".parameters = {}", parameters);
    if (!packed.table.empty()) text += fmt::format(", .table = {}", bytes_array(stem + "_table", packed.table));
    return text;
  }

  std::string codes_fields(const Node& n) const {
    const Requantize out = Requantize::of(n);
    return fmt::format(".x_zero = {}, .y_zero = {}, .low = {}, .high = {}", n.get_int("x_zero_point"), out.zero, out.low, out.high);
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
    Layer layer{.structure = "dense", .weights = packed.bytes()};
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
    Layer layer{.structure = "depthwise", .weights = packed.bytes()};
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
    const Requantize out = Requantize::of(n);
    const double scale = n.get_float("x_scale");
    std::vector<float> powers(256);
    for (int i = 0; i < 256; ++i) powers[i] = static_cast<float>(std::exp(-i * scale));
    Layer layer{.structure = "softmax", .weights = 1024};
    layer.fields = fmt::format(
        "  .x = {}, .y = {}, .powers = {},\n  .rows = {}, .width = {}, .x_flip = {}, .inverse = {}, .y_zero = {}, .low = {}, .high = {}",
        input_address(s, 0), address(s.output), floats_array(stem + "_powers", powers),
        element_count(x.shape) / x.shape.back(), x.shape.back(), x.type == DType::kI8 ? 128 : 0, exact(1.0f / n.get_float("y_scale")),
        out.zero, out.low, out.high);
    layer.function = "softmax_codes";
    headers.insert("elementwise.h");
    return layer;
  }

  // Whole numbers that a layer reads, of a type of C.
  std::string numbers_array(const std::string& stem, const Tensor& values, const char* type, const char* suffix) {
    std::vector<int64_t> list(static_cast<size_t>(values.size()));
    for (int64_t i = 0; i < values.size(); ++i) list[static_cast<size_t>(i)] = values.get_int(i);
    std::string contents = array_of(list, 8, [&](int64_t x) { return fmt::format("{}{}", x, suffix); });
    auto [at, added] = arrays.emplace(type + contents, fmt::format("{}_{}", name, stem));
    if (added) add_array(type, at->second, list.size(), values.size() * static_cast<int64_t>(size_of(values.dtype())), contents);
    return at->second;
  }

  Layer norm(const std::string& stem, const McuStep& s) {
    const Node& n = p.graph[s.node];
    const McuTensor& x = p.tensors[s.inputs[0]];
    const Requantize out = Requantize::of(n);
    const Tensor &weight = p.graph[n.inputs[1]].constant, &bias = p.graph[n.inputs[2]].constant;
    Layer layer{.function = "norm_rows", .structure = "norm", .weights = static_cast<int64_t>(weight.bytes() + bias.bytes())};
    layer.fields = fmt::format("  .x = {}, .y = {},\n  .weight = {}, .bias = {},\n", input_address(s, 0), address(s.output),
                               numbers_array(stem + "_weight", weight, "int32_t", ""), numbers_array(stem + "_bias", bias, "int64_t", "LL"));
    layer.fields += fmt::format("  .rows = {}, .width = {}, .is_signed = {}, .epsilon = {}LL,\n  .y_zero = {}, .low = {}, .high = {}",
                                element_count(x.shape) / x.shape.back(), x.shape.back(), int{x.type == DType::kI8}, n.get_int("epsilon"),
                                out.zero, out.low, out.high);
    headers.insert("tokens.h");
    return layer;
  }

  Layer attention(const McuStep& s) {
    const Node& n = p.graph[s.node];
    const Requantize out = Requantize::of(n);
    const ops::AttentionSizes sizes = ops::fused_attention_sizes(n);
    const ScoreScale scale = ScoreScale::of(static_cast<double>(n.get_float("score_unit")));
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
    layer.fields += fmt::format("  .unit = {}, .unit_shift = {}, .least = {}, .ratio = {}LL,\n  .y_zero = {}, .low = {}, .high = {}", scale.unit.mantissa,
                                scale.unit.exponent, scale.least, n.get_int("value_ratio"), out.zero, out.low, out.high);
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
      return {"look_up", "lookup", fmt::format("{} .table = {}, .count = {}", places, entries, y.bytes()), 256};
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

  // What is done to one row: structures, and in `calls` the call of each for token t.
  std::string links(const std::string& stem, const McuStep& s, std::vector<std::string>& calls, std::vector<std::string>& called) {
    std::string text;
    for (size_t i = 0; i < s.inner.size(); ++i) {
      const McuStep& one = s.inner[i];
      const std::string own = fmt::format("{}_{}", stem, i);
      const Layer layer = layer_of(own, one);
      text += fmt::format("static const struct {} {} = {{\n{}}};\n", layer.structure, own, layer.fields);
      // Pointers into whole tensors go on by a row each time.
      std::string moves;
      const auto move = [&](const char* field, int t, bool untyped) {
        if (p.tensors[t].row_of < 0) return;
        const int64_t step = p.tensors[t].bytes();
        moves += untyped ? fmt::format(" link.{0} = (uint8_t *)link.{0} + t * {1};", field, step)
                         : fmt::format(" link.{} += t * {};", field, step);
      };
      move(one.kind == StepKind::kAdd ? "a" : "x", one.inputs[0], false);
      if (one.inputs.size() > 1) move("b", one.inputs[1], false);
      move("y", one.output, one.kind == StepKind::kRow);
      calls.push_back(moves.empty() ? fmt::format("{}(&{});", layer.function, own)
                                    : fmt::format("{{ struct {} link = {};{} {}(&link); }}", layer.structure, own, moves, layer.function));
      called.push_back(layer.function);
    }
    return text;
  }

  // One step that goes through the tokens.
  void emit_tokens(const std::string& stem, const McuStep& s) {
    std::vector<std::string> calls, called;
    layers += links(stem, s, calls, called);
    layers += fmt::format("static void run_{}(void) {{\n  for (int32_t t = 0; t < {}; ++t) {{\n", stem, s.tokens);
    for (const std::string& call : calls) layers += "    " + call + "\n";
    layers += "  }\n}\n\n";
  }

  // One head after the other: keys and values of all tokens, then each token's query, scores and mixture.
  void emit_heads(const std::string& stem, const McuStep& s) {
    const Node& n = p.graph[s.node];
    const Requantize out = Requantize::of(n);
    const ops::AttentionSizes sizes = ops::fused_attention_sizes(n);
    const ScoreScale scale = ScoreScale::of(static_cast<double>(n.get_float("score_unit")));
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
    layers += fmt::format("  .heads = 1, .share = 1, .queries = 1, .keys = {}, .size = {}, .value_size = {}, .k_row = {}, .v_row = {},\n",
                          sizes.keys, sizes.head_size, sizes.value_size, sizes.head_size, sizes.value_size);
    layers += fmt::format("  .is_signed = {}, .q_zero = {}, .k_zero = {}, .v_zero = {},\n", is_signed,
                          n.get_int("q_zero_point"), n.get_int("k_zero_point"), n.get_int("v_zero_point"));
    layers += fmt::format("  .unit = {}, .unit_shift = {}, .least = {}, .ratio = {}LL, .y_zero = {}, .low = {}, .high = {}}};\n",
                          scale.unit.mantissa, scale.unit.exponent, scale.least, n.get_int("value_ratio"), out.zero, out.low, out.high);
    // The outputs of one head stand together in the product's parameters.
    const auto part = [&](const ops::HeadView& view, int64_t size, const std::string& to) {
      return fmt::format("      product.parameters = {}.parameters + {} + h * {};\n      product.outputs = {};\n      product.y = {};\n      {}(&product);\n",
                         product, view.offset / 2 * pair, view.head / 2 * pair, size, to, called[last]);
    };
    const McuTensor& row = p.tensors[s.inner[last].inputs[0]];
    std::string begin;
    for (size_t i = 0; i < last; ++i) begin += "      " + calls[i] + "\n";
    begin += fmt::format("      struct dense product = {};{}\n", product, row.row_of >= 0 ? fmt::format(" product.x += t * {};", row.bytes()) : "");
    layers += fmt::format("static void run_{}(void) {{\n  for (int32_t h = 0; h < {}; ++h) {{\n    for (int32_t t = 0; t < {}; ++t) {{\n{}", stem,
                          sizes.query_heads, s.tokens, begin);
    layers += part(k, sizes.head_size, fmt::format("{} + t * {}", keys, sizes.head_size)) +
              part(v, sizes.value_size, fmt::format("{} + t * {}", values, sizes.value_size));
    layers += fmt::format("    }}\n    for (int32_t t = 0; t < {}; ++t) {{\n{}", s.tokens, begin) + part(q, sizes.head_size, query);
    layers += fmt::format("      struct attention row = {0}_attend;\n      row.y += h * {1} + t * {2};\n      attend(&row);\n    }}\n  }}\n}}\n\n",
                          stem, y.head, y.row);
    headers.insert("tokens.h");
  }

  void emit_layers() {
    for (size_t i = 0; i < p.steps.size(); ++i) {
      const McuStep& s = p.steps[i];
      const std::string shapes =
          fmt::format("{} → {}", s.inputs.empty() ? "" : shape_text(p.tensors[s.inputs[0]].shape), shape_text(p.tensors[s.output].shape));
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

  std::string border_text(const McuBorder& b) const {
    std::string text = fmt::format("\"{}\": {} {}", comment(b.name), shape_text(p.tensors[b.tensor].shape), name_of(b.type));
    if (b.channels_last)
      text += fmt::format(", rows of pixels, all channels of a pixel together ({} in the model)", shape_text(b.model_shape));
    if (b.scale != 0) text += fmt::format(";\n * code q stands for {:.9g} * (q - {})", b.scale, b.zero);
    if (!b.note.empty()) text += fmt::format(";\n * {}", comment(b.note));
    return text;
  }
  static const char* c_type(DType type) {
    return type == DType::kI8 ? "int8_t" : type == DType::kU8 ? "uint8_t" : type == DType::kF32 ? "float" : "int32_t";
  }

  std::string header() const {
    std::string text = fmt::format(
        "/* {}, made by lathe {}{}.\n *\n *   {}_init();\n *   … write the codes of a picture to {}_input() …\n *   {}_run();\n *   … read "
        "{}_output() …\n *\n"
        " * Inputs and outputs lie in one static arena, which a run writes over: write inputs before each run. Nothing is\n * allocated; "
        "one network runs once at a time. README.md tells what each layer is. */\n",
        name, kVersion, options.source.empty() ? "" : fmt::format(" from {}", comment(options.source)), name, name, name, name);
    text += fmt::format(
        "#ifndef LATHE_{0}_H\n#define LATHE_{0}_H\n\n#include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {{\n#endif\n\n", NAME);
    text += fmt::format(
        "#define {}_ARENA_BYTES {} /* of SRAM */\n#define {}_WEIGHT_BYTES {} /* of flash */\n#define {}_LAYERS {}\n#define {}_INPUTS "
        "{}\n#define {}_OUTPUTS {}\n\n",
        NAME, p.arena_bytes, NAME, weight_bytes, NAME, p.steps.size(), NAME, p.inputs.size(), NAME, p.outputs.size());
    auto border = [&](const McuBorder& b, const std::string& what, size_t index, bool in) {
      const std::string suffix = index ? fmt::format("_{}", index) : "", WHAT = upper(what);
      text += fmt::format("/* {} {}, {}. */\n", in ? "Input" : "Output", index, border_text(b));
      text += fmt::format("#define {}_{}{}_COUNT {}\n", NAME, WHAT, suffix, element_count(p.tensors[b.tensor].shape));
      if (b.scale != 0)
        text += fmt::format("#define {}_{}{}_SCALE {}\n#define {}_{}{}_ZERO_POINT {}\n", NAME, WHAT, suffix, exact(b.scale), NAME, WHAT,
                            suffix, b.zero);
      if (p.tensors[b.tensor].outside)
        text += fmt::format("#define {}_INPUT_OUTSIDE 1\n/* Where the codes lie, in any memory; before each run. They are read while it runs. */\nvoid {}_set_input(const {} *codes);\n\n", NAME, name, c_type(b.type));
      else
        text += fmt::format("{}{} *{}_{}{}(void);\n\n", in ? "" : "const ", c_type(b.type), name, what, suffix);
    };
    for (size_t i = 0; i < p.inputs.size(); ++i) border(p.inputs[i], "input", i, true);
    for (size_t i = 0; i < p.outputs.size(); ++i) border(p.outputs[i], "output", i, false);
    text += fmt::format(
        "void {0}_init(void); /* clears the arena */\nvoid {0}_run(void);\n\n/* For measuring: a run is layers 0 to {1}_LAYERS − 1 in "
        "turn. */\nvoid {0}_run_layer(int layer);\nconst char *{0}_layer_name(int layer);\n\n"
        "/* All inputs and outputs, for programs that serve any network. */\nstruct {0}_tensor {{\n  const char *name;\n  void *data;\n  "
        "uint32_t bytes;\n}};\nextern const struct {0}_tensor {0}_inputs[{1}_INPUTS], {0}_outputs[{1}_OUTPUTS];\n\n",
        name, NAME);
    return text + "#ifdef __cplusplus\n}\n#endif\n\n#endif\n";
  }

  std::string source() const {
    std::string text = fmt::format(
        "/* The layers of {}, in the order in which they run. What they compute stands in kernels/; their weights in {}_weights.c. "
        "*/\n#include \"{}.h\"\n\n#include <string.h>\n\n#include \"{}_weights.h\"\n",
        name, name, name, name);
    for (const std::string& h : headers) text += fmt::format("#include \"{}\"\n", h);
    text += fmt::format(
        "\n#if defined(__arm__)\n__attribute__((section(\".bss.arena\"), aligned(8)))\n#else\n__attribute__((aligned(8)))\n#endif\nstatic "
        "uint8_t arena[{}_ARENA_BYTES];\n\n",
        NAME);
    if (!form_order.empty()) text += "/* ---- One function for each form of layer: layers of one form share it. */\n\n";
    for (const std::string& f : form_order) text += forms.at(f);
    if (p.tensors[p.inputs[0].tensor].outside) text += "\nstatic const uint8_t *outside; /* the input, which the caller keeps */\n";
    text += "\n/* ---- The layers. */\n\n" + layers;
    text +=
        fmt::format("static const struct {{\n  void (*run)(void);\n  const char *name;\n}} layers[{}_LAYERS] = {{\n{}}};\n\n", NAME, table);
    auto tensors = [&](const std::vector<McuBorder>& borders, const std::string& what) {
      text += fmt::format("const struct {0}_tensor {0}_{1}[{2}_{3}] = {{\n", name, what, NAME, upper(what));
      for (const McuBorder& b : borders)
        text += fmt::format("    {{\"{}\", {}, {}}},\n", escaped(b.name), p.tensors[b.tensor].outside ? "0" : address(b.tensor), p.tensors[b.tensor].bytes());
      text += "};\n";
    };
    tensors(p.inputs, "inputs");
    tensors(p.outputs, "outputs");
    text += "\n";
    if (p.tensors[p.inputs[0].tensor].outside)
      text += fmt::format("void {}_set_input(const {} *codes) {{ outside = (const uint8_t *)codes; }}\n", name, c_type(p.inputs[0].type));
    for (size_t i = 0; i < p.inputs.size(); ++i)
      if (!p.tensors[p.inputs[i].tensor].outside) text += fmt::format("{} *{}_input{}(void) {{ return ({} *){}_inputs[{}].data; }}\n", c_type(p.inputs[i].type), name,
                          i ? fmt::format("_{}", i) : "", c_type(p.inputs[i].type), name, i);
    for (size_t i = 0; i < p.outputs.size(); ++i)
      text += fmt::format("const {} *{}_output{}(void) {{ return (const {} *){}_outputs[{}].data; }}\n", c_type(p.outputs[i].type), name,
                          i ? fmt::format("_{}", i) : "", c_type(p.outputs[i].type), name, i);
    text += fmt::format(
        "\nvoid {0}_init(void) {{ memset(arena, 0, sizeof arena); }}\n\nvoid {0}_run_layer(int layer) {{ layers[layer].run(); }}\n\nconst "
        "char *{0}_layer_name(int layer) {{ return layers[layer].name; }}\n\n"
        "void {0}_run(void) {{\n  for (int i = 0; i < {1}_LAYERS; ++i) layers[i].run();\n}}\n",
        name, NAME);
    return text;
  }

  static std::string escaped(const std::string& text) {
    std::string out;
    for (char c : text) {
      if (c == '"' || c == '\\' || c == '?') out += '\\';  // ? for trigraphs
      out += static_cast<unsigned char>(c) < 32 ? ' ' : c;
    }
    return out;
  }

  std::string sample_header() const {
    return fmt::format(
        "/* An input for main.c to run where no file is at hand. */\n#ifndef SAMPLE_H\n#define SAMPLE_H\n\n#include <stdint.h>\n\nextern "
        "const uint8_t *const sample_inputs[{}];\n\n#endif\n",
        p.inputs.size());
  }
  std::string sample_source() const {
    std::string text = "#include \"sample.h\"\n", list;
    std::vector<Tensor> sample = options.sample;
    for (size_t i = 0; i < p.inputs.size(); ++i) {
      const McuBorder& b = p.inputs[i];
      const std::vector<uint8_t> bytes = i < sample.size() ? input_bytes(b, sample[i]) : random_codes(b, i);
      text += fmt::format("\nstatic const uint8_t input_{}[{}] = {{{}}};\n", i, bytes.size(),
                          array_of(bytes, 24, [](uint8_t x) { return std::to_string(x); }));
      list += fmt::format("{}input_{}", i ? ", " : "", i);
    }
    return text + fmt::format("\nconst uint8_t *const sample_inputs[{}] = {{{}}};\n", p.inputs.size(), list);
  }
  std::vector<uint8_t> random_codes(const McuBorder& b, size_t seed) const {
    const Tensor uniform = random_tensor(DType::kF32, p.tensors[b.tensor].shape, seed + 1);
    std::vector<uint8_t> bytes(static_cast<size_t>(uniform.size()));
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(uniform.data<float>()[i] * 255.99f);
    return bytes;
  }

  nlohmann::json manifest(const Processor& cpu) const {
    auto borders = [&](const std::vector<McuBorder>& list) {
      nlohmann::json j = nlohmann::json::array();
      for (const McuBorder& b : list)
        j.push_back({{"name", b.name},
                     {"type", name_of(b.type)},
                     {"model_shape", b.model_shape},
                     {"channels_last", b.channels_last},
                     {"scale", b.scale},
                     {"zero_point", b.zero},
                     {"bytes", p.tensors[b.tensor].bytes()}});
      return j;
    };
    nlohmann::json steps = nlohmann::json::array();
    for (size_t i = 0; i < p.steps.size(); ++i) {
      const McuStep& s = p.steps[i];
      steps.push_back({{"name", s.name},
                       {"function", functions[i]},
                       {"macs", s.macs},
                       {"input", s.inputs.empty() ? Shape{} : p.tensors[s.inputs[0]].shape},
                       {"output", p.tensors[s.output].shape},
                       {"offset", p.tensors[s.output].offset},
                       {"scratch_bytes", s.scratch_bytes},
                       {"in_place", s.in_place >= 0}});
      const Node& n = p.graph[s.node];
      if (n.op->name == "IntegerConv") {
        const Shape& w = p.graph[n.inputs[1]].constant.shape();
        steps.back()["window"] = {{"kernel", {w[2], w[3]}},
                                  {"strides", n.get_ints("strides")},
                                  {"pads", n.get_ints("pads")},
                                  {"dilations", n.get_ints("dilations")},
                                  {"group", n.get_int("group")}};
      }
    }
    return {{"lathe_firmware", 1},
            {"name", name},
            {"source", options.source},
            {"device", device.name},
            {"memory_bytes", *device.limits.memory_bytes},
            {"flash_bytes", *device.limits.flash_bytes},
            {"machine", cpu.machine},
            {"arena_bytes", p.arena_bytes},
            {"lower_bound", p.lower_bound},
            {"weight_bytes", weight_bytes},
            {"macs", p.macs},
            {"inputs", borders(p.inputs)},
            {"outputs", borders(p.outputs)},
            {"layers", steps}};
  }

  std::string readme() const {
    std::string text = fmt::format("# {}\n\nC99 made by lathe {}{} for {}.\n\n", name, kVersion,
                                   options.source.empty() ? "" : " from " + options.source, device.name);
    text += fmt::format(
        "- `{0}.h`: what a program calls. `{0}.c`: the layers. `{0}_weights.c`: their weights. `kernels/`: how layers are computed.\n"
        "- `board/`: start-up, linker script and a `main()` for QEMU's board; a program of its own needs none of it.\n"
        "- `make` builds for the device (arm-none-eabi-gcc), `make host` for this machine; so does `CMakeLists.txt`.\n"
        "- `lathe emulate .` builds, runs and measures it.\n\nArena {1} bytes of SRAM (lower bound of its tensors {2}), weights {3} bytes "
        "of flash, {4} multiply-accumulates.\n\n",
        name, p.arena_bytes, p.lower_bound, weight_bytes, p.macs);
    text +=
        "| layer | function | node | shapes | place in the arena | multiply-accumulates | bytes of constants "
        "|\n|---|---|---|---|---|---|---|\n" +
        rows;
    return text;
  }
};

std::string replaced(std::string text, const std::vector<std::pair<std::string, std::string>>& words) {
  for (const auto& [from, to] : words)
    for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}

// Only an empty or new folder, or one of firmware.
void check_folder(const std::string& folder) {
  std::error_code error;
  if (folder.empty()) fail(ErrorKind::kUsage, "-o: the name of a folder is empty");
  const fs::path path = folder;
  if (!fs::exists(path, error)) return;
  if (!fs::is_directory(path, error)) fail(ErrorKind::kUsage, "-o {}: it is not a folder", folder);
  if (!fs::is_empty(path, error) && !fs::exists(path / "firmware.json", error))
    fail(ErrorKind::kUsage, "-o {}: the folder holds other things than firmware of lathe; choose another", folder);
}

}  // namespace

Processor processor_of(const Device& device) {
  if (!device.limits.memory_bytes || !device.limits.flash_bytes)
    fail(ErrorKind::kInput, "device '{}': limits need memory_bytes and flash_bytes", device.name);
  for (const ComputeUnit& unit : device.compute) {
    auto has = [&](const char* set) {
      return std::find(unit.instruction_sets.begin(), unit.instruction_sets.end(), set) != unit.instruction_sets.end();
    };
    if (!has("armv7e-m")) continue;
    if (has("fpv5-d16")) return {"cortex-m7", "fpv5-d16", "mps2-an500"};
    if (has("fpv5-sp")) return {"cortex-m7", "fpv5-sp-d16", "mps2-an500"};
    if (has("fpv4-sp")) return {"cortex-m4", "fpv4-sp-d16", "mps2-an386"};
    return {"cortex-m4", "", "mps2-an386"};
  }
  fail(ErrorKind::kUnsupported, "device '{}' has no compute unit with the instruction set armv7e-m (Cortex-M4, M7): C is emitted for those",
       device.name);
}

std::vector<uint8_t> input_bytes(const McuBorder& b, const Tensor& values) {
  Tensor x = values;
  if (x.size() != element_count(b.model_shape) || (x.dtype() != DType::kF32 && x.dtype() != b.type))
    fail(ErrorKind::kInput, "input '{}' is {}{}, expected f32{}", b.name, name_of(x.dtype()), to_string(x.shape()),
         to_string(b.model_shape));
  x = x.reshaped(b.model_shape);
  if (x.dtype() == DType::kF32) {
    if (b.scale == 0) fail(ErrorKind::kInput, "input '{}' takes codes ({}), not f32", b.name, name_of(b.type));
    const Requantize out = Requantize::all(b.type, b.zero);
    Tensor codes(b.type, x.shape());
    for (int64_t i = 0; i < x.size(); ++i) {
      const float v = x.data<float>()[i];
      codes.set_int(i, out.code(std::isnan(v) ? 0.0f : v / b.scale));
    }
    x = codes;
  }
  if (b.channels_last) x = transpose(x, {0, 2, 3, 1});
  return {x.data<uint8_t>(), x.data<uint8_t>() + x.size()};
}

Tensor output_values(const McuBorder& b, const uint8_t* bytes) {
  Tensor stored(b.type, b.model_shape);
  std::copy(bytes, bytes + stored.bytes(), static_cast<uint8_t*>(stored.raw()));
  if (b.scale == 0) return stored;
  Tensor y(DType::kF32, b.model_shape);
  for (int64_t i = 0; i < y.size(); ++i) y.data<float>()[i] = static_cast<float>(stored.get_int(i) - b.zero) * b.scale;
  return y;
}

static int64_t constant_bytes(const McuProgram& p, const McuStep& s) {
  int64_t bytes = 0;
  for (const McuStep& one : s.inner) bytes += constant_bytes(p, one);
  if (s.kind == StepKind::kConvolve || s.kind == StepKind::kPixels || s.kind == StepKind::kRow || s.kind == StepKind::kDepthwise)
    bytes += pack_product(p, s).bytes();
  if (s.kind == StepKind::kSoftmax) bytes += 1024;
  if (s.kind == StepKind::kLookUp) bytes += 256;
  if (s.kind == StepKind::kNorm)
    for (size_t i : {1, 2}) bytes += static_cast<int64_t>(p.graph[p.graph[s.node].inputs[i]].constant.bytes());
  return bytes;
}

FirmwareSize firmware_size(const McuProgram& p) {
  FirmwareSize size{.arena = p.arena_bytes};
  for (const McuStep& s : p.steps) size.weights += constant_bytes(p, s);
  for (const McuTensor& t : p.tensors)
    if (t.constant.defined()) size.weights += t.bytes();
  return size;
}

void check_budget(const McuProgram& p, const Device& device) {
  (void)processor_of(device);
  const int64_t memory = *device.limits.memory_bytes, flash = *device.limits.flash_bytes;
  const FirmwareSize size = firmware_size(p);
  if (size.arena + kStackBytes > memory) {
    int64_t most = -1;
    size_t peak = 0;
    for (size_t s = 0; s < p.steps.size(); ++s) {
      int64_t alive = p.steps[s].scratch_bytes;
      for (const McuTensor& t : p.tensors)
        if (t.view_of < 0 && !t.constant.defined() && t.first_step <= static_cast<int>(s) && static_cast<int>(s) <= t.last_step)
          alive += t.bytes();
      if (alive > most) most = alive, peak = s;
    }
    fail(ErrorKind::kBudget,
         "{}: the network needs {} bytes of SRAM ({} of arena, {} of stack), {} more than the {} there are; the most are alive at step {} "
         "('{}')",
         device.name, size.arena + kStackBytes, size.arena, kStackBytes, size.arena + kStackBytes - memory, memory, peak,
         p.steps[peak].name);
  }
  if (size.weights > flash)
    fail(ErrorKind::kBudget, "{}: the network's weights take {} bytes of flash, {} more than the {} there are", device.name, size.weights,
         size.weights - flash, flash);
}

void emit_firmware(const McuProgram& p, const Device& device, const FirmwareOptions& options, const std::string& folder) {
  const Processor cpu = processor_of(device);
  const bool plain = !options.name.empty() && !std::isdigit(static_cast<unsigned char>(options.name[0])) && options.name.size() <= 40 &&
                     options.name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") == options.name.npos;
  if (!plain) fail(ErrorKind::kUsage, "--name {}: expected lower-case letters, digits and _, as names in C are", options.name);
  if (p.inputs.empty() || p.outputs.empty() || p.steps.empty())
    fail(ErrorKind::kUnsupported, "the network has no input, no output or nothing to compute");
  check_budget(p, device);
  check_folder(folder);
  Emitter e{.p = p, .device = device, .options = options};
  e.emit_layers();
  const std::string arm =
      fmt::format("-mcpu={} {}", cpu.cpu, cpu.fpu.empty() ? "-mfloat-abi=soft" : fmt::format("-mfpu={} -mfloat-abi=hard", cpu.fpu));
  const std::vector<std::pair<std::string, std::string>> words = {
      {"@name@", e.name},
      {"@NAME@", e.NAME},
      {"@arm_flags@", arm},
      {"@device@", comment(device.name)},
      {"@machine@", cpu.machine},
      {"@memory@", std::to_string(std::min(*device.limits.memory_bytes, kBoardBytes))},
      {"@flash@", std::to_string(std::min(*device.limits.flash_bytes, kBoardBytes))},
      {"@stack@", std::to_string(kStackBytes)},
      {"@outside@", cpu.machine == "mps2-an500" ? "0x60000000" : "0x21000000"}};  // the board's external RAM
  std::error_code error;
  for (const char* inner : {"", "/kernels", "/board"})
    if (fs::create_directories(folder + inner, error); error) fail(ErrorKind::kInput, "-o {}: cannot be made: {}", folder, error.message());
  // The manifest last: it says that the rest is there.
  fs::remove(fs::path(folder) / "firmware.json", error);
  write_file(folder + "/" + e.name + ".h", e.header());
  write_file(folder + "/" + e.name + ".c", e.source());
  write_file(
      folder + "/" + e.name + "_weights.h",
      fmt::format("#ifndef LATHE_{0}_WEIGHTS_H\n#define LATHE_{0}_WEIGHTS_H\n\n#include <stdint.h>\n\n{1}\n#endif\n", e.NAME, e.weights_h));
  write_file(folder + "/" + e.name + "_weights.c",
             fmt::format("/* Parameters of the layers as kernels/ reads them: biases with the input's zero point in them, multipliers, "
                         "weights. */\n#include \"{}_weights.h\"\n{}",
                         e.name, e.weights_c));
  e.headers.insert("dsp.h");
  for (const auto& [file, text] : mcu_sources()) {
    const std::string name(file);
    if (name.starts_with("board_")) {
      const std::string board = name.substr(6);
      const bool top = board == "Makefile" || board == "CMakeLists.txt";
      write_file(folder + (top ? "/" : "/board/") + board, replaced(std::string(text), words));
    } else if (e.headers.contains(name)) {
      write_file(folder + "/kernels/" + name, text);
    } else {
      fs::remove(fs::path(folder) / "kernels" / name, error);
    }
  }
  write_file(folder + "/board/sample.h", e.sample_header());
  write_file(folder + "/board/sample.c", e.sample_source());
  write_file(folder + "/README.md", e.readme());
  write_file(folder + "/firmware.json", e.manifest(cpu).dump(2) + "\n");
}

}  // namespace lathe::mcu
