#include "quantize/quantizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/parallel.h"
#include "quantize/clustering.h"

namespace lathe {
namespace {

constexpr float kSmallestScale = std::numeric_limits<float>::min();  // of numbers too small for a scale of their own

struct Values {
  std::vector<float> x, weight;  // finite, and how much each counts
  float least = 0, most = 0;     // with 0
  double mean_magnitude = 0;
  float magnitude() const { return std::max(-least, most); }
};

Values values_of(std::span<const float> x, std::span<const float> importance) {
  Values v;
  v.x.assign(x.begin(), x.end());
  float largest = 0;
  for (float value : x) {
    check_model(!std::isnan(value), "the numbers to be quantized hold a NaN");
    if (std::isfinite(value)) largest = std::max(largest, std::abs(value));
  }
  for (float& value : v.x) {
    if (std::isinf(value)) value = std::copysign(largest, value);
    v.least = std::min(v.least, value);
    v.most = std::max(v.most, value);
    v.mean_magnitude += std::abs(value);
  }
  if (!v.x.empty()) v.mean_magnitude /= static_cast<double>(v.x.size());
  v.weight.assign(v.x.size(), 1);
  if (importance.size() == x.size()) v.weight.assign(importance.begin(), importance.end());
  return v;
}

Grid from_levels(std::vector<float> levels, std::vector<float> borders) {
  Grid grid;
  grid.high = static_cast<int>(levels.size()) - 1;
  grid.levels = std::move(levels);
  grid.borders = std::move(borders);
  return grid;
}

// Borders in the middle: the nearest level.
Grid nearest(std::vector<float> levels) {
  std::sort(levels.begin(), levels.end());
  levels.erase(std::unique(levels.begin(), levels.end()), levels.end());
  std::vector<float> borders;
  for (size_t i = 1; i < levels.size(); ++i) borders.push_back(levels[i - 1] + (levels[i] - levels[i - 1]) / 2);
  return from_levels(std::move(levels), std::move(borders));
}

double error_of(const Grid& grid, const Values& v) {
  double sum = 0;
  for (size_t i = 0; i < v.x.size(); ++i) {
    const double e = static_cast<double>(v.x[i]) - static_cast<double>(grid.fake(v.x[i]));
    sum += e * e * static_cast<double>(v.weight[i]);
  }
  return sum;
}

// The part of the range, from all of it down to a fifth, whose grid has the least squared error: 80 steps.
template <class MakeGrid>
Grid least_error(const Values& v, const MakeGrid& make) {
  Grid best = make(1.0f);
  double least = error_of(best, v);
  for (int i = 79; i >= 16; --i) {
    Grid grid = make(static_cast<float>(i) / 80.0f);
    const double error = error_of(grid, v);
    if (error < least) best = std::move(grid), least = error;
  }
  return best;
}

Grid power_of_two(const QuantizerSpec& spec, const Values& v) {
  const int high = (1 << (spec.bits - 1)) - 1;
  Grid grid{1, 0, -high, high, {}, {}};
  if (v.magnitude() <= 0) return grid;
  const int k = static_cast<int>(std::ceil(std::log2(static_cast<double>(v.magnitude()) / high)));
  double least = std::numeric_limits<double>::infinity();
  Grid best = grid;
  for (int exponent : {k, k - 1}) {  // the whole range, or its neighbour if that errs less
    grid.scale = std::max(std::ldexp(1.0f, exponent), kSmallestScale);
    const double error = error_of(grid, v);
    if (error < least) best = grid, least = error;
  }
  return best;
}

// ±2^k for the largest 2^(bits−1) − 1 exponents, and 0. Rounded in the logarithm: the border between 2^k and 2^(k+1) is
// √2·2^k; half of the smallest and less is 0.
Grid logarithmic(const QuantizerSpec& spec, const Values& v) {
  const int count = std::max(1, (1 << (spec.bits - 1)) - 1);
  auto make = [&](int top) {
    std::vector<float> levels{0}, borders;
    for (int i = count - 1; i >= 0; --i) {
      const float level = std::ldexp(1.0f, top - i);
      borders.push_back(levels.size() == 1 ? level / 2 : level / std::sqrt(2.0f));
      levels.push_back(level);
    }
    std::vector<float> all, edges;
    for (size_t i = levels.size(); i-- > 1;) all.push_back(-levels[i]), edges.push_back(std::nextafter(-borders[i - 1], 0.0f));
    all.insert(all.end(), levels.begin(), levels.end());
    edges.insert(edges.end(), borders.begin(), borders.end());
    return from_levels(std::move(all), std::move(edges));
  };
  if (v.magnitude() <= 0) return make(0);
  const int top = std::clamp(static_cast<int>(std::lround(std::log2(v.magnitude()))), -100, 126);
  Grid best = make(top), lower = make(top - 1);
  return error_of(lower, v) < error_of(best, v) ? lower : best;
}

// Li et al. 2020, equation 5: γ·Σᵢ pᵢ with pᵢ ∈ {0, 2^−i, 2^−(i+n), …}, 2^(bits/n) − 1 exponents each, and a sign.
Grid additive(const QuantizerSpec& spec, const Values& v) {
  const int terms = std::max(1, spec.terms), per_term = std::max(1, (spec.bits - 1) / terms);
  std::vector<double> sums{0};
  for (int term = 0; term < terms; ++term) {
    std::vector<double> next;
    for (double sum : sums) {
      next.push_back(sum);
      for (int i = 0; i < (1 << per_term) - 1; ++i) next.push_back(sum + std::ldexp(1.0, -(term + i * terms)));
    }
    sums = std::move(next);
  }
  const double top = *std::max_element(sums.begin(), sums.end());
  const double magnitude = v.magnitude() > 0 ? v.magnitude() : 1;
  return least_error(v, [&](float part) {
    std::vector<float> levels;
    for (double sum : sums) {
      const auto level = static_cast<float>(sum / top * magnitude * part);
      levels.push_back(level);
      levels.push_back(-level);
    }
    for (float& level : levels) level += 0.0f;  // one zero
    return nearest(std::move(levels));
  });
}

Grid three_levels(float negative, float positive, float threshold) {
  return from_levels({-negative, 0, positive}, {std::nextafter(-threshold, 0.0f), std::nextafter(threshold, HUGE_VALF)});
}

Grid ternary(const Values& v, float threshold, bool one_scale) {
  double sums[2] = {0, 0};
  int64_t counts[2] = {0, 0};
  for (float x : v.x)
    if (std::abs(x) > threshold) sums[x > 0] += std::abs(x), ++counts[x > 0];
  if (one_scale) {
    const int64_t count = counts[0] + counts[1];
    const auto scale = static_cast<float>(count > 0 ? (sums[0] + sums[1]) / static_cast<double>(count) : 1.0);
    return three_levels(scale, scale, threshold);
  }
  auto mean = [&](int i) { return static_cast<float>(counts[i] > 0 ? sums[i] / static_cast<double>(counts[i]) : std::max<double>(threshold, kSmallestScale)); };
  return three_levels(mean(0), mean(1), threshold);
}

// Solves the normal equations of a small least-squares problem by Gaussian elimination; rows that say nothing new give 0.
std::vector<double> solve(std::vector<std::vector<double>> a, std::vector<double> b) {
  const size_t n = b.size();
  std::vector<double> x(n, 0);
  std::vector<int> pivot_of(n, -1);
  size_t row = 0;
  for (size_t column = 0; column < n && row < n; ++column) {
    size_t best = row;
    for (size_t r = row; r < n; ++r)
      if (std::abs(a[r][column]) > std::abs(a[best][column])) best = r;
    if (std::abs(a[best][column]) < 1e-12 * (1 + std::abs(a[column][column]))) continue;
    std::swap(a[best], a[row]);
    std::swap(b[best], b[row]);
    for (size_t r = 0; r < n; ++r) {
      if (r == row) continue;
      const double factor = a[r][column] / a[row][column];
      for (size_t c = column; c < n; ++c) a[r][c] -= factor * a[row][c];
      b[r] -= factor * b[row];
    }
    pivot_of[column] = static_cast<int>(row++);
  }
  for (size_t c = 0; c < n; ++c)
    if (pivot_of[c] >= 0) x[c] = b[static_cast<size_t>(pivot_of[c])] / a[static_cast<size_t>(pivot_of[c])][c];
  return x;
}

// Least-squares factors of the sign vectors that `signs(i)` gives for element i.
template <class Signs>
std::vector<double> factors_of(const Values& v, int terms, const Signs& signs) {
  const auto n = static_cast<size_t>(terms);
  std::vector<std::vector<double>> a(n, std::vector<double>(n, 0));
  std::vector<double> b(n, 0);
  for (size_t i = 0; i < v.x.size(); ++i)
    for (size_t r = 0; r < n; ++r) {
      const double s = signs(i, r) ? 1 : -1;
      b[r] += s * static_cast<double>(v.x[i]);
      for (size_t c = 0; c < n; ++c) a[r][c] += s * (signs(i, c) ? 1 : -1);
    }
  return solve(std::move(a), std::move(b));
}

// Lin et al. 2017, section 3.1: Bᵢ = sign(w − mean + uᵢ·std), uᵢ from −1 to 1.
Grid multi_bit(const QuantizerSpec& spec, const Values& v) {
  const int terms = std::max(1, spec.terms);
  double mean = 0, square = 0;
  for (float x : v.x) mean += static_cast<double>(x);
  if (!v.x.empty()) mean /= static_cast<double>(v.x.size());
  for (float x : v.x) square += (static_cast<double>(x) - mean) * (static_cast<double>(x) - mean);
  const double deviation = v.x.empty() ? 1 : std::sqrt(square / static_cast<double>(v.x.size()));
  std::vector<float> borders;  // of B₁ … descending in u: ascending borders mean − u·std
  for (int i = 0; i < terms; ++i) {
    const double u = terms == 1 ? 0 : -1 + 2.0 * i / (terms - 1);
    borders.push_back(static_cast<float>(mean - u * deviation));
  }
  std::sort(borders.begin(), borders.end());
  for (size_t i = 1; i < borders.size(); ++i)
    if (borders[i] <= borders[i - 1]) borders[i] = std::nextafter(borders[i - 1], HUGE_VALF);
  const auto factors = factors_of(v, terms, [&](size_t i, size_t t) { return v.x[i] >= borders[t]; });
  std::vector<float> levels;
  for (int above = 0; above <= terms; ++above) {
    double level = 0;
    for (int t = 0; t < terms; ++t) level += t < above ? factors[static_cast<size_t>(t)] : -factors[static_cast<size_t>(t)];
    levels.push_back(static_cast<float>(level));
  }
  return from_levels(std::move(levels), std::move(borders));  // a level may lie below the one before: the borders decide
}

// Zhang et al. 2018, section 3.2: nearest codes for a basis, then the basis by least squares, until nothing changes.
Grid learned_basis(const QuantizerSpec& spec, const Values& v) {
  const int bits = std::clamp(spec.bits, 1, 6), count = 1 << bits;
  std::vector<double> basis(static_cast<size_t>(bits));
  const double unit = v.mean_magnitude > 0 ? 2 * v.mean_magnitude / ((1 << bits) - 1) : 1;
  for (int t = 0; t < bits; ++t) basis[static_cast<size_t>(t)] = unit * (1 << t);
  std::vector<std::pair<float, int>> levels(static_cast<size_t>(count));
  Grid best;
  double least = std::numeric_limits<double>::infinity();
  std::vector<int> codes(v.x.size());
  for (int iteration = 0; iteration < 50; ++iteration) {
    for (int c = 0; c < count; ++c) {
      double level = 0;
      for (int t = 0; t < bits; ++t) level += (c >> t & 1) ? basis[static_cast<size_t>(t)] : -basis[static_cast<size_t>(t)];
      levels[static_cast<size_t>(c)] = {static_cast<float>(level), c};
    }
    std::sort(levels.begin(), levels.end());
    std::vector<float> values;
    values.reserve(levels.size());
    for (const auto& [level, c] : levels) values.push_back(level);
    Grid grid = nearest(values);
    const double error = error_of(grid, v);
    if (!(error < least * (1 - 1e-9))) break;
    best = grid;
    least = error;
    for (size_t i = 0; i < v.x.size(); ++i) {
      const float level = grid.fake(v.x[i]);
      codes[i] = std::lower_bound(levels.begin(), levels.end(), std::pair<float, int>{level, -1})->second;
    }
    auto next = factors_of(v, bits, [&](size_t i, size_t t) { return codes[i] >> t & 1; });
    if (std::all_of(next.begin(), next.end(), [](double f) { return f == 0; })) break;
    basis = std::move(next);
  }
  return best;
}

// Zhou et al. 2016, section 2.3: 2·Q_k(tanh(w) / (2·max|tanh(w)|) + ½) − 1.
Grid dorefa(const QuantizerSpec& spec, const Values& v) {
  if (spec.bits == 1) return from_levels({static_cast<float>(-v.mean_magnitude), static_cast<float>(v.mean_magnitude)}, {0});
  const int steps = (1 << spec.bits) - 1;
  const double limit = v.magnitude() > 0 ? std::tanh(static_cast<double>(v.magnitude())) : 1;
  std::vector<float> levels, borders;
  for (int i = 0; i <= steps; ++i) {
    levels.push_back(static_cast<float>(2.0 * i / steps - 1));
    if (i < steps) borders.push_back(static_cast<float>(std::atanh(std::clamp((2.0 * (i + 0.5) / steps - 1) * limit, -1 + 1e-12, 1 - 1e-12))));
  }
  return from_levels(std::move(levels), std::move(borders));
}

// All finite numbers of an 8-bit format, the largest where the range ends (OCP 8-bit Floating Point Specification 1.0).
Grid float8(int exponent_bits, int mantissa_bits, int bias, int codes_without, const Values& v) {
  std::vector<double> magnitudes;
  for (int e = 0; e < (1 << exponent_bits); ++e)
    for (int m = 0; m < (1 << mantissa_bits); ++m)
      magnitudes.push_back(e == 0 ? std::ldexp(static_cast<double>(m), 1 - bias - mantissa_bits)
                                  : std::ldexp(1.0 + std::ldexp(static_cast<double>(m), -mantissa_bits), e - bias));
  magnitudes.resize(magnitudes.size() - static_cast<size_t>(codes_without));  // NaN and infinity are the last
  const double scale = v.magnitude() > 0 ? static_cast<double>(v.magnitude()) / magnitudes.back() : 1;
  std::vector<float> levels;
  for (double m : magnitudes) {
    levels.push_back(static_cast<float>(m * scale));
    if (m != 0) levels.push_back(static_cast<float>(-m * scale));
  }
  return nearest(std::move(levels));
}

}  // namespace

int Grid::code(float x) const {
  if (!uniform()) return static_cast<int>(std::upper_bound(borders.begin(), borders.end(), x) - borders.begin()) * !std::isnan(x);
  const float q = x / scale + static_cast<float>(zero);
  if (!(q > static_cast<float>(low))) return low;
  return static_cast<int>(std::nearbyintf(std::min(q, static_cast<float>(high))));
}

Grid uniform_grid(float least, float most, int bits, bool symmetric) {
  Grid grid;
  least = std::min(least, 0.0f);
  most = std::max(most, 0.0f);
  if (symmetric) {
    grid.high = (1 << (bits - 1)) - 1;
    grid.low = -grid.high;
    grid.scale = std::max(std::max(-least, most) / static_cast<float>(grid.high), kSmallestScale);
    if (least == most) grid.scale = 1;
    return grid;
  }
  grid.high = (1 << bits) - 1;
  if (least == most) return grid;
  // In doubles: the width of the range may be beyond f32.
  const double width = static_cast<double>(most) - static_cast<double>(least);
  grid.scale = std::max(static_cast<float>(width / grid.high), kSmallestScale);
  grid.zero = static_cast<int>(std::clamp(std::nearbyint(-static_cast<double>(least) / static_cast<double>(grid.scale)), 0.0, static_cast<double>(grid.high)));
  return grid;
}

Grid fit(const QuantizerSpec& spec, std::span<const float> x, std::span<const float> importance) {
  const Values v = values_of(x, importance);
  switch (spec.family) {
    case Family::kUniform:
      if (spec.fit == ScaleFit::kRange || v.least == v.most) return uniform_grid(v.least, v.most, spec.bits, spec.symmetric);
      return least_error(v, [&](float part) { return uniform_grid(v.least * part, v.most * part, spec.bits, spec.symmetric); });
    case Family::kPowerOfTwo: return power_of_two(spec, v);
    case Family::kLogarithmic: return logarithmic(spec, v);
    case Family::kAdditive: return additive(spec, v);
    case Family::kCodebook: return nearest(cluster(v.x, v.weight, 1 << spec.bits));
    case Family::kTernary: return ternary(v, static_cast<float>(0.7 * v.mean_magnitude), true);
    case Family::kTrainedTernary: return ternary(v, 0.05f * v.magnitude(), false);
    case Family::kBinary: return from_levels({static_cast<float>(-v.mean_magnitude), static_cast<float>(v.mean_magnitude)}, {0});
    case Family::kMultiBit: return multi_bit(spec, v);
    case Family::kLearnedBasis: return learned_basis(spec, v);
    case Family::kDoReFa: return dorefa(spec, v);
    case Family::kFloat8E4M3: return float8(4, 3, 7, 1, v);
    case Family::kFloat8E5M2: return float8(5, 2, 15, 4, v);
  }
  fail(ErrorKind::kInternal, "a quantizer without a fit");
}

double squared_error(const Grid& grid, std::span<const float> x, std::span<const float> importance) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double e = static_cast<double>(x[i]) - static_cast<double>(grid.fake(x[i]));
    sum += e * e * (importance.empty() ? 1.0 : static_cast<double>(importance[i]));
  }
  return sum;
}

int64_t QuantizedTensor::groups_per_row() const {
  if (spec.granularity != Granularity::kGroup) return 1;
  return std::max<int64_t>(1, (codes.dim(1) + spec.group - 1) / spec.group);
}

const Grid& QuantizedTensor::grid_at(int64_t row, int64_t column) const {
  if (spec.granularity == Granularity::kTensor) return grids[0];
  if (spec.granularity == Granularity::kChannel) return grids[static_cast<size_t>(row)];
  return grids[static_cast<size_t>(row * groups_per_row() + column / spec.group)];
}

namespace {

int code_in(const Tensor& codes, int64_t i) {
  return codes.dtype() == DType::kI8 ? codes.data<int8_t>()[i] : codes.data<uint8_t>()[i];
}

int64_t columns_a_grid(const QuantizerSpec& spec, int64_t columns) {
  return spec.granularity == Granularity::kGroup ? std::min(spec.group, std::max<int64_t>(columns, 1)) : columns;
}

}  // namespace

Tensor QuantizedTensor::dequantize() const {
  const int64_t rows = codes.dim(0), columns = codes.dim(1), step = columns_a_grid(spec, columns);
  Tensor x(DType::kF32, {rows, columns});
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t begin = 0; begin < columns; begin += step) {
      const Grid& grid = grid_at(r, begin);
      for (int64_t c = begin; c < std::min(begin + step, columns); ++c) x.data<float>()[r * columns + c] = grid.value(code_in(codes, r * columns + c));
    }
  return x;
}

int64_t QuantizedTensor::storage_bits() const {
  int bits = 1;
  int64_t parameters = 0;
  for (const Grid& g : grids) {
    while ((1 << bits) < g.codes()) ++bits;
    // A symmetric family is given by its positive part, a sign pair by one number.
    switch (spec.family) {
      case Family::kUniform: parameters += spec.symmetric ? 32 : 40; break;
      case Family::kPowerOfTwo:
      case Family::kLogarithmic: parameters += 8; break;
      case Family::kAdditive:
      case Family::kTernary:
      case Family::kBinary:
      case Family::kDoReFa:
      case Family::kFloat8E4M3:
      case Family::kFloat8E5M2: parameters += 32; break;
      case Family::kTrainedTernary: parameters += 64; break;
      case Family::kCodebook:
      case Family::kMultiBit: parameters += 32 * static_cast<int64_t>(g.levels.size()); break;
      case Family::kLearnedBasis: parameters += 32 * spec.bits; break;
    }
  }
  return codes.size() * bits + parameters;
}

DType code_type(const QuantizerSpec& spec) {
  return spec.family == Family::kPowerOfTwo || (spec.family == Family::kUniform && spec.symmetric) ? DType::kI8 : DType::kU8;
}

std::vector<Grid> fit_rows(const QuantizerSpec& spec, const Tensor& rows, std::span<const float> column_importance) {
  const int64_t count = rows.dim(0), columns = rows.dim(1);
  const float* x = rows.data<float>();
  if (spec.granularity == Granularity::kTensor) {
    std::vector<float> importance;
    if (!column_importance.empty())
      for (int64_t r = 0; r < count; ++r) importance.insert(importance.end(), column_importance.begin(), column_importance.end());
    return {fit(spec, {x, static_cast<size_t>(rows.size())}, importance)};
  }
  const int64_t step = columns_a_grid(spec, columns), groups = columns == 0 ? 1 : (columns + step - 1) / step;
  std::vector<Grid> grids(static_cast<size_t>(count * groups));
  for (int64_t i = 0; i < count * groups; ++i) {
    const int64_t begin = i % groups * step, length = std::min(step, columns - begin);
    grids[static_cast<size_t>(i)] = fit(spec, {x + i / groups * columns + begin, static_cast<size_t>(length)},
                                        column_importance.empty() ? column_importance : column_importance.subspan(static_cast<size_t>(begin), static_cast<size_t>(length)));
  }
  return grids;
}

QuantizedTensor with_grids(const QuantizerSpec& spec, const Tensor& rows, std::vector<Grid> grids) {
  const int64_t count = rows.dim(0), columns = rows.dim(1), step = columns_a_grid(spec, columns);
  QuantizedTensor q{spec, Tensor(code_type(spec), {count, columns}), std::move(grids)};
  const bool is_signed = q.codes.dtype() == DType::kI8;
  for (int64_t r = 0; r < count; ++r)
    for (int64_t begin = 0; begin < columns; begin += step) {
      const Grid& grid = q.grid_at(r, begin);
      for (int64_t c = begin; c < std::min(begin + step, columns); ++c) {
        const int code = grid.code(rows.data<float>()[r * columns + c]);
        if (is_signed) q.codes.data<int8_t>()[r * columns + c] = static_cast<int8_t>(code);
        else q.codes.data<uint8_t>()[r * columns + c] = static_cast<uint8_t>(code);
      }
    }
  return q;
}

QuantizedTensor quantize(const QuantizerSpec& spec, const Tensor& rows, std::span<const float> column_importance) {
  return with_grids(spec, rows, fit_rows(spec, rows, column_importance));
}

double relative_noise(const Tensor& near, const Tensor& exact) {
  double error = 0, square = 0;
  for (int64_t i = 0; i < exact.size(); ++i) {
    const double e = static_cast<double>(near.data<float>()[i]) - static_cast<double>(exact.data<float>()[i]);
    error += e * e;
    square += static_cast<double>(exact.data<float>()[i]) * static_cast<double>(exact.data<float>()[i]);
  }
  return square > 0 ? error / square : 0;
}

namespace {

std::vector<int64_t> front(int64_t rank, int64_t axis) {
  std::vector<int64_t> order{axis};
  for (int64_t i = 0; i < rank; ++i)
    if (i != axis) order.push_back(i);
  return order;
}

}  // namespace

Tensor to_rows(const Tensor& weights, int64_t axis) {
  Tensor moved = axis == 0 ? weights : transpose(weights, front(weights.rank(), axis));
  const int64_t rows = weights.dim(axis);
  return moved.reshaped({rows, rows == 0 ? 0 : weights.size() / rows});
}

Tensor from_rows(const Tensor& rows, const Shape& shape, int64_t axis) {
  if (axis == 0) return rows.reshaped(shape);
  const auto order = front(static_cast<int64_t>(shape.size()), axis);
  Shape moved;
  std::vector<int64_t> back(order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    moved.push_back(shape[static_cast<size_t>(order[i])]);
    back[static_cast<size_t>(order[i])] = static_cast<int64_t>(i);
  }
  return transpose(rows.reshaped(moved), back);
}

namespace {

struct Named {
  std::string_view name;
  Family family;
  int bits;
};
constexpr Named kFamilies[] = {
    {"pow2", Family::kPowerOfTwo, 8},   {"log", Family::kLogarithmic, 4},        {"apot", Family::kAdditive, 5},
    {"codebook", Family::kCodebook, 4}, {"twn", Family::kTernary, 2},            {"ttq", Family::kTrainedTernary, 2},
    {"binary", Family::kBinary, 1},     {"abc", Family::kMultiBit, 2},           {"lq", Family::kLearnedBasis, 2},
    {"dorefa", Family::kDoReFa, 4},     {"fp8", Family::kFloat8E4M3, 8},         {"e5m2", Family::kFloat8E5M2, 8}};

bool number(std::string_view text, int64_t* value) {
  if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != text.npos) return false;
  *value = std::stoll(std::string(text));
  return true;
}

}  // namespace

std::string QuantizerSpec::text() const {
  std::string name;
  if (family == Family::kUniform) name = fmt::format("{}{}", symmetric ? "int" : "uint", bits);
  for (const Named& f : kFamilies)
    if (f.family == family)
      name = bits == f.bits && family != Family::kMultiBit ? std::string(f.name) : fmt::format("{}:{}", f.name, family == Family::kMultiBit ? terms : bits);
  if (granularity == Granularity::kTensor) name += ",tensor";
  if (granularity == Granularity::kGroup) name += fmt::format(",g{}", group);
  if (fit == ScaleFit::kSquaredError) name += ",mse";
  return name;
}

QuantizerSpec parse_quantizer(std::string_view text) {
  QuantizerSpec spec;
  bool first = true;
  auto wrong = [&](std::string_view part) {
    fail(ErrorKind::kUsage, "quantizer \"{}\": \"{}\" is not known; there are int8 int4 int2 uint8 uint4 uint2 pow2:BITS log:BITS apot:BITS codebook:BITS twn ttq binary "
         "abc:TERMS lq:BITS dorefa:BITS fp8 e5m2, followed by channel, tensor or gN (group of N), and mse", text, part);
  };
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    std::string_view part = text.substr(at, end - at);
    at = end + 1;
    int64_t value = 0;
    if (first) {
      first = false;
      const size_t colon = part.find(':');
      const std::string_view name = part.substr(0, colon);
      const bool is_unsigned = name.starts_with("uint");
      if (colon == part.npos && (is_unsigned || name.starts_with("int"))) {
        if (!number(name.substr(is_unsigned ? 4 : 3), &value) || value < 2 || value > 8) wrong(part);
        spec.bits = static_cast<int>(value);
        spec.symmetric = !is_unsigned;
        continue;
      }
      const Named* found = nullptr;
      for (const Named& f : kFamilies)
        if (f.name == name) found = &f;
      if (!found) wrong(part);
      spec.family = found->family;
      spec.bits = found->bits;
      if (colon != part.npos) {
        std::string_view given = part.substr(colon + 1);
        if (given.starts_with("int")) given.remove_prefix(3);
        const bool fixed = spec.family == Family::kTernary || spec.family == Family::kTrainedTernary || spec.family == Family::kBinary ||
                           spec.family == Family::kFloat8E4M3 || spec.family == Family::kFloat8E5M2;
        if (fixed || !number(given, &value) || value < 1 || value > 8) wrong(part);
        const bool from_two = spec.family == Family::kPowerOfTwo || spec.family == Family::kLogarithmic || spec.family == Family::kAdditive;
        if ((from_two && value < 2) || (spec.family == Family::kLearnedBasis && value > 4)) wrong(part);
        if (spec.family == Family::kMultiBit) spec.terms = static_cast<int>(value), spec.bits = value == 1 ? 1 : 2 + (value > 3) + (value > 7);
        else spec.bits = static_cast<int>(value);
      }
      continue;
    }
    if (part == "channel") spec.granularity = Granularity::kChannel;
    else if (part == "tensor") spec.granularity = Granularity::kTensor;
    else if (part == "mse") spec.fit = ScaleFit::kSquaredError;
    else if (part.starts_with("g") && number(part.substr(1), &value) && value >= 2) spec.granularity = Granularity::kGroup, spec.group = value;
    else wrong(part);
  }
  return spec;
}

}  // namespace lathe
