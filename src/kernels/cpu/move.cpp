// Moving elements: concatenation, splitting, slicing, transposition, channel shuffle. Any element type.
#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "kernels/kernel.h"

namespace lathe {
namespace {

// [outer, axis, inner] of each operand lie one after the other in each outer row.
class Concat : public Kernel {
 public:
  explicit Concat(const KernelRequest& r) {
    int64_t axis = normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(r.out_shape().size()));
    outer_ = product(r.out_shape(), 0, axis);
    for (size_t i = 0; i < r.node.inputs.size(); ++i)
      widths_.push_back(element_count(r.in_shape(i)) / std::max<int64_t>(outer_, 1) * static_cast<int64_t>(size_of(r.output().dtype)));
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    int64_t total = 0;
    for (int64_t w : widths_) total += w;
    char* y = out[0]->data<char>();
    parallel_for(outer_, kParallelGrain * 4 / (total + 1) + 1, [&](int64_t begin, int64_t end) {
      int64_t offset = 0;
      for (size_t i = 0; i < widths_.size(); ++i) {
        const char* x = in[i]->data<char>();
        for (int64_t o = begin; o < end; ++o) std::memcpy(y + o * total + offset, x + o * widths_[i], widths_[i]);
        offset += widths_[i];
      }
    });
  }

 private:
  int64_t outer_;
  std::vector<int64_t> widths_;
};

class Split : public Kernel {
 public:
  explicit Split(const KernelRequest& r) {
    int64_t axis = normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(r.in_shape().size()));
    outer_ = product(r.in_shape(), 0, axis);
    for (size_t i = 0; i < r.node.outputs.size(); ++i)
      widths_.push_back(element_count(r.out_shape(i)) / std::max<int64_t>(outer_, 1) * static_cast<int64_t>(size_of(r.input(0).dtype)));
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    int64_t total = 0, offset = 0;
    for (int64_t w : widths_) total += w;
    for (size_t i = 0; i < widths_.size(); ++i) {
      for (int64_t o = 0; o < outer_; ++o)
        std::memcpy(out[i]->data<char>() + o * widths_[i], in[0]->data<char>() + o * total + offset, widths_[i]);
      offset += widths_[i];
    }
  }

 private:
  int64_t outer_;
  std::vector<int64_t> widths_;
};

// Two groups of channels interleave; the compiler makes a pair of unpack instructions of the inner loop.
template <class T>
class InterleaveTwo : public Kernel {
 public:
  explicit InterleaveTwo(const KernelRequest& r)
      : channels_(r.out_shape().back()), pixels_(element_count(r.out_shape()) / channels_), apart_(r.node.inputs.size() == 2) {}
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const T* first = in[0]->data<T>();
    const T* second = apart_ ? in[1]->data<T>() : first + channels_ / 2;
    const int64_t step = apart_ ? channels_ / 2 : channels_;
    parallel_for(pixels_, kParallelGrain * 4 / channels_ + 1, [&](int64_t begin, int64_t end) {
      const int64_t half = channels_ / 2;
      for (int64_t p = begin; p < end; ++p) {
        const T* __restrict a = first + p * step;
        const T* __restrict b = second + p * step;
        T* __restrict y = out[0]->data<T>() + p * channels_;
        for (int64_t c = 0; c < half; ++c) {
          y[2 * c] = a[c];
          y[2 * c + 1] = b[c];
        }
      }
    });
  }

 private:
  int64_t channels_, pixels_;
  bool apart_;  // the groups are two inputs
};

// Output element order, input strides: serves Transpose, Slice and ChannelShuffle.
class StridedCopy : public Kernel {
 public:
  StridedCopy(Shape sizes, std::vector<int64_t> steps, int64_t offset, size_t width)
      : sizes_(std::move(sizes)), steps_(std::move(steps)), offset_(offset), width_(static_cast<int64_t>(width)) {
    // Axes of size one vanish, neighbours that continue each other merge.
    Shape sizes2;
    std::vector<int64_t> steps2;
    for (size_t i = 0; i < sizes_.size(); ++i) {
      if (sizes_[i] == 1) continue;
      if (!sizes2.empty() && steps2.back() == steps_[i] * sizes_[i]) {
        sizes2.back() *= sizes_[i];
        steps2.back() = steps_[i];
      } else {
        sizes2.push_back(sizes_[i]);
        steps2.push_back(steps_[i]);
      }
    }
    if (!steps2.empty() && steps2.back() == 1) {  // a contiguous run is one wide element
      width_ *= sizes2.back();
      sizes2.pop_back();
      steps2.pop_back();
    }
    while (sizes2.size() < 2) {
      sizes2.insert(sizes2.begin(), 1);
      steps2.insert(steps2.begin(), 0);
    }
    sizes_ = std::move(sizes2);
    steps_ = std::move(steps2);
    element_ = static_cast<int64_t>(width);
  }
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    const char* x = in[0]->data<char>() + offset_ * element_;
    char* y = out[0]->data<char>();
    size_t rank = sizes_.size();
    int64_t rows = 1, inner = sizes_[rank - 1], columns = sizes_[rank - 2];
    for (size_t i = 0; i + 2 < rank; ++i) rows *= sizes_[i];
    int64_t step0 = steps_[rank - 2] * element_, step1 = steps_[rank - 1] * element_;
    parallel_for(rows * columns, kParallelGrain * 4 / (inner * width_ + 1) + 1, [&](int64_t begin, int64_t end) {
      while (begin < end) {
        // The part of one plane [columns, inner] that this slice holds, in blocks that keep cache lines.
        int64_t row = begin / columns, c0 = begin % columns, c1 = std::min(columns, c0 + end - begin), at = 0, rest = row;
        for (size_t i = rank - 2; i-- > 0;) {
          at += rest % sizes_[i] * steps_[i];
          rest /= sizes_[i];
        }
        copy_plane(x + at * element_, y + row * columns * inner * width_, c0, c1, inner, step0, step1);
        begin += c1 - c0;
      }
    });
  }

 private:
  void copy_plane(const char* x, char* y, int64_t c0, int64_t c1, int64_t inner, int64_t step0, int64_t step1) const {
    if (width_ == 4) return plane<uint32_t>(x, y, c0, c1, inner, step0, step1);
    if (width_ == 2) return plane<uint16_t>(x, y, c0, c1, inner, step0, step1);
    if (width_ == 1) return plane<uint8_t>(x, y, c0, c1, inner, step0, step1);
    if (width_ == 8) return plane<uint64_t>(x, y, c0, c1, inner, step0, step1);
    for (int64_t c = c0; c < c1; ++c)
      for (int64_t i = 0; i < inner; ++i)
        std::memcpy(y + (c * inner + i) * width_, x + c * step0 + i * step1, width_);
  }
  template <class T>
  static void plane(const char* x, char* y, int64_t c0, int64_t c1, int64_t inner, int64_t step0, int64_t step1) {
    constexpr int64_t kBlock = 16;  // 16 elements of 4 bytes: a cache line each way
    T* to = reinterpret_cast<T*>(y);
    for (int64_t ib = 0; ib < inner; ib += kBlock)
      for (int64_t c = c0; c < c1; ++c)
        for (int64_t i = ib; i < std::min(inner, ib + kBlock); ++i) {
          T value;
          std::memcpy(&value, x + c * step0 + i * step1, sizeof(T));
          to[c * inner + i] = value;
        }
  }
  Shape sizes_;
  std::vector<int64_t> steps_;
  int64_t offset_, width_, element_ = 1;
};

std::unique_ptr<Kernel> make_transpose(const KernelRequest& r) {
  std::vector<int64_t> perm = r.node.get_ints("perm"), strides = strides_of(r.in_shape()), steps;
  if (perm.empty())
    for (size_t i = strides.size(); i-- > 0;) perm.push_back(static_cast<int64_t>(i));
  for (int64_t p : perm) steps.push_back(strides[p]);
  return std::make_unique<StridedCopy>(r.out_shape(), steps, 0, size_of(r.input(0).dtype));
}

bool constant_slice(const KernelRequest& r) {
  for (size_t i = 1; i < r.node.inputs.size(); ++i)
    if (r.has_input(i) && !r.input(i).is_constant()) return false;
  return element_count(r.out_shape()) > 0;
}

std::unique_ptr<Kernel> make_slice(const KernelRequest& r) {
  const Shape& x = r.in_shape();
  auto rank = static_cast<int64_t>(x.size());
  std::vector<int64_t> starts = r.input(1).constant.to_i64(), axes, strides = strides_of(x), steps = strides;
  std::vector<int64_t> jumps(starts.size(), 1);
  if (r.has_input(3)) axes = r.input(3).constant.to_i64();
  else for (size_t i = 0; i < starts.size(); ++i) axes.push_back(static_cast<int64_t>(i));
  if (r.has_input(4)) jumps = r.input(4).constant.to_i64();
  int64_t offset = 0;
  for (size_t i = 0; i < axes.size(); ++i) {
    int64_t a = normalize_axis(axes[i], rank), begin = starts[i] < 0 ? starts[i] + x[a] : starts[i];
    begin = std::clamp<int64_t>(begin, 0, jumps[i] > 0 ? x[a] : x[a] - 1);
    offset += begin * strides[a];
    steps[a] = strides[a] * jumps[i];
  }
  return std::make_unique<StridedCopy>(r.out_shape(), steps, offset, size_of(r.input(0).dtype));
}

std::unique_ptr<Kernel> make_shuffle(const KernelRequest& r) {
  const Shape& x = r.in_shape();
  int64_t axis = normalize_axis(r.node.get_int("axis"), static_cast<int64_t>(x.size())), group = r.node.get_int("group");
  int64_t outer = product(x, 0, axis), channels = x[axis], inner = product(x, axis + 1, x.size()), each = channels / group;
  return std::make_unique<StridedCopy>(Shape{outer, each, group, inner},
                                       std::vector<int64_t>{channels * inner, inner, each * inner, 1}, 0, size_of(r.input(0).dtype));
}

// Plain loops, which the compiler vectorizes for each instruction set.
__attribute__((target_clones("arch=skylake-avx512", "avx2", "default"))) void widen(const uint16_t* x, uint32_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = uint32_t{x[i]} << 16;
}
__attribute__((target_clones("arch=skylake-avx512", "avx2", "default"))) void narrow(const uint32_t* x, uint16_t* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {  // as to_bf16 in core/dtype.h: to nearest even, NaN stays NaN
    uint32_t bits = x[i], rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    y[i] = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16) | 0x40u : rounded);
  }
}

class CastBF16 : public Kernel {
 public:
  void run(const Tensor* const* in, Tensor* const* out, void*) override {
    bool widens = out[0]->dtype() == DType::kF32;
    parallel_for(out[0]->size(), kParallelGrain, [&](int64_t begin, int64_t end) {
      if (widens) widen(in[0]->data<uint16_t>() + begin, out[0]->data<uint32_t>() + begin, end - begin);
      else narrow(in[0]->data<uint32_t>() + begin, out[0]->data<uint16_t>() + begin, end - begin);
    });
  }
};

bool casts_bf16(const KernelRequest& r) {
  DType from = r.input(0).dtype, to = r.output().dtype;
  return (from == DType::kF32 && to == DType::kBF16) || (from == DType::kBF16 && to == DType::kF32);
}

bool nonempty(const KernelRequest& r) { return element_count(r.out_shape()) > 0; }

}  // namespace

void register_move(KernelRegistry& r) {
  r.add("Cast", "", {"cast.bf16", casts_bf16, [](const KernelRequest&) -> std::unique_ptr<Kernel> { return std::make_unique<CastBF16>(); }});
  r.add("Concat", "", {"concat", nonempty, [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<Concat>(q); }});
  r.add("Split", "", {"split", [](const KernelRequest& q) { return element_count(q.in_shape()) > 0; },
                      [](const KernelRequest& q) -> std::unique_ptr<Kernel> { return std::make_unique<Split>(q); }});
  r.add("Transpose", "", {"transpose", nonempty, make_transpose});
  r.add("Slice", "", {"slice", constant_slice, make_slice});
  r.add("ChannelShuffle", "ai.lathe", {"shuffle.pair", [](const KernelRequest& q) {
          const auto rank = static_cast<int64_t>(q.in_shape().size());
          const size_t width = size_of(q.input(0).dtype);
          return nonempty(q) && (width == 1 || width == 2 || width == 4) && q.node.get_int("group") == 2 && normalize_axis(q.node.get_int("axis"), rank) == rank - 1;
        }, [](const KernelRequest& q) -> std::unique_ptr<Kernel> {
          switch (size_of(q.input(0).dtype)) {
            case 1: return std::make_unique<InterleaveTwo<uint8_t>>(q);
            case 2: return std::make_unique<InterleaveTwo<uint16_t>>(q);
            default: return std::make_unique<InterleaveTwo<uint32_t>>(q);
          }
        }});
  r.add("ChannelShuffle", "ai.lathe", {"shuffle", [](const KernelRequest& q) { return nonempty(q) && q.node.inputs.size() == 1; }, make_shuffle});
}

}  // namespace lathe
