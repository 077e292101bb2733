#include "targets/mcu/weights.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "transform/quantized.h"

namespace lathe::mcu {
namespace {

uint32_t word(int a, int b, int c, int d) {
  auto byte = [](int x) { return static_cast<uint32_t>(static_cast<uint8_t>(x)); };
  return byte(a) | byte(b) << 8 | byte(c) << 16 | byte(d) << 24;
}
uint32_t halves(int low, int high) { return static_cast<uint32_t>(static_cast<uint16_t>(low)) | static_cast<uint32_t>(static_cast<uint16_t>(high)) << 16; }

// Codes of weights less their zero points, by output channel.
class Centred {
 public:
  Centred(const Graph& g, const Node& n) : codes_(g[n.inputs[1]].constant) {
    if (has_input(n, 4)) zeros_ = g[n.inputs[4]].constant;
  }
  int at(int64_t index, int64_t output) const {
    const int64_t zero = !zeros_.defined() ? 0 : zeros_.get_int(zeros_.size() == 1 ? 0 : output);
    return static_cast<int>(codes_.get_int(index) - zero);
  }

 private:
  Tensor codes_, zeros_;
};

// Rows of weights, one an output channel, in the order in which the function takes taps.
std::vector<std::vector<int>> rows_of(const McuProgram& p, const McuStep& step, int64_t first, int64_t count) {
  const Node& n = p.graph[step.node];
  const Tensor& w = p.graph[n.inputs[1]].constant;
  const Centred codes(p.graph, n);
  std::vector<std::vector<int>> rows(static_cast<size_t>(count));
  if (n.op->name == "IntegerMatMul") {
    for (int64_t o = 0; o < count; ++o)
      for (int64_t k = 0; k < w.dim(0); ++k) rows[o].push_back(codes.at(k * w.dim(1) + first + o, first + o));
    return rows;
  }
  const int64_t channels = w.dim(1), area = w.dim(2) * w.dim(3);
  for (int64_t o = 0; o < count; ++o)
    for (int64_t tap = 0; tap < area; ++tap)
      for (int64_t c = 0; c < channels; ++c) rows[o].push_back(codes.at(((first + o) * channels + c) * area + tap, first + o));
  return rows;
}

// Of one channel, in front of its weights.
struct Scaling {
  uint32_t bias = 0;
  float multiplier = 0;
};

// Pairs of channels side by side.
std::vector<uint32_t> pack_dense(std::vector<std::vector<int>> rows, const std::vector<Scaling>& scalings, bool offsets) {
  std::vector<uint32_t> words;
  const size_t taps = rows[0].size(), quads = (taps + 3) / 4;
  // Codes of 8 bits less one zero point span no more than i8 does: what is beyond it is taken off all of a row.
  std::vector<int> missing(rows.size() + 1, 0);
  for (size_t o = 0; offsets && o < rows.size(); ++o) {
    const auto [least, most] = std::minmax_element(rows[o].begin(), rows[o].end());
    missing[o] = *most > 127 ? *most - 127 : *least < -128 ? *least + 128 : 0;
    for (int& code : rows[o]) code -= missing[o];
  }
  auto at = [&](size_t row, size_t tap) { return row < rows.size() && tap < taps ? rows[row][tap] : 0; };
  for (size_t o = 0; o < rows.size(); o += 2) {
    const Scaling a = scalings[o], b = o + 1 < rows.size() ? scalings[o + 1] : Scaling{};
    words.insert(words.end(), {a.bias, b.bias, std::bit_cast<uint32_t>(a.multiplier), std::bit_cast<uint32_t>(b.multiplier)});
    if (offsets) words.insert(words.end(), {static_cast<uint32_t>(missing[o]), static_cast<uint32_t>(missing[o + 1])});
    for (size_t q = 0; q < quads; ++q)
      for (size_t row : {o, o + 1}) words.push_back(word(at(row, 4 * q), at(row, 4 * q + 1), at(row, 4 * q + 2), at(row, 4 * q + 3)));
  }
  return words;
}

std::vector<uint32_t> pack_depthwise(const Node& n, const Shape& w, const std::vector<std::vector<int>>& rows, const std::vector<Scaling>& scalings, bool wide) {
  std::vector<uint32_t> words;
  const int64_t kh = w[2], kw = w[3];
  const DepthwiseWay way = depthwise_way(n, w, wide);
  for (size_t o = 0; o < rows.size(); ++o) {
    const std::vector<int>& row = rows[o];
    words.insert(words.end(), {scalings[o].bias, std::bit_cast<uint32_t>(scalings[o].multiplier)});
    auto tap = [&](int64_t ky, int64_t kx) { return kx < kw ? row[ky * kw + kx] : 0; };
    if (way == DepthwiseWay::kTaps) {
      auto at = [&](size_t k) { return k < row.size() ? row[k] : 0; };
      for (size_t i = 0; wide && i < row.size(); i += 2) words.push_back(halves(at(i), at(i + 1)));
      for (size_t i = 0; !wide && i < row.size(); i += 4) words.push_back(word(at(i), at(i + 1), at(i + 2), at(i + 3)));
      continue;
    }
    for (int64_t ky = 0; ky < kh; ++ky) {
      if (way == DepthwiseWay::kSlide3x3) {
        if (wide) words.insert(words.end(), {halves(tap(ky, 0), tap(ky, 1)), halves(tap(ky, 1), tap(ky, 2))});
        else words.push_back(word(tap(ky, 0), tap(ky, 1), tap(ky, 1), tap(ky, 2)));
        continue;
      }
      for (int64_t kx = 0; kx < kw; kx += 4) words.push_back(word(tap(ky, kx), tap(ky, kx + 2), tap(ky, kx + 1), tap(ky, kx + 3)));
    }
  }
  return words;
}

}  // namespace

bool has_wide_weights(const Graph& g, const Node& n) {
  const Tensor& w = g[n.inputs[1]].constant;
  if (w.dtype() == DType::kI8 && !has_input(n, 4)) return false;
  const Centred codes(g, n);
  const bool matrix = n.op->name == "IntegerMatMul";
  const int64_t inner = matrix ? w.dim(1) : w.size() / w.dim(0);
  for (int64_t i = 0; i < w.size(); ++i) {
    const int code = codes.at(i, matrix ? i % inner : i / inner);
    if (code < -128 || code > 127) return true;
  }
  return false;
}

DepthwiseWay depthwise_way(const Node& n, const Shape& w, bool wide_weights) {
  const auto& strides = n.get_ints("strides");
  if (n.get_ints("dilations") != std::vector<int64_t>{1, 1}) return DepthwiseWay::kTaps;
  if (w[2] == 3 && w[3] == 3 && strides[0] == strides[1] && strides[0] <= 2) return DepthwiseWay::kSlide3x3;
  return !wide_weights && w[2] * ((w[3] + 1) / 2) <= 32 ? DepthwiseWay::kRows : DepthwiseWay::kTaps;
}

PackedProduct pack_product(const McuProgram& p, const McuStep& step) {
  const Node& n = p.graph[step.node];
  const Tensor& w = p.graph[n.inputs[1]].constant;
  const int64_t outputs =
      n.op->name == "IntegerMatMul" ? w.dim(1) : w.dim(0) / (step.kind == StepKind::kDepthwise ? 1 : n.get_int("group"));
  const int64_t first = step.group * outputs;
  const auto rows = rows_of(p, step, first, outputs);
  PackedProduct packed;
  packed.wide_weights = has_wide_weights(p.graph, n);
  packed.depthwise = step.kind == StepKind::kDepthwise;
  std::vector<Scaling> scalings;
  const int64_t zero = n.get_int("x_zero_point");
  const int64_t least = p.graph[n.inputs[0]].dtype == DType::kI8 ? -128 : 0;
  const int64_t reach = std::max(std::abs(least - zero), std::abs(least + 255 - zero));
  const auto* multipliers = p.graph[n.inputs[2]].constant.data<float>();
  for (int64_t o = 0; o < outputs; ++o) {
    int64_t sum = 0, size = 0;
    for (int code : rows[o]) {
      sum += code;
      size += std::abs(code);
    }
    const int64_t bias = has_input(n, 3) ? p.graph[n.inputs[3]].constant.get_int(first + o) : 0;
    const float multiplier = multipliers[first + o];
    scalings.push_back({static_cast<uint32_t>(static_cast<uint64_t>(bias - zero * sum)), multiplier});
    const double most = std::min(static_cast<double>(std::abs(bias) + size * reach), 2147483648.0) * std::fabs(multiplier);
    if (!(most < 1073741824.0)) packed.wide = true;
  }
  packed.parameters = packed.depthwise ? pack_depthwise(n, w.shape(), rows, scalings, packed.wide_weights) : pack_dense(rows, scalings, packed.wide_weights);
  if (has_input(n, 5)) {
    const Tensor& table = p.graph[n.inputs[5]].constant;
    packed.table.assign(table.data<uint8_t>(), table.data<uint8_t>() + 256);
  }
  return packed;
}

}  // namespace lathe::mcu
