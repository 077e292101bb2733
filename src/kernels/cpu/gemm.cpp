// Convolutions and products with constant weights by our own matrix product (gemm-inl.h). oneDNN's stands behind it
// for windows over many channels and for bf16.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/gemm.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order
#include <hwy/highway.h>

#include <algorithm>

#include "core/parallel.h"
#include "kernels/cpu/gemm-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lathe {
namespace HWY_NAMESPACE {

// Of more elements of depth, rows of A that share a block of the second-level cache are too few, and all weights would
// be read again for each such block.
constexpr int64_t kMostDepth = 1024;

template <class TIn, class TOut>
void GemmOf(const GemmArgs& g);

// In parts of the depth, each added to what the parts before gave.
void GemmInParts(const GemmArgs& g) {
  const int64_t parts = (g.depth + kMostDepth - 1) / kMostDepth, step = (g.depth / parts + 15) / 16 * 16;
  GemmArgs part = g;
  part.whole_depth = g.depth;
  part.bias = nullptr;
  part.activation = {};
  for (int64_t k = 0; k < g.depth; k += step) {
    part.first_depth = k;
    part.depth = std::min(step, g.depth - k);
    part.a = static_cast<const float*>(g.a) + k;
    if (k + step >= g.depth) part.bias = g.bias, part.activation = g.activation;
    GemmOf<float, float>(part);
    part.residual = g.y;
    part.residual_first = true;
  }
}

template <class TIn, class TOut>
void GemmOf(const GemmArgs& g) {
  const D d;
  const int64_t width = kPanelVectors * static_cast<int64_t>(hn::Lanes(d));
  int64_t rows = g.rows.count(), tiles = (rows + kTileRows - 1) / kTileRows, panels = (g.columns + width - 1) / width;
  int64_t tile_work = kTileRows * g.rows.taps() * g.depth * 2 + 64;  // vector products of a tile and panel
  auto scratch = [&] { return g.scratch + static_cast<size_t>(omp_get_thread_num()) * g.scratch_per_thread; };
  if (tiles >= 2 * omp_get_max_threads() || panels == 1) {
    parallel_for(tiles, kParallelGrain / (tile_work * panels) + 1, [&](int64_t begin, int64_t end) {
      GemmBlock<TIn, TOut>(g, begin * kTileRows, std::min(end * kTileRows, rows), 0, panels, scratch());
    });
  } else {
    parallel_for(panels, kParallelGrain / (tile_work * tiles) + 1, [&](int64_t begin, int64_t end) {
      GemmBlock<TIn, TOut>(g, 0, rows, begin, end, scratch());
    });
  }
}

void Gemm(const GemmArgs& g) {
  // The residual goes in with the first part: it must not come after an activation.
  const bool in_parts = !g.bf16_out && g.rows.taps() == 1 && g.depth > kMostDepth && g.rows.count() > 4 * kTileRows && !g.scale &&
                        (!g.residual || g.residual_first || g.activation.kind == ActivationKind::kNone);
  if (!g.bf16) {
    if (in_parts) return GemmInParts(g);
    WithElements(g.bf16_out, [&]<class TOut>() { GemmOf<float, TOut>(g); });
    return;
  }
#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86
  if (g.bf16_out) return GemmOf<uint16_t, NativeHalf>(g);
  return GemmOf<uint16_t, float>(g);
#endif
}

// The 32-bit words of w [count][depth] to panels [count / width][depth][width], zero beyond `count`; the last panel has
// half the width when that is enough. Four by four, since either side alone would be a word at a time.
// w lies at any address.
void TransposeWords(const void* words, int64_t count, int64_t depth, int64_t width, uint32_t* to) {
  const char* w = static_cast<const char*>(words);
  const auto word = [](const char* p) {
    uint32_t value;
    std::memcpy(&value, p, sizeof value);
    return value;
  };
  uint32_t* const end = to + (count + width - 1) / width * depth * width;
  for (int64_t n0 = 0; n0 < count; n0 += width) {
    const int64_t wide = count - n0 <= width / 2 ? width / 2 : width, here = std::min(wide, count - n0);
    const char* from = w + n0 * depth * 4;
    int64_t k = 0;
    for (; k + 4 <= depth; k += 4, to += 4 * wide) {
      int64_t i = 0;
#if HWY_TARGET != HWY_SCALAR
      const hn::FixedTag<uint32_t, 4> d;
      const hn::RepartitionToWide<decltype(d)> pairs;
      for (; i + 4 <= here; i += 4) {
        const auto row = [&](int64_t r) { return hn::LoadU(d, reinterpret_cast<const uint32_t*>(from + ((i + r) * depth + k) * 4)); };
        const auto a = row(0), b = row(1), c = row(2), e = row(3);
        const auto ab0 = hn::BitCast(pairs, hn::InterleaveLower(d, a, b)), ab1 = hn::BitCast(pairs, hn::InterleaveUpper(d, a, b));
        const auto ce0 = hn::BitCast(pairs, hn::InterleaveLower(d, c, e)), ce1 = hn::BitCast(pairs, hn::InterleaveUpper(d, c, e));
        hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab0, ce0)), d, to + i);
        hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab0, ce0)), d, to + wide + i);
        hn::StoreU(hn::BitCast(d, hn::InterleaveLower(pairs, ab1, ce1)), d, to + 2 * wide + i);
        hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(pairs, ab1, ce1)), d, to + 3 * wide + i);
      }
#endif
      for (int64_t r = 0; r < 4; ++r) {
        for (int64_t j = i; j < here; ++j) to[r * wide + j] = word(from + (j * depth + k + r) * 4);
        std::fill_n(to + r * wide + here, wide - here, 0u);
      }
    }
    for (; k < depth; ++k, to += wide) {
      for (int64_t j = 0; j < here; ++j) to[j] = word(from + (j * depth + k) * 4);
      std::fill_n(to + here, wide - here, 0u);
    }
  }
  std::fill(to, end, 0u);  // beyond a narrow last panel
}

size_t PanelWidth() { return kPanelVectors * hn::Lanes(D()); }

}  // namespace HWY_NAMESPACE
}  // namespace lathe
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lathe {
HWY_EXPORT(Gemm);
HWY_EXPORT(PanelWidth);
HWY_EXPORT(TransposeWords);

void run_gemm(const GemmArgs& args) { HWY_DYNAMIC_DISPATCH(Gemm)(args); }

size_t gemm_scratch(int64_t taps) {
  return (static_cast<size_t>(kGemmBlockTiles * kMostTileRows * taps) * sizeof(void*) + 63) / 64 * 64;
}

Shape gemm_panels(int64_t depth, int64_t columns) {
  auto width = static_cast<int64_t>(HWY_DYNAMIC_DISPATCH(PanelWidth)());
  return {(columns + width - 1) / width, depth, width};
}

namespace {

// [N / width][K][width], or for bf16 [N / width][K / 2][width][2]; columns beyond N are zero, and the last panel has
// half the width when that is enough.
// `at(k, n)` is the index of the element in `w`, −1 for zero.
//
// With `rows` a row k of w is n_count elements in order, and is copied.
template <class At>
Tensor pack_panels(const Tensor& w, const Shape& shape, int64_t n_count, At&& at, bool rows = false) {
  int64_t panels = shape[0], k_count = shape[1], width = shape[2];
  Tensor packed(w.dtype(), shape);
  auto fill = [&](auto* to, int64_t together) {
    using T = std::remove_pointer_t<decltype(to)>;
    const T* from = rows && together == 1 ? nullptr : w.data<T>();  // whole rows are copied from where they lie
    const char* bytes = static_cast<const char*>(w.unaligned());
    for (int64_t p = 0; p < panels; ++p) {
      int64_t wide = n_count - p * width <= width / 2 ? width / 2 : width;
      const int64_t count = std::min(wide, n_count - p * width);
      if (rows && together == 1) {
        for (int64_t k = 0; k < k_count; ++k, to += wide) {
          std::memcpy(to, bytes + (k * n_count + p * width) * static_cast<int64_t>(sizeof(T)), static_cast<size_t>(count) * sizeof(T));
          std::fill_n(to + count, wide - count, T{});
        }
        continue;
      }
      for (int64_t k = 0; k < k_count; k += together)
        for (int64_t i = 0; i < wide; ++i)
          for (int64_t j = 0; j < together; ++j) {
            int64_t index = p * width + i < n_count ? at(k + j, p * width + i) : -1;
            *to++ = index >= 0 ? from[index] : std::remove_cvref_t<decltype(*to)>{};
          }
    }
    const auto* end = packed.data<char>() + packed.bytes();  // beyond a narrow last panel
    std::memset(to, 0, static_cast<size_t>(end - reinterpret_cast<char*>(to)));
  };
  if (w.dtype() == DType::kF32) fill(packed.data<float>(), 1);
  else fill(packed.data<uint16_t>(), 2);
  return packed;
}

}  // namespace

Tensor pack_pointwise(const Tensor& w) {
  const int64_t n_count = w.shape()[0], k_count = w.shape()[1], together = w.dtype() == DType::kF32 ? 1 : 2;
  if (k_count % together) return pack_panels(w, gemm_panels(k_count, n_count), n_count, [&](int64_t k, int64_t n) { return n * k_count + k; });
  // Whole words move, pairs of bf16 like f32.
  Tensor packed(w.dtype(), gemm_panels(k_count, n_count));
  HWY_DYNAMIC_DISPATCH(TransposeWords)(w.unaligned(), n_count, k_count / together, packed.shape()[2], packed.data<uint32_t>());
  return packed;
}

namespace {

class Product : public Kernel {
 public:
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override { run_product(in[0]->raw(), in, out, scratch); }
  size_t scratch_bytes() const override { return args_.scratch_per_thread * static_cast<size_t>(omp_get_max_threads()); }
  int in_place_input() const override { return residual_ ? 3 : -1; }
  std::vector<PackedInput> packed_inputs() const override { return {{}, {packed_, kLayout}, {bias_}}; }

 protected:
  static constexpr uint64_t kLayout = 2;

  void run_product(const void* a, const Tensor* const* in, Tensor* const* out, void* scratch) {
    args_.a = a;
    args_.residual = residual_ ? in[3]->raw() : nullptr;
    args_.scale = scaled_ ? in[4]->raw() : nullptr;
    args_.y = out[0]->raw();
    args_.scratch = static_cast<char*>(scratch);
    run_gemm(args_);
  }

  void prepare(const KernelRequest& r) {
    args_.activation = activation_of(r.node);
    args_.residual_first = r.node.get_int("residual_first") != 0;
    residual_ = r.has_input(3);
    if (r.has_input(2)) bias_ = r.packed_input(2, DType::kF32, r.in_shape(2), 0, [](const Tensor& t) { return t; });
    args_.bias = bias_.defined() ? bias_.data<float>() : nullptr;
    args_.bf16 = r.input(0).dtype == DType::kBF16;
    args_.bf16_out = r.output().dtype == DType::kBF16;
    zeros_ = Tensor(r.input(0).dtype, {args_.depth});
    std::memset(zeros_.raw(), 0, zeros_.bytes());
    args_.zeros = zeros_.raw();
    args_.packed = packed_.raw();
    args_.scratch_per_thread = gemm_scratch(args_.rows.taps());
    scaled_ = r.has_input(4);
    if (scaled_) args_.scratch_per_thread += static_cast<size_t>(packed_.shape()[1] * packed_.shape()[2]) * size_of(packed_.dtype());
  }

  GemmArgs args_;
  Tensor packed_, bias_, zeros_;
  bool residual_ = false, scaled_ = false;
};

// With few channels the taps of a row of the window are one run of memory, once the picture stands in a frame of
// zeros: a 3×3 window over 3 channels is then 3 taps of 9 elements, not 9 of 3. The channels of a group stand in a
// frame of their own.
bool frames(const KernelRequest& r) {
  const bool groups = r.node.get_int("group") > 1;
  return (groups || (r.in_shape()[3] <= 8 && r.in_shape(1)[3] > 1)) && r.node.get_ints("dilations")[1] == 1 && !r.has_input(4);
}

class FramedConv : public Product {
 public:
  explicit FramedConv(const KernelRequest& r) : x_(r.in_shape()), width_(size_of(r.input(0).dtype)) {
    const Shape &w = r.in_shape(1), &y = r.out_shape();
    const auto &strides = r.node.get_ints("strides"), &pads = r.node.get_ints("pads"), &dilations = r.node.get_ints("dilations");
    const int64_t channels = w[1], taps = w[2] * w[3], groups = r.node.get_int("group"), out = w[0] / groups;
    groups_ = groups;
    channels_ = channels;
    // Products of bf16 take elements in pairs.
    pixel_ = width_ == 2 && channels * w[3] % 2 ? channels + 1 : channels;
    pad_top_ = pads[0];
    pad_left_ = pads[1];
    height_ = (y[1] - 1) * strides[0] + (w[2] - 1) * dilations[0] + 1;
    row_ = (y[2] - 1) * strides[1] + w[3];
    args_.rows = {x_[0], height_, row_, pixel_, y[1], y[2], strides[0], strides[1], 0, 0, dilations[0], 1, w[2], 1};
    args_.depth = w[3] * pixel_;
    args_.columns = out;
    args_.y_step = w[0];
    const Shape panels = gemm_panels(w[2] * args_.depth, out);
    packed_ = r.packed_input(1, r.input(1).dtype, {groups * panels[0], panels[1], panels[2]}, kLayout + 100, [&](const Tensor& t) {
      Tensor all(t.dtype(), {groups * panels[0], panels[1], panels[2]});
      for (int64_t g = 0; g < groups; ++g) {
        const Tensor one = pack_panels(t, panels, out, [&](int64_t k, int64_t n) {
          int64_t c = k % pixel_, tap = k / pixel_;
          return c < channels ? ((g * out + n) * channels + c) * taps + tap : -1;
        });
        std::memcpy(all.data<char>() + static_cast<size_t>(g) * one.bytes(), one.raw(), one.bytes());
      }
      return all;
    });
    group_bytes_ = packed_.bytes() / static_cast<size_t>(groups);
    prepare(r);
  }
  std::vector<PackedInput> packed_inputs() const override { return {{}, {packed_, kLayout + 100}, {bias_}}; }
  size_t scratch_bytes() const override { return frame_bytes() + Product::scratch_bytes(); }
  void run(const Tensor* const* in, Tensor* const* out, void* scratch) override {
    char* frame = static_cast<char*>(scratch);
    const int64_t line = row_ * pixel_ * static_cast<int64_t>(width_);
    GemmArgs g = args_;
    g.a = frame;
    g.scratch = frame + frame_bytes();
    const int64_t made = g.columns * static_cast<int64_t>(size_of(out[0]->dtype()));
    for (int64_t i = 0; i < groups_; ++i) {
      const char* x = in[0]->data<char>() + i * channels_ * static_cast<int64_t>(width_);
      parallel_for(x_[0] * height_, kParallelGrain / (line + 1) + 1, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) fill_row(x, frame + r * line, r / height_, r % height_ - pad_top_, line);
      });
      g.packed = packed_.data<char>() + static_cast<size_t>(i) * group_bytes_;
      g.bias = args_.bias ? args_.bias + i * g.columns : nullptr;
      g.residual = residual_ ? in[3]->data<char>() + i * made : nullptr;
      g.y = out[0]->data<char>() + i * made;
      run_gemm(g);
    }
  }

 private:
  size_t frame_bytes() const { return (static_cast<size_t>(x_[0] * height_ * row_ * pixel_) * width_ + 63) / 64 * 64; }
  void fill_row(const char* x, char* to, int64_t image, int64_t iy, int64_t line) const {
    if (iy < 0 || iy >= x_[1]) {
      std::memset(to, 0, static_cast<size_t>(line));
      return;
    }
    const auto bytes = static_cast<int64_t>(width_), from = x_[3] * bytes, step = pixel_ * bytes, own = channels_ * bytes;
    const int64_t first = std::min(pad_left_, row_), count = std::clamp<int64_t>(row_ - first, 0, x_[2]);
    const char* source = x + (image * x_[1] + iy) * x_[2] * from;
    std::memset(to, 0, static_cast<size_t>(first * step));
    char* at = to + first * step;
    if (from == step) {
      std::memcpy(at, source, static_cast<size_t>(count * step));
    } else {
      if (own < step) std::memset(at, 0, static_cast<size_t>(count * step));
      for (int64_t i = 0; i < count; ++i) std::memcpy(at + i * step, source + i * from, static_cast<size_t>(own));
    }
    std::memset(at + count * step, 0, static_cast<size_t>(line - (first + count) * step));
  }

  Shape x_;
  size_t width_;  // bytes of an element
  int64_t groups_ = 1, channels_ = 0;  // of a group
  size_t group_bytes_ = 0;             // its packed weights
  int64_t pixel_ = 0, pad_top_ = 0, pad_left_ = 0, height_ = 0, row_ = 0;  // of the frame
};

class GemmConv : public Product {
 public:
  explicit GemmConv(const KernelRequest& r) {
    const Shape &x = r.in_shape(), &w = r.in_shape(1), &y = r.out_shape();
    const auto &strides = r.node.get_ints("strides"), &pads = r.node.get_ints("pads"), &dilations = r.node.get_ints("dilations");
    args_.rows = {x[0], x[1], x[2], x[3], y[1], y[2], strides[0], strides[1], pads[0], pads[1], dilations[0], dilations[1], w[2], w[3]};
    args_.depth = x[3];
    args_.columns = w[0];
    int64_t channels = x[3], taps = w[2] * w[3];
    Shape panels = gemm_panels(taps * channels, w[0]);
    packed_ = r.packed_input(1, r.input(1).dtype, panels, kLayout, [&](const Tensor& t) {
      if (taps == 1) return pack_pointwise(t);
      return pack_panels(t, panels, w[0], [&](int64_t k, int64_t n) { return (n * channels + k % channels) * taps + k / channels; });
    });
    prepare(r);
  }
};

class GemmMatMul : public Product {
 public:
  explicit GemmMatMul(const KernelRequest& r) {
    const bool transposed = r.node.get_int("transposed") != 0;
    const int64_t depth = r.in_shape(1)[transposed], columns = r.in_shape(1)[!transposed];
    args_.rows.height = args_.rows.out_height = element_count(r.in_shape()) / depth;
    args_.rows.pixel = args_.depth = depth;
    args_.columns = columns;
    Shape panels = gemm_panels(depth, columns);
    packed_ = r.packed_input(1, r.input(1).dtype, panels, kLayout, [&](const Tensor& t) {
      if (transposed) return pack_pointwise(t);
      return pack_panels(t, panels, columns, [&](int64_t k, int64_t n) { return k * columns + n; }, true);
    });
    prepare(r);
  }
};

// Both factors f32 or bf16, and either result.
bool types_fit(const KernelRequest& r, int64_t depth) {
  DType in = r.input(0).dtype, out = r.output().dtype;
  if (r.input(1).dtype != in || !r.input(1).is_constant()) return false;
  if (r.has_input(2) && (!r.input(2).is_constant() || r.input(2).dtype != DType::kF32)) return false;
  if (r.has_input(3) && r.input(3).dtype != out) return false;
  if (out != DType::kBF16 && out != DType::kF32) return false;
  return in == DType::kF32 || (in == DType::kBF16 && depth % 2 == 0 && has_bf16_instructions());
}

bool conv_supported(const KernelRequest& r) {
  if (r.has_input(4) && (r.input(4).dtype != r.input(0).dtype || r.in_shape(1)[2] * r.in_shape(1)[3] != 1)) return false;
  const bool framed = frames(r);
  const Shape& w = r.in_shape(1);
  // Pointers to every tap of a tile, or to every row of a window in a frame.
  if ((r.node.get_int("group") > 1 && !framed) || w[2] * (framed ? 1 : w[3]) > 64) return false;
  return types_fit(r, framed ? 2 : r.in_shape()[3]);
}

// Where measurements put our product before oneDNN's. In f32 a product without a window is as fast as oneDNN's (0.97 to
// 1.1 times on 180 layers of ten networks, 0.85 where one vector holds all columns), and oneDNN takes 0.2 ms to generate
// code for each. Elsewhere oneDNN's own code for activations with exponentials takes longer than ours, and its set-up
// longer than a product of a few rows.
bool preferred(const KernelRequest& r) {
  using K = ActivationKind;
  if (r.has_input(4)) return true;
  const Shape& y = r.out_shape();
  const bool conv = r.node.op->name == "Conv";
  // oneDNN is the better at groups, 1.4 to 2.9 times, but for windows wider than its own code for them goes (wav2vec 2.0's
  // positions: 128): there ours is 3.5 times as fast.
  if (conv && r.node.get_int("group") > 1) return r.in_shape(1)[3] > 16;
  if (element_count(y) / y.back() <= kMostTileRows) return true;
  if (r.input(0).dtype == DType::kF32 && (!conv || r.in_shape(1)[2] * r.in_shape(1)[3] == 1)) return true;
  if (conv && frames(r) && r.input(0).dtype == DType::kBF16) return false;
  switch (activation_of(r.node).kind) {
    case K::kNone: case K::kRelu: case K::kClip: case K::kLeakyRelu: case K::kHardSwish: case K::kHardSigmoid: return false;
    default: return true;
  }
}

std::unique_ptr<Kernel> make_conv(const KernelRequest& r) {
  if (frames(r)) return std::make_unique<FramedConv>(r);
  return std::make_unique<GemmConv>(r);
}
std::unique_ptr<Kernel> make_matmul(const KernelRequest& r) { return std::make_unique<GemmMatMul>(r); }

bool matmul_supported(const KernelRequest& r) { return types_fit(r, r.in_shape().back()); }

}  // namespace

void register_gemm(KernelRegistry& r) {
  r.add("Conv", "ai.lathe", {"conv.gemm", [](const KernelRequest& q) { return conv_supported(q) && preferred(q); }, make_conv});
  r.add("MatMul", "ai.lathe", {"matmul.gemm", [](const KernelRequest& q) { return matmul_supported(q) && preferred(q); }, make_matmul});
}

// Behind oneDNN's in the order of preference, for `tune` and where oneDNN cannot.
void register_gemm_fallback(KernelRegistry& r) {
  r.add("Conv", "ai.lathe", {"conv.gemm", [](const KernelRequest& q) { return conv_supported(q) && !preferred(q); }, make_conv});
  r.add("MatMul", "ai.lathe", {"matmul.gemm", [](const KernelRequest& q) { return matmul_supported(q) && !preferred(q); }, make_matmul});
}

}  // namespace lathe
#endif
