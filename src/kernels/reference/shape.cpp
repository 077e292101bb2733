#include <algorithm>

#include "graph/ops/pad.h"
#include "kernels/reference/families.h"
#include "kernels/reference/strided.h"

namespace lathe::reference {
namespace {

using Ints = std::vector<int64_t>;

// Reshape, Squeeze, Unsqueeze, Flatten: the same elements under the inferred shape.
void view(Context& c) {
  Shape shape = c.output().shape();
  c.set_output(0, c.input().reshaped(shape));
}

void transpose_axes(Context& c) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  Ints strides = strides_of(in.shape()), steps, permutation = c.node().get_ints("perm");
  auto rank = in.rank();
  for (int64_t i = 0; i < rank; ++i)
    steps.push_back(strides[permutation.empty() ? rank - 1 - i : normalize_axis(permutation[i], rank)]);
  strided_copy(in, 0, steps, out, 0, strides_of(out.shape()), out.shape());
}

void concat(Context& c) {
  Tensor& out = c.output();
  size_t axis = normalize_axis(c.node().get_int("axis"), out.rank());
  Ints to_strides = strides_of(out.shape());
  int64_t offset = 0;
  for (size_t k = 0; k < c.input_count(); ++k) {
    const Tensor& in = c.input(k);
    strided_copy(in, 0, strides_of(in.shape()), out, offset * to_strides[axis], to_strides, in.shape());
    offset += in.shape()[axis];
  }
}

void split(Context& c) {
  const Tensor& in = c.input();
  size_t axis = normalize_axis(c.node().get_int("axis"), in.rank());
  Ints from_strides = strides_of(in.shape());
  Ints sizes;
  if (c.has_input(1)) {
    sizes = c.input(1).to_i64();
  } else {
    auto count = static_cast<int64_t>(c.output_count());
    sizes.assign(count, in.shape()[axis] / count + (in.shape()[axis] % count != 0));
  }
  int64_t offset = 0;
  for (size_t k = 0; k < c.output_count(); ++k) {
    if (c.has_output(k)) {
      Tensor& out = c.output(k);
      strided_copy(in, offset * from_strides[axis], from_strides, out, 0, strides_of(out.shape()), out.shape());
    }
    offset += sizes[k];
  }
}

void slice(Context& c) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  Ints starts = c.input(1).to_i64(), steps = strides_of(in.shape());
  int64_t offset = 0;
  for (size_t k = 0; k < starts.size(); ++k) {
    int64_t axis = normalize_axis(c.has_input(3) ? c.input(3).get_int(k) : static_cast<int64_t>(k), in.rank());
    int64_t size = in.shape()[axis], step = c.has_input(4) ? c.input(4).get_int(k) : 1;
    int64_t start = starts[k] < 0 ? starts[k] + size : starts[k];
    start = step > 0 ? std::clamp<int64_t>(start, 0, size) : std::clamp<int64_t>(start, -1, size - 1);
    if (out.shape()[axis] == 0) return;
    offset += start * steps[axis];
    // A step that is never taken may be huge.
    steps[axis] = out.shape()[axis] > 1 ? steps[axis] * step : 0;
  }
  strided_copy(in, offset, steps, out, 0, strides_of(out.shape()), out.shape());
}

// Fills `out` from `in`: sources[axis][i] is the input's index along axis for the output's index i, or −1
// for an element that takes `fill`.
void copy_by_tables(const Tensor& in, Tensor& out, const std::vector<Ints>& sources, const Tensor& fill) {
  size_t width = size_of(out.dtype());
  auto* from = static_cast<const char*>(in.raw());
  auto* to = out.data<char>();
  char zero[8] = {};
  const char* filler = fill.defined() ? static_cast<const char*>(fill.raw()) : zero;
  Ints strides = strides_of(in.shape()), index(out.rank(), 0);
  for (int64_t n = 0; n < out.size(); ++n) {
    int64_t offset = 0;
    bool inside = true;
    for (size_t axis = 0; axis < index.size(); ++axis) {
      int64_t source = sources[axis][index[axis]];
      inside &= source >= 0;
      offset += source * strides[axis];
    }
    std::memcpy(to + n * width, inside ? from + offset * width : filler, width);
    for (size_t axis = index.size(); axis-- > 0;) {
      if (++index[axis] < out.shape()[axis]) break;
      index[axis] = 0;
    }
  }
}

using ops::pad_source;

void pad(Context& c) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  Ints pads = c.input(1).to_i64(), before(in.rank(), 0);
  for (size_t k = 0; k < pads.size() / 2; ++k)
    before[normalize_axis(c.has_input(3) ? c.input(3).get_int(k) : static_cast<int64_t>(k), in.rank())] = pads[k];
  if (c.has_input(2))
    check_model(c.input(2).size() == 1 && c.input(2).dtype() == in.dtype(),
                "the padding value must be one element of type {}", name_of(in.dtype()));
  if (out.size() == 0) return;
  std::vector<Ints> sources(in.rank());
  for (int64_t axis = 0; axis < in.rank(); ++axis)
    for (int64_t i = 0; i < out.shape()[axis]; ++i)
      sources[axis].push_back(pad_source(c.node().get_string("mode"), i - before[axis], in.shape()[axis]));
  copy_by_tables(in, out, sources, c.has_input(2) ? c.input(2) : Tensor());
}

void center_crop_pad(Context& c) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  if (out.size() == 0) return;
  std::vector<Ints> sources(in.rank());
  for (int64_t axis = 0; axis < in.rank(); ++axis) {
    int64_t from = in.shape()[axis], to = out.shape()[axis];
    int64_t shift = from > to ? (from - to) / 2 : -((to - from) / 2);
    for (int64_t i = 0; i < to; ++i) sources[axis].push_back(pad_source("constant", i + shift, from));
  }
  copy_by_tables(in, out, sources, {});
}

void expand(Context& c) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  Ints strides = strides_of(in.shape()), steps(out.rank(), 0);
  int64_t skip = out.rank() - in.rank();
  for (int64_t i = 0; i < in.rank(); ++i) steps[skip + i] = in.shape()[i] == 1 ? 0 : strides[i];
  strided_copy(in, 0, steps, out, 0, strides_of(out.shape()), out.shape());
}

void tile(Context& c) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  // Seen with two axes for each of the input's: the copy and the place in it.
  Ints strides = strides_of(in.shape()), steps;
  Shape wide;
  for (int64_t i = 0; i < in.rank(); ++i) {
    wide.insert(wide.end(), {c.input(1).get_int(i), in.shape()[i]});
    steps.insert(steps.end(), {0, strides[i]});
  }
  strided_copy(in, 0, steps, out, 0, strides_of(wide), wide);
}

void shape_of(Context& c) {
  Tensor& out = c.output();
  const Shape& in = c.input().shape();
  auto rank = static_cast<int64_t>(in.size());
  int64_t start = c.node().get_int("start");
  start = std::clamp<int64_t>(start < 0 ? start + rank : start, 0, rank);
  for (int64_t i = 0; i < out.size(); ++i) out.set_int(i, in[start + i]);
}

void reverse_sequence(Context& c) {
  const Tensor& in = c.input();
  Tensor& out = c.output();
  int64_t batch_axis = c.node().get_int("batch_axis"), time_axis = 1 - batch_axis;
  int64_t batches = in.shape()[batch_axis], times = in.shape()[time_axis];
  size_t block = product(in.shape(), 2, in.shape().size()) * size_of(in.dtype());
  int64_t batch_step = batch_axis == 0 ? times : 1, time_step = batch_axis == 0 ? 1 : batches;
  for (int64_t b = 0; b < batches; ++b) {
    int64_t length = c.input(1).get_int(b);
    check_model(length >= 0 && length <= times, "sequence length {} is outside 0 to {}", length, times);
    for (int64_t t = 0; t < times; ++t) {
      int64_t source = t < length ? length - 1 - t : t;
      std::memcpy(out.data<char>() + (b * batch_step + t * time_step) * block,
                  in.data<char>() + (b * batch_step + source * time_step) * block, block);
    }
  }
}

}  // namespace

void register_shape(Registry& r) {
  for (const char* name : {"Reshape", "Squeeze", "Unsqueeze", "Flatten"}) r.add(name, view);
  r.add("Transpose", transpose_axes);
  r.add("Concat", concat);
  r.add("Split", split);
  r.add("Slice", slice);
  r.add("Pad", pad);
  r.add("CenterCropPad", center_crop_pad);
  r.add("Expand", expand);
  r.add("Tile", tile);
  r.add("Shape", shape_of);
  r.add("Size", [](Context& c) { c.output().set_int(0, c.input().size()); });
  r.add("ReverseSequence", reverse_sequence);
}

}  // namespace lathe::reference
