#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "graph/ops/resample.h"
#include "graph/ops/resize.h"
#include "kernels/reference/access.h"
#include "kernels/reference/families.h"

namespace lathe::reference {
namespace {

using ops::AxisResampler;
using Tap = ops::ResampleTap;
using ops::cubic;

void resize(Context& c) {
  const Tensor& x = c.input();
  Tensor& y = c.output();
  auto given = [&c](size_t i) { return c.has_input(i) && c.input(i).size() > 0 ? &c.input(i) : nullptr; };
  ops::ResizePlan plan = ops::resize_plan(c.node(), x.shape(), given(2), given(3));
  auto count = static_cast<int64_t>(plan.axes.size());
  if (y.size() == 0) return;
  const Tensor* roi = given(1);
  bool crops = c.node().get_string("coordinate_transformation_mode") == "tf_crop_and_resize";
  check_model(!crops || (roi && roi->size() == 2 * count), "tf_crop_and_resize needs a roi of {} numbers", 2 * count);
  bool nearest = c.node().get_string("mode") == "nearest";
  double outside = c.node().get_float("extrapolation_value");
  // One axis after another: exact for every mode, because each is a product over the axes.
  Tensor exact = x;  // nearest moves elements without converting them
  std::vector<double> values = nearest ? std::vector<double>() : doubles(x);
  Shape shape = x.shape();
  for (int64_t k = 0; k < count; ++k) {
    int64_t axis = plan.axes[k], in = shape[axis], out = plan.outputs[axis];
    float start = crops ? static_cast<float>(roi->get(k)) : 0, end = crops ? static_cast<float>(roi->get(count + k)) : 1;
    AxisResampler sampler(c.node(), in, out, plan.scales[axis], start, end);
    if (sampler.is_identity()) continue;
    int64_t outer = product(shape, 0, axis), inner = product(shape, axis + 1, shape.size());
    shape[axis] = out;
    if (nearest) {
      Tensor next(x.dtype(), shape);
      int64_t width = static_cast<int64_t>(size_of(x.dtype())) * inner;
      for (int64_t i = 0; i < out; ++i) {
        int64_t from = sampler.nearest(i);
        bool extrapolates = sampler.extrapolates(i);
        for (int64_t o = 0; o < outer; ++o) {
          std::memcpy(next.data<char>() + (o * out + i) * width, exact.data<char>() + (o * in + from) * width, width);
          if (extrapolates)
            for (int64_t j = 0; j < inner; ++j) next.set((o * out + i) * inner + j, outside);
        }
      }
      exact = next;
      continue;
    }
    std::vector<double> next(outer * out * inner, 0.0);
    for (int64_t i = 0; i < out; ++i) {
      bool extrapolates = sampler.extrapolates(i);
      std::vector<Tap> taps = extrapolates ? std::vector<Tap>() : sampler.taps(i);
      for (int64_t o = 0; o < outer; ++o) {
        double* to = next.data() + (o * out + i) * inner;
        if (extrapolates) std::fill(to, to + inner, outside);
        for (const Tap& tap : taps) {
          const double* from = values.data() + (o * in + tap.index) * inner;
          for (int64_t j = 0; j < inner; ++j) to[j] += tap.weight * from[j];
        }
      }
    }
    values = std::move(next);
  }
  if (nearest) {
    std::memcpy(y.raw(), exact.raw(), y.bytes());
  } else {
    for (int64_t i = 0; i < y.size(); ++i) y.set(i, values[i]);
  }
}

// Reflects a coordinate at both bounds until it lies between them.
double reflect(double x, double low, double high) {
  double range = high - low;
  if (range <= 0) return low;
  if (x >= low && x <= high) return x;
  double distance = x < low ? low - x : x - high, turns = std::floor(distance / range), rest = distance - turns * range;
  bool even = std::fmod(turns, 2) == 0;
  if (x < low) return even ? low + rest : high - rest;
  return even ? high - rest : low + rest;
}

class GridSampler {
 public:
  explicit GridSampler(const Node& node)
      : align_(node.get_int("align_corners") != 0), mode_(node.get_string("mode")),
        padding_(node.get_string("padding_mode")) {
    linear_ = mode_ == "linear" || mode_ == "bilinear";
    cubic_ = mode_ == "cubic" || mode_ == "bicubic";
    check_model(linear_ || cubic_ || mode_ == "nearest", "mode is '{}', expected linear, nearest or cubic", mode_);
    check_model(padding_ == "zeros" || padding_ == "border" || padding_ == "reflection",
                "padding_mode is '{}', expected zeros, border or reflection", padding_);
  }

  // What one axis of `size` contributes for a normalized coordinate.
  std::vector<Tap> taps(double coordinate, int64_t size) const {
    auto extent = static_cast<double>(size);
    double x = align_ ? (coordinate + 1) / 2 * (extent - 1) : ((coordinate + 1) * extent - 1) / 2;
    double low = align_ ? 0 : -0.5, high = align_ ? extent - 1 : extent - 0.5;
    // Far outside and not a number alike; beyond any image, within integers.
    x = std::isnan(x) ? -2 : std::min(std::max(x, -1e12), 1e12);
    if (!linear_ && !cubic_) x = std::nearbyint(x);
    if (x < low || x > high) {
      if (padding_ == "border") x = std::min(std::max(x, 0.0), extent - 1);
      if (padding_ == "reflection") x = reflect(x, low, high);
    }
    if (!linear_ && !cubic_) return {{pixel(std::nearbyint(x), low, high, size), 1.0}};
    double base = std::floor(x);
    std::vector<Tap> taps;
    for (int i = linear_ ? 0 : -1; i <= (linear_ ? 1 : 2); ++i) {
      double distance = base + i - x;
      taps.push_back({pixel(base + i, low, high, size), linear_ ? 1 - std::fabs(distance) : cubic(distance, -0.75)});
    }
    return taps;
  }

 private:
  int64_t pixel(double x, double low, double high, int64_t size) const {
    auto last = static_cast<double>(size - 1);
    if (x < 0 || x > last) {
      if (padding_ == "zeros") return -1;
      if (padding_ == "reflection") x = std::nearbyint(reflect(x, low, high));
      x = std::min(std::max(x, 0.0), last);
    }
    return static_cast<int64_t>(x);
  }

  bool align_, linear_ = false, cubic_ = false;
  const std::string &mode_, &padding_;
};

void grid_sample(Context& c) {
  const Tensor &x = c.input(0), &grid = c.input(1);
  Tensor& y = c.output();
  if (y.size() == 0) return;
  GridSampler sampler(c.node());
  size_t rank = x.shape().size() - 2;
  Shape sizes(x.shape().begin() + 2, x.shape().end());
  int64_t in_size = element_count(sizes), points = product(y.shape(), 2, y.shape().size()), channels = x.dim(1);
  check_model(in_size > 0, "an image of shape {} cannot be sampled", to_string(x.shape()));
  for (int64_t n = 0; n < x.dim(0); ++n)
    for (int64_t p = 0; p < points; ++p) {
      // The taps of all axes, multiplied out; the grid lists the innermost axis first.
      std::vector<Tap> taps = {{0, 1.0}};
      for (size_t d = 0; d < rank; ++d) {
        std::vector<Tap> next;
        double coordinate = grid.get((n * points + p) * static_cast<int64_t>(rank) + static_cast<int64_t>(rank - 1 - d));
        for (const Tap& axis_tap : sampler.taps(coordinate, sizes[d])) {
          if (axis_tap.index < 0) continue;
          for (const Tap& tap : taps)
            next.push_back({tap.index * sizes[d] + axis_tap.index, tap.weight * axis_tap.weight});
        }
        taps = std::move(next);
      }
      for (int64_t ch = 0; ch < channels; ++ch) {
        double sum = 0;
        for (const Tap& tap : taps) sum += tap.weight * x.get((n * channels + ch) * in_size + tap.index);
        y.set((n * channels + ch) * points + p, sum);
      }
    }
}

void affine_grid(Context& c) {
  const Tensor& theta = c.input(0);
  Tensor& y = c.output();
  bool align = c.node().get_int("align_corners") != 0;
  int64_t rank = y.dim(-1), points = product(y.shape(), 1, y.shape().size() - 1);
  for (int64_t n = 0; n < y.dim(0); ++n)
    for (int64_t p = 0; p < points; ++p) {
      std::vector<double> at(rank + 1, 1.0);  // innermost axis first, then the homogeneous 1
      int64_t rest = p;
      for (int64_t d = 0; d < rank; ++d) {
        int64_t size = y.dim(rank - d), i = rest % size;
        rest /= size;
        auto extent = static_cast<double>(size), step = static_cast<double>(i);
        at[d] = !align ? (2 * step + 1) / extent - 1 : size > 1 ? 2 * step / (extent - 1) - 1 : 0;
      }
      for (int64_t d = 0; d < rank; ++d) {
        double sum = 0;
        for (int64_t k = 0; k <= rank; ++k) sum += theta.get((n * rank + d) * (rank + 1) + k) * at[k];
        y.set((n * points + p) * rank + d, sum);
      }
    }
}

// The four pixels around a point and their weights; none when the point is more than one pixel outside.
std::vector<Tap> roi_taps(double y, double x, int64_t height, int64_t width) {
  if (!(y >= -1 && y <= static_cast<double>(height) && x >= -1 && x <= static_cast<double>(width))) return {};
  auto axis = [](double at, int64_t size) {
    at = std::max(at, 0.0);
    auto low = std::min(static_cast<int64_t>(at), size - 1);
    return std::pair(low, low == size - 1 ? 0.0 : at - static_cast<double>(low));
  };
  auto [row, down] = axis(y, height);
  auto [column, right] = axis(x, width);
  int64_t next_row = std::min(row + 1, height - 1), next_column = std::min(column + 1, width - 1);
  return {{row * width + column, (1 - down) * (1 - right)}, {row * width + next_column, (1 - down) * right},
          {next_row * width + column, down * (1 - right)}, {next_row * width + next_column, down * right}};
}

void roi_align(Context& c) {
  const Tensor &x = c.input(0), &rois = c.input(1), &batches = c.input(2);
  Tensor& y = c.output();
  const Node& node = c.node();
  const std::string &mode = node.get_string("mode"), &where = node.get_string("coordinate_transformation_mode");
  check_model(mode == "avg" || mode == "max", "mode is '{}', expected avg or max", mode);
  check_model(where == "half_pixel" || where == "output_half_pixel",
              "coordinate_transformation_mode is '{}', expected half_pixel or output_half_pixel", where);
  bool half_pixel = where == "half_pixel";
  double scale = node.get_float("spatial_scale"), offset = half_pixel ? 0.5 : 0.0;
  int64_t channels = x.dim(1), height = x.dim(2), width = x.dim(3), rows = y.dim(2), columns = y.dim(3);
  if (y.size() == 0) return;
  check_model(height > 0 && width > 0, "regions of an image of shape {} cannot be pooled", to_string(x.shape()));
  for (int64_t r = 0; r < rois.dim(0); ++r) {
    int64_t batch = batches.get_int(r);
    if (batch < 0 || batch >= x.dim(0))
      fail(ErrorKind::kInput, "batch index {} is out of range for a batch of {}", batch, x.dim(0));
    double left = rois.get(r * 4) * scale - offset, top = rois.get(r * 4 + 1) * scale - offset;
    double roi_width = rois.get(r * 4 + 2) * scale - offset - left;
    double roi_height = rois.get(r * 4 + 3) * scale - offset - top;
    if (!half_pixel) {  // the older form makes every region at least one pixel large
      roi_width = std::max(roi_width, 1.0);
      roi_height = std::max(roi_height, 1.0);
    }
    double bin_height = roi_height / static_cast<double>(rows), bin_width = roi_width / static_cast<double>(columns);
    auto samples = [&](double bin) {
      int64_t ratio = node.get_int("sampling_ratio");
      double count = ratio > 0 ? static_cast<double>(ratio) : std::ceil(bin);
      if (!(count <= 65536)) fail(ErrorKind::kInput, "a region of interest is too large or not a number");
      return std::max<int64_t>(0, static_cast<int64_t>(count));
    };
    int64_t grid_rows = samples(bin_height), grid_columns = samples(bin_width);
    for (int64_t ch = 0; ch < channels; ++ch) {
      int64_t image = (batch * channels + ch) * height * width;
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
          double sum = 0, best = 0;
          bool first = true;
          for (int64_t gy = 0; gy < grid_rows; ++gy)
            for (int64_t gx = 0; gx < grid_columns; ++gx) {
              double at_y = top + bin_height * (static_cast<double>(i) + (static_cast<double>(gy) + 0.5) / static_cast<double>(grid_rows));
              double at_x = left + bin_width * (static_cast<double>(j) + (static_cast<double>(gx) + 0.5) / static_cast<double>(grid_columns));
              // The standard's maximum is over the weighted pixels, not over the interpolated samples.
              std::vector<Tap> taps = roi_taps(at_y, at_x, height, width);
              if (taps.empty()) taps.push_back({0, 0.0});
              for (const Tap& tap : taps) {
                double value = tap.weight == 0 ? 0 : tap.weight * x.get(image + tap.index);
                sum += value;
                best = first ? value : std::max(best, value);
                first = false;
              }
            }
          auto count = static_cast<double>(std::max<int64_t>(1, grid_rows * grid_columns));
          y.set(((r * channels + ch) * rows + i) * columns + j, mode == "avg" ? sum / count : best);
        }
    }
  }
}

void max_roi_pool(Context& c) {
  const Tensor &x = c.input(0), &rois = c.input(1);
  Tensor& y = c.output();
  double scale = c.node().get_float("spatial_scale");
  int64_t channels = x.dim(1), height = x.dim(2), width = x.dim(3), rows = y.dim(2), columns = y.dim(3);
  auto pixel = [&](int64_t r, int64_t k) {
    double at = std::round(rois.get(r * 5 + k) * scale);
    if (!(std::fabs(at) < 1e9)) fail(ErrorKind::kInput, "a region of interest is too large or not a number");
    return static_cast<int64_t>(at);
  };
  for (int64_t r = 0; r < rois.dim(0); ++r) {
    double batch_value = rois.get(r * 5);
    if (!(batch_value >= 0 && batch_value < static_cast<double>(x.dim(0))))
      fail(ErrorKind::kInput, "batch index {} is out of range for a batch of {}", batch_value, x.dim(0));
    auto batch = static_cast<int64_t>(batch_value);
    int64_t left = pixel(r, 1), top = pixel(r, 2);
    auto bin_height = static_cast<double>(std::max<int64_t>(1, pixel(r, 4) - top + 1)) / static_cast<double>(rows);
    auto bin_width = static_cast<double>(std::max<int64_t>(1, pixel(r, 3) - left + 1)) / static_cast<double>(columns);
    auto range = [](double bin, int64_t i, int64_t start, int64_t size) {
      auto first = static_cast<int64_t>(std::floor(static_cast<double>(i) * bin)) + start;
      auto last = static_cast<int64_t>(std::ceil(static_cast<double>(i + 1) * bin)) + start;
      return std::pair(std::clamp<int64_t>(first, 0, size), std::clamp<int64_t>(last, 0, size));
    };
    for (int64_t ch = 0; ch < channels; ++ch)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
          auto [y_first, y_last] = range(bin_height, i, top, height);
          auto [x_first, x_last] = range(bin_width, j, left, width);
          double best = 0;  // of an empty bin
          bool first = true;
          for (int64_t py = y_first; py < y_last; ++py)
            for (int64_t px = x_first; px < x_last; ++px) {
              double value = x.get(((batch * channels + ch) * height + py) * width + px);
              best = first ? value : std::max(best, value);
              first = false;
            }
          y.set(((r * channels + ch) * rows + i) * columns + j, best);
        }
  }
}

struct Box {
  double y1, x1, y2, x2;
  double area() const { return (y2 - y1) * (x2 - x1); }
};

double overlap(const Box& a, const Box& b) {
  double height = std::min(a.y2, b.y2) - std::max(a.y1, b.y1), width = std::min(a.x2, b.x2) - std::max(a.x1, b.x1);
  if (height <= 0 || width <= 0) return 0;
  double common = height * width, all = a.area() + b.area() - common;
  return all > 0 ? common / all : 0;
}

void non_max_suppression(Context& c) {
  const Tensor &boxes = c.input(0), &scores = c.input(1);
  int64_t batch = scores.dim(0), classes = scores.dim(1), count = scores.dim(2);
  check_model(boxes.rank() == 3 && boxes.shape() == Shape({batch, count, 4}), "boxes have shape {}, expected [{}, {}, 4]",
              to_string(boxes.shape()), batch, count);
  for (size_t i : {2, 3, 4})
    check_model(!c.has_input(i) || c.input(i).size() == 1, "input {} must be one number", i);
  int64_t most = c.has_input(2) ? c.input(2).get_int(0) : 0;
  double iou_limit = c.has_input(3) ? c.input(3).get(0) : 0;
  bool centred = c.node().get_int("center_point_box") != 0;
  auto box_of = [&](int64_t n, int64_t i) {
    double v[4];
    for (int k = 0; k < 4; ++k) v[k] = boxes.get((n * count + i) * 4 + k);
    if (centred) return Box{v[1] - v[3] / 2, v[0] - v[2] / 2, v[1] + v[3] / 2, v[0] + v[2] / 2};
    return Box{std::min(v[0], v[2]), std::min(v[1], v[3]), std::max(v[0], v[2]), std::max(v[1], v[3])};
  };
  std::vector<int64_t> kept;
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t k = 0; k < classes; ++k) {
      auto score = [&](int64_t i) { return scores.get((n * classes + k) * count + i); };
      std::vector<int64_t> order;
      for (int64_t i = 0; i < count; ++i)
        if (!std::isnan(score(i)) && (!c.has_input(4) || score(i) > c.input(4).get(0))) order.push_back(i);
      std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return score(a) > score(b); });
      std::vector<Box> chosen;
      for (int64_t i : order) {
        if (static_cast<int64_t>(chosen.size()) >= most) break;
        Box box = box_of(n, i);
        bool suppressed = std::any_of(chosen.begin(), chosen.end(),
                                      [&](const Box& other) { return overlap(box, other) > iou_limit; });
        if (suppressed) continue;
        chosen.push_back(box);
        kept.insert(kept.end(), {n, k, i});
      }
    }
  Tensor& out = c.allocate(0, DType::kI64, {static_cast<int64_t>(kept.size()) / 3, 3});
  if (!kept.empty()) std::memcpy(out.raw(), kept.data(), kept.size() * sizeof(int64_t));
}

// Both rearrangements are a reshape, a transposition and a reshape.
void rearrange(Context& c, const Shape& split, const std::vector<int64_t>& order) {
  Tensor& y = c.output();
  Shape shape = y.shape();
  c.set_output(0, transpose(c.input().reshaped(split), order).reshaped(shape));
}

void depth_to_space(Context& c) {
  const Tensor& x = c.input();
  c.output();  // checks the shape
  int64_t block = c.node().get_int("blocksize"), channels = x.dim(1) / (block * block);
  const std::string& mode = c.node().get_string("mode");
  check_model(mode == "DCR" || mode == "CRD", "mode is '{}', expected DCR or CRD", mode);
  if (mode == "DCR") {
    rearrange(c, {x.dim(0), block, block, channels, x.dim(2), x.dim(3)}, {0, 3, 4, 1, 5, 2});
  } else {
    rearrange(c, {x.dim(0), channels, block, block, x.dim(2), x.dim(3)}, {0, 1, 4, 2, 5, 3});
  }
}

void space_to_depth(Context& c) {
  const Tensor& x = c.input();
  c.output();
  int64_t block = c.node().get_int("blocksize");
  const std::string& mode = c.node().get_string("mode");
  check_model(mode == "DCR" || mode == "CRD", "mode is '{}', expected DCR or CRD", mode);
  Shape split = {x.dim(0), x.dim(1), x.dim(2) / block, block, x.dim(3) / block, block};
  if (mode == "DCR") {
    rearrange(c, split, {0, 3, 5, 1, 2, 4});
  } else {
    rearrange(c, split, {0, 1, 3, 5, 2, 4});
  }
}

}  // namespace

void register_image(Registry& r) {
  r.add("Resize", resize);
  r.add("GridSample", grid_sample);
  r.add("AffineGrid", affine_grid);
  r.add("RoiAlign", roi_align);
  r.add("MaxRoiPool", max_roi_pool);
  r.add("NonMaxSuppression", non_max_suppression);
  r.add("DepthToSpace", depth_to_space);
  r.add("SpaceToDepth", space_to_depth);
}

}  // namespace lathe::reference
