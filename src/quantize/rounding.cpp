#include "quantize/rounding.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/parallel.h"

namespace lathe {
namespace {

Tensor difference(const Tensor& a, const Tensor& b) {
  Tensor d(DType::kF32, a.shape());
  for (int64_t i = 0; i < d.size(); ++i) d.data<float>()[i] = a.data<float>()[i] - b.data<float>()[i];
  return d;
}

void set_code(Tensor& codes, int64_t i, int code) {
  if (codes.dtype() == DType::kI8) codes.data<int8_t>()[i] = static_cast<int8_t>(code);
  else codes.data<uint8_t>()[i] = static_cast<uint8_t>(code);
}

// e^x to about 1e-7 of it, in a form that a compiler makes vectors of; x within ±80.
inline float exponential(float x) {
  const float scaled = x * 1.44269504f;
  const float whole = std::floor(scaled);
  const float f = scaled - whole;
  const float p = 1.0f + f * (0.693147182f + f * (0.240226462f + f * (0.0555041151f + f * (0.00961813f + f * 0.00133336f + f * f * 0.000154f))));
  return p * std::bit_cast<float>((static_cast<int32_t>(whole) + 127) << 23);
}

}  // namespace

std::vector<double> output_errors(const Tensor& near, const Tensor& exact, const Tensor& moments, Products& products) {
  const Tensor d = difference(near, exact), dm = products.multiply(d, moments);
  std::vector<double> errors(static_cast<size_t>(d.dim(0)), 0);
  for (int64_t r = 0; r < d.dim(0); ++r)
    for (int64_t c = 0; c < d.dim(1); ++c)
      errors[static_cast<size_t>(r)] += static_cast<double>(d.data<float>()[r * d.dim(1) + c]) * static_cast<double>(dm.data<float>()[r * d.dim(1) + c]);
  for (double& e : errors) e = std::max(e, 0.0);
  return errors;
}

double output_error(const Tensor& near, const Tensor& exact, const Tensor& moments, Products& products) {
  double sum = 0;
  for (double e : output_errors(near, exact, moments, products)) sum += e;
  return sum;
}

QuantizedTensor gptq(const QuantizerSpec& spec, const Tensor& rows, const Tensor& moments, Products& products) {
  const int64_t count = rows.dim(0), columns = rows.dim(1);
  constexpr int64_t kBlock = 128;
  Tensor h = moments.clone();
  double trace = 0;
  for (int64_t i = 0; i < columns; ++i) trace += static_cast<double>(h.data<float>()[i * columns + i]);
  const auto damping = static_cast<float>(std::max(0.01 * trace / static_cast<double>(columns), 1e-12));
  for (int64_t i = 0; i < columns; ++i) h.data<float>()[i * columns + i] += damping;
  const Tensor u = inverse_factor(std::move(h), products);

  Tensor w = rows.clone();
  const bool grouped = spec.granularity == Granularity::kGroup;
  QuantizedTensor q{spec, Tensor(code_type(spec), rows.shape()), {}};
  const int64_t groups = q.groups_per_row();
  if (grouped) q.grids.resize(static_cast<size_t>(count * groups));  // fitted when their columns are reached
  else q.grids = fit_rows(spec, rows);                               // of the weights as they were
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, columns), size = end - begin;
    Tensor errors(DType::kF32, {count, size});
    auto fit_group = [&](int64_t r, int64_t c) {
      const int64_t length = std::min(spec.group, columns - c);
      q.grids[static_cast<size_t>(r * groups + c / spec.group)] = fit(spec, {w.data<float>() + r * columns + c, static_cast<size_t>(length)});
    };
    parallel_for(count, 8, [&](int64_t from, int64_t to) {
      for (int64_t r = from; r < to; ++r) {
        float* row = w.data<float>() + r * columns;
        for (int64_t c = begin; c < end; ++c) {
          if (grouped && c % spec.group == 0) fit_group(r, c);
          const Grid& grid = q.grid_at(r, c);
          const int code = grid.code(row[c]);
          set_code(q.codes, r * columns + c, code);
          const float error = (row[c] - grid.value(code)) / u.data<float>()[c * columns + c];
          errors.data<float>()[r * size + c - begin] = error;
          const float* next = u.data<float>() + c * columns;
          for (int64_t k = c; k < end; ++k) row[k] -= error * next[k];
        }
      }
    });
    if (end == columns) break;
    Tensor rest(DType::kF32, {size, columns - end});
    for (int64_t c = 0; c < size; ++c)
      std::memcpy(rest.data<float>() + c * (columns - end), u.data<float>() + (begin + c) * columns + end, static_cast<size_t>(columns - end) * sizeof(float));
    const Tensor change = products.multiply(errors, rest);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = end; c < columns; ++c) w.data<float>()[r * columns + c] -= change.data<float>()[r * (columns - end) + c - end];
  }
  return q;
}

namespace {

// Single weights go over to their other neighbour as long as that makes their row's error smaller. `base`: the lower neighbour, in steps.
void descend(const Tensor& rows, const Tensor& moments, const std::vector<float>& base, Products& products, QuantizedTensor* q) {
  const int64_t columns = rows.dim(1);
  const Tensor d = difference(q->dequantize(), rows), dm = products.multiply(d, moments);
  const float* m = moments.data<float>();
  parallel_for(rows.dim(0), 1, [&](int64_t from, int64_t to) {
    std::vector<double> slope(static_cast<size_t>(columns));
    for (int64_t r = from; r < to; ++r) {
      for (int64_t c = 0; c < columns; ++c) slope[static_cast<size_t>(c)] = static_cast<double>(dm.data<float>()[r * columns + c]);
      bool moved = true;
      for (int sweep = 0; sweep < 8 && moved; ++sweep) {
        moved = false;
        for (int64_t c = 0; c < columns; ++c) {
          const int64_t i = r * columns + c;
          const Grid& grid = q->grid_at(r, c);
          const int low = static_cast<int>(base[static_cast<size_t>(i)]) + grid.zero;
          const int code = q->codes.dtype() == DType::kI8 ? q->codes.data<int8_t>()[i] : q->codes.data<uint8_t>()[i];
          const int other = code == low ? low + 1 : low;
          if (other < grid.low || other > grid.high) continue;
          const double step = static_cast<double>(grid.scale) * (other - code);
          if (2 * step * slope[static_cast<size_t>(c)] + step * step * static_cast<double>(m[c * columns + c]) >= 0) continue;
          set_code(q->codes, i, other);
          for (int64_t k = 0; k < columns; ++k) slope[static_cast<size_t>(k)] += step * static_cast<double>(m[c * columns + k]);
          moved = true;
        }
      }
    }
  });
}

}  // namespace

QuantizedTensor adaround(const QuantizerSpec& spec, const Tensor& rows, const Tensor& moments, Products& products, const AdaRoundOptions& options) {
  QuantizedTensor best = quantize(spec, rows);
  require(spec.family == Family::kUniform || spec.family == Family::kPowerOfTwo, "adaptive rounding is between the two neighbours of a uniform grid");
  const int64_t count = rows.dim(0), columns = rows.dim(1), size = rows.size();
  constexpr float kZeta = 1.1f, kGamma = -0.1f;
  const std::vector<double> nearest_errors = output_errors(best.dequantize(), rows, moments, products);
  // V so that h(V) is where the weight lies between its neighbours.
  std::vector<float> v(static_cast<size_t>(size)), first(v.size(), 0), second(v.size(), 0), base(v.size()), scale(v.size()), most(v.size());
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const auto i = static_cast<size_t>(r * columns + c);
      const Grid& grid = best.grid_at(r, c);
      const float q = std::clamp(rows.data<float>()[i] / grid.scale, static_cast<float>(grid.low - grid.zero), static_cast<float>(grid.high - grid.zero));
      const float whole = std::min(std::floor(q), static_cast<float>(grid.high - grid.zero - 1));
      base[i] = whole;
      scale[i] = grid.scale;
      const float p = std::clamp((std::clamp(q - whole, 0.0f, 1.0f) - kGamma) / (kZeta - kGamma), 0.01f, 0.99f);
      v[i] = std::log(p / (1 - p));
    }
  double output = 0;  // mean square of a row's output, to make λ of no unit
  {
    Tensor zero(DType::kF32, rows.shape());
    std::memset(zero.raw(), 0, zero.bytes());
    output = output_error(zero, rows, moments, products) / static_cast<double>(std::max<int64_t>(count, 1));
  }
  const double noise = [&] {
    double sum = 0;
    for (double e : nearest_errors) sum += e;
    return sum / static_cast<double>(std::max<int64_t>(count, 1));
  }();
  if (!(noise > 0) || !(output > 0)) return best;
  Tensor d(DType::kF32, rows.shape());
  const int warm = options.steps / 5;  // without the pull to the ends
  for (int step = 0; step < options.steps; ++step) {
    auto h_of = [&](int64_t i, float* slope) {
      const float s = 1 / (1 + exponential(-std::clamp(v[static_cast<size_t>(i)], -30.0f, 30.0f)));
      const float h = s * (kZeta - kGamma) + kGamma;
      *slope = h > 0 && h < 1 ? (kZeta - kGamma) * s * (1 - s) : 0;
      return std::clamp(h, 0.0f, 1.0f);
    };
    parallel_for(size, 1 << 14, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        float slope;
        d.data<float>()[i] = (base[static_cast<size_t>(i)] + h_of(i, &slope)) * scale[static_cast<size_t>(i)] - rows.data<float>()[i];
      }
    });
    const Tensor gradient = products.multiply(d, moments);
    const double progress = step < warm ? 0 : static_cast<double>(step - warm) / std::max(1, options.steps - warm);
    const auto beta = static_cast<float>(2 + 18 * 0.5 * (1 + std::cos(progress * 3.14159265358979)));
    // In units of the error that nearest rounding makes, shared among the weights of a row.
    const auto pull = step < warm ? 0.0f : static_cast<float>(options.regularization * noise / static_cast<double>(columns) * 40);
    const float c1 = 1 - std::pow(0.9f, static_cast<float>(step + 1)), c2 = 1 - std::pow(0.999f, static_cast<float>(step + 1));
    parallel_for(size, 1 << 14, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        const auto k = static_cast<size_t>(i);
        float slope;
        const float h = h_of(i, &slope), side = 2 * h - 1;
        float g = 2 * gradient.data<float>()[i] * scale[k] * slope;
        if (pull > 0 && side != 0) {
          // −β·|2h − 1|^(β−1)·sign·2, by exp and log
          const float power = exponential(std::max((beta - 1) * std::log(std::abs(side)), -60.0f));
          g -= pull * beta * power * 2 * (side > 0 ? 1.0f : -1.0f) * slope;
        }
        first[k] = 0.9f * first[k] + 0.1f * g;
        second[k] = 0.999f * second[k] + 0.001f * g * g;
        v[k] -= options.rate * (first[k] / c1) / (std::sqrt(second[k] / c2) + 1e-30f);
      }
    });
  }
  QuantizedTensor learned = best;
  learned.codes = best.codes.clone();
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t i = r * columns + c;
      const Grid& grid = best.grid_at(r, c);
      set_code(learned.codes, i, std::clamp(static_cast<int>(base[static_cast<size_t>(i)]) + (v[static_cast<size_t>(i)] > 0) + grid.zero, grid.low, grid.high));
    }
  descend(rows, moments, base, products, &learned);
  const std::vector<double> errors = output_errors(learned.dequantize(), rows, moments, products);
  for (int64_t r = 0; r < count; ++r)
    if (errors[static_cast<size_t>(r)] < nearest_errors[static_cast<size_t>(r)])
      std::memcpy(best.codes.data<char>() + r * columns, learned.codes.data<char>() + r * columns, static_cast<size_t>(columns));
  return best;
}

AwqScales awq_scales(const QuantizerSpec& spec, const Tensor& rows, const Tensor& moments, const std::vector<float>& mean_magnitude, Products& products) {
  const int64_t count = rows.dim(0), columns = rows.dim(1);
  AwqScales best;
  best.factors.assign(static_cast<size_t>(columns), 1);
  float largest = 0;
  for (float m : mean_magnitude) largest = std::max(largest, m);
  for (int step = 0; step < 20; ++step) {
    const double alpha = step / 20.0;
    std::vector<float> factors(static_cast<size_t>(columns), 1);
    float least = HUGE_VALF, most = 0;
    for (int64_t c = 0; c < columns; ++c) {
      // Channels that are never read get the factor of a hundredth of the largest.
      const float magnitude = std::max(mean_magnitude[static_cast<size_t>(c)], largest * 1e-2f);
      const float f = largest > 0 ? static_cast<float>(std::pow(static_cast<double>(magnitude), alpha)) : 1;
      factors[static_cast<size_t>(c)] = f;
      least = std::min(least, f);
      most = std::max(most, f);
    }
    for (float& f : factors) f /= std::sqrt(least * most);
    Tensor scaled(DType::kF32, rows.shape());
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = 0; c < columns; ++c) scaled.data<float>()[r * columns + c] = rows.data<float>()[r * columns + c] * factors[static_cast<size_t>(c)];
    Tensor near = quantize(spec, scaled).dequantize();
    for (int64_t r = 0; r < count; ++r)
      for (int64_t c = 0; c < columns; ++c) near.data<float>()[r * columns + c] /= factors[static_cast<size_t>(c)];
    const double error = output_error(near, rows, moments, products);
    if (step == 0) best.error = best.error_without = error;
    if (error < best.error) best.error = error, best.alpha = alpha, best.factors = std::move(factors);
  }
  return best;
}

}  // namespace lathe
