#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>

#include "kernels/reference/access.h"
#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

using Complex = std::complex<double>;

// The sum as it is defined, with the roots of unity taken from a table. `count` outputs of x, padded or cut
// to `length`.
class Transform {
 public:
  Transform(int64_t length, bool inverse) : length_(length), inverse_(inverse), roots_(length) {
    double turn = (inverse ? 2 : -2) * std::numbers::pi / static_cast<double>(length);
    for (int64_t k = 0; k < length; ++k) roots_[k] = std::polar(1.0, turn * static_cast<double>(k));
  }
  std::vector<Complex> operator()(const std::vector<Complex>& x, int64_t count) const {
    std::vector<Complex> y(count);
    int64_t used = std::min(length_, static_cast<int64_t>(x.size()));
    for (int64_t k = 0; k < count; ++k) {
      Complex sum = 0;
      for (int64_t n = 0, at = 0; n < used; ++n, at = (at + k) % length_) sum += x[n] * roots_[at];
      y[k] = inverse_ ? sum / static_cast<double>(length_) : sum;
    }
    return y;
  }

 private:
  int64_t length_;
  bool inverse_;
  std::vector<Complex> roots_;
};

void dft(Context& c) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  bool onesided = c.node().get_int("onesided") != 0, inverse = c.node().get_int("inverse") != 0;
  int64_t axis = normalize_axis(c.has_input(2) ? c.input(2).get_int(0) : -2, x.rank());
  int64_t in = x.dim(axis), out = y.dim(axis), parts = x.dim(-1), out_parts = y.dim(-1);
  int64_t length = c.has_input(1) ? c.input(1).get_int(0) : onesided && inverse ? 2 * (in - 1) : in;
  int64_t outer = product(x.shape(), 0, axis), inner = product(x.shape(), axis + 1, x.shape().size() - 1);
  Transform transform(length, inverse);
  for (int64_t o = 0; o < outer; ++o)
    for (int64_t i = 0; i < inner; ++i) {
      std::vector<Complex> line(in);
      for (int64_t k = 0; k < in; ++k) {
        int64_t at = ((o * in + k) * inner + i) * parts;
        line[k] = {x.get(at), parts == 2 ? x.get(at + 1) : 0.0};
      }
      if (onesided && inverse) {  // the other half of the spectrum is the conjugate of this one
        line.resize(length / 2 + 1);
        for (int64_t k = length / 2 + 1; k < length; ++k) line.push_back(std::conj(line[length - k]));
      }
      std::vector<Complex> result = transform(line, out);
      for (int64_t k = 0; k < out; ++k) {
        int64_t at = ((o * out + k) * inner + i) * out_parts;
        y.set(at, result[k].real());
        if (out_parts == 2) y.set(at + 1, result[k].imag());
      }
    }
}

void stft(Context& c) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  int64_t step = c.input(1).get_int(0), frames = y.dim(1), bins = y.dim(2), length = x.dim(1), parts = x.dim(2);
  int64_t frame = c.has_input(3) ? c.input(3).get_int(0) : c.input(2).size();
  Transform transform(frame, false);
  std::vector<Complex> line(frame);
  for (int64_t b = 0; b < x.dim(0); ++b)
    for (int64_t f = 0; f < frames; ++f) {
      for (int64_t i = 0; i < frame; ++i) {
        int64_t at = (b * length + f * step + i) * parts;
        double weight = c.has_input(2) ? c.input(2).get(i) : 1;
        line[i] = weight * Complex(x.get(at), parts == 2 ? x.get(at + 1) : 0.0);
      }
      std::vector<Complex> result = transform(line, bins);
      for (int64_t k = 0; k < bins; ++k) {
        int64_t at = ((b * frames + f) * bins + k) * 2;
        y.set(at, result[k].real());
        y.set(at + 1, result[k].imag());
      }
    }
}

void mel_weight_matrix(Context& c) {
  Tensor& y = c.output();
  for (size_t i = 2; i < 5; ++i)
    check_model(c.input(i).size() == 1, "input {} must be one number", i);
  int64_t rows = y.dim(0), bins = y.dim(1);
  auto dft_length = static_cast<double>(c.input(1).get_int(0)), rate = static_cast<double>(c.input(2).get_int(0));
  check_model(rate > 0, "sample_rate is {}, expected a positive number", rate);
  auto mel = [](double hertz) { return 2595 * std::log10(1 + hertz / 700); };
  double low = mel(c.input(3).get(0)), high = mel(c.input(4).get(0)), width = (high - low) / static_cast<double>(bins + 2);
  // The spectrum bin at the edge or centre `i` of the triangles.
  auto edge = [&](int64_t i) {
    double hertz = 700 * (std::pow(10.0, (static_cast<double>(i) * width + low) / 2595) - 1);
    double bin = std::floor((dft_length + 1) * hertz / rate);
    if (!(bin >= 0 && bin <= static_cast<double>(rows)))
      fail(ErrorKind::kInput, "a mel band ends at spectrum bin {}, beyond the last, {}", bin, rows - 1);
    return static_cast<int64_t>(bin);
  };
  for (int64_t i = 0; i < y.size(); ++i) y.set(i, 0.0);
  for (int64_t i = 0; i < bins; ++i) {
    int64_t first = edge(i), centre = edge(i + 1), last = edge(i + 2);
    auto put = [&](int64_t row, double value) {
      if (row < rows) y.set(row * bins + i, value);
    };
    if (first == centre) put(centre, 1);
    for (int64_t k = first; k <= centre && first < centre; ++k)
      put(k, static_cast<double>(k - first) / static_cast<double>(centre - first));
    for (int64_t k = centre; k < last; ++k)
      put(k, static_cast<double>(last - k) / static_cast<double>(last - centre));
  }
}

}  // namespace

void register_signal(Registry& r) {
  r.add("DFT", dft);
  r.add("STFT", stft);
  r.add("MelWeightMatrix", mel_weight_matrix);
}

}  // namespace lathe::reference
