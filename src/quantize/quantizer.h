// Quantizers: how real numbers become few codes, and what the codes stand for. Every family of the literature that lathe
// has fits a Grid to the numbers that share one (a tensor's, a channel's, a group's), and a Grid rounds.
//
//   Grid grid = fit({.family = Family::kUniform, .bits = 4}, weights_of_a_channel);
//   int code = grid.code(0.3f);   float near = grid.value(code);      // grid.fake(0.3f) is both
//   QuantizedTensor q = quantize(spec, rows);                         // a matrix, a row an output channel
//   Tensor near_rows = q.dequantize();
//
// Numbers that are not finite: a NaN in weights is an error (kModel); infinities count as the largest finite number of the
// fit and get the last code. A NaN given to code() becomes the code of the lowest value.
// Survey: Rokh et al. 2023, "A Comprehensive Survey on Model Quantization for Deep Neural Networks in Image Classification".
#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace lathe {

enum class Family {
  kUniform,        // s·(q − z), round half to even
  kPowerOfTwo,     // the same with s = 2^k, so that rescaling is a shift
  kLogarithmic,    // ±2^k and 0 (Miyashita et al. 2016): a product is a shift
  kAdditive,       // sums of `terms` powers of two (Li et al. 2020, APoT)
  kCodebook,       // 2^bits values of least squared error: one-dimensional k-means (Han et al. 2016, Deep Compression)
  kTernary,        // TWN: {−α, 0, α}, Δ = 0.7·mean|w| (Li et al. 2016)
  kTrainedTernary, // TTQ: {−α⁻, 0, α⁺}, Δ = 0.05·max|w| (Zhu et al. 2017), before training
  kBinary,         // ±mean|w| (Rastegari et al. 2016, XNOR-Net, section 3.1)
  kMultiBit,       // Σ αᵢ·sign(w − mean + uᵢ·std), α by least squares (Lin et al. 2017, ABC-Net)
  kLearnedBasis,   // Σ ±vᵢ, v by alternating least squares (Zhang et al. 2018, LQ-Nets)
  kDoReFa,         // uniform on tanh(w)/max|tanh(w)| (Zhou et al. 2016)
  kFloat8E4M3,     // OCP 8-bit floating point, with a scale
  kFloat8E5M2,
};
enum class Granularity { kTensor, kChannel, kGroup };
// What a scale is fitted to: the whole range, or the least squared error.
enum class ScaleFit { kRange, kSquaredError };

struct QuantizerSpec {
  Family family = Family::kUniform;
  int bits = 8;           // codes; of families with a fixed number of levels, what they need
  bool symmetric = true;  // uniform: zero point 0 and as many codes below as above it (int8: −127…127, int2: −1…1)
  Granularity granularity = Granularity::kChannel;
  int64_t group = 64;     // elements along the reduction that share a grid, with kGroup
  ScaleFit fit = ScaleFit::kRange;
  int terms = 2;          // of kAdditive and kMultiBit
  bool operator==(const QuantizerSpec&) const = default;
  std::string text() const;  // "int4,g64,mse"
};

// What codes stand for. Uniform grids hold codes low … high with a scale and zero point; others a list of values
// and the borders between them.
struct Grid {
  float scale = 1;
  int zero = 0, low = 0, high = 0;
  std::vector<float> levels;   // ascending; empty: uniform
  std::vector<float> borders;  // one less: x ≥ borders[i] has a code above i

  bool uniform() const { return levels.empty(); }
  int codes() const { return uniform() ? high - low + 1 : static_cast<int>(levels.size()); }
  int code(float x) const;
  float value(int code) const { return uniform() ? scale * static_cast<float>(code - zero) : levels[static_cast<size_t>(code)]; }
  float fake(float x) const { return value(code(x)); }
};

// The grid of a range that must be kept whole: 0 is in it, and has a code.
Grid uniform_grid(float least, float most, int bits, bool symmetric);
// `importance`: weight of each element's squared error; empty: all alike.
Grid fit(const QuantizerSpec& spec, std::span<const float> x, std::span<const float> importance = {});
double squared_error(const Grid& grid, std::span<const float> x, std::span<const float> importance = {});

// A matrix in codes, a row an output channel.
struct QuantizedTensor {
  QuantizerSpec spec;
  Tensor codes;              // i8 or u8 [rows, columns]
  std::vector<Grid> grids;   // of the tensor, each row, or each group of each row
  int64_t groups_per_row() const;
  const Grid& grid_at(int64_t row, int64_t column) const;
  Tensor dequantize() const;  // f32 [rows, columns]
  int64_t storage_bits() const;  // codes, scales, zero points and codebooks
};
// What codes are kept as: i8 around zero, else u8.
DType code_type(const QuantizerSpec& spec);
// Grids alone, before anything is rounded.
std::vector<Grid> fit_rows(const QuantizerSpec& spec, const Tensor& rows, std::span<const float> column_importance = {});
QuantizedTensor quantize(const QuantizerSpec& spec, const Tensor& rows, std::span<const float> column_importance = {});
QuantizedTensor with_grids(const QuantizerSpec& spec, const Tensor& rows, std::vector<Grid> grids);

// Squared error of `near` over the squares of `exact`, of equal size in f32; 0 where those are 0.
double relative_noise(const Tensor& near, const Tensor& exact);

// Weights as rows: the axis of output channels first, all else behind it. `axis` is that of the output channels.
Tensor to_rows(const Tensor& weights, int64_t axis);
Tensor from_rows(const Tensor& rows, const Shape& shape, int64_t axis);

// "int8", "uint4", "int2,tensor", "int4,g64,mse", "pow2:int8", "log:4", "apot:4", "codebook:4", "twn", "ttq", "binary", "abc:3", "lq:2",
// "dorefa:4", "fp8", "e5m2". Throws kUsage with the list when it is none of them.
QuantizerSpec parse_quantizer(std::string_view text);

}  // namespace lathe
