// Copies whose source is found by one table an axis: Pad in every mode, nearest Resize, Gather with constant indices,
// Expand and Tile. Any element type.
#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "graph/ops/pad.h"
#include "graph/ops/resample.h"
#include "graph/ops/resize.h"
#include "kernels/kernel.h"

namespace lathe {
namespace {

constexpr int64_t kFill = -1;  // in a table: no element is read here

// Output element (i, j, …) is input element (tables[0][i], tables[1][j], …).
class TableCopy : public Kernel {
 public:
  // `fill`: number of the input that holds the element for kFill, −1 for zero.
  TableCopy(Shape in, std::vector<std::vector<int64_t>> tables, size_t element, int fill)
      : element_(static_cast<int64_t>(element)), fill_(fill) {
    // Axes at the end that are copied as they are make one wide element with the axis before.
    width_ = element_;
    auto whole = [&](size_t axis) {
      if (static_cast<int64_t>(tables[axis].size()) != in[axis]) return false;
      for (int64_t i = 0; i < in[axis]; ++i)
        if (tables[axis][i] != i) return false;
      return true;
    };
    while (tables.size() > 1 && whole(tables.size() - 1)) {
      width_ *= in.back();
      in.pop_back();
      tables.pop_back();
    }
    if (tables.empty()) {
      in = {1};
      tables = {{0}};
    }
    // Of the last axis, stretches that lie together.
    const std::vector<int64_t>& last = tables.back();
    columns_ = static_cast<int64_t>(last.size());
    for (int64_t i = 0; i < columns_; ++i) {
      if (!runs_.empty() && (last[i] == kFill ? runs_.back().from == kFill : runs_.back().from != kFill && last[i] == runs_.back().from + runs_.back().count)) {
        ++runs_.back().count;
      } else {
        runs_.push_back({last[i], 1});
      }
    }
    std::vector<int64_t> strides = strides_of(in);
    tables.pop_back();
    for (size_t axis = 0; axis < tables.size(); ++axis) {
      rows_ *= static_cast<int64_t>(tables[axis].size());
      for (int64_t& index : tables[axis])
        if (index != kFill) index *= strides[axis] * width_;
    }
    tables_ = std::move(tables);
  }

  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const char* x = in[0]->data<char>();
    char* y = out[0]->data<char>();
    char fill[16] = {};  // the element again and again: what is copied at once may hold several
    if (fill_ >= 0 && in[fill_])
      for (int64_t at = 0; at + element_ <= 16; at += element_) std::memcpy(fill + at, in[fill_]->raw(), static_cast<size_t>(element_));
    const int64_t row = columns_ * width_;
    parallel_for(rows_, kParallelGrain * 4 / (row + 1) + 1, [&](int64_t begin, int64_t end) {
      int64_t before = kNone;
      for (int64_t r = begin; r < end; ++r) {
        const int64_t from = source(r);
        char* to = y + r * row;
        // A row like the one before, as enlarged pictures have them, is copied whole.
        if (from == before) std::memcpy(to, to - row, static_cast<size_t>(row));
        else if (from == kFill) spread(fill, to, columns_);
        else copy_row(x + from, to, fill);
        before = from;
      }
    });
  }

 private:
  static constexpr int64_t kNone = -2;
  struct Run {
    int64_t from, count;
  };

  int64_t source(int64_t row) const {
    int64_t at = 0;
    for (size_t axis = tables_.size(); axis-- > 0;) {
      const auto size = static_cast<int64_t>(tables_[axis].size());
      const int64_t index = tables_[axis][row % size];
      if (index == kFill) return kFill;
      at += index;
      row /= size;
    }
    return at;
  }

  void copy_row(const char* x, char* to, const char* fill) const {
    if (static_cast<int64_t>(runs_.size()) * 2 > columns_) {  // scattered: elements one by one
      if (width_ == 4) return scattered<uint32_t>(x, to, fill);
      if (width_ == 2) return scattered<uint16_t>(x, to, fill);
      if (width_ == 1) return scattered<uint8_t>(x, to, fill);
      if (width_ == 8) return scattered<uint64_t>(x, to, fill);
    }
    for (const Run& run : runs_) {
      if (run.from == kFill) spread(fill, to, run.count);
      else std::memcpy(to, x + run.from * width_, static_cast<size_t>(run.count * width_));
      to += run.count * width_;
    }
  }

  template <class T>
  void scattered(const char* x, char* to, const char* fill) const {
    for (const Run& run : runs_)
      for (int64_t i = 0; i < run.count; ++i, to += sizeof(T)) std::memcpy(to, run.from == kFill ? fill : x + (run.from + i) * static_cast<int64_t>(sizeof(T)), sizeof(T));
  }

  // `count` wide elements of `fill`, which is one element.
  void spread(const char* fill, char* to, int64_t count) const {
    const int64_t elements = count * width_ / element_;
    if (element_ == 4) {
      uint32_t value;
      std::memcpy(&value, fill, 4);
      std::fill_n(reinterpret_cast<uint32_t*>(to), elements, value);
    } else if (element_ == 1) {
      std::memset(to, fill[0], static_cast<size_t>(elements));
    } else {
      for (int64_t i = 0; i < elements; ++i) std::memcpy(to + i * element_, fill, static_cast<size_t>(element_));
    }
  }

  int64_t element_, width_ = 1, columns_ = 1, rows_ = 1;  // width: bytes of what is copied at once
  int fill_;
  std::vector<Run> runs_;                      // of the last axis
  std::vector<std::vector<int64_t>> tables_;  // of the axes before it, in bytes
};

using Tables = std::vector<std::vector<int64_t>>;

std::vector<int64_t> identity(int64_t count) {
  std::vector<int64_t> table(count);
  for (int64_t i = 0; i < count; ++i) table[i] = i;
  return table;
}

// Tables are made once and kept: as long as they are short beside what they copy.
constexpr int64_t kLongestTable = 1 << 20;
bool short_axes(const KernelRequest& r) {
  auto fits = [](int64_t size) { return size <= kLongestTable; };
  return std::all_of(r.in_shape().begin(), r.in_shape().end(), fits) && std::all_of(r.out_shape().begin(), r.out_shape().end(), fits);
}

bool is_constant(const KernelRequest& r, size_t i) { return !r.has_input(i) || (r.input(i).is_constant() && r.input(i).constant.has_elements()); }

std::unique_ptr<Kernel> make_pad(const KernelRequest& r) {
  const Shape &x = r.in_shape(), &y = r.out_shape();
  auto rank = static_cast<int64_t>(x.size());
  std::vector<int64_t> pads = r.input(1).constant.to_i64(), before(x.size(), 0), axes;
  if (r.has_input(3)) axes = r.input(3).constant.to_i64();
  for (size_t k = 0; k < pads.size() / 2; ++k) before[normalize_axis(r.has_input(3) ? axes[k] : static_cast<int64_t>(k), rank)] = pads[k];
  Tables tables(x.size());
  for (size_t axis = 0; axis < x.size(); ++axis)
    for (int64_t i = 0; i < y[axis]; ++i) tables[axis].push_back(ops::pad_source(r.node.get_string("mode"), i - before[axis], x[axis]));
  return std::make_unique<TableCopy>(x, std::move(tables), size_of(r.input(0).dtype), r.has_input(2) ? 2 : -1);
}
bool pad_supported(const KernelRequest& r) {
  return !r.in_shape().empty() && short_axes(r) && is_constant(r, 1) && is_constant(r, 3) && (!r.has_input(2) || (r.input(2).dtype == r.input(0).dtype && element_count(r.in_shape(2)) == 1));
}

std::unique_ptr<Kernel> make_nearest(const KernelRequest& r) {
  const Shape& x = r.in_shape();
  auto given = [&](size_t i) { return r.has_input(i) && r.input(i).constant.size() > 0 ? &r.input(i).constant : nullptr; };
  const ops::ResizePlan plan = ops::resize_plan(r.node, x, given(2), given(3));
  Tables tables(x.size());
  for (size_t axis = 0; axis < x.size(); ++axis) {
    ops::AxisResampler sampler(r.node, x[axis], plan.outputs[axis], plan.scales[axis], 0, 1);
    const bool resized = std::find(plan.axes.begin(), plan.axes.end(), static_cast<int64_t>(axis)) != plan.axes.end();
    if (!resized || sampler.is_identity()) tables[axis] = identity(x[axis]);
    else for (int64_t i = 0; i < plan.outputs[axis]; ++i) tables[axis].push_back(sampler.nearest(i));
  }
  return std::make_unique<TableCopy>(x, std::move(tables), size_of(r.input(0).dtype), -1);
}
bool nearest_supported(const KernelRequest& r) {
  return !r.in_shape().empty() && short_axes(r) && r.node.get_string("mode") == "nearest" && r.node.get_string("coordinate_transformation_mode") != "tf_crop_and_resize" &&
         is_constant(r, 2) && is_constant(r, 3);
}

// The indices are one axis of the output, or none.
std::unique_ptr<Kernel> make_gather(const KernelRequest& r) {
  Shape x = r.in_shape();
  const int64_t axis = normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(x.size()));
  Tables tables;
  for (int64_t size : x) tables.push_back(identity(size));
  tables[axis] = r.input(1).constant.to_i64();
  for (int64_t& index : tables[axis])
    if (index < 0) index += x[axis];
  return std::make_unique<TableCopy>(std::move(x), std::move(tables), size_of(r.input(0).dtype), -1);
}
bool gather_supported(const KernelRequest& r) {
  if (!r.has_input(1) || !is_constant(r, 1) || !is_integer(r.input(1).dtype) || r.in_shape().empty() || !short_axes(r)) return false;
  if (element_count(r.in_shape(1)) > kLongestTable) return false;
  const int64_t size = r.in_shape()[normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(r.in_shape().size()))];
  const std::vector<int64_t> indices = r.input(1).constant.to_i64();  // one out of range is the reference's to report
  return std::all_of(indices.begin(), indices.end(), [&](int64_t i) { return i >= -size && i < size; });
}

std::unique_ptr<Kernel> make_expand(const KernelRequest& r) {
  const Shape& y = r.out_shape();
  Shape x(y.size() - r.in_shape().size(), 1);
  x.insert(x.end(), r.in_shape().begin(), r.in_shape().end());
  Tables tables;
  for (size_t axis = 0; axis < y.size(); ++axis) tables.push_back(x[axis] == 1 ? std::vector<int64_t>(y[axis], 0) : identity(y[axis]));
  return std::make_unique<TableCopy>(std::move(x), std::move(tables), size_of(r.input(0).dtype), -1);
}

std::unique_ptr<Kernel> make_tile(const KernelRequest& r) {
  const Shape &x = r.in_shape(), &y = r.out_shape();
  Tables tables(x.size());
  for (size_t axis = 0; axis < x.size(); ++axis)
    for (int64_t i = 0; i < y[axis]; ++i) tables[axis].push_back(i % x[axis]);
  return std::make_unique<TableCopy>(x, std::move(tables), size_of(r.input(0).dtype), -1);
}

}  // namespace

void register_table_copy(KernelRegistry& r) {
  r.add("Pad", "", {"pad", pad_supported, make_pad});
  r.add("Resize", "", {"resize.nearest", nearest_supported, make_nearest});
  r.add("Gather", "", {"gather", gather_supported, make_gather});
  r.add("Expand", "", {"expand", [](const KernelRequest& q) { return short_axes(q) && !q.out_shape().empty(); }, make_expand});
  r.add("Tile", "", {"tile", [](const KernelRequest& q) { return short_axes(q) && !q.in_shape().empty(); }, make_tile});
}

}  // namespace lathe
